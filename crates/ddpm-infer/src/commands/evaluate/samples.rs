//! The samples of a snapshot as a source of images or points.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use ddpm_data::fnv1a;
use ddpm_eval::EvaluationError;
use ddpm_eval::image::Image;
use ddpm_eval::sources::{ImageSource, SamplingStep};
use ddpm_families::snapshot::Snapshot;
use ddpm_families::snapshot::trained;
use ddpm_model::diffusion::Diffusion;
use ddpm_sampling::job::{self, JobError, Progress, SamplingJob, TrainedModel};

use crate::commands::sample::in_half;

/// A weaker snapshot that guides another one (autoguidance).
pub(super) struct Guide {
    pub(super) snapshot: Snapshot,
    /// The process it was trained for.
    pub(super) diffusion: Diffusion,
    /// See [`weights_hash`].
    pub(super) weights_hash: u64,
}

/// Samples of a snapshot: sample k is the same in any range.
pub(super) struct SampleSource {
    /// Shared by all sets that are sampled from it.
    pub(super) snapshot: Arc<Snapshot>,
    /// The process it was trained for.
    pub(super) diffusion: Arc<Diffusion>,
    /// The weaker model, in place of the null class.
    pub(super) guide: Option<Arc<Guide>>,
    pub(super) job: SamplingJob,
    pub(super) device: Device,
    /// A short name for people.
    pub(super) name: String,
    /// See [`weights_hash`].
    pub(super) weights_hash: u64,
}

/// A hash of the weights of a snapshot and of the process that they were trained for.
pub(super) fn weights_hash(snapshot: &Snapshot) -> u64 {
    struct Bytes(Vec<u8>);
    impl ModuleVisitor for Bytes {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().as_bytes());
        }
    }
    let mut bytes = Bytes(format!("{:?}", snapshot.config.diffusion).into_bytes());
    snapshot.network.visit(&mut bytes);
    fnv1a(bytes.0)
}

impl SampleSource {
    /// Generates the samples in a range, and reports every step.
    pub(super) fn generate(
        &self,
        range: Range<usize>,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<job::Samples, JobError> {
        let guide = self.guide.as_ref().map(|guide| trained(&guide.snapshot, &guide.diffusion));
        let model = TrainedModel { guide: guide.as_ref(), ..trained(&self.snapshot, &self.diffusion) };
        self.job.run_part(&model, range, &self.device, on_progress)
    }
}

impl ImageSource for SampleSource {
    fn count(&self) -> usize {
        self.job.count
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn identity(&self) -> String {
        // A sample depends neither on the number of samples nor on the size of a batch.
        let job = SamplingJob { count: 0, batch_size: 0, ..self.job.clone() };
        let half = in_half(&self.snapshot.network);
        let guide = self.guide.as_ref().map(|guide| format!(" guided by {:016x}", guide.weights_hash));
        let guide = guide.unwrap_or_default();
        format!("samples of {:016x}{guide} by {job:?} on {:?}{half}", self.weights_hash, self.device)
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
        let samples = self.generate(range, &mut on_progress).map_err(|error| EvaluationError::Source(error.into()))?;
        let [channels, height, width] = samples.shape[..] else {
            return Err(EvaluationError::Source(JobError::Rank { shape: samples.shape }.into()));
        };
        let one = |values: &[f32]| Image::from_values([channels, height, width], values);
        Ok(samples.values.chunks_exact(channels * height * width).map(one).collect())
    }
}
