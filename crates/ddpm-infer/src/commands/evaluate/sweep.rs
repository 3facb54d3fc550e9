//! The sets of samples: all weights, with every sampler, number of steps and guidance scale.

use std::path::PathBuf;
use std::rc::Rc;

use anyhow::bail;
use clap::Args;
use ddpm_console::numbers::{at_least, from_zero};
use ddpm_data::DataInfo;
use ddpm_device::device::OpenDevice;
use ddpm_eval::record::SamplingSettings;
use ddpm_families::family::trained::Trained;
use ddpm_families::snapshot::trained;
use ddpm_families::usual_sampling::usual_sampling;
use ddpm_sampling::job::{ClassChoice, SamplingJob, TrainedModel};
use ddpm_sampling::levels::LevelSchedule;
use ddpm_sampling::samplers::Sampler;

use super::EvalArgs;
use super::models::{Candidate, Denoiser, FamilyModel, Model};
use super::samples::{Drawn, SampleSource};
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

/// Samples to evaluate: a snapshot, and how to sample from it.
pub(super) struct SampleSet {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) settings: SamplingSettings,
    /// What they are samples of.
    pub(super) data: DataInfo,
    pub(super) count: usize,
    drawn: Drawn,
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

impl SampleSet {
    /// The samples, which are generated on demand.
    pub(super) fn source(&self, open: &OpenDevice) -> SampleSource {
        let (name, drawn, device) = (self.name.clone(), self.drawn.clone(), open.device.clone());
        SampleSource { name, count: self.count, drawn, device }
    }

    /// The class of all samples, by its name in the data.
    pub(super) fn class(&self) -> Option<&str> {
        self.settings.options.get(CLASS).map(String::as_str)
    }
}

/// The option's name in [`SamplingSettings::options`].
const CLASS: &str = "class";

impl SweepArgs {
    /// The samplers and the numbers of steps of models of series; `None` is what is usual.
    pub(super) fn samplers_and_steps(&self) -> (Vec<Option<String>>, Vec<Option<usize>>) {
        fn or_usual<T: Clone>(given: &[T]) -> Vec<Option<T>> {
            if given.is_empty() { vec![None] } else { given.iter().cloned().map(Some).collect() }
        }
        (or_usual(&self.samplers), or_usual(&self.steps))
    }

    /// All sets, in the order of the models; none of a model that cannot sample.
    pub(super) fn sample_sets(
        &self,
        args: &EvalArgs,
        models: &[Model],
        open: &OpenDevice,
    ) -> anyhow::Result<Vec<SampleSet>> {
        let guide = match &self.guiding.guide {
            Some(path) if models.iter().any(|model| matches!(model, Model::Denoiser(_))) => {
                let weights = Candidate { path: path.clone(), width: None };
                Some(Rc::new(Denoiser::open(&args.snapshot, weights, &open.device)?))
            }
            _ => None,
        };
        let mut all = Vec::new();
        for model in models {
            match model {
                Model::Denoiser(model) => {
                    for variant in self.variants(model)? {
                        all.push(self.sample_set(args, model, guide.as_ref(), variant)?);
                    }
                }
                Model::OfFamily(model) => {
                    self.refuse_options_of_denoising(&*model.trained)?;
                    all.extend(self.sample_set_in_one_pass(args, model));
                }
            }
        }
        Ok(all)
    }

    /// Refuses options that only mean something where samples are denoised step by step.
    fn refuse_options_of_denoising(&self, model: &dyn Trained) -> anyhow::Result<()> {
        let given = [
            ("--class", self.class.is_some()),
            ("--samplers", !self.samplers.is_empty()),
            ("--steps", !self.steps.is_empty()),
            ("--levels, --sigma-min or --sigma-max", self.levels.are_given()),
            ("--guidance", !self.guidance.is_empty()),
            ("--dynamic-threshold", self.guiding.has_threshold()),
        ];
        let given = given.into_iter().find(|(_, is_given)| *is_given).map(|(option, _)| option.to_string());
        match given.or(self.sampler.first_given().map(|option| format!("--{option}"))) {
            Some(option) => bail!("{option} is {}", about_denoising(model)),
            None => Ok(()),
        }
    }

    /// The samples of a model that draws them all at once, if it can.
    fn sample_set_in_one_pass(&self, args: &EvalArgs, model: &Rc<FamilyModel>) -> Option<SampleSet> {
        model.trained.generate()?;
        let data = model.trained.card().data.clone();
        Some(SampleSet {
            path: model.weights.path.clone(),
            name: model.name(),
            settings: model.settings("one pass", self.seed),
            count: args.count.unwrap_or(usual_count(&data)),
            data,
            drawn: Drawn::InOnePass { model: model.clone(), seed: self.seed },
        })
    }

    fn variants(&self, model: &Denoiser) -> anyhow::Result<Vec<Variant>> {
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
        model: &Rc<Denoiser>,
        guide: Option<&Rc<Denoiser>>,
        variant: Variant,
    ) -> anyhow::Result<SampleSet> {
        let Variant { sampler, mut options, steps, levels, scale } = variant;
        let Denoiser { weights, snapshot, diffusion, .. } = &**model;
        let config = &snapshot.config;
        let guidance = self.guiding.at(scale.unwrap_or(1.0));
        // At scale 1 guidance is disabled.
        let guide = guide.filter(|_| guidance.is_active()).cloned();
        options.extend(self.guiding.named(guidance.scale));
        let job = SamplingJob {
            count: args.count.unwrap_or(usual_count(&config.data)),
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
        let (path, data, count) = (weights.path.clone(), config.data.clone(), job.count);
        let drawn = Drawn::Denoised { model: model.clone(), guide, job: Box::new(job) };
        Ok(SampleSet { path, name, settings, data, count, drawn })
    }

    /// Whether there is more than one guidance scale.
    pub(super) fn has_scales(&self) -> bool {
        self.guidance.len() > 1
    }
}

/// How many samples are evaluated unless --count says otherwise.
pub(super) fn usual_count(data: &DataInfo) -> usize {
    if data.is_image() { 1000 } else { 2048 }
}

/// The end of a refusal.
pub(super) fn about_denoising(model: &dyn Trained) -> String {
    format!("about models that are denoised step by step; this snapshot is a {}", model.card().family)
}
