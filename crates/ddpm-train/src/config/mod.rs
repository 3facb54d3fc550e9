//! What an experiment is: the sections of `experiments/*.toml`, one struct each.
//!
//! [`load::load`] reads one, [`Experiment::problems`] checks it; after that it is valid and nothing checks again.

mod hints;
pub mod load;
pub mod recipes;
#[cfg(test)]
mod reference;
pub(crate) mod series_file;

use std::path::PathBuf;

use ddpm_data::DataConfig;
use ddpm_families::family::Problem;
use ddpm_families::family::erased::FamilyTables;
use ddpm_kernels::Precision;
use ddpm_model::ema::EmaConfig;
use serde::ser::{Error, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};
use toml::{Table, Value};

/// A whole experiment: one field for each table of its TOML file that every family has, and the tables of its family.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What is learned. Each kind of data has its own keys. `datasets/README.md` describes the kinds.
    pub data: DataConfig,
    /// The sections of the family: its model and its loss.
    #[serde(skip)]
    pub family: FamilyTables,
    /// How gradients become steps.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// The moving average of the weights, from which samples are drawn.
    #[serde(default)]
    pub ema: EmaConfig,
    /// Which part of the network is trained, where it is not all of it.
    #[serde(default)]
    pub fine_tune: FineTuneConfig,
    /// Length, batches, seed, and what is written when.
    #[serde(default)]
    pub train: TrainConfig,
    /// Images of samples, made while training.
    #[serde(default)]
    pub preview: PreviewConfig,
    /// What is measured on held-out data while training.
    #[serde(default)]
    pub validation: ValidationConfig,
}

/// The sections that every family has. In the last three a family may have keys of its own.
pub(crate) const SECTIONS: [&str; 7] = ["data", "optimizer", "ema", "fine_tune", "train", "preview", "validation"];

impl Serialize for Experiment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// A section, followed by the keys that the family has in it.
        #[derive(Serialize)]
        struct Shared<'a, T> {
            #[serde(flatten)]
            section: &'a T,
            #[serde(flatten)]
            family: Table,
        }
        let mut own = self.family.sections().map_err(S::Error::custom)?;
        let mut shared = |name| match own.remove(name) {
            Some(Value::Table(keys)) => keys,
            _ => Table::new(),
        };
        let train = Shared { section: &self.train, family: shared("train") };
        let preview = Shared { section: &self.preview, family: shared("preview") };
        let validation = Shared { section: &self.validation, family: shared("validation") };
        let mut sections = serializer.serialize_map(None)?;
        sections.serialize_entry("family", self.family.name())?;
        sections.serialize_entry("data", &self.data)?;
        for (name, section) in &own {
            sections.serialize_entry(name, section)?;
        }
        sections.serialize_entry("optimizer", &self.optimizer)?;
        sections.serialize_entry("ema", &self.ema)?;
        if self.fine_tune != FineTuneConfig::default() {
            sections.serialize_entry("fine_tune", &self.fine_tune)?;
        }
        sections.serialize_entry("train", &train)?;
        sections.serialize_entry("preview", &preview)?;
        sections.serialize_entry("validation", &validation)?;
        sections.end()
    }
}

/// Which rule makes a step of a gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Adam (Kingma & Ba, 2015).
    #[default]
    Adam,
    /// Adam with decoupled weight decay (Loshchilov & Hutter, 2019).
    #[serde(alias = "adamw")]
    AdamW,
    /// Gradient descent, with or without momentum (Sutskever et al., 2013).
    Sgd,
    /// RMSProp (Hinton, 2012).
    #[serde(alias = "rmsprop")]
    RmsProp,
    /// AdaGrad (Duchi et al., 2011).
    #[serde(alias = "adagrad")]
    AdaGrad,
    /// Adan (Xie et al., 2022).
    Adan,
    /// LAMB (You et al., 2020): steps in proportion to each weight's norm, for very large batches.
    Lamb,
    /// Lion (Chen et al., 2023): steps by the sign; wants a smaller rate than Adam.
    Lion,
    /// Adafactor (Shazeer & Stern, 2018): keeps rows and columns of the second moment only; the rate is relative to
    /// each weight's size.
    Adafactor,
    /// Muon (Jordan et al., 2024): orthogonal steps for matrices and convolutions, of the size of AdamW's; AdamW for
    /// the rest.
    Muon,
}

/// How the learning rate goes on after the warm-up. Steps count from the beginning of the run; each place can be given
/// in images instead. A schedule given in images, with `warmup_images`, is the same for every batch size.
///
/// `until` is a key of its own, not `train.steps`, so that a run that is prolonged keeps the rates it would have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RateDecay {
    /// The rate stays.
    #[default]
    Constant,
    /// Falls along half a cosine, from the end of the warm-up to `until`, and stays there (Loshchilov & Hutter 2017,
    /// without restarts).
    Cosine {
        /// The step at which it has fallen. This key or `until_images` must be given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
        /// The same in images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_images: Option<u64>,
        /// What is left then, as a share of the learning rate.
        #[serde(default)]
        lowest: f64,
    },
    /// The same in a straight line.
    Linear {
        /// The step at which it has fallen. This key or `until_images` must be given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
        /// The same in images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_images: Option<u64>,
        /// What is left then, as a share of the learning rate.
        #[serde(default)]
        lowest: f64,
    },
    /// The rate stays up to step `after`, then it is multiplied by sqrt(`after` / step) (Karras et al. 2024).
    InverseSqrt {
        /// The step up to which it stays. This key or `after_images` must be given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// The same in images.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after_images: Option<u64>,
    },
}

/// The defaults are those of the DDPM paper. A constant (`beta_1` to `weight_decay`) that is left out has the value of
/// the rule's own paper, listed below; one that the rule does not read is an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// The rule. All resume bit for bit; only `adam` was tuned in the recipes here.
    pub kind: OptimizerKind,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the rate rises linearly from zero; 0: none.
    pub warmup_steps: u64,
    /// Images over which it rises, in place of `warmup_steps`: then the batch size does not matter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_images: Option<u64>,
    /// How the rate goes on from there.
    pub decay: RateDecay,
    /// Decay of the first moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_1: Option<f64>,
    /// Decay of the second moment; for Adan, of the differences of gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_2: Option<f64>,
    /// Decay of the second moment of Adan.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_3: Option<f64>,
    /// Share of the last direction that stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether the gradient is taken where the momentum leads (Nesterov).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Added to the root of the second moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// Weight decay; not with `adam`. `sgd`, `rms-prop` and `ada-grad` add it to the gradient; for the others it is
    /// decoupled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Largest norm of all gradients together; 0: no clipping.
    pub clip_norm: f64,
    /// Norm of all gradients together, before clipping, above which a step is skipped (Child 2021, VDVAE), as long as
    /// `train.max_skips` allows it; 0: no step is. `metrics.jsonl` then has the steps `clipped` and `skipped` so far.
    pub skip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adam,
            learning_rate: 2e-4,
            warmup_steps: 5000,
            warmup_images: None,
            decay: RateDecay::Constant,
            beta_1: None,
            beta_2: None,
            beta_3: None,
            momentum: None,
            nesterov: None,
            epsilon: None,
            weight_decay: None,
            clip_norm: 1.0,
            skip_norm: 0.0,
        }
    }
}

/// For training that starts from a snapshot or from the folder of a text-to-image pipeline of diffusers. Without `freeze` and
/// `lora` all of the network is trained.
///
/// Names are those of the snapshot's file, except `gamma` and `beta` of normalisations. A pattern that fits no
/// parameter is an error that lists the names. The number of trained parameters is printed. Checkpoints and averages
/// hold the LoRA factors; a snapshot holds the weights with their product added, so that it opens anywhere, and of a
/// text-to-image pipeline the factors as well, in `pytorch_lora_weights.safetensors`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FineTuneConfig {
    /// The snapshot or pipeline; `--from` on the command line names another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// Parts that stay as they are: beginnings of parameter names, with `*` for any one part, such as `["down_blocks",
    /// "*.*.attentions", "time_embedding"]`.
    pub freeze: Vec<String>,
    /// Low-rank factors next to frozen weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
}

impl FineTuneConfig {
    /// Whether nothing is left out.
    pub fn is_everything(&self) -> bool {
        self.freeze.is_empty() && self.lora.is_none()
    }
}

/// LoRA (Hu et al., 2022): every weight is frozen. For each matrix and convolution of `parts` the product of two thin
/// factors is learned and added, times `alpha / rank`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Width of the factors.
    pub rank: usize,
    /// Scale of the product, before the division by the rank; left out: the rank, so that the factor is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Parts that get factors, as in `freeze`; empty: all.
    #[serde(default)]
    pub parts: Vec<String>,
}

/// Which items come how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// All items equally often.
    #[default]
    Items,
    /// All classes equally often: each comes once in as many items as there are classes, and every item of a class
    /// before one of it comes again.
    Classes,
}

/// What happens at a loss or gradient that is not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnNonFinite {
    /// The run stops before the step.
    #[default]
    Stop,
    /// The step is skipped: it and its data count, weights and averages stay as they are, as long as `max_skips` allows
    /// it.
    Skip,
}

/// At a step that is not finite, `--detect-anomaly` computes it once more and names the first layer whose output, or
/// else gradient, is not finite, with its input and weights. It costs nothing before that and works with `--resume`
/// too.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimiser steps.
    pub steps: u64,
    /// Images (or points) in one step.
    pub batch_size: usize,
    /// Parts that a batch is computed in, one after the other, to save memory; must divide `batch_size`. Their
    /// gradients are averaged.
    pub accumulate: usize,
    /// All random numbers of the run follow from it.
    pub seed: u64,
    /// How often each item comes.
    pub balance: Balance,
    /// Steps between two lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Steps between two checkpoints (everything to resume); one more at the end.
    pub checkpoint_every: u64,
    /// Minutes after which a checkpoint is written whatever the step; 0: none.
    pub checkpoint_minutes: f64,
    /// Newest checkpoints that are kept.
    pub keep_checkpoints: usize,
    /// Steps between two snapshots (weights to sample from); one more at the end.
    pub snapshot_every: u64,
    /// Threads that read, decode and augment ahead of the step. `metrics.jsonl` has how long steps wait for them
    /// (`data_wait`, a share of the time) and what they could deliver (`data_per_sec`).
    pub workers: usize,
    /// What happens at a loss or gradient that is not finite.
    pub on_non_finite: OnNonFinite,
    /// Steps in a row that may be skipped; one more stops the run.
    pub max_skips: u64,
    /// What the network computes in. Weights, moments, averages and the loss are f32 in all of them. See
    /// `docs/backends.md`.
    pub precision: Precision,
    /// Recomputes normalisations, sums and joins in the backward pass instead of keeping them: less memory, a slower
    /// step, the same bits.
    pub gradient_checkpointing: bool,
    /// Also writes the metrics to `tensorboard/` in the run folder, for `tensorboard --logdir runs`.
    pub tensorboard: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 800_000,
            batch_size: 128,
            accumulate: 1,
            seed: 0,
            balance: Balance::Items,
            log_every: 50,
            checkpoint_every: 5_000,
            checkpoint_minutes: 10.0,
            keep_checkpoints: 2,
            snapshot_every: 20_000,
            workers: 2,
            on_non_finite: OnNonFinite::Stop,
            max_skips: 10,
            precision: Precision::F32,
            gradient_checkpointing: false,
            tensorboard: false,
        }
    }
}

/// Snapshots keep `sampler` and `steps`: `cargo xtask sample` uses them unless it is given others.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreviewConfig {
    /// Steps between two previews; 0: only the one at the end.
    pub every: u64,
    /// Samples in a preview; 0: no preview at all.
    pub count: usize,
}

impl Default for PreviewConfig {
    fn default() -> Self {
        Self { every: 10_000, count: 64 }
    }
}

/// The averaged weights are measured, always on the same items with the same noise at the same levels, whatever the
/// seed of the run: two numbers can be compared, of one run or of two. `valid_loss` is the training loss. `valid_bpd`,
/// for images in discrete time, is an unbiased estimate of the variational bound in bits per dimension (`cargo xtask
/// likelihood` sums over all steps instead). Training is the same with and without. Data without a test split give a
/// warning and are trained on without.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationConfig {
    /// Steps between two validations, each at the next line of metrics; 0: none.
    pub every: u64,
    /// Items of the test split that are used, spread over all of it.
    pub count: usize,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self { every: 5_000, count: 64 }
    }
}

/// More threads than any machine has use for; each holds batches in memory.
const MOST_WORKERS: usize = 256;

/// More samples than a person looks at in one picture.
const MOST_PREVIEWED: usize = 10_000;

impl Experiment {
    /// What is wrong with values that are of the right type, key by key.
    pub fn problems(&self) -> Vec<Problem> {
        let (train, optimizer) = (&self.train, &self.optimizer);
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, message: String| {
            if !holds {
                problems.push((key.to_string(), message));
            }
        };
        for (key, value) in [
            ("train.steps", train.steps),
            ("train.batch_size", train.batch_size as u64),
            ("train.accumulate", train.accumulate as u64),
            ("train.log_every", train.log_every),
            ("train.checkpoint_every", train.checkpoint_every),
            ("train.keep_checkpoints", train.keep_checkpoints as u64),
            ("train.snapshot_every", train.snapshot_every),
            ("train.workers", train.workers as u64),
            ("train.max_skips", train.max_skips),
            ("validation.count", self.validation.count as u64),
        ] {
            require(value > 0, key, "must be at least 1, not 0".into());
        }
        for (key, value, most) in
            [("train.workers", train.workers, MOST_WORKERS), ("preview.count", self.preview.count, MOST_PREVIEWED)]
        {
            require(value <= most, key, format!("must be at most {most}, not {value}"));
        }
        require(
            train.checkpoint_minutes >= 0.0 && train.checkpoint_minutes.is_finite(),
            "train.checkpoint_minutes",
            format!("must be 0 or more, but is {}", train.checkpoint_minutes),
        );
        require(
            train.accumulate == 0 || train.batch_size.is_multiple_of(train.accumulate),
            "train.accumulate",
            format!("{} parts do not divide the batch of {} evenly", train.accumulate, train.batch_size),
        );
        require(
            optimizer.learning_rate > 0.0 && optimizer.learning_rate <= 1.0,
            "optimizer.learning_rate",
            format!("must lie in (0, 1], not {}", optimizer.learning_rate),
        );
        for (key, message) in optimizer.rate_problems(train.batch_size.max(1)) {
            require(false, &format!("optimizer.decay.{key}"), message);
        }
        for (key, message) in optimizer.constant_problems() {
            require(false, &format!("optimizer.{key}"), message);
        }
        require(
            optimizer.clip_norm >= 0.0 && optimizer.clip_norm.is_finite(),
            "optimizer.clip_norm",
            format!("must not be negative, but is {}", optimizer.clip_norm),
        );
        require(
            optimizer.skip_norm == 0.0 || optimizer.skip_norm.is_finite() && optimizer.skip_norm > optimizer.clip_norm,
            "optimizer.skip_norm",
            format!("must be 0 or above optimizer.clip_norm = {}, but is {}", optimizer.clip_norm, optimizer.skip_norm),
        );
        for (key, message) in self.family.problems() {
            require(false, &key, message);
        }
        for error in self.ema.problems() {
            require(false, &format!("ema.{}", error.key), format!("is {}, expected {}", error.value, error.expected));
        }
        for problem in self.data.problems() {
            require(false, &format!("data.{}", problem.key), problem.reason);
        }
        problems
    }
}
