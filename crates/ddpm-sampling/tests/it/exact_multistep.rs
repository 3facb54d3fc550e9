//! The samplers over past predictions on data whose best denoiser is known in closed form.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;

use burn::tensor::{DType, Device, Tensor};
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::variance::Variance;
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::samplers::{Bh, Expansion, Multistep, NoiseSource, PndmStart, Sampler};
use ddpm_testing::known;
use known::{GAUSSIAN, MIXTURE, values};

const CLEAN: NoiseLevel = NoiseLevel { alpha: 1.0, sigma: 0.0 };
const NOISE: NoiseLevel = NoiseLevel { alpha: 0.0, sigma: 1.0 };

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    // Written so that NaN is far.
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, off| if off <= max { max } else { off })
}

/// Counts the questions.
struct Counted<'a> {
    inner: &'a dyn Denoiser<2>,
    asked: Cell<usize>,
}

impl Denoiser<2> for Counted<'_> {
    fn denoise(&self, x_t: &Tensor<2>, level: NoiseLevel) -> Denoised<2> {
        self.asked.set(self.asked.get() + 1);
        self.inner.denoise(x_t, level)
    }
}

/// `steps` steps of equal length in log(sigma / alpha).
fn even(from: f64, to: f64, steps: usize) -> Vec<NoiseLevel> {
    (0..=steps).map(|i| NoiseLevel::from_ratio(from * (to / from).powf(i as f64 / steps as f64))).collect()
}

fn noise(seed: u64, count: usize) -> (Tensor<2>, impl FnMut(usize) -> Tensor<2>) {
    let mut noise = SampleNoise::<2>::new(seed, 0..count, [0, 2], &Device::flex());
    let start = noise.start().cast(DType::F64);
    (start, move |step| noise.step(step).cast(DType::F64))
}

fn run(sampler: Sampler, denoiser: &dyn Denoiser<2>, levels: &[NoiseLevel], x: &Tensor<2>) -> Vec<f64> {
    let mut none = |_| -> Tensor<2> { panic!("a deterministic sampler asked for noise") };
    values(sampler.run(denoiser, levels, x.clone(), &mut none, &mut |_| {}))
}

/// Every x on the way.
fn trail(sampler: Sampler, levels: &[NoiseLevel]) -> Vec<f64> {
    let (x, mut noise) = noise(5, 8);
    let mut trail = Vec::new();
    sampler.run(&MIXTURE, levels, x, &mut noise, &mut |step| trail.extend(values(step.x.clone())));
    trail
}

const fn full(order: usize) -> Multistep {
    Multistep { order, falls_below: 0 }
}

/// All that look back and draw no noise.
fn deterministic() -> Vec<Sampler> {
    let of_order = |order| {
        let multistep = full(order);
        [
            Sampler::DpmppMultistep { multistep, expansion: Expansion::Published },
            Sampler::DpmppMultistep { multistep, expansion: Expansion::Taylor },
            Sampler::Deis { multistep },
            Sampler::UniPc { multistep, b: Bh::Bh1 },
            Sampler::UniPc { multistep, b: Bh::Bh2 },
        ]
    };
    let others = [
        Sampler::Dpmpp2s { falls_below: 0 },
        Sampler::Pndm { start: PndmStart::RungeKutta },
        Sampler::Pndm { start: PndmStart::Multistep },
    ];
    [2, 3].into_iter().flat_map(of_order).chain(others).collect()
}

#[test]
fn order_1_is_ddim() {
    let levels: Vec<NoiseLevel> = even(20.0, 0.05, 12).into_iter().chain([CLEAN]).collect();
    let wanted = trail(Sampler::Ddim { eta: 0.0 }, &levels);
    for sampler in [
        Sampler::DpmppMultistep { multistep: full(1), expansion: Expansion::Published },
        Sampler::DpmppMultistep { multistep: full(1), expansion: Expansion::Taylor },
        Sampler::Deis { multistep: full(1) },
    ] {
        let off = distance(&trail(sampler, &levels), &wanted);
        assert!(off < 1e-12, "{sampler:?}: {off:e}");
    }
}

#[test]
fn order_1_with_noise_is_ancestral_sampling() {
    let levels: Vec<NoiseLevel> = even(20.0, 0.05, 12).into_iter().chain([CLEAN]).collect();
    let wanted = trail(Sampler::Ddpm { variance: Variance::FixedSmall }, &levels);
    let off = distance(&trail(Sampler::DpmppSde { multistep: full(1) }, &levels), &wanted);
    assert!(off < 1e-12, "{off:e}");
}

#[test]
fn every_step_is_shown_once_and_in_order() {
    for end in [None, Some(CLEAN)] {
        for steps in [1, 2, 3, 4, 9, 10] {
            let mut levels = even(20.0, 0.1, steps);
            if let Some(end) = end {
                levels[steps] = end;
            }
            for sampler in deterministic().into_iter().chain([Sampler::DpmppSde { multistep: full(2) }]) {
                let (x, mut noise) = noise(2, 3);
                let mut seen = Vec::new();
                let mut last = Vec::new();
                let found = sampler.run(&MIXTURE, &levels, x, &mut noise, &mut |step| {
                    seen.push((step.index, step.level));
                    last = values(step.x.clone());
                });
                let wanted: Vec<_> = levels[1..].iter().copied().enumerate().collect();
                assert_eq!(seen, wanted, "{sampler:?}");
                assert_eq!(values(found), last, "{sampler:?}");
                assert!(last.iter().all(|value| value.is_finite()), "{sampler:?} in {steps} steps");
            }
        }
    }
}

#[test]
fn the_denoiser_is_asked_as_often_as_is_said() {
    let steps = 10;
    let levels: Vec<NoiseLevel> = even(20.0, 0.1, steps - 1).into_iter().chain([CLEAN]).collect();
    let (x, _) = noise(2, 3);
    for sampler in deterministic() {
        let counted = Counted { inner: &GAUSSIAN, asked: Cell::new(0) };
        run(sampler, &counted, &levels, &x);
        let wanted = match sampler {
            Sampler::Pndm { start: PndmStart::RungeKutta } => 12 + steps - 3,
            Sampler::Pndm { start: PndmStart::Multistep } => steps + 1,
            _ => steps,
        };
        assert_eq!(counted.asked.get(), wanted, "{sampler:?}");
    }
}

#[test]
fn the_end_of_the_flow_is_reached() {
    let levels = even(20.0, 0.1, 40);
    let (x, _) = noise(1, 32);
    let wanted = values(GAUSSIAN.flow(&x, levels[0], levels[40]));
    let euler = distance(&run(Sampler::Ddim { eta: 0.0 }, &GAUSSIAN, &levels, &x), &wanted);
    for sampler in deterministic() {
        let off = distance(&run(sampler, &GAUSSIAN, &levels, &x), &wanted);
        assert!(off < 0.15 * euler, "{sampler:?}: off by {off:e}, ddim by {euler:e}");
    }
}

#[test]
fn pure_noise_is_a_place_to_start_from() {
    let levels: Vec<NoiseLevel> = [NOISE].into_iter().chain(even(150.0, 0.01, 60)).chain([CLEAN]).collect();
    let (x, _) = noise(1, 32);
    let wanted = values(GAUSSIAN.flow(&x, NOISE, CLEAN));
    // In PNDM's coordinates, x / alpha, pure noise is infinitely far away.
    for sampler in deterministic().into_iter().filter(|sampler| !matches!(sampler, Sampler::Pndm { .. })) {
        let off = distance(&run(sampler, &GAUSSIAN, &levels, &x), &wanted);
        assert!(off < 0.02, "{sampler:?}: off by {off:e}");
    }
}

/// How fast the error falls when the steps are halved. From so far away that the prediction hardly moves in the
/// first steps: having no past costs them next to nothing there, and the others show their own order.
fn empirical_order(sampler: Sampler) -> f64 {
    let (x, _) = noise(1, 32);
    let [coarse, fine] = [120, 240].map(|steps| {
        let levels = even(200.0, 0.1, steps);
        let wanted = values(GAUSSIAN.flow(&x, levels[0], levels[steps]));
        distance(&run(sampler, &GAUSSIAN, &levels, &x), &wanted)
    });
    (coarse / fine).log2()
}

#[test]
fn what_is_published_as_order_3_is_of_order_2() {
    let order = |expansion| empirical_order(Sampler::DpmppMultistep { multistep: full(3), expansion });
    let (taylor, published) = (order(Expansion::Taylor), order(Expansion::Published));
    assert!(taylor > 2.9 && published < 2.2, "{taylor} {published}");
}

#[test]
fn the_corrector_lifts_the_order_by_one() {
    for b in [Bh::Bh1, Bh::Bh2] {
        for order in [1, 2, 3] {
            let found = empirical_order(Sampler::UniPc { multistep: full(order), b });
            assert!(found > order as f64 + 0.8, "{b:?}, order {order}: {found}");
        }
    }
}

/// Mean and covariance of points.
fn moments(points: &[f64]) -> ([f64; 2], [f64; 4]) {
    let n = (points.len() / 2) as f64;
    let mean = [0, 1].map(|c| points.iter().skip(c).step_by(2).sum::<f64>() / n);
    let covariance = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .map(|(a, b)| points.chunks_exact(2).map(|p| (p[a] - mean[a]) * (p[b] - mean[b])).sum::<f64>() / n);
    (mean, covariance)
}

#[test]
fn the_stochastic_solver_has_the_mean_and_covariance_of_the_data() {
    let count = 20_000;
    let (x, mut noise) = noise(11, count);
    let levels: Vec<NoiseLevel> = even(150.0, 0.01, 100).into_iter().chain([CLEAN]).collect();
    let sampler = Sampler::DpmppSde { multistep: full(2) };
    let (mean, covariance) = moments(&values(sampler.run(&GAUSSIAN, &levels, x, &mut noise, &mut |_| {})));
    let wanted = GAUSSIAN.along_axes(GAUSSIAN.spread);
    for axis in 0..2 {
        // Four standard errors.
        let error = 4.0 * (wanted[3 * axis] / count as f64).sqrt();
        assert!((mean[axis] - GAUSSIAN.mean[axis]).abs() < error, "{mean:?}");
    }
    // The error of the larger variance, and that of 100 steps.
    let error = 4.0 * wanted[0] * (2.0 / count as f64).sqrt() + 0.003;
    assert!(distance(&covariance, &wanted) < error, "{covariance:?}");
}

#[test]
fn the_modes_keep_their_weights_and_widths() {
    let count = 5_000;
    let levels: Vec<NoiseLevel> = even(150.0, 0.005, 100).into_iter().chain([CLEAN]).collect();
    for sampler in deterministic().into_iter().chain([Sampler::DpmppSde { multistep: full(2) }]) {
        let (x, mut noise) = noise(11, count);
        let points = values(sampler.run(&MIXTURE, &levels, x, &mut noise, &mut |_| {}));
        let first: Vec<f64> = points.chunks_exact(2).filter(|p| p[0] + p[1] > 0.0).flatten().copied().collect();
        let share = first.len() as f64 / points.len() as f64;
        let error = 4.0 * (0.8f64 * 0.2 / count as f64).sqrt() + 0.005;
        assert!((share - MIXTURE.weights[0]).abs() < error, "{sampler:?}: {share}");
        let (mean, covariance) = moments(&first);
        assert!(distance(&mean, &MIXTURE.means[0]) < 0.02, "{sampler:?}: {mean:?}");
        // Single points between the modes weigh a lot in a variance of 0.01.
        assert!(
            distance(&[covariance[0], covariance[3]], &[MIXTURE.variance; 2]) < 0.004,
            "{sampler:?}: {covariance:?}"
        );
    }
}
