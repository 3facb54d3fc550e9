//! The samplers over past predictions on data whose best denoiser is known in closed form.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;

use burn::tensor::{DType, Device, Tensor, TensorData, activation::softmax};
use ddpm_infer::noise::SampleNoise;
use ddpm_infer::samplers::{
    Bh, Expansion, Multistep, NoiseSource, PndmStart, Sampler, ddim, dpmpp_multistep, dpmpp_sde, half_way, level_at,
    pndm, unipc,
};
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

const CLEAN: NoiseLevel = NoiseLevel { alpha: 1.0, sigma: 0.0 };
const NOISE: NoiseLevel = NoiseLevel { alpha: 0.0, sigma: 1.0 };

fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&Device::flex(), DType::F64))
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    // Written so that NaN is far.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, off| if off <= max { max } else { off })
}

/// Data from N(mean, diag(variance)) in the plane.
struct Gaussian {
    mean: [f64; 2],
    variance: [f64; 2],
}

const GAUSSIAN: Gaussian = Gaussian { mean: [0.7, -0.4], variance: [0.8, 0.05] };

impl Gaussian {
    /// Where the probability-flow ODE takes x.
    fn flow(&self, x: &Tensor<2>, from: NoiseLevel, to: NoiseLevel) -> Tensor<2> {
        let deviation = |level: NoiseLevel| {
            self.variance.map(|variance| (level.alpha.powi(2) * variance + level.sigma.powi(2)).sqrt())
        };
        let mean = tensor(&self.mean, [1, 2]);
        let normal = (x.clone() - mean.clone() * from.alpha) / tensor(&deviation(from), [1, 2]);
        normal * tensor(&deviation(to), [1, 2]) + mean * to.alpha
    }
}

impl Denoiser<2> for Gaussian {
    fn denoise(&self, x_t: &Tensor<2>, NoiseLevel { alpha, sigma }: NoiseLevel) -> Denoised<2> {
        let gain = self.variance.map(|variance| alpha * variance / (alpha.powi(2) * variance + sigma.powi(2)));
        let mean = tensor(&self.mean, [1, 2]);
        let x_0 = (x_t.clone() - mean.clone() * alpha) * tensor(&gain, [1, 2]) + mean;
        Denoised { x_0, variance_logit: None }
    }
}

/// Data from two round Gaussians in the plane.
struct Mixture {
    weights: [f64; 2],
    means: [[f64; 2]; 2],
    variance: f64,
}

const MIXTURE: Mixture = Mixture { weights: [0.8, 0.2], means: [[1.0, 0.5], [-1.0, -0.5]], variance: 0.01 };

impl Denoiser<2> for Mixture {
    fn denoise(&self, x_t: &Tensor<2>, NoiseLevel { alpha, sigma }: NoiseLevel) -> Denoised<2> {
        let total = alpha.powi(2) * self.variance + sigma.powi(2);
        let residuals = self.means.map(|mean| x_t.clone() - tensor(&mean, [1, 2]) * alpha);
        let logits = [0, 1].map(|i| residuals[i].clone().square().sum_dim(1) * (-0.5 / total) + self.weights[i].ln());
        let shares = softmax(Tensor::cat(logits.to_vec(), 1), 1);
        let component = |i: usize| {
            let x_0 = residuals[i].clone() * (alpha * self.variance / total) + tensor(&self.means[i], [1, 2]);
            x_0 * shares.clone().narrow(1, i, 1)
        };
        Denoised { x_0: component(0) + component(1), variance_logit: None }
    }
}

/// Counts the questions.
struct Counted<'a> {
    inner: &'a dyn Denoiser<2>,
    asked: Cell<usize>,
}

impl Denoiser<2> for Counted<'_> {
    fn denoise(&self, x_t: &Tensor<2>, level: NoiseLevel) -> Denoised<2> {
        self.asked.set(self.asked.get() + 1);
        self.inner.denoise(x_t, level)
    }
}

/// `steps` steps of equal length in log(sigma / alpha).
fn even(from: f64, to: f64, steps: usize) -> Vec<NoiseLevel> {
    (0..=steps).map(|i| level_at(from * (to / from).powf(i as f64 / steps as f64))).collect()
}

fn noise(seed: u64, count: usize) -> (Tensor<2>, impl FnMut(usize) -> Tensor<2>) {
    let mut noise = SampleNoise::<2>::new(seed, 0..count, [0, 2], &Device::flex());
    let start = noise.start().cast(DType::F64);
    (start, move |step| noise.step(step).cast(DType::F64))
}

fn none(_: usize) -> Tensor<2> {
    panic!("a deterministic sampler asked for noise")
}

#[test]
fn table() {
    let (x, _) = noise(1, 32);
    let full = |order| Multistep { order, falls_below: 0 };
    let mut all: Vec<Sampler> = Vec::new();
    for expansion in [Expansion::Published, Expansion::Taylor] {
        for order in [1, 2, 3] {
            all.push(Sampler::DpmppMultistep { multistep: full(order), expansion });
        }
    }
    all.push(Sampler::Dpmpp2s { falls_below: 0 });
    for b in [Bh::Bh1, Bh::Bh2] {
        for order in [1, 2, 3] {
            all.push(Sampler::UniPc { multistep: full(order), b });
        }
    }
    for order in [1, 2, 3] {
        all.push(Sampler::Deis { multistep: full(order) });
    }
    for start in [PndmStart::RungeKutta, PndmStart::Multistep] {
        all.push(Sampler::Pndm { start });
    }
    let fine = even(20.0, 0.1, 20_000 / 10);
    let reference = values(Sampler::Heun { churn: ddpm_infer::samplers::Churn::NONE }.run(
        &MIXTURE,
        &fine,
        x.clone(),
        &mut none,
        &mut |_| {},
    ));
    for sampler in all {
        let mut line = format!("{sampler:?}: ");
        for mixture in [false, true] {
            let mut last = f64::NAN;
            for steps in [20, 40, 80, 160] {
                let levels = even(20.0, 0.1, steps);
                let denoiser: &dyn Denoiser<2> = if mixture { &MIXTURE } else { &GAUSSIAN };
                let found = values(sampler.run(denoiser, &levels, x.clone(), &mut none, &mut |_| {}));
                let wanted =
                    if mixture { reference.clone() } else { values(GAUSSIAN.flow(&x, levels[0], levels[steps])) };
                let error = distance(&found, &wanted);
                line += &format!(" {error:.1e} ({:.2})", (last / error).log2());
                last = error;
            }
            line += " | ";
        }
        println!("{line}");
    }
}
