//! A denoiser of dense layers, for variables in no order.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Tensor;
use burn::tensor::{DType, Device, Int, TensorData};
use ddpm_kernels::{Precision, dense, silu};

use super::config::MlpConfig;

/// Sines of the embedding of steps, each with a cosine.
const FREQUENCIES: usize = 16;

/// The lowest frequency, in radians a step; the highest is 1, so that steps between two whole ones look like them.
const LOWEST_FREQUENCY: f64 = 1e-3;

/// Dense layers over all variables of a step, to which the condition and the diffusion step add in every block.
#[derive(Module, Debug)]
pub struct MlpDenoiser {
    step: StepEmbedding,
    input: Linear,
    blocks: Vec<Block>,
    output: Linear,
}

/// Two dense layers around a residual.
#[derive(Module, Debug)]
struct Block {
    first: Linear,
    second: Linear,
    condition: Linear,
    step: Linear,
}

impl MlpDenoiser {
    pub(super) fn init(config: &MlpConfig, variables: usize, condition: usize, device: &Device) -> Self {
        let linear = |inputs, outputs| LinearConfig::new(inputs, outputs).init(device);
        let width = config.width;
        let block = |_| Block {
            first: linear(width, width),
            second: linear(width, width),
            condition: linear(condition, width),
            step: linear(width, width),
        };
        Self {
            step: StepEmbedding::init(width, device),
            input: linear(variables, width),
            blocks: (0..config.blocks).map(block).collect(),
            output: zeros(width, variables, device),
        }
    }

    /// See [`super::Denoiser::forward`].
    pub(super) fn forward(&self, x: Tensor<3>, steps: &[f64], condition: Tensor<3>) -> Tensor<3> {
        let [rows, _, variables] = x.dims();
        let (steps, step) = self.step.forward(steps, &x);
        let condition = condition.squeeze_dim::<2>(1);
        let mut h = linear(&self.input, x.squeeze_dim::<2>(1));
        for block in &self.blocks {
            let shift = steps.rows_of(linear(&block.step, step.clone()));
            let a = linear(&block.first, silu(h.clone())) + shift;
            h = h + linear(&block.second, silu(add_condition(a, linear(&block.condition, condition.clone()))));
        }
        linear(&self.output, silu(h)).reshape([rows, 1, variables])
    }
}

/// A dense layer.
pub(super) fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    dense(layer, x, Precision::F32)
}

/// A dense layer that gives zeros before training.
pub(super) fn zeros(inputs: usize, outputs: usize, device: &Device) -> Linear {
    let initializer = burn::nn::Initializer::Zeros;
    LinearConfig::new(inputs, outputs).with_initializer(initializer).init(device)
}

/// Adds to `[N, width]` each row of `[M, width]`, N / M times one after another.
pub(super) fn add_condition(x: Tensor<2>, condition: Tensor<2>) -> Tensor<2> {
    let ([rows, width], groups) = (x.dims(), condition.dims()[0]);
    if rows == groups {
        return x + condition;
    }
    let sum = x.reshape([groups, rows / groups, width]) + condition.unsqueeze_dim::<3>(1);
    sum.reshape([rows, width])
}

/// Sinusoids of diffusion steps through a dense layer.
#[derive(Module, Debug)]
pub(super) struct StepEmbedding {
    dense: Linear,
}

/// Which rows have which of some steps.
pub(super) struct StepsOfRows(Option<Tensor<1, Int>>);

impl StepsOfRows {
    /// Of `[different steps, width]` that of each row, `[N, width]`; a single one as it is.
    pub(super) fn rows_of(&self, values: Tensor<2>) -> Tensor<2> {
        match &self.0 {
            Some(indices) => values.select(0, indices.clone()),
            None => values,
        }
    }
}

impl StepEmbedding {
    pub(super) fn init(width: usize, device: &Device) -> Self {
        Self { dense: LinearConfig::new(2 * FREQUENCIES, width).init(device) }
    }

    /// The embeddings of the different ones among these steps, and which rows have them.
    pub(super) fn forward<const D: usize>(&self, steps: &[f64], like: &Tensor<D>) -> (StepsOfRows, Tensor<2>) {
        let mut different = steps.to_vec();
        different.sort_by(f64::total_cmp);
        different.dedup();
        let index = |step: &f64| different.partition_point(|other| other < step) as i64;
        let indices = (different.len() > 1).then(|| {
            let indices: Vec<i64> = steps.iter().map(index).collect();
            Tensor::<1, Int>::from_data(TensorData::new(indices, [steps.len()]), &like.device())
        });
        let table = table(&different, &like.device(), like.dtype());
        (StepsOfRows(indices), silu(linear(&self.dense, table)))
    }
}

/// Sines and cosines of steps, in f64 on the host.
fn table(steps: &[f64], device: &Device, dtype: DType) -> Tensor<2> {
    let frequency = |i: usize| LOWEST_FREQUENCY.powf(i as f64 / (FREQUENCIES - 1) as f64);
    let angles = |step: f64| (0..FREQUENCIES).map(move |i| step * frequency(i));
    let row = |&step: &f64| angles(step).map(f64::sin).chain(angles(step).map(f64::cos)).collect::<Vec<f64>>();
    let values: Vec<f64> = steps.iter().flat_map(row).collect();
    Tensor::from_data(TensorData::new(values, [steps.len(), 2 * FREQUENCIES]), (device, dtype))
}
