//! What every dataset gives: items, and a description of them.

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::names::printable;
use crate::random::{Stream, rng};
use crate::series::{SeriesInfo, Window};

/// One item of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The values, row-major in the shape of [`DataInfo::shape`].
    pub values: Vec<f32>,
    /// Index into [`DataInfo::classes`].
    pub label: Option<usize>,
    /// What else there is to know of a window of a series.
    pub window: Option<Box<Window>>,
    /// What an image shows, in words.
    pub caption: Option<Box<str>>,
}

/// What all items of a dataset have in common; a snapshot carries it along.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataInfo {
    /// The kind of data, as in the config.
    pub name: String,
    /// `[C, H, W]` for images, `[2]` for points, `[K, L]` for windows of series.
    pub shape: Vec<usize>,
    /// Names of the classes; empty when unlabelled.
    pub classes: Vec<String>,
    /// The way back to the units of the source.
    pub units: Units,
    /// What series have in common besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<SeriesInfo>,
    /// Whether the items are latents of an autoencoder: their values have no bounds, whatever their shape.
    #[serde(default, skip_serializing_if = "is_false")]
    pub latent: bool,
    /// Whether the items have captions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_captions: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl DataInfo {
    /// Latents of this shape, of no data in particular.
    pub fn of_latents(shape: &[usize]) -> Self {
        Self {
            name: "latents".into(),
            shape: shape.to_vec(),
            classes: Vec::new(),
            units: Units::identity(shape.first().copied().unwrap_or_default()),
            series: None,
            latent: true,
            has_captions: false,
        }
    }

    /// Latents of this shape in place of these data, which keep their name, classes and captions.
    pub fn as_latents(&self, shape: &[usize]) -> Self {
        let Self { name, classes, series, has_captions, .. } = self.clone();
        Self { name, classes, series, has_captions, ..Self::of_latents(shape) }
    }

    /// How many values an item has.
    pub fn values_per_item(&self) -> usize {
        self.shape.iter().product()
    }

    /// Values of items, one after the other, in the units of their source.
    pub fn in_data_units(&self, values: Vec<f32>) -> Vec<f32> {
        self.by_channel(values, |channel, value| self.units.data_unit(channel, value))
    }

    /// Numbers in the units of the source as the networks see them: the inverse of [`in_data_units`](Self::in_data_units).
    pub fn from_data_units(&self, numbers: Vec<f32>) -> Vec<f32> {
        self.by_channel(numbers, |channel, number| self.units.value(channel, number))
    }

    fn by_channel(&self, mut values: Vec<f32>, change: impl Fn(usize, f64) -> f64) -> Vec<f32> {
        let (channels, per_channel) = (self.shape[0], self.shape[1..].iter().product::<usize>());
        for (k, value) in values.iter_mut().enumerate() {
            *value = change(k / per_channel % channels, f64::from(*value)) as f32;
        }
        values
    }

    /// How many classes there are and the names of the first, as messages have it: `5 (animals, faces, ...)`.
    pub fn classes_in_short(&self) -> String {
        let names: Vec<String> = self.classes.iter().take(CLASSES_NAMED).map(|name| printable(name)).collect();
        let more = if self.classes.len() > CLASSES_NAMED { ", ..." } else { "" };
        match self.classes.len() {
            0 => "none".into(),
            count => format!("{count} ({}{more})", names.join(", ")),
        }
    }
}

/// Names that a message has room for.
const CLASSES_NAMED: usize = 5;

/// Data unit = value * scale + shift, per channel or coordinate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Units {
    /// Added last.
    pub shift: Vec<f64>,
    /// Multiplied first.
    pub scale: Vec<f64>,
}

impl Units {
    /// The values are the data units.
    pub fn identity(channels: usize) -> Self {
        Self { shift: vec![0.0; channels], scale: vec![1.0; channels] }
    }

    /// Whether they are of nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.scale.is_empty()
    }

    /// A value of a channel or coordinate in data units.
    pub fn data_unit(&self, channel: usize, value: f64) -> f64 {
        value * self.scale[channel] + self.shift[channel]
    }

    /// A number in data units as the networks see it: the inverse of [`Units::data_unit`].
    pub fn value(&self, channel: usize, data_unit: f64) -> f64 {
        (data_unit - self.shift[channel]) / self.scale[channel]
    }
}

/// Whether images are mirrored at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// Items stay as they are.
    Never,
    /// Each item is mirrored left to right with probability one half.
    Half,
}

impl Flip {
    /// From the config's `horizontal_flip`.
    pub(crate) fn half_if(horizontal_flip: bool) -> Self {
        match horizontal_flip {
            true => Flip::Half,
            false => Flip::Never,
        }
    }

    /// Mirrors the rows of an item or leaves them, as a function of its place in the stream, so that the
    /// same image is seen both ways in different epochs.
    pub(crate) fn apply(self, values: &mut [f32], width: usize, seed: u64, place: u64) {
        if self == Flip::Half && rng(seed, Stream::Flip, place).random::<bool>() {
            for row in values.chunks_exact_mut(width) {
                row.reverse();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_lead_there_and_back() {
        let units = Units { shift: vec![3.0, -1.0], scale: vec![0.5, 20.0] };
        assert_eq!(units.data_unit(0, 2.0), 4.0);
        assert_eq!(units.value(1, units.data_unit(1, -0.3)), -0.3);
        assert_eq!(Units::identity(2).data_unit(1, 7.5), 7.5);
    }

    #[test]
    fn values_of_items_have_the_unit_of_their_channel() {
        let units = Units { shift: vec![3.0, -1.0], scale: vec![0.5, 20.0] };
        let info = |shape: &[usize]| DataInfo {
            name: "any".into(),
            shape: shape.to_vec(),
            classes: Vec::new(),
            units: units.clone(),
            series: None,
            latent: false,
            has_captions: false,
        };
        let values = vec![2.0, 2.0, 0.0, 1.0];
        // Two points, and two channels of two values.
        for (shape, wanted) in [(vec![2], [4.0, 39.0, 3.0, 19.0]), (vec![2, 1, 2], [4.0, 4.0, -1.0, 19.0])] {
            let found = info(&shape).in_data_units(values.clone());
            assert_eq!(found, wanted);
            assert_eq!(info(&shape).from_data_units(found), values);
        }
    }

    #[test]
    fn a_few_classes_are_named() {
        let mut info = DataInfo {
            name: "images".into(),
            shape: vec![1, 2, 2],
            classes: Vec::new(),
            units: Units::identity(1),
            series: None,
            latent: false,
            has_captions: false,
        };
        assert_eq!(info.classes_in_short(), "none");
        info.classes = ["a", "b\n"].map(String::from).to_vec();
        assert_eq!(info.classes_in_short(), "2 (a, b\\n)");
        info.classes = (0..9).map(|class| class.to_string()).collect();
        assert_eq!(info.classes_in_short(), "9 (0, 1, 2, 3, 4, ...)");
    }

    #[test]
    fn half_of_the_places_are_mirrored_row_by_row() {
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mirrored = [3.0, 2.0, 1.0, 6.0, 5.0, 4.0];
        let mut count = 0;
        for place in 0..1000 {
            let mut values = image;
            Flip::Half.apply(&mut values, 3, 9, place);
            assert!(values == image || values == mirrored);
            count += usize::from(values == mirrored);

            let mut again = image;
            Flip::Half.apply(&mut again, 3, 9, place);
            assert_eq!(values, again);

            let mut never = image;
            Flip::Never.apply(&mut never, 3, 9, place);
            assert_eq!(never, image);
        }
        assert!((430..570).contains(&count), "{count} of 1000 mirrored");
    }
}
