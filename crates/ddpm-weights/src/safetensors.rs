//! Safetensors: eight bytes of length, a JSON header with names, shapes and places, then the values.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::stored::{Storage, StoredTensor};
use super::{Dtype, WeightsError};

/// No header of a real file comes near this; a larger claim is refused before memory is taken.
const LARGEST_HEADER: u64 = 64 << 20;

#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    tensors: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// What the header of a file says besides its tensors.
pub(super) fn metadata(path: &Path) -> Result<BTreeMap<String, String>, WeightsError> {
    Ok(read_header(path)?.0.metadata)
}

/// The header of a file, the place where its values begin, and its size.
fn read_header(path: &Path) -> Result<(Header, u64, u64), WeightsError> {
    let io = |error| WeightsError::Io { path: path.to_path_buf(), error };
    let broken = |reason: String| WeightsError::broken(path, reason);
    let mut file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(|_| broken("shorter than a safetensors header".into()))?;
    let length = u64::from_le_bytes(length);
    if length > LARGEST_HEADER || length + 8 > size {
        return Err(broken(format!("not a safetensors file: its header would take {length} of {size} bytes")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(io)?;
    let header =
        serde_json::from_slice(&header).map_err(|error| broken(format!("its safetensors header is wrong: {error}")))?;
    Ok((header, length + 8, size))
}

/// The tensors of a file, whose header must account for each of its bytes once.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, StoredTensor>, WeightsError> {
    let broken = |reason: String| WeightsError::broken(path, reason);
    let (header, begin, size) = read_header(path)?;
    let mut places: Vec<_> = header.tensors.iter().map(|(name, entry)| (entry.data_offsets, name)).collect();
    places.sort_unstable();
    let mut end = 0;
    for ([first, last], name) in places {
        if first != end || last < first {
            return Err(broken(format!("{name} lies at bytes {first} to {last}, but the one before ends at {end}")));
        }
        end = last;
    }
    let expected = begin.saturating_add(end);
    if expected != size {
        return Err(broken(format!("the file has {size} bytes, but its header accounts for {expected}")));
    }

    let file: Arc<Path> = path.into();
    let tensor = |(name, entry): (String, Entry)| {
        let wrong = |reason: String| broken(format!("{name}: {reason}"));
        let dtype = Dtype::of_safetensors(&entry.dtype)
            .ok_or_else(|| wrong(format!("values of type {} are not read here", entry.dtype)))?;
        let [first, last] = entry.data_offsets;
        let bytes = (last - first) as usize;
        let storage = Storage { file: file.clone(), dtype, start: begin + first, len: bytes / dtype.size() };
        let tensor = storage.tensor(&entry.shape, 0, None).map_err(wrong)?;
        if tensor.len() * dtype.size() != bytes {
            return Err(wrong(format!("shape {:?} of {dtype} does not take the {bytes} bytes it has", entry.shape)));
        }
        Ok((name, tensor))
    };
    header.tensors.into_iter().map(tensor).collect()
}
