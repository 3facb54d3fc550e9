//! The metrics against pytorch-fid, torch-fidelity, prdc, GluonTS and CSDI, over the fixtures' `metrics` folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device};
use ddpm_eval::points::chamfer;
use ddpm_eval::series::{Pairs, Point, Quantile, ScoredSamples, energy_score};
use ddpm_eval::{Features, InceptionScore, Moments, frechet, mmd2_unbiased, precision_recall};
use ddpm_model::bound::discretized_gaussian_log_likelihood;
use ddpm_testing::support;
use serde_json::Value;
use support::{
    Safetensors, assert_close, assert_close_relative, cases, decoder_rounding, fixtures_dir, number, numbers,
    read_json, text, values, whole,
};

struct Golden {
    json: Value,
    data: Safetensors,
}

impl Golden {
    fn open() -> Self {
        let folder = fixtures_dir().join("metrics");
        Self { json: read_json(folder.join("cases.json")), data: Safetensors::open(folder.join("data.safetensors")) }
    }

    fn features(&self, name: &str) -> Features {
        let shape = self.data.shape(name);
        let features = Features::new(shape[1], self.data.f32(name));
        assert_eq!(features.len(), shape[0]);
        features
    }

    /// Real and generated features of a case.
    fn pair(&self, case: &Value) -> [Features; 2] {
        ["real", "gen"].map(|side| self.features(text(case, side)))
    }
}

#[test]
fn frechet_distances() {
    let golden = Golden::open();
    for case in cases(&golden.json, "features") {
        let [real, samples] = golden.pair(case).map(|features| Moments::of(&features).statistics().unwrap());
        let wanted = number(case, "frechet");
        for (a, b) in [(&real, &samples), (&samples, &real)] {
            let found = frechet(a, b).unwrap();
            let tolerance = number(case, "tol_abs").max(1e-6 * wanted.abs());
            assert_close(&[found], &[wanted], tolerance, text(case, "id"));
            // A singular covariance costs half of the digits, whoever computes it.
            if !case["singular"].as_bool().unwrap() {
                assert_close(&[found], &[wanted], number(case, "tol_abs"), text(case, "id"));
            }
        }
    }
}

#[test]
fn shards_of_a_set_have_its_frechet_distance() {
    let golden = Golden::open();
    for case in cases(&golden.json, "features") {
        let [real, samples] = golden.pair(case);
        let whole = Moments::of(&samples).statistics().unwrap();
        let mut merged = Moments::empty(samples.width());
        for shard in 0..3 {
            let rows = (0..samples.len()).filter(|row| row % 3 == shard);
            merged.merge(&Moments::of(&samples.select(rows))).unwrap();
        }
        let merged = merged.statistics().unwrap();
        let real = Moments::of(&real).statistics().unwrap();
        let [a, b] = [&whole, &merged].map(|statistics| frechet(&real, statistics).unwrap());
        assert_close(&[b], &[a], number(case, "tol_abs").max(1e-9), text(case, "id"));
    }
}

#[test]
fn kernel_distances() {
    let golden = Golden::open();
    for case in cases(&golden.json, "features") {
        let id = text(case, "id");
        let [real, samples] = golden.pair(case);
        let found = mmd2_unbiased(&real, &samples).unwrap();
        // A difference of means of the kernel, which grows with the cube of the features' squares.
        let tolerance = 1e-9 * mean_kernel(&real).max(mean_kernel(&samples)).max(1.0);
        assert_close(&[found], &[number(case, "kid_mmd2_unbiased")], tolerance, id);

        let subsets = &case["kid_subsets"];
        let (size, count) = (whole(subsets, "size"), whole(subsets, "count"));
        let [rows_real, rows_samples] = ["real", "gen"].map(|side| golden.data.i64(&format!("{id}.kid_index_{side}")));
        let subset = |features: &Features, rows: &[i64], k: usize| {
            features.select(rows[k * size..(k + 1) * size].iter().map(|row| *row as usize))
        };
        let found: Vec<f64> = (0..count)
            .map(|k| mmd2_unbiased(&subset(&real, &rows_real, k), &subset(&samples, &rows_samples, k)).unwrap())
            .collect();
        assert_close(&found, &numbers(&subsets["values"]), tolerance, id);
    }
}

/// The mean of `(a.b / d + 1)^3` over all pairs of different rows.
fn mean_kernel(features: &Features) -> f64 {
    let rows: Vec<&[f32]> = features.rows().collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let kernel = |i: usize, j: usize| (dot(rows[i], rows[j]) / features.width() as f64 + 1.0).powi(3);
    let pairs = (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let total: f64 = pairs.map(|(i, j)| kernel(i, j)).sum();
    2.0 * total / (rows.len() * (rows.len() - 1)) as f64
}

#[test]
fn precision_recall_density_and_coverage() {
    let golden = Golden::open();
    for case in cases(&golden.json, "features") {
        let [real, samples] = golden.pair(case);
        for k in [3, 5] {
            let wanted = &case[format!("k{k}")];
            let found = precision_recall(&real, &samples, k).unwrap();
            let found = [found.precision, found.recall, found.density, found.coverage];
            let wanted = ["precision", "recall", "density", "coverage"].map(|key| number(wanted, key));
            // Counts: the same but for the last digit of a quotient.
            assert_close(&found, &wanted, 1e-12, &format!("{} k = {k}", text(case, "id")));
        }
    }
}

#[test]
fn inception_scores() {
    let golden = Golden::open();
    let logits = golden.features(text(&golden.json["inception_score"], "logits"));
    for case in cases(&golden.json["inception_score"], "cases") {
        let mut score = InceptionScore::new(logits.len(), logits.width(), whole(case, "splits")).unwrap();
        logits.rows().for_each(|row| score.push(row));
        let score = score.score();
        assert_close(&score.splits, &numbers(&case["scores"]), 1e-9, "scores");
        assert_close(&[score.mean, score.deviation], &[number(case, "mean"), number(case, "std_ddof0")], 1e-9, "mean");
    }
}

#[test]
fn forecasts() {
    let golden = Golden::open();
    for case in cases(&golden.json, "forecast") {
        let id = text(case, "id");
        let shape = ["B", "S", "L", "K"].map(|key| whole(case, key));
        let [samples, target, mask] = ["samples", "target", "eval_mask"].map(|key| golden.data.f64(text(case, key)));
        let levels = numbers(&case["levels"]);
        let plain = ScoredSamples::new(shape, &samples, &target, None).unwrap();
        let masked = ScoredSamples::new(shape, &samples, &target, Some(&mask)).unwrap();
        let sum = ScoredSamples::sum_over_variables(shape, &samples, &target).unwrap();
        for (key, forecast, rule) in [
            ("nearest", &plain, Quantile::Nearest),
            ("linear", &plain, Quantile::Linear),
            ("linear_masked", &masked, Quantile::Linear),
            ("sum_nearest", &sum, Quantile::Nearest),
            ("sum_linear", &sum, Quantile::Linear),
        ] {
            let (wanted, what) = (&case[key], format!("{id} {key}"));
            let losses = forecast.quantile_losses(&levels, rule);
            assert_close_relative(&losses, &numbers(&wanted["quantile_loss"]), 1e-9, &what);
            let found = [forecast.absolute_target_sum(), forecast.quantile_crps(&levels, rule)];
            let wanted = [number(wanted, "abs_target_sum"), number(wanted, "mean_weighted")];
            assert_close_relative(&found, &wanted, 1e-9, &what);
        }
        // CSDI's levels have passed through f32.
        let csdi = &case["csdi"];
        let found = [&masked, &plain, &sum].map(|forecast| forecast.quantile_crps(&levels, Quantile::Linear));
        let wanted = ["crps_masked", "crps_all", "crps_sum_all"].map(|key| number(csdi, key));
        assert_close_relative(&found, &wanted, 1e-7, &format!("{id} csdi"));

        let energy = &case["energy"];
        for (pairs, entries, mean) in
            [(Pairs::All, "per_entry_v", "mean_v"), (Pairs::Different, "per_entry_fair", "mean_fair")]
        {
            let found = plain.energy_crps(pairs);
            assert_close(&found, &golden.data.f64(text(energy, entries)), 1e-9, &format!("{id} {entries}"));
            let found = found.iter().sum::<f64>() / found.len() as f64;
            assert_close_relative(&[found], &[number(energy, mean)], 1e-9, &format!("{id} {mean}"));
        }
        let found = energy_score(shape, &samples, &target);
        assert_close_relative(&[found], &[number(case, "energy_score_over_K_mean")], 1e-9, id);

        let gluonts = &case["gluonts"];
        let found = [
            plain.quantile_crps(&levels, Quantile::Nearest),
            sum.quantile_crps(&levels, Quantile::Nearest),
            plain.normalized_deviation(Quantile::Nearest),
            plain.normalized_rmse(),
            sum.normalized_deviation(Quantile::Nearest),
            sum.normalized_rmse(),
            plain.rmse(Point::Mean).powi(2),
            sum.rmse(Point::Mean).powi(2),
            plain.gluonts_mae_coverage(&levels),
        ];
        let wanted = [
            "mean_wQuantileLoss",
            "m_sum_mean_wQuantileLoss",
            "ND",
            "NRMSE",
            "m_sum_ND",
            "m_sum_NRMSE",
            "MSE",
            "m_sum_MSE",
            "MAE_Coverage",
        ]
        .map(|key| number(gluonts, key));
        assert_close_relative(&found, &wanted, 1e-9, &format!("{id} gluonts"));
    }
}

#[test]
fn chamfer_distances() {
    let golden = Golden::open();
    for case in cases(&golden.json, "chamfer") {
        let [x, y] = ["x", "y"].map(|side| golden.features(text(case, side)));
        let found = chamfer(&x, &y).unwrap();
        let found = [found.sum_squared, found.mean_squared, found.mean_distance, found.hausdorff];
        let wanted = ["sum_squared", "mean_squared", "mean_distance", "hausdorff"].map(|key| number(case, key));
        assert_close(&found, &wanted, 1e-9 * wanted[0], text(case, "x"));
    }
}

#[test]
fn discretized_gaussians() {
    let golden = Golden::open();
    let names = &golden.json["discretized_gaussian"]["tensors"];
    let device = Device::flex();
    let keys = ["x", "mean", "log_scale"].map(|key| text(names, key));
    let [x, mean, log_scale] = keys.map(|key| golden.data.tensor::<1>(key, &device, DType::F64));
    let found = values(discretized_gaussian_log_likelihood(x, mean, log_scale));
    let wanted = golden.data.f64(text(names, "f64"));
    assert_eq!(found.len(), wanted.len());
    let [x, mean, log_scale] = keys.map(|key| golden.data.f64(key));
    for i in 0..wanted.len() {
        let tolerance = decoder_rounding(x[i], mean[i], log_scale[i], f64::EPSILON).max(1e-9);
        let what = format!("log-probability of {} under {}, e^{}", x[i], mean[i], log_scale[i]);
        assert_close(&[found[i]], &[wanted[i]], tolerance, &what);
    }
}
