//! `ddpm-infer reconstruct`: items, and what is left of them after the latent.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::bail;
use clap::Args;
use ddpm_console::numbers::{at_least, from_zero};
use ddpm_console::say;
use ddpm_data::DataInfo;
use ddpm_eval::Features;
use ddpm_eval::reconstruction::{RANGE_MINUS_1_TO_1, mean_squared_errors, psnr};
use ddpm_families::family::trained::Draw;
use ddpm_files::{atomic, npy};
use ddpm_render::Samples;

use crate::commands::choose::SnapshotArgs;
use crate::commands::given_items::{Items, ItemsArgs};
use crate::commands::output_folder::OutputArgs;

/// Encode items, decode them again, and measure what was lost.
#[derive(Args, Debug)]
pub struct ReconstructArgs {
    #[command(flatten, next_help_heading = "Model and device")]
    snapshot: SnapshotArgs,
    #[command(flatten)]
    items: ItemsArgs,
    /// Layers of a hierarchical model whose latents are those of the item, the coarsest first; the latents of the layers
    /// below are drawn from the prior. Default: all.
    #[arg(long, value_name = "K", value_parser = at_least::<0, usize>, help_heading = "Latents")]
    layers: Option<usize>,
    /// Seed of what is drawn from the prior: that of item k depends on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>, help_heading = "Latents")]
    seed: u64,
    /// Factor of the standard deviation of what is drawn from the prior.
    #[arg(long, value_name = "T", default_value_t = 1.0, value_parser = from_zero, help_heading = "Latents")]
    temperature: f64,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the command writes.
const FILES: [&str; 4] = ["inputs.npy", "reconstructions.npy", "errors.csv", "comparison.png"];

/// Reconstructs, and gives the folder with the result.
pub fn run(args: &ReconstructArgs) -> anyhow::Result<PathBuf> {
    let open = args.snapshot.open_model()?;
    let card = open.model.card();
    let Some(model) = open.model.reconstruct() else { return Err(open.cannot("reconstruct")) };
    let layers = args.layers.unwrap_or(model.layers());
    if layers > model.layers() {
        bail!("--layers {layers}: the model has {}", model.layers());
    }
    let items = args.items.read(card, &open.path)?;
    let out = args.output.make(open.run.as_ref(), "reconstructions", &open.path, &FILES)?;
    say!("{}: {} of {}, {}", open.path.display(), items.count, items.from, card.origin());
    let draw = Draw { seed: args.seed, temperature: args.temperature };
    let found = model.reconstruct(&items.values, layers, &draw, 0).map_err(anyhow::Error::from_boxed)?;
    let errors = errors(&items.values, &found, &card.data)?;
    write(&out, items, found, &card.data)?;
    write_errors(&out, &errors)?;
    say!("{}", summary(&errors));
    Ok(out)
}

/// How far a reconstruction is off.
struct Error {
    /// The mean square error of a value, of images from 0 to 1 or of standardized points.
    mse: f64,
    /// The peak signal-to-noise ratio of an image, in decibels.
    psnr: Option<f64>,
}

fn errors(inputs: &[f32], found: &[f32], data: &DataInfo) -> anyhow::Result<Vec<Error>> {
    let [inputs, found] = [inputs, found].map(|values| Features::new(data.values_per_item(), values.to_vec()));
    let errors = mean_squared_errors(&inputs, &found)?;
    let one = |error: f64| match data.shape.len() {
        // Images go from -1 to 1 here.
        3 => Error { mse: error / RANGE_MINUS_1_TO_1.powi(2), psnr: Some(psnr(error, RANGE_MINUS_1_TO_1)) },
        _ => Error { mse: error, psnr: None },
    };
    Ok(errors.into_iter().map(one).collect())
}

fn summary(errors: &[Error]) -> String {
    let mse = errors.iter().map(|error| error.mse).sum::<f64>() / errors.len() as f64;
    match errors.iter().map(|error| error.psnr).sum::<Option<f64>>() {
        Some(sum) => {
            let psnr = sum / errors.len() as f64;
            format!("mean square error {mse:.5} on the scale from 0 to 1, PSNR {psnr:.2} dB (means over the items)")
        }
        None => format!("mean square error {mse:.5} of standardized coordinates"),
    }
}

fn write(out: &Path, items: Items, found: Vec<f32>, data: &DataInfo) -> anyhow::Result<()> {
    let shape: Vec<usize> = [items.count].into_iter().chain(data.shape.iter().copied()).collect();
    let [inputs, found] = [items.values, found].map(|values| data.in_data_units(values));
    for (name, values) in [("inputs.npy", &inputs), ("reconstructions.npy", &found)] {
        atomic::write(&out.join(name), npy::encode(&shape, values))?;
    }
    let path = out.join("comparison.png");
    if data.is_image() {
        return Ok(ddpm_render::write_comparison(&path, &[&inputs, &found], &data.shape)?);
    }
    let labels = vec![None; items.count];
    let samples = Samples { values: found, shape: data.shape.clone(), labels, ..Samples::default() };
    Ok(ddpm_render::write_overview(&path, &samples, Some(&inputs))?)
}

fn write_errors(out: &Path, errors: &[Error]) -> anyhow::Result<()> {
    let mut table = "item,mse,psnr\n".to_string();
    for (k, error) in errors.iter().enumerate() {
        let psnr = error.psnr.map(|psnr| psnr.to_string()).unwrap_or_default();
        writeln!(table, "{k},{},{psnr}", error.mse)?;
    }
    Ok(atomic::write(&out.join("errors.csv"), table)?)
}
