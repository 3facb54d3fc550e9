//! The Inception-v3 of the FID papers: TensorFlow's network of 2015-12-05, as pytorch-fid has it. It is not the one of
//! torchvision: its average pools do not count the padding, its last block pools by the maximum, and it has 1,008
//! classes.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_kernels::{avg_pool2d, conv2d_relu, max_pool2d};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

use super::extractor::{Extracted, FeatureExtractor};
use super::image::Image;
use super::resize::{Resize, SIDE};
use super::{EvaluationError, Features};

/// Added to the variance in batch normalization.
const EPSILON: f64 = 1e-3;
/// Width of the features of FID.
pub const WIDTH: usize = 2048;
/// Classes, of which the first stands for none.
pub const CLASSES: usize = 1008;
/// Beginning of the SHA-256 of `pt_inception-2015-12-05-6726825d.pth`.
const PUBLISHED: &str = "6726825d";
/// Images in a forward pass: enough to fill the last blocks, few enough for the caches.
const AT_ONCE: usize = 16;
/// Tolerance of the known answer, relative to its largest feature.
const ANSWER_TOLERANCE: f64 = 1e-3;

/// A tensor of a weights file.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its values, row-major.
    pub values: Vec<f32>,
}

/// Tensors by their names in PyTorch.
pub type Weights = BTreeMap<String, Weight>;

/// Why weights do not fit.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The names are those of another network.
    #[error(
        "these are not the {wanted} tensors of the Inception-v3 of pt_inception-2015-12-05: {missing} are missing \
         ({missing_names}), {unknown} are unknown ({unknown_names})"
    )]
    Names {
        /// The number of tensors of the network.
        wanted: usize,
        /// The number of missing ones.
        missing: usize,
        /// The first ones.
        missing_names: String,
        /// The number of unknown ones.
        unknown: usize,
        /// The first ones.
        unknown_names: String,
    },
    /// A tensor of another shape.
    #[error("{name} has shape {found:?}; expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape in the network.
        expected: Vec<usize>,
    },
}

/// Reads a safetensors file of f32, with the metadata of its header. PyTorch's batch counters are left out.
pub fn read_safetensors(path: &Path) -> Result<(Weights, BTreeMap<String, String>), EvaluationError> {
    let bytes = std::fs::read(path).map_err(EvaluationError::io(path))?;
    let not = |reason: String| EvaluationError::format(path, reason);
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|error| not(format!("not a safetensors file of f32 tensors: {error}")))?;
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(&bytes).map_err(|error| not(format!("not a safetensors file: {error}")))?;
    let mut weights = Weights::new();
    for (name, view) in file.iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked")) {
        if view.dtype() != Dtype::F32 {
            // The file may contain other tensors, too.
            continue;
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
        weights.insert(name.to_string(), Weight { shape: view.shape().to_vec(), values });
    }
    Ok((weights, metadata))
}

/// A convolution, the batch normalization after it folded in, and a rectifier.
type Unit = Conv2d;

/// A layer in a branch of a block.
#[derive(Clone, Debug)]
enum Layer {
    Unit(Box<Unit>),
    /// Two of them on the same input, their channels concatenated.
    Fork(Box<[Unit; 2]>),
    /// 3x3, stride 1, padding 1, of which the padding is not counted.
    AveragePool,
    /// 3x3, stride 1, padding 1.
    MaxPool,
    /// 3x3, stride 2.
    Halve,
}

impl Layer {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Unit(unit) => conv2d_relu(unit, x),
            Self::Fork(units) => Tensor::cat(units.iter().map(|unit| conv2d_relu(unit, x.clone())).collect(), 1),
            Self::AveragePool => {
                let pool = AvgPool2dConfig::new([3, 3]).with_strides([1, 1]).with_padding(around([1, 1]));
                avg_pool2d(&pool.with_count_include_pad(false).init(), x)
            }
            Self::MaxPool => {
                let pool = MaxPool2dConfig::new([3, 3]).with_strides([1, 1]).with_padding(around([1, 1]));
                max_pool2d(&pool.init(), x)
            }
            Self::Halve => max_pool2d(&MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).init(), x),
        }
    }
}

/// Rows above and below, and columns to the left and the right.
fn around([rows, columns]: [usize; 2]) -> PaddingConfig2d {
    PaddingConfig2d::Explicit(rows, columns, rows, columns)
}

/// Branches on the same input, their channels concatenated.
#[derive(Clone, Debug)]
struct Block(Vec<Vec<Layer>>);

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let branch = |layers: &Vec<Layer>| layers.iter().fold(x.clone(), |x, layer| layer.forward(x));
        Tensor::cat(self.0.iter().map(branch).collect(), 1)
    }
}

/// Takes tensors by name, and records the names.
struct Builder<'a> {
    weights: &'a Weights,
    device: &'a Device,
    taken: Vec<String>,
    wrong: Option<WeightsError>,
}

impl Builder<'_> {
    /// The values of a tensor of this shape; zeros for a missing one, which is reported at the end.
    fn take(&mut self, name: String, shape: &[usize]) -> Vec<f32> {
        let found = self.weights.get(&name);
        if let Some(weight) = found.filter(|weight| weight.shape != shape) {
            let (found, expected) = (weight.shape.clone(), shape.to_vec());
            self.wrong.get_or_insert(WeightsError::Shape { name: name.clone(), found, expected });
        }
        let size: usize = shape.iter().product();
        let fits = found.filter(|weight| weight.shape == shape && weight.values.len() == size);
        let values = fits.map_or_else(|| vec![0.0; size], |weight| weight.values.clone());
        self.taken.push(name);
        values
    }

    fn unit(
        &mut self,
        name: &str,
        [input, output]: [usize; 2],
        kernel: [usize; 2],
        stride: usize,
        padding: [usize; 2],
    ) -> Unit {
        let shape = [output, input, kernel[0], kernel[1]];
        let mut weight = self.take(format!("{name}.conv.weight"), &shape);
        let mut of_norm = |part: &str| self.take(format!("{name}.bn.{part}"), &[output]);
        let (gain, shift) = (of_norm("weight"), of_norm("bias"));
        let (mean, variance) = (of_norm("running_mean"), of_norm("running_var"));
        let mut bias = Vec::with_capacity(output);
        for (channel, weights) in weight.chunks_exact_mut(shape[1..].iter().product()).enumerate() {
            let scale = f64::from(gain[channel]) / (f64::from(variance[channel]) + EPSILON).sqrt();
            weights.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * scale) as f32);
            bias.push((f64::from(shift[channel]) - f64::from(mean[channel]) * scale) as f32);
        }
        Conv2d {
            weight: Param::from_tensor(Tensor::from_data(TensorData::new(weight, shape), self.device)),
            bias: Some(Param::from_tensor(Tensor::from_data(TensorData::new(bias, [output]), self.device))),
            stride: [stride; 2],
            kernel_size: kernel,
            dilation: [1, 1],
            groups: 1,
            padding: around(padding),
        }
    }

    /// A convolution that keeps height and width.
    fn same(&mut self, name: &str, channels: [usize; 2], kernel: [usize; 2]) -> Unit {
        self.unit(name, channels, kernel, 1, kernel.map(|size| size / 2))
    }

    /// Convolutions one after the other, each with its name, its output and its kernel.
    fn chain(&mut self, block: &str, mut input: usize, parts: &[(&str, usize, [usize; 2])]) -> Vec<Layer> {
        let mut layers = Vec::new();
        for (name, output, kernel) in parts {
            layers.push(Layer::Unit(Box::new(self.same(&format!("{block}.{name}"), [input, *output], *kernel))));
            input = *output;
        }
        layers
    }

    /// The same, but the last one is 3x3 with stride 2 and without padding.
    fn halving(&mut self, block: &str, input: usize, parts: &[(&str, usize, [usize; 2])]) -> Vec<Layer> {
        let (before, last) = parts.split_at(parts.len() - 1);
        let mut layers = self.chain(block, input, before);
        let input = before.last().map_or(input, |part| part.1);
        layers.extend(last.iter().map(|(name, output, kernel)| {
            Layer::Unit(Box::new(self.unit(&format!("{block}.{name}"), [input, *output], *kernel, 2, [0, 0])))
        }));
        layers
    }

    fn pooled(&mut self, block: &str, pool: Layer, input: usize, output: usize) -> Vec<Layer> {
        let mut layers = vec![pool];
        layers.extend(self.chain(block, input, &[("branch_pool", output, [1, 1])]));
        layers
    }

    /// 35x35: Mixed_5b to 5d.
    fn block_a(&mut self, name: &str, input: usize, pool: usize) -> Block {
        Block(vec![
            self.chain(name, input, &[("branch1x1", 64, [1, 1])]),
            self.chain(name, input, &[("branch5x5_1", 48, [1, 1]), ("branch5x5_2", 64, [5, 5])]),
            self.chain(
                name,
                input,
                &[("branch3x3dbl_1", 64, [1, 1]), ("branch3x3dbl_2", 96, [3, 3]), ("branch3x3dbl_3", 96, [3, 3])],
            ),
            self.pooled(name, Layer::AveragePool, input, pool),
        ])
    }

    /// To 17x17: Mixed_6a.
    fn block_b(&mut self, name: &str, input: usize) -> Block {
        Block(vec![
            self.halving(name, input, &[("branch3x3", 384, [3, 3])]),
            self.halving(
                name,
                input,
                &[("branch3x3dbl_1", 64, [1, 1]), ("branch3x3dbl_2", 96, [3, 3]), ("branch3x3dbl_3", 96, [3, 3])],
            ),
            vec![Layer::Halve],
        ])
    }

    /// 17x17: Mixed_6b to 6e.
    fn block_c(&mut self, name: &str, c7: usize) -> Block {
        Block(vec![
            self.chain(name, 768, &[("branch1x1", 192, [1, 1])]),
            self.chain(
                name,
                768,
                &[("branch7x7_1", c7, [1, 1]), ("branch7x7_2", c7, [1, 7]), ("branch7x7_3", 192, [7, 1])],
            ),
            self.chain(
                name,
                768,
                &[
                    ("branch7x7dbl_1", c7, [1, 1]),
                    ("branch7x7dbl_2", c7, [7, 1]),
                    ("branch7x7dbl_3", c7, [1, 7]),
                    ("branch7x7dbl_4", c7, [7, 1]),
                    ("branch7x7dbl_5", 192, [1, 7]),
                ],
            ),
            self.pooled(name, Layer::AveragePool, 768, 192),
        ])
    }

    /// To 8x8: Mixed_7a.
    fn block_d(&mut self, name: &str) -> Block {
        Block(vec![
            self.halving(name, 768, &[("branch3x3_1", 192, [1, 1]), ("branch3x3_2", 320, [3, 3])]),
            self.halving(
                name,
                768,
                &[
                    ("branch7x7x3_1", 192, [1, 1]),
                    ("branch7x7x3_2", 192, [1, 7]),
                    ("branch7x7x3_3", 192, [7, 1]),
                    ("branch7x7x3_4", 192, [3, 3]),
                ],
            ),
            vec![Layer::Halve],
        ])
    }

    /// 8x8: Mixed_7b and 7c.
    fn block_e(&mut self, name: &str, input: usize, pool: Layer) -> Block {
        let mut fork = |stem: &str, last: &str| {
            let mut end =
                |letter: &str, kernel| self.same(&format!("{name}.{stem}_{last}{letter}"), [384, 384], kernel);
            Layer::Fork(Box::new([end("a", [1, 3]), end("b", [3, 1])]))
        };
        let (narrow_end, wide_end) = (fork("branch3x3", "2"), fork("branch3x3dbl", "3"));
        let mut narrow = self.chain(name, input, &[("branch3x3_1", 384, [1, 1])]);
        narrow.push(narrow_end);
        let mut wide = self.chain(name, input, &[("branch3x3dbl_1", 448, [1, 1]), ("branch3x3dbl_2", 384, [3, 3])]);
        wide.push(wide_end);
        Block(vec![
            self.chain(name, input, &[("branch1x1", 320, [1, 1])]),
            narrow,
            wide,
            self.pooled(name, pool, input, 192),
        ])
    }
}

impl Builder<'_> {
    /// An error unless the weights were exactly what was taken.
    fn check(mut self) -> Result<(), WeightsError> {
        self.taken.sort();
        let missing: Vec<&String> = self.taken.iter().filter(|name| !self.weights.contains_key(*name)).collect();
        let unknown: Vec<&String> =
            self.weights.keys().filter(|name| self.taken.binary_search(name).is_err()).collect();
        if !missing.is_empty() || !unknown.is_empty() {
            let first = |names: &[&String]| match names {
                [] => "none".to_string(),
                [one] => (*one).clone(),
                [one, ..] => format!("{one}, ..."),
            };
            return Err(WeightsError::Names {
                wanted: self.taken.len(),
                missing: missing.len(),
                missing_names: first(&missing),
                unknown: unknown.len(),
                unknown_names: first(&unknown),
            });
        }
        self.wrong.map_or(Ok(()), Err)
    }
}

/// Outputs of the network for a batch.
#[derive(Clone, Debug)]
pub struct Stages {
    /// After the first pool, the second one, Mixed_6e and Mixed_7c, each the mean over the image:
    /// [B, 64], [B, 192], [B, 768], [B, 2048].
    pub features: [Tensor<2>; 4],
    /// The logits without the bias, for the inception score: [B, 1008].
    pub logits: Tensor<2>,
}

/// The network with its weights.
#[derive(Clone, Debug)]
pub struct Inception {
    /// Features are taken after each of these, and after each group of blocks.
    stages: [Vec<Layer>; 2],
    blocks: [Vec<Block>; 2],
    /// [2048, 1008].
    classes: Tensor<2>,
    device: Device,
    resize: Resize,
    published: bool,
}

impl Inception {
    /// From exactly the tensors of the network, by name.
    pub fn new(weights: &Weights, resize: Resize, device: &Device) -> Result<Self, WeightsError> {
        let mut builder = Builder { weights, device, taken: Vec::new(), wrong: None };
        let b = &mut builder;
        let stages = [
            vec![
                Layer::Unit(Box::new(b.unit("Conv2d_1a_3x3", [3, 32], [3, 3], 2, [0, 0]))),
                Layer::Unit(Box::new(b.unit("Conv2d_2a_3x3", [32, 32], [3, 3], 1, [0, 0]))),
                Layer::Unit(Box::new(b.same("Conv2d_2b_3x3", [32, 64], [3, 3]))),
                Layer::Halve,
            ],
            vec![
                Layer::Unit(Box::new(b.same("Conv2d_3b_1x1", [64, 80], [1, 1]))),
                Layer::Unit(Box::new(b.unit("Conv2d_4a_3x3", [80, 192], [3, 3], 1, [0, 0]))),
                Layer::Halve,
            ],
        ];
        let blocks = [
            vec![
                b.block_a("Mixed_5b", 192, 32),
                b.block_a("Mixed_5c", 256, 64),
                b.block_a("Mixed_5d", 288, 64),
                b.block_b("Mixed_6a", 288),
                b.block_c("Mixed_6b", 128),
                b.block_c("Mixed_6c", 160),
                b.block_c("Mixed_6d", 160),
                b.block_c("Mixed_6e", 192),
            ],
            vec![
                b.block_d("Mixed_7a"),
                b.block_e("Mixed_7b", 1280, Layer::AveragePool),
                b.block_e("Mixed_7c", 2048, Layer::MaxPool),
            ],
        ];
        let classes = b.take("fc.weight".into(), &[CLASSES, WIDTH]);
        let classes = Tensor::<2>::from_data(TensorData::new(classes, [CLASSES, WIDTH]), device).transpose();
        // It is not used, but a file without it belongs to another network.
        b.take("fc.bias".into(), &[CLASSES]);
        builder.check()?;
        Ok(Self { stages, blocks, classes, device: device.clone(), resize, published: false })
    }

    /// All stages for inputs [B, 3, 299, 299] in [-1, 1].
    pub fn stages(&self, x: Tensor<4>) -> Stages {
        let through = |layers: &[Layer], x| layers.iter().fold(x, |x, layer| layer.forward(x));
        let x_64 = through(&self.stages[0], x);
        let x_192 = through(&self.stages[1], x_64.clone());
        let x_768 = self.blocks[0].iter().fold(x_192.clone(), |x, block| block.forward(x));
        let x_2048 = self.blocks[1].iter().fold(x_768.clone(), |x, block| block.forward(x));
        let features = [x_64, x_192, x_768, x_2048].map(mean_over_image);
        let logits = features[3].clone().matmul(self.classes.clone());
        Stages { features, logits }
    }

    /// The input of the network for some images.
    pub fn input(&self, images: &[Image]) -> Tensor<4> {
        let inputs: Vec<Vec<f32>> = images.par_iter().map(|image| self.resize.input(image)).collect();
        let data = TensorData::new(inputs.concat(), [images.len(), 3, SIDE, SIDE]);
        Tensor::from_data(data, &self.device)
    }

    /// Compares with the features of pytorch-fid for the same weights: a safetensors file with `images` [N, 3, H, W] in
    /// [0, 1], and `features_2048` [N, 2048] after the resize of pytorch-fid. If `weights_sha256` in its header is that of
    /// the published file, distances by this network may be called FID.
    pub fn check_known_answer(&mut self, path: &Path) -> Result<(), EvaluationError> {
        let (tensors, metadata) = read_safetensors(path)?;
        let find = |name: &str, rank: usize| {
            let tensor = tensors.get(name).filter(|tensor| tensor.shape.len() == rank);
            tensor.ok_or_else(|| {
                EvaluationError::format(path, format!("expected a tensor `{name}` of f32 with {rank} axes"))
            })
        };
        let (images, answer) = (find("images", 4)?, find("features_2048", 2)?);
        let [count, channels, height, width] = [0, 1, 2, 3].map(|axis| images.shape[axis]);
        if answer.shape != [count, WIDTH] || channels != 3 || count == 0 {
            let reason = format!(
                "images {:?} do not fit features {:?}; expected [N, 3, H, W] and [N, 2048]",
                images.shape, answer.shape
            );
            return Err(EvaluationError::format(path, reason));
        }
        let images: Vec<Image> = images
            .values
            .chunks_exact(3 * height * width)
            .map(|image| {
                let bytes = image.iter().map(|value| (value * 255.0).round() as u8).collect();
                Image { channels: 3, height, width, bytes }
            })
            .collect();
        let network = Self { resize: Resize::PytorchFid, ..self.clone() };
        let found = network.extract(&images)?.features;
        let largest = answer.values.iter().fold(0.0_f32, |max, value| max.max(value.abs()));
        let off = found.values().iter().zip(&answer.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let off = f64::from(off) / f64::from(largest);
        if off.is_nan() || off > ANSWER_TOLERANCE {
            let reason = format!(
                "the features differ from the known answer by {off:.1e} of the largest one; expected at most {ANSWER_TOLERANCE:.0e}"
            );
            return Err(EvaluationError::format(path, reason));
        }
        self.published = metadata.get("weights_sha256").is_some_and(|sha| sha.starts_with(PUBLISHED));
        Ok(())
    }
}

impl FeatureExtractor for Inception {
    fn name(&self) -> String {
        let weights = if self.published { "inception 2015-12-05" } else { "inception, weights not verified" };
        format!("{weights}, {}", self.resize.name())
    }

    fn widths(&self) -> [usize; 2] {
        [WIDTH, CLASSES]
    }

    fn is_published_inception(&self) -> bool {
        self.published
    }

    fn extract(&self, images: &[Image]) -> Result<Extracted, EvaluationError> {
        let mut all = Extracted { features: Features::empty(WIDTH), logits: Features::empty(CLASSES) };
        for few in images.chunks(AT_ONCE) {
            let stages = self.stages(self.input(few));
            let [_, _, _, features] = stages.features;
            let found = Extracted::from_tensors(features, stages.logits)?;
            all.features.extend(&found.features, usize::MAX);
            all.logits.extend(&found.logits, usize::MAX);
        }
        Ok(all)
    }
}

fn mean_over_image(x: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels])
}
