//! LoRA (Hu et al. 2022) in files: thin factors whose product is added to the weights of some layers.
//!
//! Read are the files of peft and of diffusers, old and new, and those of kohya's scripts, whose names have underscores
//! for dots; written are those of diffusers with peft. The weight of a layer becomes
//! `weight + strength * alpha / rank * up down`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::store::burn_pack::Tensor as PackTensor;
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::TensorData;
use safetensors::tensor::{Dtype as FileType, TensorView};
use serde_json::{Value, json};

use super::{Fault, StoredTensor, Weights, WeightsError, safetensors as format};

/// The file in a folder that diffusers saved.
pub const FILE: &str = "pytorch_lora_weights.safetensors";

/// The entry of the header in which diffusers has what peft was configured with.
const METADATA: &str = "lora_adapter_metadata";

/// Which network of a pipeline a factor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The U-Net.
    UNet,
    /// The diffusion transformer.
    Transformer,
    /// The text encoder.
    TextEncoder,
    /// The second text encoder.
    TextEncoder2,
}

impl Part {
    /// Each with its prefix in the names of diffusers, and in those of kohya.
    const PREFIXES: [(Self, &'static str, &'static str); 5] = [
        (Self::UNet, "unet.", "lora_unet_"),
        (Self::Transformer, "transformer.", "lora_transformer_"),
        (Self::TextEncoder, "text_encoder.", "lora_te_"),
        (Self::TextEncoder2, "text_encoder_2.", "lora_te2_"),
        (Self::TextEncoder, "text_encoder.", "lora_te1_"),
    ];

    /// The prefix in the names of diffusers, with its dot.
    pub fn prefix(self) -> &'static str {
        Self::PREFIXES.iter().find(|(part, ..)| *part == self).map_or("", |(_, prefix, _)| prefix)
    }
}

/// What the end of a name says its tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Down,
    Up,
    Alpha,
}

/// The ends of names. Those of attention processors, which the first releases of diffusers had, come with an underscore.
const ENDS: [(&str, Role); 11] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".alpha", Role::Alpha),
];

/// The factors in a file, by part and layer.
#[derive(Debug)]
pub struct Lora {
    path: PathBuf,
    layers: BTreeMap<(Part, String), Factors>,
}

/// The factors of one layer.
#[derive(Clone, Debug, Default)]
struct Factors {
    down: Option<StoredTensor>,
    up: Option<StoredTensor>,
    alpha: Option<f64>,
}

impl Lora {
    /// Opens a file, or the file in a folder that diffusers saved.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let path = if path.is_dir() { path.join(FILE) } else { path.to_path_buf() };
        let weights = Weights::open(&path)?;
        let mut layers: BTreeMap<(Part, String), Factors> = BTreeMap::new();
        let mut unknown = Vec::new();
        for (name, tensor) in weights.tensors() {
            let Some((part, layer, role)) = place(name) else {
                unknown.push(Fault::Other { key: name.clone(), reason: "is no factor of LoRA known here".into() });
                continue;
            };
            let factors = layers.entry((part, layer)).or_default();
            match role {
                Role::Down => factors.down = Some(tensor.clone()),
                Role::Up => factors.up = Some(tensor.clone()),
                Role::Alpha => factors.alpha = tensor.read()?.first().map(|alpha| f64::from(*alpha)),
            }
        }
        for ((part, layer), factors) in &layers {
            if factors.down.is_none() || factors.up.is_none() {
                let reason = "has one of its two factors only".to_string();
                unknown.push(Fault::Other { key: format!("{}{layer}", part.prefix()), reason });
            }
        }
        if layers.is_empty() || !unknown.is_empty() {
            let first: Vec<String> = unknown.iter().take(5).map(Fault::to_string).collect();
            let reason =
                format!("expected the factors of LoRA; {} keys are at fault: {}", unknown.len(), first.join("; "));
            return Err(WeightsError::Names { path, reason });
        }
        let mut lora = Self { path, layers };
        lora.take_alphas()?;
        Ok(lora)
    }

    /// Takes `alpha` from the header, where diffusers has written what peft was configured with.
    fn take_alphas(&mut self) -> Result<(), WeightsError> {
        if self.path.extension().is_none_or(|extension| extension != "safetensors") {
            return Ok(());
        }
        let metadata = format::metadata(&self.path)?;
        let Some(config) = metadata.get(METADATA) else { return Ok(()) };
        let config: Value = serde_json::from_str(config)
            .map_err(|error| WeightsError::broken(&self.path, format!("{METADATA} in its header: {error}")))?;
        for ((part, layer), factors) in &mut self.layers {
            let key = |key: &str| config.get(format!("{}{key}", part.prefix()));
            let of_layer = key("alpha_pattern").and_then(|pattern| pattern.get(&*layer));
            let alpha = of_layer.or_else(|| key("lora_alpha")).and_then(Value::as_f64);
            factors.alpha = factors.alpha.or(alpha);
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The networks that it changes.
    pub fn parts(&self) -> BTreeSet<Part> {
        self.layers.keys().map(|(part, _)| *part).collect()
    }

    /// Adds the product of the factors of this part to the weights of a network with diffusers' names, and says how many
    /// layers it changed. Factors of layers that the network does not have, or of other sizes, are an error, and then
    /// nothing is changed.
    pub fn merge_into<M: ModuleSnapshot>(
        &self,
        part: Part,
        module: &mut M,
        strength: f64,
    ) -> Result<usize, WeightsError> {
        let mut left: BTreeMap<&str, &Factors> = BTreeMap::new();
        left.extend(self.layers.iter().filter(|((of, _), _)| *of == part).map(|((_, layer), f)| (layer.as_str(), f)));
        let (mut merged, mut faults) = (Vec::new(), Vec::new());
        for tensor in module.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true) {
            let Some(layer) = tensor.name.strip_suffix(".weight") else { continue };
            let Some(factors) = names_of(layer).iter().find_map(|name| left.remove(name.as_str())) else { continue };
            match factors.added_to(tensor, strength)? {
                Ok(tensor) => merged.push(tensor),
                Err(fault) => faults.push(fault),
            }
        }
        faults.extend(left.keys().map(|layer| Fault::Unexpected(format!("{}{layer}", part.prefix()))));
        if !faults.is_empty() {
            return Err(WeightsError::Misfit { path: self.path.clone(), faults });
        }
        let count = merged.len();
        module.apply(merged, None, Some(Box::new(PyTorchToBurnAdapter)), true);
        Ok(count)
    }
}

/// Part, layer and role of a name.
fn place(name: &str) -> Option<(Part, String, Role)> {
    let (end, role) = ENDS.iter().find(|(end, _)| name.ends_with(end))?;
    let layer = &name[..name.len() - end.len()];
    let (part, layer) = Part::PREFIXES.iter().find_map(|(part, dots, underscores)| {
        let layer = layer.strip_prefix(dots).or_else(|| layer.strip_prefix(underscores))?;
        Some((*part, layer))
    })?;
    let layer = match (end.starts_with('_'), layer.rsplit_once(".processor.")) {
        (true, Some((attention, "to_out"))) => format!("{attention}.to_out.0"),
        (true, Some((attention, projection))) => format!("{attention}.{projection}"),
        _ => layer.to_string(),
    };
    Some((part, layer, *role))
}

/// The names that a layer has in files: with dots, with underscores, and each without the outermost module of a text
/// encoder, which recent files leave out.
fn names_of(layer: &str) -> Vec<String> {
    let short = layer.strip_prefix("text_model.");
    [Some(layer), short].into_iter().flatten().flat_map(|name| [name.to_string(), name.replace('.', "_")]).collect()
}

impl Factors {
    /// The weight with the product of the factors added.
    fn added_to(&self, weight: PackTensor, strength: f64) -> Result<Result<PackTensor, Fault>, WeightsError> {
        let (Some(down), Some(up)) = (&self.down, &self.up) else { return Ok(Ok(weight)) };
        let key = weight.name.clone();
        let other = |reason: String| Ok(Err(Fault::Other { key: key.clone(), reason }));
        let (rank, inputs) = (down.shape().first().copied().unwrap_or(0), down.len());
        let outputs = up.shape().first().copied().unwrap_or(0);
        let values = weight.shape.to_vec().iter().product::<usize>();
        let is_product = rank > 0 && up.len() == outputs * rank && outputs * (inputs / rank) == values;
        if !is_product || weight.shape.to_vec().first() != Some(&outputs) {
            let (down, up) = (down.shape(), up.shape());
            return other(format!("has shape {:?}, which is not that of {up:?} times {down:?}", weight.shape.to_vec()));
        }
        let data = match bridge::into_data(weight) {
            Ok(data) => data,
            Err(error) => return other(error.to_string()),
        };
        let shape = data.shape().clone();
        let mut sum: Vec<f32> = data.iter::<f32>().collect();
        let scale = (strength * self.alpha.unwrap_or(rank as f64) / rank as f64) as f32;
        add_product(&mut sum, &up.read()?, &down.read()?, rank, scale);
        Ok(Ok(bridge::from_data(TensorData::new(sum, shape), key, None)))
    }
}

/// `sum += scale * up down`, with `up` `[O, R]` and `down` `[R, I]`.
fn add_product(sum: &mut [f32], up: &[f32], down: &[f32], rank: usize, scale: f32) {
    let inputs = down.len() / rank;
    for (row, up) in sum.chunks_mut(inputs).zip(up.chunks(rank)) {
        for (up, down) in up.iter().zip(down.chunks(inputs)) {
            let factor = scale * up;
            row.iter_mut().zip(down).for_each(|(sum, down)| *sum += factor * down);
        }
    }
}

/// Factors to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainedFactors {
    /// Their product counts `alpha / rank` times.
    pub alpha: f64,
    /// Of each layer.
    pub layers: Vec<LayerFactors>,
}

/// The factors of one layer, to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerFactors {
    /// The layer's name in the network.
    pub layer: String,
    /// `[R, I]`, or `[R, I, h, w]` of a convolution.
    pub down: (Vec<usize>, Vec<f32>),
    /// `[O, R]`, or `[O, R, 1, 1]`.
    pub up: (Vec<usize>, Vec<f32>),
}

/// Factors as the bytes of a file that `load_lora_weights` of diffusers reads.
pub fn encode(part: Part, alpha: f64, layers: &[LayerFactors]) -> Result<Vec<u8>, ::safetensors::SafeTensorError> {
    let prefix = part.prefix();
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = Vec::new();
    for LayerFactors { layer, down, up } in layers {
        for ((shape, values), end) in [(down, "lora_A"), (up, "lora_B")] {
            tensors.push((format!("{prefix}{layer}.{end}.weight"), shape.clone(), bytes(values)));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        TensorView::new(FileType::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let views: Vec<(&str, TensorView<'_>)> = views.collect::<Result<_, _>>()?;
    let rank = layers.first().and_then(|layer| layer.down.0.first()).copied().unwrap_or(0);
    let modules: Vec<&str> = layers.iter().map(|layer| layer.layer.as_str()).collect();
    let config = json!({
        format!("{prefix}r"): rank,
        format!("{prefix}lora_alpha"): alpha,
        format!("{prefix}target_modules"): modules,
    });
    // One entry, so that the same factors give the same bytes: several are written in any order.
    let metadata = [(METADATA.to_string(), config.to_string())];
    ::safetensors::serialize(views, Some(metadata.into_iter().collect()))
}
