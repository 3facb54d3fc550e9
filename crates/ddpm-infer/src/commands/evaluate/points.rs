//! Evaluation of points: distances between clouds, without an extractor.

use anyhow::bail;
use ddpm_console::bar::progress_bar;
use ddpm_console::say;
use ddpm_data::{DataConfig, Split};
use ddpm_device::device::OpenDevice;
use ddpm_eval::metrics::{Evaluation, Measurement};
use ddpm_eval::points::{DIRECTIONS, chamfer, energy_distance, mode_weights, sliced_wasserstein_2};
use ddpm_eval::sources::gaussian_draws;
use ddpm_eval::{Features, Moments, symmetric_root};
use ddpm_files::npy::RowReader;

use super::input_set::InputSet;
use super::{EvalArgs, SampleSet};
use crate::commands::sample::show;

/// Points with their name.
type Cloud = (String, Features);

/// Evaluates all sets of samples, then the floor of real points against real ones, and a fitted Gaussian.
pub(super) fn evaluate(
    args: &EvalArgs,
    reference: &InputSet,
    sample_sets: &[SampleSet],
    open: &OpenDevice,
) -> anyhow::Result<Vec<Evaluation>> {
    if args.shard.is_some() {
        bail!("--shard is for images: points have no features to extract");
    }
    let mut sets = sample(sample_sets, open)?;
    if let Some(path) = &args.files {
        let files = InputSet::parse(&path.to_string_lossy())?;
        let points = points(&files, Split::Test, args.count.unwrap_or(usize::MAX))?;
        sets.push((path.display().to_string(), points));
    }
    let count = sets.first().map_or(2048, |(_, set)| set.len());
    let (real, other) = real_points(reference, args.split, count)?;
    if real.width() != 2 || sets.iter().any(|(_, set)| set.width() != 2) {
        bail!("metrics of points are for the plane: expected two coordinates");
    }
    let fit = Moments::of(&other).statistics()?;
    let gaussian = gaussian_draws(&fit.mean, &symmetric_root(&fit.covariance)?, args.sweep.seed, 0..count);
    sets.push(("real points".into(), other));
    sets.push(("fitted Gaussian".into(), gaussian));

    let (against, centers) = match reference {
        InputSet::Data(config) => {
            let name = ddpm_data::open(config, args.split, 0)?.info.name;
            (format!("{name} {}", args.split.name()), centers(config))
        }
        _ => ("every other real point".into(), Vec::new()),
    };
    sets.iter().map(|(name, set)| metrics(name, set, &real, &against, &centers)).collect()
}

fn sample(sample_sets: &[SampleSet], open: &OpenDevice) -> anyhow::Result<Vec<Cloud>> {
    if sample_sets.iter().any(|set| set.data.shape != [2]) {
        bail!("the snapshot does not generate points in the plane, but --against are such points");
    }
    let mut clouds = Vec::new();
    for set in sample_sets {
        say!("{}: {} points on {}", set.name, set.count, open.name);
        let bar = progress_bar("{bar:28} {pos}/{len} steps  {msg}  {elapsed} < {eta}", 0);
        let samples = set.source(open).generate(0..set.count, &mut |progress| show(&bar, progress));
        let samples = samples.map_err(anyhow::Error::from_boxed)?;
        bar.finish_and_clear();
        clouds.push((set.name.clone(), Features::new(2, samples.values)));
    }
    Ok(clouds)
}

/// The reference points and other real points: `count` of both splits, or the two halves of a set without splits.
fn real_points(reference: &InputSet, split: Split, count: usize) -> anyhow::Result<(Features, Features)> {
    if let InputSet::Data(_) = reference {
        return Ok((points(reference, split, count)?, points(reference, split.other(), count)?));
    }
    let all = points(reference, split, usize::MAX)?;
    let half = |odd: usize| all.select((0..all.len()).filter(|row| row % 2 == odd));
    Ok((half(1), half(0)))
}

/// All metrics of a set.
fn metrics(
    of: &str,
    set: &Features,
    reference: &Features,
    against: &str,
    centers: &[[f32; 2]],
) -> anyhow::Result<Evaluation> {
    let counts = format!("{} points against {}", set.len(), reference.len());
    let mut measured = Vec::new();
    let mut add = |metric: String, value: f64| {
        let name = format!("{metric} ({counts})");
        measured.push(Measurement { metric, name, value, deviation: None });
    };
    let distances = chamfer(set, reference)?;
    add("chamfer distance, squared and summed both ways".into(), distances.sum_squared);
    add("chamfer distance, means".into(), distances.mean_distance);
    add(format!("sliced Wasserstein-2, {DIRECTIONS} directions"), sliced_wasserstein_2(set, reference)?);
    add("energy distance".into(), energy_distance(set, reference)?);
    if !centers.is_empty() {
        let weights = mode_weights(set, centers);
        let even = 1.0 / centers.len() as f64;
        let worst = weights.iter().map(|weight| (weight - even).abs()).fold(0.0, f64::max);
        add(format!("largest error of the weights of {} modes", centers.len()), worst);
    }
    let (of, count, against) = (of.to_string(), set.len(), against.to_string());
    Ok(Evaluation { of, count, against, measured, class_shares: Vec::new(), warnings: Vec::new() })
}

/// The first points of a set, at most `most`, in the units of the data.
fn points(set: &InputSet, split: Split, most: usize) -> anyhow::Result<Features> {
    match set {
        InputSet::Data(config) => {
            let data = ddpm_data::open(config, split, 0)?;
            let mut values = Vec::new();
            for index in 0..data.items.len().min(most) {
                values.extend(data.items.get(index)?.values);
            }
            Ok(Features::new(data.info.shape[0], data.info.in_data_units(values)))
        }
        InputSet::Array(path) => {
            let mut reader = RowReader::open(path)?;
            let [count, width] = reader.header().shape[..] else {
                bail!("{}: an array {:?}; expected points [N, 2]", path.display(), reader.header().shape);
            };
            let values = reader.rows(0..count.min(most), path)?;
            Ok(Features::new(width, values.into_iter().map(|value| value as f32).collect()))
        }
        InputSet::Folder(path) | InputSet::Statistics(path) => bail!("{}: expected points", path.display()),
    }
}

/// The centers of the modes, for datasets with modes, in the units of the data.
fn centers(config: &DataConfig) -> Vec<[f32; 2]> {
    let noise: f64 = 0.05 * 0.05;
    match config {
        DataConfig::Gaussians8(_) => {
            let scale = 2.0 / (0.5 + noise).sqrt();
            let one = |k: i32| {
                let (sin, cos) = (std::f64::consts::FRAC_PI_4 * f64::from(k)).sin_cos();
                [(cos * scale) as f32, (sin * scale) as f32]
            };
            (0..8).map(one).collect()
        }
        DataConfig::Gaussians25(_) => {
            let scale = 2.0 / (2.0 + noise).sqrt();
            let place = |k: i32| (f64::from(k - 2) * scale) as f32;
            (0..25).map(|k| [place(k / 5), place(k % 5)]).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_centers_are_those_of_the_data() {
        for (kind, modes) in [("gaussians-8", 8), ("gaussians-25", 25)] {
            let config: DataConfig = serde_json::from_str(&format!(r#"{{"kind": "{kind}"}}"#)).unwrap();
            let centers = centers(&config);
            assert_eq!(centers.len(), modes);
            let points = points(&InputSet::Data(config), Split::Test, 4000).unwrap();
            let far = points.rows().filter(|p| {
                let near = |c: &[f32; 2]| (p[0] - c[0]).hypot(p[1] - c[1]) < 0.5;
                !centers.iter().any(near)
            });
            assert!(far.count() < 10, "{kind}");
            let even = 1.0 / modes as f64;
            assert!(mode_weights(&points, &centers).iter().all(|weight| (weight - even).abs() < 0.03));
        }
    }
}
