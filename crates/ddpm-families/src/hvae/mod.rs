//! The family `hvae`: hierarchical VAEs of images, in the manner of VDVAE (Child 2021).

pub mod measure;
pub mod preview;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod trained;

use burn::tensor::{Device, Tensor};
use ddpm_data::augment::AugmentConfig;
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{StreamItem, three_axes};
use ddpm_kernels::Precision;
use ddpm_model::hvae::{Hvae, Layout, TopDown};
use ddpm_model::network::MemoryEstimate;
use ddpm_model::pass::Pass;
use serde::{Deserialize, Serialize};

use self::tables::HvaeTables;
use self::trained::TrainedHvae;
use crate::family::stored::ModelCard;
use crate::family::trained::Trained;
use crate::family::{
    AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, StepLosses, Subject,
};
use crate::items::batch_of;
use crate::loss_sum::LossSum;

/// Hierarchical VAEs of images.
#[derive(Clone, Debug)]
pub struct HvaeFamily {
    tables: HvaeTables,
    layout: Layout,
    /// The shape of an item.
    shape: [usize; 3],
    origin: Origin,
}

/// Items with the noise of their latents.
#[derive(Clone, Debug)]
pub struct HvaeBatch {
    x: Tensor<4>,
    /// For each block of the decoder, the uppermost first.
    noises: Vec<Tensor<4>>,
    /// Steps that were taken before.
    step: u64,
}

/// Steps taken, and the terms of the loss since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HvaeMemory {
    step: u64,
    reconstruction: LossSum,
    kl: LossSum,
}

/// The terms of the loss of a batch.
struct Terms {
    /// `-log p(x|z)` of each row, `[B]`.
    reconstruction: Tensor<1>,
    /// The latents and their distributions.
    top_down: TopDown,
}

impl HvaeFamily {
    /// The family for data of which only the description is known, or every reason why there is none.
    pub fn new(mut tables: HvaeTables, origin: Origin) -> Result<Self, Vec<Problem>> {
        let problems = tables.problems_with_data(&origin.data);
        if !problems.is_empty() {
            return Err(problems);
        }
        tables.model = tables.model.with_data(&origin.data.shape);
        let of_model = |problem: ddpm_model::network::Problem| (format!("model.{}", problem.key), problem.message);
        let layout =
            tables.model.layout().map_err(|problems| problems.into_iter().map(of_model).collect::<Vec<_>>())?;
        Ok(Self { layout, shape: three_axes(&origin.data.shape), tables, origin })
    }

    /// The shapes of the latents of one item, the uppermost first.
    fn latent_shapes(&self) -> Vec<[usize; 3]> {
        let channels = self.tables.model.latent_channels;
        self.layout.decoder.iter().map(|block| [channels, block.resolution, block.resolution]).collect()
    }

    /// Values of all latents of an item.
    fn latent_size(&self) -> usize {
        self.latent_shapes().iter().map(|shape| shape.iter().product::<usize>()).sum()
    }

    /// The noise of latents: that of item k, for all blocks, follows from the seed, the stream and k alone.
    fn noises(&self, seed: u64, stream: Stream, places: impl Iterator<Item = u64>, device: &Device) -> Vec<Tensor<4>> {
        let size = self.latent_size();
        let values: Vec<f32> = places.flat_map(|place| normals(&mut rng(seed, stream, place), size)).collect();
        self.split(&values, device)
    }

    /// Flat values of the latents of items, one item after the other, as a batch for each block.
    fn split(&self, values: &[f32], device: &Device) -> Vec<Tensor<4>> {
        let size = self.latent_size();
        let mut start = 0;
        let of_block = |shape: [usize; 3]| {
            let range = start..start + shape.iter().product::<usize>();
            start = range.end;
            let values = values.chunks(size).flat_map(|item| item[range.clone()].iter().copied()).collect();
            batch_of(values, shape, device)
        };
        self.latent_shapes().into_iter().map(of_block).collect()
    }

    /// Noise that has latents be the means of their distributions.
    fn no_noise(&self, rows: usize, device: &Device) -> Vec<Tensor<4>> {
        let zeros = |[channels, height, width]: [usize; 3]| Tensor::zeros([rows, channels, height, width], device);
        self.latent_shapes().into_iter().map(zeros).collect()
    }

    /// The terms of the loss of items, with this noise of their latents.
    fn terms(&self, model: &Hvae, x: Tensor<4>, noises: Vec<Tensor<4>>, pass: &Pass<'_>) -> Terms {
        let top_down = model.forward(x.clone(), noises, pass);
        let reconstruction = -self.tables.model.likelihood.log_prob(top_down.output.clone(), x);
        Terms { reconstruction, top_down }
    }
}

impl Family for HvaeFamily {
    const NAME: &'static str = "hvae";
    const ABOUT: &'static str = "hierarchical variational autoencoders of images (VDVAE)";
    const SECTIONS: &'static [(&'static str, &'static str)] = HvaeTables::SECTIONS;
    const CURVES: &'static [(&'static str, &'static str)] =
        &[("reconstruction", "Reconstruction, in nats per item"), ("kl", "KL divergence, in nats per item")];
    const MEASURES: &'static [(&'static str, &'static str)] = measure::NAMES;

    type Tables = HvaeTables;
    type Model = Hvae;
    type Batch = HvaeBatch;
    type Memory = HvaeMemory;

    fn problems(tables: &HvaeTables) -> Vec<Problem> {
        tables.problems()
    }

    fn resolve(tables: HvaeTables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        Self::new(tables, subject.origin())
    }

    fn restored(tables: HvaeTables, origin: Origin) -> Result<Self, AnyError> {
        Self::new(tables, origin).map_err(|problems| {
            let lines: Vec<String> = problems.into_iter().map(|(key, message)| format!("{key}: {message}")).collect();
            lines.join("; ").into()
        })
    }

    fn tables(&self) -> &HvaeTables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn init(&self, device: &Device) -> Hvae {
        self.tables.model.build(&self.layout, device)
    }

    fn set_precision(&self, model: &mut Hvae, precision: Precision) {
        model.set_precision(precision);
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        MemoryEstimate::of(parameters, self.tables.model.kept_values(&self.layout), batch)
    }

    fn augmentation(&self) -> AugmentConfig {
        self.tables.augment
    }

    fn batch(&self, items: Vec<StreamItem>, seed: u64, device: &Device) -> HvaeBatch {
        let noises = self.noises(seed, Stream::Noise, items.iter().map(|item| item.place), device);
        let values = items.into_iter().flat_map(|item| item.example.values).collect();
        HvaeBatch { x: batch_of(values, self.shape, device), noises, step: 0 }
    }

    fn to_device(&self, batch: HvaeBatch, device: &Device) -> HvaeBatch {
        let noises = batch.noises.into_iter().map(|noise| noise.to_device(device)).collect();
        HvaeBatch { x: batch.x.to_device(device), noises, ..batch }
    }

    /// Minus the evidence lower bound, with the weight of the divergence so far.
    fn losses(&self, model: &Hvae, batch: &HvaeBatch, pass: &Pass<'_>) -> Losses {
        let Terms { reconstruction, top_down } = self.terms(model, batch.x.clone(), batch.noises.clone(), pass);
        let kl = top_down.kl();
        let weight = self.tables.hvae.kl_weight(batch.step);
        Losses {
            loss: (reconstruction.clone() + kl.clone() * weight).mean(),
            rows: (reconstruction.clone() + kl.clone()).detach(),
            parts: vec![reconstruction.mean().detach(), kl.mean().detach()],
        }
    }

    fn first_memory(&self) -> HvaeMemory {
        HvaeMemory::default()
    }

    /// The weight of the divergence rises with the steps.
    fn redraw(&self, batch: &mut HvaeBatch, memory: &HvaeMemory, _: u64) {
        batch.step = memory.step;
    }

    fn remember(&self, memory: &mut HvaeMemory, step: &StepLosses) {
        memory.step += 1;
        if let [reconstruction, kl] = step.parts[..] {
            memory.reconstruction.add(reconstruction);
            memory.kl.add(kl);
        }
    }

    fn curves(&self, memory: &HvaeMemory) -> Vec<Option<f64>> {
        vec![memory.reconstruction.mean(), memory.kl.mean()]
    }

    fn clear_sums(&self, memory: &mut HvaeMemory) {
        (memory.reconstruction, memory.kl) = Default::default();
    }

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<Hvae>>, AnyError> {
        Ok(Box::new(measure::ElboOfHeldOut::read(self, setup)?))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<Hvae>>, AnyError> {
        Ok(Box::new(preview::HvaePreview::read(self, setup)?))
    }

    fn trained(self, model: Hvae, card: ModelCard) -> Box<dyn Trained> {
        Box::new(TrainedHvae::new(self, model, card))
    }
}
