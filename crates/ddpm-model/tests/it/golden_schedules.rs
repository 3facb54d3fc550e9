//! Schedule tables and step spacings against `fixtures/schedules`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ddpm_model::schedule::{Schedule, ScheduleConfig, spaced_steps};
use ddpm_testing::support;
use serde_json::Value;
use support::*;

fn index() -> Value {
    read_json(fixtures_dir().join("schedules").join("cases.json"))
}

fn tensors(name: &str) -> Safetensors {
    Safetensors::open(fixtures_dir().join("schedules").join(name))
}

fn schedule_of(index: &Value, id: &str) -> Schedule {
    let table = cases(index, "tables").iter().find(|table| text(table, "id") == id);
    schedule(table.unwrap_or_else(|| panic!("no table {id:?}")))
}

#[test]
fn tables() {
    let index = index();
    let file = tensors(text(&index, "tables_file"));
    for table in cases(&index, "tables") {
        let id = text(table, "id");
        let schedule = schedule(table);
        let columns: [(&str, &[f64]); 6] = [
            ("betas", &schedule.betas),
            ("alphas_bar", &schedule.alphas_bar),
            ("posterior_variance", &schedule.posterior_variance),
            ("posterior_log_variance_clipped", &schedule.posterior_log_variance_clipped),
            ("posterior_mean_coef1", &schedule.posterior_mean_coef1),
            ("posterior_mean_coef2", &schedule.posterior_mean_coef2),
        ];
        for (column, found) in columns {
            let wanted = file.f64(text(&table["tensors"], column));
            let tolerance = number(&table["suggested_rel_tol"], column);
            let what = format!("{id}.{column}");
            assert_close_relative(found, &wanted, tolerance, &what);
            if ["betas", "alphas_bar"].contains(&column) {
                assert_close(found, &wanted, 1e-12, &what);
            }
            let at: Vec<f64> = whole_numbers(&table["samples"]["index"]).into_iter().map(|t| found[t]).collect();
            assert_close_relative(&at, &numbers(&table["samples"][column]), tolerance, &what);
        }
    }
}

#[test]
fn spaced() {
    let index = index();
    let file = tensors(text(&index, "tables_file"));
    let (mut refused, mut kept_cases, mut with_tables) = (0, 0, 0);
    for case in cases(&index, "spaced") {
        let id = text(case, "id");
        let found = spaced_steps(text(case, "spec"), whole(case, "T"));
        if case["error"].as_bool().unwrap() {
            assert!(found.is_err(), "{id} should be refused, not {found:?}");
            refused += 1;
            continue;
        }
        kept_cases += 1;
        let kept = found.unwrap();
        assert_eq!(kept, whole_numbers(&case["timesteps"]), "{id}");
        assert_eq!(kept.len(), whole(case, "count"), "{id}");
        if let Some(base) = case["base_table"].as_str() {
            let respaced = schedule_of(&index, base).respaced(&kept).unwrap();
            let betas = file.f64(text(&case["tensors"], "betas"));
            let alphas_bar = file.f64(text(&case["tensors"], "alphas_bar"));
            assert_close_relative(&respaced.betas, &betas, 1e-10, id);
            assert_close_relative(&respaced.alphas_bar, &alphas_bar, 1e-10, id);
            with_tables += 1;
        }
    }
    assert!(refused > 0 && kept_cases > 0 && with_tables > 0);
}

#[test]
fn diffusers_f32_tables() {
    let index = index();
    let section = &index["diffusers_f32"];
    let file = tensors(text(section, "file"));
    let mut compared = 0;
    for case in cases(section, "cases") {
        let config = &case["config"];
        let steps = whole(config, "num_train_timesteps");
        let start = || number(config, "beta_start");
        let end = || number(config, "beta_end");
        let schedule = match text(config, "beta_schedule") {
            "linear" => ScheduleConfig::Linear { steps, beta_start: start(), beta_end: end() },
            "scaled_linear" => ScheduleConfig::Quadratic { steps, beta_start: start(), beta_end: end() },
            "sigmoid" => ScheduleConfig::Sigmoid { steps, beta_start: start(), beta_end: end() },
            "squaredcos_cap_v2" => ScheduleConfig::Cosine { steps, s: 0.008, max_beta: 0.999 },
            other => panic!("unknown schedule {other:?}"),
        };
        let mut schedule = schedule.init().unwrap();
        let id = text(case, "id");
        let wanted = |column: &str| file.f64(&format!("{id}.{column}"));
        if config["rescale_betas_zero_snr"].as_bool() == Some(true) {
            schedule = schedule.with_zero_terminal_snr().unwrap();
            // Near the end a difference of near-equal numbers is squared, in f32 there: only the absolute
            // error means something.
            assert_close(&schedule.alphas_bar, &wanted("alphas_cumprod"), 1e-6, id);
            assert_close(&schedule.betas, &wanted("betas"), 1e-3, id);
            assert_eq!(schedule.alphas_bar.last(), wanted("alphas_cumprod").last());
            compared += 1;
            continue;
        }
        assert_close_relative(&schedule.alphas_bar, &wanted("alphas_cumprod"), 2e-5, id);
        assert_close_relative(&schedule.betas, &wanted("betas"), 2e-5, id);
        compared += 1;
    }
    assert!(compared > 0);
}
