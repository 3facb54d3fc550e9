//! The description of a diffusion transformer: its options, and their checks.

use serde::{Deserialize, Serialize};

use crate::embedding::SinusoidConfig;
use crate::network::Problem;

/// Width of the sinusoidal embedding of the time.
pub(super) const TIME_WIDTH: usize = 256;

/// A diffusion transformer (Peebles & Xie 2023). The defaults are DiT-S/2, with channels and size left to the data. Height and
/// width must be multiples of `patch_size`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiTConfig {
    /// Channels of the input; 0: as the data have. Another value must fit the data.
    pub in_channels: usize,
    /// Channels of the output, twice those of the data where the variance is learned; 0: as needed.
    pub out_channels: usize,
    /// Height in pixels that the positions refer to; 0: as the data have. Other sizes are possible: their positions are those of
    /// this size, stretched.
    pub sample_size: usize,
    /// Height and width of the squares of pixels that become one token each.
    pub patch_size: usize,
    /// Width of the tokens; must divide into the heads, and by 4.
    pub hidden_size: usize,
    /// Number of transformer blocks.
    pub depth: usize,
    /// Attention heads of each block.
    pub heads: usize,
    /// Added to the variance in the normalization in front of each feed-forward part; elsewhere it is 1e-6.
    pub norm_eps: f64,
    /// Whether all blocks have the same embedding of the time and the class, as in the original code. In the files of diffusers
    /// each has one of its own.
    pub shared_embedding: bool,
    /// Sinusoidal embedding of the time.
    pub embedding: SinusoidConfig,
    /// Number of classes; 0: unconditional. `"data"`: as many as the data have; the run's `config.toml` then has the
    /// number.
    pub classes: usize,
    /// One more class that stands for none; needed for `train.label_drop` and classifier-free guidance.
    pub null_class: bool,
    /// Width of the tokens of a condition, such as an encoded prompt, which each block attends to (Chen et al. 2023); 0: none.
    pub token_width: usize,
}

impl Default for DiTConfig {
    fn default() -> Self {
        Self {
            in_channels: 0,
            out_channels: 0,
            sample_size: 0,
            patch_size: 2,
            hidden_size: 384,
            depth: 12,
            heads: 6,
            norm_eps: 1e-6,
            shared_embedding: true,
            embedding: SinusoidConfig::improved(),
            classes: 0,
            null_class: true,
            token_width: 0,
        }
    }
}

impl DiTConfig {
    /// Rows of the class embedding, the null class included; `None` for an unconditional network.
    pub fn class_rows(&self) -> Option<usize> {
        (self.classes > 0).then(|| self.classes + usize::from(self.null_class))
    }

    /// The index of the null class, if there is one.
    pub fn null_class(&self) -> Option<usize> {
        (self.classes > 0 && self.null_class).then_some(self.classes)
    }

    /// All reasons why this network cannot be built for data of this shape.
    pub fn problems(&self, data_shape: &[usize]) -> Vec<Problem> {
        let mut problems = self.own_problems();
        let &[channels, height, width] = data_shape else {
            let message = format!("a DiT takes images [channels, height, width], the data are {data_shape:?}");
            problems.push(Problem::new("kind", message));
            return problems;
        };
        for (key, found, why) in [
            ("in_channels", self.in_channels, "with self-conditioning"),
            ("out_channels", self.out_channels, "where the variance is learned"),
        ] {
            if ![channels, 2 * channels].contains(&found) {
                let twice = 2 * channels;
                let message = format!("is {found}; expected {channels} as the data have, or {twice} {why}");
                problems.push(Problem::new(key, message));
            }
        }
        problems.extend(self.size_problem(height, width).map(|message| Problem::new("patch_size", message)));
        problems
    }

    /// Why an image of this size cannot pass, if so.
    pub(crate) fn size_problem(&self, height: usize, width: usize) -> Option<String> {
        let patch = self.patch_size;
        let fits = |size: usize| size > 0 && size.is_multiple_of(patch);
        (!fits(height) || !fits(width))
            .then(|| format!("height and width must be multiples of {patch}, but images are {height}x{width}"))
    }

    /// What is wrong with the config whatever the data.
    fn own_problems(&self) -> Vec<Problem> {
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("sample_size", self.sample_size),
            ("patch_size", self.patch_size),
            ("hidden_size", self.hidden_size),
            ("depth", self.depth),
            ("heads", self.heads),
        ];
        let zero = counts.into_iter().filter(|&(_, count)| count == 0);
        let mut problems: Vec<Problem> = zero.map(|(key, _)| Problem::new(key, "must be at least 1")).collect();
        let width = self.hidden_size;
        if self.heads > 0 && !width.is_multiple_of(self.heads) {
            problems.push(Problem::new("hidden_size", format!("{width} does not divide into {} heads", self.heads)));
        }
        if !width.is_multiple_of(4) {
            let message = format!("{width} is no multiple of 4: positions are sines and cosines of two coordinates");
            problems.push(Problem::new("hidden_size", message));
        }
        if self.patch_size > 0 && !self.sample_size.is_multiple_of(self.patch_size) {
            let message = format!("{} is no multiple of patch_size = {}", self.sample_size, self.patch_size);
            problems.push(Problem::new("sample_size", message));
        }
        problems.extend(self.embedding.problem(TIME_WIDTH).map(|message| Problem::new("embedding", message)));
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) {
            problems.push(Problem::new("norm_eps", format!("{} is not a positive number", self.norm_eps)));
        }
        problems
    }

    /// Values that a training step keeps per image of this size: the inputs of every normalization, projection, activation and
    /// softmax.
    pub(crate) fn kept_values(&self, height: usize, width: usize) -> usize {
        let patch = self.patch_size.max(1);
        let tokens = (height / patch).saturating_mul(width / patch);
        let dense = tokens.saturating_mul(self.hidden_size).saturating_mul(20);
        let scores = tokens.saturating_mul(tokens).saturating_mul(2 * self.heads);
        self.depth.saturating_mul(dense.saturating_add(scores))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sized() -> DiTConfig {
        DiTConfig { in_channels: 4, out_channels: 4, sample_size: 16, ..DiTConfig::default() }
    }

    #[test]
    fn problems_are_named_by_key() {
        assert_eq!(sized().problems(&[4, 16, 16]), vec![]);
        assert_eq!(sized().problems(&[4, 8, 24]), vec![]);
        let keys = |config: DiTConfig, shape: &[usize]| -> Vec<String> {
            config.problems(shape).into_iter().map(|problem| problem.key).collect()
        };
        assert_eq!(keys(sized(), &[4, 15, 16]), ["patch_size"]);
        assert_eq!(keys(sized(), &[2]), ["kind"]);
        let bad = DiTConfig { hidden_size: 10, norm_eps: 0.0, depth: 0, patch_size: 3, out_channels: 5, ..sized() };
        let expected = ["depth", "hidden_size", "hidden_size", "sample_size", "norm_eps", "out_channels", "patch_size"];
        assert_eq!(keys(bad, &[4, 16, 16]), expected);
        assert_eq!(keys(DiTConfig { patch_size: 0, ..sized() }, &[4, 16, 16]), ["patch_size", "patch_size"]);
    }

    #[test]
    fn written_and_read_again_it_is_the_same() {
        let config = DiTConfig { classes: 3, token_width: 8, ..sized() };
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<DiTConfig>(&text).unwrap(), config);
        assert!(serde_json::from_str::<DiTConfig>(r#"{"patch": 4}"#).unwrap_err().to_string().contains("patch"));
    }
}
