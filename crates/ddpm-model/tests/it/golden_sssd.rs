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
use ddpm_model::sssd::{KernelBases, Observations, S4Layer, Sssd, SssdConfig, hippo};
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
            basis.map(|basis| basis.iter().zip(grad_out).map(|(b, g)| b * g).sum::<f64>())
        });
        gradients.collect()
    }
}

/// Runs the test on every kernel with a state matrix that is diagonal plus low rank.
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
        let corrected = rows.flat_map(|(row, c)| {
            spaces[row % spaces.len()].corrected_for_length(&c[..half], kernel.stored_length())
        });
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
    let mut store = SafetensorsStore::from_file(path).with_from_adapter(PyTorchToBurnAdapter).allow_partial(true);
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
        let name = names.join(".").replace("norm_layer.gamma", "norm_layer.weight");
        let name = name.replace("norm_layer.beta", "norm_layer.bias");
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
