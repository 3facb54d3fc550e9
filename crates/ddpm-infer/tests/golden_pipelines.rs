//! Whole trajectories of diffusers' schedulers, over the fixtures' `pipelines` folder.
//!
//! A trajectory is what the peer's network was asked at every call, and the sample in the end. So the denoiser
//! here writes down what it is asked.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/schedulers.rs"]
mod schedulers;
#[path = "../../ddpm-model/tests/support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use ddpm_infer::samplers::{Posterior, Sampler, pndm};
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Denoised, Denoiser, time_tensor};
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::unet::UNet;
use schedulers::multistep::halved;
use schedulers::{Clipping, Coordinates, Plan, plan};
use serde_json::Value;
use support::diffusers::{load_unet, unet_config};
use support::{Safetensors, assert_close, cases, fixtures_dir, number, read_json, text, values, whole};

/// Of the final sample from its largest value, in `f64` (the fixture's README).
const TOLERANCE_F64: f64 = 1e-9;

const DENOISING: [&str; 2] = ["DDPMScheduler", "DDIMScheduler"];
const EXPLODING: [&str; 4] =
    ["EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"];

const LOOKING_BACK: [&str; 5] = [
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
];

#[test]
fn ancestral_and_implicit_sampling() {
    compare(&DENOISING);
}

#[test]
fn solvers_over_sigmas() {
    compare(&EXPLODING);
}

#[test]
fn solvers_over_past_predictions() {
    compare(&LOOKING_BACK);
}

/// A class that no test above names would be compared by nobody.
#[test]
fn no_class_of_schedulers_is_left_out() {
    let known = [&DENOISING[..], &EXPLODING, &LOOKING_BACK].concat();
    for pipeline in pipelines() {
        for case in cases(&pipeline.index, "cases") {
            assert!(known.contains(&text(case, "scheduler")), "{} {}", pipeline.id, text(case, "id"));
        }
    }
}

/// All cases of these classes, in `f32` and in `f64`.
fn compare(classes: &[&str]) {
    let mut compared = 0;
    for pipeline in pipelines() {
        let networks = pipeline.networks();
        let ours = cases(&pipeline.index, "cases").iter().filter(|case| classes.contains(&text(case, "scheduler")));
        for case in ours {
            for (network, dtype) in networks.iter().zip([DType::F32, DType::F64]) {
                pipeline.compare(case, network, dtype);
            }
            compared += 1;
        }
    }
    assert!(compared > 0, "no case of {classes:?}");
}

/// A folder with a U-Net and the trajectories of many schedulers.
struct Pipeline {
    id: String,
    folder: PathBuf,
    index: Value,
    noise: Safetensors,
}

fn pipelines() -> Vec<Pipeline> {
    let root = fixtures_dir().join("pipelines");
    let index = read_json(root.join("index.json"));
    let open = |entry: &Value| {
        let folder = root.join(text(entry, "folder"));
        let index = read_json(folder.join("cases.json"));
        let noise = Safetensors::open(folder.join(text(&index, "noise_file")));
        Pipeline { id: text(entry, "id").to_string(), folder, index, noise }
    };
    cases(&index, "pipelines").iter().map(open).collect()
}

impl Pipeline {
    /// The U-Net in `f32` and in `f64`.
    fn networks(&self) -> [UNet; 2] {
        let folder = self.folder.join("unet");
        let config = unet_config(&read_json(folder.join("config.json")));
        let weights = folder.join("diffusion_pytorch_model.safetensors");
        let (network, _) = load_unet(&config, &weights, &Device::flex());
        [network.clone(), network.map(&mut IntoF64)]
    }

    fn compare(&self, case: &Value, network: &UNet, dtype: DType) {
        let what = format!("{} {} ({dtype:?})", self.id, text(case, "id"));
        let folder = self.folder.join("cases").join(text(case, "id"));
        let config = read_python_json(&folder.join("scheduler_config.json"));
        assert_eq!(text(&config, "_class_name"), text(case, "scheduler"), "{what}");
        let wanted = Safetensors::open(folder.join("trajectory.safetensors"));
        let plan = plan(text(&config, "_class_name"), &config, case);

        let found = self.trajectory(&plan, network, dtype);
        let calls = whole(case, "steps_run");
        assert_eq!(found.asked.len(), calls, "{what}: calls of the network");
        let slack = 1e-6 + number(case, "timestep_f32_vs_f64");
        assert_close(&found.times, &wanted.f64("timesteps"), slack, &format!("{what}: times"));

        let trajectory = wanted.f64("trajectory");
        let size = trajectory.len() / (calls + 1);
        let share = number(case, "tol_over_scale_f32");
        for (step, x) in found.asked.iter().chain([&found.end]).enumerate() {
            let wanted = &trajectory[step * size..(step + 1) * size];
            assert_close(x, wanted, share * largest(wanted), &format!("{what}: entry {step}"));
        }
        if dtype == DType::F64 {
            let wanted = wanted.f64("final_f64");
            assert_close(&found.end, &wanted, TOLERANCE_F64 * largest(&wanted), &format!("{what}: end"));
        }
    }

    fn trajectory(&self, plan: &Plan, network: &UNet, dtype: DType) -> Trajectory {
        let device = Device::flex();
        let denoiser = Peer { plan, network, seen: RefCell::default() };
        let step_noise: Tensor<5> = self.noise.tensor("step_noise", &device, dtype);
        let first = plan.walks[0][0];
        let scale = match plan.coordinates {
            Coordinates::Preserving => 1.0,
            Coordinates::Exploding => first.alpha,
        };
        let mut x: Tensor<4> = self.noise.tensor::<4>("x_T", &device, dtype) * (plan.start * scale);
        let mut steps_done = 0;
        for levels in &plan.walks {
            let mut noise = |step: usize| step_noise.clone().narrow(0, steps_done + step, 1).squeeze_dim::<4>(0);
            x = match plan.sampler {
                // Our own half-way level is none of the peer's steps.
                Sampler::Pndm { start } => {
                    let middle = |s, t| halved(&plan.diffusion.schedule, s, t);
                    pndm(&denoiser, levels, x, start, &middle, &mut |_| {})
                }
                sampler => sampler.run(&denoiser, levels, x, &mut noise, &mut |_| {}),
            };
            steps_done += levels.len() - 1;
        }
        let (times, asked) = denoiser.seen.into_inner().into_iter().unzip();
        Trajectory { asked, times, end: values(x) }
    }
}

struct Trajectory {
    /// What the network was asked, in the coordinates of the fixture, and at which times.
    asked: Vec<Vec<f64>>,
    times: Vec<f64>,
    end: Vec<f64>,
}

/// The network as the peer's scheduler reads it.
struct Peer<'a> {
    plan: &'a Plan,
    network: &'a UNet,
    seen: RefCell<Vec<(f64, Vec<f64>)>>,
}

impl Denoiser<4> for Peer<'_> {
    fn denoise(&self, x_t: &Tensor<4>, level: NoiseLevel) -> Denoised<4> {
        let time = self.plan.time(level);
        let scale = match self.plan.coordinates {
            Coordinates::Preserving => 1.0,
            Coordinates::Exploding => level.alpha,
        };
        self.seen.borrow_mut().push((time, values(x_t.clone() / scale)));
        let times = time_tensor(&vec![time; x_t.dims()[0]], x_t);
        let output = self.network.forward(x_t.clone(), times, &Condition::None);
        let denoised = self.plan.diffusion.denoised(output, x_t, level);
        let clipped = denoised.x_0.clone().clamp(-1.0, 1.0);
        let x_0 = match self.plan.clipping {
            Clipping::None => denoised.x_0,
            Clipping::Unit => clipped,
            Clipping::UnitKeepingEps { eta } => {
                // The x_0 with which DDIM's step, whose eps follows from x_0, ends where the peer's does.
                let next = self.plan.next(level);
                let variance = eta.powi(2) * Posterior::between(level, next).variance;
                let direction = (next.sigma.powi(2) - variance).max(0.0).sqrt();
                let k = direction * level.alpha / level.sigma;
                (clipped * next.alpha - denoised.x_0 * k) / (next.alpha - k)
            }
        };
        Denoised { x_0, ..denoised }
    }
}

struct IntoF64;

impl ModuleMapper for IntoF64 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.cast(DType::F64))
    }
}

/// JSON in which Python has written an infinity, which JSON does not have.
fn read_python_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let text = text.replace("-Infinity", "null").replace("Infinity", "null");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, value| value.abs().max(max))
}
