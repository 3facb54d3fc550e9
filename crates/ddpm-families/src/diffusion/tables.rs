//! What an experiment says of a diffusion model, and what of it follows from the data.

use burn::tensor::Device;
use ddpm_data::augment::{AUGMENT_LABELS, AugmentConfig};
use ddpm_data::{Bounds, DataConfig, DataInfo, ImageLabels, OpenData, three_axes};
use ddpm_model::bound::Loss;
use ddpm_model::network::{NetworkConfig, NetworkError};
use ddpm_model::variance::Variance;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::captions::TextConfig;
use super::latents::{LatentEncoder, LatentsConfig};
use super::networks;
use crate::family::Problem;
use crate::latent::{FirstStage, FrozenParts};
use crate::snapshot::DiffusionConfig;

/// The sections of a diffusion model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionTables {
    /// Random changes of training images.
    #[serde(default)]
    pub augment: AugmentConfig,
    /// The network.
    #[serde(deserialize_with = "networks::of_experiment")]
    pub model: NetworkConfig,
    /// The latents that are denoised in place of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latents: Option<LatentsConfig>,
    /// The text that the network is conditioned on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// Whether the network has as many classes as the data: `model.classes = "data"`, which is a number as soon as the
    /// data are open.
    #[serde(skip)]
    pub classes_of_data: bool,
    /// Keys that were given and are not read: those about counted steps beside `[diffusion.continuous]`.
    #[serde(skip)]
    pub unread: Vec<String>,
    /// The forward process, what the network predicts, and what training minimises.
    #[serde(default)]
    pub diffusion: DiffusionConfig,
    /// Keys in `[train]`.
    #[serde(default)]
    pub train: TrainKeys,
    /// Keys in `[preview]`.
    #[serde(default)]
    pub preview: PreviewKeys,
    /// Keys in `[validation]`.
    #[serde(default)]
    pub validation: ValidationKeys,
}

/// Keys of diffusion in `[train]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainKeys {
    /// How the time step of an item is drawn.
    pub time_sampling: TimeSampling,
    /// Share of labels replaced by the null class, or of captions replaced by the empty prompt, so that the network also
    /// learns the unconditional model (classifier-free guidance). Must be 0 if there are classes but no null class.
    pub label_drop: f64,
}

impl Default for TrainKeys {
    fn default() -> Self {
        Self { time_sampling: TimeSampling::Uniform, label_drop: 0.1 }
    }
}

/// How the step of a training item is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSampling {
    /// All steps with the same probability.
    #[default]
    Uniform,
    /// Importance sampling: steps with large losses more often, the loss divided by how much more often (Nichol &
    /// Dhariwal 2021). Meant for the losses `"kl"` and `"rescaled-kl"`, whose terms differ most. Begins once every step
    /// has been drawn 10 times.
    LossSecondMoment,
}

/// Keys of diffusion in `[preview]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreviewKeys {
    /// The sampler: any name that `cargo xtask sample --help` lists. Its options may follow: `"heun:churn=40"`.
    pub sampler: String,
    /// Steps of the sampler, at most those of the schedule.
    pub steps: usize,
    /// Guidance towards the class or the prompt; left out: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// Prompts, one after the other, for a network that is conditioned on text; left out: captions of the test split.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
}

impl Default for PreviewKeys {
    fn default() -> Self {
        Self { sampler: "ddim".into(), steps: 50, guidance: None, prompts: Vec::new() }
    }
}

/// Keys of diffusion in `[validation]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationKeys {
    /// Noise levels for each item. In discrete time: the first step, and stretches of steps that grow by the same
    /// factor.
    pub levels: usize,
}

impl Default for ValidationKeys {
    fn default() -> Self {
        Self { levels: 16 }
    }
}

impl DiffusionTables {
    /// Those of a network under a process, with the defaults of everything else.
    pub fn of(model: NetworkConfig, diffusion: DiffusionConfig) -> Self {
        Self {
            augment: AugmentConfig::default(),
            model,
            latents: None,
            text: None,
            classes_of_data: false,
            unread: Vec::new(),
            diffusion,
            train: TrainKeys::default(),
            preview: PreviewKeys::default(),
            validation: ValidationKeys::default(),
        }
    }

    /// The sections, each with what must be in it; more than once where kinds have keys of their own.
    pub(super) const SECTIONS: &'static [(&'static str, &'static str)] = &[
        ("augment", ""),
        ("model", "kind = 'unet'"),
        ("model", "kind = 'point-mlp'"),
        ("latents", ""),
        ("text", ""),
        ("diffusion", ""),
        ("diffusion.schedule", "kind = 'linear'"),
        ("diffusion.schedule", "kind = 'cosine'"),
        ("diffusion.weighting", "kind = 'min-snr'"),
        ("diffusion.continuous", "path = { kind = 've' }"),
        ("diffusion.continuous.path", "kind = 've'"),
        ("diffusion.continuous.path", "kind = 'vp'"),
        ("diffusion.continuous.times", "kind = 'log-normal'"),
    ];

    /// The keys in sections that every family has.
    pub(super) const SHARED_KEYS: &'static [(&'static str, &'static str)] = &[
        ("train", "time_sampling"),
        ("train", "label_drop"),
        ("preview", "sampler"),
        ("preview", "steps"),
        ("preview", "guidance"),
        ("preview", "prompts"),
        ("validation", "levels"),
    ];

    /// Reads the sections. `model.classes` may be a word where a network's own table has a number.
    pub(super) fn read(mut tables: Table) -> Result<Self, String> {
        let classes_of_data = take_classes(&mut tables)?;
        let unread = unread(&tables);
        let read = Self::deserialize(Value::Table(tables)).map_err(|error| error.message().to_string())?;
        Ok(Self { classes_of_data, unread, ..read })
    }

    /// What is wrong with values that are of the right type, key by key.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let Self { train, preview, validation, diffusion, augment, .. } = self;
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, message: String| {
            if !holds {
                problems.push((key.to_string(), message));
            }
        };
        require(preview.steps > 0, "preview.steps", "must be at least 1, not 0".into());
        require(
            (0.0..=1.0).contains(&train.label_drop),
            "train.label_drop",
            format!("must lie between 0 and 1, not {}", train.label_drop),
        );
        require(validation.levels >= 2, "validation.levels", format!("must be at least 2, not {}", validation.levels));
        if let Err(error) = Sampler::new(&preview.sampler, SamplerOptions::default()) {
            require(false, "preview.sampler", error.to_string());
        }
        let is_continuous = diffusion.continuous.is_some();
        require(
            !(is_continuous && train.time_sampling == TimeSampling::LossSecondMoment),
            "train.time_sampling",
            "\"loss-second-moment\" remembers the losses of counted steps; a path has [diffusion.continuous.times]"
                .into(),
        );
        require(
            is_continuous || preview.steps <= diffusion.schedule.steps(),
            "preview.steps",
            format!("the schedule has only {} steps, not {}", diffusion.schedule.steps(), preview.steps),
        );
        for (key, message) in diffusion.problems() {
            require(false, &format!("diffusion.{key}"), message);
        }
        problems.extend(self.latents.iter().flat_map(LatentsConfig::problems));
        problems.extend(self.text.iter().flat_map(TextConfig::problems));
        let mut require = |holds: bool, key: &str, message: String| {
            if !holds {
                problems.push((key.to_string(), message));
            }
        };
        let guidance = preview.guidance.unwrap_or(1.0);
        require(guidance.is_finite(), "preview.guidance", format!("must be a finite number, not {guidance}"));
        let is_read = preview.prompts.is_empty() || self.text.is_some();
        require(is_read, "preview.prompts", "need a network that is conditioned on text, by [text]".into());
        for problem in augment.problems() {
            require(false, &format!("augment.{}", problem.key), problem.reason);
        }
        problems
    }

    /// What was given and is not read.
    pub(super) fn notes(&self) -> Vec<String> {
        let unread = self.unread.join(", ");
        match unread.is_empty() {
            true => Vec::new(),
            false => vec![format!("not read beside [diffusion.continuous], since it is about counted steps: {unread}")],
        }
    }

    /// Whether the network draws random numbers in training.
    pub(super) fn has_dropout(&self) -> bool {
        self.model.has_dropout()
    }

    /// Channels of the network's input: a self-conditioned one has its own estimate of the data beside its input.
    fn input_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut input = shape.to_vec();
        input[0] *= if self.diffusion.self_conditioning { 2 } else { 1 };
        input
    }

    /// Opens the frozen parts that the experiment names, and leaves nothing open about them.
    pub(super) fn with_parts(mut self, data: &OpenData, device: &Device) -> Result<(Self, FrozenParts), Vec<Problem>> {
        let mut parts = FrozenParts::default();
        let mut problems = Vec::new();
        match self.latents.take().map(|latents| latents.resolve(data, device)).transpose() {
            Ok(opened) => (self.latents, parts.first_stage) = opened.unzip(),
            Err(problem) => problems.push(problem),
        }
        match self.text.take().map(|text| text.resolve(device)).transpose() {
            Ok(opened) => (self.text, parts.text) = opened.unzip(),
            Err(problem) => problems.push(problem),
        }
        if problems.is_empty() { Ok((self, parts)) } else { Err(problems) }
    }

    /// From images to latents, by this first stage.
    pub(super) fn encoder(&self, stage: FirstStage, data: &DataInfo, in_batch: bool) -> Result<LatentEncoder, Problem> {
        let latent = stage.latent_shape(&data.shape);
        let latent = latent.map_err(|error| ("latents.autoencoder".to_string(), error.to_string()))?;
        let posterior = self.latents.as_ref().map(|latents| latents.posterior).unwrap_or_default();
        Ok(LatentEncoder { stage, posterior, image: three_axes(&data.shape), latent, in_batch })
    }

    /// What does not go together of the text and the network.
    fn text_problems(&self, network: &NetworkConfig, data: &DataInfo, parts: &FrozenParts) -> Vec<Problem> {
        let (Some(text), Some(config)) = (&parts.text, &self.text) else { return Vec::new() };
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push((key.to_string(), message));
        let (width, encoder) = (text.encoder.width(), config.encoder.display());
        match network.token_width() {
            Some((key, found)) if found != width => {
                report(key, format!("is {found}, but the tokens of text.encoder = {encoder} have {width} values"));
            }
            Some(_) => {}
            None => report(
                "model",
                format!(
                    "attends to no tokens, which [text] gives it: a U-Net does with cross_attention.token_width = \
                     {width}, a DiT with token_width = {width}"
                ),
            ),
        }
        if !data.has_captions {
            let hint = "; a folder of images has them with data.captions = \"auto\"";
            report("text.encoder", format!("{} has no captions{hint}", data.name));
        }
        if network.num_classes() > 0 {
            report("model.classes", "a network is conditioned on classes or on text, and [text] is given".into());
        }
        problems
    }

    /// Fills in what the network takes from the data, and checks that they fit.
    pub(super) fn with_data(
        mut self,
        config: &DataConfig,
        data: &OpenData,
        parts: &FrozenParts,
    ) -> Result<Self, Vec<Problem>> {
        let latent = parts.first_stage.as_ref().map(|stage| stage.latent_shape(&data.info.shape));
        let latent =
            latent.transpose().map_err(|error| vec![("latents.autoencoder".to_string(), error.to_string())])?;
        let shape = &latent.map_or_else(|| data.info.shape.clone(), |shape| shape.to_vec());
        let predicted = self.diffusion.variance.output_channels(shape[0]);
        let input = self.input_shape(shape);
        let mut network = self.model.clone().with_io(&input, predicted);
        if self.classes_of_data {
            network = network.with_classes(data.info.classes.len());
        }
        if self.augment.has_labels() {
            network = network.with_augment_dim(AUGMENT_LABELS);
        }
        let mut problems = network_problems(&network, shape, [input[0], predicted]);
        problems.extend(self.problems_with_data(&network, config, data));
        problems.extend(self.text_problems(&network, &data.info, parts));
        self.classes_of_data = false;
        self.model = network;
        if problems.is_empty() { Ok(self) } else { Err(problems) }
    }

    /// What does not go together with these data.
    fn problems_with_data(&self, network: &NetworkConfig, config: &DataConfig, data: &OpenData) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push((key.to_string(), message));
        let bound =
            self.diffusion.variance == Variance::Learned || matches!(self.diffusion.loss, Loss::Kl | Loss::RescaledKl);
        if bound && data.info.bounds() != Bounds::Bytes {
            let name = &data.info.name;
            report("diffusion", format!("the variational bound needs images of 8 bits, and {name} are points"));
        }
        if bound && self.latents.is_some() {
            report("diffusion", "the variational bound needs images of 8 bits, and latents have no levels".into());
        }
        let (asked, known) = (network.num_classes(), data.info.classes.len());
        if (asked > 0 && asked != known) || (self.classes_of_data && known == 0) {
            report("model.classes", self.other_classes(config, data, asked));
        }
        if asked > 0 && self.train.label_drop > 0.0 && network.null_class().is_none() {
            report("train.label_drop", "labels can only be dropped if model.null_class is true".into());
        }
        for problem in self.augment.problems_with(&data.info) {
            report(&format!("augment.{}", problem.key), problem.reason);
        }
        if self.augment.has_labels() && data.info.is_image() && network.augment_dim() != AUGMENT_LABELS {
            let given = network.augment_dim();
            report("model.augment_dim", format!("{given}, but there are {AUGMENT_LABELS} augmentation labels"));
        }
        problems
    }

    /// Why the network cannot have as many classes as it should.
    fn other_classes(&self, config: &DataConfig, data: &OpenData, asked: usize) -> String {
        let asked = if self.classes_of_data { "\"data\"".into() } else { format!("{asked} classes") };
        let (source, hint) = match config {
            DataConfig::Images(images) if images.labels == ImageLabels::None => {
                ("the folder", ": data.labels is \"none\", and \"folders\" makes a class of each sub-folder")
            }
            DataConfig::Images(_) => ("the folder", ""),
            _ => (&*data.info.name, ""),
        };
        format!("{asked}, but {source} has {}{hint}", data.info.classes_in_short())
    }

    /// What these data have that the network does not learn.
    pub(super) fn remarks(&self, config: &DataConfig, data: &OpenData) -> Vec<String> {
        let has_labels = matches!(config, DataConfig::Images(images) if images.labels == ImageLabels::Folders);
        if !has_labels || self.model.num_classes() > 0 {
            return Vec::new();
        }
        let classes = data.info.classes_in_short();
        vec![format!(
            "the network learns no classes, and the folder has {classes}; model.classes = \"data\" makes it learn them"
        )]
    }
}

/// What of a network does not fit these data.
fn network_problems(network: &NetworkConfig, shape: &[usize], channels: [usize; 2]) -> Vec<Problem> {
    match network.validate(shape) {
        Err(NetworkError::Config { problems }) => {
            problems.into_iter().map(|problem| (format!("model.{}", problem.key), problem.message)).collect()
        }
        Err(other) => vec![("model".into(), other.to_string())],
        Ok(()) if network.io() != channels => {
            let ([takes, gives], [input, predicted]) = (network.io(), channels);
            let message =
                format!("takes {takes} channels and gives {gives}, but {input} come in and {predicted} are predicted");
            vec![("model".into(), message)]
        }
        Ok(()) => Vec::new(),
    }
}

/// Takes the word of `model.classes = "data"` out of the tables, and says whether it was there.
fn take_classes(tables: &mut Table) -> Result<bool, String> {
    let Some(Value::Table(model)) = tables.get_mut("model") else { return Ok(false) };
    let Some(word) = model.get("classes").and_then(Value::as_str).map(str::to_string) else { return Ok(false) };
    if word != "data" {
        return Err(format!("is {word:?}; expected a number, or \"data\" for as many as the data have"));
    }
    model.remove("classes");
    Ok(true)
}

/// Keys about counted steps beside a path in continuous time. What they say cannot be told from what they are without
/// being given, so it may be a mistake, but does no harm.
fn unread(tables: &Table) -> Vec<String> {
    let Some(Value::Table(diffusion)) = tables.get("diffusion") else { return Vec::new() };
    let given = DiffusionConfig::OF_STEPS.iter().filter(|key| diffusion.contains_key(**key));
    match diffusion.contains_key("continuous") {
        true => given.map(|key| format!("diffusion.{key}")).collect(),
        false => Vec::new(),
    }
}
