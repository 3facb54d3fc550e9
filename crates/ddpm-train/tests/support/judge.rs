//! Judges digits by what a classifier sees in them: a Frechet distance on its features, classes, and copies.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_data::{DataConfig, Split};
use nalgebra::{DMatrix, DVector};

const PIXELS: usize = 64;
const FEATURES: usize = 64;

/// Two convolutions and two linear layers; the features are what the last one sees.
#[derive(Module, Debug)]
struct Classifier {
    conv1: Conv2d,
    conv2: Conv2d,
    pool: MaxPool2d,
    hidden: Linear,
    classes: Linear,
}

impl Classifier {
    fn new(device: &Device) -> Self {
        let conv = |from, to| {
            Conv2dConfig::new([from, to], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
        };
        Self {
            conv1: conv(1, 32),
            conv2: conv(32, 64),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
            hidden: LinearConfig::new(64 * 4 * 4, FEATURES).init(device),
            classes: LinearConfig::new(FEATURES, 10).init(device),
        }
    }

    fn features(&self, images: Tensor<2>) -> Tensor<2> {
        let [count, _] = images.dims();
        let x = relu(self.conv1.forward(images.reshape([count, 1, 8, 8])));
        let x = self.pool.forward(relu(self.conv2.forward(x)));
        relu(self.hidden.forward(x.flatten(1, 3)))
    }
}

/// The digits of one split.
pub struct Digits {
    pub pixels: Vec<f32>,
    pub labels: Vec<usize>,
}

impl Digits {
    pub fn open(split: Split) -> Self {
        let config: DataConfig = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
        let data = ddpm_data::open(&config, split, 0).unwrap();
        let items: Vec<_> = (0..data.items.len()).map(|index| data.items.get(index).unwrap()).collect();
        Self {
            labels: items.iter().map(|item| item.label.unwrap()).collect(),
            pixels: items.into_iter().flat_map(|item| item.values).collect(),
        }
    }
}

/// What is said of a set of samples.
#[derive(Debug)]
pub struct Verdict {
    /// Frechet distance to the test split, on the classifier's features.
    pub distance: f64,
    /// Share of each class, as the classifier sees it.
    pub shares: [f64; 10],
    /// Median distance to the nearest training image, over that of the test split.
    pub novelty: f64,
}

/// A trained classifier and what it saw in the real digits.
pub struct Judge {
    classifier: Classifier,
    device: Device,
    train: Digits,
    test_features: Moments,
    test_nearest: f64,
    /// Share of the test split that the classifier gets right.
    pub accuracy: f64,
}

impl Judge {
    pub fn train(seed: u64) -> Self {
        let device = Device::default().without_autodiff();
        let (train, test) = (Digits::open(Split::Train), Digits::open(Split::Test));
        let classifier = fit(&train, seed, &device.clone().autodiff());
        let features = classifier.features(images(&test.pixels, &device));
        let right = predictions(&classifier, features.clone()).iter().zip(&test.labels).filter(|(a, b)| a == b).count();
        Self {
            accuracy: right as f64 / test.labels.len() as f64,
            test_features: Moments::of(&rows(features)),
            test_nearest: median_nearest(&test.pixels, &train.pixels),
            classifier,
            device,
            train,
        }
    }

    pub fn judge(&self, pixels: &[f32]) -> Verdict {
        let features = self.classifier.features(images(pixels, &self.device));
        let predicted = predictions(&self.classifier, features.clone());
        let share = |class| predicted.iter().filter(|label| **label == class).count() as f64 / predicted.len() as f64;
        Verdict {
            distance: frechet(&Moments::of(&rows(features)), &self.test_features),
            shares: std::array::from_fn(share),
            novelty: median_nearest(pixels, &self.train.pixels) / self.test_nearest,
        }
    }

    pub fn train_split(&self) -> &[f32] {
        &self.train.pixels
    }

    /// Samples of a Gaussian with the mean and the full covariance of the training pixels, kept in [-1, 1].
    pub fn pixel_gaussian(&self, count: usize, seed: u64) -> Vec<f32> {
        let images: Vec<Vec<f64>> =
            self.train.pixels.chunks(PIXELS).map(|image| image.iter().map(|v| f64::from(*v)).collect()).collect();
        let moments = Moments::of(&images);
        let root = root(&moments.covariance);
        let sample = |k: u64| {
            let eps = normals(&mut rng(seed, Stream::Points, k), PIXELS).into_iter().map(f64::from);
            &moments.mean + &root * DVector::from_iterator(PIXELS, eps)
        };
        (0..count as u64)
            .flat_map(|k| sample(k).iter().map(|v| v.clamp(-1.0, 1.0) as f32).collect::<Vec<_>>())
            .collect()
    }
}

/// Thirty epochs of Adam on the digits, shifted by up to a pixel.
fn fit(train: &Digits, seed: u64, device: &Device) -> Classifier {
    device.seed(seed);
    let mut classifier = Classifier::new(device);
    let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
    let (count, batch) = (train.labels.len(), 64);
    let steps = 30 * count / batch;
    for step in 0..steps {
        let mut rng = rng(seed, Stream::Order, step as u64);
        let chosen: Vec<usize> = (0..batch).map(|_| rng.random_range(0..count)).collect();
        let pixels: Vec<f32> = chosen
            .iter()
            .flat_map(|i| {
                let shift = [rng.random_range(-1..=1), rng.random_range(-1..=1)];
                shifted(&train.pixels[i * PIXELS..(i + 1) * PIXELS], shift)
            })
            .collect();
        let labels: Vec<i64> = chosen.iter().map(|i| train.labels[*i] as i64).collect();
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch]), device);
        let logits = classifier.classes.forward(classifier.features(images(&pixels, device)));
        let loss = CrossEntropyLossConfig::new().init(device).forward(logits, labels);
        let gradients = GradientsParams::from_grads(loss.backward(), &classifier);
        let rate = if step * 3 < steps * 2 { 2e-3 } else { 2e-4 };
        classifier = optimizer.step(rate, classifier, gradients);
    }
    classifier.valid()
}

fn shifted(image: &[f32], [dy, dx]: [i32; 2]) -> Vec<f32> {
    let at = |y: i32, x: i32| {
        if (0..8).contains(&y) && (0..8).contains(&x) { image[(y * 8 + x) as usize] } else { -1.0 }
    };
    (0..8).flat_map(|y| (0..8).map(move |x| (y, x))).map(|(y, x)| at(y + dy, x + dx)).collect()
}

fn images(pixels: &[f32], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(pixels.to_vec(), [pixels.len() / PIXELS, PIXELS]), device)
}

fn predictions(classifier: &Classifier, features: Tensor<2>) -> Vec<usize> {
    let best = classifier.classes.forward(features).argmax(1);
    best.try_into_vec_as::<i64>().unwrap().into_iter().map(|class| class as usize).collect()
}

fn rows(features: Tensor<2>) -> Vec<Vec<f64>> {
    let [_, width] = features.dims();
    let values: Vec<f32> = features.try_into_vec_as().unwrap();
    values.chunks(width).map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect()
}

struct Moments {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
}

impl Moments {
    fn of(rows: &[Vec<f64>]) -> Self {
        let matrix = DMatrix::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j]);
        let mean = matrix.row_mean();
        let centred = DMatrix::from_fn(rows.len(), rows[0].len(), |i, j| matrix[(i, j)] - mean[j]);
        let covariance = centred.transpose() * &centred / (rows.len() - 1) as f64;
        Self { mean: mean.transpose(), covariance }
    }
}

/// |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2).
fn frechet(a: &Moments, b: &Moments) -> f64 {
    let half = root(&a.covariance);
    let cross = root(&(&half * &b.covariance * &half));
    (&a.mean - &b.mean).norm_squared() + a.covariance.trace() + b.covariance.trace() - 2.0 * cross.trace()
}

/// The root of a symmetric matrix without negative eigenvalues, but for rounding.
fn root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let eigen = ((matrix + matrix.transpose()) / 2.0).symmetric_eigen();
    let roots = eigen.eigenvalues.map(|value| value.max(0.0).sqrt());
    &eigen.eigenvectors * DMatrix::from_diagonal(&roots) * eigen.eigenvectors.transpose()
}

fn median_nearest(pixels: &[f32], train: &[f32]) -> f64 {
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    let nearest = |image: &[f32]| train.chunks(PIXELS).map(|other| distance(image, other)).fold(f32::MAX, f32::min);
    let mut all: Vec<f32> = pixels.chunks(PIXELS).map(|image| nearest(image).sqrt()).collect();
    all.sort_by(f32::total_cmp);
    f64::from(all[all.len() / 2])
}
