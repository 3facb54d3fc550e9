//! The samples of a snapshot as a source of images or points.

use std::ops::Range;
use std::rc::Rc;

use burn::tensor::Device;
use ddpm_eval::EvaluationError;
use ddpm_eval::image::Image;
use ddpm_eval::sources::{ImageSource, SamplingStep};
use ddpm_families::family::AnyError;
use ddpm_families::family::trained::Draw;
use ddpm_families::snapshot::trained;
use ddpm_sampling::job::{JobError, Progress, Samples, SamplingJob, TrainedModel};

use super::models::{Denoiser, FamilyModel};
use crate::commands::choose::not_able;
use crate::commands::sample::in_half;

/// Samples of a snapshot: sample k is the same in any range.
pub(super) struct SampleSource {
    /// A short name for people.
    pub(super) name: String,
    pub(super) count: usize,
    pub(super) drawn: Drawn,
    pub(super) device: Device,
}

/// How samples are drawn.
#[derive(Clone)]
pub(super) enum Drawn {
    /// Denoised step by step.
    Denoised {
        model: Rc<Denoiser>,
        /// A weaker model, in place of the null class (autoguidance).
        guide: Option<Rc<Denoiser>>,
        job: Box<SamplingJob>,
    },
    /// All at once.
    InOnePass { model: Rc<FamilyModel>, seed: u64 },
}

impl SampleSource {
    /// Generates the samples in a range, and reports every step.
    pub(super) fn generate(
        &self,
        range: Range<usize>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, AnyError> {
        match &self.drawn {
            Drawn::Denoised { model, guide, job } => {
                let guide = guide.as_ref().map(|guide| trained(&guide.snapshot, &guide.diffusion));
                let model = TrainedModel { guide: guide.as_ref(), ..trained(&model.snapshot, &model.diffusion) };
                Ok(job.run_part(&model, range, &self.device, on_progress)?)
            }
            Drawn::InOnePass { model, seed } => match model.trained.generate() {
                Some(generator) => generator.generate(&Draw::of_seed(*seed), range.start as u64, range.len()),
                None => Err(format!("{}: {}", self.name, not_able(&*model.trained, "sample")).into()),
            },
        }
    }
}

impl ImageSource for SampleSource {
    fn count(&self) -> usize {
        self.count
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn identity(&self) -> String {
        match &self.drawn {
            Drawn::Denoised { model, guide, job } => {
                // A sample depends neither on the number of samples nor on the size of a batch.
                let job = SamplingJob { count: 0, batch_size: 0, ..SamplingJob::clone(job) };
                let half = in_half(&model.snapshot.network);
                let guide = guide.as_ref().map(|guide| format!(" guided by {:016x}", guide.hash)).unwrap_or_default();
                format!("samples of {:016x}{guide} by {job:?} on {:?}{half}", model.hash, self.device)
            }
            Drawn::InOnePass { model, seed } => {
                format!("samples of {} by seed {seed}", model.identity(&self.device))
            }
        }
    }

    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
        self.images_with_progress(range, &mut |_| {})
    }

    fn images_with_progress(
        &self,
        range: Range<usize>,
        on_step: &mut dyn FnMut(SamplingStep),
    ) -> Result<Vec<Image>, EvaluationError> {
        let mut on_progress =
            |progress: Progress| on_step(SamplingStep { done: progress.steps_done, of: progress.steps });
        let samples = self.generate(range, &mut on_progress).map_err(EvaluationError::Source)?;
        let [channels, height, width] = samples.shape[..] else {
            return Err(EvaluationError::Source(JobError::Rank { shape: samples.shape }.into()));
        };
        let one = |values: &[f32]| Image::from_values([channels, height, width], values);
        Ok(samples.values.chunks_exact(channels * height * width).map(one).collect())
    }
}
