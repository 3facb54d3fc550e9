//! Models of pytorch-ts: what they are made of follows from the tensors of their state dict; the frequency, the context and
//! the horizon do not.

use burn::tensor::Device;
use ddpm_data::DataInfo;
use ddpm_model::timegrad::{Cell, ConvolutionConfig, DenoiserConfig, TimeGrad, is_redundant};
use ddpm_weights::{Weights, load_own_names};

use super::TimeGradFamily;
use super::tables::{ForecastKeys, ModelKeys, Scaling, StepKeys, TimeGradTables};
use crate::family::{AnyError, Origin};

/// The betas of the schedule in a state dict.
const BETAS: &str = "diffusion.betas";
/// Betas of a file are numbers of 32 bits.
const NEAR: f64 = 1e-5;

/// The family and the model of a state dict of pytorch-ts for data of this description: its frequency says what the lags and
/// the time features are where `keys` does not.
///
/// The units of the data should be the identity: pytorch-ts has its values as they are.
pub fn read_pytorch_ts(
    weights: Weights,
    data: DataInfo,
    keys: ForecastKeys,
    device: &Device,
) -> Result<(TimeGradFamily, TimeGrad), AnyError> {
    let path = weights.path().display().to_string();
    let wrong = |message: String| format!("{path}: {message}");
    let model = model_keys(&weights).ok_or_else(|| wrong("expected the names of TimeGrad of pytorch-ts".into()))?;
    let diffusion = step_keys(&weights).map_err(&wrong)?;
    let inputs = weights.shape("rnn.weight_ih_l0").and_then(|shape| shape.get(1)).copied().unwrap_or(0);
    let tables = TimeGradTables { model, timegrad: keys, diffusion }.with_lags(&data, None);
    let experiment = weights.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let family = TimeGradFamily::new(tables, Origin { experiment, data, source: None }).map_err(|problems| {
        let all: Vec<String> = problems.into_iter().map(|(key, message)| format!("{key}: {message}")).collect();
        wrong(all.join("; "))
    })?;
    let network = &family.reader.network;
    if network.input_size() != inputs {
        return Err(wrong(format!(
            "its recurrent network reads {inputs} values, and {} variables with the lags {:?} and {} time features are \
             {}: is the frequency another one?",
            network.variables,
            network.lags,
            network.time_features,
            network.input_size()
        ))
        .into());
    }
    let mut model = network.init_checked(device);
    load_own_names(&mut model, &weights.without(is_redundant))?;
    Ok((family, model))
}

/// The keys of a model of pytorch-ts: its scaling, its time features, and one noise for each step.
pub fn pytorch_ts_keys(context: usize, horizon: usize) -> ForecastKeys {
    let time_features = super::features::FeatureSet::PytorchTs;
    let scaling = Scaling::Mean;
    ForecastKeys { context, horizon, time_features, scaling, noises_per_step: 1, ..ForecastKeys::default() }
}

/// The sizes of the networks.
fn model_keys(weights: &Weights) -> Option<ModelKeys> {
    let size = |name: &str, axis: usize| weights.shape(name)?.get(axis).copied();
    let count = |name: &dyn Fn(usize) -> String| (0..).take_while(|k| weights.shape(&name(*k)).is_some()).count();
    let cells = size("rnn.weight_hh_l0", 1)?;
    let cell = match size("rnn.weight_hh_l0", 0)? / cells.max(1) {
        3 => Cell::Gru,
        4 => Cell::Lstm,
        _ => return None,
    };
    Some(ModelKeys {
        cell,
        cells,
        layers: count(&|layer| format!("rnn.weight_hh_l{layer}")),
        conditioning_length: size("proj_dist_args.proj.0.weight", 0)?,
        denoiser: DenoiserConfig::Convolution(ConvolutionConfig {
            residual_layers: count(&|block| format!("denoise_fn.residual_layers.{block}.dilated_conv.weight")),
            residual_channels: size("denoise_fn.input_projection.weight", 0)?,
            ..ConvolutionConfig::default()
        }),
        ..ModelKeys::default()
    })
}

/// The schedule that has these betas.
fn step_keys(weights: &Weights) -> Result<StepKeys, String> {
    let betas = weights.tensors().get(BETAS).ok_or_else(|| format!("{BETAS} is missing"))?;
    let betas: Vec<f64> = betas.read().map_err(|error| error.to_string())?.into_iter().map(f64::from).collect();
    StepKeys::of_betas(&betas).ok_or_else(|| format!("{BETAS} is of none of the schedules of pytorch-ts"))
}

impl StepKeys {
    /// The schedule of pytorch-ts with these betas.
    fn of_betas(betas: &[f64]) -> Option<Self> {
        use super::tables::ScheduleName::{Const, Cosine, Linear, Quad, Sigmoid};
        let last = *betas.last()?;
        // The last beta of "sigmoid" lies below its asymptote.
        let asymptote = 1e-4 + (last - 1e-4) * (1.0 + (-6f64).exp());
        let candidates = [(Linear, last), (Quad, last), (Const, last), (Sigmoid, asymptote), (Cosine, last)];
        let keys =
            candidates.map(|(schedule, beta_end)| Self { steps: betas.len(), schedule, beta_end, ..Self::default() });
        keys.into_iter().find(|keys| {
            let found = keys.betas();
            found.len() == betas.len() && found.iter().zip(betas).all(|(a, b)| (a - b).abs() < NEAR)
        })
    }
}
