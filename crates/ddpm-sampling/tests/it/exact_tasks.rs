//! Tasks beside sampling where the right answer is known in closed form.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor};
use ddpm_data::{DataInfo, Units};
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{Schedule, ScheduleConfig};
use ddpm_model::variance::Variance;
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::{ClassChoice, JobError, Predictor, Samples, SamplingJob, TrainedModel};
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::samplers::{Langevin, NoiseSource, Sampler, Step};
use ddpm_sampling::steps::{Spacing, levels};
use ddpm_sampling::tasks::{Inpainting, Task, TaskError, inpaint, invert, noised, remaining_levels, slerp};
use ddpm_testing::known;
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

const DDIM: Sampler = Sampler::Ddim { eta: 0.0 };
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
        let between = slerp(&a, &b, &[share; 20]);
        assert!(norms(&between).iter().all(|norm| (norm - 1.0).abs() < 1e-12));
        for (part, whole) in angles(&a, &between).zip(angles(&a, &b)) {
            assert!((part - share * whole).abs() < 1e-7, "{part} of {whole}");
        }
    }
    let ends = [0.0, 1.0].map(|share| slerp(&a, &b, &[share; 20]));
    assert!(worst(&ends[0], &a) < 1e-15 && worst(&ends[1], &b) < 1e-15);
    let apart = slerp(&a, &b, &[[0.0; 10], [1.0; 10]].concat());
    assert_eq!(values(apart.narrow(0, 10, 10)), values(ends[1].clone().narrow(0, 10, 10)), "a share for each row");
    assert!(worst(&slerp(&a, &a, &[0.3; 20]), &a) < 1e-12, "there is no arc, and nothing to divide by");
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
        let levels = remaining_levels(&levels, strength);
        let x = match levels.len() {
            0 | 1 => x_0.clone(),
            _ => {
                let x = noised(x_0.clone(), levels[0], start.clone());
                ANCESTRAL.run(&GAUSSIAN, levels, x, &mut noise, &mut |_| {})
            }
        };
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
        inpaint(DDIM, &GAUSSIAN, &levels, &known, &mask, Inpainting::REPLACEMENT, start, &mut noise, &mut |_| {})
    };
    assert_eq!(values(paint(1.0)), values(known.clone()));
    let (start, mut noise) = noise(8, 4);
    let sampled = DDIM.run(&GAUSSIAN, &levels, start, &mut noise, &mut |_| {});
    assert!(worst(&paint(0.0), &sampled) < 1e-12);
}

#[test]
fn inversion_finds_the_noise_and_ddim_the_data_again() {
    let x_0 = data(9, 32);
    let mut errors = Vec::new();
    for steps in [125, 250, 500, 1000] {
        let levels = all_levels(steps);
        let noise = invert(&GAUSSIAN, &levels, x_0.clone());
        let mut none = |_: usize| unreachable!("ddim draws nothing");
        let again = DDIM.run(&GAUSSIAN, &levels, noise.clone(), &mut none, &mut |_| {});
        let clean = NoiseLevel { alpha: 1.0, sigma: 0.0 };
        let exact = GAUSSIAN.flow(&x_0, clean, levels[0]);
        errors.push((worst(&again, &x_0), worst(&noise, &exact)));
    }
    assert!(errors.windows(2).all(|pair| pair[1].0 < 0.8 * pair[0].0 && pair[1].1 < 0.8 * pair[0].1), "{errors:?}");
    assert!(errors[3].0 < 0.01 && errors[3].1 < 0.01, "{errors:?}");
}

/// The best network for [`GAUSSIAN`], which predicts x_0. The class shifts the mean.
struct Best(Schedule);

impl Predictor for Best {
    fn predict(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let (shape, rows) = (x_t.dims(), x_t.dims()[0]);
        let step = t.into_data().iter::<f64>().next().unwrap() as usize;
        let level = self.0.level(step);
        let shift = match condition {
            Condition::None | Condition::Tokens(_) => Tensor::<2>::zeros([rows, 1], &Device::flex()),
            Condition::Class(class) => class.clone().float().reshape([rows, 1]),
        };
        let x = x_t.reshape::<2, _>([rows, 2]).cast(DType::F64);
        let shift = shift.cast(DType::F64);
        let x_0 = GAUSSIAN.denoise(&(x - shift.clone() * level.alpha), level).x_0 + shift;
        x_0.cast(DType::F32).reshape(shape)
    }
}

/// How many classes the network knows, and whether one stands for none.
type Classes = (Option<usize>, bool);

fn run(job: &SamplingJob, (classes, null): Classes) -> Result<Samples, JobError> {
    let (schedule, diffusion, data) = toy();
    let network = Best(schedule);
    let null_class = classes.filter(|_| null);
    let model = TrainedModel { classes, null_class, ..TrainedModel::new(&network, &diffusion, &data) };
    job.run(&model, &Device::flex(), &mut |_| {})
}

/// A schedule, the diffusion over it, and points.
fn toy() -> (Schedule, Diffusion, DataInfo) {
    let schedule = ScheduleConfig::Linear { steps: 100, beta_start: 1e-3, beta_end: 0.2 }.init().unwrap();
    let diffusion = GaussianDiffusion::new(schedule.clone(), Prediction::X0, Variance::FixedSmall);
    let data = DataInfo {
        name: "toy".into(),
        shape: vec![2],
        classes: Vec::new(),
        units: Units::identity(2),
        series: None,
        latent: false,
        has_captions: false,
    };
    (schedule, diffusion.into(), data)
}

fn job(task: Task, sampler: Sampler) -> SamplingJob {
    let (_, diffusion, data) = toy();
    SamplingJob {
        task,
        count: 7,
        seed: 4,
        batch_size: 7,
        steps: Some(10),
        levels: LevelSchedule::default(),
        frames: 3,
        ..SamplingJob::of_data(sampler, &diffusion, &data)
    }
}

/// Three points.
fn given() -> Vec<f32> {
    vec![0.5, -0.5, 1.5, 0.1, -0.7, -1.1]
}

fn resemble(strength: f64) -> Task {
    Task::Resemble { given: given(), strength }
}

fn half_known(plan: Inpainting) -> Task {
    Task::Inpaint { given: given(), known: vec![true, false], plan }
}

const REPAINT: Inpainting = Inpainting { jump: 3, resamples: 2 };

#[test]
fn a_task_does_the_same_to_a_sample_in_any_batch() {
    let tasks = [
        (Task::ClassGrid { per_class: 3 }, ANCESTRAL),
        (Task::Interpolate { row: 3 }, DDIM),
        (resemble(0.5), ANCESTRAL),
        (half_known(Inpainting::REPLACEMENT), ANCESTRAL),
        (half_known(REPAINT), ANCESTRAL),
        (Task::Invert { given: given() }, DDIM),
    ];
    for (task, sampler) in tasks {
        let all = run(&job(task.clone(), sampler), (Some(3), true)).unwrap();
        assert_eq!((all.values.len(), all.frames.len(), all.row), (14, 3, task.row()), "{task:?}");
        assert!(all.frames.iter().all(|frame| frame.values.len() == 14), "{task:?}");
        assert_eq!(all.frames[2].values, all.values, "{task:?}: the last frame is the end");
        for batch_size in [1, 2, 3] {
            let parts = run(&SamplingJob { batch_size, ..job(task.clone(), sampler) }, (Some(3), true)).unwrap();
            assert_eq!(parts, all, "{task:?} in batches of {batch_size}");
        }
        let fewer = run(&SamplingJob { count: 4, batch_size: 3, ..job(task.clone(), sampler) }, (Some(3), true));
        assert_eq!(fewer.unwrap().values, all.values[..8], "{task:?}");
    }
}

#[test]
fn a_row_of_a_grid_is_a_class_and_a_column_a_noise() {
    let grid = job(Task::ClassGrid { per_class: 2 }, ANCESTRAL);
    let found = run(&SamplingJob { count: 6, ..grid }, (Some(3), false)).unwrap();
    assert_eq!(found.labels, [0, 0, 1, 1, 2, 2].map(Some));
    for (row, next) in found.values.chunks(4).zip(found.values.chunks(4).skip(1)) {
        // With the same noise, the class only moves the point.
        assert!(row.iter().zip(next).all(|(a, b)| (b - a - 1.0).abs() < 1e-4), "{:?}", found.values);
    }
}

#[test]
fn an_interpolation_walks_from_one_sample_to_another() {
    let sampled = |task, count| run(&SamplingJob { count, ..job(task, DDIM) }, (None, false)).unwrap().values;
    let (rows, ends) = (sampled(Task::Interpolate { row: 5 }, 10), sampled(Task::Sample, 4));
    for (row, ends) in rows.chunks(10).zip(ends.chunks(4)) {
        let off = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()));
        assert!(off(&row[..2], &ends[..2]) < 1e-5 && off(&row[8..], &ends[2..]) < 1e-5, "{row:?} {ends:?}");
        let steps: Vec<f32> = row.windows(4).step_by(2).map(|pair| off(&pair[..2], &pair[2..])).collect();
        assert!(steps.iter().all(|step| *step < 0.8 * off(&ends[..2], &ends[2..])), "{steps:?}");
    }
    let classes = run(&job(Task::Interpolate { row: 3 }, DDIM), (Some(2), false)).unwrap().labels;
    assert_eq!(classes, [0, 0, 0, 1, 1, 1, 0].map(Some), "a row has one class");
}

#[test]
fn what_resembles_a_point_stays_near_it_the_more_the_less_the_strength() {
    let distance = |strength| {
        let job = SamplingJob { count: 300, steps: Some(50), ..job(resemble(strength), ANCESTRAL) };
        let found = run(&job, (None, false)).unwrap().values;
        let given = given();
        let off = found.iter().zip(given.iter().cycle()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        (off / 300.0).sqrt()
    };
    let found = [0.1, 0.2, 0.4].map(distance);
    assert!(found.is_sorted_by(|a, b| a < b), "{found:?}");
    // So few steps are walked that the noise of their first level is small.
    assert!(found[0] < 0.5, "{found:?}");
}

#[test]
fn every_sampler_paints_around_what_is_known() {
    for plan in [Inpainting::REPLACEMENT, REPAINT] {
        for sampler in Sampler::ALL {
            let found = run(&job(half_known(plan), *sampler), (None, false)).unwrap().values;
            for (k, point) in found.chunks(2).enumerate() {
                assert_eq!(point[0], given()[2 * (k % 3)], "{sampler:?} {plan:?}");
                assert!(point[1].is_finite() && point[1].abs() < 5.0, "{sampler:?} {plan:?}: {point:?}");
            }
        }
    }
}

#[test]
fn an_inversion_gives_the_noise_and_the_points_again() {
    let steps = |steps| SamplingJob { count: 3, steps: Some(steps), ..job(Task::Invert { given: given() }, DDIM) };
    let worst = |steps_taken| {
        let found = run(&steps(steps_taken), (None, false)).unwrap();
        assert_eq!(found.noise.len(), 6);
        found.values.iter().zip(given()).fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs()))
    };
    let (few, many) = (worst(20), worst(100));
    assert!(many < 0.4 * few && many < 0.1, "{few} {many}");
    // The class matters to it: with another one, another noise leads to the same points.
    let with = |class| SamplingJob { class, ..steps(100) };
    let [none, two] = [ClassChoice::Any, ClassChoice::One(2)].map(|c| run(&with(c), (Some(3), true)).unwrap());
    assert_ne!(none.noise, two.noise);
    assert_eq!(two.labels, [Some(2); 3]);
}

#[test]
fn tasks_that_make_no_sense_say_why() {
    let free: Classes = (None, false);
    let refuse = |job: &SamplingJob, classes: Classes, part: &str| {
        let message = run(job, classes).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    let langevin = Sampler::Langevin { langevin: Langevin::USUAL };
    let invert = || Task::Invert { given: given() };
    for (task, sampler, classes, part) in [
        (resemble(0.0), DDIM, free, "strength is 0"),
        (resemble(1.5), DDIM, free, "1.5"),
        (resemble(f64::NAN), DDIM, free, "NaN"),
        (resemble(0.01), DDIM, free, "step of 10"),
        (resemble(0.5), langevin, free, "langevin"),
        (Task::Resemble { given: vec![], strength: 0.5 }, DDIM, free, "0 values"),
        (Task::Resemble { given: vec![1.0; 3], strength: 0.5 }, DDIM, free, "3 values"),
        (Task::Interpolate { row: 4 }, ANCESTRAL, free, "ddpm"),
        (Task::Interpolate { row: 1 }, DDIM, free, "at least 2, not 1"),
        (invert(), ANCESTRAL, free, "ddpm"),
        (invert(), Sampler::Ddim { eta: 0.3 }, free, "eta 0"),
        (invert(), DDIM, (Some(3), false), "which class"),
        (Task::ClassGrid { per_class: 2 }, DDIM, free, "without classes"),
        (Task::ClassGrid { per_class: 0 }, DDIM, (Some(3), false), "at least 1"),
        (half_known(Inpainting { jump: 0, resamples: 1 }), DDIM, free, "jump"),
        (half_known(Inpainting { jump: 1, resamples: 0 }), DDIM, free, "resamplings"),
    ] {
        refuse(&job(task, sampler), classes, part);
    }
    for known in [vec![], vec![true, true], vec![false, false], vec![true]] {
        let task = Task::Inpaint { given: given(), known, plan: Inpainting::REPLACEMENT };
        let error = run(&job(task, DDIM), free).unwrap_err();
        assert!(matches!(error, JobError::Task(TaskError::Mask { .. })), "{error}");
    }
    let one = SamplingJob { class: ClassChoice::One(1), ..job(Task::ClassGrid { per_class: 2 }, DDIM) };
    refuse(&one, (Some(3), false), "single class");
    let guided = Guidance { scale: 2.0, ..Guidance::default() };
    refuse(&SamplingJob { guidance: guided, ..job(invert(), DDIM) }, (Some(3), true), "pass --class");
}
