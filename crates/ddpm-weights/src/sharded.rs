//! Weights in several files, which an `*.index.json` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::stored::StoredTensor;
use super::{Kind, WeightsError, safetensors, torch};

/// No index of a real set comes near this.
const LARGEST_INDEX: u64 = 64 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The tensors of all files. Index and files must name the same tensors.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let io = |error| WeightsError::Io { path: path.to_path_buf(), error };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > LARGEST_INDEX {
        return Err(WeightsError::broken(path, format!("{size} bytes are too many for an index")));
    }
    let text = std::fs::read(path).map_err(io)?;
    let Index { weight_map } = serde_json::from_slice(&text)
        .map_err(|error| WeightsError::broken(path, format!("not an index with a `weight_map`: {error}")))?;

    let mut tensors = BTreeMap::new();
    let mut faults = Vec::new();
    for name in weight_map.values().collect::<BTreeSet<_>>() {
        // A name, not a path: an index must not lead anywhere else.
        if name.is_empty() || name.contains(['/', '\\', ':']) || name.starts_with("..") {
            return Err(WeightsError::broken(path, format!("`{name}` is not the name of a file beside it")));
        }
        for (key, tensor) in shard(&path.with_file_name(name))? {
            match weight_map.get(&key) {
                Some(place) if place == name => {
                    tensors.insert(key, tensor);
                }
                Some(place) => faults.push(format!("{key} lies in {name} instead of {place}")),
                None => faults.push(format!("{key} in {name} is not listed")),
            }
        }
    }
    faults.extend(
        weight_map
            .iter()
            .filter(|(key, _)| !tensors.contains_key(*key))
            .map(|(key, name)| format!("{key} is not in {name}")),
    );
    if faults.is_empty() { Ok(tensors) } else { Err(WeightsError::broken(path, faults.join("; "))) }
}

fn shard(path: &Path) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    match Kind::of(path)? {
        Kind::Safetensors => safetensors::open(path),
        Kind::Torch(container) => Ok(torch::open(path, container, None)?.0),
        Kind::Sharded => Err(WeightsError::broken(path, "an index may not list another index")),
    }
}
