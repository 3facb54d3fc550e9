//! TimeGrad against pytorch-ts (`fixtures/series_timegrad`): from the raw series to windows, recurrent inputs, the denoiser,
//! losses, all gradients and complete forecasts, in f32 and in f64.
//!
//! In f32 the peer computes its table of diffusion steps so inexactly that it shows: what is compared with is its network
//! with a table from f64 (`_tab64`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{DType, Device, Gradients, Tensor};
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::prediction::Prediction;
use ddpm_model::timegrad::calendar::Moment;
use ddpm_model::timegrad::features::{Frequency, Periods};
use ddpm_model::timegrad::{
    Cell, ConvolutionConfig, Denoiser, DenoiserConfig, EpsilonTheta, NoiseLoss, Series, TimeGrad, TimeGradConfig,
    Window, Windows, is_redundant, lagged, observed_share, schedule, step_table,
};
use ddpm_model::variance::Variance;
use ddpm_testing::support::*;
use serde_json::Value;

/// What a run in f64 may be off by, relative to the largest value.
const TOLERANCE_F64: f64 = 1e-9;

fn root() -> PathBuf {
    fixture("series_timegrad")
}

fn index() -> Value {
    read_json(root().join("index.json"))
}

/// One model, in one of the two widths.
struct Golden {
    folder: PathBuf,
    keys: Value,
    meta: Value,
    io: Safetensors,
    dtype: DType,
    device: Device,
    network: TimeGrad,
}

/// Every model in both widths.
fn all() -> Vec<Golden> {
    let index = index();
    let folders = cases(&index, "models").iter().map(|model| root().join(model.as_str().unwrap()));
    folders.flat_map(|folder| [DType::F32, DType::F64].map(|dtype| Golden::open(folder.clone(), dtype))).collect()
}

fn config(keys: &Value) -> TimeGradConfig {
    TimeGradConfig {
        variables: whole(keys, "D"),
        context_length: whole(keys, "ctx"),
        prediction_length: whole(keys, "pred"),
        lags: whole_numbers(&keys["lags"]),
        time_features: 2 * cases(keys, "time_fields").len(),
        scaling: keys["scaling"].as_bool().unwrap(),
        cell: serde_json::from_value::<Cell>(keys["cell"].clone()).unwrap(),
        layers: whole(keys, "layers"),
        cells: whole(keys, "cells"),
        dropout: 0.0,
        conditioning_length: whole(keys, "cond"),
        denoiser: DenoiserConfig::Convolution(ConvolutionConfig {
            residual_layers: whole(keys, "rl"),
            residual_channels: whole(keys, "rc"),
            dilation_cycle: whole(keys, "dc"),
        }),
    }
}

/// The same weights in f64.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(DType::F64).detach().require_grad(), mapper)
    }
}

impl Golden {
    fn open(folder: PathBuf, dtype: DType) -> Self {
        let (keys, meta) = (read_json(folder.join("config.json")), read_json(folder.join("meta.json")));
        let device = Device::default().autodiff();
        let config = config(&keys);
        assert_eq!(config.input_size(), whole(&keys, "input_size"));
        assert_eq!(config.history_length(), whole(&keys, "history_length"));
        let mut network = config.init(&device).unwrap();
        assert_eq!(network.num_params(), whole(&meta, "parameters"));
        // Names that are missing are errors, and so are names left over but those that the peer has twice.
        let mut store = SafetensorsStore::from_file(folder.join("weights.safetensors"))
            .with_from_adapter(PyTorchToBurnAdapter)
            .skip_enum_variants(true);
        let applied = network.load_from(&mut store).unwrap();
        let redundant = applied.unused.iter().all(|name| is_redundant(name));
        assert!(applied.missing.is_empty() && redundant, "{applied}");
        let network = if dtype == DType::F64 { network.map(&mut Wide) } else { network };
        let io = Safetensors::open(folder.join("io.safetensors"));
        Self { folder, keys, meta, io, dtype, device, network }
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.io.tensor(name, &self.device, self.dtype)
    }

    fn steps(&self, name: &str) -> Vec<usize> {
        self.io.i64(name).into_iter().map(|step| step as usize).collect()
    }

    fn times(&self, name: &str) -> Vec<f64> {
        self.steps(name).into_iter().map(|step| step as f64).collect()
    }

    fn denoiser(&self) -> &EpsilonTheta {
        match self.network.denoiser() {
            Denoiser::Convolution(denoiser) => denoiser,
            other => panic!("{other}"),
        }
    }

    /// Panics unless the values are those of the file: in f64 `name_f64`, in f32 `name_tab64` where there is one.
    fn check<const D: usize>(&self, file: &Safetensors, name: &str, found: Tensor<D>, tolerance_f32: f64) {
        let wide = file.f64(&format!("{name}_f64"));
        let table = format!("{name}_tab64");
        let (wanted, tolerance) = match self.dtype {
            DType::F64 => {
                let scale = wide.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
                (wide, TOLERANCE_F64 * scale)
            }
            _ if file.names().contains(&table) => (file.f64(&table), tolerance_f32),
            _ => (wide, tolerance_f32),
        };
        assert_close(&values(found), &wanted, tolerance, &format!("{} {name} {:?}", self.folder.display(), self.dtype));
    }

    fn diffusion(&self) -> GaussianDiffusion {
        let config = schedule(text(&self.keys, "sch"), whole(&self.keys, "T"), number(&self.keys, "be")).unwrap();
        GaussianDiffusion::new(config.init().unwrap(), Prediction::Eps, Variance::FixedSmall)
    }

    fn loss(&self) -> NoiseLoss {
        serde_json::from_value(self.keys["loss"].clone()).unwrap()
    }

    /// The windows from the raw series: the last with a future, or those before the forecast.
    fn windows(&self, with_future: bool) -> Windows {
        let config = self.network.config();
        let of = |(index, meta): (usize, &Value)| {
            let frequency: Frequency = text(meta, "freq").parse().unwrap();
            let length = whole(meta, "length");
            let future = if with_future { 0 } else { config.prediction_length };
            let start = Moment::parse(text(meta, "start")).unwrap();
            let moments = frequency.moments(start, length + future);
            let observed: Vec<bool> =
                self.io.f64(&format!("series{index}.observed")).into_iter().map(|value| value > 0.0).collect();
            let series = Series {
                values: &self.io.f32(&format!("series{index}.target")),
                observed: &observed,
                time_features: &frequency.time_features(&moments, Periods::LargestValue),
            };
            match with_future {
                true => Window::with_future(&series, length - config.prediction_length, config),
                false => Window::before_forecast(&series, length, config),
            }
            .unwrap()
        };
        let windows: Vec<Window> = cases(&self.meta, "series").iter().enumerate().map(of).collect();
        Windows::batch(&windows, config, &self.device, self.dtype)
    }

    /// The training windows with the first variable of the second row nowhere observed.
    fn blank_row(&self) -> Windows {
        let windows = self.windows(true);
        let blank = |observed: Tensor<3>| {
            let [_, steps, _] = observed.dims();
            let none = Tensor::zeros([1, steps, 1], (&self.device, self.dtype));
            observed.slice_assign([1..2, 0..steps, 0..1], none)
        };
        Windows {
            past_observed: blank(windows.past_observed),
            future_observed: windows.future_observed.map(blank),
            ..windows
        }
    }

    fn training_loss(&self, windows: &Windows) -> Tensor<1> {
        let noise = self.tensor("train.noise");
        self.network.loss(windows, &self.diffusion(), self.loss(), &self.steps("train.t"), noise).unwrap()
    }
}

#[test]
fn time_features_are_those_of_pandas_and_pytorch_ts() {
    let (index, file) = (index(), Safetensors::open(root().join("time_features.safetensors")));
    for case in cases(&index, "time_features") {
        let (id, frequency) = (text(case, "id"), text(case, "freq").parse::<Frequency>().unwrap());
        let moments = frequency.moments(Moment::parse(text(case, "start")).unwrap(), whole(case, "length"));
        let stamps = cases(case, "timestamps").iter().map(|stamp| Moment::parse(stamp.as_str().unwrap()).unwrap());
        assert_eq!(moments, stamps.collect::<Vec<Moment>>(), "{id}");
        let names: Vec<&str> = frequency.fields().iter().map(|field| field.name()).collect();
        let wanted: Vec<&str> = cases(case, "fields").iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, wanted, "{id}");
        let fields = frequency.fields().iter();
        let fields = fields.flat_map(|&field| moments.iter().map(move |&m| i64::from(frequency.value(field, m))));
        assert_eq!(fields.collect::<Vec<i64>>(), file.i64(&format!("{id}.fields")), "{id}");
        let features = frequency.time_features(&moments, Periods::LargestValue).concat();
        assert_close(&features, &file.f64(&format!("{id}.features_f64")), 1e-12, id);
    }
}

#[test]
fn input_sizes_are_those_of_pytorch_ts() {
    for case in cases(&index(), "input_sizes") {
        let frequency: Frequency = text(case, "freq").parse().unwrap();
        assert_eq!(frequency.lags(), whole_numbers(&case["lags"]));
        let config = TimeGradConfig {
            variables: whole(case, "D"),
            lags: frequency.lags().to_vec(),
            time_features: 2 * frequency.fields().len(),
            ..TimeGradConfig::default()
        };
        assert_eq!(config.input_size(), whole(case, "input_size"));
    }
}

#[test]
fn schedules_are_those_of_pytorch_ts() {
    let (index, file) = (index(), Safetensors::open(root().join("schedules.safetensors")));
    for case in cases(&index, "schedules") {
        let id = text(case, "id");
        let config = schedule(text(case, "name"), whole(case, "T"), number(case, "beta_end")).unwrap();
        let betas = file.f64(&format!("{id}.betas_f64"));
        if case["not_finite"].as_array().is_some_and(|tables| !tables.is_empty()) {
            let error = config.init().unwrap_err().to_string();
            assert!(error.contains("beta of step") && error.contains("is 1"), "{error}");
            continue;
        }
        let found = config.init().unwrap();
        assert_close(&found.betas, &betas, 1e-13, id);
        for (table, found) in [
            ("alphas_cumprod", &found.alphas_bar),
            ("posterior_variance", &found.posterior_variance),
            ("posterior_mean_coef1", &found.posterior_mean_coef1),
            ("posterior_mean_coef2", &found.posterior_mean_coef2),
        ] {
            assert_close(found, &file.f64(&format!("{id}.{table}_f64")), 1e-11, &format!("{id} {table}"));
        }
    }
    let error = schedule("cubic", 8, 0.1).unwrap_err();
    assert!(error.contains("\"cubic\" is no schedule, expected linear"), "{error}");
}

#[test]
fn the_denoiser_is_that_of_pytorch_ts() {
    for golden in all() {
        let steps: Vec<f64> = (0..whole(&golden.keys, "T")).map(|step| step as f64).collect();
        golden.check(&golden.io, "step_table", step_table(&steps, &golden.device, golden.dtype), 1e-6);
        let denoiser = golden.denoiser();
        for (index, case) in cases(&golden.meta, "io").iter().enumerate() {
            let (x, condition) = (golden.tensor(&format!("x{index}")), golden.tensor(&format!("cond{index}")));
            let pass = denoiser.forward_with_skips(x, &golden.times(&format!("t{index}")), condition);
            golden.check(&golden.io, &format!("out{index}"), pass.eps, number(case, "tol_abs_f32"));
            let activations = golden.folder.join("activations.safetensors");
            if index == 0 && activations.is_file() {
                let activations = Safetensors::open(activations);
                for (block, skip) in pass.skips.into_iter().enumerate() {
                    golden.check(&activations, &format!("denoise_fn.residual_layers.{block}.skip"), skip, 1e-5);
                }
            }
        }
    }
}

#[test]
fn every_step_of_a_chain_is_that_of_pytorch_ts() {
    for golden in all() {
        let width = if golden.dtype == DType::F64 { "f64" } else { "tab64" };
        let [steps, rows] = [0, 1].map(|axis| golden.io.shape("test.chain_x_f64")[axis]);
        let variables = golden.network.config().variables;
        let given = golden.tensor::<4>(&format!("test.chain_x_{width}")).reshape([steps * rows, 1, variables]);
        // The conditions of the first step of the forecast, for every step of its chain.
        let condition = golden.tensor::<4>(&format!("test.cond_{width}")).narrow(0, 0, 1).squeeze_dim::<3>(0);
        let times: Vec<f64> = (0..steps).rev().flat_map(|t| vec![t as f64; rows]).collect();
        let eps = golden.denoiser().forward(given, &times, condition.repeat_dim(0, steps));
        golden.check(&golden.io, "test.chain_eps", eps, 1e-5);
    }
}

#[test]
fn windows_are_those_of_pytorch_ts() {
    for golden in all() {
        for (kind, windows) in [("train", golden.windows(true)), ("test", golden.windows(false))] {
            let same = |name: &str, found: Tensor<3>, tolerance: f64| {
                let name = format!("{kind}.{name}");
                let what = format!("{} {name}", golden.folder.display());
                assert_close(&values(found), &golden.io.f64(&name), tolerance, &what);
            };
            same("past_target_cdf", windows.past_values, 0.0);
            same("past_observed_values", windows.past_observed, 0.0);
            same("past_time_feat", windows.past_features, 1e-7);
            same("future_time_feat", windows.future_features, 1e-7);
            assert_eq!(
                (windows.future_values.is_some(), windows.future_observed.is_some()),
                (kind == "train", kind == "train")
            );
            if let (Some(values), Some(observed)) = (windows.future_values, windows.future_observed) {
                same("future_target_cdf", values, 0.0);
                same("future_observed_values", observed, 0.0);
            }
        }
    }
}

#[test]
fn what_the_recurrent_network_reads_and_gives_is_that_of_pytorch_ts() {
    for golden in all() {
        let windows = golden.windows(true);
        let read = golden.network.read(&windows, golden.network.scale(&windows)).unwrap();
        let tolerance = |name: &str| number(&golden.meta["train_tol_abs_f32"], name);
        let config = golden.network.config();
        let sequence = Tensor::cat(vec![windows.past_values.clone(), windows.future_values.clone().unwrap()], 1);
        let lags = lagged(&sequence, &config.lags, config.context_length + config.prediction_length);
        let lags = lags / read.scale.clone().unsqueeze_dim::<4>(3);
        golden.check(&golden.io, "train.lags_scaled", lags, tolerance("rnn_input"));
        golden.check(&golden.io, "train.scale", read.scale, tolerance("scale"));
        golden.check(&golden.io, "train.rnn_input", read.inputs, tolerance("rnn_input"));
        golden.check(&golden.io, "train.rnn_output", read.outputs, tolerance("rnn_output"));
        golden.check(&golden.io, "train.cond", read.conditions, tolerance("cond"));
        let hidden = read.state.0.iter().map(|layer| layer.hidden.clone()).collect();
        golden.check(&golden.io, "train.state0", Tensor::stack::<3>(hidden, 0), tolerance("rnn_output"));
        if config.cell == Cell::Lstm {
            let memory = read.state.0.into_iter().map(|layer| layer.memory).collect();
            golden.check(&golden.io, "train.state1", Tensor::stack::<3>(memory, 0), 2.0 * tolerance("rnn_output"));
        }
    }
}

#[test]
fn losses_are_those_of_pytorch_ts() {
    for golden in all() {
        let check = |name: &str, found: Tensor<1>| {
            let wanted = number(&golden.meta["loss"], name);
            let tolerance = if golden.dtype == DType::F64 { TOLERANCE_F64 } else { 2e-5 };
            let what = format!("{} {name}", golden.folder.display());
            assert_close(&values(found), &[wanted], tolerance * wanted.abs().max(1.0), &what);
        };
        for (prefix, windows) in [("", golden.windows(true)), ("blank_row_", golden.blank_row())] {
            let likelihood = golden.training_loss(&windows);
            let share = observed_share(golden.network.observed(&windows).unwrap());
            check(&format!("{prefix}likelihood_f64"), likelihood.clone());
            check(&format!("{prefix}loss_f64"), likelihood * share);
        }
    }
}

/// The gradients of all parameters, by name and in PyTorch's layout.
struct Collect<'a> {
    gradients: &'a Gradients,
    path: Vec<(String, String)>,
    found: Vec<(String, Vec<f64>)>,
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.into(), container.into()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let fields = self.path.iter().filter(|(_, container)| !container.starts_with("Enum:"));
        let name = fields.map(|(name, _)| name.as_str()).collect::<Vec<&str>>().join(".");
        let gradient = param.val().grad(self.gradients).unwrap_or_else(|| panic!("{name} has no gradient"));
        let dense = D == 2 && self.path.last().is_some_and(|(_, container)| container == "Struct:Linear");
        let gradient = if dense { gradient.swap_dims(0, 1) } else { gradient };
        self.found.push((name, values(gradient)));
    }
}

#[test]
fn gradients_are_those_of_pytorch_ts() {
    for golden in all() {
        let gradients = golden.training_loss(&golden.windows(true)).backward();
        let mut collect = Collect { gradients: &gradients, path: Vec::new(), found: Vec::new() };
        golden.network.visit(&mut collect);
        assert_eq!(collect.found.len(), cases(&golden.meta, "trainable").len());
        let file = Safetensors::open(golden.folder.join("grads.safetensors"));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        for (name, found) in collect.found {
            let wanted = file.f64(&if golden.dtype == DType::F64 { format!("{name}_f64") } else { name.clone() });
            assert_eq!(found.len(), wanted.len(), "{name}");
            let error = norm(&mut found.iter().zip(&wanted).map(|(f, w)| f - w));
            let (relative, per_element) = match golden.dtype {
                DType::F64 => (TOLERANCE_F64, TOLERANCE_F64),
                _ => (number(&golden.meta["grad"], "tol_relative_norm_f32"), 1e-6),
            };
            let allowed = relative * norm(&mut wanted.iter().copied()) + per_element * (wanted.len() as f64).sqrt();
            let what = format!("{} {name} {:?}", golden.folder.display(), golden.dtype);
            assert!(error <= allowed, "{what}: off by {error:e}, allowed {allowed:e}");
        }
    }
}

#[test]
fn forecasts_are_those_of_pytorch_ts() {
    for golden in all() {
        let (windows, diffusion) = (golden.windows(false), golden.diffusion());
        let (forecast, variables) = (&golden.meta["forecast"], golden.network.config().variables);
        let [paths, length] = ["paths", "prediction_length"].map(|key| whole(forecast, key));
        let steps = diffusion.schedule.len();
        let rows = paths * cases(&golden.meta, "series").len();
        let drawn = golden.tensor::<3>("test.noise").reshape([length, steps + 1, rows, variables]);
        // In the file, after the start, the noise of the last step of the diffusion comes first.
        let noise = |step: usize, t: Option<usize>| {
            let drawn = drawn.clone().narrow(0, step, 1).narrow(1, t.map_or(0, |t| steps - t), 1);
            drawn.reshape([rows, 1, variables])
        };
        let mut conditions = Vec::new();
        let mut state = golden.network.start_forecast(&windows, golden.network.scale(&windows)).repeated(paths);
        while let Some(condition) = golden.network.next_condition(&mut state) {
            let step = conditions.len();
            let sample = golden.network.sample(condition.clone(), &diffusion, |t| noise(step, t));
            state.push(sample);
            conditions.push(condition);
        }
        let conditions = Tensor::stack::<4>(conditions, 0);
        let tolerance = number(&golden.meta["train_tol_abs_f32"], "cond");
        golden.check(&golden.io, "test.cond", conditions, 5.0 * tolerance);
        let samples = golden.network.forecast(&windows, paths, &diffusion, noise);
        golden.check(&golden.io, "test.samples", samples, number(forecast, "tol_abs_f32"));
    }
}
