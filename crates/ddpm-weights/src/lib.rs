//! Weights that others wrote: which tensors a file holds, their values on demand, and whose names they have.
//!
//! A file is opened by what it holds, not by what it is called: safetensors, one or sharded, in any precision, and what
//! `torch.save` writes. Opening reads names, shapes and places and checks them all against the size of the file; values
//! are read one tensor at a time. Nothing in a file can run, and no size that it claims is believed before it is checked.

mod dtype;
mod error;
mod find;
mod load;
pub mod lora;
pub mod names;
mod pickle;
mod safetensors;
mod sharded;
mod stored;
mod torch;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use dtype::Dtype;
pub use error::{Fault, WeightsError};
pub use load::{faults, load_clip_text, load_dit, load_entries, load_into, load_own_names};
pub use names::{QkvOrder, Scheme};
pub use stored::StoredTensor;

/// The tensors of a file, or of the files of a sharded set.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, StoredTensor>,
    others: Vec<String>,
}

impl Weights {
    /// Opens a safetensors file, the `*.index.json` of a sharded set, or a file that `torch.save` wrote.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        Self::open_entry(path, None)
    }

    /// As [`open`](Self::open), where a file of `torch.save` holds several sets of weights: `entry` names one of them,
    /// such as `ema`.
    pub fn open_entry(path: &Path, entry: Option<&str>) -> Result<Self, WeightsError> {
        let (tensors, others) = match Kind::of(path)? {
            Kind::Torch(container) => torch::open(path, container, entry)?,
            _ if entry.is_some() => {
                return Err(WeightsError::broken(path, "only files of torch.save have entries to choose from"));
            }
            Kind::Safetensors => (safetensors::open(path)?, Vec::new()),
            Kind::Sharded => (sharded::open(path)?, Vec::new()),
        };
        Ok(Self { path: path.to_path_buf(), tensors: without_wrapper(tensors), others })
    }

    /// Opens the weights in a model folder of diffusers: those of `variant`, such as `fp16`, or else the plain ones.
    pub fn find_in(dir: &Path, variant: Option<&str>) -> Result<Self, WeightsError> {
        Self::open(&find::file_in(dir, variant)?)
    }

    /// Without the tensors of these names: what a file has twice, or what is no parameter.
    #[must_use]
    pub fn without(mut self, is_left_out: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|name, _| !is_left_out(name));
        self
    }

    /// The tensors that `rename` has a name for, under that name; the others are left out.
    #[must_use]
    pub fn renamed(&self, rename: impl Fn(&str) -> Option<String>) -> Self {
        let tensors = self.tensors.iter().filter_map(|(name, tensor)| Some((rename(name)?, tensor.clone()))).collect();
        Self { path: self.path.clone(), tensors, others: Vec::new() }
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, StoredTensor> {
        &self.tensors
    }

    /// What stands beside the tensors but is none: a step count in a pickle, say.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(StoredTensor::shape)
    }

    /// The number of values in all tensors.
    pub fn num_values(&self) -> usize {
        self.tensors.values().map(StoredTensor::len).sum()
    }

    /// How many tensors there are of each dtype.
    pub fn dtypes(&self) -> BTreeMap<Dtype, usize> {
        let mut counts = BTreeMap::new();
        for tensor in self.tensors.values() {
            *counts.entry(tensor.dtype()).or_default() += 1;
        }
        counts
    }
}

/// What a file of weights is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One safetensors file.
    Safetensors,
    /// The index of several files.
    Sharded,
    /// What `torch.save` writes.
    Torch(Container),
}

/// How `torch.save` packs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A zip archive, since PyTorch 1.6.
    Zip,
    /// Pickles one after another, before that.
    Legacy,
}

impl Kind {
    /// Looks at a file's first bytes.
    pub fn of(path: &Path) -> Result<Self, WeightsError> {
        let io = |error| WeightsError::Io { path: path.to_path_buf(), error };
        let mut start = Vec::new();
        File::open(path).map_err(io)?.take(64).read_to_end(&mut start).map_err(io)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if start.starts_with(b"version https://git-lfs") {
            Err(WeightsError::broken(
                path,
                "this is a pointer of Git LFS, not the file itself: `git lfs pull` fetches it",
            ))
        } else if start.starts_with(b"PK\x03\x04") {
            Ok(Self::Torch(Container::Zip))
        } else if name.ends_with(".json") {
            Ok(Self::Sharded)
        } else if name.ends_with(".safetensors") || start.get(8) == Some(&b'{') {
            Ok(Self::Safetensors)
        } else if start.first() == Some(&0x80) {
            Ok(Self::Torch(Container::Legacy))
        } else {
            Err(WeightsError::broken(path, "this is neither a safetensors file nor one that torch.save wrote"))
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "a safetensors file",
            Self::Sharded => "the index of a sharded set",
            Self::Torch(Container::Zip) => "a file of torch.save",
            Self::Torch(Container::Legacy) => "a file of torch.save from before PyTorch 1.6",
        })
    }
}

/// `DataParallel` puts `module.` before every name; it says nothing about the network.
fn without_wrapper(tensors: BTreeMap<String, StoredTensor>) -> BTreeMap<String, StoredTensor> {
    const WRAPPER: &str = "module.";
    if tensors.is_empty() || !tensors.keys().all(|name| name.starts_with(WRAPPER)) {
        return tensors;
    }
    tensors.into_iter().map(|(name, tensor)| (name[WRAPPER.len()..].to_string(), tensor)).collect()
}
