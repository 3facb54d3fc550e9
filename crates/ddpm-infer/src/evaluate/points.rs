//! Judging points: no extractor, and distances of clouds.

use anyhow::bail;
use ddpm_data::{DataConfig, Split};

use super::real::Real;
use super::{Drawn, EvalArgs, Part};
use crate::bar::progress_bar;
use crate::device::OpenDevice;
use crate::evaluation::arrays::RowReader;
use crate::evaluation::judge::{Measured, Verdict};
use crate::evaluation::points::{DIRECTIONS, chamfer, energy_distance, mode_weights, sliced_wasserstein_2};
use crate::evaluation::sources::gaussian_draws;
use crate::evaluation::{Features, Moments, symmetric_root};
use crate::sample::show;

/// Samples, the floor of real points against real ones, and a fitted Gaussian.
pub(super) fn judge(args: &EvalArgs, real: &Real, drawn: &[Drawn], open: &OpenDevice) -> anyhow::Result<Vec<Verdict>> {
    if args.shard.is_some() {
        bail!("--shard is for pictures: points have no features that would be worth sharing out");
    }
    if drawn.iter().any(|drawn| drawn.snapshot.config.data.shape != [2]) {
        bail!("the snapshot does not make points in the plane, but --against are such points");
    }
    let mut sets = Vec::new();
    for drawn in drawn {
        eprintln!("{}: {} points on {}", drawn.name, drawn.job.count, open.name);
        let bar = progress_bar("{bar:28} {pos}/{len} steps  {msg}  {elapsed} < {eta}", 0);
        let samples = drawn.samples(open).draw(0..drawn.job.count, &mut |progress| show(&bar, progress))?;
        bar.finish_and_clear();
        sets.push((drawn.name.clone(), Features::new(2, samples.values)));
    }
    if let Some(path) = &args.files {
        let files = Real::parse(&path.to_string_lossy())?;
        sets.push((path.display().to_string(), all(&files, Split::Test, args.count.unwrap_or(usize::MAX))?));
    }
    let count = sets.first().map_or(2048, |(_, set)| set.len());
    let (split, other) = match args.split {
        Part::Train => (Split::Train, Split::Test),
        Part::Test => (Split::Test, Split::Train),
    };
    let (reference, other) = match real {
        Real::Data(_) => (all(real, split, count)?, all(real, other, count)?),
        _ => {
            let points = all(real, split, usize::MAX)?;
            let half = |odd: usize| points.select((0..points.len()).filter(|row| row % 2 == odd));
            (half(1), half(0))
        }
    };
    if reference.width() != 2 || sets.iter().any(|(_, set)| set.width() != 2) {
        bail!("points are judged in the plane: expected two coordinates");
    }
    let fitted = Moments::of(&other).statistics()?;
    let gaussian = gaussian_draws(&fitted.mean, &symmetric_root(&fitted.covariance)?, args.sweep.seed, 0..count);
    sets.push(("real points".into(), other));
    sets.push(("fitted Gaussian".into(), gaussian));

    let centres = match real {
        Real::Data(config) => centres(config),
        _ => Vec::new(),
    };
    let against = match real {
        Real::Data(config) => format!("{} {}", ddpm_data::open(config, split, 0)?.info.name, split.name()),
        _ => "every other real point".into(),
    };
    sets.iter().map(|(name, set)| verdict(name, set, &reference, &against, &centres)).collect()
}

fn verdict(
    of: &str,
    set: &Features,
    reference: &Features,
    against: &str,
    centres: &[[f32; 2]],
) -> anyhow::Result<Verdict> {
    let counts = format!("{} points against {}", set.len(), reference.len());
    let mut measured = Vec::new();
    let mut add = |metric: String, value: f64| {
        let name = format!("{metric} ({counts})");
        measured.push(Measured { metric, name, value, deviation: None });
    };
    let distances = chamfer(set, reference)?;
    add("chamfer distance, squared and summed both ways".into(), distances.sum_squared);
    add("chamfer distance, means".into(), distances.mean_distance);
    add(format!("sliced Wasserstein-2, {DIRECTIONS} directions"), sliced_wasserstein_2(set, reference)?);
    add("energy distance".into(), energy_distance(set, reference)?);
    if !centres.is_empty() {
        let weights = mode_weights(set, centres);
        let even = 1.0 / centres.len() as f64;
        let worst = weights.iter().map(|weight| (weight - even).abs()).fold(0.0, f64::max);
        add(format!("largest error of the weights of {} modes", centres.len()), worst);
    }
    let (of, count, against) = (of.to_string(), set.len(), against.to_string());
    Ok(Verdict { of, count, against, measured, class_shares: Vec::new(), warnings: Vec::new() })
}

/// The first points, in the units of the data.
fn all(real: &Real, split: Split, most: usize) -> anyhow::Result<Features> {
    match real {
        Real::Data(config) => {
            let data = ddpm_data::open(config, split, 0)?;
            let mut values = Vec::new();
            for index in 0..data.items.len().min(most) {
                let item = data.items.get(index)?.values;
                let unit = |(axis, value): (usize, &f32)| data.info.units.data_unit(axis, f64::from(*value)) as f32;
                values.extend(item.iter().enumerate().map(unit));
            }
            Ok(Features::new(data.info.shape[0], values))
        }
        Real::Array(path) => {
            let mut reader = RowReader::open(path)?;
            let [count, width] = reader.header().shape[..] else {
                bail!("{}: an array {:?}; expected points [N, 2]", path.display(), reader.header().shape);
            };
            let values = reader.rows(0..count.min(most), path)?;
            Ok(Features::new(width, values.into_iter().map(|value| value as f32).collect()))
        }
        Real::Folder(path) | Real::Statistics(path) => bail!("{}: expected points", path.display()),
    }
}

/// Where the modes lie, of data that have such: as the formulas of these data place and scale them.
fn centres(config: &DataConfig) -> Vec<[f32; 2]> {
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
    fn the_centres_are_those_of_the_data() {
        for (kind, modes) in [("gaussians-8", 8), ("gaussians-25", 25)] {
            let config: DataConfig = serde_json::from_str(&format!(r#"{{"kind": "{kind}"}}"#)).unwrap();
            let centres = centres(&config);
            assert_eq!(centres.len(), modes);
            let points = all(&Real::Data(config), Split::Test, 4000).unwrap();
            let far = points.rows().filter(|p| {
                let near = |c: &[f32; 2]| (p[0] - c[0]).hypot(p[1] - c[1]) < 0.5;
                !centres.iter().any(near)
            });
            assert!(far.count() < 10, "{kind}");
            let even = 1.0 / modes as f64;
            assert!(mode_weights(&points, &centres).iter().all(|weight| (weight - even).abs() < 0.03));
        }
    }
}
