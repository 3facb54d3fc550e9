//! Samples a trained model from your own program, in one expression and then with a change of mind.
//!
//! `cargo run -p ddpm-infer --example sample_snapshot -- PATH OUT`, where PATH is a run, a snapshot or a folder of diffusers.

use std::path::Path;

use ddpm_infer::prelude::*;

// Where another file includes this one, nothing calls it.
#[allow(dead_code)]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, out] = &arguments[..] else { anyhow::bail!("expected a snapshot, and a folder for the samples") };
    run(Path::new(path), Path::new(out))
}

/// Writes `samples.png`, `samples.npy` and `ddim.png` into the folder `out`.
pub fn run(path: &Path, out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out)?;

    // Sampler and steps are those that suit the model, as `ddpm-infer sample` would choose them.
    let pipeline = Pipeline::open(path)?.seed(7);
    let samples = pipeline.sample(4)?;
    samples.save_png(out.join("samples.png"))?;
    samples.save_npy(out.join("samples.npy"))?;

    // All values lie in one vector, sample after sample.
    println!("{:?}: {} samples of shape {:?}", pipeline.path(), samples.count(), samples.shape);

    // The same noise by another sampler: the weights are read and on their device already.
    let pipeline = pipeline.sampler("ddim").steps(5).eta(0.5);
    pipeline.sample(4)?.save_png(out.join("ddim.png"))?;
    Ok(())
}
