//! Every solver converges to the solution of the probability-flow ODE as fast as its file claims.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::{DType, Device, Tensor};
use ddpm_model::denoiser::Denoiser;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_sampling::levels::{exponential, karras};
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::samplers::Sampler;
use ddpm_testing::known;
use known::{GAUSSIAN, Mixture, values};

/// Numbers of steps, twice as many every time.
const STEPS: [usize; 4] = [40, 80, 160, 320];
/// A measured order is not a whole number.
const SLACK: f64 = 0.1;
/// So many falling sigmas.
type Sigmas = fn(usize) -> Vec<f64>;
/// Levels that get denser in different ways.
const LEVEL_SCHEDULES: [(&str, Sigmas); 2] =
    [("karras", |count| karras(count, 10.0, 0.1, 7.0)), ("exponential", |count| exponential(count, 10.0, 0.1))];
/// Modes that are wide enough for the shortest of those walks to see the flow part.
const MIXTURE: Mixture = Mixture { weights: [0.8, 0.2], means: [[1.0, 0.5], [-1.0, -0.5]], variance: 0.2 };

/// A denoiser and where its flow takes x.
struct Problem<'a> {
    name: &'static str,
    denoiser: &'a dyn Denoiser<2>,
    flow: &'a dyn Fn(&Tensor<2>, NoiseLevel, NoiseLevel) -> Tensor<2>,
}

#[test]
fn every_order_is_what_its_sampler_claims() {
    let problems = [
        Problem { name: "Gaussian", denoiser: &GAUSSIAN, flow: &|x, from, to| GAUSSIAN.flow(x, from, to) },
        Problem { name: "mixture", denoiser: &MIXTURE, flow: &|x, from, to| MIXTURE.flow(x, from, to) },
    ];
    let mut too_slow = Vec::new();
    for (sampler, claimed) in Sampler::ALL.iter().filter_map(|sampler| Some((sampler, sampler.order()?))) {
        for problem in &problems {
            for (levels, level_schedule) in LEVEL_SCHEDULES {
                let errors = STEPS.map(|steps| error(*sampler, problem, &level_schedule(steps + 1)));
                let order = measured_order(&errors);
                let report = format!(
                    "{:18} {:8} over {levels:11}: claims {claimed}, has {order:.2}; errors {:.1e} to {:.1e}",
                    sampler.name(),
                    problem.name,
                    errors[0],
                    errors[3]
                );
                println!("{report}");
                if order.is_nan() || order < f64::from(claimed) - SLACK {
                    too_slow.push(report);
                }
            }
        }
    }
    assert!(too_slow.is_empty(), "{too_slow:#?}");
}

/// The distance, as a root of the mean square, from where the flow ends.
fn error(sampler: Sampler, problem: &Problem<'_>, sigmas: &[f64]) -> f64 {
    let levels: Vec<NoiseLevel> = sigmas.iter().copied().map(NoiseLevel::from_ratio).collect();
    let x = SampleNoise::<2>::new(3, 0..48, [0, 2], &Device::flex()).start().cast(DType::F64);
    let wanted = values((problem.flow)(&x, levels[0], levels[levels.len() - 1]));
    let mut none = |_| -> Tensor<2> { panic!("a solver with an order asked for noise") };
    let found = values(sampler.run(problem.denoiser, &levels, x, &mut none, &mut |_| {}));
    let squares = found.iter().zip(&wanted).map(|(f, w)| (f - w).powi(2));
    (squares.sum::<f64>() / wanted.len() as f64).sqrt()
}

/// Minus the slope of the line through ln error over ln steps.
fn measured_order(errors: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> =
        STEPS.iter().zip(errors).map(|(steps, error)| ((*steps as f64).ln(), error.ln())).collect();
    let n = points.len() as f64;
    let (mean_x, mean_y) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let (covariance, variance) =
        points.iter().fold((0.0, 0.0), |(c, v), (x, y)| (c + (x - mean_x) * (y - mean_y), v + (x - mean_x).powi(2)));
    -covariance / variance
}
