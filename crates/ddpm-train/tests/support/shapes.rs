//! Evaluates images of captioned shapes by a classifier that is trained on renders of its own: it reads shape, color, size
//! and place.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::random::{RngExt, Stream, normals, rng};
use ddpm_data::shapes::{Combination, Geometry, SIDE, render};
use ddpm_kernels::{Precision, conv2d};

/// How many values each attribute has: shape, color, size, place.
const VALUES: [usize; 4] = [3, 4, 2, 4];
/// Values of an image.
const IMAGE: usize = 3 * SIDE * SIDE;
/// Steps of training, and renders of each.
const STEPS: u64 = 900;
const BATCH: usize = 64;
/// Noise is added to the renders it learns from, up to this standard deviation: samples are not as clean as renders.
const NOISE: f32 = 0.06;
/// What its renders are drawn by; no run of a recipe draws by it.
const SEED: u64 = 0x5eed_cafe;

/// Four convolutions, two dense layers, and logits of all attributes side by side.
#[derive(Module, Debug)]
struct Network {
    convolutions: Vec<Conv2d>,
    hidden: Linear,
    logits: Linear,
}

impl Network {
    fn new(device: &Device) -> Self {
        let conv = |[from, to]: [usize; 2], stride| {
            let config = Conv2dConfig::new([from, to], [3, 3]).with_stride([stride, stride]);
            config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
        };
        Self {
            convolutions: vec![conv([3, 32], 1), conv([32, 32], 2), conv([32, 64], 2), conv([64, 64], 2)],
            hidden: LinearConfig::new(64 * SIDE / 8 * SIDE / 8, 128).init(device),
            logits: LinearConfig::new(128, VALUES.iter().sum()).init(device),
        }
    }

    /// [B, 3, 32, 32] to logits [B, n] of each attribute.
    fn forward(&self, images: Tensor<4>) -> Vec<Tensor<2>> {
        let x = self.convolutions.iter().fold(images, |x, conv| relu(conv2d(conv, x, Precision::F32)));
        let logits = self.logits.forward(relu(self.hidden.forward(x.flatten::<2>(1, 3))));
        logits.split_with_sizes(VALUES.to_vec(), 1)
    }
}

/// A trained classifier of the four attributes.
pub struct ShapesJudge {
    network: Network,
    device: Device,
}

/// Shares of images with the attributes of their captions.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// Shape, color, size, place.
    pub attributes: [f64; 4],
    /// All four.
    pub all: f64,
}

impl ShapesJudge {
    pub fn train() -> Self {
        let device = Device::default();
        let training = device.clone().autodiff();
        training.seed(1);
        let mut network = Network::new(&training);
        let mut optimizer = AdamConfig::new().with_epsilon(1e-8).init();
        for step in 0..STEPS {
            let (images, labels) = renders(step, BATCH, NOISE);
            let logits = network.forward(batch(images, &training));
            let losses = logits.into_iter().enumerate().map(|(attribute, logits)| {
                let labels: Vec<i64> = labels.iter().map(|label| values(label)[attribute] as i64).collect();
                let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [BATCH]), &training);
                CrossEntropyLossConfig::new().init(&training).forward(logits, labels)
            });
            let loss = losses.reduce(|a, b| a + b).unwrap();
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(learning_rate(step), network, gradients);
        }
        Self { network: network.valid(), device }
    }

    /// Renders that it was not trained on, and what they show.
    pub fn test_renders(count: usize) -> (Vec<f32>, Vec<Combination>) {
        renders(STEPS, count, 0.0)
    }

    /// How well images agree with the combinations that they were to show, of those that `counted` keeps.
    pub fn agreement(
        &self,
        images: &[f32],
        wanted: &[Combination],
        counted: impl Fn(&Combination) -> bool,
    ) -> Agreement {
        assert_eq!(images.len(), wanted.len() * IMAGE);
        let read = images.chunks(256 * IMAGE).flat_map(|images| self.read(images));
        let pairs: Vec<_> = read.zip(wanted).filter(|(_, wanted)| counted(wanted)).collect();
        assert!(!pairs.is_empty());
        let share = |right: &dyn Fn(&[usize; 4], &[usize; 4]) -> bool| {
            pairs.iter().filter(|(read, wanted)| right(read, &values(wanted))).count() as f64 / pairs.len() as f64
        };
        Agreement {
            attributes: std::array::from_fn(|attribute| share(&|read, wanted| read[attribute] == wanted[attribute])),
            all: share(&|read, wanted| read == wanted),
        }
    }

    /// The attributes of each image.
    fn read(&self, images: &[f32]) -> Vec<[usize; 4]> {
        let logits = self.network.forward(batch(images.to_vec(), &self.device));
        let best: Vec<Vec<i64>> = logits
            .into_iter()
            .map(|logits| logits.argmax(1).into_data().convert::<i64>().try_to_vec().unwrap())
            .collect();
        (0..images.len() / IMAGE).map(|item| std::array::from_fn(|attribute| best[attribute][item] as usize)).collect()
    }
}

/// Linear over the first tenth of the steps, then a cosine to nothing: 99 % take 900 steps so, 2,500 by a constant rate.
fn learning_rate(step: u64) -> f64 {
    let passed = (step as f64 + 0.5) / STEPS as f64;
    4e-3 * (passed / 0.1).min(0.5 * (1.0 + ((passed - 0.1) / 0.9 * std::f64::consts::PI).cos()))
}

fn values(combination: &Combination) -> [usize; 4] {
    [combination.shape, combination.color, combination.size, combination.place]
}

/// Images of any of the 96 combinations, values from -1 to 1.
fn renders(step: u64, count: usize, noise: f32) -> (Vec<f32>, Vec<Combination>) {
    let rng = &mut rng(SEED, Stream::Points, step);
    let all = Combination::all();
    let (mut images, mut labels) = (Vec::with_capacity(count * IMAGE), Vec::with_capacity(count));
    for _ in 0..count {
        let combination = all[rng.random_range(0..all.len())];
        let bytes = render(combination.shape, &Geometry::draw(&combination, rng));
        let deviation = noise * rng.random::<f32>();
        let noise = normals(rng, IMAGE);
        images.extend(bytes.iter().zip(noise).map(|(byte, eps)| f32::from(*byte) / 127.5 - 1.0 + deviation * eps));
        labels.push(combination);
    }
    (images, labels)
}

fn batch(values: Vec<f32>, device: &Device) -> Tensor<4> {
    let count = values.len() / IMAGE;
    Tensor::from_data(TensorData::new(values, [count, 3, SIDE, SIDE]), device)
}
