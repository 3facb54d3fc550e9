//! The schedulers of diffusers that look back, in our words.

use ddpm_infer::levels::karras;
use ddpm_infer::samplers::{Bh, Expansion, FEW_STEPS, Multistep, PndmStart, Sampler, level_at, ratio};
use ddpm_infer::steps::Spacing;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::schedule::Schedule;
use serde_json::Value;

use super::{CLEAN, Clipping, Coordinates, Plan, diffusion, only};
use crate::support::{text, whole};

pub fn dpm_multistep(config: &Value, steps: usize) -> Plan {
    only(config, "algorithm_type", &["dpmsolver++".into()]);
    only(config, "euler_at_final", &[Value::Null, false.into()]);
    let order = whole(config, "solver_order");
    let expansion = match (text(config, "solver_type"), order) {
        // Its order 3 starts and ends with the steps of order 2 that "midpoint" names.
        ("midpoint", _) => Expansion::Published,
        ("heun", 1 | 2) => Expansion::Taylor,
        (other, _) => panic!("solver_type = {other} is not supported at order {order}"),
    };
    let multistep = Multistep { order, falls_below: falls(config, FEW_STEPS) };
    walk(config, steps, Sampler::DpmppMultistep { multistep, expansion })
}

pub fn dpm_singlestep(config: &Value, steps: usize) -> Plan {
    only(config, "algorithm_type", &["dpmsolver++".into()]);
    only(config, "solver_order", &[2.into()]);
    only(config, "solver_type", &["midpoint".into()]);
    walk(config, steps, Sampler::Dpmpp2s { falls_below: falls(config, usize::MAX) })
}

pub fn deis(config: &Value, steps: usize) -> Plan {
    only(config, "algorithm_type", &["deis".into()]);
    only(config, "solver_type", &["logrho".into()]);
    let multistep = Multistep { order: whole(config, "solver_order"), falls_below: falls(config, FEW_STEPS) };
    walk(config, steps, Sampler::Deis { multistep })
}

pub fn unipc(config: &Value, steps: usize) -> Plan {
    only(config, "predict_x0", &[true.into()]);
    only(config, "disable_corrector", &[Value::Null, Value::Array(Vec::new())]);
    only(config, "solver_p", &[Value::Null]);
    let b = match text(config, "solver_type") {
        "bh1" => Bh::Bh1,
        "bh2" => Bh::Bh2,
        other => panic!("solver_type = {other} is not supported"),
    };
    let multistep = Multistep { order: whole(config, "solver_order"), falls_below: falls(config, usize::MAX) };
    walk(config, steps, Sampler::UniPc { multistep, b })
}

pub fn pndm(config: &Value, steps: usize) -> Plan {
    // With any other, the peer's steps do not end where its next ones start, but look back over them.
    only(config, "timestep_spacing", &["leading".into()]);
    assert!(steps > 3, "PNDM needs four steps");
    let diffusion = diffusion(config);
    let schedule = &diffusion.schedule;
    let offset = config["steps_offset"].as_u64().unwrap_or(0) as usize;
    let visited = Spacing::Leading.choose(steps, schedule.len()).unwrap();
    let end = if config["set_alpha_to_one"] == true { CLEAN } else { schedule.level(0) };
    let levels: Vec<NoiseLevel> = visited.iter().map(|t| schedule.level(t + offset)).chain([end]).collect();
    // The network is told the one half-way step at both levels.
    let told = |pair: &[NoiseLevel]| {
        let [first, second] = halved(schedule, pair[0], pair[1]);
        (first, schedule.time_of(second))
    };
    let start = if config["skip_prk_steps"] == true { PndmStart::Multistep } else { PndmStart::RungeKutta };
    Plan { times: levels.windows(2).take(3).map(told).collect(), ..plan(diffusion, Sampler::Pndm { start }, levels) }
}

/// Half of the steps between two levels, rounded down: from the first of them down, and from the second up.
pub fn halved(schedule: &Schedule, s: NoiseLevel, t: NoiseLevel) -> [NoiseLevel; 2] {
    let step = |level| schedule.time_of(level).round() as usize;
    let half = (step(s) - step(t)) / 2;
    [schedule.level(step(s) - half), schedule.level(step(t) + half)]
}

fn falls(config: &Value, below: usize) -> usize {
    if config["lower_order_final"] == true { below } else { 0 }
}

/// Along the levels of the exponential integrators, of which the last is sigma-min or clean.
fn walk(config: &Value, steps: usize, sampler: Sampler) -> Plan {
    for key in
        ["use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas", "use_dynamic_shifting"]
    {
        only(config, key, &[Value::Null, false.into()]);
    }
    // Minus infinity, which the reader turns into null.
    only(config, "lambda_min_clipped", &[Value::Null]);
    let diffusion = diffusion(config);
    let schedule = &diffusion.schedule;
    let available = schedule.len();
    let sigma = |t: usize| ratio(schedule.level(t));

    let (levels, times): (Vec<NoiseLevel>, Vec<f64>) = if config["use_karras_sigmas"] == true {
        let ladder = karras(steps, sigma(available - 1), sigma(0), 7.0).into_iter().map(level_at);
        ladder.map(|level| (level, schedule.time_of(level).round_ties_even())).unzip()
    } else {
        // One more than is asked for, of which the cleanest is dropped, except with trailing.
        let visited: Vec<usize> = match config["timestep_spacing"].as_str().unwrap_or("linspace") {
            "trailing" => Spacing::Trailing.choose(steps, available).unwrap(),
            "linspace" => Spacing::Linspace.choose(steps + 1, available).unwrap()[..steps].to_vec(),
            "leading" => {
                let offset = config["steps_offset"].as_u64().unwrap_or(0) as usize;
                Spacing::Leading.choose(steps + 1, available).unwrap()[..steps].iter().map(|t| t + offset).collect()
            }
            other => panic!("timestep_spacing = {other} is not supported"),
        };
        visited.into_iter().map(|t| (schedule.level(t), t as f64)).unzip()
    };
    let end = match config["final_sigmas_type"].as_str() {
        Some("zero") => CLEAN,
        None | Some("sigma_min") => schedule.level(0),
        Some(other) => panic!("final_sigmas_type = {other} is not supported"),
    };
    let told = levels.iter().copied().zip(times).collect();
    Plan { times: told, ..plan(diffusion, sampler, levels.into_iter().chain([end]).collect()) }
}

fn plan(diffusion: GaussianDiffusion, sampler: Sampler, levels: Vec<NoiseLevel>) -> Plan {
    Plan {
        diffusion,
        sampler,
        clipping: Clipping::None,
        coordinates: Coordinates::Preserving,
        start: 1.0,
        walks: vec![levels],
        times: Vec::new(),
    }
}
