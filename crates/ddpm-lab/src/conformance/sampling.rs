//! Samples from the same noise on every device.

use std::path::Path;

use anyhow::Context;
use burn::tensor::Device;
use ddpm_families::snapshot::{Snapshot, trained};
use ddpm_sampling::job::SamplingJob;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};

use super::check::{Group, off_by, tolerance};
use super::networks::read_json;

/// Noise on the way, none, a method of two stages and one that remembers.
const SAMPLERS: [&str; 4] = ["ddpm", "ddim", "heun", "dpmpp-2m"];
const STEPS: usize = 10;

/// The pipelines among the fixtures, sampled from on both devices.
pub fn check(fixtures: &Path, device: &Device, flex: &Device) -> anyhow::Result<Group> {
    let mut group = Group::new("samples", tolerance::SAMPLE);
    let root = fixtures.join("pipelines");
    let index = read_json(&root.join("index.json"))?;
    let folders = index["pipelines"].as_array().context("pipelines/index.json lists no pipelines")?;
    for folder in folders.iter().filter_map(|pipeline| pipeline["folder"].as_str()) {
        group.attempt(folder, || {
            let path = root.join(folder);
            let (wanted, found) = (samples(&path, flex)?, samples(&path, device)?);
            Ok(SAMPLERS
                .iter()
                .zip(wanted.iter().zip(&found))
                .map(|(sampler, (wanted, found))| (format!("{sampler} in {STEPS} steps"), off_by(found, wanted)))
                .collect())
        });
    }
    Ok(group)
}

/// Four samples by each sampler.
fn samples(path: &Path, device: &Device) -> anyhow::Result<Vec<Vec<f64>>> {
    let snapshot = Snapshot::load(path, device)?;
    let diffusion = snapshot.config.diffusion.init()?;
    let model = trained(&snapshot, &diffusion);
    let options = SamplerOptions { variance: diffusion.variance(), ..SamplerOptions::default() };
    let of = |name: &&str| {
        let sampler = Sampler::new(name, options.clone())?;
        let job =
            SamplingJob { count: 4, seed: 7, batch_size: 4, steps: Some(STEPS), ..SamplingJob::new(sampler, &model) };
        let samples = job.run(&model, device, &mut |_| {})?;
        Ok::<Vec<f64>, anyhow::Error>(samples.values.into_iter().map(f64::from).collect())
    };
    SAMPLERS.iter().map(of).collect()
}
