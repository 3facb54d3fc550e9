//! Guidance where the right answer is known in closed form.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;

use burn::tensor::{DType, Device, Tensor};
use ddpm_data::{DataInfo, Units};
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::{Clip, GaussianDiffusion};
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::variance::Variance;
use ddpm_sampling::guidance::{
    Answers, AutoGuidance, ClassifierFree, ClassifierGuidance, Guidable, Guidance, GuidanceError, Guide, Interval,
    Rescaled, Threshold, Within,
};
use ddpm_sampling::job::{ClassChoice, Predictor, Samples, SamplingJob, TrainedModel};
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::noise::NoiseChoice;
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::samplers::{NoiseSource, Sampler};
use ddpm_testing::known;
use known::{GAUSSIAN, MIXTURE, Mixture, tensor, values};

/// Data from a round Gaussian.
struct Round {
    mean: [f64; 2],
    variance: f64,
}

const CLASS: Round = Round { mean: [0.5, -1.0], variance: 0.2 };
const ANY: Round = Round { mean: [-0.1, 0.3], variance: 1.5 };

impl Denoiser<2> for Round {
    fn denoise(&self, x_t: &Tensor<2>, NoiseLevel { alpha, sigma }: NoiseLevel) -> Denoised<2> {
        let mean = tensor(&self.mean, [1, 2]);
        let gain = alpha * self.variance / (alpha.powi(2) * self.variance + sigma.powi(2));
        Denoised { x_0: (x_t.clone() - mean.clone() * alpha) * gain + mean, variance_logit: None }
    }
}

fn levels() -> Vec<NoiseLevel> {
    [0.01, 0.3, 1.0, 4.0, 100.0].map(NoiseLevel::from_ratio).to_vec()
}

fn points(count: usize) -> Tensor<2> {
    SampleNoise::<2>::new(4, 0..count, [0, 2], &Device::flex()).start().cast(DType::F64)
}

fn apart(scale: f64) -> ClassifierFree<'static, 2> {
    ClassifierFree { answers: Answers::Apart { conditional: &CLASS, unconditional: &ANY }, scale }
}

fn answer(denoiser: &dyn Denoiser<2>, x: &Tensor<2>, level: NoiseLevel) -> Vec<f64> {
    values(denoiser.denoise(x, level).x_0)
}

fn close(found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (a, b) in found.iter().zip(wanted) {
        assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn classifier_free_guidance_has_the_score_of_the_tilted_gaussian() {
    let x = points(16);
    for level in levels() {
        for scale in [0.0, 0.5, 1.0, 3.0] {
            // p(x_t | c)^scale p(x_t)^(1 - scale), by completing the square.
            let precision = |r: &Round| 1.0 / (level.alpha.powi(2) * r.variance + level.sigma.powi(2));
            let (c, u) = (scale * precision(&CLASS), (1.0 - scale) * precision(&ANY));
            let mean = [0, 1].map(|i| level.alpha * (c * CLASS.mean[i] + u * ANY.mean[i]) / (c + u));
            let score = (x.clone() - tensor(&mean, [1, 2])) * -(c + u);
            let eps = apart(scale).denoise(&x, level).eps(&x, level);
            close(&values(eps), &values(score * -level.sigma), 1e-10);
        }
    }
}

#[test]
fn scale_one_is_the_class_and_scale_zero_is_none_bit_for_bit() {
    let x = points(16);
    for level in levels() {
        assert_eq!(answer(&apart(1.0), &x, level), answer(&CLASS, &x, level));
        assert_eq!(values(apart(1.0).both(&x, level).guided.x_0), answer(&CLASS, &x, level));
        assert_eq!(answer(&apart(0.0), &x, level), answer(&ANY, &x, level));
    }
}

/// The upper half of the rows under the class, the lower under none; notes how many rows it was asked for.
struct Twice(RefCell<Vec<usize>>);

impl Denoiser<2> for Twice {
    fn denoise(&self, x_t: &Tensor<2>, level: NoiseLevel) -> Denoised<2> {
        let rows = x_t.dims()[0];
        self.0.borrow_mut().push(rows);
        let half = |start: usize, by: &Round| by.denoise(&x_t.clone().narrow(0, start, rows / 2), level).x_0;
        Denoised { x_0: Tensor::cat(vec![half(0, &CLASS), half(rows / 2, &ANY)], 0), variance_logit: None }
    }
}

#[test]
fn one_call_for_twice_the_rows_gives_what_two_calls_give() {
    let (x, twice) = (points(5), Twice(RefCell::default()));
    for level in levels() {
        let together = ClassifierFree { answers: Answers::Together { conditional: &CLASS, twice: &twice }, scale: 2.5 };
        assert_eq!(answer(&together, &x, level), answer(&apart(2.5), &x, level));
        assert_eq!(values(together.plain(&x, level).x_0), answer(&CLASS, &x, level));
    }
    assert_eq!(twice.0.into_inner(), [10; 5]);
}

#[test]
fn outside_of_its_interval_guidance_is_no_guidance() {
    let (x, guide) = (points(5), apart(3.0));
    let within = Within { inner: &guide, interval: Interval { lo: 0.3, hi: 4.0 } };
    for (level, inside) in levels().into_iter().zip([false, false, true, true, false]) {
        let wanted = if inside { answer(&guide, &x, level) } else { answer(&CLASS, &x, level) };
        assert_eq!(answer(&within, &x, level), wanted, "{level:?}");
        assert_eq!(values(within.both(&x, level).guided.x_0), wanted, "{level:?}");
        assert_eq!(values(within.plain(&x, level).x_0), answer(&CLASS, &x, level));
    }
    assert!(levels().into_iter().all(|level| Interval::ALL.contains(level)));
    assert_eq!("0.2, 5".parse(), Ok(Interval { lo: 0.2, hi: 5.0 }));
}

#[test]
fn a_network_cannot_guide_itself() {
    let x = points(16);
    for level in levels() {
        for scale in [0.0, 1.0, 7.5] {
            let auto = AutoGuidance { network: &GAUSSIAN, guide: &GAUSSIAN, scale };
            assert_eq!(answer(&auto, &x, level), answer(&GAUSSIAN, &x, level));
        }
        let auto = AutoGuidance { network: &CLASS, guide: &ANY, scale: 2.0 };
        assert_eq!(answer(&auto, &x, level), answer(&apart(2.0), &x, level));
    }
}

/// The gradient of log p(z | x_t) for a sign z that the second mode shows in 9 of 10 cases and the first in 1.
fn sign(x_t: &Tensor<2>, NoiseLevel { alpha, sigma }: NoiseLevel) -> Tensor<2> {
    let Mixture { weights, means: [a, b], variance } = MIXTURE;
    let total = alpha.powi(2) * variance + sigma.powi(2);
    // log p(b | x_t) / p(a | x_t) is linear in x_t.
    let slope = [0, 1].map(|i| alpha * (b[i] - a[i]) / total);
    let norm = |m: [f64; 2]| alpha.powi(2) * (m[0].powi(2) + m[1].powi(2));
    let offset = (weights[1] / weights[0]).ln() + (norm(a) - norm(b)) / (2.0 * total);
    let logit = x_t.clone().matmul(tensor(&slope, [2, 1])) + offset;
    let q = burn::tensor::activation::sigmoid(logit);
    // p(z | x_t) = 0.1 (1 - q) + 0.9 q
    let share = q.clone() * (-q.clone() + 1.0) * 0.8 / (q * 0.8 + 0.1);
    share * tensor(&slope, [1, 2])
}

#[test]
fn the_exact_classifier_is_bayes_rule() {
    let weights = [0.8 * 0.1 / 0.26, 0.2 * 0.9 / 0.26];
    let posterior = Mixture { weights, ..MIXTURE };
    let guided = ClassifierGuidance { inner: &MIXTURE, gradient: sign, scale: 1.0 };
    let x = points(16);
    for level in levels() {
        // At sigma 0.01 the push is the difference of large numbers.
        close(&answer(&guided, &x, level), &answer(&posterior, &x, level), 1e-9);
    }
    let none = ClassifierGuidance { inner: &MIXTURE, gradient: sign, scale: 0.0 };
    assert_eq!(answer(&none, &x, NoiseLevel::from_ratio(1.0)), answer(&MIXTURE, &x, NoiseLevel::from_ratio(1.0)));

    let count = 5_000;
    let schedule = ScheduleConfig::default().init().unwrap();
    let levels = "karras".parse::<LevelSchedule>().unwrap().levels(40, &schedule).unwrap();
    let mut source = SampleNoise::<2>::new(11, 0..count, [0, 2], &Device::flex());
    let start = source.start().cast(DType::F64);
    let mut noise = |step: usize| source.step(step).cast(DType::F64);
    let share = |scale: f64, noise: &mut dyn NoiseSource<2>| {
        let guided = ClassifierGuidance { inner: &MIXTURE, gradient: sign, scale };
        let ends = values(Sampler::Dpm2.run(&guided, &levels, start.clone(), noise, &mut |_| {}));
        ends.chunks_exact(2).filter(|p| p[0] + p[1] < 0.0).count() as f64 / count as f64
    };
    let shares = [0.0, 1.0, 2.0].map(|scale| share(scale, &mut noise));
    for (found, wanted) in shares.iter().zip([0.2, weights[1]]) {
        assert!((found - wanted).abs() < 4.0 * (wanted * (1.0 - wanted) / count as f64).sqrt() + 0.005, "{shares:?}");
    }
    assert!(shares[2] > shares[1] + 0.05, "{shares:?}");
}

fn deviations(x: &Tensor<2>) -> Vec<f64> {
    values(x.clone().var_bias(1).sqrt())
}

#[test]
fn rescaling_restores_the_deviation_by_its_share() {
    let (x, guide) = (points(6), apart(6.0));
    for level in levels() {
        let by = |phi| Rescaled { inner: &guide, phi, of: Prediction::X0 }.both(&x, level).guided.x_0;
        let (plain, guided) = (deviations(&CLASS.denoise(&x, level).x_0), deviations(&by(0.0)));
        assert_eq!(values(by(0.0)), answer(&guide, &x, level));
        close(&deviations(&by(1.0)), &plain, 1e-12);
        let half: Vec<f64> = plain.iter().zip(&guided).map(|(a, b)| (a + b) / 2.0).collect();
        close(&deviations(&by(0.5)), &half, 1e-12);
    }
    let flat = tensor(&[0.5, 0.5], [1, 2]);
    struct Constant(Tensor<2>);
    impl Denoiser<2> for Constant {
        fn denoise(&self, _: &Tensor<2>, _: NoiseLevel) -> Denoised<2> {
            Denoised { x_0: self.0.clone(), variance_logit: None }
        }
    }
    let constant = Constant(flat.clone());
    let auto = AutoGuidance { network: &constant, guide: &constant, scale: 2.0 };
    assert_eq!(
        answer(&Rescaled { inner: &auto, phi: 0.7, of: Prediction::X0 }, &flat, NoiseLevel::from_ratio(1.0)),
        [0.5, 0.5]
    );
}

#[test]
fn a_dynamic_threshold_scales_what_clipping_would_flatten() {
    let x_0 = tensor(&[0.1, -2.0, 4.0, 1.0, 3.0, 0.1, -0.2, 0.3, 0.9, -0.4], [2, 5]);
    let held = |percentile, maximum| values(Threshold { percentile, maximum }.apply(x_0.clone()));
    let inside = [0.1, -0.2, 0.3, 0.9, -0.4];
    // The sizes of the first row are 0.1, 1, 2, 3, 4.
    close(&held(0.75, f64::INFINITY), &[&[0.1 / 3.0, -2.0 / 3.0, 1.0, 1.0 / 3.0, 1.0], &inside[..]].concat(), 1e-12);
    close(&held(0.875, f64::INFINITY)[..2], &[0.1 / 3.5, -2.0 / 3.5], 1e-12);
    close(&held(1.0, f64::INFINITY)[..3], &[0.025, -0.5, 1.0], 1e-12);
    close(&held(1.0, 2.0)[..5], &[0.05, -1.0, 1.0, 0.5, 1.0], 1e-12);
    assert_eq!(held(1.0, 1.0), values(x_0.clone().clamp(-1.0, 1.0)));
}

/// Predicts x_0 by its class, and notes how many rows it was asked for.
struct Toy {
    weight: f64,
    rows: RefCell<Vec<usize>>,
}

impl Toy {
    fn new(weight: f64) -> Self {
        Self { weight, rows: RefCell::default() }
    }
}

impl Predictor for Toy {
    fn predict(&self, x_t: Tensor<4>, _: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let mut rows = [1; 4];
        rows[0] = x_t.dims()[0];
        self.rows.borrow_mut().push(rows[0]);
        match condition {
            Condition::None | Condition::Tokens(_) => x_t * self.weight,
            Condition::Class(class) => x_t * self.weight + (class.clone().float() * 0.1).reshape(rows),
        }
    }
}

fn run(network: &Toy, guide: Option<&Toy>, guidance: Guidance, clip: Clip) -> Result<Samples, String> {
    let diffusion = Diffusion::Discrete(GaussianDiffusion::new(
        ScheduleConfig::default().init().unwrap(),
        Prediction::X0,
        Variance::default(),
    ));
    let data = DataInfo {
        name: "toy".into(),
        shape: vec![1, 2, 2],
        classes: Vec::new(),
        units: Units::identity(1),
        series: None,
        latent: false,
        has_captions: false,
    };
    let classes = Some(3);
    let guide = guide.map(|network| TrainedModel { classes, ..TrainedModel::new(network, &diffusion, &data) });
    let guide = guide.as_ref();
    let model = TrainedModel { classes, null_class: Some(3), guide, ..TrainedModel::new(network, &diffusion, &data) };
    let job = SamplingJob {
        count: 3,
        seed: 1,
        batch_size: 2,
        steps: Some(2),
        levels: LevelSchedule::default(),
        plan: None,
        noise: NoiseChoice::default(),
        class: ClassChoice::Any,
        clip,
        guidance,
        ..SamplingJob::new(Sampler::Ddim { eta: 0.0 }, &model)
    };
    job.run(&model, &Device::flex(), &mut |_| {}).map_err(|error| error.to_string())
}

#[test]
fn a_job_asks_once_for_both_answers_and_only_where_it_guides() {
    let plain = run(&Toy::new(0.2), None, Guidance::default(), Clip::None).unwrap();
    let rows = |guidance| {
        let toy = Toy::new(0.2);
        let samples = run(&toy, None, guidance, Clip::None).unwrap();
        (toy.rows.into_inner(), samples == plain)
    };
    let scale = |scale| Guidance { scale, ..Guidance::default() };
    // Two steps of a batch of two and of a batch of one.
    assert_eq!(rows(scale(1.0)), (vec![2, 2, 1, 1], true));
    assert_eq!(rows(scale(3.0)), (vec![4, 4, 2, 2], false));
    let interval = |lo, hi| Guidance { interval: Interval { lo, hi }, ..scale(3.0) };
    assert_eq!(rows(interval(1e3, 1e4)), (vec![2, 2, 1, 1], true));
    assert_eq!(rows(interval(1.0, 1e4)), (vec![4, 2, 2, 1], false));
    assert_eq!(rows(Guidance { rescale: 0.5, ..scale(3.0) }), (vec![4, 4, 2, 2], false));
}

#[test]
fn a_job_is_guided_by_a_weaker_model_of_the_same_data() {
    let plain = run(&Toy::new(0.2), None, Guidance::default(), Clip::None).unwrap();
    let guidance = Guidance { scale: 2.0, ..Guidance::default() };
    let guided = |weight| run(&Toy::new(0.2), Some(&Toy::new(weight)), guidance, Clip::None).unwrap();
    assert_eq!(guided(0.2), plain);
    assert_ne!(guided(0.1), plain);
    let idle = run(&Toy::new(0.2), Some(&Toy::new(0.1)), Guidance::default(), Clip::None).unwrap_err();
    assert!(idle.contains("scale 1"), "{idle}");
}

#[test]
fn networks_that_cannot_be_guided_are_refused_with_the_reason() {
    let network = Guidable { shape: &[1, 2, 2], classes: Some(3), null_class: Some(3) };
    let without_null = Guidable { null_class: None, ..network };
    let without_classes = Guidable { classes: None, ..without_null };
    let guidance = Guidance { scale: 2.0, ..Guidance::default() };
    let check = |network, guide| guidance.check(network, guide, Clip::Unit);
    assert_eq!(check(network, None), Ok(()));
    assert_eq!(check(without_null, None), Err(GuidanceError::NoNullClass));
    assert_eq!(check(without_classes, None), Err(GuidanceError::Unconditional));
    for guide in [network, without_null, without_classes] {
        assert_eq!(check(without_null, Some(guide)), Ok(()));
    }
    let other_classes = Guidable { classes: Some(4), ..network };
    assert_eq!(check(network, Some(other_classes)), Err(GuidanceError::GuideClasses { guide: 4, network: 3 }));
    assert_eq!(check(without_classes, Some(network)), Err(GuidanceError::GuideClasses { guide: 3, network: 0 }));
    let not_a_number = Guidance { scale: f64::NAN, ..guidance };
    assert!(matches!(not_a_number.check(network, None, Clip::Unit), Err(GuidanceError::Scale { .. })));
}
