//! The likelihood of the probability-flow ODE on data whose density is known in closed form.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/known.rs"]
mod known;

use burn::tensor::Tensor;
use ddpm_infer::likelihood::{ProbeKind, Trace, log_likelihood};
use ddpm_infer::samplers::{Tolerance, level_at};
use ddpm_model::denoiser::Denoiser;
use known::{GAUSSIAN, MIXTURE, tensor};

/// Where data of both kinds are dense, and where they are not.
const POINTS: [[f64; 2]; 7] =
    [[0.7, -0.4], [1.5, 0.1], [-0.2, -0.9], [1.0, 0.5], [-1.0, -0.5], [-1.1, -0.35], [0.9, 0.62]];

/// The logarithm of the density at points, by the ODE from almost clean data to almost nothing but noise.
fn found(denoiser: &dyn Denoiser<2>, points: &[[f64; 2]], trace: &Trace<2>, tolerance: f64) -> Vec<f64> {
    let x_0: Tensor<2> = tensor(points.as_flattened(), [points.len(), 2]);
    let levels = [level_at(1e-3), level_at(1e3)];
    let tolerance = Tolerance { absolute: tolerance, relative: tolerance };
    let mut calls = 0;
    let (log_p, effort) = log_likelihood(denoiser, x_0, trace, levels, tolerance, &mut |so_far| calls = so_far);
    assert!(effort.calls >= calls && calls > 0);
    log_p
}

#[test]
fn with_an_exact_trace_it_is_the_analytic_density() {
    let gaussian = found(&GAUSSIAN, &POINTS, &Trace::Exact, 1e-5);
    let mixture = found(&MIXTURE, &POINTS[3..], &Trace::Exact, 1e-5);
    let wanted = POINTS.iter().map(|point| GAUSSIAN.log_density(*point));
    let wanted = wanted.chain(POINTS[3..].iter().map(|point| MIXTURE.log_density(*point)));
    for (found, wanted) in gaussian.into_iter().chain(mixture).zip(wanted) {
        assert!((found - wanted).abs() / 2.0 < 0.01, "{found} instead of {wanted} nats");
    }
}

#[test]
fn with_probes_it_is_the_analytic_density_on_average() {
    // Many rows of one point, each with a probe of its own.
    let rows = 400;
    for (denoiser, point, wanted) in [
        (&GAUSSIAN as &dyn Denoiser<2>, POINTS[1], GAUSSIAN.log_density(POINTS[1])),
        (&MIXTURE, POINTS[5], MIXTURE.log_density(POINTS[5])),
    ] {
        for kind in [ProbeKind::Rademacher, ProbeKind::Gaussian] {
            let probe: Vec<f64> = (0..rows).flat_map(|row| kind.draw(5, row, 0, 2)).map(f64::from).collect();
            let trace = Trace::Probes(vec![tensor(&probe, [rows, 2])]);
            let found = found(denoiser, &vec![point; rows], &trace, 1e-4);
            let mean = found.iter().sum::<f64>() / rows as f64;
            let variance = found.iter().map(|found| (found - mean).powi(2)).sum::<f64>() / rows as f64;
            let error = 4.0 * (variance / rows as f64).sqrt() + 0.01;
            assert!((mean - wanted).abs() < error, "{kind:?}: {mean} instead of {wanted}, error {error}");
        }
    }
}

/// Rows share the steps of the solver, and nothing else.
#[test]
fn a_row_has_its_likelihood_in_any_batch() {
    let together = found(&MIXTURE, &POINTS[3..], &Trace::Exact, 1e-6);
    for (point, together) in POINTS[3..].iter().zip(together) {
        let alone = found(&MIXTURE, &[*point], &Trace::Exact, 1e-6)[0];
        assert!((alone - together).abs() < 1e-3, "{point:?}: {alone} {together}");
    }
}
