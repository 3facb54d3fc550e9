//! The likelihood of the probability-flow ODE on data whose density is known in closed form.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use ddpm_model::condition::Condition;
use ddpm_model::continuous::{ContinuousDiffusion, Target};
use ddpm_model::denoiser::{Denoiser, Estimate, NetworkDenoiser};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::noise_level::NoiseRange;
use ddpm_model::path::Path;
use ddpm_model::point_mlp::PointMlpConfig;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::time_density::TimeDensity;
use ddpm_model::variance::Variance;
use ddpm_sampling::likelihood::{ProbeKind, Trace, log_likelihood};
use ddpm_sampling::samplers::Tolerance;
use ddpm_testing::known;
use known::{GAUSSIAN, MIXTURE, tensor};

/// Where data of both kinds are dense, and where they are not.
const POINTS: [[f64; 2]; 7] =
    [[0.7, -0.4], [1.5, 0.1], [-0.2, -0.9], [1.0, 0.5], [-1.0, -0.5], [-1.1, -0.35], [0.9, 0.62]];

/// The logarithm of the density at points, by the ODE from almost clean data to almost nothing but noise.
fn found(denoiser: &dyn Denoiser<2>, points: &[[f64; 2]], trace: &Trace<2>, tolerance: f64) -> Vec<f64> {
    let x_0: Tensor<2> = tensor(points.as_flattened(), [points.len(), 2]);
    let levels = [NoiseLevel::from_ratio(1e-3), NoiseLevel::from_ratio(1e3)];
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

/// A network that was never trained is the model of some data too (with these predictions, of data of about unit
/// size), whose density nobody knows; but everywhere together it must be 1.
#[test]
fn the_density_of_a_network_integrates_to_one() {
    let device = Device::flex().autodiff();
    device.seed(4);
    let config = PointMlpConfig { hidden: vec![16, 16], in_dims: 1, out_dims: 1, ..PointMlpConfig::default() };
    let network = config.init(&device).map(&mut Shaken).no_grad();
    let continuous = |path, prediction| {
        Diffusion::Continuous(ContinuousDiffusion { path, prediction, times: TimeDensity::default(), sigma_data: None })
    };
    let schedule = ScheduleConfig::default().init().unwrap();
    for diffusion in [
        Diffusion::Discrete(GaussianDiffusion::new(schedule, Prediction::V, Variance::default())),
        continuous(Path::SubVp { beta_min: 0.1, beta_max: 20.0 }, Target::Edm),
        continuous(Path::Ve { sigma_min: 0.01, sigma_max: 50.0 }, Target::Edm),
        continuous(Path::Linear {}, Target::Edm),
    ] {
        let ask = |x: Tensor<2>, t: Tensor<1>| network.forward(x, t, &Condition::None);
        let denoiser = NetworkDenoiser::new(ask, &diffusion, Estimate::Unused);
        let (count, width) = (401, 12.0f32);
        let grid: Vec<f32> = (0..count).map(|i| width * (2.0 * i as f32 / (count - 1) as f32 - 1.0)).collect();
        let x_0 = Tensor::from_data(TensorData::new(grid, [count, 1]), &Device::flex());
        let levels = [diffusion.level_at(0.0), diffusion.level_at(1.0)];
        let tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
        let (log_p, _) = log_likelihood(&denoiser, x_0, &Trace::Exact, levels, tolerance, &mut |_| {});
        let step = f64::from(2.0 * width) / (count - 1) as f64;
        let whole: f64 = log_p.iter().map(|log_p| log_p.exp() * step).sum();
        assert!((whole - 1.0).abs() < 5e-3, "{:?}: {whole}", diffusion.level_at(1.0));
        // Not the density of a network that says nothing.
        let largest = log_p.iter().copied().fold(f64::MIN, f64::max);
        assert!(log_p[0] < largest - 5.0 && log_p[count - 1] < largest - 5.0);
    }
}

/// Weights that say something, where training would have begun with zeros.
struct Shaken;

impl ModuleMapper for Shaken {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|values| values.random_like(Distribution::Normal(0.0, 0.15)))
    }
}
