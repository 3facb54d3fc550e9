//! The architecture of given weights, as far as names and shapes determine it.

use ddpm_model::embedding::SinusoidConfig;
use ddpm_model::unet::{DownsamplePadding, Heads, MiddleNorm, Resampling, TimeShift, UNetConfig};

use super::super::{Weights, WeightsError};
use super::{Scheme, below};

/// No real network comes near these; larger claims would only overflow further on.
const MOST_LEVELS: usize = 16;
const MOST_CHANNELS: usize = 1 << 20;

/// The network of a file of improved-diffusion, guided-diffusion or pesser.
#[derive(Clone, Debug, PartialEq)]
pub struct Deduced {
    /// The network. Attention is given by level in `attending`, because `attention_resolutions` are heights, and no
    /// height is in the file; so `sample_size` is 0.
    pub config: UNetConfig,
    /// Levels with attention, counted from 0 at the image.
    pub attending: Vec<usize>,
    /// Whether the number of heads is known.
    pub heads_known: bool,
}

impl Deduced {
    /// The network for images of this height.
    pub fn at(&self, sample_size: usize) -> UNetConfig {
        let attention_resolutions = self.attending.iter().map(|level| sample_size >> level).collect();
        UNetConfig { sample_size, attention_resolutions, ..self.config.clone() }
    }
}

/// Deduces the architecture from the shapes.
///
/// Whether every tensor really fits shows when they are loaded.
pub fn deduce(weights: &Weights, scheme: Scheme) -> Result<Deduced, WeightsError> {
    let shapes = Shapes(weights);
    match scheme {
        Scheme::OpenAi(_) => shapes.openai(),
        Scheme::Pesser => shapes.pesser(),
        Scheme::Diffusers | Scheme::DiffusersOfOld => {
            Err(shapes.wrong("the network of these weights is described by the config.json next to them"))
        }
    }
}

struct Shapes<'a>(&'a Weights);

impl Shapes<'_> {
    fn wrong(&self, reason: impl Into<String>) -> WeightsError {
        WeightsError::Names { path: self.0.path().to_path_buf(), reason: reason.into() }
    }

    fn has(&self, module: &str, layer: &str) -> bool {
        self.0.tensors().contains_key(&below(&below(module, layer), "weight"))
    }

    /// One dimension of a layer's weight.
    fn size(&self, module: &str, layer: &str, dimension: usize) -> Result<usize, WeightsError> {
        let name = below(&below(module, layer), "weight");
        match self.0.shape(&name) {
            Some(shape) => {
                shape.get(dimension).copied().filter(|size| (1..=MOST_CHANNELS).contains(size)).ok_or_else(|| {
                    self.wrong(format!("{name} has shape {shape:?}, from which no network can be deduced"))
                })
            }
            None => Err(self.wrong(format!("{name} is missing, without which the network cannot be deduced"))),
        }
    }

    /// `prefix.0`, `prefix.1` and so on, as long as there are any with this layer.
    fn numbered(&self, prefix: &str, layer: &str) -> Vec<String> {
        // There are no more numbers than tensors.
        let names = (0..self.0.tensors().len()).map(|number| below(prefix, &number.to_string()));
        names.take_while(|name| self.has(name, layer)).collect()
    }

    fn time_shift(&self, block: &str, time: &str, outputs: usize) -> Result<TimeShift, WeightsError> {
        match self.size(block, time, 0)? {
            found if found == outputs => Ok(TimeShift::Additive),
            found if found == 2 * outputs => Ok(TimeShift::ScaleShift),
            found => Err(self.wrong(format!(
                "{block}.{time}.weight gives {found} values, neither once nor twice the block's {outputs} channels"
            ))),
        }
    }

    /// The levels, deepest first, from the way up: each ends in an upsampler but the last one.
    fn openai(&self) -> Result<Deduced, WeightsError> {
        let blocks = self.numbered("output_blocks", "0.in_layers.0");
        let upsampler = |block: &String| {
            ["1", "2"].iter().find_map(|place| match below(block, place) {
                place if self.has(&place, "conv") => Some(Resampling::Conv),
                place if self.has(&place, "in_layers.0") => Some(Resampling::Residual),
                _ => None,
            })
        };
        let per_level = blocks.iter().position(|block| upsampler(block).is_some()).map_or(blocks.len(), |at| at + 1);
        if per_level < 2 || !blocks.len().is_multiple_of(per_level) || blocks.len() / per_level > MOST_LEVELS {
            return Err(self.wrong(format!(
                "{} output blocks with the first upsampler after number {per_level} do not make whole levels",
                blocks.len()
            )));
        }
        let base = self.size("input_blocks.0.0", "", 0)?;
        let mut multipliers = Vec::new();
        let mut attending = Vec::new();
        for (level, blocks) in blocks.rchunks(per_level).enumerate() {
            multipliers.push(self.size(&blocks[0], "0.out_layers.3", 0)? as f64 / base as f64);
            if self.has(&blocks[0], "1.qkv") {
                attending.push(level);
            }
        }
        let first = &blocks[0];
        let config = UNetConfig {
            in_channels: self.size("input_blocks.0.0", "", 1)?,
            out_channels: self.size("out.2", "", 0)?,
            base_channels: base,
            multipliers,
            blocks_per_level: per_level - 1,
            attention_resolutions: Vec::new(),
            sample_size: 0,
            middle_attention: self.has("middle_block.1", "qkv"),
            middle_attention_norm: MiddleNorm::Same,
            heads: Heads::Count(1),
            heads_up: None,
            dropout: 0.0,
            norm_groups: 32,
            norm_eps: 1e-5,
            time_shift: self.time_shift(first, "0.emb_layers.1", self.size(first, "0.out_layers.3", 0)?)?,
            resampling: blocks.iter().find_map(upsampler).unwrap_or(Resampling::Conv),
            downsample_padding: DownsamplePadding::Symmetric,
            embedding: SinusoidConfig::improved(),
            classes: if self.has("label_emb", "") { self.size("label_emb", "", 0)? } else { 0 },
            null_class: false,
            augment_dim: 0,
            cross_attention: None,
        };
        let heads_known = attending.is_empty() && !config.middle_attention;
        Ok(Deduced { config, attending, heads_known })
    }

    fn pesser(&self) -> Result<Deduced, WeightsError> {
        let base = self.size("conv_in", "", 0)?;
        let levels = self.numbered("down", "block.0.conv1");
        let Some(first) = levels.first().filter(|_| levels.len() <= MOST_LEVELS) else {
            let found = levels.len();
            return Err(
                self.wrong(format!("{found} levels with down.N.block.0.conv1.weight; expected 1 to {MOST_LEVELS}"))
            );
        };
        let mut multipliers = Vec::new();
        for level in &levels {
            multipliers.push(self.size(level, "block.0.conv1", 0)? as f64 / base as f64);
        }
        let attending = (0..levels.len()).filter(|&level| self.has(&levels[level], "attn.0.q")).collect();
        let config = UNetConfig {
            in_channels: self.size("conv_in", "", 1)?,
            out_channels: self.size("conv_out", "", 0)?,
            base_channels: base,
            multipliers,
            blocks_per_level: self.numbered(&below(first, "block"), "conv1").len(),
            attention_resolutions: Vec::new(),
            sample_size: 0,
            middle_attention: self.has("mid.attn_1", "q"),
            dropout: 0.0,
            ..UNetConfig::default()
        };
        Ok(Deduced { config, attending, heads_known: true })
    }
}
