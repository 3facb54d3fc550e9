//! Decays of the moving average against `fixtures/ema`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use ddpm_model::ema::{EmaConfig, EmaKind};
use serde_json::Value;
use support::*;

const FOLDER: &str = "ema";

fn index() -> Value {
    read_json(fixtures_dir().join(FOLDER).join("cases.json"))
}

fn diffusers_config(config: &Value) -> EmaConfig {
    EmaConfig {
        kind: match config["use_ema_warmup"].as_bool().unwrap() {
            true => EmaKind::Warmup,
            false => EmaKind::Ratio,
        },
        decay: number(config, "decay"),
        min_decay: number(config, "min_decay"),
        update_after: whole(config, "update_after_step"),
        inv_gamma: number(config, "inv_gamma"),
        power: number(config, "power"),
        ..Default::default()
    }
}

#[test]
fn diffusers_decay() {
    for case in cases(&index(), "diffusers_decay") {
        let ema = diffusers_config(&case["config"]);
        let found: Vec<f64> =
            whole_numbers(&case["optimization_step"]).into_iter().map(|step| ema.decay_at(step, 0, 1)).collect();
        assert_close(&found, &numbers(&case["decay"]), 1e-12, &case["config"].to_string());
    }
}

#[test]
fn diffusers_run() {
    let index = index();
    let file = Safetensors::open(fixtures_dir().join(FOLDER).join("data.safetensors"));
    for case in cases(&index, "diffusers_run") {
        let ema = diffusers_config(&case["config"]);
        let params = file.f64(text(case, "params"));
        let shadows = file.f64(text(case, "shadow"));
        let width = file.shape(text(case, "params"))[1];
        let mut rows = params.chunks(width);
        let mut shadow = rows.next().unwrap().to_vec();
        let mut decays = Vec::new();
        let mut path = Vec::new();
        for (i, row) in rows.enumerate() {
            let decay = ema.decay_at(i + 1, 0, 1);
            for (average, param) in shadow.iter_mut().zip(row) {
                *average -= (1.0 - decay) * (*average - param);
            }
            decays.push(decay);
            path.extend_from_slice(&shadow);
        }
        assert_close(&decays, &numbers(&case["decay_used"]), 1e-12, "decay_used");
        assert_close(&path, &shadows, 5e-6, text(case, "shadow"));
        assert_close(&shadow, &numbers(&case["final_f64"]), 1e-12, "final_f64");
    }
}

#[test]
fn edm_half_life() {
    for case in cases(&index(), "edm_halflife") {
        let ema = EmaConfig {
            kind: EmaKind::HalfLife,
            half_life_images: 1000.0 * number(case, "halflife_kimg"),
            // null: the half-life is not held to the images seen
            ramp_up: case["rampup"].as_f64().unwrap_or(0.0),
            ..Default::default()
        };
        let found: Vec<f64> = whole_numbers(&case["nimg"])
            .into_iter()
            .map(|images| ema.decay_at(1, images as u64, whole(case, "batch")))
            .collect();
        assert_close(&found, &numbers(&case["beta"]), 1e-12, &case.to_string());
    }
}
