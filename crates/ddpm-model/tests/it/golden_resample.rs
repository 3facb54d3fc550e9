//! Importance-sampled time steps against `fixtures/gaussian/resample.json`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ddpm_model::resample::{LossHistory, LossSecondMoment, importance_weight};
use ddpm_testing::support;
use support::*;

#[test]
fn loss_second_moment() {
    let index = read_json(fixtures_dir().join("gaussian/resample.json"));
    let steps = whole(&index, "T");
    let rule = LossSecondMoment {
        history_per_step: whole(&index, "history_per_term"),
        uniform_share: number(&index, "uniform_prob"),
    };
    let mut history = LossHistory::new(steps);
    let mut warm = 0;
    for (batch, case) in cases(&index, "batches").iter().enumerate() {
        let what = format!("batch {batch}");
        rule.record(&mut history, &whole_numbers(&case["t"]), &numbers(&case["loss"]));
        assert_eq!(rule.is_warm(&history), case["warmed_up"].as_bool().unwrap(), "{what}");
        warm += usize::from(rule.is_warm(&history));
        // The fixture's weights add up to 1 only when warm.
        let weights = numbers(&case["weights"]);
        let total: f64 = weights.iter().sum();
        let wanted: Vec<f64> = weights.into_iter().map(|weight| weight / total).collect();
        let found = rule.probabilities(&history);
        assert_close_relative(&found, &wanted, 1e-12, &what);
        let importance: Vec<f64> = (0..steps).map(|t| importance_weight(&found, t)).collect();
        assert_close_relative(&importance, &numbers(&case["importance_weights"]), 1e-12, &what);
    }
    assert!(warm > 0, "no batch of the fixture is past the warm-up");
}
