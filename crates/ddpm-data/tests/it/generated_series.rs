//! Generated series against those of `fixtures/series_baselines`, which come from the same formulas and other random
//! numbers: moments, correlations in time and between variables, and periods.
#![allow(clippy::unwrap_used)]

use ddpm_data::series::Table;
use ddpm_data::series::arrays::{Layout, read_npy};
use ddpm_data::series::generated::{BIMODAL_STEPS, ECG_STEPS, SINES_STEPS, VARIABLES, bimodal, ecg, sines};
use ddpm_testing::support::fixture;

fn stored(name: &str, layout: Layout) -> Vec<Table> {
    let path = fixture("series_baselines").join(name);
    read_npy(&path, layout).unwrap().into_iter().map(|series| series.target).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The mean over windows and steps of the product of a variable and of another `lag` steps later, without their means.
fn covariance(tables: &[Table], [first, second]: [usize; 2], lag: usize) -> f64 {
    let means = [first, second].map(|variable| mean(&column(tables, variable)));
    let products = tables.iter().flat_map(|table| {
        let at = move |step, variable: usize| table.value(step, variable).unwrap();
        (lag..table.steps()).map(move |step| (at(step - lag, first) - means[0]) * (at(step, second) - means[1]))
    });
    mean(&products.collect::<Vec<_>>())
}

fn column(tables: &[Table], variable: usize) -> Vec<f64> {
    tables.iter().flat_map(|table| (0..table.steps()).map(|step| table.value(step, variable).unwrap())).collect()
}

/// Means, deviations and the correlations of all pairs of variables at the lags are those of the fixture, as far as
/// the finite number of windows lets them.
fn compare(found: &[Table], expected: &[Table], lags: &[usize], most: f64, most_of_means: f64) {
    let deviation = |tables: &[Table], variable| covariance(tables, [variable; 2], 0).sqrt();
    for variable in 0..VARIABLES {
        let [own, other] = [found, expected].map(|tables| deviation(tables, variable));
        assert!((own / other - 1.0).abs() < most, "deviation of {variable}: {own} instead of {other}");
        let [own, other] = [found, expected].map(|tables| mean(&column(tables, variable)) / other);
        assert!((own - other).abs() < most_of_means, "mean of {variable}: {own} deviations instead of {other}");
    }
    for pair in (0..VARIABLES).flat_map(|a| (0..VARIABLES).map(move |b| [a, b])) {
        for lag in lags {
            let correlation =
                |tables| covariance(tables, pair, *lag) / deviation(tables, pair[0]) / deviation(tables, pair[1]);
            let [own, other] = [correlation(found), correlation(expected)];
            assert!((own - other).abs() < most, "correlation of {pair:?} at {lag}: {own} instead of {other}");
        }
    }
}

/// What the recursion of the bimodal series adds: a shared sign and a little noise.
fn innovations(table: &Table) -> Vec<[f64; VARIABLES]> {
    let season = |step: usize, d: usize| 1.5 * (std::f64::consts::TAU * (step + 3 * d) as f64 / 12.0).sin();
    let z = |step: usize| [0, 1, 2, 3].map(|d| table.value(step, d).unwrap() - season(step, d));
    (1..table.steps()).map(|step| [0, 1, 2, 3].map(|d| z(step)[d] - 0.8 * z(step - 1)[d])).collect()
}

#[test]
fn bimodal_series_have_the_law_of_the_fixture() {
    let (found, expected) = (bimodal(1, BIMODAL_STEPS), stored("forecast_bimodal/series.npy", Layout::TK));
    assert_eq!(expected[0].steps(), BIMODAL_STEPS);
    compare(std::slice::from_ref(&found.target), &expected, &[1, 2, 6, 12], 0.1, 0.25);
    for table in [&found.target, &expected[0]] {
        let innovations = innovations(table);
        assert!(innovations.iter().all(|row| row.iter().all(|it| it.signum() == row[0].signum())));
        let noise: Vec<f64> = innovations.iter().flatten().map(|it| it.abs() - 1.0).collect();
        assert!(mean(&noise).abs() < 0.004, "{}", mean(&noise));
        let deviation = mean(&noise.iter().map(|it| it * it).collect::<Vec<_>>()).sqrt();
        assert!((deviation - 0.1).abs() < 0.003, "{deviation}");
        let up = innovations.iter().filter(|row| row[0] > 0.0).count() as f64 / innovations.len() as f64;
        assert!((up - 0.5).abs() < 0.03, "{up}");
    }
    let months = [0, 12].map(|step| found.index.timestamp(step).unwrap().to_string());
    assert_eq!(months, ["1600-01-01T00:00:00", "1601-01-01T00:00:00"]);
}

#[test]
fn sines_have_the_law_of_the_fixture() {
    let found: Vec<Table> = (0..1000).map(|place| sines(1, place)).collect();
    let expected = stored("impute_sines/train.npy", Layout::NLK);
    assert_eq!((expected[0].steps(), found[0].steps()), (SINES_STEPS, SINES_STEPS));
    compare(&found, &expected, &[0, 3, 6, 12, 24], 0.08, 0.05);
    // Noise: what three neighbours of a slow sine say too little about.
    let roughness = |tables: &[Table]| {
        let lags = [0, 1, 2].map(|lag| covariance(tables, [0, 0], lag));
        6.0 * lags[0] - 8.0 * lags[1] + 2.0 * lags[2]
    };
    let [own, other] = [&found, &expected].map(|tables| roughness(tables));
    assert!((own / other - 1.0).abs() < 0.15, "{own} instead of {other}");
}

/// The lag of 40 to 89 at which the leads resemble themselves most.
fn period(table: &Table) -> f64 {
    let table = std::slice::from_ref(table);
    let products = (40..90).map(|lag| (0..VARIABLES).map(|lead| covariance(table, [lead; 2], lag)).sum::<f64>());
    40.0 + products.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0 as f64
}

#[test]
fn ecgs_have_the_law_of_the_fixture() {
    let found: Vec<Table> = (0..400).map(|place| ecg(1, place)).collect();
    let expected = stored("ecg_like/train.npy", Layout::NLK);
    assert_eq!((expected[0].steps(), found[0].steps()), (ECG_STEPS, ECG_STEPS));
    compare(&found, &expected, &[0, 1, 4, 12, 16, 30], 0.06, 0.03);
    let periods = |tables: &[Table]| {
        let periods: Vec<f64> = tables[..200].iter().map(period).collect();
        let center = mean(&periods);
        (center, mean(&periods.iter().map(|it| (it - center).powi(2)).collect::<Vec<_>>()).sqrt())
    };
    let (own, other) = (periods(&found), periods(&expected));
    assert!((own.0 - other.0).abs() < 2.5 && (own.1 - other.1).abs() < 1.5, "{own:?} instead of {other:?}");
    // The R and S waves: the largest and least values of a window.
    for lead in 0..VARIABLES {
        let extremes = |tables: &[Table]| {
            let columns: Vec<Vec<f64>> = tables.iter().map(|it| column(std::slice::from_ref(it), lead)).collect();
            let of = |best: fn(f64, f64) -> f64| {
                mean(&columns.iter().map(|it| it.iter().copied().fold(0.0, best)).collect::<Vec<_>>())
            };
            [of(f64::max), of(f64::min)]
        };
        let (own, other) = (extremes(&found), extremes(&expected));
        assert!((0..2).all(|k| (own[k] - other[k]).abs() < 0.03), "lead {lead}: {own:?} instead of {other:?}");
    }
}

#[test]
fn a_generated_window_is_a_function_of_seed_and_place() {
    for window in [sines, ecg] {
        assert_eq!(window(1, 3), window(1, 3));
        assert_ne!(window(1, 3), window(1, 4));
        assert_ne!(window(1, 3), window(2, 3));
    }
    let (long, short) = (bimodal(1, 30), bimodal(1, 20));
    assert_eq!(short.target.steps(), 20);
    assert!((0..80).all(|k| long.target.value(k / 4, k % 4) == short.target.value(k / 4, k % 4)));
    assert_ne!(bimodal(2, 20), short);
    // Part of the project: if these change, so do all runs on generated series.
    let first = [bimodal(1, 1).target, sines(1, 0), ecg(1, 0)].map(|table| table.value(0, 0).unwrap());
    let expected = [1.3321703475321978, 1.0012850150665875, -0.011526666090684966];
    assert!(first.iter().zip(expected).all(|(own, other): (&f64, f64)| (own - other).abs() < 1e-9), "{first:?}");
}
