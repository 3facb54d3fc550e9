//! What a task leaves beside the samples: a picture that compares them with what was given, and the noise and the
//! errors of an inversion.

use std::fmt::Write;
use std::path::Path;

use ddpm_files::{atomic, npy};
use ddpm_sampling::job::Samples;
use ddpm_sampling::tasks::Task;

/// Writes `comparison.png` for tasks on given pictures, and for an inversion also `noise.npy` and `errors.csv`, whose
/// summary it gives back as a line for people.
pub fn write(folder: &Path, task: &Task, samples: &Samples) -> anyhow::Result<Option<String>> {
    if task.given().is_empty() {
        return Ok(None);
    }
    let given: Vec<f32> = task.given().iter().copied().cycle().take(samples.values.len()).collect();
    let path = folder.join("comparison.png");
    match task {
        Task::Inpaint { known, .. } => {
            let left = |(value, known): (&f32, &bool)| if *known { *value } else { 0.0 };
            let left: Vec<f32> = given.iter().zip(known.iter().cycle()).map(left).collect();
            ddpm_render::write_comparison(&path, &[&given, &left, &samples.values], &samples.shape)?;
        }
        _ => ddpm_render::write_comparison(&path, &[&given, &samples.values], &samples.shape)?,
    }
    let Task::Invert { .. } = task else { return Ok(None) };
    let shape: Vec<usize> = [samples.count()].into_iter().chain(samples.shape.iter().copied()).collect();
    let path = folder.join("noise.npy");
    atomic::write(&path, npy::encode(&shape, &samples.noise))?;
    let per_item: usize = samples.shape.iter().product();
    let errors: Vec<Error> =
        given.chunks(per_item).zip(samples.values.chunks(per_item)).map(|(a, b)| Error::between(a, b)).collect();
    let mut table = "picture,root_mean_square,largest\n".to_string();
    for (k, error) in errors.iter().enumerate() {
        writeln!(table, "{k},{},{}", error.root_mean_square, error.largest)?;
    }
    let path = folder.join("errors.csv");
    atomic::write(&path, table)?;
    let squares = errors.iter().map(|error| error.root_mean_square.powi(2)).sum::<f64>();
    Ok(Some(format!(
        "the reconstructions are off by {:.4} in the root mean square and by {:.4} at most, on the scale from -1 to 1",
        (squares / errors.len() as f64).sqrt(),
        errors.iter().fold(0.0, |largest: f64, error| largest.max(error.largest)),
    )))
}

/// By how much a picture was missed, in values from -1 to 1.
struct Error {
    root_mean_square: f64,
    largest: f64,
}

impl Error {
    fn between(a: &[f32], b: &[f32]) -> Self {
        let off = || a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs());
        Self {
            root_mean_square: (off().map(|off| off * off).sum::<f64>() / a.len() as f64).sqrt(),
            largest: off().fold(0.0, f64::max),
        }
    }
}
