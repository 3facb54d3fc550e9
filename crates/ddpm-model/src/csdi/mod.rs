//! The network of CSDI (Tashiro et al. 2021, arXiv:2107.03502), which fills in what is missing of multivariate series.
//!
//! Field names spell the keys of the original's files, so that weights pass in and out by name. Shapes: B series of K
//! variables at L times.

mod config;
mod layers;
mod linear_attention;
pub mod masks;
mod residual;
mod sampling;
mod series;
pub mod transformer;

use burn::module::Module;
use burn::nn::conv::Conv1d;
use burn::nn::{Embedding, EmbeddingConfig, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_kernels::{Precision, silu};

use crate::embedding::{SinusoidConfig, SinusoidOrder};
use crate::network::NetworkError;
use crate::pass::Pass;
pub use config::CsdiConfig;
use layers::{apply, apply_pointwise, linear, pointwise, rectified, zero_pointwise};
use residual::ResidualLayer;
pub use series::{MaskedSeries, masked_loss, select_variables};

impl CsdiConfig {
    /// Builds the network, for which the number of variables must be known.
    ///
    /// Parameters are drawn when they are first used: seed the device, then touch them all.
    pub fn init(&self, device: &Device) -> Result<Csdi, NetworkError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(NetworkError::Config { problems });
        }
        Ok(Csdi {
            embed_layer: EmbeddingConfig::new(self.variables, self.feature_embedding).init(device),
            diffmodel: DiffusionNetwork::init(self, device),
            config: self.clone(),
            precision: Precision::F32,
        })
    }
}

/// The network, with the embedding of the variables.
#[derive(Module, Debug)]
pub struct Csdi {
    embed_layer: Embedding,
    diffmodel: DiffusionNetwork,
    #[module(skip)]
    config: CsdiConfig,
    #[module(skip)]
    precision: Precision,
}

impl Csdi {
    /// The config that this network was built from.
    pub fn config(&self) -> &CsdiConfig {
        &self.config
    }

    /// Has the dense layers compute in this precision.
    pub fn set_precision(&mut self, precision: Precision) {
        self.precision = precision;
    }

    /// The side information `[B, S, K, L]`: the embedding of the times `[B, L]`, that of the variables, and unless the
    /// network is unconditional the mask of what is given, `[B, K, L]`.
    ///
    /// `variables` `[B, K]` says which variables these are; without it they are all, in order.
    pub fn side_information(&self, times: Tensor<2>, variables: Option<Tensor<2, Int>>, given: Tensor<3>) -> Tensor<4> {
        let [batch, count, length] = given.dims();
        let time = time_embedding(times, self.config.time_embedding).unsqueeze_dim::<4>(1);
        let table = self.embed_layer.weight.val();
        let width = self.config.feature_embedding;
        let rows = match variables {
            Some(ids) => table.select(0, ids.reshape([batch * count])).reshape([batch, count, width]),
            None => table.unsqueeze_dim::<3>(0).expand([batch, count, width]),
        };
        let feature = rows.unsqueeze_dim::<4>(2);
        let everywhere = |x: Tensor<4>| {
            let channels = x.dims()[3];
            x.expand([batch, count, length, channels])
        };
        let mut parts = vec![everywhere(time), everywhere(feature)];
        if !self.config.unconditional {
            parts.push(given.unsqueeze_dim::<4>(3));
        }
        // The channels lie last in memory, where the layers want them.
        Tensor::cat(parts, 3).permute([0, 3, 1, 2])
    }

    /// The noise in the input `[B, I, K, L]` at the steps `[B]`, given the side information `[B, S, K, L]`: `[B, K, L]`.
    pub fn forward(&self, input: Tensor<4>, side: Tensor<4>, steps: Tensor<1, Int>, pass: &Pass<'_>) -> Tensor<3> {
        let steps: Vec<f64> = steps.into_data().iter::<f64>().collect();
        self.forward_at(input, side, &steps, pass)
    }

    /// The same at steps that may lie between those of training: there, sinusoids are interpolated.
    pub fn forward_at(&self, input: Tensor<4>, side: Tensor<4>, steps: &[f64], pass: &Pass<'_>) -> Tensor<3> {
        let pass = &pass.of(self.precision).inside(format_args!("diffmodel"));
        self.diffmodel.forward(input, side, steps, &self.config, pass)
    }
}

/// The original's `diff_CSDI`. Inside, the channels are last.
#[derive(Module, Debug)]
struct DiffusionNetwork {
    diffusion_embedding: StepEmbedding,
    input_projection: Conv1d,
    side_projection: Option<Conv1d>,
    output_projection1: Conv1d,
    output_projection2: Conv1d,
    residual_layers: Vec<ResidualLayer>,
}

impl DiffusionNetwork {
    fn init(config: &CsdiConfig, device: &Device) -> Self {
        let channels = config.channels;
        Self {
            diffusion_embedding: StepEmbedding::init(config, device),
            input_projection: pointwise(config.input_channels(), channels, device),
            side_projection: config.side_at_input.then(|| pointwise(config.side_channels(), channels, device)),
            output_projection1: pointwise(channels, channels, device),
            output_projection2: zero_pointwise(channels, 1, device),
            residual_layers: (0..config.layers).map(|_| ResidualLayer::init(config, device)).collect(),
        }
    }

    fn forward(
        &self,
        input: Tensor<4>,
        side: Tensor<4>,
        steps: &[f64],
        config: &CsdiConfig,
        pass: &Pass<'_>,
    ) -> Tensor<3> {
        let [batch, _, variables, length] = input.dims();
        let [input, side] = [input, side].map(|x| x.permute([0, 2, 3, 1]));
        let embedding_pass = pass.inside(format_args!("diffusion_embedding"));
        let step = self.diffusion_embedding.forward(sinusoids_of(steps, config, &input), &embedding_pass);
        let mut state = rectified("input_projection", &self.input_projection, input, pass);
        if let Some(projection) = &self.side_projection {
            state = state + apply_pointwise("side_projection", projection, side.clone(), pass);
        }
        let sum = match pass.may_fuse() {
            true => self.fused_layers(state.clone(), &side, &step, pass),
            false => None,
        };
        let sum = sum.unwrap_or_else(|| self.layers(state, side, step, pass));
        let y = sum * (1.0 / (self.residual_layers.len() as f64).sqrt());
        let y = rectified("output_projection1", &self.output_projection1, y, pass);
        let y = apply_pointwise("output_projection2", &self.output_projection2, y, pass);
        y.reshape([batch, variables, length])
    }

    /// The sum of what all layers put out.
    fn layers(&self, mut state: Tensor<4>, side: Tensor<4>, step: Tensor<2>, pass: &Pass<'_>) -> Tensor<4> {
        let mut skips = Vec::with_capacity(self.residual_layers.len());
        for (i, layer) in self.residual_layers.iter().enumerate() {
            let pass = pass.inside(format_args!("residual_layers.{i}"));
            let (next, skip) = layer.forward(state, side.clone(), step.clone(), &pass);
            state = next;
            skips.push(skip);
        }
        skips.into_iter().reduce(|sum, skip| sum + skip).unwrap_or(state)
    }

    /// The same by kernels, where there are some.
    fn fused_layers(&self, state: Tensor<4>, side: &Tensor<4>, step: &Tensor<2>, pass: &Pass<'_>) -> Option<Tensor<4>> {
        let channels = state.dims()[3];
        let mut carried = Tensor::cat(vec![state.clone(), state.zeros_like()], 3);
        for layer in &self.residual_layers {
            carried = layer.fused(carried, side.clone(), step.clone(), pass)?;
        }
        Some(carried.narrow(3, channels, channels))
    }
}

/// Two dense layers over the sinusoids of the diffusion step.
#[derive(Module, Debug)]
struct StepEmbedding {
    projection1: Linear,
    projection2: Linear,
}

impl StepEmbedding {
    fn init(config: &CsdiConfig, device: &Device) -> Self {
        let width = config.step_embedding;
        Self { projection1: linear(width, width, device), projection2: linear(width, width, device) }
    }

    fn forward(&self, sinusoids: Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let hidden = silu(apply("projection1", &self.projection1, sinusoids, pass));
        silu(apply("projection2", &self.projection2, hidden, pass))
    }
}

/// The sinusoids of these steps, `[B, width]`, on the device of `like`.
fn sinusoids_of(steps: &[f64], config: &CsdiConfig, like: &Tensor<4>) -> Tensor<2> {
    let width = config.step_embedding;
    let table = TensorData::new(step_sinusoids(steps, width), [steps.len(), width]);
    Tensor::from_data(table, (&like.device(), like.dtype()))
}

/// The rows of the [table](step_table) at these steps. Between two steps they are interpolated: the fastest sinusoids go
/// round more than a thousand times from one step to the next, so that what they are in between was never seen in training.
pub fn step_sinusoids(steps: &[f64], width: usize) -> Vec<f64> {
    let row = |&step: &f64| {
        let (before, share) = (step.floor(), step - step.floor());
        let rows = [before, before + 1.0].map(|step| step_row(step, width));
        let [before, after] = rows;
        before.into_iter().zip(after).map(move |(a, b)| if share == 0.0 { a } else { a + share * (b - a) })
    };
    steps.iter().flat_map(row).collect()
}

/// Sines, then cosines, of `t 10^(4 i / (half - 1))` for the steps t and the frequencies i: `[steps, width]`, row by row.
///
/// The arguments reach `1e4 t`: in f32, as the original computes them, the sines are off by up to 2e-2.
pub fn step_table(steps: usize, width: usize) -> Vec<f64> {
    (0..steps).flat_map(|t| step_row(t as f64, width)).collect()
}

fn step_row(t: f64, width: usize) -> Vec<f64> {
    let half = width / 2;
    let frequency = |i: usize| 10_f64.powf(4.0 * i as f64 / (half - 1) as f64);
    let angles = (0..half).map(|i| t * frequency(i));
    angles.clone().map(f64::sin).chain(angles.map(f64::cos)).collect()
}

/// Sinusoids of the times `[B, L]`: `[B, L, width]`, sines in the even channels and cosines in the odd ones.
pub fn time_embedding(times: Tensor<2>, width: usize) -> Tensor<3> {
    let [batch, length] = times.dims();
    let sinusoids = SinusoidConfig { order: SinusoidOrder::SinCos, frequency_shift: 0 };
    let halves = sinusoids.embed(times.reshape([batch * length]), width);
    halves.reshape([batch * length, 2, width / 2]).swap_dims(1, 2).reshape([batch, length, width])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
