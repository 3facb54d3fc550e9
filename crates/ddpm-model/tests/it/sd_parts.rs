//! The folders of `fixtures/sd_parts`: parts of text-to-image models with weights, inputs, outputs and gradients.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use ddpm_testing::support::{
    Safetensors, assert_close, cases, fixture, number, read_json, text, values, whole_numbers,
};
use ddpm_weights::Weights;
use serde_json::Value;

/// One folder.
pub struct Part {
    pub id: String,
    pub folder: PathBuf,
    pub meta: Value,
    pub io: Safetensors,
}

impl Part {
    /// All of one kind that the index lists, of which there must be one.
    pub fn all(kind: &str) -> Vec<Self> {
        let root = fixture("sd_parts");
        let index = read_json(root.join("index.json"));
        let entries = cases(&index, "parts").iter().filter(|entry| text(entry, "kind") == kind);
        let parts: Vec<Self> = entries.map(|entry| Self::open(&root, entry)).collect();
        assert!(!parts.is_empty(), "no fixture is of kind {kind}");
        parts
    }

    fn open(root: &Path, entry: &Value) -> Self {
        let folder = root.join(text(entry, "folder"));
        let meta = read_json(folder.join("meta.json"));
        let io = Safetensors::open(folder.join("io.safetensors"));
        Self { id: text(entry, "id").into(), folder, meta, io }
    }

    pub fn config(&self) -> Value {
        read_json(self.folder.join("config.json"))
    }

    /// The weights in the file that `key` of the description names.
    pub fn weights(&self, key: &str) -> Weights {
        Weights::open(&self.folder.join(text(&self.meta, key))).unwrap()
    }

    pub fn input<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        self.io.tensor(name, device, DType::F32)
    }

    pub fn whole_numbers<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let shape: [usize; D] = self.io.shape(name).try_into().unwrap();
        Tensor::from_data(TensorData::new(self.io.i64(name), shape), device)
    }

    pub fn has(&self, name: &str) -> bool {
        self.io.names().iter().any(|found| found == name)
    }

    /// Panics unless a tensor is the one of this name, computed in f64, as closely as `tensors` allows.
    pub fn check<const D: usize>(&self, tensors: &Value, name: &str, found: Tensor<D>) {
        let wanted = self.io.f64(&format!("{name}_f64"));
        let tolerance = number(&tensors[name], "tol_abs_f32");
        assert_close(&values(found), &wanted, tolerance, &format!("{} {name}", self.id));
    }

    /// A file next to the description, which names it under `grad`.
    pub fn gradient_file(&self, key: &str) -> Option<Safetensors> {
        let name = self.meta["grad"][key].as_str()?;
        Some(Safetensors::open(self.folder.join(name)))
    }

    /// What gradients may be off by: relative to the norm of a tensor, and for every value of it.
    pub fn gradient_tolerance(&self) -> [f64; 2] {
        ["tol_relative_norm", "tol_abs_per_element"].map(|key| number(&self.meta["grad"], key))
    }

    /// Panics unless the loss is that of the fixture.
    pub fn check_loss(&self, loss: &Tensor<1>) {
        let wanted = number(&self.meta["grad"], "loss_f64");
        let found = f64::from(loss.clone().into_scalar::<f32>());
        assert_close(&[found], &[wanted], 1e-5 * wanted.abs().max(1.0), &format!("{} loss", self.id));
    }

    pub fn places(&self, key: &str) -> Option<Vec<i64>> {
        let places = &self.meta[key];
        (!places.is_null()).then(|| whole_numbers(places).into_iter().map(|place| place as i64).collect())
    }
}
