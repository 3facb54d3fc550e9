//! The S4 layer (Gu et al. 2022) as SSSD has it: of the kernel only C is trained.
//!
//! Field names spell the keys of SSSD's checkpoints.
#![allow(non_snake_case)]

use std::sync::{Arc, OnceLock};

use burn::module::{Module, Param, ParamId};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Distribution, Shape, Tensor, TensorData};
use ddpm_kernels::{gelu, kernels_of_basis, long_convolution, mixed_norm};

use super::complex::Complex;
use super::convolution::convolve;
use super::hippo::{DiagonalPlusLowRank, diagonal_plus_low_rank};
use super::s4d::DiagonalKernel;
use super::state_space::{KernelSum, StateSpace};
use crate::pass::Pass;

/// Initial step sizes lie between these, uniformly in the logarithm.
const STEP_SIZES: [f64; 2] = [1e-3, 0.1];

/// What the layer normalization adds to the variance.
const NORM_EPSILON: f64 = 1e-5;

/// Longer series have a basis in blocks, whose size does not grow with their length.
const LONGEST_BASIS: usize = 512;

/// Places of such a block.
const BLOCK: usize = 256;

/// The state spaces of an S4 layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelKind {
    /// HiPPO-LegS, diagonal plus low rank: only C is trained.
    #[default]
    DiagonalPlusLowRank,
    /// S4D-Lin, diagonal: all of it is trained.
    Diagonal,
}

/// The sizes of an S4 layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S4Config {
    /// Channels of the series.
    pub features: usize,
    /// States of a feature, an even number.
    pub states: usize,
    /// The length that C is stored for.
    pub length: usize,
    /// Whether what comes after a step has a kernel of its own; otherwise a step sees only what comes before.
    pub bidirectional: bool,
    /// Whether a layer normalization comes last.
    pub layer_norm: bool,
    /// Its state spaces.
    pub kind: KernelKind,
}

/// An S4 layer: `LayerNorm(x + W gelu(K * x + D x) + b)`, with features second.
#[derive(Module, Debug)]
pub struct S4Layer {
    s4_layer: S4,
    norm_layer: Option<LayerNorm>,
}

#[derive(Module, Debug)]
struct S4 {
    D: Param<Tensor<2>>,
    kernel: Kernel,
    output_linear: TransposedLinear,
}

/// A module of its own so that the keys start with `kernel.kernel`.
#[derive(Module, Debug)]
struct Kernel {
    kernel: StateSpaces,
}

#[derive(Module, Debug)]
enum StateSpaces {
    DiagonalPlusLowRank(StateSpaceKernel),
    Diagonal(DiagonalKernel),
}

/// The kernels of all features. Complex numbers are pairs on the last axis; of each conjugate pair of states one is stored.
#[derive(Module, Debug)]
struct StateSpaceKernel {
    /// `[directions, features, n, 2]`; `C (I - dA^L)` for the length that is stored for. All others are constant.
    C: Param<Tensor<4>>,
    log_dt: Param<Tensor<1>>,
    B: Param<Tensor<4>>,
    P: Param<Tensor<4>>,
    Q: Param<Tensor<4>>,
    w: Param<Tensor<3>>,
    /// The length that C is stored for.
    length: usize,
}

/// `W x + b` over the features, which are second.
#[derive(Module, Debug)]
struct TransposedLinear {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<2>>,
}

/// The basis of the kernels of one layer, which are products of C with it. A layer that trains more than C has none.
#[derive(Clone, Debug)]
pub struct KernelBasis {
    /// `[features, 2n, L]`, or of the first places only.
    block: Option<Tensor<3>>,
    /// Where it is of the first places only: what takes C to the next so many, `[features, 2n, 2n]`.
    step: Option<Tensor<3>>,
    length: usize,
}

impl KernelBasis {
    #[cfg(test)]
    pub(super) fn length(&self) -> usize {
        self.length
    }

    #[cfg(test)]
    pub(super) fn into_tensor(self) -> Tensor<3> {
        self.block.unwrap_or_else(|| unreachable!("a layer that trains more than C"))
    }

    /// That of a layer that has none.
    pub(super) fn none(length: usize) -> Self {
        Self { block: None, step: None, length }
    }
}

impl S4Layer {
    /// Parameters are drawn when they are first used.
    pub fn init(config: S4Config, device: &Device) -> Self {
        let features = config.features;
        let bound = 1.0 / (features as f64).sqrt();
        let uniform = Initializer::Uniform { min: -bound, max: bound };
        let standard_normal = Initializer::Normal { mean: 0.0, std: 1.0 };
        let s4_layer = S4 {
            D: standard_normal.init([1, features], device),
            kernel: Kernel { kernel: StateSpaces::init(config, device) },
            output_linear: TransposedLinear {
                weight: uniform.init([features, features], device),
                bias: Initializer::Zeros.init([features, 1], device),
            },
        };
        Self {
            s4_layer,
            norm_layer: config
                .layer_norm
                .then(|| LayerNormConfig::new(features).with_epsilon(NORM_EPSILON).init(device)),
        }
    }

    /// The basis of its kernels for series of this length. It stays the same in training.
    pub fn basis(&self, sum: KernelSum, length: usize) -> KernelBasis {
        self.s4_layer.kernel.kernel.basis(sum, length)
    }

    /// The logarithms of the step sizes of its features.
    pub(super) fn step_sizes(&self) -> Tensor<1> {
        match &self.s4_layer.kernel.kernel {
            StateSpaces::DiagonalPlusLowRank(kernel) => kernel.log_dt.val(),
            StateSpaces::Diagonal(kernel) => kernel.log_dt.val(),
        }
    }

    /// Its kernels, `[directions, features, L]`.
    #[cfg(test)]
    pub(super) fn kernels(&self, basis: &KernelBasis) -> Tensor<3> {
        self.s4_layer.kernel.kernel.kernels(basis).swap_dims(0, 1)
    }

    /// From `[B, features, L]` to the same.
    pub fn forward(&self, x: Tensor<3>, basis: &KernelBasis, pass: &Pass<'_>) -> Tensor<3> {
        let y = pass.layer("s4_layer", x.clone(), |x| self.s4_layer.forward(x, basis)) + x;
        match &self.norm_layer {
            Some(norm) => pass.layer("norm_layer", y, |y: Tensor<3>| norm.forward(y.swap_dims(1, 2)).swap_dims(1, 2)),
            None => y,
        }
    }

    /// From `[B, L, features]` to the same by kernels, where there are some.
    pub(super) fn fused(&self, x: Tensor<3>, basis: &KernelBasis) -> Option<Tensor<3>> {
        let (norm, s4) = (self.norm_layer.as_ref()?, &self.s4_layer);
        let y = long_convolution(x.clone(), s4.kernel.kernel.kernels(basis), s4.D.val())?;
        let layer = (s4.output_linear.weight.val(), s4.output_linear.bias.val());
        mixed_norm(y, x, layer, (norm.gamma.val(), norm.beta.as_ref()?.val()), NORM_EPSILON)
    }
}

impl S4 {
    fn forward(&self, x: Tensor<3>, basis: &KernelBasis) -> Tensor<3> {
        let kernels = self.kernel.kernel.kernels(basis);
        let [features, directions, length] = kernels.dims();
        let direction = |i: usize| kernels.clone().narrow(1, i, 1).reshape([features, length]);
        let backward = (directions > 1).then(|| direction(1));
        let skip = x.clone() * self.D.val().reshape([1, features, 1]);
        self.output_linear.forward(gelu(convolve(x, direction(0), backward) + skip))
    }
}

impl TransposedLinear {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.weight.val().unsqueeze_dim::<3>(0).matmul(x) + self.bias.val().unsqueeze_dim(0)
    }
}

impl StateSpaces {
    fn init(config: S4Config, device: &Device) -> Self {
        match config.kind {
            KernelKind::DiagonalPlusLowRank => Self::DiagonalPlusLowRank(StateSpaceKernel::init(config, device)),
            KernelKind::Diagonal => Self::Diagonal(DiagonalKernel::init(config, STEP_SIZES, device)),
        }
    }

    fn basis(&self, sum: KernelSum, length: usize) -> KernelBasis {
        match self {
            Self::DiagonalPlusLowRank(kernel) => kernel.basis(sum, length),
            Self::Diagonal(_) => KernelBasis::none(length),
        }
    }

    /// `[features, directions, L]`.
    fn kernels(&self, basis: &KernelBasis) -> Tensor<3> {
        match (self, &basis.block) {
            (Self::DiagonalPlusLowRank(kernel), Some(first)) => kernel.kernels(basis, first),
            (Self::Diagonal(kernel), _) => kernel.kernels(basis.length),
            _ => unreachable!("the basis of another layer"),
        }
    }
}

impl StateSpaceKernel {
    fn init(config: S4Config, device: &Device) -> Self {
        let features = config.features;
        let hippo = diagonal_plus_low_rank(config.states);
        let half = config.states / 2;
        let log_dt = StepSizes { features, drawn: Arc::default() };
        let conjugate = |values: &[Complex]| values.iter().map(|value| value.conj()).collect::<Vec<_>>();
        let shared = |values: &[Complex]| constant([1, features, half, 2], repeated(values, features), device);
        Self {
            C: initial_c(config, hippo.clone(), log_dt.clone(), device),
            B: shared(&hippo.b),
            P: shared(&hippo.p),
            Q: shared(&conjugate(&hippo.p)),
            w: constant([features, half, 2], repeated(&hippo.w, features), device),
            log_dt: lazy([features], false, device, move |device| log_dt.values(device)),
            length: config.length,
        }
    }

    /// `[features, directions, L]`.
    fn kernels(&self, basis: &KernelBasis, first: &Tensor<3>) -> Tensor<3> {
        let mut coefficients = self.C.val();
        let Some(step) = &basis.step else { return product(coefficients, first.clone()) };
        let [directions, features, half, _] = coefficients.dims();
        let block = first.dims()[2];
        let blocks = basis.length.div_ceil(block);
        let mut parts = Vec::with_capacity(blocks);
        for part in 0..blocks {
            if part > 0 {
                let rows = coefficients.reshape([directions, features, 2 * half]).swap_dims(0, 1);
                coefficients = rows.matmul(step.clone()).swap_dims(0, 1).reshape([directions, features, half, 2]);
            }
            parts.push(coefficients.clone());
        }
        // The blocks as so many more directions.
        let kernels = product(Tensor::cat(parts, 0), first.clone());
        let kernels = kernels.reshape([features, blocks, directions, block]).swap_dims(1, 2);
        kernels.reshape([features, directions, blocks * block]).narrow(2, 0, basis.length)
    }

    fn basis(&self, sum: KernelSum, length: usize) -> KernelBasis {
        let c = self.C.val();
        let [_, features, half, _] = c.dims();
        // Half the states are no state space: their kernel has no continuation by blocks.
        let block = if sum == KernelSum::Full && length > LONGEST_BASIS { BLOCK } else { length };
        let tensor = |values: Vec<f64>, columns: usize| {
            let data = TensorData::new(values, [features, 2 * half, columns]);
            // Constants have no part in gradients.
            Tensor::from_data(data, (&c.device().without_autodiff(), c.dtype()))
        };
        let spaces = self.state_spaces();
        let values = on_all_cores(&spaces, |space| space.basis(sum, self.length, block));
        let step = (block < length).then(|| {
            let values = on_all_cores(&spaces, |space| space.step_of_coefficients(block));
            tensor(values, 2 * half)
        });
        KernelBasis { block: Some(tensor(values, block)), step, length }
    }

    fn state_spaces(&self) -> Vec<StateSpace> {
        let complex = |values: TensorData| Complex::from_pairs(&values.iter::<f64>().collect::<Vec<_>>());
        let [w, p] = [complex(self.w.val().into_data()), complex(self.P.val().into_data())];
        let [q, b] = [complex(self.Q.val().into_data()), complex(self.B.val().into_data())];
        let half = self.w.val().dims()[1];
        let steps = self.log_dt.val().into_data();
        let spaces = steps.iter::<f64>().enumerate().map(|(feature, log_dt)| {
            let of = |values: &[Complex]| values[feature * half..(feature + 1) * half].to_vec();
            StateSpace { w: of(&w), p: of(&p), q: of(&q), b: of(&b), dt: log_dt.exp() }
        });
        spaces.collect()
    }
}

/// The products of rows of coefficients, `[directions, features, n, 2]`, with the basis: `[features, directions, L]`.
fn product(coefficients: Tensor<4>, basis: Tensor<3>) -> Tensor<3> {
    kernels_of_basis(coefficients.clone(), basis.clone()).unwrap_or_else(|| {
        let [directions, features, half, _] = coefficients.dims();
        coefficients.reshape([directions, features, 2 * half]).swap_dims(0, 1).matmul(basis)
    })
}

/// What each state space comes to, one after the other.
fn on_all_cores(spaces: &[StateSpace], values: impl Fn(&StateSpace) -> Vec<f64> + Sync) -> Vec<f64> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let of_part = |part: &[StateSpace]| part.iter().flat_map(&values).collect::<Vec<f64>>();
    std::thread::scope(|scope| {
        let parts = spaces.chunks(spaces.len().div_ceil(threads).max(1));
        let running: Vec<_> = parts.map(|part| (part, scope.spawn(move || of_part(part)))).collect();
        // A thread that failed is done again here, where the failure can be seen.
        running.into_iter().flat_map(|(part, thread)| thread.join().unwrap_or_else(|_| of_part(part))).collect()
    })
}

/// The logarithms of the step sizes, drawn once: C depends on them, whichever of the two is used first.
#[derive(Clone)]
struct StepSizes {
    features: usize,
    drawn: Arc<OnceLock<Vec<f64>>>,
}

impl StepSizes {
    fn values(&self, device: &Device) -> Vec<f64> {
        let [low, high] = STEP_SIZES.map(f64::ln);
        let draw = || {
            let drawn = Tensor::<1>::random([self.features], Distribution::Uniform(low, high), device);
            drawn.into_data().iter::<f64>().collect()
        };
        self.drawn.get_or_init(draw).clone()
    }
}

/// C from the complex normal distribution of variance 1, times `I - dA^L`.
fn initial_c(config: S4Config, hippo: DiagonalPlusLowRank, steps: StepSizes, device: &Device) -> Param<Tensor<4>> {
    let (features, length) = (config.features, config.length);
    let directions = if config.bidirectional { 2 } else { 1 };
    let shape = [directions, features, config.states / 2, 2];
    lazy(shape, true, device, move |device| {
        let steps = steps.values(device);
        let normal = Distribution::Normal(0.0, 0.5_f64.sqrt());
        let drawn: Vec<f64> = Tensor::<4>::random(shape, normal, device).into_data().iter::<f64>().collect();
        let rows = drawn.chunks_exact(2 * shape[2]).enumerate().flat_map(|(row, c)| {
            let DiagonalPlusLowRank { w, p, b } = hippo.clone();
            let q = p.iter().map(|p| p.conj()).collect();
            let space = StateSpace { w, p, q, b, dt: steps[row % features].exp() };
            space.corrected_for_length(&Complex::from_pairs(c), length)
        });
        rows.flat_map(|value| [value.re, value.im]).collect()
    })
}

/// The pairs of these values, once for each feature.
fn repeated(values: &[Complex], features: usize) -> Vec<f64> {
    values.iter().flat_map(|value| [value.re, value.im]).collect::<Vec<_>>().repeat(features)
}

/// A parameter that is not trained.
fn constant<const D: usize>(shape: [usize; D], values: Vec<f64>, device: &Device) -> Param<Tensor<D>> {
    lazy(shape, false, device, move |_| values)
}

/// A parameter whose values are computed when it is first used.
fn lazy<const D: usize>(
    shape: [usize; D],
    trained: bool,
    device: &Device,
    values: impl FnOnce(&Device) -> Vec<f64> + Send + Sync + 'static,
) -> Param<Tensor<D>> {
    let init = move |device: &Device, require_grad: bool| {
        let data = TensorData::new(values(device), shape);
        Tensor::<D>::from_data(data, device).set_require_grad(require_grad)
    };
    Param::uninitialized(ParamId::new(), init, device.clone(), trained, Shape::from(shape))
}
