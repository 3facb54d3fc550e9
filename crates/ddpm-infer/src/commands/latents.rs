//! Samples along paths through the latents of a model: traversals of one dimension, interpolations between two draws.

use std::path::Path;

use anyhow::bail;
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use ddpm_console::numbers::{at_least, from_zero};
use ddpm_console::say;
use ddpm_data::Split;
use ddpm_families::family::trained::{Draw, Encode, Trained};
use ddpm_render::Samples;
use ddpm_sampling::tasks::slerp;

use super::choose::not_able;
use super::given_items::of_split;

/// How far a traversal goes from the middle in each direction, in standard deviations of the prior.
const REACH: f32 = 2.5;

/// Items by which the dimensions of a traversal are put in order.
const ORDERED_BY: usize = 256;

/// Arguments about latents that are drawn at once.
#[derive(Args, Debug)]
#[command(next_help_heading = "Latents (autoencoders)")]
pub(crate) struct LatentArgs {
    /// Factor of the standard deviation of the latents; below 1 samples are more typical and less varied. Default: 1.
    #[arg(long, value_name = "T", value_parser = from_zero)]
    temperature: Option<f64>,
    /// Traversal: a row for each dimension of the latent, those in use first, with so many values of that dimension from
    /// -2.5 to 2.5.
    #[arg(long, value_name = "N", value_parser = at_least::<2, usize>, conflicts_with_all = ["count", "task"])]
    traverse: Option<usize>,
    /// Item of the test split from whose latent a traversal starts; default: the mean of the prior.
    #[arg(long, value_name = "K", requires = "traverse")]
    around: Option<usize>,
}

impl LatentArgs {
    /// The options that were given.
    pub(crate) fn given(&self) -> Vec<&'static str> {
        let given = [("--temperature", self.temperature.is_some()), ("--traverse", self.traverse.is_some())];
        given.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
    }

    /// What is random about samples of this seed.
    pub(crate) fn draw(&self, seed: u64) -> Draw {
        Draw { seed, temperature: self.temperature.unwrap_or(1.0) }
    }

    /// The samples of a traversal, if there is to be one.
    pub(crate) fn traversal(&self, model: &dyn Trained, path: &Path) -> anyhow::Result<Option<Samples>> {
        let Some(columns) = self.traverse else { return Ok(None) };
        let encoder = encoder_of(model, "--traverse")?;
        let order = order_of_dimensions(model, path)?;
        let middle = match self.around {
            None => vec![0.0; encoder.latent_shape().iter().product()],
            Some(item) => {
                let items = of_split(model.card(), path, Split::Test, item.saturating_add(1))?;
                if item >= items.count {
                    bail!("--around {item}: there are {} items", items.count);
                }
                let size = items.values.len() / items.count;
                encoder.encode(&items.values[item * size..]).map_err(anyhow::Error::from_boxed)?
            }
        };
        let mut latents = Vec::with_capacity(order.len() * columns * middle.len());
        for (dimension, _) in &order {
            for column in 0..columns {
                let mut latent = middle.clone();
                latent[*dimension] = REACH * (2.0 * column as f32 / (columns - 1) as f32 - 1.0);
                latents.extend(latent);
            }
        }
        let nats = |(dimension, kl): &(usize, Option<f64>)| match kl {
            Some(kl) => format!("{dimension} ({kl:.2} nats)"),
            None => dimension.to_string(),
        };
        say!("rows: dimension {}", order.iter().map(nats).collect::<Vec<_>>().join(", "));
        decoded(model, encoder, &latents, columns).map(Some)
    }
}

/// Rows of so many samples from one draw of the prior to another, of `count` samples in all.
pub(crate) fn interpolation(model: &dyn Trained, draw: &Draw, row: usize, count: usize) -> anyhow::Result<Samples> {
    let encoder = encoder_of(model, "--interpolate")?;
    let rows = count.div_ceil(row);
    let ends = encoder.prior(draw, 0, 2 * rows).map_err(anyhow::Error::from_boxed)?;
    let size = ends.len() / (2 * rows);
    let end = |number: usize| {
        let values = ends[number * size..(number + 1) * size].to_vec();
        Tensor::<2>::from_data(TensorData::new(values, [1, size]), &Device::default())
    };
    let mut latents = Vec::with_capacity(count * size);
    for sample in 0..count {
        let share = (sample % row) as f64 / (row - 1) as f64;
        let [from, to] = [2 * (sample / row), 2 * (sample / row) + 1].map(end);
        latents.extend(slerp(&from, &to, &[share]).into_data().iter::<f32>());
    }
    decoded(model, encoder, &latents, row)
}

fn encoder_of<'a>(model: &'a dyn Trained, option: &str) -> anyhow::Result<&'a dyn Encode> {
    match model.encode() {
        Some(encoder) => Ok(encoder),
        None => bail!("{option}: {}", not_able(model, "decode latents")),
    }
}

/// The dimensions of the latent, those with the largest divergence first where that can be measured.
fn order_of_dimensions(model: &dyn Trained, path: &Path) -> anyhow::Result<Vec<(usize, Option<f64>)>> {
    let dimensions = model.encode().map_or(0, |encoder| encoder.latent_shape().iter().product());
    let bound = model.bound().filter(|bound| bound.parts() == "dimension" && model.card().source.is_some());
    let Some(bound) = bound else { return Ok((0..dimensions).map(|dimension| (dimension, None)).collect()) };
    let items = of_split(model.card(), path, Split::Test, ORDERED_BY)?;
    let terms = bound.bound(&items.values, 1, 0, 0).map_err(anyhow::Error::from_boxed)?;
    let mean = |dimension: usize| terms.iter().map(|terms| terms.kl[dimension]).sum::<f64>() / terms.len() as f64;
    let mut order: Vec<(usize, f64)> = (0..dimensions).map(|dimension| (dimension, mean(dimension))).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(order.into_iter().map(|(dimension, kl)| (dimension, Some(kl))).collect())
}

fn decoded(model: &dyn Trained, encoder: &dyn Encode, latents: &[f32], row: usize) -> anyhow::Result<Samples> {
    let data = &model.card().data;
    let values = encoder.decode(latents).map_err(anyhow::Error::from_boxed)?;
    let values = data.in_data_units(values);
    let labels = vec![None; values.len() / data.values_per_item()];
    Ok(Samples { values, shape: data.shape.clone(), labels, row: Some(row), ..Samples::default() })
}
