//! From a trained model to samples in one expression.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;
use ddpm_model::schedule::ScheduleError;

use ddpm_device::device::{self, DeviceError, OpenDevice};
use ddpm_device::memory;
use ddpm_families::snapshot::{Snapshot, SnapshotConfig, SnapshotError, trained};
use ddpm_families::usual_sampling::{Choice, ChoiceError};
use ddpm_files::runs::{RUNS, RunError, RunFolder};
use ddpm_sampling::guidance::Guidance;
use ddpm_sampling::job::{ClassChoice, ClassError, JobError, Progress, Samples, SamplingJob, USUAL_BATCH};
use ddpm_sampling::samplers::SamplerOptions;

/// A trained model, and how to sample from it. What is not chosen is what `ddpm-infer sample` would take: the sampler and
/// the steps of the run's previews, or those of the scheduler in a folder of diffusers, or what suits the objective.
///
/// Sample k depends on the seed and on k: not on the number of samples, and not on the batch size.
///
/// # Shapes
///
/// [`Samples::values`] holds `[N, ..]` row-major, where `..` is [`Samples::shape`]: `[C, H, W]` of images with values in
/// [-1, 1], `[D]` of points in the units of their data.
///
/// ```
/// use ddpm_infer::Pipeline;
/// # use ddpm_infer::prelude::*;
/// # use ddpm_families::snapshot::DiffusionConfig;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("snapshot");
/// # let units = Units::identity(2);
/// # let data = DataInfo { name: "points".into(), shape: vec![2], classes: vec![], units, series: None, latent: false, has_captions: false };
/// # let network = NetworkConfig::PointMlp(Default::default()).with_io(&data.shape, 2);
/// # let source = ddpm_data::DataConfig::Digits(Default::default());
/// # let config = SnapshotConfig::new(network.clone(), DiffusionConfig::default(), data, source, "points");
/// # Snapshot::save(&network.init(&burn::tensor::Device::default()), &config, &path)?;
///
/// // A run, one of its snapshots, or a folder of diffusers.
/// let pipeline = Pipeline::open(&path)?.sampler("ddim").steps(5).seed(7);
/// let samples = pipeline.sample(4)?;
/// assert_eq!((samples.count(), &samples.shape[..]), (4, &[2][..]));
/// samples.save_png(dir.path().join("samples.png"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pipeline {
    path: PathBuf,
    config: SnapshotConfig,
    device: Option<String>,
    precision: Precision,
    sampler: Option<String>,
    steps: Option<usize>,
    eta: Option<f64>,
    guidance: f64,
    class: Option<String>,
    seed: u64,
    batch_size: usize,
    /// The weights on their device, from the first use on.
    loaded: OnceLock<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    snapshot: Snapshot,
    diffusion: Diffusion,
    device: OpenDevice,
}

/// Why a pipeline cannot be opened, or not be sampled as chosen.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A run without a snapshot.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There is no model at this path, or it cannot be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its noise schedule does not exist.
    #[error("{}: its schedule: {error}", path.display())]
    Schedule {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong.
        error: ScheduleError,
    },
    /// There is no such device, or it cannot compute in this precision.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Sampler, options or steps that do not go together.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// A class that the model does not know.
    #[error(transparent)]
    Class(#[from] ClassError),
    /// More samples than fit into memory.
    #[error("{count} samples are too many: {reason}")]
    Memory {
        /// How many were asked for.
        count: usize,
        /// How much memory they take, and how much there is.
        reason: String,
    },
    /// What the model cannot do, or what went wrong while it sampled.
    #[error(transparent)]
    Job(#[from] JobError),
}

impl Pipeline {
    /// Opens a snapshot, a run (its folder, or its name within `runs`: the newest snapshot) or a folder of diffusers.
    ///
    /// Only its description is read. Weights are read and devices opened by the first [`sample`](Self::sample), which
    /// also reports whatever cannot be done as chosen.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PipelineError> {
        let path = find(Path::new(RUNS), path.as_ref())?;
        let config = Snapshot::describe(&path)?;
        Ok(Self {
            path,
            config,
            device: None,
            precision: Precision::F32,
            sampler: None,
            steps: None,
            eta: None,
            guidance: 1.0,
            class: None,
            seed: 0,
            batch_size: USUAL_BATCH,
            loaded: OnceLock::new(),
        })
    }

    /// The sampler, by a name of [`Sampler::NAMES`](ddpm_sampling::samplers::Sampler::NAMES), which options may follow:
    /// `heun:churn=40`.
    pub fn sampler(self, name: impl Into<String>) -> Self {
        Self { sampler: Some(name.into()), ..self }
    }

    /// Steps of the sampler.
    pub fn steps(self, steps: usize) -> Self {
        Self { steps: Some(steps), ..self }
    }

    /// DDIM eta, from 0 (deterministic) to 1.
    pub fn eta(self, eta: f64) -> Self {
        Self { eta: Some(eta), ..self }
    }

    /// Scale of classifier-free guidance; 1 disables it.
    pub fn guidance_scale(self, scale: f64) -> Self {
        Self { guidance: scale, ..self }
    }

    /// The class of all samples, by its name or its number; without it, sample k has the class k mod their number.
    pub fn class(self, class: impl Display) -> Self {
        Self { class: Some(class.to_string()), ..self }
    }

    /// The seed of all noise; 0 unless chosen.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// How many samples are made at once: a matter of speed and memory, not of results.
    pub fn batch_size(self, batch_size: usize) -> Self {
        Self { batch_size, ..self }
    }

    /// Where to compute, for example `flex` or `cuda:1`; without it, the default of this build.
    pub fn device(self, name: impl Into<String>) -> Self {
        Self { device: Some(name.into()), loaded: OnceLock::new(), ..self }
    }

    /// What the network computes in, f32 unless chosen.
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, loaded: OnceLock::new(), ..self }
    }

    /// The snapshot that is sampled.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the snapshot says about itself: network, diffusion, data.
    pub fn config(&self) -> &SnapshotConfig {
        &self.config
    }

    /// Generates `count` samples.
    pub fn sample(&self, count: usize) -> Result<Samples, PipelineError> {
        self.sample_with_progress(count, &mut |_| {})
    }

    /// Generates `count` samples and reports every step.
    pub fn sample_with_progress(
        &self,
        count: usize,
        on_progress: &mut dyn FnMut(Progress),
    ) -> Result<Samples, PipelineError> {
        let loaded = self.loaded()?;
        let job = self.job(count, loaded)?;
        memory::check(count, job.bytes_per_sample(&self.config.data))
            .map_err(|reason| PipelineError::Memory { count, reason })?;
        let model = trained(&loaded.snapshot, &loaded.diffusion);
        Ok(job.run(&model, &loaded.device.device, on_progress)?)
    }

    fn job(&self, count: usize, loaded: &Loaded) -> Result<SamplingJob, PipelineError> {
        let Loaded { snapshot, diffusion, .. } = loaded;
        let options = SamplerOptions { variance: diffusion.variance(), ..SamplerOptions::default() };
        let options = match self.eta {
            Some(eta) => options.with("eta", eta),
            None => options,
        };
        let choice = Choice { sampler: self.sampler.as_deref(), steps: self.steps, options, ..Choice::default() };
        let chosen = choice.resolve(&Default::default(), snapshot, &self.path, diffusion)?;
        let job = SamplingJob::new(chosen.sampler, &trained(snapshot, diffusion));
        let data = &self.config.data;
        Ok(SamplingJob {
            count,
            seed: self.seed,
            batch_size: self.batch_size,
            steps: chosen.steps(&job.levels),
            plan: chosen.plan,
            class: ClassChoice::named(self.class.as_deref(), self.config.network.num_classes(), &data.classes)?,
            guidance: Guidance { scale: self.guidance, ..Guidance::default() },
            ..job
        })
    }

    /// The weights on their device.
    fn loaded(&self) -> Result<&Loaded, PipelineError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = self.load()?;
        Ok(self.loaded.get_or_init(|| loaded))
    }

    fn load(&self) -> Result<Loaded, PipelineError> {
        let device = device::open(self.device.as_deref())?;
        device.check(self.precision)?;
        let mut snapshot = Snapshot::load(&self.path, &device.device)?;
        snapshot.network = snapshot.network.in_precision(self.precision.on(&device.device));
        let diffusion = snapshot.config.diffusion.init();
        let diffusion = diffusion.map_err(|error| PipelineError::Schedule { path: self.path.clone(), error })?;
        Ok(Loaded { snapshot, diffusion, device })
    }
}

/// The snapshot that a path or the name of a run stands for.
fn find(runs: &Path, path: &Path) -> Result<PathBuf, PipelineError> {
    let named = RunFolder(runs.join(path));
    match [RunFolder(path.to_path_buf()), named].into_iter().find(|run| run.config().is_file()) {
        Some(run) => Ok(run.newest_snapshot()?),
        None => Ok(path.to_path_buf()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_by_folder_and_by_name_and_other_paths_are_snapshots() {
        let runs = tempfile::tempdir().unwrap();
        let run = runs.path().join("digits");
        let newest = run.join("snapshots/step-00000020");
        for step in [&run.join("snapshots/step-00000003"), &newest] {
            std::fs::create_dir_all(step).unwrap();
        }
        std::fs::write(run.join("config.toml"), "").unwrap();
        let found = |path: &Path| find(runs.path(), path).unwrap();
        assert_eq!(found(&run), newest);
        assert_eq!(found(Path::new("digits")), newest);
        assert_eq!(found(&newest), newest);
        assert_eq!(found(Path::new("ddpm-cifar10-32")), Path::new("ddpm-cifar10-32"));

        let empty = runs.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(empty.join("config.toml"), "").unwrap();
        let error = find(runs.path(), Path::new("empty")).unwrap_err();
        assert!(matches!(error, PipelineError::Run(RunError::NoSnapshot { .. })), "{error}");
    }
}
