//! The slow suite: trains the bundled experiments as a user would and judges what comes out.
//!
//! `cargo xtask ci` runs it. Everything is judged against the data, by bars that stand in the issue.
#![allow(clippy::unwrap_used)]

mod support;

use ddpm_data::Split;
use ddpm_infer::sample::points_beside;
use support::judge::{Digits, Judge};
use support::{Bench, sample};

#[test]
fn digits() {
    let bench = Bench::new();
    let run = bench.train(&["--device", "flex"]);
    // A twentieth of the work of ddpm in all steps.
    let samples = sample(&run, 1000, "ddim");

    let judge = Judge::train();
    println!("classifier: {:.1} % of the test split", 100.0 * judge.accuracy);
    assert!(judge.accuracy >= 0.97);
    let gaussian = judge.judge(&judge.pixel_gaussian(1000, 1)).distance;
    let floor = judge.judge(judge.train_split()).distance;
    let verdict = judge.judge(&samples);
    println!("Frechet distance to the test split, relative to the pixel Gaussian's {gaussian:.2}:");
    println!(
        "  samples {:.1} %, training split {:.1} %",
        100.0 * verdict.distance / gaussian,
        100.0 * floor / gaussian
    );
    println!("  novelty {:.2}, shares of the classes {:.3?}", verdict.novelty, verdict.shares);
    assert!(verdict.distance <= 0.4 * gaussian);
    assert!(verdict.shares.iter().all(|share| (0.04..=0.18).contains(share)));
    assert!(verdict.novelty >= 0.8);
}

/// What the judge must see before its word counts.
#[test]
fn the_judge_tells_good_from_bad() {
    let judge = Judge::train();
    let test = Digits::open(Split::Test);
    let real = judge.judge(&test.pixels);
    // Of a rank-deficient covariance the root has the root of the rounding.
    assert!(real.distance.abs() < 1e-3 && (real.novelty - 1.0).abs() < 1e-9, "{real:?}");
    let copies = judge.judge(judge.train_split());
    assert!(copies.novelty < 1e-6, "copies are found out");
    let noisy = |sigma: f32| {
        let eps = ddpm_data::random::normals(
            &mut ddpm_data::random::rng(0, ddpm_data::random::Stream::Points, 0),
            test.pixels.len(),
        );
        let pixels: Vec<f32> = test.pixels.iter().zip(eps).map(|(pixel, eps)| pixel + sigma * eps).collect();
        judge.judge(&pixels).distance
    };
    let distances = [0.1, 0.3, 0.6].map(noisy);
    assert!(distances.is_sorted() && distances[0] > 0.0, "{distances:?}");
}

#[test]
fn swiss_roll() {
    let bench = Bench::new();
    let run = bench.train(&["--experiment", "points-swiss-roll", "--device", "flex"]);
    let source = serde_json::from_str(r#"{"kind": "swiss-roll"}"#).unwrap();
    let data = points_beside(&source).unwrap();
    for name in ["ddpm", "ddim"] {
        let distance = chamfer(&sample(&run, 2048, name), &data);
        println!("chamfer distance by {name}: {distance:.2}");
        assert!(distance < 20.0);
    }
}

/// The sum of squared distances to the nearest point of the other set, both ways.
fn chamfer(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!((a.len(), b.len()), (4096, 4096));
    let squared = |p: &[f32], q: &[f32]| f64::from((p[0] - q[0]).powi(2) + (p[1] - q[1]).powi(2));
    let one_way = |from: &[f32], to: &[f32]| -> f64 {
        from.chunks(2).map(|p| to.chunks(2).map(|q| squared(p, q)).fold(f64::MAX, f64::min)).sum()
    };
    one_way(a, b) + one_way(b, a)
}
