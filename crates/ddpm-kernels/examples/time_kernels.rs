//! Times every kernel against the composition of Burn's operations that it replaces:
//! `cargo run -p ddpm-kernels -p ddpm-train -p ddpm-infer --example time_kernels`.
//!
//! Each figure is the shortest of several runs, in milliseconds, on all cores.

use std::time::{Duration, Instant};

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Distribution, Tensor, activation};

/// Batch, channels, height and width.
const SHAPES: [[usize; 4]; 7] = [
    [128, 32, 8, 8],
    [128, 64, 8, 8],
    [128, 128, 4, 4],
    [128, 128, 2, 2],
    [8, 64, 32, 32],
    [8, 128, 16, 16],
    [1, 64, 32, 32],
];

const RUNS: usize = 15;

type Layer<'a> = &'a dyn Fn(Tensor<4>) -> Tensor<4>;

fn main() {
    println!(
        "{:<14} {:<20} {:>9} {:>9} {:>6}   {:>9} {:>9} {:>6}",
        "operation", "shape", "fwd Burn", "fwd ours", "ratio", "+bwd Burn", "+bwd ours", "ratio"
    );
    let device = Device::flex().autodiff();
    for shape in SHAPES {
        let channels = shape[1];
        let norm: GroupNorm = GroupNormConfig::new(8, channels).init(&device);
        compare("norm + SiLU", shape, &|x| activation::silu(norm.forward(x)), &|x| ddpm_kernels::norm_silu(&norm, x));
        compare("norm", shape, &|x| norm.forward(x), &|x| ddpm_kernels::group_norm(&norm, x));
        let conv3: Conv2d = Conv2dConfig::new([channels, channels], [3, 3])
            .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
            .init(&device);
        compare("conv 3x3", shape, &|x| conv3.forward(x), &|x| {
            ddpm_kernels::conv2d(&conv3, x, ddpm_kernels::Precision::F32)
        });
        let conv1: Conv2d = Conv2dConfig::new([channels, channels], [1, 1]).init(&device);
        compare("conv 1x1", shape, &|x| conv1.forward(x), &|x| {
            ddpm_kernels::conv2d(&conv1, x, ddpm_kernels::Precision::F32)
        });
    }
}

fn compare(name: &str, shape: [usize; 4], composed: Layer, fused: Layer) {
    let [composed_forward, composed_both] = shortest(shape, composed);
    let [fused_forward, fused_both] = shortest(shape, fused);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "{name:<14} {:<20} {:>9.3} {:>9.3} {:>6.2}   {:>9.3} {:>9.3} {:>6.2}",
        format!("{shape:?}"),
        ms(composed_forward),
        ms(fused_forward),
        ms(composed_forward) / ms(fused_forward),
        ms(composed_both),
        ms(fused_both),
        ms(composed_both) / ms(fused_both),
    );
}

/// The shortest times of the forward pass, with what it keeps for the gradients, and of both passes.
fn shortest(shape: [usize; 4], layer: Layer) -> [Duration; 2] {
    let device = Device::flex();
    let x = Tensor::<4>::random(shape, Distribution::Default, &device);
    let mut best = [Duration::MAX; 2];
    for _ in 0..RUNS {
        let plain = x.clone();
        let start = Instant::now();
        let y = layer(plain);
        best[0] = best[0].min(start.elapsed());

        let dy = y.inner();
        let tracked = Tensor::from_inner(x.clone()).require_grad();
        let dy = Tensor::from_inner(dy);
        let start = Instant::now();
        let gradients = (layer(tracked.clone()) * dy).sum().backward();
        best[1] = best[1].min(start.elapsed());
        drop(gradients);
    }
    best
}
