//! Every objective trains: points learned by each of them come out where the data are.
#![allow(clippy::unwrap_used)]

use crate::support;

use support::{Bench, sample};

/// The shipped recipes in continuous time, and what they leave to `--set`.
const RECIPES: [(&str, &[&str]); 6] = [
    ("points-score-sde", &[]),
    ("points-score-sde", &["diffusion.continuous.path={ kind = \"sub-vp\" }", "diffusion.continuous.prediction=v"]),
    ("points-ncsn", &[]),
    ("points-edm", &[]),
    ("points-flow", &[]),
    ("points-flow", &["diffusion.continuous.path={ kind = \"vp\" }", "diffusion.self_conditioning=true"]),
];

/// Eight modes on a circle around nothing: a model that knows only the moments puts points there.
#[test]
fn points_are_learned_by_every_recipe() {
    let bench = Bench::new();
    let train = |recipe: &str, steps: &str, sets: &[&str]| {
        let mut words = vec!["--experiment", recipe, "--runs", "runs", "--device", "flex", "--set", steps];
        for set in
            ["data={ kind = \"gaussians-8\" }", "model.hidden=[64, 64, 64]", "preview.every=0", "preview.count=8"]
        {
            words.extend(["--set", set]);
        }
        for set in ["ema.decay=0.98", "train.log_every=1000"].iter().chain(sets) {
            words.extend(["--set", set]);
        }
        bench.train(&words)
    };
    for (recipe, sets) in RECIPES {
        let run = train(recipe, "train.steps=800", sets);
        let learned = near_a_mode(&sample(&run, 1000, "dpmpp-2m", None));
        assert!(learned > 0.6, "{recipe} {sets:?}: {learned} of the points are near a mode");
    }
    let unlearned = near_a_mode(&sample(&train("points-edm", "train.steps=1", &[]), 1000, "dpmpp-2m", None));
    assert!(unlearned < 0.4, "{unlearned} of the points of an untrained network are near a mode");
}

/// The share of points within a third of the distance between two modes of the nearest one.
fn near_a_mode(points: &[f32]) -> f64 {
    let modes = (0..8).map(|k| f64::from(k) * std::f64::consts::FRAC_PI_4);
    // Standard deviation 2 over both coordinates together.
    let radius = 8f64.sqrt();
    let modes: Vec<[f64; 2]> = modes.map(|angle| [radius * angle.cos(), radius * angle.sin()]).collect();
    let reach = 2.0 * radius * (std::f64::consts::PI / 8.0).sin() / 3.0;
    let near = |p: &[f32]| modes.iter().any(|m| (f64::from(p[0]) - m[0]).hypot(f64::from(p[1]) - m[1]) < reach);
    points.chunks_exact(2).filter(|point| near(point)).count() as f64 / (points.len() / 2) as f64
}
