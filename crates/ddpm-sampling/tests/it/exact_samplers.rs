//! Samplers on data whose best denoiser is known in closed form.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_data::{DataInfo, Units};
use ddpm_model::condition::Condition;
use ddpm_model::denoiser::Denoiser;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::{Clip, GaussianDiffusion};
use ddpm_model::network::NetworkConfig;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::point_mlp::PointMlpConfig;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{Schedule, ScheduleConfig};
use ddpm_model::unet::UNetConfig;
use ddpm_model::variance::Variance;
use ddpm_sampling::job::{ClassChoice, Predictor, SamplingJob, TrainedModel};
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::noise::NoiseChoice;
use ddpm_sampling::noise::SampleNoise;
use ddpm_sampling::samplers::{Churn, Langevin, NoiseSource, Sampler, Step, Tolerance, rk45};
use ddpm_sampling::steps::{Spacing, levels};
use ddpm_testing::known;
use known::{GAUSSIAN, MIXTURE, tensor, values};

fn linear(steps: usize) -> Schedule {
    let scale = 1000.0 / steps as f64;
    ScheduleConfig::Linear { steps, beta_start: 1e-4 * scale, beta_end: 0.02 * scale }.init().unwrap()
}

/// Noise for `count` points in f64.
fn noise(seed: u64, count: usize) -> (Tensor<2>, impl FnMut(usize) -> Tensor<2>) {
    let mut noise = SampleNoise::<2>::new(seed, 0..count, [0, 2], &Device::flex());
    let start = noise.start().cast(DType::F64);
    (start, move |step| noise.step(step).cast(DType::F64))
}

fn sample(sampler: Sampler, denoiser: &dyn Denoiser<2>, levels: &[NoiseLevel], count: usize) -> Vec<f64> {
    let (x, mut noise) = noise(11, count);
    values(sampler.run(denoiser, levels, x, &mut noise, &mut |_| {}))
}

fn all_levels(schedule: &Schedule) -> Vec<NoiseLevel> {
    levels(schedule, &Spacing::Trailing.choose(schedule.len(), schedule.len()).unwrap())
}

/// Langevin dynamics settle at every level, and the last of them decide about the widths of the data.
fn annealing(schedule: &Schedule) -> Vec<NoiseLevel> {
    "exponential".parse::<LevelSchedule>().unwrap().levels(120, schedule).unwrap()
}

/// Mean and covariance of points.
fn moments(points: &[f64]) -> ([f64; 2], [f64; 4]) {
    let n = (points.len() / 2) as f64;
    let mean = [0, 1].map(|c| points.iter().skip(c).step_by(2).sum::<f64>() / n);
    let covariance = [(0, 0), (0, 1), (1, 0), (1, 1)]
        .map(|(a, b)| points.chunks_exact(2).map(|p| (p[a] - mean[a]) * (p[b] - mean[b])).sum::<f64>() / n);
    (mean, covariance)
}

/// Every sampler, and what else some of them can be told.
fn all_samplers() -> Vec<Sampler> {
    let churn = Churn { amount: 80.0, ..Churn::NONE };
    let others =
        [Sampler::Ddpm { variance: Variance::FixedLarge }, Sampler::Ddim { eta: 0.5 }, Sampler::Heun { churn }];
    Sampler::ALL.iter().copied().chain(others).collect()
}

/// Enough of the levels that are usual for a sampler: its noise takes many steps to be right, its flow few.
fn enough_levels(sampler: Sampler, schedule: &Schedule) -> Vec<NoiseLevel> {
    match sampler.order() {
        _ if matches!(sampler, Sampler::Langevin { .. }) => annealing(schedule),
        None => levels(schedule, &Spacing::Linspace.choose(250, schedule.len()).unwrap()),
        Some(1) => levels(schedule, &Spacing::Linspace.choose(50, schedule.len()).unwrap()),
        Some(_) => "karras".parse::<LevelSchedule>().unwrap().levels(40, schedule).unwrap(),
    }
}

#[test]
fn noise_on_the_way_leads_to_the_mean_and_covariance_of_the_data() {
    let count = 20_000;
    let schedule = linear(500);
    let wanted = GAUSSIAN.along_axes(GAUSSIAN.spread);
    for sampler in all_samplers().into_iter().filter(|sampler| sampler.order().is_none()) {
        let levels = match sampler {
            Sampler::Langevin { .. } => annealing(&schedule),
            _ => all_levels(&schedule),
        };
        let points = sample(sampler, &GAUSSIAN, &levels, count);
        let (mean, covariance) = moments(&points);
        for axis in 0..2 {
            // Four standard errors.
            let error = 4.0 * (wanted[3 * axis] / count as f64).sqrt();
            assert!((mean[axis] - GAUSSIAN.mean[axis]).abs() < error, "{sampler:?} {mean:?}");
        }
        for (found, wanted) in covariance.iter().zip(wanted) {
            // The error of a variance of 0.8, and that of 500 steps, which have a length.
            let error = 4.0 * 0.8 * (2.0 / count as f64).sqrt() + 0.01;
            assert!((found - wanted).abs() < error, "{sampler:?} {covariance:?}");
        }
    }
}

#[test]
fn every_sampler_keeps_the_weights_of_the_modes() {
    let count = 5_000;
    let schedule = linear(1000);
    for sampler in all_samplers() {
        let points = sample(sampler, &MIXTURE, &enough_levels(sampler, &schedule), count);
        let near_first = share_of_first_mode(&points);
        let error = 4.0 * (0.8f64 * 0.2 / count as f64).sqrt() + 0.005;
        assert!((near_first - 0.8).abs() < error, "{sampler:?}: {near_first}");
        // A deterministic sampler is continuous, so a few points have to end between the modes.
        let stray = |p: &&[f64]| MIXTURE.means.iter().all(|m| (p[0] - m[0]).hypot(p[1] - m[1]) > 0.6);
        let strays = points.chunks_exact(2).filter(stray).count();
        assert!(strays <= count / 200, "{sampler:?}: {strays} points belong to no mode");
    }
}

fn share_of_first_mode(points: &[f64]) -> f64 {
    let near_first = points.chunks_exact(2).filter(|p| p[0] + p[1] > 0.0).count();
    near_first as f64 / (points.len() / 2) as f64
}

/// What annealing is for: a score at a single level that tells the modes apart says nothing about their weights.
#[test]
fn langevin_dynamics_at_a_single_level_miss_the_weights_of_the_modes() {
    let count = 2_000;
    let langevin = Langevin { steps: 1_000, ..Langevin::USUAL };
    let levels = [NoiseLevel::from_ratio(0.1), NoiseLevel::from_ratio(0.0)];
    let (wide, mut noise) = noise(11, count);
    let points = values(Sampler::Langevin { langevin }.run(&MIXTURE, &levels, wide * 3.0, &mut noise, &mut |_| {}));
    // Every point is in a mode, though in the wrong one: it is not that the dynamics did not settle.
    let near = |p: &[f64]| MIXTURE.means.iter().any(|m| (p[0] - m[0]).hypot(p[1] - m[1]) < 0.6);
    assert!(points.chunks_exact(2).all(near));
    let share = share_of_first_mode(&points);
    assert!((share - 0.5).abs() < 0.05, "{share}");
    let annealed = sample(Sampler::Langevin { langevin: Langevin::USUAL }, &MIXTURE, &annealing(&linear(1000)), count);
    let share = share_of_first_mode(&annealed);
    assert!((share - 0.8).abs() < 0.04, "{share}");
}

#[test]
fn the_adaptive_solver_ends_where_the_flow_ends() {
    let (x, _) = noise(3, 64);
    let levels: Vec<NoiseLevel> = [50.0, 7.0, 1.0, 0.1, 0.02].map(NoiseLevel::from_ratio).to_vec();
    let mut calls = 0;
    for tolerance in [1e-3, 1e-5, 1e-7] {
        let tolerance = Tolerance { absolute: tolerance, relative: tolerance };
        let problems: [(&dyn Denoiser<2>, Tensor<2>); 2] =
            [(&GAUSSIAN, GAUSSIAN.flow(&x, levels[0], levels[4])), (&MIXTURE, MIXTURE.flow(&x, levels[0], levels[4]))];
        for (denoiser, wanted) in problems {
            let mut seen = Vec::new();
            let mut watch = |step: Step<'_, 2>| seen.push((step.index, step.level, values(step.x.clone())));
            let (found, effort) = rk45(denoiser, &levels, x.clone(), tolerance, &mut watch);
            let off = worst(&values(found), &values(wanted));
            // An error per step, which the flow of the mixture stretches between its modes.
            assert!(off < 300.0 * tolerance.absolute, "{tolerance:?}: {off}");
            assert!(effort.calls > calls / 2, "{effort:?}");
            calls = effort.calls;
            assert_eq!(seen.iter().map(|(index, ..)| *index).collect::<Vec<_>>(), [0, 1, 2, 3]);
            assert!(seen.iter().zip(&levels[1..]).all(|((_, level, _), wanted)| level == wanted));
        }
        // On its way it passes where it should.
        let mut watch = |step: Step<'_, 2>| {
            let off = worst(&values(step.x.clone()), &values(GAUSSIAN.flow(&x, levels[0], step.level)));
            assert!(off < 0.02, "{:?}: {off}", step.level);
        };
        rk45(&GAUSSIAN, &levels, x.clone(), tolerance, &mut watch);
    }
}

fn worst(found: &[f64], wanted: &[f64]) -> f64 {
    found.iter().zip(wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max)
}

#[test]
fn ddim_converges_to_the_flow_with_order_one_or_more() {
    let (x, _) = noise(3, 64);
    let mut errors = Vec::new();
    for steps in [250, 500, 1000, 2000] {
        // The levels of a finer and finer walk through the same continuous process.
        let levels = all_levels(&linear(steps));
        let wanted = values(GAUSSIAN.flow(&x, levels[0], levels[steps]));
        let found = sample_from(Sampler::Ddim { eta: 0.0 }, &levels, x.clone());
        let square = |(a, b): (&f64, &f64)| (a - b).powi(2);
        errors.push((found.iter().zip(&wanted).map(square).sum::<f64>() / 128.0).sqrt());
    }
    assert!(errors[3] < 0.01, "{errors:?}");
    for pair in errors.windows(2) {
        let order = (pair[0] / pair[1]).log2();
        assert!(order > 0.9, "order {order}: {errors:?}");
    }
}

fn sample_from(sampler: Sampler, levels: &[NoiseLevel], x: Tensor<2>) -> Vec<f64> {
    let mut none = |_| -> Tensor<2> { panic!("a deterministic sampler asked for noise") };
    values(sampler.run(&GAUSSIAN, levels, x, &mut none, &mut |_| {}))
}

#[test]
fn ddim_encodes_what_it_decodes() {
    let mut levels = all_levels(&linear(1000));
    levels.pop();
    let (x, _) = noise(3, 16);
    let decoded = tensor(&sample_from(Sampler::Ddim { eta: 0.0 }, &levels, x.clone()), [16, 2]);
    levels.reverse();
    let encoded = sample_from(Sampler::Ddim { eta: 0.0 }, &levels, decoded);
    for (found, wanted) in encoded.iter().zip(values(x)) {
        assert!((found - wanted).abs() < 0.05, "{found} {wanted}");
    }
}

#[test]
fn samplers_that_are_the_same_agree_step_by_step() {
    let schedule = linear(100);
    let levels = levels(&schedule, &Spacing::Leading.choose(20, 100).unwrap());
    let trail = |sampler: Sampler| {
        let (x, mut noise) = noise(5, 8);
        let mut trail = Vec::new();
        sampler.run(&MIXTURE, &levels, x, &mut noise, &mut |step| trail.extend(values(step.x.clone())));
        trail
    };
    let ancestral = Sampler::Ddpm { variance: Variance::FixedSmall };
    for (one, other) in [
        (Sampler::Ddim { eta: 1.0 }, ancestral),
        (Sampler::EulerAncestral, ancestral),
        (Sampler::Euler, Sampler::Ddim { eta: 0.0 }),
        (Sampler::FlowEuler, Sampler::Ddim { eta: 0.0 }),
    ] {
        let (found, wanted) = (trail(one), trail(other));
        assert_eq!(found.len(), 20 * 8 * 2);
        for (a, b) in found.iter().zip(wanted) {
            assert!((a - b).abs() < 1e-10, "{one:?}, {other:?}: {a} {b}");
        }
    }
}

/// Predicts the noise from every row by itself.
struct Toy;

impl Predictor for Toy {
    fn predict(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let mut rows = [1; 4];
        rows[0] = x_t.dims()[0];
        let shift = match condition {
            Condition::None | Condition::Tokens(_) => t * 1e-3,
            Condition::Class(class) => t * 1e-3 + class.clone().float(),
        };
        (x_t * 0.7 + shift.reshape(rows)).tanh()
    }
}

fn data(shape: &[usize]) -> DataInfo {
    DataInfo {
        name: "toy".into(),
        shape: shape.to_vec(),
        classes: Vec::new(),
        units: Units::identity(shape[0]),
        series: None,
        latent: false,
        has_captions: false,
    }
}

fn job(count: usize, batch_size: usize) -> SamplingJob {
    SamplingJob {
        count,
        seed: 9,
        batch_size,
        steps: Some(5),
        levels: LevelSchedule::default(),
        plan: None,
        noise: NoiseChoice::default(),
        class: ClassChoice::Any,
        clip: Clip::Unit,
        frames: 3,
        ..SamplingJob::of_data(Sampler::ALL[0], &toy_diffusion(), &data(&[2]))
    }
}

fn toy_diffusion() -> Diffusion {
    GaussianDiffusion::new(linear(50), Prediction::Eps, Variance::FixedSmall).into()
}

fn toy_model<T>(run: impl FnOnce(&TrainedModel<'_>) -> T, shape: &[usize], classes: Option<usize>) -> T {
    let (diffusion, data) = (toy_diffusion(), data(shape));
    run(&TrainedModel { classes, ..TrainedModel::new(&Toy, &diffusion, &data) })
}

#[test]
fn a_sample_is_the_same_in_any_batch_and_among_any_number() {
    for (shape, classes) in [(vec![1, 4, 4], Some(3)), (vec![2], None), (vec![2, 6], None)] {
        let run = |job: SamplingJob| {
            toy_model(|model| job.run(model, &Device::flex(), &mut |_| {}).unwrap(), &shape, classes)
        };
        let all = run(job(7, 7));
        assert_eq!(all.values.len(), 7 * shape.iter().product::<usize>());
        assert_eq!(all.labels, (0..7).map(|k| classes.map(|n| k % n)).collect::<Vec<_>>());
        assert_eq!(all.frames.iter().map(|frame| frame.steps_done).collect::<Vec<_>>(), [0, 2, 5]);
        for batch_size in [1, 2, 3, 100] {
            assert_eq!(run(job(7, batch_size)), all, "batches of {batch_size}");
        }
        let fewer = run(job(4, 3));
        assert_eq!(fewer.values, all.values[..fewer.values.len()]);
    }
}

#[test]
fn other_seeds_give_other_samples() {
    let run = |seed| {
        let job = SamplingJob { seed, ..job(2, 2) };
        toy_model(|model| job.run(model, &Device::flex(), &mut |_| {}).unwrap().values, &[2], None)
    };
    assert_ne!(run(1), run(2));
    let two = run(1);
    assert_ne!(two[..2], two[2..]);
}

#[test]
fn progress_ends_with_everything_done() {
    let mut seen = Vec::new();
    toy_model(|model| job(5, 2).run(model, &Device::flex(), &mut |p| seen.push(p)).unwrap(), &[2], None);
    let last = seen.last().unwrap();
    assert_eq!((last.samples_done, last.samples, last.steps_done, last.steps), (5, 5, 5, 5));
    assert!(seen.is_sorted_by_key(|p| p.samples_done));
}

#[test]
fn what_cannot_be_done_is_said_with_its_numbers() {
    let refuse = |job: SamplingJob, classes: Option<usize>, parts: &[&str]| {
        let result = toy_model(|model| job.run(model, &Device::flex(), &mut |_| {}), &[2], classes);
        let message = result.unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let plain = job(1, 1);
    refuse(SamplingJob { count: 0, ..plain.clone() }, None, &["number of samples"]);
    refuse(SamplingJob { batch_size: 0, ..plain.clone() }, None, &["batch size"]);
    refuse(SamplingJob { steps: Some(51), ..plain.clone() }, None, &["51", "50"]);
    refuse(SamplingJob { class: ClassChoice::One(3), ..plain.clone() }, Some(3), &["class 3", "0 to 2"]);
    refuse(SamplingJob { class: ClassChoice::One(3), ..plain.clone() }, None, &["without classes"]);
    let learned = Sampler::Ddpm { variance: Variance::Learned };
    refuse(SamplingJob { sampler: learned, ..plain }, None, &["FixedSmall"]);
}

/// Moves every weight, because the last layers start at zero and would hide everything before them.
struct Shake;

impl ModuleMapper for Shake {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|weight| {
            let count = weight.shape().num_elements();
            let noise: Vec<f32> = (0..count).map(|i| 0.03 * (i as f32 * 12.9898).sin()).collect();
            weight.clone() + Tensor::from_data(TensorData::new(noise, weight.shape()), &weight.device())
        })
    }
}

/// The product of a batch with the weights must not depend on how many rows the batch has.
#[test]
fn networks_give_a_sample_the_same_values_in_any_batch() {
    let unet = UNetConfig {
        base_channels: 16,
        multipliers: vec![1.0, 2.0],
        blocks_per_level: 1,
        attention_resolutions: vec![4],
        norm_groups: 8,
        ..UNetConfig::default()
    };
    for (config, shape) in
        [(NetworkConfig::UNet(unet), vec![1, 8, 8]), (NetworkConfig::PointMlp(PointMlpConfig::default()), vec![2])]
    {
        let network = config.with_io(&shape, shape[0]).init(&Device::flex()).map(&mut Shake);
        let diffusion = Diffusion::Discrete(GaussianDiffusion::new(linear(50), Prediction::X0, Variance::FixedSmall));
        let data = data(&shape);
        let model = TrainedModel::new(&network, &diffusion, &data);
        let run = |count, batch_size| {
            let job = SamplingJob { clip: Clip::None, ..job(count, batch_size) };
            job.run(&model, &Device::flex(), &mut |_| {}).unwrap().values
        };
        let all = run(9, 9);
        let seen: std::collections::BTreeSet<u32> = all.iter().map(|value| value.to_bits()).collect();
        assert!(seen.len() > all.len() / 4, "nearly all values are equal, which proves nothing");
        for batch_size in [1, 2, 4, 5] {
            assert_eq!(run(9, batch_size), all, "{shape:?} in batches of {batch_size}");
        }
    }
}
