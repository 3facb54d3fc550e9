//! The kernels of S4D (Gu et al. 2022b, arXiv:2206.11893): a diagonal state space, discretized by zero-order hold, of which all is
//! trained.
//!
//! `K_l = 2 Re(sum of C (exp(dt A) - 1) / A exp(dt A l))` over the stored half of the conjugate pairs of states. It begins as
//! S4D-Lin: `A_n = -1/2 + i pi n`.
#![allow(non_snake_case)]

use std::f64::consts::PI;

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::s4::S4Config;

/// The kernels of all features.
#[derive(Module, Debug)]
pub(super) struct DiagonalKernel {
    /// `[directions, features, n, 2]`, pairs of real and imaginary part.
    C: Param<Tensor<4>>,
    pub(super) log_dt: Param<Tensor<1>>,
    /// The logarithm of minus the real part of A, `[features, n]`, so that states never grow.
    log_A_real: Param<Tensor<2>>,
    A_imag: Param<Tensor<2>>,
}

/// A complex tensor.
#[derive(Clone)]
struct Complex {
    re: Tensor<2>,
    im: Tensor<2>,
}

impl Complex {
    fn times(self, other: Self) -> Self {
        Self {
            re: self.re.clone() * other.re.clone() - self.im.clone() * other.im.clone(),
            im: self.re * other.im + self.im * other.re,
        }
    }

    fn over(self, other: Self) -> Self {
        let square = other.re.clone().square() + other.im.clone().square();
        let Self { re, im } = self.times(Self { re: other.re, im: -other.im });
        Self { re: re / square.clone(), im: im / square }
    }

    fn exp(self) -> Self {
        let size = self.re.exp();
        Self { re: size.clone() * self.im.clone().cos(), im: size * self.im.sin() }
    }
}

impl DiagonalKernel {
    pub(super) fn init(config: S4Config, step_sizes: [f64; 2], device: &Device) -> Self {
        let (features, half) = (config.features, config.states / 2);
        let directions = if config.bidirectional { 2 } else { 1 };
        let [min, max] = step_sizes.map(f64::ln);
        let frequencies: Vec<f64> = (0..features).flat_map(|_| (0..half).map(|n| PI * n as f64)).collect();
        let frequencies = TensorData::new(frequencies, [features, half]);
        Self {
            C: Initializer::Normal { mean: 0.0, std: 0.5_f64.sqrt() }.init([directions, features, half, 2], device),
            log_dt: Initializer::Uniform { min, max }.init([features], device),
            log_A_real: Initializer::Constant { value: 0.5_f64.ln() }.init([features, half], device),
            A_imag: Param::from_data(frequencies, device),
        }
    }

    /// `[features, directions, L]`.
    pub(super) fn kernels(&self, length: usize) -> Tensor<3> {
        let dt = self.log_dt.val().exp().unsqueeze_dim::<2>(1);
        let a = Complex { re: -self.log_A_real.val().exp(), im: self.A_imag.val() };
        let exponent = Complex { re: a.re.clone() * dt.clone(), im: a.im.clone() * dt };
        let power = exponent.clone().exp();
        let b = Complex { re: power.re - 1.0, im: power.im }.over(a);
        let [re, im] = self.powers(exponent, length);
        let [c_re, c_im] = self.c_times(b);
        (c_re.matmul(re) - c_im.matmul(im)) * 2.0
    }

    /// `exp(dt A l)` for every l, `[features, n, L]`.
    fn powers(&self, exponent: Complex, length: usize) -> [Tensor<3>; 2] {
        let steps = Tensor::<1, Int>::arange(0..length as i64, &exponent.re.device()).float();
        let steps = steps.cast(exponent.re.dtype()).reshape([1, 1, length]);
        let by_step = |part: Tensor<2>| part.unsqueeze_dim::<3>(2) * steps.clone();
        let (size, angle) = (by_step(exponent.re).exp(), by_step(exponent.im));
        [size.clone() * angle.clone().cos(), size * angle.sin()]
    }

    /// C times b, `[features, directions, n]`.
    fn c_times(&self, b: Complex) -> [Tensor<3>; 2] {
        let c = self.C.val();
        let [directions, features, half, _] = c.dims();
        let direction = |i: usize| {
            let part = |part: usize| {
                c.clone().slice([i..i + 1, 0..features, 0..half, part..part + 1]).reshape([features, half])
            };
            Complex { re: part(0), im: part(1) }.times(b.clone())
        };
        let (re, im) = (0..directions).map(direction).map(|product| (product.re, product.im)).unzip();
        [Tensor::stack(re, 1), Tensor::stack(im, 1)]
    }
}
