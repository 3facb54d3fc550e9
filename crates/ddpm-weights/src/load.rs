//! Weights into a network: every tensor of either must have its place in the other.

use std::collections::BTreeSet;
use std::ops::Range;

use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::store::{BurnToPyTorchAdapter, ModuleAdapter, ModuleContext, ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::{DType, Shape, TensorData};
use ddpm_model::dit::DiT;
use ddpm_model::network::Network;
use ddpm_model::text::ClipText;

use super::names::{DiTNames, Entry, Scheme};
use super::{Fault, StoredTensor, Weights, WeightsError};

/// Replaces all parameters of the network by the weights, which are named by `scheme`, in `f32`.
///
/// What is missing, left over or of another shape is told together, and then nothing is replaced.
pub fn load_into(network: &mut Network, weights: &Weights, scheme: Scheme) -> Result<(), WeightsError> {
    let entries = entries(network, scheme).ok_or_else(|| WeightsError::Names {
        path: weights.path().to_path_buf(),
        reason: format!("these are names of a U-Net ({scheme}), but the network is another one"),
    })?;
    load_entries(network, weights, &entries)
}

/// Replaces all parameters of a module by the weights of the same names, in `f32`: a hierarchical VAE has the names of
/// VDVAE.
///
/// What is missing, left over or of another shape is reported together, and then nothing is replaced.
pub fn load_own_names<M: ModuleSnapshot>(module: &mut M, weights: &Weights) -> Result<(), WeightsError> {
    let entries = own_entries(module);
    load_entries(module, weights, &entries)
}

/// Replaces all parameters of CLIP's text encoder by the weights, whose names begin with `text_model.` in most files and not in
/// those of recent transformers. The places of the tokens, which old files hold though they are the numbers from 0, are
/// ignored.
pub fn load_clip_text(encoder: &mut ClipText, weights: Weights) -> Result<(), WeightsError> {
    const PREFIX: &str = "text_model.";
    let weights = weights.without(|name| name.ends_with("embeddings.position_ids"));
    let mut entries = own_entries(encoder);
    if !weights.tensors().keys().any(|name| name.starts_with(PREFIX)) {
        for entry in &mut entries {
            entry.theirs = entry.ours.strip_prefix(PREFIX).unwrap_or(&entry.ours).to_string();
        }
    }
    load_entries(encoder, &weights, &entries)
}

/// Replaces all parameters of a diffusion transformer by the weights, under the names of diffusers or of the original code, whose
/// table of positions is ignored: it is computed.
pub fn load_dit(network: &mut DiT, weights: Weights) -> Result<(), WeightsError> {
    let weights = weights.without(|name| name == "pos_embed");
    let is_original = weights.tensors().contains_key("x_embedder.proj.weight");
    let names = if is_original { DiTNames::Original } else { DiTNames::Diffusers };
    let entries = names.entries(network.config());
    load_entries(network, &weights, &entries)
}

/// As [`load_into`], for any module: `entries` lists its parameters and where they come from.
pub fn load_entries<M: ModuleSnapshot>(
    module: &mut M,
    weights: &Weights,
    entries: &[Entry],
) -> Result<(), WeightsError> {
    let misfit = |faults| WeightsError::Misfit { path: weights.path().to_path_buf(), faults };
    let faults = faults(entries, weights);
    if !faults.is_empty() {
        return Err(misfit(faults));
    }

    let tensors =
        entries.iter().filter_map(|entry| Some(deferred(entry, weights.tensors().get(&entry.theirs)?))).collect();
    let result = module.apply(tensors, None, Some(Box::new(OfPyTorch)), true);
    let mut faults: Vec<Fault> = result.missing.into_iter().map(|(key, _)| Fault::Missing(key)).collect();
    faults.extend(result.unused.into_iter().map(Fault::Unexpected));
    faults.extend(result.errors.iter().map(|error| Fault::Other { key: error.to_string(), reason: String::new() }));
    if faults.is_empty() { Ok(()) } else { Err(misfit(faults)) }
}

/// Burn's adapter, but for the transposition of dense layers, which took a third of the time that the weights of Stable
/// Diffusion took.
#[derive(Clone, Debug)]
struct OfPyTorch;

impl ModuleAdapter for OfPyTorch {
    fn adapt(&self, tensor: PackTensor, context: ModuleContext<'_>) -> PackTensor {
        let is_weight =
            context.module_type() == Some("Struct:Linear") && tensor.name.rsplit('.').next() == Some("weight");
        match tensor.shape.to_vec()[..] {
            [rows, columns] if is_weight && tensor.dtype == DType::F32 => {
                let (name, shape) = (tensor.name.clone(), Shape::from([columns, rows]));
                bridge::map_data(tensor, name, DType::F32, shape, move |data| transposed(data, [rows, columns]))
            }
            _ => PyTorchToBurnAdapter.adapt(tensor, context),
        }
    }

    fn get_alternative_param_name(&self, name: &str, container: &str) -> Option<String> {
        PyTorchToBurnAdapter.get_alternative_param_name(name, container)
    }

    fn clone_box(&self) -> Box<dyn ModuleAdapter> {
        Box::new(self.clone())
    }
}

/// Rows and columns of a matrix in each other's place.
fn transposed(data: TensorData, [rows, columns]: [usize; 2]) -> TensorData {
    /// As many columns as lie together in a line of the cache.
    const TOGETHER: usize = 16;
    let Ok(values) = data.as_slice::<f32>() else { return data };
    let mut turned = vec![0.0; values.len()];
    for (block, turned) in turned.chunks_mut(TOGETHER * rows.max(1)).enumerate() {
        let first = block * TOGETHER;
        for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
            let values = &values[first..columns.min(first + TOGETHER)];
            for (place, value) in turned[row..].iter_mut().step_by(rows).zip(values) {
                *place = *value;
            }
        }
    }
    TensorData::new(turned, [columns, rows])
}

/// What the network is made of, in the scheme's names; nothing where the scheme knows no such network.
fn entries(network: &Network, scheme: Scheme) -> Option<Vec<Entry>> {
    match (network, scheme) {
        (Network::UNet(network), scheme) => Some(scheme.entries(network.config())),
        // Its own names are the network's field names.
        (network, Scheme::Diffusers) => Some(own_entries(network)),
        _ => None,
    }
}

/// The parameters of a module under its field names.
fn own_entries<M: ModuleSnapshot>(module: &M) -> Vec<Entry> {
    let own = |tensor: PackTensor| Entry {
        ours: tensor.name.clone(),
        shape: tensor.shape.to_vec(),
        theirs: tensor.name,
        their_shape: tensor.shape.to_vec(),
        rows: None,
        pointwise: false,
    };
    module.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true).into_iter().map(own).collect()
}

/// All that keeps the weights from being those of the network.
pub fn faults(entries: &[Entry], weights: &Weights) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut wanted = BTreeSet::new();
    for entry in entries.iter().filter(|entry| wanted.insert(entry.theirs.as_str())) {
        let key = entry.theirs.clone();
        match weights.tensors().get(&key) {
            None => faults.push(Fault::Missing(key)),
            Some(tensor) if !entry.accepts(tensor.shape()) => faults.push(Fault::Misshapen {
                key,
                found: tensor.shape().to_vec(),
                expected: entry.their_shape.clone(),
            }),
            Some(tensor) if !tensor.dtype().is_float() => {
                let reason = format!("holds values of type {}, which are no weights", tensor.dtype());
                faults.push(Fault::Other { key, reason });
            }
            Some(_) => {}
        }
    }
    let left_over = weights.tensors().keys().filter(|key| !wanted.contains(key.as_str()));
    faults.extend(left_over.chain(weights.others()).cloned().map(Fault::Unexpected));
    faults
}

impl Entry {
    fn accepts(&self, shape: &[usize]) -> bool {
        match (self.pointwise, shape.split_at_checked(self.their_shape.len())) {
            (true, Some((shape, ones))) => shape == self.their_shape && ones.iter().all(|&size| size == 1),
            _ => shape == self.their_shape,
        }
    }
}

/// Our tensor, read when the network takes it.
fn deferred(entry: &Entry, tensor: &StoredTensor) -> PackTensor {
    let (shape, rows, tensor) = (entry.shape.clone(), entry.rows.clone(), tensor.clone());
    let values = move || {
        let values = tensor.read().map_err(|error| PackError::ValidationError(error.to_string()))?;
        let values = match &rows {
            None => values,
            Some(rows) => rows_of(&values, rows, tensor.shape()[0]),
        };
        Ok(TensorData::new(values, shape.clone()))
    };
    bridge::deferred(entry.ours.clone(), DType::F32, Shape::from(entry.shape.clone()), None, values)
}

/// These rows of a matrix of `count` rows, one after another.
fn rows_of(values: &[f32], rows: &[Range<usize>], count: usize) -> Vec<f32> {
    let width = values.len() / count;
    rows.iter().flat_map(|rows| &values[rows.start * width..rows.end * width]).copied().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn matrices_of_any_size_are_transposed() {
        for (rows, columns) in [(1, 1), (3, 40), (17, 16), (5, 1)] {
            let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
            let turned = transposed(TensorData::new(values, [rows, columns]), [rows, columns]);
            assert_eq!(turned.shape().to_vec(), [columns, rows]);
            let turned = turned.as_slice::<f32>().unwrap();
            assert!(
                (0..rows * columns).all(|i| turned[i % columns * rows + i / columns] == i as f32),
                "{rows}x{columns}"
            );
        }
    }
}
