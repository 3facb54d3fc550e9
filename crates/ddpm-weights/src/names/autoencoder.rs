//! The names of diffusers' autoencoders, which are our own but for the attention of the first releases.

use ddpm_model::autoencoder::{AutoencoderKLConfig, AutoencoderTinyConfig, Level, VqModelConfig};

use super::{Entry, Scheme, Weights, layer};

/// How the attentions of an `AutoencoderKL` are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoencoderNames {
    /// As diffusers writes them today: `to_q`, `to_k`, `to_v`, `to_out.0`.
    Current,
    /// As its first releases did: `query`, `key`, `value`, `proj_attn`, dense layers or convolutions over one pixel.
    Legacy,
    /// As latent diffusion does, whose decoder counts its levels from the image.
    Original,
}

impl AutoencoderNames {
    /// Detects them. Without an attention they are the same.
    pub fn detect(weights: &Weights) -> Self {
        let any = |part: &str| weights.tensors().keys().any(|name| name.contains(part));
        if any(".mid.block_1.") {
            Self::Original
        } else if any(".mid_block.attentions.0.query.") {
            Self::Legacy
        } else {
            Self::Current
        }
    }

    /// Every tensor of the network, in the order in which the image passes.
    pub fn entries(self, config: &AutoencoderKLConfig) -> Vec<Entry> {
        let moments = 2 * config.latent_channels;
        let quant = |used: bool, name: &str, channels| match used {
            true => conv(name, [channels; 2], 1),
            false => Vec::new(),
        };
        let mut entries = self.encoder(config, moments);
        entries.extend(quant(config.use_quant_conv, "quant_conv", moments));
        entries.extend(quant(config.use_post_quant_conv, "post_quant_conv", config.latent_channels));
        entries.extend(self.decoder(config));
        self.renamed(entries, config)
    }

    /// The entries under the names of the original, where those are meant.
    fn renamed(self, mut entries: Vec<Entry>, config: &AutoencoderKLConfig) -> Vec<Entry> {
        if self == Self::Original {
            for entry in &mut entries {
                entry.theirs = original_name(&entry.theirs, config.block_out_channels.len());
            }
        }
        entries
    }

    /// Every tensor of a `VQModel`, in the order in which the image passes.
    pub fn vq_entries(self, config: &VqModelConfig) -> Vec<Entry> {
        let (networks, width) = (&config.networks, config.vq_embed_dim);
        let latent = networks.latent_channels;
        let mut entries = self.encoder(networks, latent);
        entries.extend(conv("quant_conv", [latent, width], 1));
        let codebook = layer(&both("quantize.embedding"), [""; 2], &[config.num_vq_embeddings, width]);
        entries.extend(codebook.into_iter().take(1));
        entries.extend(conv("post_quant_conv", [width, latent], 1));
        entries.extend(self.decoder(networks));
        self.renamed(entries, networks)
    }

    fn encoder(self, config: &AutoencoderKLConfig, moments: usize) -> Vec<Entry> {
        let levels = config.down_levels();
        let first = levels.first().map_or(0, |level| level.in_channels);
        let last = config.middle_channels();
        let mut entries = conv("encoder.conv_in", [config.in_channels, first], 3);
        for (i, &level) in levels.iter().enumerate() {
            entries.extend(self.level(&format!("encoder.down_blocks.{i}"), level, "downsamplers"));
        }
        entries.extend(self.middle("encoder.mid_block", config));
        entries.extend(norm("encoder.conv_norm_out", last));
        entries.extend(conv("encoder.conv_out", [last, moments], 3));
        entries
    }

    fn decoder(self, config: &AutoencoderKLConfig) -> Vec<Entry> {
        let levels = config.up_levels();
        let first = levels.last().map_or(0, |level| level.out_channels);
        let mut entries = conv("decoder.conv_in", [config.latent_channels, config.middle_channels()], 3);
        entries.extend(self.middle("decoder.mid_block", config));
        for (i, &level) in levels.iter().enumerate() {
            entries.extend(self.level(&format!("decoder.up_blocks.{i}"), level, "upsamplers"));
        }
        entries.extend(norm("decoder.conv_norm_out", first));
        entries.extend(conv("decoder.conv_out", [first, config.out_channels], 3));
        entries
    }

    fn level(self, block: &str, level: Level, resamplers: &str) -> Vec<Entry> {
        let resnet = |(i, channels)| self.residual(&format!("{block}.resnets.{i}"), channels);
        let mut entries: Vec<Entry> = level.channels().enumerate().flat_map(resnet).collect();
        if level.resamples {
            entries.extend(conv(&format!("{block}.{resamplers}.0.conv"), [level.out_channels; 2], 3));
        }
        entries
    }

    fn middle(self, block: &str, config: &AutoencoderKLConfig) -> Vec<Entry> {
        let channels = config.middle_channels();
        let mut entries = self.residual(&format!("{block}.resnets.0"), [channels; 2]);
        if config.mid_block_add_attention {
            entries.extend(self.scheme().attention(&both(&format!("{block}.attentions.0")), channels, 1, true));
        }
        entries.extend(self.residual(&format!("{block}.resnets.1"), [channels; 2]));
        entries
    }

    fn residual(self, block: &str, channels: [usize; 2]) -> Vec<Entry> {
        self.scheme().residual(&both(block), channels, None)
    }

    /// The names within a block are those of the U-Net.
    fn scheme(self) -> Scheme {
        match self {
            Self::Current | Self::Original => Scheme::Diffusers,
            Self::Legacy => Scheme::DiffusersOfOld,
        }
    }
}

/// The name of latent diffusion for one of diffusers' names.
fn original_name(name: &str, levels: usize) -> String {
    const PARTS: [(&str, &str); 13] = [
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("resnets", "block"),
    ];
    let mut words: Vec<String> = name.split('.').map(String::from).collect();
    if words.get(1).is_some_and(|block| block == "up_blocks") {
        let level = words[2].parse().unwrap_or(0);
        words[2] = levels.saturating_sub(1 + level).to_string();
    }
    let name = words.join(".").replace("down_blocks", "down").replace("up_blocks", "up");
    PARTS.iter().fold(name, |name, (ours, theirs)| {
        let replaced = format!(".{name}.").replace(&format!(".{ours}."), &format!(".{theirs}."));
        replaced.trim_matches('.').to_string()
    })
}

/// Every tensor of an `AutoencoderTiny`, whose layers are numbered through.
pub fn tiny_entries(config: &AutoencoderTinyConfig) -> Vec<Entry> {
    let mut entries = tiny_encoder(config);
    entries.extend(tiny_decoder(config));
    entries
}

fn tiny_encoder(config: &AutoencoderTinyConfig) -> Vec<Entry> {
    let mut layers = Numbered { prefix: "encoder.layers", next: 0, entries: Vec::new() };
    let mut last = config.in_channels;
    for (level, (&channels, &blocks)) in
        config.encoder_block_out_channels.iter().zip(&config.num_encoder_blocks).enumerate()
    {
        layers.conv([last, channels], level == 0);
        layers.blocks(blocks, channels);
        last = channels;
    }
    layers.conv([last, config.latent_channels], true);
    layers.entries
}

fn tiny_decoder(config: &AutoencoderTinyConfig) -> Vec<Entry> {
    let mut layers = Numbered { prefix: "decoder.layers", next: 0, entries: Vec::new() };
    let widths = &config.decoder_block_out_channels;
    layers.conv([config.latent_channels, widths.first().copied().unwrap_or_default()], true);
    // The activation.
    layers.next += 1;
    for (level, (&channels, &blocks)) in widths.iter().zip(&config.num_decoder_blocks).enumerate() {
        layers.blocks(blocks, channels);
        let is_last = level + 1 == widths.len();
        if is_last {
            layers.conv([channels, config.out_channels], true);
        } else {
            // The upsampling.
            layers.next += 1;
            layers.conv([channels; 2], false);
        }
    }
    layers.entries
}

/// Layers that are numbered through.
struct Numbered {
    prefix: &'static str,
    next: usize,
    entries: Vec<Entry>,
}

impl Numbered {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("{}.{}", self.prefix, self.next - 1)
    }

    fn conv(&mut self, channels: [usize; 2], bias: bool) {
        let name = self.name();
        self.entries.extend(conv(&name, channels, 3).into_iter().take(1 + usize::from(bias)));
    }

    fn blocks(&mut self, count: usize, channels: usize) {
        for _ in 0..count {
            let name = self.name();
            for layer in [0, 2, 4] {
                self.entries.extend(conv(&format!("{name}.conv.{layer}"), [channels; 2], 3));
            }
        }
    }
}

fn conv(name: &str, [inputs, outputs]: [usize; 2], kernel: usize) -> Vec<Entry> {
    layer(&both(name), [""; 2], &[outputs, inputs, kernel, kernel])
}

fn norm(name: &str, channels: usize) -> Vec<Entry> {
    layer(&both(name), [""; 2], &[channels])
}

/// A module has one name, ours and theirs.
fn both(name: &str) -> [String; 2] {
    [name.into(), name.into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot};
    use burn::tensor::Device;

    fn parameters(module: &impl ModuleSnapshot) -> Vec<(String, Vec<usize>)> {
        let tensors = module.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
        let mut parameters: Vec<_> = tensors.into_iter().map(|tensor| (tensor.name, tensor.shape.to_vec())).collect();
        parameters.sort();
        parameters
    }

    fn ours(entries: Vec<Entry>) -> Vec<(String, Vec<usize>)> {
        let mut parameters: Vec<_> = entries.into_iter().map(|entry| (entry.ours, entry.shape)).collect();
        parameters.sort();
        parameters
    }

    fn configs() -> Vec<AutoencoderKLConfig> {
        let small = AutoencoderKLConfig {
            block_out_channels: vec![4, 6, 6],
            norm_num_groups: 2,
            in_channels: 1,
            layers_per_block: 2,
            ..AutoencoderKLConfig::default()
        };
        vec![
            AutoencoderKLConfig { use_quant_conv: false, latent_channels: 3, ..small.clone() },
            AutoencoderKLConfig { use_post_quant_conv: false, mid_block_add_attention: false, ..small.clone() },
            AutoencoderKLConfig { block_out_channels: vec![8], layers_per_block: 1, ..small },
        ]
    }

    #[test]
    fn the_entries_are_the_parameters_of_the_autoencoder() {
        for config in configs() {
            for names in [AutoencoderNames::Current, AutoencoderNames::Legacy, AutoencoderNames::Original] {
                assert_eq!(ours(names.entries(&config)), parameters(&config.init(&Device::default())), "{config:?}");
            }
        }
    }

    #[test]
    fn the_entries_are_the_parameters_of_the_tiny_autoencoder() {
        for (encoder, decoder) in [(vec![1, 2, 0], vec![0, 1]), (vec![2], vec![3])] {
            let config = AutoencoderTinyConfig {
                encoder_block_out_channels: vec![4; encoder.len()],
                decoder_block_out_channels: vec![6; decoder.len()],
                num_encoder_blocks: encoder,
                num_decoder_blocks: decoder,
                ..AutoencoderTinyConfig::default()
            };
            assert_eq!(config.problems(), vec![]);
            assert_eq!(ours(tiny_entries(&config)), parameters(&config.init(&Device::default())), "{config:?}");
        }
    }

    #[test]
    fn the_names_of_latent_diffusion_count_the_levels_of_the_decoder_from_the_image() {
        let places = [
            ("encoder.down_blocks.0.resnets.1.conv_shortcut.weight", "encoder.down.0.block.1.nin_shortcut.weight"),
            ("encoder.down_blocks.1.downsamplers.0.conv.bias", "encoder.down.1.downsample.conv.bias"),
            ("encoder.mid_block.attentions.0.to_out.0.weight", "encoder.mid.attn_1.proj_out.weight"),
            ("encoder.mid_block.attentions.0.group_norm.bias", "encoder.mid.attn_1.norm.bias"),
            ("decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up.2.upsample.conv.weight"),
            ("decoder.mid_block.resnets.1.norm1.weight", "decoder.mid.block_2.norm1.weight"),
            ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
            ("quant_conv.weight", "quant_conv.weight"),
        ];
        for (ours, theirs) in places {
            assert_eq!(original_name(ours, 3), theirs);
        }
    }

    #[test]
    fn legacy_names_differ_in_the_attentions_only() {
        let config = AutoencoderKLConfig { mid_block_add_attention: true, ..configs().remove(0) };
        let entries = AutoencoderNames::Legacy.entries(&config);
        let renamed: Vec<_> = entries.iter().filter(|entry| entry.ours != entry.theirs).collect();
        assert_eq!(renamed.len(), 2 * 4 * 2);
        assert!(renamed.iter().all(|entry| entry.ours.contains(".attentions.0.") && entry.pointwise));
        let place = |ours: &str| renamed.iter().find(|entry| entry.ours == ours).map(|entry| entry.theirs.as_str());
        let attention = "decoder.mid_block.attentions.0";
        assert_eq!(place(&format!("{attention}.to_out.0.bias")), Some(format!("{attention}.proj_attn.bias").as_str()));
    }
}
