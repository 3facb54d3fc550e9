//! The samplers against improved-diffusion, over the fixtures' `gaussian` folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device, Tensor};
use ddpm_model::denoiser::DiscreteDenoiser;
use ddpm_model::gaussian::{Clip, GaussianDiffusion};
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{Schedule, ScheduleConfig, spaced_steps};
use ddpm_model::variance::Variance;
use ddpm_sampling::samplers::{Clipped, NoiseSource, Sampler, Step};
use ddpm_sampling::steps::{Spacing, levels};
use ddpm_testing::support;
use serde_json::Value;
use support::{
    DummyModel, Safetensors, assert_close, cases, fixtures_dir, number, numbers, read_json, text, values, whole,
    whole_numbers,
};

const CLEAN: NoiseLevel = NoiseLevel { alpha: 1.0, sigma: 0.0 };
const NOISE: NoiseLevel = NoiseLevel { alpha: 0.0, sigma: 1.0 };

struct Golden {
    json: Value,
    inputs: Safetensors,
    expected: Safetensors,
    dtype: DType,
    device: Device,
}

impl Golden {
    fn both() -> [Self; 2] {
        let folder = fixtures_dir().join("gaussian");
        [("expected_f32.safetensors", DType::F32), ("expected_f64.safetensors", DType::F64)].map(|(file, dtype)| Self {
            json: read_json(folder.join("cases.json")),
            inputs: Safetensors::open(folder.join("inputs.safetensors")),
            expected: Safetensors::open(folder.join(file)),
            dtype,
            device: Device::flex(),
        })
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.inputs.tensor(name, &self.device, self.dtype)
    }

    fn assert(&self, name: &str, found: &[f64]) {
        let wanted = self.expected.f64(name);
        let tolerance = match self.dtype {
            DType::F32 => number(&self.json["f32_vs_f64"][name], "tol_abs_f32"),
            _ => 1e-10 * wanted.iter().fold(0.0, |max: f64, value| max.max(value.abs())),
        };
        assert_close(found, &wanted, tolerance, &format!("{name} ({:?})", self.dtype));
    }

    /// All of the lists' combinations: mean type, variance type, clip key and its meaning.
    fn combinations(&self) -> Vec<(String, String, String, Clip)> {
        let mut all = Vec::new();
        for mean in cases(&self.json, "mean_types") {
            for variance in cases(&self.json, "var_types") {
                for (key, clip) in self.json["clip_keys"].as_object().unwrap() {
                    let clip = if clip.as_bool().unwrap() { Clip::Unit } else { Clip::None };
                    let owned = |value: &Value| value.as_str().unwrap().to_string();
                    all.push((owned(mean), owned(variance), key.clone(), clip));
                }
            }
        }
        all
    }

    /// One step for every row, each from its own level to its own next one.
    fn steps(
        &self,
        (mean, variance): (&str, &str),
        clip: Clip,
        sampler: Sampler,
        next: impl Fn(&Schedule, usize) -> NoiseLevel,
    ) -> Vec<f64> {
        let config = &self.json["config"];
        let schedule = schedule(&config["schedule"]);
        let model = dummy(config, mean, variance, schedule.len() as f64);
        let diffusion = GaussianDiffusion::new(schedule, prediction_of(mean), variance_of(variance));
        let network = |x: Tensor<4>, t: Tensor<1>| model.forward(x, t);
        let denoiser = DiscreteDenoiser::new(network, &diffusion);
        let denoiser = Clipped { inner: &denoiser, clip };
        let (x_t, noise) = (self.input::<4>("x_t"), self.input::<4>("step_noise"));
        let rows = self.inputs.i64("t").into_iter().enumerate();
        rows.flat_map(|(row, t)| {
            let t = t as usize;
            let levels = [diffusion.schedule.level(t), next(&diffusion.schedule, t)];
            let mut noise = |_| noise.clone().narrow(0, row, 1);
            values(run(sampler, &denoiser, &levels, x_t.clone().narrow(0, row, 1), &mut noise, &mut |_| {}))
        })
        .collect()
    }
}

fn run<const D: usize>(
    sampler: Sampler,
    denoiser: &Clipped<'_, D>,
    levels: &[NoiseLevel],
    x: Tensor<D>,
    noise: &mut dyn NoiseSource<D>,
    on_step: &mut dyn FnMut(Step<'_, D>),
) -> Tensor<D> {
    sampler.run(denoiser, levels, x, noise, on_step)
}

fn schedule(json: &Value) -> Schedule {
    let steps = whole(json, "T");
    let config = match text(json, "kind") {
        "linear" => {
            ScheduleConfig::Linear { steps, beta_start: number(json, "beta_start"), beta_end: number(json, "beta_end") }
        }
        "linear_rescaled" => ScheduleConfig::LinearRescaled { steps },
        "cosine" => ScheduleConfig::Cosine { steps, s: 0.008, max_beta: 0.999 },
        other => panic!("unknown schedule {other}"),
    };
    config.init().unwrap()
}

fn dummy(config: &Value, mean: &str, variance: &str, steps: f64) -> DummyModel {
    DummyModel::from_json(&config["model"], mean, variance == "learned_range", steps)
}

fn prediction_of(mean: &str) -> Prediction {
    match mean {
        "eps" => Prediction::Eps,
        "x0" => Prediction::X0,
        "prev_x" => Prediction::PosteriorMean,
        other => panic!("unknown mean type {other}"),
    }
}

fn variance_of(variance: &str) -> Variance {
    match variance {
        "fixed_small" => Variance::FixedSmall,
        "fixed_large" => Variance::FixedLarge,
        "learned_range" => Variance::Learned,
        other => panic!("unknown variance type {other}"),
    }
}

/// An eta as Python writes it in a name.
fn eta_key(eta: f64) -> String {
    format!("eta{eta:?}")
}

fn cleaner(schedule: &Schedule, t: usize) -> NoiseLevel {
    if t == 0 { CLEAN } else { schedule.level(t - 1) }
}

fn noisier(schedule: &Schedule, t: usize) -> NoiseLevel {
    if t + 1 == schedule.len() { NOISE } else { schedule.level(t + 1) }
}

#[test]
fn p_sample() {
    for golden in Golden::both() {
        for (mean, variance, key, clip) in golden.combinations() {
            // The peer takes a predicted posterior mean at its word and clips only the x_0 that it reports.
            let clip = if mean == "prev_x" { Clip::None } else { clip };
            let sampler = Sampler::Ddpm { variance: variance_of(&variance) };
            let found = golden.steps((&mean, &variance), clip, sampler, cleaner);
            golden.assert(&format!("{mean}.{variance}.p_sample.{key}"), &found);
        }
    }
}

#[test]
fn ddim_sample() {
    for golden in Golden::both() {
        for eta in numbers(&golden.json["config"]["etas"]) {
            for (mean, variance, key, clip) in golden.combinations() {
                let found = golden.steps((&mean, &variance), clip, Sampler::Ddim { eta }, cleaner);
                golden.assert(&format!("{mean}.{variance}.ddim_sample.{}.{key}", eta_key(eta)), &found);
            }
        }
    }
}

#[test]
fn ddim_reverse_sample() {
    for golden in Golden::both() {
        for (mean, variance, key, clip) in golden.combinations() {
            let found = golden.steps((&mean, &variance), clip, Sampler::Ddim { eta: 0.0 }, noisier);
            golden.assert(&format!("{mean}.{variance}.ddim_reverse_sample.{key}"), &found);
        }
    }
}

/// Every x from pure noise to the end.
fn spaced_loop(golden: &Golden, variance: &str, clip: Clip, sampler: Sampler) -> Vec<f64> {
    let config = &golden.json["config"];
    let schedule = schedule(&config["spaced"]["schedule"]);
    // The peer tells the model its step on a scale of 1000, whatever the length of the schedule.
    let scale = 1000.0 / schedule.len() as f64;
    let model = dummy(config, "eps", variance, 1000.0);
    let diffusion = GaussianDiffusion::new(schedule, Prediction::Eps, variance_of(variance));
    let network = |x: Tensor<4>, t: Tensor<1>| model.forward(x, t * scale);
    let denoiser = DiscreteDenoiser::new(network, &diffusion);

    let kept: Vec<usize> = whole_numbers(&golden.json["spaced_timesteps"]).into_iter().rev().collect();
    let (start, noise) = (golden.input::<4>("spaced.x_T"), golden.input::<5>("spaced.noise"));
    let mut found = values(start.clone());
    run(
        sampler,
        &Clipped { inner: &denoiser, clip },
        &levels(&diffusion.schedule, &kept),
        start,
        &mut |step| noise.clone().narrow(0, step, 1).squeeze_dim::<4>(0),
        &mut |step| found.extend(values(step.x.clone())),
    );
    found
}

/// The peer's loops clip unless told otherwise.
const LOOP_CLIP: Clip = Clip::Unit;

#[test]
fn spaced_p_sample_loop() {
    for golden in Golden::both() {
        for variance in cases(&golden.json, "var_types").iter().map(|v| v.as_str().unwrap()) {
            let sampler = Sampler::Ddpm { variance: variance_of(variance) };
            let found = spaced_loop(&golden, variance, LOOP_CLIP, sampler);
            golden.assert(&format!("spaced.p_sample_loop.{variance}"), &found);
        }
    }
}

#[test]
fn spaced_ddim_sample_loop() {
    for golden in Golden::both() {
        for eta in numbers(&golden.json["config"]["etas"]) {
            for variance in cases(&golden.json, "var_types").iter().map(|v| v.as_str().unwrap()) {
                let found = spaced_loop(&golden, variance, LOOP_CLIP, Sampler::Ddim { eta });
                golden.assert(&format!("spaced.ddim_sample_loop.{}.{variance}", eta_key(eta)), &found);
            }
        }
    }
}

#[test]
fn kept_steps() {
    let golden = &Golden::both()[1];
    let spaced = &golden.json["config"]["spaced"];
    let (spec, available) = (text(spaced, "spec"), whole(&spaced["schedule"], "T"));
    let kept = whole_numbers(&golden.json["spaced_timesteps"]);
    assert_eq!(spaced_steps(spec, available).unwrap(), kept);
    if spec.starts_with("ddim") {
        let found = Spacing::Stride.choose(kept.len(), available).unwrap();
        assert_eq!(found, kept.into_iter().rev().collect::<Vec<_>>());
    }
}
