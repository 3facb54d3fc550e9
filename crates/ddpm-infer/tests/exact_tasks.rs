//! Tasks beside sampling where the right answer is known in closed form.
#![allow(clippy::unwrap_used)]

#[path = "support/known.rs"]
mod known;

use burn::tensor::{DType, Device, Tensor};
use ddpm_infer::noise::SampleNoise;
use ddpm_infer::samplers::{NoiseSource, Sampler, Step};
use ddpm_infer::steps::{Spacing, levels};
use ddpm_infer::tasks::{Inpainting, image_to_image, inpaint, invert, reconstruct, remaining_levels, slerp};
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::variance::Variance;
use known::{GAUSSIAN, tensor, values};

/// All levels of a process of so many steps.
fn all_levels(steps: usize) -> Vec<NoiseLevel> {
    let scale = 1000.0 / steps as f64;
    let config = ScheduleConfig::Linear { steps, beta_start: 1e-4 * scale, beta_end: 0.02 * scale };
    levels(&config.init().unwrap(), &Spacing::Trailing.choose(steps, steps).unwrap())
}

/// Noise for `count` points in f64.
fn noise(seed: u64, count: usize) -> (Tensor<2>, impl FnMut(usize) -> Tensor<2>) {
    let mut noise = SampleNoise::<2>::new(seed, 0..count, [0, 2], &Device::flex());
    let start = noise.start().cast(DType::F64);
    (start, move |step| noise.step(step).cast(DType::F64))
}

const ANCESTRAL: Sampler = Sampler::Ddpm { variance: Variance::FixedSmall };

/// Points of [`GAUSSIAN`].
fn data(seed: u64, count: usize) -> Tensor<2> {
    let root = GAUSSIAN.along_axes(GAUSSIAN.spread.map(f64::sqrt));
    noise(seed, count).0.matmul(tensor(&root, [2, 2])) + tensor(&GAUSSIAN.mean, [1, 2])
}

fn worst(a: &Tensor<2>, b: &Tensor<2>) -> f64 {
    (a.clone() - b.clone()).abs().max().into_scalar::<f64>()
}

fn norms(x: &Tensor<2>) -> Vec<f64> {
    values(x.clone().square().sum_dim(1).sqrt())
}

#[test]
fn the_arc_between_two_noises_keeps_the_norm_and_divides_the_angle() {
    let unit = |seed| {
        let x = SampleNoise::<2>::new(seed, 0..20, [0, 12], &Device::flex()).start().cast(DType::F64);
        x.clone() / x.square().sum_dim(1).sqrt()
    };
    let (a, b) = (unit(1), unit(2));
    let angles = |x: &Tensor<2>, y: &Tensor<2>| {
        values((x.clone() * y.clone()).sum_dim(1)).into_iter().map(|cosine| cosine.min(1.0).acos())
    };
    for share in [0.0, 0.25, 0.5, 0.9, 1.0] {
        let between = slerp(&a, &b, share);
        assert!(norms(&between).iter().all(|norm| (norm - 1.0).abs() < 1e-12));
        for (part, whole) in angles(&a, &between).zip(angles(&a, &b)) {
            assert!((part - share * whole).abs() < 1e-7, "{part} of {whole}");
        }
    }
    assert!(worst(&slerp(&a, &b, 0.0), &a) < 1e-15 && worst(&slerp(&a, &b, 1.0), &b) < 1e-15);
    assert!(worst(&slerp(&a, &a, 0.3), &a) < 1e-12, "there is no arc, and nothing to divide by");
}

#[test]
fn a_strength_is_the_share_of_the_steps_that_is_walked() {
    let levels = &all_levels(40)[30..];
    for (strength, steps) in [(0.0, 0), (0.04, 0), (0.3, 3), (0.75, 8), (1.0, 10)] {
        assert_eq!(remaining_levels(levels, strength), &levels[10 - steps..]);
    }
    assert!(remaining_levels(&[], 0.5).is_empty());
}

#[test]
fn image_to_image_keeps_all_at_strength_0_and_forgets_at_strength_1() {
    let count = 4000;
    let (x_0, levels) = (data(5, count), all_levels(200));
    let (start, mut noise) = noise(6, count);
    let mut correlation = |strength| {
        let x = image_to_image(
            ANCESTRAL,
            &GAUSSIAN,
            &levels,
            x_0.clone(),
            start.clone(),
            strength,
            &mut noise,
            &mut |_| {},
        );
        if strength == 0.0 {
            assert_eq!(values(x.clone()), values(x_0.clone()));
        }
        let centre = |x: Tensor<2>| x.clone() - x.mean_dim(0);
        let (a, b) = (centre(x), centre(x_0.clone()));
        let dot = |a: &Tensor<2>, b: &Tensor<2>| (a.clone() * b.clone()).sum().into_scalar::<f64>();
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    let found = [0.0, 0.2, 0.5, 1.0].map(&mut correlation);
    assert!((found[0] - 1.0).abs() < 1e-12 && found.is_sorted_by(|a, b| a > b), "{found:?}");
    assert!(found[3].abs() < 4.0 / (count as f64).sqrt(), "{found:?}");
}

#[test]
fn what_is_known_stays_and_repaint_fits_the_rest_to_it() {
    let count = 2000;
    let levels = all_levels(100);
    let known_value = 1.6;
    let known = tensor(&[known_value, 0.0], [1, 2]).repeat(&[count, 1]);
    let mask = tensor(&[1.0, 0.0], [1, 2]);
    let [c00, c01, _, _] = GAUSSIAN.along_axes(GAUSSIAN.spread);
    let wanted = GAUSSIAN.mean[1] + c01 / c00 * (known_value - GAUSSIAN.mean[0]);

    let off = |plan: Inpainting| {
        let (start, mut noise) = noise(8, count);
        let mut seen = Vec::new();
        let mut on_step = |step: Step<'_, 2>| seen.push(step.index);
        let x = inpaint(ANCESTRAL, &GAUSSIAN, &levels, &known, &mask, plan, start, &mut noise, &mut on_step);
        assert_eq!(seen.len(), 100 * plan.resamples);
        assert_eq!(seen.last(), Some(&99));
        let points = values(x);
        assert!(points.iter().step_by(2).all(|value| *value == known_value), "{plan:?}");
        (points.iter().skip(1).step_by(2).sum::<f64>() / count as f64 - wanted).abs()
    };
    let replaced = off(Inpainting::REPLACEMENT);
    let repainted = [3, 20].map(|resamples| off(Inpainting { jump: 10, resamples }));
    // The more walks, the nearer; what is left is the length of the steps.
    assert!(replaced > 0.05, "{replaced}");
    assert!(repainted[0] < 0.7 * replaced && repainted[1] < 0.4 * replaced, "{replaced} {repainted:?}");
    assert!(repainted[1] < repainted[0], "{repainted:?}");
}

#[test]
fn a_mask_of_everything_or_of_nothing() {
    let levels = all_levels(40);
    let known = data(3, 4);
    let paint = |mask: f64| {
        let (start, mut noise) = noise(8, 4);
        let mask = tensor(&[mask], [1, 1]);
        let deterministic = Sampler::Ddim { eta: 0.0 };
        inpaint(
            deterministic,
            &GAUSSIAN,
            &levels,
            &known,
            &mask,
            Inpainting::REPLACEMENT,
            start,
            &mut noise,
            &mut |_| {},
        )
    };
    assert_eq!(values(paint(1.0)), values(known.clone()));
    let (start, mut noise) = noise(8, 4);
    let sampled = Sampler::Ddim { eta: 0.0 }.run(&GAUSSIAN, &levels, start, &mut noise, &mut |_| {});
    assert!(worst(&paint(0.0), &sampled) < 1e-12);
}

#[test]
fn inversion_finds_the_noise_and_ddim_the_data_again() {
    let x_0 = data(9, 32);
    let mut errors = Vec::new();
    for steps in [125, 250, 500, 1000] {
        let levels = all_levels(steps);
        let (noise, again) = reconstruct(&GAUSSIAN, &levels, x_0.clone());
        let clean = NoiseLevel { alpha: 1.0, sigma: 0.0 };
        let exact = GAUSSIAN.flow(&x_0, clean, levels[0]);
        errors.push((worst(&again, &x_0), worst(&noise, &exact)));
        assert_eq!(values(noise), values(invert(&GAUSSIAN, &levels, x_0.clone())));
    }
    assert!(errors.windows(2).all(|pair| pair[1].0 < 0.8 * pair[0].0 && pair[1].1 < 0.8 * pair[0].1), "{errors:?}");
    assert!(errors[3].0 < 0.01 && errors[3].1 < 0.01, "{errors:?}");
}
