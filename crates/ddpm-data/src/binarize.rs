//! Binarized images: every value becomes black or white, so that an image has a probability in a Bernoulli model.

use std::sync::Arc;

use burn_dataset::Dataset;
use burn_dataset::transform::{Mapper, MapperDataset};

use crate::example::Example;

/// Values are f32: a byte's share of white is exact to far less than this, and two bytes are much further apart.
const ROUNDING: f64 = 1e-6;

/// The same images with every value either -1 or 1: 1 where its share of white is at or above the threshold.
pub(crate) fn binarized(items: Arc<dyn Dataset<Example>>, threshold: f64) -> Arc<dyn Dataset<Example>> {
    Arc::new(MapperDataset::new(items, Binarize { threshold }))
}

struct Binarize {
    threshold: f64,
}

impl Mapper<Example, Example> for Binarize {
    fn map(&self, example: &Example) -> Example {
        let binary = |&value: &f32| match (f64::from(value) + 1.0) / 2.0 >= self.threshold - ROUNDING {
            true => 1.0,
            false => -1.0,
        };
        Example {
            values: example.values.iter().map(binary).collect(),
            label: example.label,
            window: None,
            caption: example.caption.clone(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pixels::{ByteImage, byte_images};
    use crate::{DataConfig, Flip, Split, open};

    fn config(text: &str) -> DataConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_byte_is_white_from_its_share_of_the_range_on() {
        let all = byte_images(vec![ByteImage { pixels: (0..=255).collect(), label: 3 }]);
        for white in 1..=255_u8 {
            let example = binarized(all.clone(), f64::from(white) / 255.0).get(0).unwrap();
            let expected: Vec<f32> = (0..=255).map(|byte| if byte >= white { 1.0 } else { -1.0 }).collect();
            assert_eq!(example, Example { values: expected, label: Some(3), window: None, caption: None });
        }
    }

    #[test]
    fn digits_at_one_half_are_white_from_eight_on_in_both_splits() {
        for split in [Split::Train, Split::Test] {
            let grey = open(&config("kind = 'digits'"), split, 0).unwrap();
            let binary = open(&config("kind = 'digits'\nbinarize = 0.5"), split, 0).unwrap();
            assert_eq!((&binary.info, binary.items.len()), (&grey.info, grey.items.len()));
            let mut borders = 0;
            for item in 0..grey.items.len() {
                let (grey, binary) = (grey.items.get(item).unwrap(), binary.items.get(item).unwrap());
                assert_eq!(grey.label, binary.label);
                for (grey, binary) in grey.values.iter().zip(binary.values) {
                    let level = (grey + 1.0) * 8.0;
                    assert_eq!(binary, if level >= 8.0 { 1.0 } else { -1.0 }, "level {level}");
                    borders += usize::from(level == 8.0);
                }
            }
            assert!(borders > 0, "no pixel is at the threshold");
        }
    }

    #[test]
    fn every_kind_of_images_has_the_key_and_points_refuse_it() {
        for text in ["images", "packed", "cifar10", "mnist", "fashion-mnist"] {
            let text = format!("kind = '{text}'\npath = 'p'\nbinarize = 0.25");
            assert_eq!(config(&text).binarize(), Some(0.25));
        }
        for text in ["digits", "sprites"] {
            assert_eq!(config(&format!("kind = '{text}'")).binarize(), None);
            assert_eq!(config(&format!("kind = '{text}'\nbinarize = 1.0")).binarize(), Some(1.0));
        }
        for text in ["kind = 'moons'", "kind = 'csv'\npath = 'p'"] {
            let error = toml::from_str::<DataConfig>(&format!("{text}\nbinarize = 0.5")).unwrap_err().to_string();
            assert!(error.contains("unknown field `binarize`"), "{error}");
        }
        for threshold in ["0.0", "1.5", "-1.0", "nan"] {
            let config = config(&format!("kind = 'digits'\nbinarize = {threshold}"));
            let error = open(&config, Split::Train, 0).err().unwrap().to_string();
            assert!(error.contains("data.binarize") && error.contains("above 0 and at most 1"), "{error}");
        }
    }

    #[test]
    fn images_of_a_folder_stay_flipped_and_labelled() {
        let folder = tempfile::tempdir().unwrap();
        for (k, bytes) in [[0, 127, 128, 255], [10, 20, 30, 200], [128; 4]].into_iter().enumerate() {
            let path = folder.path().join(format!("{k}.png"));
            image::GrayImage::from_vec(2, 2, bytes.to_vec()).unwrap().save(path).unwrap();
        }
        let keys = "size = 2\nchannels = 'grayscale'\nhorizontal_flip = true\nbinarize = 0.5";
        let config = config(&format!("kind = 'images'\npath = '{}'\n{keys}", folder.path().display()));
        let train = open(&config, Split::Train, 0).unwrap();
        let test = open(&config, Split::Test, 0).unwrap();
        assert_eq!(train.flip, Flip::Half);
        let all = |data: &crate::OpenData| -> Vec<Vec<f32>> {
            (0..data.items.len()).map(|item| data.items.get(item).unwrap().values).collect()
        };
        let mut values = [all(&train), all(&test)].concat();
        values.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(values, [[-1.0, -1.0, -1.0, 1.0], [-1.0, -1.0, 1.0, 1.0], [1.0; 4]]);
    }
}
