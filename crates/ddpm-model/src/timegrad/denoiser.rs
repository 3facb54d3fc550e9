//! The denoiser of the original: convolutions over the variables of one step, which are seen as a circle, in residual blocks with
//! gates; conditioned on the recurrent state and the diffusion step.

use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Initializer, Linear, LinearConfig, PaddingConfig1d};
use burn::tensor::activation::{leaky_relu, sigmoid};
use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_kernels::{CircleBlock, Slope, circle_block, circle_end, circle_start, lanes_for, silu};

use super::config::ConvolutionConfig;

/// Slope of all leaky rectifiers for negative values.
const SLOPE: f64 = 0.4;

/// Frequencies of the step embedding, each with a sine and a cosine.
const FREQUENCIES: usize = 16;

/// The frequencies are powers of ten, evenly spaced up to below this one.
const HIGHEST_POWER: f64 = 4.0;

/// Width of the step embedding behind its dense layers.
const STEP_WIDTH: usize = 64;

/// What the first layer adds to both ends of the circle, and the last two layers, which do not pad, take away.
const MARGIN: usize = 2;

/// The denoiser.
#[derive(Module, Debug)]
pub struct EpsilonTheta {
    input_projection: Conv1d,
    diffusion_embedding: DiffusionEmbedding,
    cond_upsampler: CondUpsampler,
    residual_layers: Vec<ResidualBlock>,
    skip_projection: Conv1d,
    output_projection: Conv1d,
}

/// A pass through the denoiser.
#[derive(Clone, Debug)]
pub struct Denoised {
    /// The predicted noise, `[N, 1, D]`.
    pub eps: Tensor<3>,
    /// What each block contributes to it, `[N, channels, D + 4]`.
    pub skips: Vec<Tensor<3>>,
}

impl EpsilonTheta {
    pub(super) fn init(config: &ConvolutionConfig, variables: usize, condition: usize, device: &Device) -> Self {
        let channels = config.residual_channels;
        let kaiming = Initializer::KaimingNormal { gain: SQRT_2, fan_out_only: false };
        let block = |index| ResidualBlock::init(channels, config.dilation(index), device);
        Self {
            input_projection: conv([1, channels], 1, 1, Some(kaiming.clone()), device),
            diffusion_embedding: DiffusionEmbedding {
                projection1: LinearConfig::new(2 * FREQUENCIES, STEP_WIDTH).init(device),
                projection2: LinearConfig::new(STEP_WIDTH, STEP_WIDTH).init(device),
            },
            cond_upsampler: CondUpsampler {
                linear1: LinearConfig::new(condition, variables / 2).init(device),
                linear2: LinearConfig::new(variables / 2, variables).init(device),
            },
            residual_layers: (0..config.residual_layers).map(block).collect(),
            skip_projection: conv([channels, channels], 3, 1, Some(kaiming), device),
            output_projection: conv([channels, 1], 3, 1, Some(Initializer::Zeros), device),
        }
    }

    /// What is predicted of `x`, `[N, 1, D]`, at these steps of the diffusion, one for each row or one for all, given
    /// conditions `[N, 1, conditioning_length]`. Steps may be fractional.
    pub fn forward(&self, x: Tensor<3>, steps: &[f64], condition: Tensor<3>) -> Tensor<3> {
        self.forward_given(x, steps, &self.given(condition))
    }

    /// What all steps of the diffusion make of the same condition.
    pub(super) fn given(&self, condition: Tensor<3>) -> Given {
        let upsampled = circular(self.cond_upsampler.forward(condition.clone()), MARGIN);
        Given { lanes: Some(lanes(upsampled)), condition }
    }

    /// [`EpsilonTheta::forward`] with a condition that was prepared.
    pub(super) fn forward_given(&self, x: Tensor<3>, steps: &[f64], given: &Given) -> Tensor<3> {
        let fused = given.lanes.as_ref().and_then(|lanes| self.fused(&x, steps, lanes));
        fused.unwrap_or_else(|| self.forward_with_skips(x, steps, given.condition.clone()).eps)
    }

    /// The noise by kernels, where there are some.
    fn fused(&self, x: &Tensor<3>, steps: &[f64], condition: &Tensor<3>) -> Option<Tensor<3>> {
        let [rows, _, variables] = x.dims();
        let count = lanes_for(variables + 2 * MARGIN);
        let groups = condition.dims()[0];
        // Each step once, however many rows have it.
        let mut distinct = steps.to_vec();
        distinct.sort_by(f64::total_cmp);
        distinct.dedup();
        let step = self.diffusion_embedding.forward(step_table(&distinct, &x.device(), x.dtype()));
        let [_, width] = step.dims();
        let step = match steps.len() {
            1 => step.reshape([1, width, 1]),
            _ => {
                let places = steps.iter().map(|step| distinct.partition_point(|other| *other < *step) as i64);
                let places: Vec<i64> = places.collect();
                in_lanes(step.select(0, Tensor::from_data(places.as_slice(), &x.device())), count)
            }
        };
        let start = lanes(circular(x.clone(), MARGIN));
        let mut carried = circle_start(start, weights(&self.input_projection)?, Slope(SLOPE))?;
        for block in &self.residual_layers {
            carried = circle_block(carried, step.clone(), condition.clone(), block.weights()?, count, Slope(SLOPE))?;
        }
        let scale = 1.0 / (self.residual_layers.len() as f64).sqrt();
        let convolutions = [weights(&self.skip_projection)?, weights(&self.output_projection)?];
        let eps = circle_end(carried, scale, convolutions, count, Slope(SLOPE))?;
        let eps = eps.reshape([groups, variables, count]).swap_dims(1, 2);
        Some(eps.reshape([groups * count, 1, variables]).narrow(0, 0, rows))
    }

    /// The same, and what each block contributes.
    pub fn forward_with_skips(&self, x: Tensor<3>, steps: &[f64], condition: Tensor<3>) -> Denoised {
        let mut h = leaky_relu(self.input_projection.forward(circular(x, MARGIN)), SLOPE);
        let step = self.diffusion_embedding.forward(step_table(steps, &h.device(), h.dtype()));
        let condition = circular(self.cond_upsampler.forward(condition), MARGIN);
        let mut skips = Vec::with_capacity(self.residual_layers.len());
        for block in &self.residual_layers {
            let (residual, skip) = block.forward(h, step.clone(), condition.clone());
            h = residual;
            skips.push(skip);
        }
        let scale = 1.0 / (skips.len() as f64).sqrt();
        let sum = skips.iter().cloned().reduce(|sum, skip| sum + skip).unwrap_or(h) * scale;
        let h = leaky_relu(self.skip_projection.forward(sum), SLOPE);
        Denoised { eps: self.output_projection.forward(h), skips }
    }
}

/// The sines and then the cosines of steps of the diffusion, `[N, 32]`.
///
/// The highest frequency is near 10^4 radians a step, so they are computed in f64: in f32 they would be wrong by several
/// per cent at a hundred steps.
///
/// With such frequencies a fractional step has nothing in common with its neighbors, and the network never saw one: it has
/// the mean of the rows of the two whole steps around it, weighted by how near they are.
pub fn step_table(steps: &[f64], device: &Device, dtype: DType) -> Tensor<2> {
    let frequency = |i: usize| 10f64.powf(HIGHEST_POWER * i as f64 / FREQUENCIES as f64);
    let angles = |step: f64| (0..FREQUENCIES).map(move |i| step * frequency(i));
    let row = |step: f64| angles(step).map(f64::sin).chain(angles(step).map(f64::cos)).collect::<Vec<f64>>();
    let between = |&step: &f64| match step.fract() {
        0.0 => row(step),
        share => {
            let pairs = row(step.floor()).into_iter().zip(row(step.ceil()));
            pairs.map(|(before, after)| (1.0 - share) * before + share * after).collect()
        }
    };
    let values: Vec<f64> = steps.iter().flat_map(between).collect();
    Tensor::from_data(TensorData::new(values, [steps.len(), 2 * FREQUENCIES]), (device, dtype))
}

/// The last axis as a circle, with `pad` more values at both ends.
fn circular(x: Tensor<3>, pad: usize) -> Tensor<3> {
    let length = x.dims()[2];
    let (start, end) = (x.clone().narrow(2, 0, pad), x.clone().narrow(2, length - pad, pad));
    Tensor::cat(vec![end, x, start], 2)
}

/// A condition, and what a denoiser makes of it for all steps of the diffusion.
#[derive(Clone, Debug)]
pub struct Given {
    condition: Tensor<3>,
    /// For the kernels, in lanes.
    lanes: Option<Tensor<3>>,
}

impl Given {
    /// A condition of which nothing is made beforehand.
    pub(super) fn of(condition: Tensor<3>) -> Self {
        Self { condition, lanes: None }
    }

    pub(super) fn condition(&self) -> Tensor<3> {
        self.condition.clone()
    }
}

/// Rows `[N, 1, P]` in groups of lanes, `[groups, 1, P * lanes]`.
fn lanes(x: Tensor<3>) -> Tensor<3> {
    let [rows, _, places] = x.dims();
    let count = lanes_for(places);
    let lanes = in_lanes(x.reshape([rows, places]), count);
    let groups = lanes.dims()[0];
    lanes.reshape([groups, 1, places * count])
}

/// Rows `[N, width]` in groups, `[groups, width, lanes]`, with zeros in lanes of no row.
fn in_lanes(x: Tensor<2>, lanes: usize) -> Tensor<3> {
    let [rows, width] = x.dims();
    let missing = rows.next_multiple_of(lanes) - rows;
    let padded = match missing {
        0 => x,
        _ => Tensor::cat(vec![x.clone(), Tensor::zeros([missing, width], (&x.device(), x.dtype()))], 0),
    };
    let groups = (rows + missing) / lanes;
    let swapped: Tensor<3> = padded.reshape([groups, lanes, width]).swap_dims(1, 2);
    // Once here and not in every block.
    swapped.reshape([groups, width * lanes]).reshape([groups, width, lanes])
}

/// Weight and bias of a convolution that has one.
fn weights(conv: &Conv1d) -> Option<(Tensor<3>, Tensor<1>)> {
    Some((conv.weight.val(), conv.bias.as_ref()?.val()))
}

/// A convolution that does not pad. Weights are drawn as given or as PyTorch does; biases always as PyTorch does.
fn conv(
    [inputs, outputs]: [usize; 2],
    kernel: usize,
    dilation: usize,
    weight: Option<Initializer>,
    device: &Device,
) -> Conv1d {
    let config =
        Conv1dConfig::new(inputs, outputs, kernel).with_dilation(dilation).with_padding(PaddingConfig1d::Valid);
    let mut layer = config.init(device);
    if let Some(weight) = weight {
        let (fan_in, fan_out) = (inputs * kernel, outputs * kernel);
        layer.weight = weight.init_with([outputs, inputs, kernel], Some(fan_in), Some(fan_out), device);
    }
    layer
}

/// Two dense layers over the step table.
#[derive(Module, Debug)]
struct DiffusionEmbedding {
    projection1: Linear,
    projection2: Linear,
}

impl DiffusionEmbedding {
    fn forward(&self, table: Tensor<2>) -> Tensor<2> {
        silu(self.projection2.forward(silu(self.projection1.forward(table))))
    }
}

/// From the condition to one value for each variable.
#[derive(Module, Debug)]
struct CondUpsampler {
    linear1: Linear,
    linear2: Linear,
}

impl CondUpsampler {
    fn forward(&self, condition: Tensor<3>) -> Tensor<3> {
        let x = leaky_relu(self.linear1.forward(condition), SLOPE);
        leaky_relu(self.linear2.forward(x), SLOPE)
    }
}

/// A dilated convolution with a gate, as in WaveNet.
#[derive(Module, Debug)]
struct ResidualBlock {
    dilated_conv: Conv1d,
    diffusion_projection: Linear,
    conditioner_projection: Conv1d,
    output_projection: Conv1d,
}

impl ResidualBlock {
    fn init(channels: usize, dilation: usize, device: &Device) -> Self {
        let kaiming = Initializer::KaimingNormal { gain: SQRT_2, fan_out_only: false };
        Self {
            dilated_conv: conv([channels, 2 * channels], 3, dilation, None, device),
            diffusion_projection: LinearConfig::new(STEP_WIDTH, channels).init(device),
            conditioner_projection: conv([1, 2 * channels], 1, 1, Some(kaiming.clone()), device),
            output_projection: conv([channels, 2 * channels], 1, 1, Some(kaiming), device),
        }
    }

    fn weights(&self) -> Option<CircleBlock> {
        let embedding = &self.diffusion_projection;
        Some(CircleBlock {
            dilated: weights(&self.dilated_conv)?,
            dilation: self.dilated_conv.dilation,
            embedding: (embedding.weight.val(), embedding.bias.as_ref()?.val()),
            condition: weights(&self.conditioner_projection)?,
            output: weights(&self.output_projection)?,
        })
    }

    /// What the next block reads, and what is added up for the output.
    fn forward(&self, x: Tensor<3>, step: Tensor<2>, condition: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let y = x.clone() + self.diffusion_projection.forward(step).unsqueeze_dim::<3>(2);
        let y = self.dilated_conv.forward(circular(y, self.dilated_conv.dilation));
        let (gate, filter) = halves(y + self.conditioner_projection.forward(condition));
        let y = leaky_relu(self.output_projection.forward(sigmoid(gate) * filter.tanh()), SLOPE);
        let (residual, skip) = halves(y);
        ((x + residual) * FRAC_1_SQRT_2, skip)
    }
}

fn halves(x: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let channels = x.dims()[1] / 2;
    (x.clone().narrow(1, 0, channels), x.narrow(1, channels, channels))
}
