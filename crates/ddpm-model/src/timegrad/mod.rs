//! TimeGrad (Rasul et al. 2021): forecasts of all variables of a series at once, each step a sample of a diffusion model
//! that is conditioned on the state of a recurrent network over the past.
//!
//! `rnn.rs` has the recurrent state (`RnnState`); `denoiser.rs`, `mlp.rs` and `attention.rs` the denoisers. Training and
//! forecasts: `ddpm_families::timegrad`.
//!
//! Names of fields are those of pytorch-ts, so that weights pass in and out by name. All noise is passed in.

mod attention;
pub mod calendar;
mod config;
mod denoiser;
mod diffusion;
pub mod features;
mod mlp;
mod rnn;
mod window;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};

use crate::gaussian::{Clip, GaussianDiffusion};
use crate::network::NetworkError;
use crate::statics::StaticEmbeddings;
use attention::AttentionDenoiser;
pub use config::{AttentionConfig, Cell, ConvolutionConfig, DenoiserConfig, MlpConfig, TimeGradConfig};
pub use denoiser::{Denoised, EpsilonTheta, Given, step_table};
pub use diffusion::{NoiseLoss, schedule};
use mlp::MlpDenoiser;
use rnn::repeat_rows;
pub use rnn::{LayerState, Rnn, RnnState};
pub use window::{Series, Window, WindowError, Windows, lagged, mean_scale, mean_scale_or, observed_share};

/// Whether a tensor of a state dict of pytorch-ts is no parameter: the denoiser is in it twice, and what follows from the
/// schedule is in it too.
pub fn is_redundant(name: &str) -> bool {
    name.starts_with("diffusion.") || name.starts_with("scaler.")
}

impl TimeGradConfig {
    /// Builds the network, for which the variables and the lags must be known.
    ///
    /// Parameters are drawn when they are first used: seed the device, then touch them all.
    pub fn init(&self, device: &Device) -> Result<TimeGrad, NetworkError> {
        let problems = self.problems();
        if problems.is_empty() { Ok(self.init_checked(device)) } else { Err(NetworkError::Config { problems }) }
    }

    /// The same for a config without [`problems`](Self::problems).
    pub fn init_checked(&self, device: &Device) -> TimeGrad {
        TimeGrad {
            embed: EmbeddingConfig::new(self.variables, 1).init(device),
            rnn: Rnn::new(self.cell, self.input_size(), self.cells, self.layers, device),
            proj_dist_args: Projection {
                proj: vec![LinearConfig::new(self.cells, self.conditioning_length).init(device)],
            },
            denoise_fn: Denoiser::init(self, device),
            static_embeddings: StaticEmbeddings::init(&self.statics, device),
            dropout: DropoutConfig::new(self.dropout).init(),
            config: self.clone(),
        }
    }
}

/// The networks.
#[derive(Module, Debug)]
pub struct TimeGrad {
    embed: Embedding,
    rnn: Rnn,
    proj_dist_args: Projection,
    denoise_fn: Denoiser,
    static_embeddings: StaticEmbeddings,
    dropout: Dropout,
    #[module(skip)]
    config: TimeGradConfig,
}

/// The network that removes noise from the values of all variables of one step.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One network per process.
pub enum Denoiser {
    /// That of the original.
    Convolution(EpsilonTheta),
    /// Dense layers.
    Mlp(MlpDenoiser),
    /// Attention among the variables.
    Attention(AttentionDenoiser),
}

impl Denoiser {
    fn init(config: &TimeGradConfig, device: &Device) -> Self {
        let (variables, condition) = (config.variables, config.conditioning_length);
        match &config.denoiser {
            DenoiserConfig::Convolution(config) => {
                Self::Convolution(EpsilonTheta::init(config, variables, condition, device))
            }
            DenoiserConfig::Mlp(config) => Self::Mlp(MlpDenoiser::init(config, variables, condition, device)),
            DenoiserConfig::Attention(config) => {
                Self::Attention(AttentionDenoiser::init(config, variables, condition, device))
            }
        }
    }

    /// What is predicted of `x`, `[N, 1, D]`, at these steps of the diffusion, one for each row or one for all. Each of the
    /// conditions `[M, 1, conditioning_length]` is that of N / M rows, one after another. Steps may be fractional.
    pub fn forward(&self, x: Tensor<3>, steps: &[f64], condition: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Convolution(denoiser) => {
                let times = x.dims()[0] / condition.dims()[0].max(1);
                denoiser.forward(x, steps, repeat_rows(condition, times))
            }
            Self::Mlp(denoiser) => denoiser.forward(x, steps, condition),
            Self::Attention(denoiser) => denoiser.forward(x, steps, condition),
        }
    }

    /// What all steps of the diffusion make of the same conditions, one for each row.
    pub fn given(&self, condition: Tensor<3>) -> Given {
        match self {
            Self::Convolution(denoiser) => denoiser.given(condition),
            Self::Mlp(_) | Self::Attention(_) => Given::of(condition),
        }
    }

    /// [`Denoiser::forward`] with conditions that were prepared.
    pub fn forward_given(&self, x: Tensor<3>, steps: &[f64], given: &Given) -> Tensor<3> {
        match self {
            Self::Convolution(denoiser) => denoiser.forward_given(x, steps, given),
            Self::Mlp(denoiser) => denoiser.forward(x, steps, given.condition()),
            Self::Attention(denoiser) => denoiser.forward(x, steps, given.condition()),
        }
    }
}

/// From the state of the recurrent network to the condition.
#[derive(Module, Debug)]
struct Projection {
    proj: Vec<Linear>,
}

/// What the recurrent network makes of windows.
#[derive(Clone, Debug)]
pub struct Unrolled {
    /// The scale of each variable, `[B, 1, D]`.
    pub scale: Tensor<3>,
    /// What the recurrent network read, `[B, S, input_size]`.
    pub inputs: Tensor<3>,
    /// Its outputs, `[B, S, cells]`.
    pub outputs: Tensor<3>,
    /// Its state after the last step.
    pub state: RnnState,
    /// The condition of each step, `[B, S, conditioning_length]`.
    pub conditions: Tensor<3>,
}

/// A forecast on its way: all paths of all windows after some steps.
#[derive(Clone, Debug)]
pub struct SampledPaths {
    /// The scale of each variable, `[rows, 1, D]`.
    pub scale: Tensor<3>,
    /// The past and the steps sampled so far, `[rows, L, D]`.
    sequence: Tensor<3>,
    /// The time features of all steps to forecast, and what does not change, `[rows, prediction_length, F]`.
    features: Tensor<3>,
    state: RnnState,
    /// Steps sampled so far.
    steps: usize,
}

impl TimeGrad {
    /// The config that this network was built from.
    pub fn config(&self) -> &TimeGradConfig {
        &self.config
    }

    /// The denoiser of one step.
    pub fn denoiser(&self) -> &Denoiser {
        &self.denoise_fn
    }

    /// The scale of each variable of the windows, `[B, 1, D]`, from the context: as in the original, where a variable of a
    /// row has none it depends on the other rows.
    pub fn scale(&self, windows: &Windows) -> Tensor<3> {
        let (values, observed) = self.context(windows);
        match self.config.scaling {
            true => mean_scale(values, observed),
            false => Tensor::ones([values.dims()[0], 1, self.config.variables], (&values.device(), values.dtype())),
        }
    }

    /// The values of the context and which of them were observed, `[B, context_length, D]`.
    pub fn context(&self, windows: &Windows) -> (Tensor<3>, Tensor<3>) {
        let context = |x: &Tensor<3>| last_steps(x, self.config.context_length);
        (context(&windows.past_values), context(&windows.past_observed))
    }

    /// What the recurrent network reads at the last steps of a sequence `[B, L, D]`, one for each of `features`
    /// `[B, S, F]`: lagged values in units of the scale, the embedding of each variable, and the features.
    fn inputs(&self, sequence: &Tensor<3>, scale: &Tensor<3>, features: Tensor<3>) -> Tensor<3> {
        let [batch, steps, _] = features.dims();
        let [variables, lags] = [self.config.variables, self.config.lags.len()];
        let scaled = lagged(sequence, &self.config.lags, steps) / scale.clone().unsqueeze_dim::<4>(3);
        let embedding = self.embed.weight.val().reshape([1, 1, variables]).expand([batch, steps, variables]);
        Tensor::cat(vec![scaled.reshape([batch, steps, variables * lags]), embedding, features], 2)
    }

    /// Features with what does not change along the series behind them at each step.
    fn with_statics(&self, features: Tensor<3>, windows: &Windows) -> Tensor<3> {
        let Some(given) = windows.statics.clone() else { return features };
        let [rows, steps, _] = features.dims();
        let statics = self.static_embeddings.forward(given);
        let width = statics.dims()[1];
        Tensor::cat(vec![features, statics.unsqueeze_dim::<3>(1).expand([rows, steps, width])], 2)
    }

    fn unroll(&self, sequence: &Tensor<3>, scale: Tensor<3>, features: Tensor<3>) -> Unrolled {
        let inputs = self.inputs(sequence, &scale, features);
        let (outputs, state) = self.rnn.forward(inputs.clone(), None, &self.dropout);
        let conditions = self.proj_dist_args.forward(outputs.clone());
        Unrolled { scale, inputs, outputs, state, conditions }
    }

    /// The context and the future read as in training, where the future is known. Nothing for windows without a future.
    pub fn read(&self, windows: &Windows, scale: Tensor<3>) -> Option<Unrolled> {
        let future = windows.future_values.clone()?;
        // The values of a step are read after it at the earliest: each lag is at least 1.
        let sequence = Tensor::cat(vec![windows.past_values.clone(), future], 1);
        let context = last_steps(&windows.past_features, self.config.context_length);
        let features = Tensor::cat(vec![context, windows.future_features.clone()], 1);
        Some(self.unroll(&sequence, scale, self.with_statics(features, windows)))
    }

    /// The targets of the denoiser in training: the context and the future in units of the scale, `[B * S, 1, D]`.
    pub fn targets(&self, windows: &Windows, scale: &Tensor<3>) -> Option<Tensor<3>> {
        let context = last_steps(&windows.past_values, self.config.context_length);
        let values = Tensor::cat(vec![context, windows.future_values.clone()?], 1);
        let [batch, steps, variables] = values.dims();
        Some((values / scale.clone()).reshape([batch * steps, 1, variables]))
    }

    /// The loss of the original at these steps of the diffusion, one for each row and step of the windows (row by row), with
    /// this noise `[B * S, 1, D]`. Nothing for windows without a future.
    pub fn loss(
        &self,
        windows: &Windows,
        diffusion: &GaussianDiffusion,
        loss: NoiseLoss,
        steps: &[usize],
        noise: Tensor<3>,
    ) -> Option<Tensor<1>> {
        let read = self.read(windows, self.scale(windows))?;
        let x_0 = self.targets(windows, &read.scale)?;
        let x_t = diffusion.q_sample(x_0, steps, noise.clone());
        let [batch, length, width] = read.conditions.dims();
        let conditions = read.conditions.reshape([batch * length, 1, width]);
        let steps: Vec<f64> = steps.iter().map(|&step| step as f64).collect();
        Some(loss.of(self.denoise_fn.forward(x_t, &steps, conditions), noise))
    }

    /// Which values the loss is about, `[B, S, D]`.
    pub fn observed(&self, windows: &Windows) -> Option<Tensor<3>> {
        let context = last_steps(&windows.past_observed, self.config.context_length);
        Some(Tensor::cat(vec![context, windows.future_observed.clone()?], 1))
    }

    /// Reads the context before a forecast with one path of each window. The forecast has as many steps as there are time
    /// features of the future.
    pub fn start_forecast(&self, windows: &Windows, scale: Tensor<3>) -> SampledPaths {
        let features = last_steps(&windows.past_features, self.config.context_length);
        let read = self.unroll(&windows.past_values, scale, self.with_statics(features, windows));
        SampledPaths {
            scale: read.scale,
            sequence: windows.past_values.clone(),
            features: self.with_statics(windows.future_features.clone(), windows),
            state: read.state,
            steps: 0,
        }
    }

    /// Reads what was sampled last, and gives the condition of the next step, `[rows, 1, conditioning_length]`. Nothing
    /// after the last step.
    pub fn next_condition(&self, forecast: &mut SampledPaths) -> Option<Tensor<3>> {
        if forecast.steps >= forecast.features.dims()[1] {
            return None;
        }
        // The step to come as the last one of the sequence; no lag reads it.
        let rows = forecast.sequence.dims()[0];
        let blank = Tensor::zeros([rows, 1, self.config.variables], (&forecast.scale.device(), forecast.scale.dtype()));
        let sequence = Tensor::cat(vec![forecast.sequence.clone(), blank], 1);
        let features = forecast.features.clone().narrow(1, forecast.steps, 1);
        let inputs = self.inputs(&sequence, &forecast.scale, features);
        let (outputs, state) = self.rnn.forward(inputs, Some(&forecast.state), &self.dropout);
        forecast.state = state;
        Some(self.proj_dist_args.forward(outputs))
    }

    /// Samples of the future of each window by ancestral sampling, `[B, paths, prediction_length, D]`.
    ///
    /// `noise` gives standard normal values `[rows, 1, D]` for a step of the forecast and a step of the diffusion, in the
    /// order in which they are needed: at first `None` for where the chain starts, then every step of the diffusion but 0.
    pub fn forecast(
        &self,
        windows: &Windows,
        paths: usize,
        diffusion: &GaussianDiffusion,
        mut noise: impl FnMut(usize, Option<usize>) -> Tensor<3>,
    ) -> Tensor<4> {
        let mut forecast = self.start_forecast(windows, self.scale(windows)).repeated(paths);
        let mut samples = Vec::new();
        while let Some(condition) = self.next_condition(&mut forecast) {
            let step = forecast.steps;
            let sample = self.sample(condition, diffusion, |t| noise(step, t));
            samples.push(forecast.push(sample));
        }
        let [batch, steps] = [windows.past_values.dims()[0], samples.len()];
        Tensor::cat(samples, 1).reshape([batch, paths, steps, self.config.variables])
    }

    /// A sample given a condition `[rows, 1, conditioning_length]`, in units of the scale, `[rows, 1, D]`: see
    /// [`TimeGrad::forecast`] for the noise.
    pub fn sample(
        &self,
        condition: Tensor<3>,
        diffusion: &GaussianDiffusion,
        mut noise: impl FnMut(Option<usize>) -> Tensor<3>,
    ) -> Tensor<3> {
        let given = self.denoise_fn.given(condition);
        let mut x = noise(None);
        for t in (0..diffusion.schedule.len()).rev() {
            let eps = self.denoise_fn.forward_given(x.clone(), &[t as f64], &given);
            let moments = diffusion.reverse_step(eps, None, x, &[t], Clip::None).moments;
            x = match t {
                0 => moments.mean,
                _ => moments.mean + moments.variance.sqrt() * noise(Some(t)),
            };
        }
        x
    }
}

impl Projection {
    fn forward(&self, outputs: Tensor<3>) -> Tensor<3> {
        self.proj.iter().fold(outputs, |x, layer| layer.forward(x))
    }
}

impl SampledPaths {
    /// Each row `paths` times, one after another.
    pub fn repeated(&self, paths: usize) -> Self {
        let repeated = |x: &Tensor<3>| repeat_rows(x.clone(), paths);
        Self {
            scale: repeated(&self.scale),
            sequence: repeated(&self.sequence),
            features: repeated(&self.features),
            state: self.state.repeated(paths),
            steps: self.steps,
        }
    }

    /// These rows, of which any may be there more than once.
    pub fn rows(&self, rows: &Tensor<1, Int>) -> Self {
        let select = |x: &Tensor<3>| x.clone().select(0, rows.clone());
        Self {
            scale: select(&self.scale),
            sequence: select(&self.sequence),
            features: select(&self.features),
            state: self.state.rows(rows),
            steps: self.steps,
        }
    }

    /// Appends a sample in units of the scale, `[rows, 1, D]`, and returns it in the units of the series.
    pub fn push(&mut self, sample: Tensor<3>) -> Tensor<3> {
        self.push_within(sample, |values| values)
    }

    /// The same with what `bounded` makes of the values.
    pub fn push_within(&mut self, sample: Tensor<3>, bounded: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<3> {
        let values = bounded(sample * self.scale.clone());
        self.sequence = Tensor::cat(vec![self.sequence.clone(), values.clone()], 1);
        self.steps += 1;
        values
    }
}

fn last_steps(x: &Tensor<3>, steps: usize) -> Tensor<3> {
    let length = x.dims()[1];
    x.clone().narrow(1, length - steps, steps)
}

#[cfg(test)]
mod tests;
