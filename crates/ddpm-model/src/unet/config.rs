//! The description of a U-Net: its options, the known recipes, and the checks of both.

use serde::{Deserialize, Serialize};

use crate::embedding::SinusoidConfig;
use crate::network::Problem;

/// The number of attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number of heads, as in `4`, or their width, as in `{ width = 64 }`")]
pub enum Heads {
    /// This many, whatever the width of the level.
    Count(usize),
    /// As many as fit, each this wide.
    Width {
        /// Channels of one head.
        width: usize,
    },
}

impl Heads {
    /// The number of heads on `channels` channels, rounded down.
    pub fn count(self, channels: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Width { width } => channels.checked_div(width).unwrap_or(0),
        }
    }

    /// Whether `channels` channels divide into these heads.
    fn divide(self, channels: usize) -> bool {
        let (Self::Count(part) | Self::Width { width: part }) = self;
        part > 0 && channels.is_multiple_of(part)
    }
}

/// How the time enters a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeShift {
    /// Added between the two convolutions (Ho et al. 2020).
    Additive,
    /// Scales and shifts the second normalisation (Nichol & Dhariwal 2021).
    ScaleShift,
}

impl TimeShift {
    /// Values that a block with this many channels out needs from its projection of the time.
    pub fn projected(self, out_channels: usize) -> usize {
        match self {
            Self::Additive => out_channels,
            Self::ScaleShift => 2 * out_channels,
        }
    }
}

/// How the resolution changes between levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resampling {
    /// One 3x3 convolution, with stride 2 downwards and after nearest-neighbour doubling upwards.
    Conv,
    /// A residual block that averages or repeats pixels inside (Dhariwal & Nichol 2021).
    Residual,
}

/// Padding of the convolution with stride 2. A wrong choice moves the image by half a pixel and shows in no shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DownsamplePadding {
    /// One row below and one column to the right (TensorFlow's `SAME`, Ho et al. 2020).
    RightBottom,
    /// One pixel on each side (PyTorch's `padding=1`).
    Symmetric,
}

/// The normalisation in front of the middle attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MiddleNorm {
    /// As everywhere else.
    Same,
    /// None at all.
    None,
    /// With its own number of groups.
    Groups(usize),
}

/// Transformers with cross-attention to the tokens of a condition (Rombach et al. 2022).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrossAttentionConfig {
    /// Width of the tokens of the condition.
    pub token_width: usize,
    /// Transformer blocks after each residual block: one number for all levels, or one for each level.
    pub depths: Vec<usize>,
    /// Attention heads of each level; empty: as `heads` of the network says.
    pub heads: Vec<usize>,
    /// Whether the projections before and after the blocks are stored as dense layers (Stable Diffusion 2 and XL), and not
    /// as 1x1 convolutions (Stable Diffusion 1).
    pub linear_projection: bool,
    /// What is added to the embedding of the time; left out: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added: Option<AddedEmbeddingConfig>,
}

impl Default for CrossAttentionConfig {
    fn default() -> Self {
        Self { token_width: 768, depths: vec![1], heads: Vec::new(), linear_projection: false, added: None }
    }
}

impl CrossAttentionConfig {
    /// Transformer blocks after a residual block of this level.
    pub fn depth_at(&self, level: usize) -> usize {
        self.depths.get(level).or(self.depths.last()).copied().unwrap_or_default()
    }

    /// Heads of this level, where each level has its own number.
    pub fn heads_at(&self, level: usize) -> Option<usize> {
        self.heads.get(level).copied()
    }
}

/// An embedding of the whole prompt and of sizes, which is added to that of the time (Podell et al. 2023).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AddedEmbeddingConfig {
    /// Width of the vector of the whole prompt.
    pub pooled_width: usize,
    /// How many numbers, such as sizes, there are besides it.
    pub sizes: usize,
    /// Width of the sinusoidal embedding of each of them.
    pub size_width: usize,
}

impl Default for AddedEmbeddingConfig {
    fn default() -> Self {
        Self { pooled_width: 1280, sizes: 6, size_width: 256 }
    }
}

impl AddedEmbeddingConfig {
    /// Width of all that is embedded.
    pub fn width(&self) -> usize {
        self.pooled_width.saturating_add(self.sizes.saturating_mul(self.size_width))
    }
}

/// A U-Net. The defaults are the network of Ho et al. (2020) for CIFAR-10, with channels and size left to the data.
/// Height and width must be multiples of 2 to the power of the number of levels less one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels of the input; 0: as the data have. Another value must fit the data.
    pub in_channels: usize,
    /// Channels of the output, twice those of the data where the variance is learned; 0: as needed.
    pub out_channels: usize,
    /// Height in pixels of the first level, to which `attention_resolutions` refer; 0: as the data have.
    pub sample_size: usize,
    /// Channels after the first convolution; a quarter of the time embedding's width.
    pub base_channels: usize,
    /// Channels of each level, as multiples of `base_channels`. Each level has half the height and width of the one
    /// before.
    pub multipliers: Vec<f64>,
    /// Residual blocks on each level of the way down; the way up has one more.
    pub blocks_per_level: usize,
    /// Heights in pixels of the levels with attention; each must be the height of a level.
    pub attention_resolutions: Vec<usize>,
    /// Attention in the middle block.
    pub middle_attention: bool,
    /// Normalisation in front of the middle attention.
    pub middle_attention_norm: MiddleNorm,
    /// Attention heads: a number, or `{ width = 64 }` for as many heads of that width as fit.
    pub heads: Heads,
    /// Heads of the attentions on the way up, where they differ (`num_heads_upsample` of improved-diffusion); left out:
    /// as `heads`. diffusers cannot express it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads_up: Option<Heads>,
    /// Dropout probability in each residual block, before its last convolution.
    pub dropout: f64,
    /// Groups of every group normalisation; must divide the channels of every level.
    pub norm_groups: usize,
    /// Added to the variance in every normalisation.
    pub norm_eps: f64,
    /// How the time embedding enters a residual block.
    pub time_shift: TimeShift,
    /// How the resolution changes between levels.
    pub resampling: Resampling,
    /// Padding of the convolution with stride 2. A wrong choice moves the image by half a pixel and shows in no shape.
    pub downsample_padding: DownsamplePadding,
    /// Sinusoidal embedding of the time.
    pub embedding: SinusoidConfig,
    /// Number of classes; 0: unconditional. `"data"`: as many as the data have; the run's `config.toml` then has the
    /// number.
    pub classes: usize,
    /// One more class that stands for none; needed for `train.label_drop` and classifier-free guidance.
    pub null_class: bool,
    /// Augmentation labels: numbers that describe how a training image was changed; 9 with `[augment]`, else 0. To go
    /// on without `[augment]` from a snapshot that was trained with it: 9.
    pub augment_dim: usize,
    /// Transformers that attend to the tokens of a condition, such as an encoded prompt, in place of the self-attentions;
    /// left out: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cross_attention: Option<CrossAttentionConfig>,
}

impl UNetConfig {
    /// Ho et al. (2020) for CIFAR-10: 35,746,307 parameters in 328 tensors.
    pub fn cifar10() -> Self {
        Self { in_channels: 3, out_channels: 3, sample_size: 32, ..Self::default() }
    }

    /// Rows of the class embedding, the null class included; `None` for an unconditional network.
    pub fn class_rows(&self) -> Option<usize> {
        (self.classes > 0).then(|| self.classes + usize::from(self.null_class))
    }

    /// The index of the null class, if there is one.
    pub fn null_class(&self) -> Option<usize> {
        (self.classes > 0 && self.null_class).then_some(self.classes)
    }

    /// Channels of each level, from the image down.
    pub fn level_channels(&self) -> Vec<usize> {
        self.multipliers.iter().map(|m| (self.base_channels as f64 * m).round() as usize).collect()
    }

    /// Whether this level, counted from 0 at the image, has attention.
    pub fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&(self.sample_size >> level))
    }

    /// Heads of the attentions on the way up; those on the way down and in the middle have `heads`.
    pub fn heads_on_the_way_up(&self) -> Heads {
        self.heads_up.unwrap_or(self.heads)
    }

    /// Width of the time embedding inside the network.
    pub fn time_width(&self) -> usize {
        4 * self.base_channels
    }

    /// The number that height and width must be multiples of, for each level to be half the one before.
    pub fn size_multiple(&self) -> usize {
        1 << self.multipliers.len().saturating_sub(1).min(usize::BITS as usize - 1)
    }

    /// Groups of the normalisation in front of the middle attention, if it has one.
    pub(crate) fn middle_groups(&self) -> Option<usize> {
        match self.middle_attention_norm {
            MiddleNorm::Same => Some(self.norm_groups),
            MiddleNorm::None => None,
            MiddleNorm::Groups(groups) => Some(groups),
        }
    }

    /// All reasons why this network cannot be built for data of this shape.
    pub fn problems(&self, data_shape: &[usize]) -> Vec<Problem> {
        let mut problems = self.own_problems();
        let &[channels, height, width] = data_shape else {
            let message = format!("a U-Net takes images [channels, height, width], the data are {data_shape:?}");
            problems.push(Problem::new("kind", message));
            return problems;
        };
        let (twice, inpainting) = (2 * channels, 2 * channels + 1);
        let inpaints = self.cross_attention.is_some() && self.in_channels == inpainting;
        if ![channels, twice].contains(&self.in_channels) && !inpaints {
            let message = format!(
                "is {}; expected {channels} as the data have, or {twice} with self-conditioning",
                self.in_channels
            );
            problems.push(Problem::new("in_channels", message));
        }
        if ![channels, 2 * channels].contains(&self.out_channels) {
            let message = format!(
                "is {}; expected {channels} as the data have, or {} where the variance is learned",
                self.out_channels,
                2 * channels
            );
            problems.push(Problem::new("out_channels", message));
        }
        if let Some(message) = self.size_problem(height, width) {
            problems.push(Problem::new("multipliers", message));
        }
        problems
    }

    /// Why an image of this size cannot pass, if so.
    pub(crate) fn size_problem(&self, height: usize, width: usize) -> Option<String> {
        let multiple = if self.takes_uneven_sides() { 1 } else { self.size_multiple() };
        let fits = |size: usize| size > 0 && size.is_multiple_of(multiple);
        (!fits(height) || !fits(width)).then(|| {
            let levels = self.multipliers.len();
            let fewer = 1 + height.trailing_zeros().min(width.trailing_zeros());
            format!(
                "{levels} levels need height and width that are multiples of {multiple}, but images are \
                 {height}x{width} (these allow {fewer} at most): use fewer levels or another image size"
            )
        })
    }

    /// Whether the way up leads to the size of the skip connection where a side did not halve evenly, as in latent diffusion.
    fn takes_uneven_sides(&self) -> bool {
        self.cross_attention.is_some() && self.resampling == Resampling::Conv
    }

    /// What is wrong with the config whatever the data.
    fn own_problems(&self) -> Vec<Problem> {
        let mut problems = self.size_problems();
        problems.extend(self.attention_problems());
        problems.extend(self.cross_attention.iter().flat_map(|cross| self.cross_attention_problems(cross)));
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(Problem::new("dropout", format!("{} is not in [0, 1)", self.dropout)));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            problems.push(Problem::new("norm_eps", format!("{} is not a positive number", self.norm_eps)));
        }
        problems
    }

    fn size_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));

        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("sample_size", self.sample_size),
            ("blocks_per_level", self.blocks_per_level),
            ("norm_groups", self.norm_groups),
        ];
        for (key, _) in counts.into_iter().filter(|&(_, count)| count == 0) {
            report(key, "must be at least 1".into());
        }
        if self.multipliers.is_empty() {
            report("multipliers", "needs at least one level".into());
        }
        for &m in &self.multipliers {
            let channels = self.base_channels as f64 * m;
            if !(channels >= 1.0 && (channels - channels.round()).abs() < 1e-6) {
                report("multipliers", format!("{m} times {} is not a whole number of channels", self.base_channels));
            }
        }
        if let Some(message) = self.embedding.problem(self.base_channels) {
            report("base_channels", format!("is also the width of the time embedding: {message}"));
        }
        for channels in distinct(std::iter::once(self.base_channels).chain(self.level_channels())) {
            if self.norm_groups > 0 && !channels.is_multiple_of(self.norm_groups) {
                report("norm_groups", format!("{channels} channels do not divide into {} groups", self.norm_groups));
            }
        }
        problems
    }

    fn attention_problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| problems.push(Problem::new(key, message));

        let levels = self.level_channels();
        let resolutions: Vec<usize> = (0..levels.len()).map(|level| self.sample_size >> level).collect();
        for resolution in &self.attention_resolutions {
            if self.sample_size > 0 && !resolutions.contains(resolution) {
                report("attention_resolutions", format!("{resolution} is not the height of a level: {resolutions:?}"));
            }
        }
        let attending = levels.iter().enumerate().filter(|&(level, _)| self.attends(level)).map(|(_, &c)| c);
        let middle = levels.last().copied().filter(|_| self.middle_attention);
        let has_own_heads = self.cross_attention.as_ref().is_some_and(|cross| !cross.heads.is_empty());
        for channels in distinct(attending.clone().chain(middle)) {
            if !has_own_heads && !self.heads.divide(channels) {
                report("heads", format!("{channels} channels do not divide into {}", self.heads));
            }
        }
        if let Some(heads) = self.heads_up {
            for channels in distinct(attending).into_iter().filter(|&channels| !heads.divide(channels)) {
                report("heads_up", format!("{channels} channels do not divide into {heads}"));
            }
        }
        if let (Some(channels), Some(groups)) = (middle, self.middle_groups())
            && (groups == 0 || !channels.is_multiple_of(groups))
            && groups != self.norm_groups
        {
            report("middle_attention_norm", format!("{channels} channels do not divide into {groups} groups"));
        }
        problems
    }
}

impl UNetConfig {
    fn cross_attention_problems(&self, cross: &CrossAttentionConfig) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |key: &str, message: String| {
            problems.push(Problem::new(&format!("cross_attention.{key}"), message));
        };
        let levels = self.level_channels();
        if cross.token_width == 0 {
            report("token_width", "must be at least 1".into());
        }
        if ![1, levels.len()].contains(&cross.depths.len()) || cross.depths.contains(&0) {
            let message = format!("expected a number of blocks, or one for each of {} levels", levels.len());
            report("depths", format!("{:?}: {message}", cross.depths));
        }
        if ![0, levels.len()].contains(&cross.heads.len()) {
            report("heads", format!("{:?}: expected a number for each of {} levels", cross.heads, levels.len()));
        } else {
            let last = levels.len().saturating_sub(1);
            for (level, (&heads, &channels)) in cross.heads.iter().zip(&levels).enumerate() {
                let used = self.attends(level) || (self.middle_attention && level == last);
                if used && !Heads::Count(heads).divide(channels) {
                    report("heads", format!("{channels} channels do not divide into {heads} heads"));
                }
            }
        }
        if let Some(added) = cross.added {
            if added.width() == 0 {
                report("added", "has nothing to embed".into());
            }
            if let Some(message) = self.embedding.problem(added.size_width).filter(|_| added.sizes > 0) {
                report("added.size_width", message);
            }
        }
        problems
    }
}

impl Default for UNetConfig {
    fn default() -> Self {
        Self {
            in_channels: 0,
            out_channels: 0,
            sample_size: 0,
            base_channels: 128,
            multipliers: vec![1.0, 2.0, 2.0, 2.0],
            blocks_per_level: 2,
            attention_resolutions: vec![16],
            middle_attention: true,
            middle_attention_norm: MiddleNorm::Same,
            heads: Heads::Count(1),
            heads_up: None,
            dropout: 0.1,
            norm_groups: 32,
            norm_eps: 1e-6,
            time_shift: TimeShift::Additive,
            resampling: Resampling::Conv,
            downsample_padding: DownsamplePadding::RightBottom,
            embedding: SinusoidConfig::ho(),
            classes: 0,
            null_class: true,
            augment_dim: 0,
            cross_attention: None,
        }
    }
}

impl std::fmt::Display for Heads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count} heads"),
            Self::Width { width } => write!(f, "heads of width {width}"),
        }
    }
}

/// Each value once, so that a problem is reported once, not once per level.
pub(crate) fn distinct(values: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut values: Vec<usize> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn keys(config: &UNetConfig, shape: &[usize]) -> Vec<String> {
        config.problems(shape).into_iter().map(|problem| problem.key).collect()
    }

    #[test]
    fn the_papers_network_has_no_problems() {
        assert_eq!(UNetConfig::cifar10().problems(&[3, 32, 32]), vec![]);
    }

    #[test]
    fn indivisible_sizes_are_refused_and_named() {
        let config = UNetConfig { attention_resolutions: vec![], sample_size: 28, ..UNetConfig::cifar10() };
        let problems = config.problems(&[3, 28, 30]);
        assert_eq!(problems.len(), 1);
        let message = &problems[0].message;
        assert!(message.contains("28x30") && message.contains("multiples of 8"), "{message}");
        assert!(message.contains("allow 2"), "{message}");
        assert_eq!(config.size_problem(8, 24), None);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let config = UNetConfig {
            out_channels: 4,
            base_channels: 30,
            multipliers: vec![1.0, 1.51],
            attention_resolutions: vec![5, 16],
            heads: Heads::Width { width: 7 },
            heads_up: Some(Heads::Count(0)),
            dropout: 1.0,
            norm_groups: 8,
            norm_eps: 0.0,
            middle_attention_norm: MiddleNorm::Groups(4),
            ..UNetConfig::cifar10()
        };
        let found = keys(&config, &[1, 32, 33]);
        for key in [
            "in_channels",
            "out_channels",
            "multipliers",
            "attention_resolutions",
            "heads",
            "heads_up",
            "dropout",
            "norm_groups",
            "norm_eps",
            "middle_attention_norm",
        ] {
            assert!(found.iter().any(|found| found == key), "{key} is not in {found:?}");
        }
        assert_eq!(keys(&UNetConfig::cifar10(), &[2]), ["kind"]);
    }

    #[test]
    fn unresolved_channels_are_a_problem() {
        let found = keys(&UNetConfig::default(), &[3, 32, 32]);
        for key in ["in_channels", "out_channels", "sample_size"] {
            assert!(found.iter().any(|found| found == key), "{key}");
        }
    }

    #[test]
    fn written_and_read_again_it_is_the_same() {
        let config = UNetConfig {
            heads: Heads::Width { width: 64 },
            middle_attention_norm: MiddleNorm::Groups(8),
            classes: 10,
            ..UNetConfig::cifar10()
        };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<UNetConfig>(&text).unwrap(), config);
        let short = serde_json::from_str::<UNetConfig>(r#"{"heads": 4, "multipliers": [1, 2]}"#).unwrap();
        assert_eq!((short.heads, short.multipliers), (Heads::Count(4), vec![1.0, 2.0]));
        assert!(serde_json::from_str::<UNetConfig>(r#"{"headz": 4}"#).unwrap_err().to_string().contains("headz"));
        let wrong = serde_json::from_str::<UNetConfig>(r#"{"heads": "many"}"#).unwrap_err().to_string();
        assert!(wrong.contains("width = 64"), "{wrong}");
    }

    #[test]
    fn problems_of_cross_attention_are_named() {
        let cross = |cross| UNetConfig { cross_attention: Some(cross), ..UNetConfig::cifar10() };
        let good = CrossAttentionConfig::default();
        assert_eq!(cross(good.clone()).problems(&[3, 32, 32]), vec![]);
        // Latents, a mask, and the latents of the masked image; sides that do not halve evenly.
        let inpainting = UNetConfig { in_channels: 7, ..cross(good.clone()) };
        assert_eq!(inpainting.problems(&[3, 30, 31]), vec![]);
        let bad = CrossAttentionConfig {
            token_width: 0,
            depths: vec![1, 2],
            heads: vec![1, 3, 1, 0],
            added: Some(AddedEmbeddingConfig { size_width: 3, ..Default::default() }),
            ..good
        };
        let found = keys(&cross(bad), &[3, 32, 32]);
        let expected = ["token_width", "depths", "heads", "heads", "added.size_width"];
        assert_eq!(found, expected.map(|key| format!("cross_attention.{key}")));
    }

    /// Snapshots and experiments from before the key was there are the same bytes.
    #[test]
    fn heads_on_the_way_up_are_written_only_where_they_were_given() {
        let same = UNetConfig::cifar10();
        assert!(!serde_json::to_string(&same).unwrap().contains("heads_up"));
        assert_eq!(same.heads_on_the_way_up(), same.heads);
        for (text, heads) in [("4", Heads::Count(4)), (r#"{"width": 16}"#, Heads::Width { width: 16 })] {
            let config: UNetConfig = serde_json::from_str(&format!(r#"{{"heads": 2, "heads_up": {text}}}"#)).unwrap();
            assert_eq!((config.heads, config.heads_on_the_way_up()), (Heads::Count(2), heads));
            assert_eq!(serde_json::from_str::<UNetConfig>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
        }
        // They need only fit the levels: the middle has those of the way down.
        let middle =
            UNetConfig { multipliers: vec![1.0, 1.0, 1.0, 1.5], heads_up: Some(Heads::Width { width: 128 }), ..same };
        assert_eq!(middle.problems(&[3, 32, 32]), vec![]);
    }
}
