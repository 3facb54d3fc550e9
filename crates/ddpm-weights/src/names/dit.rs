//! The names of a diffusion transformer: those of diffusers, which are our own, and those of the original code.

use ddpm_model::dit::DiTConfig;

use super::{Entry, QkvOrder, layer};

/// Whose names the weights have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiTNames {
    /// diffusers' `DiTTransformer2DModel`.
    Diffusers,
    /// The code of Peebles & Xie, which has one projection to queries, keys and values.
    Original,
}

impl DiTNames {
    /// Every tensor of the network, in the order in which the image passes.
    pub fn entries(self, config: &DiTConfig) -> Vec<Entry> {
        let width = config.hidden_size;
        let patch = config.patch_size;
        let pixels = patch * patch * config.out_channels;
        let mut entries = self.layer(["pos_embed.proj", "x_embedder.proj"], &[width, config.in_channels, patch, patch]);
        entries.extend((0..config.depth).flat_map(|block| self.block(config, block)));
        entries.extend(self.layer(["proj_out_1", "final_layer.adaLN_modulation.1"], &[2 * width, width]));
        entries.extend(self.layer(["proj_out_2", "final_layer.linear"], &[pixels, width]));
        entries
    }

    fn block(self, config: &DiTConfig, block: usize) -> Vec<Entry> {
        let width = config.hidden_size;
        let mut entries = Vec::new();
        if block == 0 || !config.shared_embedding {
            entries.extend(self.embedding(config, block));
        }
        let mut add = |[ours, theirs]: [&str; 2], shape: &[usize]| {
            let names = [format!("transformer_blocks.{block}.{ours}"), format!("blocks.{block}.{theirs}")];
            entries.extend(self.layer([&names[0], &names[1]], shape));
        };
        add(["norm1.linear", "adaLN_modulation.1"], &[6 * width, width]);
        add(["attn1.to_out.0", "attn.proj"], &[width, width]);
        add(["ff.net.0.proj", "mlp.fc1"], &[4 * width, width]);
        add(["ff.net.2", "mlp.fc2"], &[width, 4 * width]);
        if config.token_width > 0 {
            add(["norm2", "norm2"], &[width]);
            for (part, inputs) in [("to_q", width), ("to_k", config.token_width), ("to_v", config.token_width)] {
                add([&format!("attn2.{part}"), &format!("cross_attn.{part}")], &[width, inputs]);
            }
            add(["attn2.to_out.0", "cross_attn.proj"], &[width, width]);
        }
        for (part, name) in super::diffusers::PROJECTIONS.into_iter().enumerate() {
            entries.extend(self.projection(block, part, name, width));
        }
        entries
    }

    /// Queries, keys or values.
    fn projection(self, block: usize, part: usize, name: &str, width: usize) -> Vec<Entry> {
        let ours = format!("transformer_blocks.{block}.attn1.{name}");
        let theirs = format!("blocks.{block}.attn.qkv");
        let mut entries = self.layer([&ours, &theirs], &[width, width]);
        if self == Self::Original {
            for entry in &mut entries {
                entry.their_shape[0] *= 3;
                entry.rows = Some(QkvOrder::Parted.rows(part, width, 1));
            }
        }
        entries
    }

    fn embedding(self, config: &DiTConfig, block: usize) -> Vec<Entry> {
        let width = config.hidden_size;
        let ours = |name: &str| format!("transformer_blocks.{block}.norm1.emb.{name}");
        let mut entries = Vec::new();
        for (i, inputs) in [256, width].into_iter().enumerate() {
            let names = [ours(&format!("timestep_embedder.linear_{}", i + 1)), format!("t_embedder.mlp.{}", 2 * i)];
            entries.extend(self.layer([&names[0], &names[1]], &[width, inputs]));
        }
        if let Some(rows) = config.class_rows() {
            let names = [&ours("class_embedder.embedding_table"), "y_embedder.embedding_table"];
            entries.extend(self.layer(names, &[rows, width]).into_iter().take(1));
        }
        entries
    }

    /// Weight and bias of a layer, by our name and the original's.
    fn layer(self, [ours, original]: [&str; 2], shape: &[usize]) -> Vec<Entry> {
        let theirs = if self == Self::Original { original } else { ours };
        layer(&[ours.into(), theirs.into()], [""; 2], shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot};
    use burn::tensor::Device;

    #[test]
    fn the_entries_are_the_parameters_of_the_network() {
        let small = DiTConfig {
            in_channels: 2,
            out_channels: 4,
            sample_size: 4,
            hidden_size: 8,
            depth: 2,
            heads: 2,
            ..DiTConfig::default()
        };
        for config in [
            DiTConfig { classes: 3, ..small.clone() },
            DiTConfig { classes: 3, shared_embedding: false, null_class: false, ..small.clone() },
            DiTConfig { token_width: 5, ..small },
        ] {
            let tensors = config.init(&Device::default()).collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
            let mut network: Vec<_> = tensors.into_iter().map(|tensor| (tensor.name, tensor.shape.to_vec())).collect();
            network.sort();
            for names in [DiTNames::Diffusers, DiTNames::Original] {
                let entries = names.entries(&config).into_iter();
                let mut entries: Vec<_> = entries.map(|entry| (entry.ours, entry.shape)).collect();
                entries.sort();
                assert_eq!(entries, network, "{config:?}");
            }
        }
    }
}
