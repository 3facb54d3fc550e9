//! The sets of `--against` and `--files`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ddpm_data::{DataConfig, Split};
use ddpm_eval::arrays::read_npz;
use ddpm_eval::sources::{Folder, ImageSource, Rows};
use ddpm_files::npy::RowReader;

use crate::commands::inspect_data::guess;

/// A set of items that is given by a name or a path.
pub(super) enum InputSet {
    /// A dataset with its two splits.
    Data(DataConfig),
    /// Images of a folder.
    Folder(PathBuf),
    /// An array of images or of points.
    Array(PathBuf),
    /// Mean and covariance.
    Statistics(PathBuf),
}

impl InputSet {
    /// A built-in dataset by its name, or a path by what it contains.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let path = Path::new(text);
        if DataConfig::BUILT_IN.iter().any(|(kind, _)| *kind == text) {
            return Ok(Self::Data(data(text, None)?));
        }
        // A folder of `sample`: the array has all samples in f32, and some of the images next to it are no samples.
        let array = path.join("samples.npy");
        if array.is_file() {
            return Ok(Self::Array(array));
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            _ if !path.exists() => bail!("{text}: there is no such folder, file or built-in dataset"),
            "npy" => Ok(Self::Array(path.to_path_buf())),
            "npz" => {
                let arrays = read_npz(path)?;
                let is_statistics = arrays.iter().any(|(name, _)| name == "mu");
                Ok(if is_statistics { Self::Statistics(path.to_path_buf()) } else { Self::Array(path.to_path_buf()) })
            }
            _ => match guess(path)? {
                "images" if path.is_dir() => Ok(Self::Folder(path.to_path_buf())),
                "images" => {
                    bail!(
                        "{text}: images are read from a folder: unpack it, or pass the file that `data build` makes of it"
                    )
                }
                kind => Ok(Self::Data(data(kind, Some(path))?)),
            },
        }
    }

    /// Whether the items are points, not images.
    pub(super) fn is_points(&self) -> anyhow::Result<bool> {
        Ok(match self {
            Self::Data(config) => ddpm_data::open(config, Split::Test, 0)?.info.is_point(),
            Self::Array(path) if path.extension().is_some_and(|extension| extension == "npy") => {
                RowReader::open(path)?.header().shape.len() == 2
            }
            _ => false,
        })
    }

    /// As a source of images; `None` for a dataset, whose split must be chosen, and for statistics.
    pub(super) fn images(&self) -> anyhow::Result<Option<Box<dyn ImageSource>>> {
        Ok(match self {
            Self::Folder(path) => Some(Box::new(Folder::open(path)?)),
            Self::Array(path) => Some(Box::new(Rows::open(path)?)),
            Self::Data(_) | Self::Statistics(_) => None,
        })
    }
}

fn data(kind: &str, path: Option<&Path>) -> anyhow::Result<DataConfig> {
    let mut config = serde_json::json!({ "kind": kind });
    if let Some(path) = path {
        config["path"] = path.to_string_lossy().into();
    }
    serde_json::from_value(config).with_context(|| format!("data of kind {kind}"))
}
