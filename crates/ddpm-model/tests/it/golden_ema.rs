//! Decays of the moving average against `fixtures/ema`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ddpm_model::ema::{EmaConfig, EmaKind, gamma_of, sigma_rel_of};
use ddpm_model::posthoc::{Profile, coefficients};
use ddpm_testing::support;
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
            // null: the half-life is not limited by the images seen
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

#[test]
fn edm2_power() {
    let index = index();
    let section = &index["edm2_power"];
    let table = &section["sigma_rel_to_gamma"];
    let found: Vec<f64> = numbers(&table["sigma_rel"]).into_iter().map(gamma_of).collect();
    assert_close_relative(&found, &numbers(&table["gamma"]), 1e-9, "sigma_rel_to_gamma");
    let table = &section["gamma_to_sigma_rel"];
    let found: Vec<f64> = numbers(&table["gamma"]).into_iter().map(sigma_rel_of).collect();
    assert_close_relative(&found, &numbers(&table["sigma_rel"]), 1e-9, "gamma_to_sigma_rel");
    for case in cases(section, "beta") {
        let (next, batch) = (whole(case, "t_next"), whole(case, "t_delta"));
        let found = power_config(number(case, "sigma_rel")).decay_at(1, (next - batch) as u64, batch);
        assert_close_relative(&[found], &[number(case, "beta")], 1e-9, &case.to_string());
    }
}

fn power_config(sigma_rel: f64) -> EmaConfig {
    EmaConfig { kind: EmaKind::Power, sigma_rel, ..Default::default() }
}

/// The averages of a path of rows by the power rule, after each of the times.
fn tracked(path: &[f64], width: usize, sigma_rel: f64, times: &[usize]) -> Vec<Vec<f64>> {
    let ema = power_config(sigma_rel);
    let mut average = vec![0.0; width];
    let averages: Vec<Vec<f64>> = std::iter::once(average.clone())
        .chain(path.chunks(width).enumerate().skip(1).map(|(t, row)| {
            let decay = ema.decay_at(t, t as u64 - 1, 1);
            average.iter_mut().zip(row).for_each(|(average, row)| *average = decay * *average + (1.0 - decay) * row);
            average.clone()
        }))
        .collect();
    times.iter().map(|&t| averages[t].clone()).collect()
}

#[test]
fn posthoc_reconstruction() {
    let index = index();
    let section = &index["posthoc"];
    let file = Safetensors::open(fixtures_dir().join(FOLDER).join("data.safetensors"));
    let tensor = |key: &str| file.f64(text(section, key));
    let (times, sigmas) = (whole_numbers(&section["in_t"]), numbers(&section["in_sigma_rel"]));
    let profile = |t: usize, sigma_rel: f64| Profile { time: t as f64, gamma: gamma_of(sigma_rel) };
    let stored: Vec<Profile> = times.iter().zip(&sigmas).map(|(&t, &sigma_rel)| profile(t, sigma_rel)).collect();

    let products: Vec<f64> = stored.iter().flat_map(|&a| stored.iter().map(move |&b| a.inner_product(b))).collect();
    assert_close_relative(&products, &tensor("correlation_in_in"), 1e-9, "correlation_in_in");

    let width = file.shape(text(section, "path"))[1];
    let (path, snapshots) = (tensor("path"), tensor("snapshots"));
    let own: Vec<f64> =
        times.iter().zip(&sigmas).flat_map(|(&t, &s)| tracked(&path, width, s, &[t]).concat()).collect();
    assert_close(&own, &snapshots, 1e-9, "snapshots");

    let wanted = cases(section, "out");
    let (expected, reconstructed, direct) = (tensor("coefficients"), tensor("reconstructed"), tensor("direct"));
    let largest = expected.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    for (column, case) in wanted.iter().enumerate() {
        let what = case.to_string();
        let (t, sigma_rel) = (whole(case, "t"), number(case, "sigma_rel"));
        let found = coefficients(&stored, profile(t, sigma_rel)).unwrap();
        let of_column: Vec<f64> = expected.iter().skip(column).step_by(wanted.len()).copied().collect();
        assert_close(&found, &of_column, 1e-9 * largest, &what);
        let mixed: Vec<f64> = (0..width)
            .map(|i| found.iter().zip(snapshots.chunks(width)).map(|(factor, row)| factor * row[i]).sum())
            .collect();
        assert_close(&mixed, &reconstructed[column * width..][..width], 1e-9, &what);
        let own = tracked(&path, width, sigma_rel, &[t]).concat();
        assert_close(&own, &direct[column * width..][..width], 1e-9, &what);
    }
}
