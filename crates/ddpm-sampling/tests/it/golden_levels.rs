//! Schedules of sigmas against EDM's and diffusers', over the fixtures' `schedules` folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_sampling::levels::{Ends, LevelSchedule, exponential, karras};
use ddpm_testing::support;
use serde_json::Value;
use support::{assert_close_relative, cases, fixtures_dir, number, numbers, read_json, whole};

/// Relative, as the fixture's README has it.
const TOLERANCE: f64 = 1e-12;

struct Row {
    count: usize,
    max: f64,
    min: f64,
    rho: f64,
    json: Value,
}

fn rows() -> Vec<Row> {
    let index = read_json(fixtures_dir().join("schedules/cases.json"));
    let row = |json: &Value| Row {
        count: whole(json, "n"),
        max: number(json, "sigma_max"),
        min: number(json, "sigma_min"),
        rho: number(json, "rho"),
        json: json.clone(),
    };
    cases(&index, "karras").iter().map(row).collect()
}

#[test]
fn sigmas() {
    for Row { count, max, min, rho, json } in rows() {
        let what = |kind| format!("{kind} {count} from {max} to {min}, rho {rho}");
        let wanted = |kind: &str| numbers(&json[kind]);
        assert_close_relative(&karras(count, max, min, rho), &wanted("karras"), TOLERANCE, &what("karras"));
        assert_close_relative(&exponential(count, max, min), &wanted("exponential"), TOLERANCE, &what("exponential"));
    }
}

/// The same sigmas as levels of a process that reaches from less than the smallest to more than the largest.
#[test]
fn levels_have_those_sigmas() {
    for Row { count, max, min, rho, json } in rows() {
        let beta_start = (min * min / 10.0).min(0.1);
        let schedule = ScheduleConfig::Linear { steps: 1000, beta_start, beta_end: 0.5 }.init().unwrap();
        let ends = Ends { min: Some(min), max: Some(max) };
        let level_schedules =
            [("karras", LevelSchedule::Karras { rho, ends }), ("exponential", LevelSchedule::Exponential { ends })];
        for (kind, level_schedule) in level_schedules {
            let levels = level_schedule.levels(count, &schedule).unwrap();
            let found: Vec<f64> = levels[..count].iter().copied().map(NoiseLevel::ratio).collect();
            assert_close_relative(&found, &numbers(&json[kind]), TOLERANCE, kind);
            assert_eq!((levels[count].alpha, levels[count].sigma), (1.0, 0.0));
        }
    }
}
