#![allow(clippy::all, missing_docs, dead_code, unused)]
#[path = "../../ddpm-model/tests/support/mod.rs"]
mod support;
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_infer::samplers::*;
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::*;
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::gaussian::*;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::*;
use ddpm_model::schedule::*;
use ddpm_model::unet::*;
use ddpm_model::variance::Variance;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use support::*;

struct Plan {
    times: Vec<f64>,
    levels: Vec<NoiseLevel>,
    sampler: Sampler,
    middle_ahead: usize,
}

fn plan(c: &Value, n: usize, schedule: &Schedule) -> Plan {
    let big = schedule.len();
    let class = text(c, "_class_name");
    let table = |t: usize| schedule.level(t);
    let clean = NoiseLevel { alpha: 1.0, sigma: 0.0 };
    let falls = |rule: usize| if c["lower_order_final"].as_bool().unwrap_or(true) { rule } else { 0 };
    let mut order = c["solver_order"].as_u64().unwrap_or(2) as usize;
    if class == "PNDMScheduler" {
        let stride = big / n;
        let times: Vec<usize> = (0..n).rev().map(|i| i * stride).collect();
        let last = if c["set_alpha_to_one"].as_bool().unwrap() { clean } else { table(0) };
        let levels = times.iter().map(|t| table(*t)).chain([last]).collect();
        let start = if c["skip_prk_steps"].as_bool().unwrap() { PndmStart::Multistep } else { PndmStart::RungeKutta };
        return Plan {
            times: times.iter().map(|t| *t as f64).collect(),
            levels,
            sampler: Sampler::Pndm { start },
            middle_ahead: stride / 2,
        };
    }
    let spacing = c["timestep_spacing"].as_str().unwrap_or("linspace");
    let mut times: Vec<f64> = match spacing {
        "linspace" => (1..=n).rev().map(|i| (i as f64 * (big - 1) as f64 / n as f64).round_ties_even()).collect(),
        "leading" => (1..=n).rev().map(|i| (i * (big / (n + 1))) as f64).collect(),
        _ => todo!(),
    };
    let mut levels: Vec<NoiseLevel> = times.iter().map(|t| table(*t as usize)).collect();
    if c["use_karras_sigmas"].as_bool().unwrap() {
        let sigmas = ddpm_infer::levels::karras(n, ratio(table(big - 1)), ratio(table(0)), 7.0);
        levels = sigmas.iter().map(|s| level_at(*s)).collect();
        times = levels.iter().map(|l| schedule.time_of(*l).round()).collect();
    }
    levels.push(if c["final_sigmas_type"].as_str().unwrap_or("sigma_min") == "zero" { clean } else { table(0) });
    let sampler = match class {
        "DPMSolverMultistepScheduler" => Sampler::DpmppMultistep {
            multistep: Multistep { order, falls_below: falls(15) },
            expansion: Expansion::Published,
        },
        "DPMSolverSinglestepScheduler" => Sampler::Dpmpp2s { falls_below: falls(usize::MAX) },
        "DEISMultistepScheduler" => Sampler::Deis { multistep: Multistep { order, falls_below: falls(15) } },
        "UniPCMultistepScheduler" => Sampler::UniPc {
            multistep: Multistep { order, falls_below: falls(usize::MAX) },
            b: if text(c, "solver_type") == "bh1" { Bh::Bh1 } else { Bh::Bh2 },
        },
        other => panic!("{other}"),
    };
    Plan { times, levels, sampler, middle_ahead: 0 }
}

struct Recorder<'a> {
    network: &'a UNet,
    diffusion: &'a GaussianDiffusion,
    times: Vec<f64>,
    inputs: RefCell<Vec<Vec<f64>>>,
}
impl Denoiser<4> for Recorder<'_> {
    fn denoise(&self, x: &Tensor<4>, level: NoiseLevel) -> Denoised<4> {
        let k = self.inputs.borrow().len();
        self.inputs.borrow_mut().push(values(x.clone()));
        let t = Tensor::<1>::from_data(
            TensorData::new(vec![self.times[k]; x.dims()[0]], [x.dims()[0]]),
            (&x.device(), DType::F32),
        );
        let out = self.network.forward(x.clone(), t, &Condition::None);
        self.diffusion.denoised(out, x, level)
    }
}

#[test]
fn trajectories() {
    let root = fixtures_dir().join("pipelines");
    let device = Device::flex();
    for p in ["p0", "p1"] {
        let folder = root.join(p);
        let cfg = support::diffusers::unet_config(&read_json(folder.join("unet/config.json")));
        let file = folder.join("unet/diffusion_pytorch_model.safetensors");
        let (net, _) = support::diffusers::load_unet(&cfg, &file, &device);
        let all = read_json(folder.join("cases.json"));
        let noise = Safetensors::open(folder.join("noise.safetensors"));
        for case in cases(&all, "cases") {
            let id = text(case, "id");
            if !["pndm", "dpmpp", "unipc", "deis"].iter().any(|n| id.starts_with(n)) {
                continue;
            }
            let dir = folder.join("cases").join(id);
            let raw = std::fs::read_to_string(dir.join("scheduler_config.json")).unwrap().replace("-Infinity", "null");
            let c: Value = serde_json::from_str(&raw).unwrap();
            let steps = whole(&c, "num_train_timesteps");
            let schedule = match text(&c, "beta_schedule") {
                "linear" => ScheduleConfig::Linear {
                    steps,
                    beta_start: number(&c, "beta_start"),
                    beta_end: number(&c, "beta_end"),
                },
                "scaled_linear" => ScheduleConfig::Quadratic {
                    steps,
                    beta_start: number(&c, "beta_start"),
                    beta_end: number(&c, "beta_end"),
                },
                _ => ScheduleConfig::Cosine { steps, s: 0.008, max_beta: 0.999 },
            }
            .init()
            .unwrap();
            let prediction = if text(&c, "prediction_type") == "epsilon" { Prediction::Eps } else { Prediction::V };
            let n = whole(case, "num_inference_steps");
            let plan = plan(&c, n, &schedule);
            let variance = if cfg.out_channels > cfg.in_channels { Variance::Learned } else { Variance::FixedSmall };
            let diffusion = GaussianDiffusion::new(schedule, prediction, variance);
            let times = numbers(&case["timesteps"]);
            if plan.middle_ahead == 0 {
                assert_eq!(times, plan.times, "{id}");
            }
            let rec = Recorder { network: &net, diffusion: &diffusion, times, inputs: RefCell::new(Vec::new()) };
            let x = noise.tensor::<4>("x_T", &device, DType::F32);
            let mut none = |_: usize| -> Tensor<4> { panic!() };
            let last = match plan.sampler {
                Sampler::Pndm { start } => {
                    let middle = |s: NoiseLevel, t: NoiseLevel| {
                        let k = diffusion.schedule.time_of(s).round() as usize;
                        diffusion.schedule.level(k - plan.middle_ahead)
                    };
                    pndm(&rec, &plan.levels, x, start, &middle, &mut |_| {})
                }
                s => s.run(&rec, &plan.levels, x, &mut none, &mut |_| {}),
            };
            let mut found = rec.inputs.into_inner();
            found.push(values(last));
            let file = Safetensors::open(dir.join("trajectory.safetensors"));
            let wanted = file.f64("trajectory");
            let per = found[0].len();
            assert_eq!(wanted.len(), per * found.len(), "{id}");
            let tol = number(case, "tol_over_scale_f32");
            let mut worst: f64 = 0.0;
            let mut at = 0;
            for (k, (f, w)) in found.iter().zip(wanted.chunks(per)).enumerate() {
                let scale = w.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                let e = f.iter().zip(w).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f64, v| if v <= m { m } else { v })
                    / scale;
                if !(e <= worst) {
                    worst = e;
                    at = k;
                }
            }
            let f64_end = {
                let w = file.f64("final_f64");
                let scale = w.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                distance(found.last().unwrap(), &w) / scale
            };
            println!(
                "{p} {id}: worst {worst:.1e} at {at} of {} (tol {tol:.0e}); end vs f64 {f64_end:.1e} {}",
                found.len() - 1,
                if worst <= tol { "ok" } else { "FAIL" }
            );
        }
    }
}
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}
