//! Items that a command works on: a split of the data of a snapshot, or files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ddpm_console::numbers::at_least;
use ddpm_data::{DataInfo, Fit, Split, read_pictures};
use ddpm_families::family::stored::ModelCard;
use ddpm_files::npy;

use crate::commands::choose::split_parser;

/// Which items.
#[derive(Args, Debug)]
#[command(next_help_heading = "Items")]
pub(crate) struct ItemsArgs {
    /// A file or folder of images, or an .npy of items [N, ..] in the layout and range of samples.npy.
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    files: Option<PathBuf>,
    /// Split of the data of the snapshot.
    #[arg(long, value_name = "SPLIT", value_parser = split_parser(), default_value = Split::Test.name())]
    data: Split,
    /// Number of items, the first ones; default: all.
    #[arg(long, value_name = "N", value_parser = at_least::<1, usize>)]
    count: Option<usize>,
    /// Scale, crop and convert images to the shape of the model; without it, others are refused.
    #[arg(long, requires = "files")]
    fit: bool,
}

/// Items in the units of the networks, one after the other.
pub(crate) struct Items {
    pub(crate) values: Vec<f32>,
    pub(crate) count: usize,
    /// Where they come from, for people.
    pub(crate) from: String,
}

impl ItemsArgs {
    /// Reads them for the model of a snapshot.
    pub(crate) fn read(&self, card: &ModelCard, snapshot: &Path) -> anyhow::Result<Items> {
        let most = self.count.unwrap_or(usize::MAX);
        let items = match &self.files {
            Some(path) => of_files(path, &card.data, most, if self.fit { Fit::Converted } else { Fit::Refused })?,
            None => of_split(card, snapshot, self.data, most)?,
        };
        if items.count == 0 {
            bail!("{}: there are no items", items.from);
        }
        Ok(items)
    }
}

/// The first items of an array, an image file or a folder of them.
pub(crate) fn of_files(path: &Path, data: &DataInfo, most: usize, fit: Fit) -> anyhow::Result<Items> {
    let size = data.values_per_item();
    let is_array = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy"));
    let mut values = match (is_array, data.shape.len()) {
        (true, _) => array(path, data)?,
        (false, 3) => read_pictures(path, &data.shape, fit)?.concat(),
        (false, _) => bail!("{}: items of shape {:?} are given as an .npy file", path.display(), data.shape),
    };
    values.truncate(most.saturating_mul(size));
    Ok(Items { count: values.len() / size, values, from: path.display().to_string() })
}

/// The first items of a split of the data that a model was trained on.
pub(crate) fn of_split(card: &ModelCard, snapshot: &Path, split: Split, most: usize) -> anyhow::Result<Items> {
    let Some(source) = &card.source else {
        bail!("{}: the snapshot does not record its training data: give items by --files", snapshot.display());
    };
    let data = ddpm_data::open(source, split, 0)?;
    if data.info.shape != card.data.shape {
        bail!("{} has items of shape {:?}; the model expects {:?}", data.info.name, data.info.shape, card.data.shape);
    }
    let count = data.items.len().min(most);
    let mut values = Vec::with_capacity(count * card.data.values_per_item());
    for item in 0..count {
        values.extend(data.items.get(item)?.values);
    }
    Ok(Items { values, count, from: format!("{} {} items", data.info.name, split.name()) })
}

/// The items of an array, which is in the units of their source.
fn array(path: &Path, data: &DataInfo) -> anyhow::Result<Vec<f32>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (shape, values) =
        npy::decode(&bytes).map_err(anyhow::Error::msg).with_context(|| path.display().to_string())?;
    if shape.get(1..) != Some(&data.shape[..]) {
        let expected = data.shape.iter().map(|size| format!(", {size}")).collect::<String>();
        bail!("{}: holds an array of shape {shape:?}; expected [N{expected}]", path.display());
    }
    if values.iter().any(|value| !value.is_finite()) {
        bail!("{}: holds values that are not finite", path.display());
    }
    Ok(data.from_data_units(values))
}
