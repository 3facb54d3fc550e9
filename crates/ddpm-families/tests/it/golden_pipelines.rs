//! Whole trajectories of diffusers' schedulers, over the fixtures' `pipelines` folder.
//!
//! A trajectory is what the peer's network was asked at every call, and the sample in the end. So the denoiser
//! here writes down what it is asked. Network and scheduler are opened as `sample --from` opens them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::RefCell;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use ddpm_families::diffusers::pipeline::Layout;
use ddpm_families::diffusers::scheduler_config::SchedulerConfig;
use ddpm_families::diffusers::{Coordinates, Plan, Tables};
use ddpm_families::snapshot::Snapshot;
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::network::Network;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_testing::support;
use serde_json::Value;
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

/// Every scheduler that a case has is the same once it was written and read again, and says what theirs said.
#[test]
fn schedulers_lead_there_and_back() {
    for pipeline in pipelines() {
        for case in cases(&pipeline.index, "cases") {
            let (scheduler, json) = (pipeline.scheduler(case), pipeline.scheduler_json(case));
            let again = scheduler.write();
            assert_eq!(SchedulerConfig::read(&again).unwrap(), scheduler, "{again:#}");
            for (key, value) in json.as_object().unwrap().iter().filter(|(key, _)| !key.starts_with("_diffusers")) {
                // What another class would need, or what a cosine does not, is not said again.
                let idle = key.starts_with("beta_") && json["beta_schedule"] == "squaredcos_cap_v2";
                let found = again.get(key).filter(|_| !idle).unwrap_or(value);
                assert_eq!(found.as_f64(), value.as_f64(), "{} {key}", text(case, "id"));
                assert!(found == value || value.is_number(), "{} {key}: {found} {value}", text(case, "id"));
            }
        }
    }
}

/// The peer's own arithmetic in its tables, which the compatible mode takes over, also stays within the spread.
#[test]
fn the_peers_tables_change_little() {
    for pipeline in pipelines() {
        let network = &pipeline.networks()[0];
        for case in cases(&pipeline.index, "cases").iter().step_by(3) {
            pipeline.compare_in(case, network, DType::F32, Tables::Peer);
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
    fn networks(&self) -> [Network; 2] {
        let network = Snapshot::load(&self.folder, &Device::flex()).unwrap().network;
        [network.clone(), network.map(&mut IntoF64)]
    }

    fn scheduler_file(&self, case: &Value) -> PathBuf {
        self.folder.join("cases").join(text(case, "id")).join("scheduler_config.json")
    }

    fn scheduler_json(&self, case: &Value) -> Value {
        ddpm_families::diffusers::json::parse(&std::fs::read_to_string(self.scheduler_file(case)).unwrap()).unwrap()
    }

    /// The scheduler as a pipeline with that file has it.
    fn scheduler(&self, case: &Value) -> SchedulerConfig {
        let layout = Layout { network: self.folder.join("unet"), scheduler: self.scheduler_file(case), index: None };
        layout.read_scheduler().unwrap_or_else(|error| panic!("{error}"))
    }

    fn compare(&self, case: &Value, network: &Network, dtype: DType) {
        self.compare_in(case, network, dtype, Tables::Exact);
    }

    fn compare_in(&self, case: &Value, network: &Network, dtype: DType, tables: Tables) {
        let what = format!("{} {} ({dtype:?}, {tables:?})", self.id, text(case, "id"));
        let scheduler = self.scheduler(case);
        assert_eq!(scheduler.class(), text(case, "scheduler"), "{what}");
        let folder = self.folder.join("cases").join(text(case, "id"));
        let wanted = Safetensors::open(folder.join("trajectory.safetensors"));
        let eta = case["extra"]["eta"].as_f64().unwrap_or(0.0);
        let plan = scheduler.plan(whole(case, "num_inference_steps"), eta, tables).unwrap();

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

    fn trajectory(&self, plan: &Plan, network: &Network, dtype: DType) -> Trajectory {
        let device = Device::flex();
        let step_noise: Tensor<5> = self.noise.tensor("step_noise", &device, dtype);
        let mut noise = |step: usize| step_noise.clone().narrow(0, step, 1).squeeze_dim::<4>(0);
        let x = self.noise.tensor::<4>("x_T", &device, dtype) * plan.start;
        let told = plan.denoiser(|x, t| network.forward::<4>(x, t, &Condition::None));
        let recorder = Recorder { inner: &told, plan, seen: RefCell::default() };
        let end = plan.run(&recorder, x, &mut noise, &mut |_| {});
        let (times, asked) = recorder.seen.into_inner().into_iter().unzip();
        Trajectory { asked, times, end: values(end) }
    }
}

struct Trajectory {
    /// What the network was asked, in the coordinates of the fixture, and at which times.
    asked: Vec<Vec<f64>>,
    times: Vec<f64>,
    end: Vec<f64>,
}

/// Writes down what a denoiser is asked.
struct Recorder<'a> {
    inner: &'a dyn Denoiser<4>,
    plan: &'a Plan,
    seen: RefCell<Vec<(f64, Vec<f64>)>>,
}

impl Denoiser<4> for Recorder<'_> {
    fn denoise(&self, x_t: &Tensor<4>, level: NoiseLevel) -> Denoised<4> {
        let scale = match self.plan.coordinates {
            Coordinates::Preserving => 1.0,
            Coordinates::Exploding => level.alpha,
        };
        self.seen.borrow_mut().push((self.plan.time(level), values(x_t.clone() / scale)));
        self.inner.denoise(x_t, level)
    }
}

struct IntoF64;

impl ModuleMapper for IntoF64 {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| weight.cast(DType::F64))
    }
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, value| value.abs().max(max))
}
