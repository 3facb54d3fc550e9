//! Times the kernels for GPUs against the compositions of Burn's operations that they replace, on the default device:
//! `cargo run -p ddpm-kernels -p ddpm-infer --features wgpu --example time_cube`.
//!
//! Each figure is the median of several runs, in milliseconds, until the device has done its work. Burn's fusion is off, as
//! in the programs; the word `fusion` turns it on.

use std::time::{Duration, Instant};

use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Distribution, Tensor, activation};
use ddpm_kernels::weights::{AdamStep, adam, blend};
use ddpm_kernels::{norm_scale_shift_silu, norm_silu};

/// Batch, channels, height and width.
const SHAPES: [[usize; 4]; 4] = [[8, 64, 32, 32], [8, 128, 16, 16], [8, 128, 8, 8], [1, 64, 64, 64]];

/// Weights of a parameter.
const WEIGHTS: [[usize; 2]; 2] = [[128, 1152], [1024, 2304]];

const RUNS: usize = 9;

fn main() {
    if !std::env::args().any(|word| word == "fusion") {
        for name in burn_cubecl::fusion::BUILTIN_NAMES {
            // No device is open yet, so that there is no error.
            let _ = burn_cubecl::fusion::remove(name);
        }
    }
    let device = Device::default();
    println!("{device:?}");
    println!("{:<34} {:<20} {:>9} {:>9} {:>6}", "operation", "shape", "Burn", "ours", "ratio");
    for shape in SHAPES {
        norms(shape, &device);
    }
    for shape in WEIGHTS {
        weights(shape, &device);
    }
}

fn norms(shape: [usize; 4], device: &Device) {
    let [batch, channels, _, _] = shape;
    let tracked = device.clone().autodiff();
    let norm: GroupNorm = GroupNormConfig::new(32, channels).init(device);
    let trained: GroupNorm = GroupNormConfig::new(32, channels).init(&tracked);
    let noise = Distribution::Normal(0.0, 1.0);
    let x = Tensor::<4>::random(shape, noise, device);
    let time = Tensor::<2>::random([batch, 2 * channels], noise, device);
    type Composed = fn(&GroupNorm, Tensor<4>, Tensor<2>) -> Tensor<4>;
    let pairs: [(&str, Composed, Composed); 2] = [
        ("norm + SiLU", |norm, x, _| activation::silu(norm.forward(x)), |norm, x, _| norm_silu(norm, x)),
        (
            "norm, scale, shift + SiLU",
            |norm, x, time| {
                let [batch, outputs] = time.dims();
                let time = time.reshape([batch, outputs, 1, 1]);
                let [scale, shift] = [0, 1].map(|half| time.clone().narrow(1, half * (outputs / 2), outputs / 2));
                activation::silu(norm.forward(x) * (scale + 1.0) + shift)
            },
            norm_scale_shift_silu,
        ),
    ];
    for (name, composed, fused) in pairs {
        let forward = |layer: Composed| median(device, || layer(&norm, x.clone(), time.clone()));
        tell(name, &shape, [forward(composed), forward(fused)]);
        let both = |layer: Composed| {
            median(device, || {
                let x = Tensor::from_inner(x.clone()).require_grad();
                let y = layer(&trained, x.clone(), Tensor::from_inner(time.clone()).require_grad());
                let gradients = y.sum().backward();
                x.grad(&gradients)
            })
        };
        tell(&format!("{name}, and gradients"), &shape, [both(composed), both(fused)]);
    }
}

fn weights(shape: [usize; 2], device: &Device) {
    let noise = Distribution::Normal(0.0, 1.0);
    let [weight, gradient] = [0, 1].map(|_| Tensor::<2>::random(shape, noise, device));
    let zeros = || Tensor::<2>::zeros(shape, device);
    let step = AdamStep { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, rate: 1e-3, time: 10 };
    let mut state = Some((weight.clone(), [zeros(), zeros()]));
    let ours = median(device, || {
        let (weight, moments) = state.take()?;
        state = Some(adam(weight, gradient.clone(), moments, &step));
        Some(())
    });
    let mut state = Some((weight.clone(), [zeros(), zeros()]));
    let burns = median(device, || {
        let (weight, [first, second]) = state.take()?;
        let first = first * 0.9 + gradient.clone() * 0.1;
        let second = second * 0.999 + gradient.clone().square() * 0.001;
        let direction = first.clone() * 0.15 / (second.clone().sqrt() + 1e-8);
        state = Some((weight - direction * 1e-3, [first, second]));
        Some(())
    });
    tell("Adam", &shape, [burns, ours]);

    let mut average = Some(weight.clone());
    let ours = median(device, || {
        average = Some(blend(average.take()?, weight.clone(), 0.999));
        Some(())
    });
    let mut average = Some(weight.clone());
    let burns = median(device, || {
        average = Some(average.take()? * 0.999 + weight.clone() * 0.001);
        Some(())
    });
    tell("average", &shape, [burns, ours]);
}

/// The first runs, which compile, do not count.
fn median<R>(device: &Device, mut run: impl FnMut() -> R) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS + 2)
        .map(|_| {
            let start = Instant::now();
            let result = run();
            if let Err(error) = device.sync() {
                eprintln!("the device failed: {error}");
            }
            drop(result);
            start.elapsed()
        })
        .skip(2)
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn tell(name: &str, shape: &[usize], [burns, ours]: [Duration; 2]) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (shape, ratio) = (format!("{shape:?}"), ms(burns) / ms(ours));
    println!("{name:<34} {shape:<20} {:>9.3} {:>9.3} {ratio:>6.2}", ms(burns), ms(ours));
}
