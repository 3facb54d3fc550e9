//! The likelihood of data under the probability-flow ODE (Song et al. 2021, section 4.3 and appendix D.2).
//!
//! Exact but for two things: the solver's tolerance, and the first level of the way, whose noise the density
//! includes, because the ODE does not begin at clean data. Nothing is clipped.

use burn::tensor::{Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;

use crate::samplers::probability_flow::{derivative, level_of, place};
use crate::samplers::{Effort, Tolerance, solve};

/// How the divergence of the flow, the trace of its Jacobian, is found.
#[derive(Clone, Debug)]
pub enum Trace<const D: usize> {
    /// Entry by entry of the diagonal: one evaluation of the denoiser for every dimension.
    Exact,
    /// Hutchinson's estimate: the mean over these probes, each of the shape of the data, which stay the same all
    /// the way.
    Probes(Vec<Tensor<D>>),
}

/// Distributions of probes, all of which make the estimate unbiased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeKind {
    /// -1 or 1: the least variance.
    #[default]
    Rademacher,
    /// Standard normal.
    Gaussian,
}

impl ProbeKind {
    /// The values of probe `probe` of item `item`.
    pub fn draw(self, seed: u64, item: usize, probe: usize, count: usize) -> Vec<f32> {
        let mut rng = rng(seed, Stream::Probe, ((item as u64) << 32) | probe as u64);
        match self {
            Self::Rademacher => (0..count).map(|_| if rng.random::<bool>() { 1.0 } else { -1.0 }).collect(),
            Self::Gaussian => normals(&mut rng, count),
        }
    }
}

/// Uniform dequantisation of an 8-bit image in [-1, 1] (Theis et al. 2016): byte v becomes a random number of
/// [v, v + 1), and those of [0, 256) are scaled to [-1, 1). The density of the result bounds the probability of
/// the bytes from below, see [`bits_per_dimension`].
pub fn dequantize(values: &mut [f32], seed: u64, item: usize) {
    let mut rng = rng(seed, Stream::Dequantize, item as u64);
    for value in values {
        let byte = ((*value + 1.0) * 127.5).round();
        *value = (byte + rng.random::<f32>()) / 128.0 - 1.0;
    }
}

/// Bits per dimension of bytes whose dequantized values have this log-density: a bin is 1/128 wide, which are 7
/// bits for each dimension.
pub fn bits_per_dimension(log_density: f64, dimensions: usize) -> f64 {
    -log_density / std::f64::consts::LN_2 / dimensions as f64 + 128f64.log2()
}

/// The log-density in nats of every row of `x_0`, data without noise: `log p(x_0) = log N(x_T) + the integral of
/// the divergence`, from the first to the second of two levels, of which the second must be as good as noise.
///
/// `calls` receives the number of network evaluations after every step. A row depends on the others of its batch within
/// the tolerance, because they share their steps.
pub fn log_likelihood<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    x_0: Tensor<D>,
    trace: &Trace<D>,
    levels: [NoiseLevel; 2],
    tolerance: Tolerance,
    calls: &mut dyn FnMut(usize),
) -> (Vec<f64>, Effort) {
    let shape = x_0.dims();
    let (rows, dimensions) = (shape[0], shape[1..].iter().product::<usize>());
    let mut asked = 0;
    // A row of the state: x, and what the logarithm of the density has lost on the way.
    let mut slope = |state: &Tensor<2>, l: f64| {
        let x = state.clone().narrow(1, 0, dimensions).reshape(shape);
        let (slope, divergence) = slope_and_divergence(denoiser, x, l, trace, &mut asked);
        Tensor::cat(vec![slope.reshape([rows, dimensions]), divergence], 1)
    };
    let ends = levels.map(place);
    let alpha = level_of(ends[0]).alpha;
    let start = (x_0 * alpha).reshape([rows, dimensions]);
    let state = Tensor::cat(vec![start.clone(), start.narrow(1, 0, 1).zeros_like()], 1);
    let (state, effort) = solve(state, ends, tolerance, &mut slope, &mut |taken| calls(taken.effort.calls));

    let x_t = state.clone().narrow(1, 0, dimensions);
    let square = host(x_t.square().sum_dim(1));
    let gained = host(state.narrow(1, dimensions, 1));
    // N(0, 1) at the noisy end; and x_0 is alpha times closer together at the start than it is by itself.
    let constant = dimensions as f64 * (alpha.ln() - std::f64::consts::TAU.ln() / 2.0);
    let log_p = square.iter().zip(gained).map(|(square, gained)| constant - square / 2.0 + gained).collect();
    (log_p, Effort { calls: asked, ..effort })
}

/// dx/dl, and the trace of its Jacobian, `[B, 1]`.
fn slope_and_divergence<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    x: Tensor<D>,
    l: f64,
    trace: &Trace<D>,
    calls: &mut usize,
) -> (Tensor<D>, Tensor<2>) {
    let shape = x.dims();
    let rows = [shape[0] as i32, -1];
    // probe . J probe for every row, by way of the product of the probe with J, of which rows share nothing.
    let mut form = |probe: &Tensor<D>| {
        *calls += 1;
        let x = x.clone().autodiff().detach().require_grad();
        let slope = derivative(denoiser, &x, l).0;
        let gradients = (slope.clone() * probe.clone().autodiff()).sum().backward();
        let product = x.grad(&gradients).map_or_else(|| probe.zeros_like(), Tensor::inner);
        (slope.inner(), (product * probe.clone()).reshape(rows).sum_dim(1))
    };
    let (probes, share): (Vec<Tensor<D>>, f64) = match trace {
        Trace::Exact => (units(&x), 1.0),
        Trace::Probes(probes) => (probes.clone(), 1.0 / probes.len() as f64),
    };
    let mut forms = probes.iter().map(&mut form);
    let first = forms.next().unwrap_or_else(|| (x.zeros_like(), x.clone().reshape(rows).sum_dim(1).zeros_like()));
    let (slope, divergence) = forms.fold(first, |(slope, sum), (_, next)| (slope, sum + next));
    (slope, divergence * share)
}

/// The unit vectors, each in all rows.
fn units<const D: usize>(like: &Tensor<D>) -> Vec<Tensor<D>> {
    let (shape, rows) = (like.dims(), like.dims()[0]);
    let dimensions: usize = shape[1..].iter().product();
    let unit = |i: usize| {
        let values = (0..rows * dimensions).map(|at| f32::from(u8::from(at % dimensions == i))).collect();
        Tensor::from_data(TensorData::new(values, shape), (&like.device(), like.dtype()))
    };
    (0..dimensions).map(unit).collect()
}

fn host(column: Tensor<2>) -> Vec<f64> {
    column.into_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_stays_in_its_bin() {
        let bytes: Vec<f32> = (0..=255u8).map(f32::from).collect();
        let mut values: Vec<f32> = bytes.iter().map(|byte| byte / 127.5 - 1.0).collect();
        let same = values.clone();
        dequantize(&mut values, 3, 5);
        for (value, byte) in values.iter().zip(&bytes) {
            let back = (value + 1.0) * 128.0;
            assert!((*byte..=byte + 1.0).contains(&back), "{byte} became {back}");
        }
        let (mut again, mut other) = (same.clone(), same);
        dequantize(&mut again, 3, 5);
        dequantize(&mut other, 3, 6);
        assert_eq!(again, values);
        assert_ne!(other, values);
    }

    #[test]
    fn a_density_that_is_even_over_all_bytes_takes_8_bits() {
        let even = 0.5f64.ln() * 10.0;
        assert!((bits_per_dimension(even, 10) - 8.0).abs() < 1e-12);
    }

    #[test]
    fn probes_have_unit_variance_and_an_address() {
        for kind in [ProbeKind::Rademacher, ProbeKind::Gaussian] {
            let values = kind.draw(1, 2, 3, 4000);
            let square: f32 = values.iter().map(|value| value * value).sum::<f32>() / 4000.0;
            assert!((square - 1.0).abs() < 0.1, "{kind:?} {square}");
            assert!(values.iter().sum::<f32>().abs() < 260.0, "{kind:?}");
            assert_eq!(kind.draw(1, 2, 3, 4000), values);
            assert_ne!(kind.draw(1, 2, 4, 4000), values);
            assert_ne!(kind.draw(1, 3, 3, 4000), values);
        }
    }
}
