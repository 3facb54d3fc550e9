//! The operations that networks are made of, each on random numbers: its values, and the gradient of every input.

use std::fmt;

use burn::module::Param;
use burn::nn::conv::Conv2dConfig;
use burn::nn::{EmbeddingConfig, GroupNorm, GroupNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Device, Gradients, Int, Tensor, TensorData};
use ddpm_data::random::{Stream, normals, rng};
use ddpm_kernels::{
    Precision, add, attention, concat, conv2d, dense, dense_channels, group_norm, norm_scale_shift_silu, norm_silu,
    shift, silu,
};

/// Seed of all inputs.
const SEED: u64 = 5;

/// An operation as networks use it, on `[batch, channels, height, width]` unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names say all; sizes are height and width.
pub enum Operation {
    /// A square kernel; so many pixels of padding above and left, and so many below and right.
    Conv { channels: [usize; 2], kernel: usize, stride: usize, padding: [usize; 2], size: [usize; 2] },
    /// Group normalisation, with SiLU after it or without.
    Norm { channels: usize, groups: usize, size: [usize; 2], activated: bool },
    /// Group normalisation, scaled and shifted by the time, with SiLU after it.
    NormScaleShift { channels: usize, groups: usize, size: [usize; 2] },
    /// Softmax of products, `[batch, heads, width, pixels]`.
    Attention { heads: usize, width: usize, pixels: usize },
    /// A dense layer, of `[batch, inputs]` or of the channels of so many pixels.
    Linear { inputs: usize, outputs: usize, pixels: Option<usize> },
    /// Mean of 2x2 pixels, or each of them four times.
    Resize { channels: usize, size: [usize; 2], doubles: bool },
    /// The sum at the end of a residual connection.
    Sum { channels: usize, size: [usize; 2] },
    /// Two feature maps put together.
    Join { channels: [usize; 2], size: [usize; 2] },
    /// What the time does to a feature map: it is added.
    TimeShift { channels: usize, size: [usize; 2] },
    /// A row of a table for every image.
    Embedding { rows: usize, width: usize },
    /// SiLU of the time.
    Silu { width: usize },
}

impl Operation {
    /// The kind of operation, under which it is reported.
    pub fn group(&self) -> &'static str {
        match self {
            Self::Conv { kernel: 1, .. } => "convolutions 1x1",
            Self::Conv { stride: 1, .. } => "convolutions",
            Self::Conv { .. } => "convolutions with stride",
            Self::Norm { .. } | Self::NormScaleShift { .. } => "group normalisation",
            Self::Attention { .. } => "attention",
            Self::Linear { .. } => "dense layers",
            _ => "other operations",
        }
    }

    /// Its values as in sampling, its values as in training, and the gradients of all inputs, by name.
    pub fn run(&self, batch: usize, device: &Device, dtype: DType) -> Vec<(String, Vec<f64>)> {
        let mut plain = Draw::new(device.clone().without_autodiff(), dtype);
        let sampled = self.apply(batch, &mut plain);
        let mut results = vec![("values without autodiff".to_string(), host(sampled.into_data()))];

        let mut draw = Draw::new(device.clone().autodiff(), dtype);
        let y = self.apply(batch, &mut draw);
        results.push(("values".into(), host(y.clone().into_data())));
        let weights = draw.normal(y.dims(), 1.0);
        let gradients = (y * weights).sum().backward();
        for (name, gradient) in &draw.leaves {
            results.push((format!("gradient of {name}"), gradient(&gradients).map(host).unwrap_or_default()));
        }
        results
    }

    /// The operation on drawn inputs, `[batch, all else]`.
    fn apply(&self, batch: usize, draw: &mut Draw) -> Tensor<2> {
        let device = draw.device.clone();
        match *self {
            Self::Conv { channels: [inputs, outputs], kernel, stride, padding: [before, after], size } => {
                let padding = PaddingConfig2d::Explicit(before, before, after, after);
                let mut conv = Conv2dConfig::new([inputs, outputs], [kernel; 2])
                    .with_stride([stride; 2])
                    .with_padding(padding)
                    .init(&device);
                let shape = [outputs, inputs, kernel, kernel];
                let fan_in = (inputs * kernel * kernel) as f32;
                conv.weight = Param::from_tensor(draw.leaf("weight", shape, fan_in.sqrt().recip()));
                conv.bias = Some(Param::from_tensor(draw.leaf("bias", [outputs], 1.0)));
                flat(conv2d(&conv, draw.leaf("x", [batch, inputs, size[0], size[1]], 1.0), Precision::F32))
            }
            Self::Norm { channels, groups, size, activated } => {
                let norm = draw.norm(channels, groups);
                let x = draw.leaf("x", [batch, channels, size[0], size[1]], 2.0) + 0.5;
                flat(if activated { norm_silu(&norm, x) } else { group_norm(&norm, x) })
            }
            Self::NormScaleShift { channels, groups, size } => {
                let norm = draw.norm(channels, groups);
                let x = draw.leaf("x", [batch, channels, size[0], size[1]], 2.0) + 0.5;
                flat(norm_scale_shift_silu(&norm, x, draw.leaf("time", [batch, 2 * channels], 1.0)))
            }
            Self::Attention { heads, width, pixels } => {
                let [q, k, v] = ["q", "k", "v"].map(|name| draw.leaf(name, [batch, heads, width, pixels], 1.0));
                flat(attention(q, k, v, Precision::F32))
            }
            Self::Linear { inputs, outputs, pixels } => {
                let mut linear = LinearConfig::new(inputs, outputs).init(&device);
                let scale = (inputs as f32).sqrt().recip();
                linear.weight = Param::from_tensor(draw.leaf("weight", [inputs, outputs], scale));
                linear.bias = Some(Param::from_tensor(draw.leaf("bias", [outputs], 1.0)));
                match pixels {
                    None => dense(&linear, draw.leaf("x", [batch, inputs], 1.0), Precision::F32),
                    Some(pixels) => {
                        let x = draw.leaf("x", [batch, inputs, 1, pixels], 1.0);
                        flat(dense_channels(&linear, x, Precision::F32))
                    }
                }
            }
            Self::Resize { channels, size: [height, width], doubles } => {
                let x = draw.leaf("x", [batch, channels, height, width], 1.0);
                flat(match doubles {
                    false => avg_pool2d(x, AvgPoolOptions::new([2, 2])),
                    true => {
                        let options = InterpolateOptions::new(InterpolateMode::Nearest);
                        interpolate(x, options.with_output_size([2 * height, 2 * width]))
                    }
                })
            }
            Self::Sum { channels, size } => {
                let [a, b] = ["a", "b"].map(|name| draw.leaf(name, [batch, channels, size[0], size[1]], 1.0));
                flat(add(a, b))
            }
            Self::Join { channels, size } => {
                let [a, b] = [("a", channels[0]), ("b", channels[1])]
                    .map(|(name, channels)| draw.leaf(name, [batch, channels, size[0], size[1]], 1.0));
                flat(concat(a, b))
            }
            Self::TimeShift { channels, size } => {
                let x = draw.leaf("x", [batch, channels, size[0], size[1]], 1.0);
                flat(shift(x, draw.leaf("time", [batch, channels], 1.0)))
            }
            Self::Embedding { rows, width } => {
                let mut table = EmbeddingConfig::new(rows, width).init(&device);
                table.weight = Param::from_tensor(draw.leaf("table", [rows, width], 1.0));
                // Rows that are used twice and rows that are not used.
                let rows_used: Vec<i64> = (0..batch).map(|image| (image * image % rows) as i64).collect();
                flat(table.forward(Tensor::<2, Int>::from_data(TensorData::new(rows_used, [batch, 1]), &device)))
            }
            Self::Silu { width } => silu(draw.leaf("x", [batch, width], 2.0)),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv { channels: [inputs, outputs], kernel, stride, padding, size: [height, width] } => {
                write!(f, "{kernel}x{kernel} convolution {inputs} to {outputs} of {height}x{width}")?;
                if *stride > 1 { write!(f, ", stride {stride}, padding {padding:?}") } else { Ok(()) }
            }
            Self::Norm { channels, groups, size: [height, width], activated } => {
                let silu = if *activated { " and SiLU" } else { "" };
                write!(f, "normalisation{silu} of {channels} channels in {groups} groups of {height}x{width}")
            }
            Self::NormScaleShift { channels, groups, size: [height, width] } => {
                let what = "normalisation, scale and shift, and SiLU";
                write!(f, "{what} of {channels} channels in {groups} groups of {height}x{width}")
            }
            Self::Attention { heads, width, pixels } => {
                write!(f, "attention of {heads} heads of {width} over {pixels} pixels")
            }
            Self::Linear { inputs, outputs, pixels } => {
                write!(f, "dense layer {inputs} to {outputs}")?;
                pixels.map_or(Ok(()), |pixels| write!(f, " on {pixels} pixels"))
            }
            Self::Resize { channels, size: [height, width], doubles } => {
                let what = if *doubles { "doubling" } else { "halving" };
                write!(f, "{what} of {channels} channels of {height}x{width}")
            }
            Self::Sum { channels, size: [height, width] } => {
                write!(f, "sum of {channels} channels of {height}x{width}")
            }
            Self::Join { channels: [a, b], size: [height, width] } => {
                write!(f, "joining {a} and {b} channels of {height}x{width}")
            }
            Self::TimeShift { channels, size: [height, width] } => {
                write!(f, "shift of {channels} channels of {height}x{width}")
            }
            Self::Embedding { rows, width } => write!(f, "table of {rows} rows of {width}"),
            Self::Silu { width } => write!(f, "SiLU of {width}"),
        }
    }
}

type Gradient = Box<dyn Fn(&Gradients) -> Option<TensorData>>;

/// Draws inputs, the same on every device, and remembers how to get their gradients.
struct Draw {
    device: Device,
    dtype: DType,
    drawn: u64,
    leaves: Vec<(&'static str, Gradient)>,
}

impl Draw {
    fn new(device: Device, dtype: DType) -> Self {
        Self { device, dtype, drawn: 0, leaves: Vec::new() }
    }

    /// Normal numbers of this deviation; in f64 they are those of f32.
    fn normal<const D: usize>(&mut self, shape: [usize; D], deviation: f32) -> Tensor<D> {
        let mut values = normals(&mut rng(SEED, Stream::Noise, self.drawn), shape.iter().product());
        values.iter_mut().for_each(|value| *value *= deviation);
        self.drawn += 1;
        Tensor::from_data(TensorData::new(values, shape), (&self.device, self.dtype))
    }

    /// The same, with a gradient where there is autodiff.
    fn leaf<const D: usize>(&mut self, name: &'static str, shape: [usize; D], deviation: f32) -> Tensor<D> {
        let x = self.normal(shape, deviation);
        if !self.device.is_autodiff() {
            return x;
        }
        let x = x.require_grad();
        let kept = x.clone();
        self.leaves.push((name, Box::new(move |gradients| kept.grad(gradients).map(Tensor::into_data))));
        x
    }

    /// A normalisation with drawn parameters.
    fn norm(&mut self, channels: usize, groups: usize) -> GroupNorm {
        let mut norm = GroupNormConfig::new(groups, channels).with_epsilon(1e-6).init(&self.device);
        norm.gamma = Some(Param::from_tensor(self.leaf("scale", [channels], 1.0)));
        norm.beta = Some(Param::from_tensor(self.leaf("shift", [channels], 1.0)));
        norm
    }
}

/// All but the batch in one.
fn flat<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let dims = x.dims();
    x.reshape([dims[0], dims[1..].iter().product()])
}

fn host(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}
