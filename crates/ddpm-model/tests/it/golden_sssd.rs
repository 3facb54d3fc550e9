//! The network of SSSD and its S4 kernels against SSSD and state-spaces/s4 (`fixtures/series_sssd`).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use ddpm_model::embedding::SinusoidConfig;
use ddpm_model::pass::{Pass, Trace, Values};
use ddpm_model::schedule::{Schedule, ScheduleConfig};
use ddpm_model::sssd::complex::Complex;
use ddpm_model::sssd::loss::{at_missing_places, missing_mse};
use ddpm_model::sssd::state_space::{KernelSum, StateSpace};
use ddpm_model::sssd::{KernelBases, KernelKind, Observations, S4Config, S4Layer, Sssd, SssdConfig, hippo};
use ddpm_testing::support::*;
use serde_json::Value;

/// What kernels in f64 may be off by, relative to the largest value.
const KERNEL_TOLERANCE: f64 = 1e-10;
/// What layers and networks in f64 may be off by, relative to the largest value.
const TOLERANCE_F64: f64 = 1e-9;

fn root() -> PathBuf {
    fixture("series_sssd")
}

fn index() -> Value {
    read_json(root().join("index.json"))
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()))
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

fn check_f64(found: &[f64], wanted: &[f64], tolerance: f64, what: &str) {
    assert_close(found, wanted, tolerance * largest(wanted), what);
}

fn absolute(values: &[Complex]) -> Vec<f64> {
    values.iter().map(|value| value.abs()).collect()
}

#[test]
fn hippo_matrices_and_their_eigenvalues_are_those_of_s4() {
    let file = Safetensors::open(root().join("hippo.safetensors"));
    for case in cases(&index(), "hippo") {
        let states = whole(case, "N");
        let wanted = |name: &str| file.f64(&format!("n{states}.{name}"));
        let check = |found: &[f64], name: &str| check_f64(found, &wanted(name), 1e-12, &format!("{name} of {states}"));
        let legs = hippo::legs(states);
        check(&legs.a, "A");
        check(&legs.b, "B");
        check(&legs.p, "P");
        let dplr = hippo::diagonal_plus_low_rank(states);
        let upper = dplr.w.iter().map(|w| w.im);
        check(&upper.clone().map(|im| -im).chain(upper.rev()).collect::<Vec<_>>(), "eig_imag_sorted");
        assert!(dplr.w.iter().all(|w| w.re == -0.5));
        // B is sqrt(2) P, in any basis.
        let scaled: Vec<f64> = absolute(&dplr.p).iter().map(|p| p * 2.0_f64.sqrt()).collect();
        check_f64(&absolute(&dplr.b), &scaled, 1e-12, "B in the eigenbasis");
        if file.names().contains(&format!("n{states}.ref_P_abs")) {
            // The peer computes these in f32 or with a solver for general matrices.
            check_f64(&absolute(&dplr.p), &wanted("ref_P_abs"), 1e-5, "P in the eigenbasis");
        }
    }
}

/// One kernel of the fixtures, by its names.
struct KernelCase<'a> {
    case: &'a Value,
    file: &'a Safetensors,
}

impl KernelCase<'_> {
    fn name(&self, name: &str) -> String {
        format!("{}.{name}", text(self.case, "id"))
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.file.f64(&self.name(name))
    }

    fn complex(&self, name: &str) -> Vec<Complex> {
        Complex::from_pairs(&self.f64(name))
    }

    fn has(&self, name: &str) -> bool {
        self.file.names().contains(&self.name(name))
    }

    fn channels(&self) -> usize {
        whole(self.case, "ch")
    }

    /// The length that C is stored for, in steps of this rate.
    fn stored_length(&self) -> usize {
        (whole(self.case, "L") as f64 / self.rate()).round() as usize
    }

    fn rate(&self) -> f64 {
        self.case["rate"].as_f64().unwrap_or(1.0)
    }

    fn spaces(&self) -> Vec<StateSpace> {
        let half = whole(self.case, "half_state");
        let p = self.complex("P");
        let (w, q, log_dt) = match self.has("w") {
            true => (self.complex("w"), self.complex("Q"), self.f64("log_dt")),
            false => {
                let parts = self.f64("A_real").into_iter().zip(self.f64("A_imag"));
                let w = parts.map(|(real, imaginary)| Complex::new(-real.exp(), -imaginary)).collect();
                (w, p.iter().map(|p| p.conj()).collect(), self.f64("inv_dt"))
            }
        };
        let b = self.complex("B");
        let of = |values: &[Complex], h: usize| values[h * half..(h + 1) * half].to_vec();
        let space = |(h, log_dt): (usize, f64)| StateSpace {
            w: of(&w, h),
            p: of(&p, h),
            q: of(&q, h),
            b: of(&b, h),
            dt: log_dt.exp() * self.rate(),
        };
        log_dt.into_iter().enumerate().map(space).collect()
    }

    /// The bases of the features, and their rows.
    fn bases(&self, sum: KernelSum, length: usize) -> Vec<Vec<f64>> {
        self.spaces().iter().map(|space| space.basis(sum, self.stored_length(), length)).collect()
    }

    /// `[channels, features, length]`.
    fn kernel(&self, c: &[f64], bases: &[Vec<f64>], length: usize) -> Vec<f64> {
        let width = 2 * whole(self.case, "half_state");
        let rows = (0..self.channels()).flat_map(|channel| bases.iter().enumerate().map(move |(h, b)| (channel, h, b)));
        let values = rows.flat_map(|(channel, h, basis)| {
            let c = &c[(channel * bases.len() + h) * width..][..width];
            (0..length).map(move |l| c.iter().enumerate().map(|(n, c)| c * basis[n * length + l]).sum::<f64>())
        });
        values.collect()
    }

    /// The gradient for C of the sum over the kernel times `grad_out`.
    fn gradient_of_c(&self, bases: &[Vec<f64>], grad_out: &[f64], length: usize) -> Vec<f64> {
        let rows = grad_out.chunks_exact(length).enumerate();
        let gradients = rows.flat_map(|(row, grad_out)| {
            let basis = bases[row % bases.len()].chunks_exact(length);
            basis.map(move |basis| basis.iter().zip(grad_out).map(|(b, g)| b * g).sum::<f64>())
        });
        gradients.collect()
    }
}

/// Runs the test on every kernel with a state matrix that is diagonal plus low rank: SSSD has no other.
fn every_kernel(test: impl Fn(&KernelCase<'_>)) {
    let file = Safetensors::open(root().join("kernels.safetensors"));
    let index = index();
    let of_kind = cases(&index, "kernels").iter().filter(|case| {
        let kind = text(case, "kind");
        kind.starts_with("sssd") || kind == "dplr"
    });
    let tested = of_kind.map(|case| test(&KernelCase { case, file: &file })).count();
    assert!(tested > 0);
}

#[test]
fn kernels_in_f64_are_those_of_the_recurrence() {
    every_kernel(|kernel| {
        let length = whole(kernel.case, "L_out");
        let bases = kernel.bases(KernelSum::Full, length);
        let found = kernel.kernel(&kernel.f64("C"), &bases, length);
        check_f64(&found, &kernel.f64("kernel_dense_f64"), KERNEL_TOLERANCE, &kernel.name("kernel_dense_f64"));
        // The peer's own kernel of an odd length is another one.
        if text(kernel.case, "kind") != "sssd_odd" {
            check_f64(&found, &kernel.f64("kernel_f64"), KERNEL_TOLERANCE, &kernel.name("kernel_f64"));
        }
        if kernel.has("grad_C_f64") {
            let found = kernel.gradient_of_c(&bases, &kernel.f64("grad_out_f64"), length);
            check_f64(&found, &kernel.f64("grad_C_f64"), KERNEL_TOLERANCE, &kernel.name("grad_C_f64"));
        }
    });
}

#[test]
fn kernels_of_half_the_states_are_those_of_the_published_code() {
    every_kernel(|kernel| {
        if !kernel.has("kernel_half_f64") || text(kernel.case, "kind") == "sssd_odd" {
            return;
        }
        let length = whole(kernel.case, "L_out");
        let found = kernel.kernel(&kernel.f64("C"), &kernel.bases(KernelSum::Half, length), length);
        check_f64(&found, &kernel.f64("kernel_half_f64"), KERNEL_TOLERANCE, &kernel.name("kernel_half_f64"));
    });
}

#[test]
fn c_is_corrected_for_the_length_that_it_is_stored_for() {
    every_kernel(|kernel| {
        if !kernel.has("C_full_f64") {
            return;
        }
        let (n, half) = (whole(kernel.case, "N"), whole(kernel.case, "half_state"));
        let full = kernel.complex("C_full_f64");
        let spaces = kernel.spaces();
        let rows = full.chunks_exact(n).enumerate();
        let corrected = rows
            .flat_map(|(row, c)| spaces[row % spaces.len()].corrected_for_length(&c[..half], kernel.stored_length()));
        let found: Vec<f64> = corrected.flat_map(|value| [value.re, value.im]).collect();
        // C_full solves a system whose condition grows as the length gets shorter than the memory of the states.
        check_f64(&found, &kernel.f64("C"), 1e-9, &kernel.name("C"));
    });
}

#[test]
fn c_of_twice_the_length_gives_the_same_kernel() {
    every_kernel(|kernel| {
        if !kernel.has("C_after_f64") {
            return;
        }
        let (length, stored) = (whole(kernel.case, "L_out"), whole(kernel.case, "L_after"));
        let bases: Vec<Vec<f64>> =
            kernel.spaces().iter().map(|space| space.basis(KernelSum::Full, stored, length)).collect();
        let found = kernel.kernel(&kernel.f64("C_after_f64"), &bases, length);
        check_f64(&found, &kernel.f64("kernel_f64"), KERNEL_TOLERANCE, &kernel.name("C_after_f64"));
    });
}

/// The weights in f64.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = param.is_require_grad();
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(DType::F64).detach().set_require_grad(trained), mapper)
    }
}

/// Loads weights by name; only the cached nodes of Fourier transforms may be left over.
fn load<M: Module + ModuleSnapshot>(mut module: M, path: PathBuf, dtype: DType) -> M {
    // Which kind of state spaces a layer has is not in the names.
    let store = SafetensorsStore::from_file(path).with_from_adapter(PyTorchToBurnAdapter);
    let mut store = store.skip_enum_variants(true).allow_partial(true);
    let applied = module.load_from(&mut store).unwrap();
    assert!(applied.missing.is_empty() && applied.errors.is_empty(), "{applied}");
    assert!(applied.unused.iter().all(|name| name.ends_with(".omega") || name.ends_with(".z")), "{applied}");
    if dtype == DType::F64 { module.map(&mut Wide) } else { module }
}

/// The gradients of all parameters that are trained, by the names in SSSD's files.
struct Collect<'a> {
    gradients: &'a Gradients,
    path: Vec<(String, String)>,
    found: Vec<(String, Option<Vec<f64>>)>,
}

impl<'a> Collect<'a> {
    fn of<M: Module>(module: &M, gradients: &'a Gradients) -> Vec<(String, Option<Vec<f64>>)> {
        let mut collect = Self { gradients, path: Vec::new(), found: Vec::new() };
        module.visit(&mut collect);
        collect.found
    }
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push((name.into(), container.into()));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let names: Vec<&str> = self.path.iter().map(|(name, _)| name.as_str()).collect();
        let name = names.join(".").replace(".DiagonalPlusLowRank.", ".");
        let name = name.replace("norm_layer.gamma", "norm_layer.weight").replace("norm_layer.beta", "norm_layer.bias");
        let linear = self.path.last().is_some_and(|(_, container)| container == "Struct:Linear") && D == 2;
        let gradient = param.val().grad(self.gradients).map(|gradient| match linear {
            true => values(gradient.transpose()),
            false => values(gradient),
        });
        self.found.push((name, gradient));
    }
}

fn both() -> [DType; 2] {
    [DType::F32, DType::F64]
}

/// Off by at most the tolerance of f64, or that of the case in f32.
fn check(dtype: DType, found: &[f64], wanted: &[f64], tolerance_f32: f64, what: &str) {
    let tolerance = match dtype {
        DType::F64 => TOLERANCE_F64 * largest(wanted).max(1.0),
        _ => tolerance_f32,
    };
    assert_close(found, wanted, tolerance, &format!("{what} {dtype:?}"));
}

fn check_gradient(dtype: DType, found: &[f64], wanted: &[f64], tolerance_f32: f64, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let difference: Vec<f64> = found.iter().zip(wanted).map(|(f, w)| f - w).collect();
    let (relative, per_element) = match dtype {
        DType::F64 => (TOLERANCE_F64, TOLERANCE_F64),
        _ => (tolerance_f32, 1e-6),
    };
    let (error, allowed) = (norm(&difference), relative * norm(wanted) + per_element * (wanted.len() as f64).sqrt());
    assert!(error <= allowed, "{what} {dtype:?}: off by {error:e}, allowed {allowed:e}");
}

/// The weights of one layer in a file of their own, which a store reads by name.
fn weights_of_layer(file: &Safetensors, id: &str) -> PathBuf {
    let prefix = format!("{id}.w.");
    let names = file.names().into_iter().filter_map(|name| name.strip_prefix(&prefix).map(String::from));
    let entries: Vec<(String, Vec<usize>, Vec<u8>)> = names
        .map(|name| {
            let full = format!("{prefix}{name}");
            let bytes = file.f32(&full).into_iter().flat_map(f32::to_le_bytes).collect();
            (name, file.shape(&full), bytes)
        })
        .collect();
    let views = entries.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("sssd_{}_{id}.safetensors", std::process::id()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    path
}

/// A tensor `[L, B, features]` with the batch first and the features second.
fn features_second(file: &Safetensors, name: &str, device: &Device, dtype: DType) -> Tensor<3> {
    file.tensor::<3>(name, device, dtype).permute([1, 2, 0])
}

fn layer_config(case: &Value) -> S4Config {
    S4Config {
        features: whole(case, "features"),
        states: whole(case, "N"),
        length: whole(case, "lmax"),
        bidirectional: case["bidirectional"].as_bool().unwrap(),
        layer_norm: case["layer_norm"].as_bool().unwrap(),
        kind: KernelKind::DiagonalPlusLowRank,
    }
}

#[test]
fn layers_and_their_gradients_are_those_of_sssd() {
    let file = Safetensors::open(root().join("layers.safetensors"));
    let device = Device::default().autodiff();
    for case in cases(&index(), "layers") {
        let id = text(case, "id");
        let path = weights_of_layer(&file, id);
        for dtype in both() {
            let layer = load(S4Layer::init(layer_config(case), &device), path.clone(), dtype);
            let x = features_second(&file, &format!("{id}.x"), &device, dtype).require_grad();
            for (sum, name) in [(KernelSum::Half, "y_half"), (KernelSum::Full, "y")] {
                let y = layer.forward(x.clone(), &layer.basis(sum, whole(case, "L")), &Pass::default());
                let wanted = file.f64(&format!("{id}.{name}_f64"));
                let found = values(y.clone().permute([2, 0, 1]));
                check(dtype, &found, &wanted, number(&case[name], "tol_abs_f32"), &format!("{id} {name}"));
                if sum == KernelSum::Half {
                    continue;
                }
                let grad_out = features_second(&file, &format!("{id}.grad_out"), &device, dtype);
                let gradients = (y * grad_out).sum().backward();
                let grad_x = values(x.grad(&gradients).unwrap().permute([2, 0, 1]));
                check_gradient(dtype, &grad_x, &file.f64(&format!("{id}.grad_x_f64")), 1e-4, &format!("{id} x"));
                for (name, found) in Collect::of(&layer, &gradients) {
                    let wanted = file.f64(&format!("{id}.grad_f64.{name}"));
                    check_gradient(dtype, &found.unwrap(), &wanted, 1e-4, &format!("{id} {name}"));
                }
            }
        }
        std::fs::remove_file(path).unwrap();
    }
}

/// One network of the fixtures, in one of the two widths.
struct Golden {
    folder: PathBuf,
    config: Value,
    meta: Value,
    io: Safetensors,
    dtype: DType,
    device: Device,
    network: Sssd,
}

fn network_config(config: &Value, kernel_sum: KernelSum) -> SssdConfig {
    let config = &config["wavenet_config"];
    SssdConfig {
        in_channels: whole(config, "in_channels"),
        out_channels: whole(config, "out_channels"),
        length: whole(config, "s4_lmax"),
        residual_channels: whole(config, "res_channels"),
        skip_channels: whole(config, "skip_channels"),
        layers: whole(config, "num_res_layers"),
        step_sinusoids: whole(config, "diffusion_step_embed_dim_in"),
        step_hidden: whole(config, "diffusion_step_embed_dim_mid"),
        step_features: whole(config, "diffusion_step_embed_dim_out"),
        states: whole(config, "s4_d_state"),
        bidirectional: whole(config, "s4_bidirectional") == 1,
        layer_norm: whole(config, "s4_layernorm") == 1,
        kernel_sum,
        ..SssdConfig::default()
    }
}

/// Every network in both widths.
fn networks(kernel_sum: KernelSum) -> Vec<Golden> {
    let index = index();
    let ids = cases(&index, "models").iter().map(|id| id.as_str().unwrap().to_string());
    ids.flat_map(|id| both().map(|dtype| Golden::open(root().join(&id), kernel_sum, dtype))).collect()
}

impl Golden {
    fn open(folder: PathBuf, kernel_sum: KernelSum, dtype: DType) -> Self {
        let config = read_json(folder.join("config.json"));
        let device = Device::default().autodiff();
        let network = network_config(&config, kernel_sum).init(&device).unwrap();
        let network = load(network, folder.join("weights.safetensors"), dtype);
        let (meta, io) = (read_json(folder.join("meta.json")), Safetensors::open(folder.join("io.safetensors")));
        Self { folder, config, meta, io, dtype, device, network }
    }

    fn tensor(&self, name: &str) -> Tensor<3> {
        self.io.tensor(name, &self.device, self.dtype)
    }

    /// The one of several tensors along the first axis.
    fn tensor_of(&self, name: &str, i: usize) -> Tensor<3> {
        self.io.tensor::<4>(name, &self.device, self.dtype).narrow(0, i, 1).squeeze_dim(0)
    }

    fn observations(&self, values: &str, mask: &str) -> Observations {
        Observations { values: self.tensor(values), mask: self.tensor(mask) }
    }

    fn times(&self, t: &[i64]) -> Tensor<1> {
        let times: Vec<f64> = t.iter().map(|&t| t as f64).collect();
        Tensor::from_data(TensorData::from(times.as_slice()), (&self.device, self.dtype))
    }

    fn bases(&self, length: usize) -> KernelBases {
        self.network.bases(length).unwrap()
    }

    fn what(&self, name: &str) -> String {
        format!("{} {name}", self.folder.display())
    }

    fn schedule(&self) -> Schedule {
        let config = &self.config["diffusion_config"];
        let [beta_start, beta_end] = ["beta_0", "beta_T"].map(|key| number(config, key));
        ScheduleConfig::Linear { steps: whole(config, "T"), beta_start, beta_end }.init().unwrap()
    }

    /// The loss of one draw of noise and steps, as SSSD trains it.
    fn loss(&self, only_missing: bool) -> Tensor<1> {
        let known = self.observations("loss.x", "loss.mask");
        let (x, mask, noise) = (known.values.clone(), known.mask.clone(), self.tensor("loss.noise"));
        let t = self.io.i64("loss.t");
        let alphas_bar = &self.schedule().alphas_bar;
        let factor = |of: &dyn Fn(f64) -> f64| {
            let values: Vec<f64> = t.iter().map(|&t| of(alphas_bar[t as usize])).collect();
            let data = TensorData::new(values, [t.len(), 1, 1]);
            Tensor::<3>::from_data(data, (&self.device, self.dtype))
        };
        let noise = match only_missing {
            true => at_missing_places(noise, x.clone(), mask.clone()),
            false => noise,
        };
        let noised = x.clone() * factor(&f64::sqrt) + noise.clone() * factor(&|alpha_bar| (1.0 - alpha_bar).sqrt());
        let bases = self.bases(x.dims()[2]);
        let output = self.network.forward(noised, &known, self.times(&t), &bases, &Pass::default());
        // Plain mean squared error: nothing counts as observed.
        missing_mse(output, noise, if only_missing { mask } else { x.zeros_like() })
    }
}

#[test]
fn schedules_and_step_embeddings_are_those_of_sssd() {
    for golden in networks(KernelSum::Full) {
        let schedule = golden.schedule();
        let wanted = |name: &str| golden.io.f64(name);
        let check = |found: &[f64], name: &str| check_f64(found, &wanted(name), 1e-14, &golden.what(name));
        check(&schedule.betas, "schedule.Beta_f64");
        check(&schedule.alphas_bar, "schedule.Alpha_bar_f64");
        let sigmas: Vec<f64> = schedule.posterior_variance.iter().map(|variance| variance.sqrt()).collect();
        // Step 0 has no noise; the peer's entry there is the square root of beta, which it does not use.
        check_f64(&sigmas[1..], &wanted("schedule.Sigma_f64")[1..], 1e-12, &golden.what("schedule.Sigma_f64"));
        let steps: Vec<i64> = (0..schedule.len() as i64).collect();
        let embedding = SinusoidConfig::ho().embed(golden.times(&steps), golden.network.config().step_sinusoids);
        // In f64 the frequencies decide, in f32 the sine.
        let tolerance = if golden.dtype == DType::F64 { 1e-12 } else { 1e-6 };
        let name = "step_embedding_f64";
        assert_close(&values(embedding), &wanted(name), tolerance, &golden.what(name));
    }
}

#[test]
fn outputs_are_those_of_sssd_with_either_kernel() {
    for (kernel_sum, suffix) in [(KernelSum::Full, ""), (KernelSum::Half, "_half")] {
        for golden in networks(kernel_sum) {
            for (i, case) in cases(&golden.meta, "io").iter().enumerate() {
                let x = golden.tensor(&format!("x{i}"));
                let known = golden.observations(&format!("cond{i}"), &format!("mask{i}"));
                let times = golden.times(&golden.io.i64(&format!("t{i}")));
                let bases = golden.bases(x.dims()[2]);
                let found = values(golden.network.forward(x, &known, times, &bases, &Pass::default()));
                let wanted = golden.io.f64(&format!("out{i}{suffix}_f64"));
                let case = if suffix.is_empty() { case } else { &case["half"] };
                let tolerance = number(case, "tol_abs_f32");
                check(golden.dtype, &found, &wanted, tolerance, &golden.what(&format!("out{i}{suffix}")));
            }
        }
    }
}

#[test]
fn activations_have_the_statistics_of_those_of_sssd() {
    let mut compared = 0;
    for golden in networks(KernelSum::Full).iter().filter(|golden| golden.dtype == DType::F64) {
        let path = golden.folder.join("activations.safetensors");
        if !path.is_file() {
            continue;
        }
        let file = Safetensors::open(path);
        let first = |name: &str| golden.tensor(name).narrow(0, 0, 1);
        let known = Observations { values: first("cond0"), mask: first("mask0") };
        let (x, trace) = (first("x0"), Trace::default());
        let bases = golden.bases(x.dims()[2]);
        golden.network.forward(x, &known, golden.times(&golden.io.i64("t0")[..1]), &bases, &trace.pass());
        let layers = trace.into_layers();
        let names = file.names();
        for name in names.iter().filter_map(|name| name.strip_suffix("_f64")) {
            // The peer has an identity in place of a normalization that is off.
            if !golden.network.config().layer_norm && name.ends_with("norm_layer") {
                continue;
            }
            let layer = layers.iter().find(|layer| layer.path == name);
            let found = layer.unwrap_or_else(|| panic!("{}", golden.what(name))).output;
            let wanted = Tensor::<1>::from_data(
                TensorData::from(file.f64(&format!("{name}_f64")).as_slice()),
                (&Device::default(), DType::F64),
            );
            let numbers = |values: Values| [values.count as f64, values.lowest, values.highest, values.rms];
            let wanted = numbers(Values::of(&wanted));
            assert_close(&numbers(found), &wanted, TOLERANCE_F64, &golden.what(name));
            compared += 1;
        }
    }
    assert!(compared > 0);
}

#[test]
fn losses_and_gradients_are_those_of_sssd() {
    for golden in networks(KernelSum::Full) {
        for (only_missing, name) in [(false, "only_generate_missing_0"), (true, "only_generate_missing_1")] {
            let wanted = number(&golden.meta["loss"], &format!("{name}_f64"));
            let loss = golden.loss(only_missing);
            check(golden.dtype, &values(loss.clone()), &[wanted], 1e-6 * wanted.max(1.0), &golden.what(name));
            if only_missing {
                check_gradients(&golden, &loss.backward());
            }
        }
    }
}

fn check_gradients(golden: &Golden, gradients: &Gradients) {
    let file = Safetensors::open(golden.folder.join("grads.safetensors"));
    let tolerance = number(&golden.meta["grad"], "tol_relative_norm_f32");
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().into()).collect()
    };
    let (mut found_names, mut without) = (BTreeSet::new(), BTreeSet::new());
    for (name, found) in Collect::of(&golden.network, gradients) {
        found_names.insert(name.clone());
        let Some(found) = found else {
            without.insert(name);
            continue;
        };
        let wanted = file.f64(&format!("{name}_f64"));
        check_gradient(golden.dtype, &found, &wanted, tolerance, &golden.what(&name));
    }
    assert_eq!(found_names, names(&golden.meta["trainable"]), "what is trained");
    assert_eq!(without, names(&golden.meta["grad"]["without_gradient"]), "what has no gradient");
}

#[test]
fn trajectories_are_those_of_sssd() {
    for golden in networks(KernelSum::Full) {
        let schedule = golden.schedule();
        for (only_missing, name) in [(true, "traj1"), (false, "traj0")] {
            let known = golden.observations(&format!("{name}.cond"), &format!("{name}.mask"));
            let bases = golden.bases(known.values.dims()[2]);
            let tolerance = number(&golden.meta[name], "tol_abs_f32");
            let noise = |i: usize| golden.tensor_of(&format!("{name}.noise"), i);
            let check_step = |kind: &str, j: usize, found: Tensor<3>| {
                let all = golden.io.f64(&format!("{name}.{kind}_f64"));
                let size = all.len() / schedule.len();
                let what = golden.what(&format!("{name}.{kind} {j}"));
                check(golden.dtype, &values(found), &all[j * size..(j + 1) * size], tolerance, &what);
            };
            let mut x = noise(0);
            for (j, t) in (0..schedule.len()).rev().enumerate() {
                if only_missing {
                    x = at_missing_places(x, known.values.clone(), known.mask.clone());
                }
                check_step("net_in", j, x.clone());
                let times = golden.times(&vec![t as i64; x.dims()[0]]);
                let eps = golden.network.forward(x.clone(), &known, times, &bases, &Pass::default()).detach();
                check_step("eps", j, eps.clone());
                let (beta, alpha_bar) = (schedule.betas[t], schedule.alphas_bar[t]);
                x = (x - eps * (beta / (1.0 - alpha_bar).sqrt())) * (1.0 / (1.0 - beta).sqrt());
                if t > 0 {
                    x = x + noise(j + 1) * schedule.posterior_variance[t].sqrt();
                }
            }
            let wanted = golden.io.f64(&format!("{name}.x_final_f64"));
            check(golden.dtype, &values(x), &wanted, tolerance, &golden.what(name));
        }
    }
}
