//! Times the convolutions of Inception with their rectifier, and its pools, against Burn's own:
//! `cargo run -p ddpm-kernels -p ddpm-train -p ddpm-infer --example time_inference`.
//!
//! Each figure is the mean of many runs on one thread: milliseconds an image, and for convolutions GFLOP/s.

use std::time::{Duration, Instant};

use burn::nn::PaddingConfig2d::Explicit;
use burn::nn::conv::Conv2dConfig;
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::tensor::{Device, Distribution, Tensor, activation};

/// Channels in and out, side of the input, kernel, stride, padding.
type Layer = ([usize; 2], usize, [usize; 2], usize, [usize; 2]);

const LAYERS: [Layer; 12] = [
    ([3, 32], 299, [3, 3], 2, [0, 0]),
    ([32, 32], 149, [3, 3], 1, [0, 0]),
    ([32, 64], 147, [3, 3], 1, [1, 1]),
    ([64, 80], 73, [1, 1], 1, [0, 0]),
    ([80, 192], 73, [3, 3], 1, [0, 0]),
    ([48, 64], 35, [5, 5], 1, [2, 2]),
    ([96, 96], 35, [3, 3], 1, [1, 1]),
    ([288, 384], 35, [3, 3], 2, [0, 0]),
    ([768, 192], 17, [1, 1], 1, [0, 0]),
    ([160, 160], 17, [1, 7], 1, [0, 3]),
    ([160, 160], 17, [7, 1], 1, [3, 0]),
    ([384, 384], 8, [1, 3], 1, [0, 1]),
];

const RUNS: u32 = 60;

/// Images of this side that are worked on together: so few that a run is short beside what else the machine does.
fn images(side: usize) -> usize {
    (3000 / (side * side)).clamp(1, 8)
}

fn main() {
    let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(1).build() else { return };
    pool.install(all);
}

fn all() {
    let device = Device::flex();
    for (channels, side, kernel, stride, [rows, columns]) in LAYERS {
        let config = Conv2dConfig::new(channels, kernel).with_stride([stride; 2]);
        let conv = config.with_padding(Explicit(rows, columns, rows, columns)).init(&device);
        let x = Tensor::<4>::random([images(side), channels[0], side, side], Distribution::Default, &device);
        let pixels: usize = conv.forward(x.clone()).dims()[2..].iter().product();
        let flops = 2 * pixels * channels[0] * channels[1] * kernel[0] * kernel[1];
        let burn = time(&|| activation::relu(conv.forward(x.clone())));
        let ours = time(&|| ddpm_kernels::conv2d_relu(&conv, x.clone()));
        let rate = |time: Duration| flops as f64 / per_image(time, side) / 1e6;
        println!(
            "{channels:?} {kernel:?} stride {stride} on {side}: Burn {:.2} ms {:.0} GFLOP/s, ours {:.2} ms {:.0} GFLOP/s",
            per_image(burn, side),
            rate(burn),
            per_image(ours, side),
            rate(ours)
        );
    }
    let x = |channels: usize, side: usize| {
        Tensor::<4>::random([images(side), channels, side, side], Distribution::Default, &device)
    };
    let (stem, middle) = (x(64, 147), x(768, 17));
    let max = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).init();
    let mean = AvgPool2dConfig::new([3, 3]).with_strides([1, 1]).with_padding(Explicit(1, 1, 1, 1));
    let mean = mean.with_count_include_pad(false).init();
    let show = |name: &str, side: usize, burn: Duration, ours: Duration| {
        println!("{name}: Burn {:.2} ms, ours {:.2} ms", per_image(burn, side), per_image(ours, side));
    };
    let burn = time(&|| max.forward(stem.clone()));
    show("largest of 64 x 147", 147, burn, time(&|| ddpm_kernels::max_pool2d(&max, stem.clone())));
    let burn = time(&|| mean.forward(middle.clone()));
    show("mean of 768 x 17", 17, burn, time(&|| ddpm_kernels::avg_pool2d(&mean, middle.clone())));
}

/// Milliseconds.
fn per_image(time: Duration, side: usize) -> f64 {
    time.as_secs_f64() * 1e3 / images(side) as f64
}

/// Time of this thread, without that of others, where the system says so.
fn on_processor() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

/// The mean over the runs.
fn time(work: &dyn Fn() -> Tensor<4>) -> Duration {
    let (clock, processor) = (Instant::now(), on_processor());
    for _ in 0..RUNS {
        drop(work());
    }
    let (clock, processor) = (clock.elapsed(), processor.zip(on_processor()));
    processor.map_or(clock, |(before, after)| after - before) / RUNS
}
