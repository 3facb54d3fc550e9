//! Naming schemes: the names of our networks' weights in other projects, and how theirs are mapped to ours.
//!
//! A scheme is data: a name for each module and for each layer in it. The modules and their shapes follow from
//! the config of the network. So for every scheme the exact list of tensors is known before a file is read.

mod autoencoder;
mod deduce;
mod diffusers;
mod dit;
mod modules;
mod openai;
mod pesser;
mod single_file;
mod transformer;

use std::ops::Range;

use ddpm_model::unet::UNetConfig;

use super::{Weights, WeightsError};
pub use autoencoder::{AutoencoderNames, tiny_entries};
pub use deduce::{Deduced, deduce};
pub use dit::DiTNames;
use modules::{Kind, Module, modules};
pub use single_file::SingleFile;

/// How improved-diffusion and guided-diffusion order the rows of the one projection to queries, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvOrder {
    /// Head by head, each with its queries, keys and values: improved-diffusion, and guided-diffusion by default.
    HeadByHead,
    /// All queries, all keys, all values: guided-diffusion with `use_new_attention_order`.
    Parted,
}

/// The project whose names the weights have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// diffusers' `UNet2DModel` of today, whose names are our own.
    Diffusers,
    /// The same before its attention was renamed: `query`, `key`, `value`, `proj_attn`.
    DiffusersOfOld,
    /// improved-diffusion and guided-diffusion.
    OpenAi(QkvOrder),
    /// pesser's PyTorch translation of the original DDPM, and what is built on it, such as DDIM.
    Pesser,
}

/// One of our tensors, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Our name.
    pub ours: String,
    /// Our shape, in PyTorch's layout.
    pub shape: Vec<usize>,
    /// Their name.
    pub theirs: String,
    /// Their shape.
    pub their_shape: Vec<usize>,
    /// Which rows of theirs, one after another, are ours; all of them without.
    pub rows: Option<Vec<Range<usize>>>,
    /// Whether ones at the end of their shape mean nothing, because a dense layer may be stored as a convolution
    /// over one pixel.
    pub pointwise: bool,
}

/// The names in a scheme of the layers of a residual block, and of those of an attention.
struct LayerNames {
    norm1: &'static str,
    conv1: &'static str,
    time: &'static str,
    norm2: &'static str,
    conv2: &'static str,
    shortcut: &'static str,
    attention_norm: &'static str,
    attention: Projections,
    attention_out: &'static str,
}

/// The projections of an attention.
enum Projections {
    /// One each.
    Apart([&'static str; 3]),
    /// One for all.
    Joint(&'static str, QkvOrder),
}

impl Scheme {
    /// Detects the scheme from the names.
    ///
    /// The order of queries, keys and values shows in no name: improved-diffusion's is assumed.
    pub fn detect(weights: &Weights) -> Result<Self, WeightsError> {
        let holds = |name: &str| weights.tensors().contains_key(name);
        let any = |part: &str| weights.tensors().keys().any(|name| name.contains(part));
        let unknown = |reason: String| WeightsError::Names { path: weights.path().to_path_buf(), reason };
        if holds("input_blocks.0.0.weight") && holds("time_embed.0.weight") {
            Ok(Self::OpenAi(QkvOrder::HeadByHead))
        } else if holds("temb.dense.0.weight") {
            Ok(Self::Pesser)
        } else if holds("time_embedding.linear_1.weight") && any(".attentions.0.query.") {
            Ok(Self::DiffusersOfOld)
        } else if holds("conv_in.weight") && holds("time_embedding.linear_1.weight") {
            Ok(Self::Diffusers)
        } else if any("all_modules.") {
            Err(unknown(
                "the names are those of score_sde, which numbers all modules; this scheme is not supported".into(),
            ))
        } else if any("model.diffusion_model.") {
            Err(unknown(
                "the names are those of a single file of Stable Diffusion, which holds other networks too".into(),
            ))
        } else {
            let some: Vec<&str> = weights.tensors().keys().take(3).map(String::as_str).collect();
            Err(unknown(format!(
                "unrecognized parameter names (tried diffusers, improved-diffusion and pesser): {} tensors such as {}",
                weights.tensors().len(),
                some.join(", ")
            )))
        }
    }

    /// Every tensor of the network, in the order in which the image passes.
    pub fn entries(self, config: &UNetConfig) -> Vec<Entry> {
        modules(config).iter().flat_map(|module| self.of_module(module, config)).collect()
    }

    fn layer_names(self) -> LayerNames {
        match self {
            Self::Diffusers => diffusers::LAYERS,
            Self::DiffusersOfOld => diffusers::OLD_LAYERS,
            Self::OpenAi(order) => openai::layers(order),
            Self::Pesser => pesser::LAYERS,
        }
    }

    fn name(self, module: &Module, config: &UNetConfig) -> String {
        match self {
            Self::Diffusers | Self::DiffusersOfOld => diffusers::name(module, config),
            Self::OpenAi(_) => openai::name(module, config),
            Self::Pesser => pesser::name(module),
        }
    }

    fn of_module(self, module: &Module, config: &UNetConfig) -> Vec<Entry> {
        let names = [diffusers::name(module, config), self.name(module, config)];
        let layer = |layers: [&str; 2], shape: &[usize]| layer(&names, layers, shape);
        match module.kind {
            Kind::Layer { inputs, outputs, kernel } => match kernel {
                None => layer([""; 2], &[outputs, inputs]),
                Some(size) => layer([""; 2], &[outputs, inputs, size, size]),
            },
            Kind::Norm { channels } => layer([""; 2], &[channels]),
            Kind::Table { rows, width } => layer([""; 2], &[rows, width]).into_iter().take(1).collect(),
            Kind::Residual { inputs, outputs, time, time_outputs } => {
                self.residual(&names, [inputs, outputs], Some([time_outputs, time]))
            }
            Kind::Attention { channels, heads, norm } => self.attention(&names, channels, heads, norm),
            Kind::Transformer { channels, tokens, depth, linear } => {
                transformer::entries(&names, [channels, tokens], depth, linear)
            }
        }
    }

    /// A residual block; `time` is the shape of its projection of the time embedding, if it has one.
    fn residual(self, names: &[String; 2], [inputs, outputs]: [usize; 2], time: Option<[usize; 2]>) -> Vec<Entry> {
        let (ours, theirs) = (diffusers::LAYERS, self.layer_names());
        let layer = |layers: [&str; 2], shape: &[usize]| layer(names, layers, shape);
        let mut entries = vec![
            layer([ours.norm1, theirs.norm1], &[inputs]),
            layer([ours.conv1, theirs.conv1], &[outputs, inputs, 3, 3]),
        ];
        entries.extend(time.map(|shape| layer([ours.time, theirs.time], &shape)));
        entries.push(layer([ours.norm2, theirs.norm2], &[outputs]));
        entries.push(layer([ours.conv2, theirs.conv2], &[outputs, outputs, 3, 3]));
        if inputs != outputs {
            entries.push(layer([ours.shortcut, theirs.shortcut], &[outputs, inputs, 1, 1]));
        }
        entries.concat()
    }

    fn attention(self, names: &[String; 2], channels: usize, heads: usize, norm: bool) -> Vec<Entry> {
        let (ours, theirs) = (diffusers::LAYERS, self.layer_names());
        let dense = |layers: [&str; 2]| {
            let mut entries = layer(names, layers, &[channels, channels]);
            entries.iter_mut().for_each(|entry| entry.pointwise = true);
            entries
        };
        let mut entries = Vec::new();
        if norm {
            entries.extend(layer(names, [ours.attention_norm, theirs.attention_norm], &[channels]));
        }
        for (part, ours) in diffusers::PROJECTIONS.into_iter().enumerate() {
            entries.extend(match theirs.attention {
                Projections::Apart(theirs) => dense([ours, theirs[part]]),
                Projections::Joint(joint, order) => {
                    let mut entries = dense([ours, joint]);
                    for entry in &mut entries {
                        entry.their_shape[0] *= 3;
                        entry.rows = Some(order.rows(part, channels, heads));
                    }
                    entries
                }
            });
        }
        entries.extend(dense([ours.attention_out, theirs.attention_out]));
        entries
    }
}

/// Weight and bias of a layer, from our name of the module and theirs, and those of the layer in it.
fn layer(modules: &[String; 2], layers: [&str; 2], shape: &[usize]) -> Vec<Entry> {
    let [ours, theirs] = [0, 1].map(|side| below(&modules[side], layers[side]));
    let entry = |last: &str, shape: &[usize]| Entry {
        ours: below(&ours, last),
        shape: shape.to_vec(),
        theirs: below(&theirs, last),
        their_shape: shape.to_vec(),
        rows: None,
        pointwise: false,
    };
    vec![entry("weight", shape), entry("bias", &shape[..1])]
}

impl QkvOrder {
    /// The rows of queries (part 0), keys (1) or values (2) among the three times `channels` of the joint projection.
    fn rows(self, part: usize, channels: usize, heads: usize) -> Vec<Range<usize>> {
        let width = channels / heads.max(1);
        let start = |head: usize| match self {
            Self::HeadByHead => (3 * head + part) * width,
            Self::Parted => part * channels + head * width,
        };
        (0..heads).map(|head| start(head)..start(head) + width).collect()
    }
}

impl std::fmt::Display for Scheme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Diffusers => "diffusers",
            Self::DiffusersOfOld => "diffusers, with its old attention names",
            Self::OpenAi(QkvOrder::HeadByHead) => "improved-diffusion or guided-diffusion",
            Self::OpenAi(QkvOrder::Parted) => "guided-diffusion, with its new attention order",
            Self::Pesser => "pesser's DDPM",
        })
    }
}

/// `prefix.name`, or the prefix alone where the name is empty.
fn below(prefix: &str, name: &str) -> String {
    match name {
        "" => prefix.to_string(),
        name => format!("{prefix}.{name}"),
    }
}

#[cfg(test)]
mod tests;
