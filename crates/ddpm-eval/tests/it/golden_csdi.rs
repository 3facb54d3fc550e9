//! The metrics of CSDI, over the fixtures' `series_csdi` folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ddpm_eval::series::{Point, Quantile, ScoredSamples, usual_levels};
use ddpm_testing::support::{Safetensors, assert_close, cases, fixture, number, read_json, text, whole_numbers};

/// In the units of the data, if they were scaled: the variables are last.
fn in_units(values: Vec<f64>, scaling: Option<&[Vec<f64>; 2]>) -> Vec<f64> {
    let Some([scale, mean]) = scaling else { return values };
    let variables = scale.len();
    values.into_iter().enumerate().map(|(i, value)| value * scale[i % variables] + mean[i % variables]).collect()
}

#[test]
fn metrics_are_those_of_csdi() {
    let root = fixture("series_csdi");
    let index = read_json(root.join("index.json"));
    let file = Safetensors::open(root.join("metrics.safetensors"));
    for case in cases(&index, "metrics") {
        let id = text(case, "id");
        let tensor = |name: &str| file.f64(&format!("{id}.{name}"));
        let scaling = case["scaled"].as_bool().unwrap().then(|| [tensor("scaler"), tensor("mean_scaler")]);
        let shape: [usize; 4] = whole_numbers(&case["shape_samples"]).try_into().unwrap();
        let [samples, target] = ["samples", "target"].map(|name| in_units(tensor(name), scaling.as_ref()));
        let mask = tensor("eval_points");

        let forecast = ScoredSamples::new(shape, &samples, &target, Some(&mask)).unwrap();
        let sum = ScoredSamples::masked_sum_over_variables(shape, &samples, &target, &mask).unwrap();
        let median = forecast.quantiles(0.5, Quantile::Lower);
        let wanted = in_units(tensor("median_f64"), scaling.as_ref());
        assert_close(&median, &wanted, 1e-9, &format!("{id} median"));
        let check = |key: &str, found: f64| {
            let wanted = number(case, &format!("{key}_f64"));
            assert_close(&[found], &[wanted], 1e-9 * wanted.abs().max(1.0), &format!("{id} {key}"));
        };
        let levels = usual_levels();
        check("CRPS", forecast.quantile_crps(&levels, Quantile::Linear));
        check("CRPS_sum", sum.quantile_crps(&levels, Quantile::Linear));
        check("MAE", forecast.mae(Quantile::Lower));
        check("RMSE", forecast.rmse(Point::LowerMedian));
        // The parts are given in the scaled units.
        let scaled = ScoredSamples::new(shape, &tensor("samples"), &tensor("target"), Some(&mask)).unwrap();
        check("denominator", scaled.absolute_target_sum());
        for (level, wanted) in case["quantile_loss_f64"].as_object().unwrap() {
            let found = scaled.quantile_losses(&[level.parse().unwrap()], Quantile::Linear);
            assert_close(&found, &[wanted.as_f64().unwrap()], 1e-7, &format!("{id} quantile loss {level}"));
        }
    }
}
