//! The network of CSDI against the original (`fixtures/series_csdi`): side information, outputs, losses, all gradients and
//! whole trajectories, in f32 by the kernels and in f64 by Burn's operations; masks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, Param};
use burn::store::{ApplyResult, BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore, bridge};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use ddpm_model::csdi::masks::{MaskDraw, MaskStrategy};
use ddpm_model::csdi::transformer::SoftmaxEncoder;
use ddpm_model::csdi::{Csdi, CsdiConfig, MaskedSeries, select_variables, step_table, time_embedding};
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::pass::Pass;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::variance::Variance;
use ddpm_testing::support;
use serde_json::{Value, json};
use support::*;

/// What a run in f64 may be off by, relative to the largest value.
const TOLERANCE_F64: f64 = 1e-9;
/// What sinusoids of times in f32 may be off by.
const TOLERANCE_SINUSOIDS: f64 = 2e-5;

fn root() -> PathBuf {
    fixture("series_csdi")
}

fn index() -> Value {
    read_json(root().join("index.json"))
}

/// The original's config in our keys, by their aliases where they have one.
fn config(peer: &Value, variables: usize) -> CsdiConfig {
    let mut table = json!({ "variables": variables, "unconditional": whole(&peer["model"], "is_unconditional") == 1 });
    let keys = [
        ("diffusion", ["layers", "channels", "nheads", "diffusion_embedding_dim", "num_steps", "is_linear"].as_slice()),
        ("model", ["timeemb", "featureemb"].as_slice()),
    ];
    for (part, keys) in keys {
        for &key in keys {
            table[key] = peer[part][key].clone();
        }
    }
    serde_json::from_value(table).unwrap()
}

fn diffusion(peer: &Value) -> GaussianDiffusion {
    let peer = &peer["diffusion"];
    let steps = whole(peer, "num_steps");
    let [beta_start, beta_end] = ["beta_start", "beta_end"].map(|key| number(peer, key));
    let schedule = match text(peer, "schedule") {
        "quad" => ScheduleConfig::Quadratic { steps, beta_start, beta_end },
        "linear" => ScheduleConfig::Linear { steps, beta_start, beta_end },
        other => panic!("unknown schedule {other:?}"),
    };
    GaussianDiffusion::new(schedule.init().unwrap(), Prediction::Eps, Variance::FixedSmall)
}

/// One model, in one of the two widths.
struct Golden {
    folder: PathBuf,
    meta: Value,
    io: Safetensors,
    dtype: DType,
    device: Device,
    network: Csdi,
    diffusion: GaussianDiffusion,
}

/// Every model in both widths.
fn all() -> Vec<Golden> {
    let index = index();
    let folders = cases(&index, "models").iter().map(|name| root().join(name.as_str().unwrap()));
    folders.flat_map(|folder| [DType::F32, DType::F64].map(|dtype| Golden::open(folder.clone(), dtype))).collect()
}

impl Golden {
    fn open(folder: PathBuf, dtype: DType) -> Self {
        let meta = read_json(folder.join("meta.json"));
        let peer = read_json(folder.join("config.json"));
        let device = Device::default().autodiff();
        let config = config(&peer, whole(&meta, "K"));
        assert_eq!(config.side_channels(), whole(&meta, "side_dim"));
        assert_eq!(config.input_channels(), whole(&meta, "input_channels"));
        let mut network = config.init(&device).unwrap();
        assert_eq!(network.num_params(), whole(&meta, "parameters"));
        load(&mut network, SafetensorsStore::from_file(folder.join("weights.safetensors")));
        let network = if dtype == DType::F64 { network.map(&mut Wide) } else { network };
        let io = Safetensors::open(folder.join("io.safetensors"));
        Self { diffusion: diffusion(&peer), folder, meta, io, dtype, device, network }
    }

    fn what(&self, name: &str) -> String {
        format!("{} {name} {:?}", self.folder.display(), self.dtype)
    }

    fn has(&self, name: &str) -> bool {
        self.io.names().iter().any(|found| found == name)
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.io.tensor(name, &self.device, self.dtype)
    }

    fn whole_numbers<const D: usize>(&self, name: &str) -> Tensor<D, Int> {
        whole_tensor(&self.io, name, &self.device)
    }

    fn series(&self) -> MaskedSeries {
        MaskedSeries::new(self.tensor("observed"), self.tensor("observed_mask"), self.tensor("cond_mask"))
    }

    fn side(&self) -> Tensor<4> {
        self.network.side_information(self.tensor("timepoints"), None, self.tensor("cond_mask"))
    }

    /// Compares with `NAME_f64` or, in f32, with `NAME_tab64` (a step table computed in f64), to `tolerance`.
    fn check(&self, name: &str, found: Vec<f64>, tolerance: f64) {
        let wanted = match self.dtype {
            DType::F64 => self.io.f64(&format!("{name}_f64")),
            _ => self.io.f64(&format!("{name}_tab64")),
        };
        let scale = wanted.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
        let tolerance = if self.dtype == DType::F64 { TOLERANCE_F64 * scale } else { tolerance };
        assert_close(&found, &wanted, tolerance, &self.what(name));
    }

    fn check_loss(&self, name: &str, found: Tensor<1>) {
        let (key, tolerance) = match self.dtype {
            DType::F64 => (format!("{name}_f64"), TOLERANCE_F64),
            _ => (format!("{name}_tab64"), 1e-5),
        };
        let wanted = number(&self.meta["loss"], &key);
        assert_close(&values(found), &[wanted], tolerance * wanted.abs().max(1.0), &self.what(name));
    }

    fn training_loss(&self) -> Tensor<1> {
        let steps: Vec<usize> = self.io.i64("loss.t").into_iter().map(|t| t as usize).collect();
        let noise = self.tensor("loss.noise");
        self.network.loss(&self.series(), self.side(), &self.diffusion, &steps, noise, &Pass::default())
    }
}

/// The tensors of the first axis.
fn listed(all: Tensor<4>) -> Vec<Tensor<3>> {
    all.split(1, 0).into_iter().map(|one| one.squeeze_dim(0)).collect()
}

fn whole_tensor<const D: usize>(file: &Safetensors, name: &str, device: &Device) -> Tensor<D, Int> {
    let shape: [usize; D] = fit(&file.shape(name));
    Tensor::from_data(TensorData::new(file.i64(name), shape), device)
}

/// Names that are missing or left over are errors.
fn load<M: ModuleSnapshot>(module: &mut M, store: SafetensorsStore) {
    let applied = applied(module, store);
    assert!(applied.missing.is_empty() && applied.unused.is_empty() && applied.errors.is_empty(), "{applied}");
}

fn applied<M: ModuleSnapshot>(module: &mut M, store: SafetensorsStore) -> ApplyResult {
    let mut store = store.with_from_adapter(PyTorchToBurnAdapter).skip_enum_variants(true);
    module.load_from(&mut store).unwrap()
}

/// The same weights in f64.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(DType::F64).detach().require_grad(), mapper)
    }
}

/// Puts each parameter's gradient in its place, 0 where there is none.
struct IntoGradients<'a>(&'a Gradients);

impl ModuleMapper for IntoGradients<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, _) = param.consume();
        let gradient = value.grad(self.0).unwrap_or_else(|| value.inner().zeros_like());
        Param::initialized(id, gradient)
    }
}

/// All gradients by the names and in the layout of PyTorch.
fn gradients_of<M: Module + ModuleSnapshot>(module: M, gradients: &Gradients) -> BTreeMap<String, Vec<f64>> {
    let tensors = module.map(&mut IntoGradients(gradients)).collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    let entry = |tensor: burn::store::burn_pack::Tensor| {
        let name = tensor.name.clone();
        (name, bridge::into_data(tensor).unwrap().iter::<f64>().collect())
    };
    tensors.into_iter().map(entry).collect()
}

/// Panics unless the norm of the difference is small against the norm.
fn assert_gradient(found: &[f64], wanted: &[f64], [relative, per_element]: [f64; 2], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let error = norm(&mut found.iter().zip(wanted).map(|(f, w)| f - w));
    let allowed = relative * norm(&mut wanted.iter().copied()) + per_element * (wanted.len() as f64).sqrt();
    assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
}

#[test]
fn tables_are_exact() {
    for golden in all() {
        let check = |name: &str, found: &[f64], tolerance: f64| {
            assert_close(found, &golden.io.f64(name), tolerance, &golden.what(name));
        };
        check("beta_f64", &golden.diffusion.schedule.betas, 1e-14);
        check("alpha_bar_f64", &golden.diffusion.schedule.alphas_bar, 1e-14);
        let config = golden.network.config();
        let table = step_table(config.steps, config.step_embedding);
        check("step_table_f64", &table, TOLERANCE_F64);
        let difference = table.iter().zip(golden.io.f64("step_table")).map(|(ours, peer)| (ours - peer).abs());
        let wanted = number(&golden.meta, "step_table_f32_max_abs_error");
        assert_close(&[difference.fold(0.0, f64::max)], &[wanted], 1e-6, "error of the original's table");
    }
}

#[test]
fn side_information_is_that_of_the_original() {
    for golden in all() {
        let tolerance = if golden.dtype == DType::F64 { TOLERANCE_F64 } else { TOLERANCE_SINUSOIDS };
        let times = time_embedding(golden.tensor("timepoints"), golden.network.config().time_embedding);
        for (name, found) in [("time_embedding_f64", values(times)), ("side_info_f64", values(golden.side()))] {
            assert_close(&found, &golden.io.f64(name), tolerance, &golden.what(name));
        }
    }
}

#[test]
fn outputs_are_those_of_the_original() {
    for golden in all() {
        for case in cases(&golden.meta, "io") {
            let i = whole(case, "case");
            let steps = golden.whole_numbers(&format!("t{i}"));
            let input = golden.tensor(&format!("x{i}"));
            let output = golden.network.forward(input, golden.side(), steps, &Pass::default());
            golden.check(&format!("out{i}"), values(output), number(case, "tol_abs_f32"));
        }
    }
}

#[test]
fn losses_are_those_of_the_original() {
    for golden in all() {
        golden.check_loss("train", golden.training_loss());
        if golden.has("valid.noise") {
            let (series, noises) = (golden.series(), listed(golden.tensor("valid.noise")));
            let pass = Pass::default();
            let loss = golden.network.loss_of_all_steps(&series, &golden.side(), &golden.diffusion, noises, &pass);
            golden.check_loss("valid", loss);
        }
    }
}

#[test]
fn without_a_target_the_loss_is_zero_and_what_was_not_observed_has_no_effect() {
    for golden in all() {
        let observed: Tensor<3> = golden.tensor("observed_mask");
        let loss_of = |data: Tensor<3>, given: Tensor<3>| {
            let series = MaskedSeries::new(data, observed.clone(), given);
            let steps: Vec<usize> = golden.io.i64("loss.t").into_iter().map(|t| t as usize).collect();
            let (noise, pass) = (golden.tensor("loss.noise"), Pass::default());
            let network = &golden.network;
            values(network.loss(&series, golden.side(), &golden.diffusion, &steps, noise, &pass))
        };
        let clean: Tensor<3> = golden.tensor("observed");
        let wanted = number(&golden.meta["loss"], "train_empty_target");
        assert_eq!(loss_of(clean.clone(), observed.clone()), [wanted], "{}", golden.what("empty"));

        let given: Tensor<3> = golden.tensor("cond_mask");
        for poison in [1e6, f64::NAN] {
            let poisoned = clean.clone().mask_fill(observed.clone().equal_elem(0), poison);
            let found = loss_of(poisoned, given.clone());
            assert_eq!(found, loss_of(clean.clone(), given.clone()), "{}", golden.what("poison"));
        }
    }
}

#[test]
fn gradients_are_those_of_the_original() {
    let mut compared = 0;
    for golden in all() {
        let path = golden.folder.join("grads.safetensors");
        if !path.is_file() {
            continue;
        }
        let file = Safetensors::open(path);
        let names = file.names();
        let found = gradients_of(golden.network.clone(), &golden.training_loss().backward());
        let f32_tolerance = [number(&golden.meta["grad"], "tol_relative_norm_f32"), 1e-6];
        for name in cases(&golden.meta, "trainable").iter().map(|name| name.as_str().unwrap()) {
            let found = found.get(name).unwrap_or_else(|| panic!("no parameter {name}"));
            let (key, tolerance) = match golden.dtype {
                DType::F64 => (format!("{name}_f64"), [TOLERANCE_F64; 2]),
                _ => (name.to_string(), f32_tolerance),
            };
            // What is not in the file has no part in the output.
            let wanted = if names.contains(&key) { file.f64(&key) } else { vec![0.0; found.len()] };
            assert_gradient(found, &wanted, tolerance, &golden.what(name));
            compared += 1;
        }
        assert_eq!(found.len(), cases(&golden.meta, "trainable").len());
        let unknown: Vec<&String> =
            names.iter().filter(|name| !found.contains_key(name.trim_end_matches("_f64"))).collect();
        assert!(unknown.is_empty(), "gradients of no parameter: {unknown:?}");
    }
    assert!(compared > 0, "no model has gradients");
}

#[test]
fn trajectories_are_those_of_the_original() {
    let mut compared = 0;
    for golden in all().into_iter().filter(|golden| golden.has("traj.noise")) {
        let (traj, series, side) = (&golden.meta["traj"], golden.series(), golden.side());
        assert_eq!(golden.network.noises_per_sample(), whole(traj, "noise_per_sample"));
        // All samples' noises are one list.
        let noises = listed(golden.tensor::<5>("traj.noise").flatten(0, 1));
        let samples: Vec<Tensor<3>> = noises
            .chunks(golden.network.noises_per_sample())
            .map(|noises| golden.network.sample(&series, &side, &golden.diffusion, noises.to_vec(), &Pass::default()))
            .collect();
        assert_eq!(samples.len(), whole(traj, "samples"));
        let completed = series.with_given_values(samples[0].clone());
        let samples: Tensor<4> = Tensor::stack(samples, 1);
        golden.check("traj.samples", values(samples), number(traj, "tol_abs_f32"));
        let (completed, given) = (values(completed), values(series.given()));
        for ((found, given), wanted) in completed.into_iter().zip(given).zip(values(series.values())) {
            assert!(given == 0.0 || found == wanted, "{found} for the given value {wanted}");
        }
        compared += 1;
    }
    assert!(compared > 0, "no model has trajectories");
}

#[test]
fn a_subset_of_the_variables_has_their_own_side_information() {
    let mut compared = 0;
    for golden in all().into_iter().filter(|golden| golden.has("sub.feature_id")) {
        let variables: Tensor<2, Int> = golden.whole_numbers("sub.feature_id");
        let count = whole(&golden.meta["sub"], "num_sample_features");
        let permutations: Tensor<2, Int> = golden.whole_numbers("sub.permutations");
        assert_eq!(permutations.narrow(1, 0, count).into_data(), variables.clone().into_data());
        for (name, of) in [("sub.data", "observed"), ("sub.observed_mask", "observed_mask")] {
            let found = select_variables(golden.tensor(of), variables.clone());
            assert_close(&values(found), &golden.io.f64(name), 0.0, &golden.what(name));
        }
        let given = golden.tensor("sub.gt_mask");
        let side = golden.network.side_information(golden.tensor("timepoints"), Some(variables), given);
        let wanted = golden.io.f64("sub.side_info");
        assert_close(&values(side), &wanted, TOLERANCE_SINUSOIDS, &golden.what("sub.side_info"));
        compared += 1;
    }
    assert!(compared > 0, "no model has a subset of its variables");
}

#[test]
fn one_layer_is_that_of_pytorch() {
    let path = root().join("encoder_layer.safetensors");
    let file = Safetensors::open(&path);
    for case in cases(&index(), "encoder_layer") {
        for dtype in [DType::F32, DType::F64] {
            let (id, device) = (text(case, "id"), Device::default().autodiff());
            let mut encoder = SoftmaxEncoder::init(whole(case, "d_model"), whole(case, "heads"), &device);
            // The file has other tensors as well.
            let own = SafetensorsStore::from_file(&path).with_key_remapping(format!(r"^{id}\.w\."), "");
            let applied = applied(&mut encoder, own);
            assert!(applied.missing.is_empty() && applied.errors.is_empty(), "{applied}");
            let encoder = if dtype == DType::F64 { encoder.map(&mut Wide) } else { encoder };
            let tensor = |name: &str| file.tensor::<3>(&format!("{id}.{name}"), &device, dtype).swap_dims(0, 1);
            let x = tensor("x").detach().require_grad();
            let y = encoder.forward(x.clone(), &Pass::default());
            let [absolute, relative, per_element] = match dtype {
                DType::F64 => [TOLERANCE_F64; 3],
                _ => [number(case, "tol_abs_f32"), 1e-4, 1e-6],
            };
            let wanted = values(file.tensor::<3>(&format!("{id}.y_f64"), &device, DType::F64).swap_dims(0, 1));
            assert_close(&values(y.clone()), &wanted, absolute, &format!("{id} y {dtype:?}"));

            let gradients = (y * tensor("grad_out")).sum().backward();
            let of_x = x.grad(&gradients).unwrap().swap_dims(0, 1);
            let wanted = file.f64(&format!("{id}.grad_x_f64"));
            assert_gradient(&values(of_x), &wanted, [relative, per_element], &format!("{id} x {dtype:?}"));
            for (name, found) in gradients_of(encoder, &gradients) {
                let wanted = file.f64(&format!("{id}.grad_f64.{name}"));
                assert_gradient(&found, &wanted, [relative, per_element], &format!("{id} {name} {dtype:?}"));
            }
        }
    }
}

/// The rows of a JSON array of numbers in a batch, each flattened.
fn rows(value: &Value) -> Vec<Vec<f64>> {
    fn flat(value: &Value) -> Vec<f64> {
        match value.as_array() {
            Some(list) => list.iter().flat_map(flat).collect(),
            None => vec![value.as_f64().unwrap()],
        }
    }
    value.as_array().unwrap().iter().map(flat).collect()
}

#[test]
fn masks_are_those_of_the_original() {
    for case in cases(&index(), "masks") {
        let strategy: MaskStrategy = serde_json::from_value(case["strategy"].clone()).unwrap();
        let mask = |key: &str| -> Vec<Vec<bool>> {
            rows(&case[key]).into_iter().map(|row| row.into_iter().map(|value| value == 1.0).collect()).collect()
        };
        let observed = mask("observed_mask");
        let patterns = match strategy {
            MaskStrategy::Random => Vec::new(),
            MaskStrategy::Forecast => mask("test_pattern_mask"),
            _ => mask("pattern_mask"),
        };
        let draw = |i: usize| MaskDraw {
            ratio: case["missing_ratio"][i].as_f64().unwrap(),
            uniforms: rows(&case["uniform"])[i].clone(),
            choice: case["mask_choice"][i].as_f64().unwrap_or(f64::NAN),
        };
        let draws: Vec<MaskDraw> =
            if strategy.is_random() { (0..observed.len()).map(draw).collect() } else { Vec::new() };
        let given = strategy.given(&observed, &patterns, &draws);
        assert_eq!(given, mask("cond_mask"), "{strategy:?}");
        let targets: Vec<Vec<bool>> = observed
            .iter()
            .zip(&given)
            .map(|(observed, given)| observed.iter().zip(given).map(|(&o, &g)| o && !g).collect())
            .collect();
        assert_eq!(targets, mask("target_mask"), "{strategy:?}");
    }
}
