//! The sets of samples: all weights, with every sampler, number of steps and guidance scale.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ddpm_console::numbers::{at_least, from_zero};
use ddpm_device::device::OpenDevice;
use ddpm_eval::record::SamplingSettings;
use ddpm_families::snapshot::Snapshot;
use ddpm_families::snapshot::trained;
use ddpm_families::usual_sampling::usual_sampling;
use ddpm_model::diffusion::Diffusion;
use ddpm_sampling::job::{ClassChoice, SamplingJob, TrainedModel};
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::samplers::Sampler;

use super::EvalArgs;
use super::samples::{Guide, SampleSource, weights_hash};
use crate::commands::sample::{in_half, of_option};
use crate::commands::sampling_args::{GuidanceArgs, LevelArgs, Named, SamplerArgs};

/// How samples are generated. Options with a list are axes of the table.
#[derive(Args, Debug)]
pub(super) struct SweepArgs {
    /// Sample k depends on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>, help_heading = "Samples")]
    pub(super) seed: u64,
    /// Only this class, by name or number, against the reference items of this class; default: all classes in turn.
    #[arg(long, value_name = "C", conflicts_with = "files", help_heading = "Samples")]
    class: Option<String>,
    /// Samplers, separated by commas, each with its own options if need be (heun:churn=40); default: that of
    /// `ddpm-infer sample`.
    #[arg(
        long,
        visible_alias = "sampler",
        value_name = "NAMES",
        value_delimiter = ',',
        conflicts_with = "files",
        help_heading = "Sampler"
    )]
    samplers: Vec<String>,
    /// Numbers of steps, separated by commas; default: that of the sampler.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = at_least::<1, usize>,
        conflicts_with = "files", help_heading = "Sampler")]
    steps: Vec<usize>,
    #[command(flatten)]
    sampler: SamplerArgs,
    #[command(flatten)]
    levels: LevelArgs,
    /// Scales of classifier-free guidance, separated by commas; 1 disables it.
    #[arg(long, value_name = "SCALES", value_delimiter = ',', value_parser = from_zero, conflicts_with = "files", help_heading = "Guidance")]
    guidance: Vec<f64>,
    #[command(flatten)]
    guiding: GuidanceArgs,
}

/// Weights to evaluate.
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// Width of their EMA; `None` for the EMA of the snapshots.
    pub(super) width: Option<f64>,
}

/// Samples to evaluate: a snapshot, and how to sample from it.
pub(super) struct SampleSet {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) job: SamplingJob,
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) settings: SamplingSettings,
    diffusion: Arc<Diffusion>,
    guide: Option<Arc<Guide>>,
    weights_hash: u64,
}

/// One sampler in one number of steps, with one guidance scale.
struct Variant {
    sampler: Sampler,
    options: Named,
    steps: usize,
    levels: LevelSchedule,
    /// `None` if no guidance scale was given.
    scale: Option<f64>,
}

/// Loaded weights.
struct Model {
    weights: Candidate,
    snapshot: Arc<Snapshot>,
    diffusion: Arc<Diffusion>,
    hash: u64,
}

impl SampleSet {
    /// The samples, which are generated on demand.
    pub(super) fn source(&self, open: &OpenDevice) -> SampleSource {
        SampleSource {
            snapshot: self.snapshot.clone(),
            diffusion: self.diffusion.clone(),
            guide: self.guide.clone(),
            job: self.job.clone(),
            device: open.device.clone(),
            name: self.name.clone(),
            weights_hash: self.weights_hash,
        }
    }

    /// The class of all samples, by its name in the data.
    pub(super) fn class(&self) -> Option<&str> {
        self.settings.options.get(CLASS).map(String::as_str)
    }
}

/// The option's name in [`SamplingSettings::options`].
const CLASS: &str = "class";

impl SweepArgs {
    /// All sets, in the order of the weights.
    pub(super) fn sample_sets(
        &self,
        args: &EvalArgs,
        weights: Vec<Candidate>,
        open: &OpenDevice,
    ) -> anyhow::Result<Vec<SampleSet>> {
        let guide = match &self.guiding.guide {
            Some(path) if !weights.is_empty() => {
                let (snapshot, diffusion) = args.snapshot.load(path, &open.device)?;
                let weights_hash = weights_hash(&snapshot);
                Some(Arc::new(Guide { snapshot, diffusion, weights_hash }))
            }
            _ => None,
        };
        let mut all = Vec::new();
        for weights in weights {
            let (snapshot, diffusion) = args.snapshot.load(&weights.path, &open.device)?;
            let hash = weights_hash(&snapshot);
            let model = Model { weights, snapshot: Arc::new(snapshot), diffusion: Arc::new(diffusion), hash };
            for variant in self.variants(&model)? {
                all.push(self.sample_set(args, &model, guide.as_ref(), variant)?);
            }
        }
        Ok(all)
    }

    fn variants(&self, model: &Model) -> anyhow::Result<Vec<Variant>> {
        let diffusion = &model.diffusion;
        let (names, usual_steps) = if self.samplers.is_empty() {
            let usual = usual_sampling(&model.snapshot.config, &model.weights.path, diffusion);
            (vec![usual.sampler], Some(usual.steps))
        } else {
            (self.samplers.clone(), None)
        };
        let mut variants = Vec::new();
        for (sampler, options) in self.sampler.samplers(&names, diffusion)? {
            let levels = self.levels.of(sampler, diffusion)?;
            // A list of levels determines the number of steps.
            let usual = || levels.own_steps().or(usual_steps).unwrap_or_else(|| sampler.usual_steps(diffusion));
            let several = if self.steps.is_empty() { vec![usual()] } else { self.steps.clone() };
            for steps in several {
                let scales: Vec<Option<f64>> = self.guidance.iter().copied().map(Some).collect();
                for scale in if scales.is_empty() { vec![None] } else { scales } {
                    let (options, levels) = (options.clone(), levels.clone());
                    variants.push(Variant { sampler, options, steps, levels, scale });
                }
            }
        }
        Ok(variants)
    }

    fn sample_set(
        &self,
        args: &EvalArgs,
        model: &Model,
        guide: Option<&Arc<Guide>>,
        variant: Variant,
    ) -> anyhow::Result<SampleSet> {
        let Variant { sampler, mut options, steps, levels, scale } = variant;
        let Model { weights, snapshot, diffusion, hash } = model;
        let config = &snapshot.config;
        let is_image = config.data.shape.len() == 3;
        let guidance = self.guiding.at(scale.unwrap_or(1.0));
        // At scale 1 guidance is disabled.
        let guide = guide.filter(|_| guidance.is_active()).cloned();
        options.extend(self.guiding.named(guidance.scale));
        let job = SamplingJob {
            count: args.count.unwrap_or(if is_image { 1000 } else { 2048 }),
            seed: self.seed,
            batch_size: args.batch_size,
            steps: Some(steps),
            levels,
            class: ClassChoice::named(self.class.as_deref(), config.network.num_classes(), &config.data.classes)
                .map_err(of_option)?,
            guidance,
            ..SamplingJob::new(sampler, &trained(snapshot, diffusion))
        };
        let weaker = guide.as_ref().map(|guide| trained(&guide.snapshot, &guide.diffusion));
        // Before anything is sampled.
        job.check(&TrainedModel { guide: weaker.as_ref(), ..trained(snapshot, diffusion) })?;
        if let ClassChoice::One(class) = job.class {
            let name = config.data.classes.get(class).cloned().unwrap_or_else(|| class.to_string());
            options.insert(CLASS.into(), name);
        }
        let settings = SamplingSettings {
            step: config.step,
            width: weights.width,
            sampler: sampler.name().into(),
            sampler_steps: steps,
            levels: serde_json::to_value(&job.levels)?,
            guidance: guidance.scale,
            seed: self.seed,
            options,
        };
        let of_width = weights.width.map(|width| format!(" width {width}")).unwrap_or_default();
        let of_guidance = scale.map(|scale| format!(", guidance {scale}")).unwrap_or_default();
        let (experiment, step, half) = (&config.experiment, config.step, in_half(&snapshot.network));
        let sampler = format!("{} {steps}{of_guidance}{}", sampler.name(), settings.options_summary());
        let name = format!("{experiment} step {step}{of_width}, {sampler}{half}");
        let (snapshot, diffusion, path) = (snapshot.clone(), diffusion.clone(), weights.path.clone());
        Ok(SampleSet { snapshot, job, path, name, settings, diffusion, guide, weights_hash: *hash })
    }

    /// Whether there is more than one guidance scale.
    pub(super) fn has_scales(&self) -> bool {
        self.guidance.len() > 1
    }
}
