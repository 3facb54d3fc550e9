//! U-Nets of other projects: built, run, and looked into.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use ddpm_model::condition::Condition;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_model::unet::{Heads, UNetConfig};
use ddpm_weights::{Scheme, Weights, load_into};
use serde_json::Value;

use crate::support::{Safetensors, assert_close, cases, fixture, output_tolerance, read_json, text, values, whole};

/// A checkpoint of improved-diffusion among the fixtures, and how its network was made.
pub struct Checkpoint {
    pub folder: PathBuf,
    pub meta: Value,
    pub kwargs: Value,
}

impl Checkpoint {
    /// All of them.
    pub fn all() -> Vec<Self> {
        let others = fixture("iddpm_heads");
        let index = read_json(others.join("index.json"));
        let others = cases(&index, "models").iter().map(|model| others.join(text(model, "folder")));
        [fixture("iddpm_pt")].into_iter().chain(others).map(Self::open).collect()
    }

    fn open(folder: PathBuf) -> Self {
        let meta = read_json(folder.join("meta.json"));
        Self { kwargs: read_json(folder.join(text(&meta, "kwargs"))), meta, folder }
    }

    pub fn weights(&self) -> PathBuf {
        self.folder.join(text(&self.meta, "weights"))
    }

    pub fn io(&self) -> Safetensors {
        Safetensors::open(self.folder.join(text(&self.meta, "io")))
    }

    pub fn heads(&self) -> Heads {
        Heads::Count(whole(&self.kwargs, "num_heads"))
    }

    /// Those of the way up; without a number, or with -1, the same.
    pub fn heads_up(&self) -> Option<Heads> {
        self.kwargs["num_heads_upsample"].as_u64().map(|count| Heads::Count(count as usize))
    }
}

/// The network with these weights.
pub fn network(config: &UNetConfig, weights: &Weights, scheme: Scheme, device: &Device) -> Network {
    let shape = [config.in_channels, config.sample_size, config.sample_size];
    assert_eq!(config.problems(&shape), vec![]);
    let mut network = NetworkConfig::UNet(config.clone()).init(device);
    load_into(&mut network, weights, scheme).unwrap_or_else(|error| panic!("{error}"));
    network
}

/// What the network answers to a case of a fixture.
fn forward(network: &Network, io: &Safetensors, case: &Value, device: &Device) -> Tensor<4> {
    let x = io.tensor::<4>(text(case, "x"), device, DType::F32);
    let t = io.tensor::<1>(text(case, "t"), device, DType::F32);
    let condition = match case["y"].as_str() {
        None => Condition::None,
        Some(name) => {
            let classes = TensorData::new(io.i64(name), io.shape(name));
            Condition::Class(Tensor::<1, Int>::from_data(classes, device))
        }
    };
    network.forward(x, t, &condition)
}

/// Compares the answer with the peer's.
pub fn compare(network: &Network, io: &Safetensors, case: &Value, what: &str) {
    let found = values(forward(network, io, case, &Device::default()));
    let wanted = io.f64(case["out_f64"].as_str().unwrap_or_else(|| text(case, "out")));
    assert_close(&found, &wanted, output_tolerance(case, &wanted), &format!("{what} {}", text(case, "out")));
}

/// All parameters in PyTorch's layout.
pub fn parameters<M: ModuleSnapshot>(network: &M) -> BTreeMap<String, Vec<f32>> {
    let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    let values = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    tensors
        .into_iter()
        .map(|tensor| {
            assert_eq!(tensor.dtype, DType::F32, "{}", tensor.name);
            let name = tensor.name.clone();
            let bytes = tensor.into_bytes().unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, values(&bytes))
        })
        .collect()
}
