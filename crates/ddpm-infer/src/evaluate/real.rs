//! What `--against` and `--files` say.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ddpm_data::{DataConfig, Split};

use crate::evaluation::arrays::{RowReader, read_npz};
use crate::evaluation::sources::{Folder, PictureSource, Rows};
use crate::inspect_data::{BUNDLED, guess};

/// Items to compare with, or to judge.
pub(super) enum Real {
    /// A dataset with its two splits.
    Data(DataConfig),
    /// Pictures of a folder.
    Folder(PathBuf),
    /// An array of pictures or of points.
    Array(PathBuf),
    /// Mean and covariance.
    Statistics(PathBuf),
}

impl Real {
    /// A bundled kind, or a path by what is there.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let path = Path::new(text);
        if BUNDLED.iter().any(|(kind, _)| *kind == text) {
            return Ok(Self::Data(data(text, None)?));
        }
        // What `sample` left: the array has all samples as they are, and beside it are pictures that are no samples.
        let array = path.join("samples.npy");
        if array.is_file() {
            return Ok(Self::Array(array));
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        match extension.as_str() {
            _ if !path.exists() => bail!("{text}: there is no such folder, file or bundled dataset"),
            "npy" => Ok(Self::Array(path.to_path_buf())),
            "npz" => {
                let arrays = read_npz(path)?;
                let is_statistics = arrays.iter().any(|(name, _)| name == "mu");
                Ok(if is_statistics { Self::Statistics(path.to_path_buf()) } else { Self::Array(path.to_path_buf()) })
            }
            _ => match guess(path)? {
                "images" if path.is_dir() => Ok(Self::Folder(path.to_path_buf())),
                "images" => {
                    bail!("{text}: pictures are read from a folder; unpack it, or give what `data build` made of it")
                }
                kind => Ok(Self::Data(data(kind, Some(path))?)),
            },
        }
    }

    /// Whether these are points, not pictures.
    pub(super) fn is_points(&self) -> anyhow::Result<bool> {
        Ok(match self {
            Self::Data(config) => ddpm_data::open(config, Split::Test, 0)?.info.shape.len() == 1,
            Self::Array(path) if path.extension().is_some_and(|extension| extension == "npy") => {
                RowReader::open(path)?.header().shape.len() == 2
            }
            _ => false,
        })
    }

    /// As pictures, where it is a set of these.
    pub(super) fn pictures(&self) -> anyhow::Result<Option<Box<dyn PictureSource>>> {
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
