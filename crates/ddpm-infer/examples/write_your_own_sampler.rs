//! Writes a sampler and compares it with a built-in one.
//!
//! `cargo run -p ddpm-infer --example write_your_own_sampler -- PATH`, where PATH is a snapshot of images.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use ddpm_infer::prelude::*;

/// DDIM without noise, eq. 12 of Song et al. 2021. A sampler is a function of a denoiser, of the noise levels that it
/// visits, from the noisiest to the clean one, and of x at the first of them. It does not know what the network predicts,
/// nor how many steps it was trained with.
fn my_ddim<const D: usize>(denoiser: &dyn Denoiser<D>, levels: &[NoiseLevel], mut x: Tensor<D>) -> Tensor<D> {
    for pair in levels.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        // x = alpha x_0 + sigma eps: the estimate of x_0 fixes that of eps, and both are kept through the step.
        let denoised = denoiser.denoise(&x, from);
        let eps = denoised.eps(&x, from);
        x = denoised.x_0 * to.alpha + eps * to.sigma;
    }
    x
}

// Where another file includes this one, nothing calls it.
#[allow(dead_code)]
fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1);
    let Some(path) = path else { anyhow::bail!("expected a snapshot of images") };
    println!("largest difference to the built-in ddim: {}", run(Path::new(&path))?);
    Ok(())
}

/// The largest difference of our samples to those of the built-in sampler.
pub fn run(path: &Path) -> anyhow::Result<f32> {
    let device = Device::default();
    let snapshot = Snapshot::load(path, &device)?;
    let diffusion = snapshot.config.diffusion.init()?;
    let [channels, height, width] = snapshot.config.data.shape[..] else {
        anyhow::bail!("{}: expected a snapshot of images", path.display());
    };

    // A denoiser is the network under one condition, here none: the null class of a network that has classes.
    let network = |x_t: Tensor<4>, t: Tensor<1>| {
        let condition = snapshot
            .network
            .null_class()
            .map_or(Condition::None, |class| Condition::Class(Tensor::full([x_t.dims()[0]], class as i64, &device)));
        snapshot.network.forward(x_t, t, &condition)
    };
    let denoiser = NetworkDenoiser::new(network, &diffusion, Estimate::Unused);

    // Samplers clip nothing by themselves; what a network of noise says at the noisiest levels is far off otherwise.
    let denoiser = ddpm_sampling::samplers::Clipped { inner: &denoiser, clip: Clip::Unit };

    let levels = LevelSchedule::default().levels(10, &diffusion)?;
    let mut noise = SampleNoise::new(7, 0..4, [4, channels, height, width], &device);
    let ours = my_ddim(&denoiser, &levels, noise.start());
    let start = noise.start();
    let theirs = Sampler::Ddim { eta: 0.0 }.run(&denoiser, &levels, start, &mut noise, &mut |_| {});
    Ok((ours - theirs).abs().max().into_scalar::<f32>())
}
