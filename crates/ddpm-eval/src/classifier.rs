//! A small classifier that is trained on the data at hand: an extractor for data that Inception was not trained for.

use std::path::Path;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, rng};
use ddpm_data::{DataConfig, DataInfo, Example, OpenData, Split};
use ddpm_files::atomic::AtomicFile;

use super::EvaluationError;
use super::extractor::{Extracted, FeatureExtractor, in_shape};
use super::image::Image;

/// Width of the features.
const FEATURES: usize = 64;
/// Images in a training batch.
const BATCH: usize = 64;
/// Epochs, on average; fewer for large datasets.
const EPOCHS: usize = 30;
/// The least accuracy at which features are trusted.
const TRUSTED: f64 = 0.8;
/// Steps of training at most.
const MOST_STEPS: usize = 3000;

/// Two convolutions and two linear layers; the features are the input of the last one.
#[derive(Module, Debug)]
struct Network {
    conv1: Conv2d,
    conv2: Conv2d,
    pool: MaxPool2d,
    hidden: Linear,
    classes: Linear,
}

impl Network {
    fn new([channels, height, width]: [usize; 3], classes: usize, device: &Device) -> Self {
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
        };
        let pooled = pools([height, width]).iter().fold([height, width], |size, _| size.map(|size| size / 2));
        Self {
            conv1: conv(channels, 32),
            conv2: conv(32, 64),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            hidden: LinearConfig::new(64 * pooled[0] * pooled[1], FEATURES).init(device),
            classes: LinearConfig::new(FEATURES, classes).init(device),
        }
    }

    /// [B, C, H, W] to [B, 64].
    fn features(&self, images: Tensor<4>) -> Tensor<2> {
        let [_, _, height, width] = images.dims();
        let x = relu(self.conv2.forward(relu(self.conv1.forward(images))));
        let x = pools([height, width]).iter().fold(x, |x, ()| self.pool.forward(x));
        relu(self.hidden.forward(x.flatten(1, 3)))
    }
}

/// One for every halving until 4 pixels are left.
fn pools(size: [usize; 2]) -> Vec<()> {
    let least = size[0].min(size[1]).max(1);
    vec![(); (least / 4).max(1).ilog2() as usize]
}

/// A classifier that was trained on the data's own classes.
#[derive(Debug)]
pub struct Classifier {
    network: Network,
    device: Device,
    data: DataInfo,
    shape: [usize; 3],
    accuracy: f64,
}

impl Classifier {
    /// Reads the one in `file`, or trains one and writes it to `file`. Features depend on the file alone, so metrics by
    /// one file are comparable.
    pub fn open(file: &Path, source: &DataConfig, device: &Device) -> Result<Self, EvaluationError> {
        let train = ddpm_data::open(source, Split::Train, 0)?;
        let [channels, height, width] = train.info.shape[..] else {
            return Err(EvaluationError::NoClasses { data: train.info.name });
        };
        if train.info.classes.is_empty() {
            return Err(EvaluationError::NoClasses { data: train.info.name });
        }
        let device = device.clone().without_autodiff();
        let shape = [channels, height, width];
        let network = match file.is_file() {
            true => load(Network::new(shape, train.info.classes.len(), &device), file)?,
            false => {
                let network = fit(&train, shape, 0, &device.clone().autodiff())?;
                save(&network, file)?;
                // The same as later runs will read.
                load(network, file)?
            }
        };
        let mut classifier = Self { network, device, data: train.info, shape, accuracy: 0.0 };
        classifier.accuracy = classifier.measure(&ddpm_data::open(source, Split::Test, 0)?)?;
        Ok(classifier)
    }

    /// Accuracy on the test split.
    pub fn accuracy(&self) -> f64 {
        self.accuracy
    }

    fn measure(&self, test: &OpenData) -> Result<f64, EvaluationError> {
        let mut right = 0;
        for start in (0..test.items.len()).step_by(256) {
            let items = items(test, start..(start + 256).min(test.items.len()))?;
            let images: Vec<Image> = items.iter().map(|item| Image::from_values(self.shape, &item.values)).collect();
            let logits = self.extract(&images)?.logits;
            right += logits.rows().zip(&items).filter(|(row, item)| Some(best(row)) == item.label).count();
        }
        Ok(right as f64 / test.items.len() as f64)
    }
}

impl FeatureExtractor for Classifier {
    fn name(&self) -> String {
        let [channels, height, width] = self.shape;
        format!(
            "classifier of {} right in {:.1} %, {channels}x{height}x{width} not resized",
            self.data.name,
            100.0 * self.accuracy
        )
    }

    fn widths(&self) -> [usize; 2] {
        [FEATURES, self.data.classes.len()]
    }

    fn warning(&self) -> Option<String> {
        (self.accuracy < TRUSTED).then(|| {
            format!(
                "the classifier is right in only {:.1} % of the test items: its features are no measure of quality; use \
                 --extractor pixels, or --extractor inception --weights FILE",
                100.0 * self.accuracy
            )
        })
    }

    fn extract(&self, images: &[Image]) -> Result<Extracted, EvaluationError> {
        let mut values = Vec::new();
        for image in images {
            values.extend(in_shape(image, self.shape, "the classifier")?.values());
        }
        let features = self.network.features(image_batch(values, self.shape, &self.device));
        Extracted::from_tensors(features.clone(), self.network.classes.forward(features))
    }
}

/// Adam over the images, shifted by up to a pixel.
fn fit(train: &OpenData, shape: [usize; 3], seed: u64, device: &Device) -> Result<Network, EvaluationError> {
    device.seed(seed);
    let mut network = Network::new(shape, train.info.classes.len(), device);
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let count = train.items.len();
    let steps = (EPOCHS * count / BATCH).clamp(1, MOST_STEPS);
    for step in 0..steps {
        let mut rng = rng(seed, Stream::Order, step as u64);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let item = get(train, rng.random_range(0..count))?;
            let shift = [rng.random_range(-1..=1), rng.random_range(-1..=1)];
            values.extend(shifted(&item.values, shape, shift));
            labels.push(item.label.unwrap_or_default() as i64);
        }
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [BATCH]), device);
        let logits = network.classes.forward(network.features(image_batch(values, shape, device)));
        let loss = CrossEntropyLossConfig::new().init(device).forward(logits, labels);
        let gradients = GradientsParams::from_grads(loss.backward(), &network);
        let rate = if step * 3 < steps * 2 { 2e-3 } else { 2e-4 };
        network = optimizer.step(rate, network, gradients);
    }
    Ok(network.valid())
}

fn save(network: &Network, file: &Path) -> Result<(), EvaluationError> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(EvaluationError::io(folder))?;
    }
    // A file that Burn creates is readable by its owner only; one that it overwrites keeps its permissions.
    let written = AtomicFile::begin(file)?;
    let mut store = SafetensorsStore::from_file(written.path()).with_to_adapter(BurnToPyTorchAdapter).overwrite(true);
    network
        .save_into(&mut store)
        .map_err(|error| EvaluationError::format(file, format!("cannot be written: {error}")))?;
    Ok(written.commit_derived()?)
}

fn load(mut network: Network, file: &Path) -> Result<Network, EvaluationError> {
    let mut store = SafetensorsStore::from_file(file).with_from_adapter(PyTorchToBurnAdapter);
    let not = |reason: String| {
        EvaluationError::format(
            file,
            format!("not the classifier of this data ({reason}); remove it to train a new one"),
        )
    };
    network.load_from(&mut store).map_err(|error| not(error.to_string()))?;
    Ok(network)
}

fn shifted(image: &[f32], [channels, height, width]: [usize; 3], [dy, dx]: [i32; 2]) -> Vec<f32> {
    let at = |channel: usize, y: usize, x: usize| {
        let (from_y, from_x) = (y.checked_add_signed(dy as isize), x.checked_add_signed(dx as isize));
        let inside = from_y.filter(|y| *y < height).zip(from_x.filter(|x| *x < width));
        inside.map_or(-1.0, |(y, x)| image[(channel * height + y) * width + x])
    };
    let mut all = Vec::with_capacity(image.len());
    for channel in 0..channels {
        for y in 0..height {
            all.extend((0..width).map(|x| at(channel, y, x)));
        }
    }
    all
}

fn image_batch(values: Vec<f32>, [channels, height, width]: [usize; 3], device: &Device) -> Tensor<4> {
    let count = values.len() / (channels * height * width);
    Tensor::from_data(TensorData::new(values, [count, channels, height, width]), device)
}

fn items(data: &OpenData, range: std::ops::Range<usize>) -> Result<Vec<Example>, EvaluationError> {
    range.map(|index| get(data, index)).collect()
}

/// An item of a dataset.
pub(super) fn get(data: &OpenData, index: usize) -> Result<Example, EvaluationError> {
    let broken = |error| EvaluationError::format(Path::new(&data.info.name), format!("item {index}: {error}"));
    data.items.get(index).map_err(broken)
}

/// The class of a row of logits.
pub fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn images_are_shifted_within_their_border() {
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(shifted(&image, [1, 2, 3], [0, 0]), image);
        assert_eq!(shifted(&image, [1, 2, 3], [1, -1]), [-1.0, 4.0, 5.0, -1.0, -1.0, -1.0]);
    }

    #[test]
    fn points_have_no_classifier() {
        let folder = tempfile::tempdir().unwrap();
        let points: DataConfig = serde_json::from_str(r#"{"kind": "moons"}"#).unwrap();
        let message = Classifier::open(&folder.path().join("c.safetensors"), &points, &Device::default()).unwrap_err();
        assert!(message.to_string().contains("moons"), "{message}");
    }
}
