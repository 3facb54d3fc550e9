//! Our side of the measurement of networks for time series.

use anyhow::bail;
use burn::module::Module;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Distribution, Int, Tensor};
use ddpm_data::random::{Stream, mix};
use ddpm_families::parameters::settle;
use ddpm_kernels::among_the_kernels;
use ddpm_model::csdi::{Csdi, CsdiConfig, MaskedSeries};
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::pass::Pass;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::sssd::loss::missing_mse;
use ddpm_model::sssd::{Observations, Sssd, SssdConfig};
use ddpm_model::timegrad::{NoiseLoss, TimeGrad, TimeGradConfig, Windows};
use ddpm_model::variance::Variance;
use serde_json::json;

use super::series::{Series, SeriesNetwork};
use super::worker::{answer_commands, measure};
use ddpm_train::adam::Adam;
use ddpm_train::memory::peak_mib;

/// Steps of a series of CSDI.
const LENGTH: usize = 48;
/// Channels of a series of SSSD.
const CHANNELS: usize = 4;
/// Steps that TimeGrad reads, and that it forecasts.
const WINDOW: usize = 12;
/// Steps of TimeGrad's diffusion.
const STEPS: usize = 100;

type Work = Box<dyn FnMut()>;

/// What is measured of a network, and how large it is.
struct Worker {
    parameters: usize,
    forward: Work,
    train: Work,
    forecast: Option<Box<dyn Fn(usize)>>,
}

/// Answers commands until there are no more.
pub(super) fn run(series: Series, device: &Device) -> anyhow::Result<()> {
    let autodiff = device.clone().autodiff();
    autodiff.seed(mix(0, Stream::Init, 0));
    let mut worker = match series.network {
        SeriesNetwork::Csdi => csdi(series, &autodiff)?,
        SeriesNetwork::Sssd => sssd(series, &autodiff)?,
        SeriesNetwork::TimeGrad => timegrad(series, &autodiff)?,
    };
    answer_commands("ours", worker.parameters, |command, number| {
        Ok(match (command, &worker.forecast) {
            ("forward", _) => measure(number, &mut worker.forward),
            ("train", _) => measure(number, &mut worker.train),
            ("forecast", Some(forecast)) => measure(1, || forecast(number)),
            ("memory", _) => json!({ "peak_mib": peak_mib().unwrap_or(0.0) }),
            (other, _) => bail!("no such command: {other}"),
        })
    })
}

fn worker<M: Module + Sync + 'static>(
    network: M,
    parameters: usize,
    device: &Device,
    loss: impl Fn(&M) -> Tensor<1> + Clone + Send + Sync + 'static,
) -> Worker {
    let device = device.clone();
    let of_forward = (network.clone(), loss.clone());
    let forward = move || {
        of_forward.1(&of_forward.0).inner().into_scalar::<f32>();
    };
    let mut optimizer = ModuleOptimizer::from(Adam { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8 });
    let mut network = Some(network);
    let train = move || {
        let Some(live) = network.take() else { return };
        // As the trainer does it: see `TrainModel`.
        let (value, grads) = among_the_kernels(&device, || {
            let value = loss(&live);
            let grads = GradientsParams::from_grads(value.backward(), &live);
            (value, grads)
        });
        network = Some(optimizer.step(1e-3, live, grads));
        value.inner().into_scalar::<f32>();
    };
    Worker { parameters, forward: Box::new(forward), train: Box::new(train), forecast: None }
}

fn csdi(series: Series, device: &Device) -> anyhow::Result<Worker> {
    let shape = [series.network.batch(), series.size, LENGTH];
    let network: Csdi = settle(CsdiConfig { variables: series.size, ..CsdiConfig::default() }.init(device)?);
    let diffusion = diffusion(network.config().steps)?;
    let [values, noise] = [normal(shape, device), normal(shape, device)];
    let given = values.clone().greater_elem(0.0).float();
    let masked = MaskedSeries::new(values.clone(), values.ones_like(), given.clone());
    let times = Tensor::<1, Int>::arange(0..LENGTH as i64, device).float();
    let times = times.unsqueeze_dim::<2>(0).expand([shape[0], LENGTH]);
    let steps: Vec<usize> = (0..shape[0]).map(|row| row * 49 / shape[0]).collect();
    let parameters = network.num_params();
    Ok(worker(network, parameters, device, move |network| {
        let side = network.side_information(times.clone(), None, given.clone());
        network.loss(&masked, side, &diffusion, &steps, noise.clone(), &Pass::default())
    }))
}

fn sssd(series: Series, device: &Device) -> anyhow::Result<Worker> {
    let shape = [series.network.batch(), CHANNELS, series.size];
    let config = SssdConfig {
        in_channels: CHANNELS,
        out_channels: CHANNELS,
        length: series.size,
        residual_channels: 64,
        skip_channels: 64,
        layers: 6,
        ..SssdConfig::default()
    };
    let network: Sssd = settle(config.init(device)?);
    let bases = network.bases(series.size)?;
    let [values, noise] = [normal(shape, device), normal(shape, device)];
    let mask = values.clone().greater_elem(0.0).float();
    let known = Observations { values: values.clone(), mask: mask.clone() };
    let steps = Tensor::<1, Int>::arange(0..shape[0] as i64, device).float() * 20.0;
    // The constants of the state spaces are parameters here and none in PyTorch.
    let constants = 2 * config.layers * config.features() * (1 + 4 * config.states);
    let parameters = network.num_params() - constants;
    Ok(worker(network, parameters, device, move |network| {
        let noisy = values.clone() + noise.clone();
        let output = network.forward(noisy, &known, steps.clone(), &bases, &Pass::default());
        missing_mse(output, noise.clone(), mask.clone())
    }))
}

fn timegrad(series: Series, device: &Device) -> anyhow::Result<Worker> {
    let (batch, variables) = (series.network.batch(), series.size);
    let config = TimeGradConfig {
        variables,
        context_length: WINDOW,
        prediction_length: WINDOW,
        lags: vec![1, 2, 7],
        dropout: 0.0,
        ..TimeGradConfig::default()
    };
    let network: TimeGrad = settle(config.init(device)?);
    let (training, diffusion) = (windows(&config, batch, device), diffusion(STEPS)?);
    let rows = 2 * WINDOW * batch;
    let noise = normal([rows, 1, variables], device);
    let steps: Vec<usize> = (0..rows).map(|row| row * 7 % STEPS).collect();
    let (inference, plain, of_forecast) = (network.valid(), device.clone().without_autodiff(), diffusion.clone());
    let known = windows(&config, 1, &plain);
    let parameters = network.num_params();
    let mut worker = worker(network, parameters, device, move |network| {
        let loss = network.loss(&training, &diffusion, NoiseLoss::L2, &steps, noise.clone());
        loss.unwrap_or_else(|| noise.clone().sum())
    });
    worker.forecast = Some(Box::new(move |paths| {
        let noise = |_: usize, _: Option<usize>| normal([paths, 1, variables], &plain);
        let samples = among_the_kernels(&plain, || inference.forecast(&known, paths, &of_forecast, noise));
        drop(samples.into_data());
    }));
    Ok(worker)
}

fn windows(config: &TimeGradConfig, count: usize, device: &Device) -> Windows {
    let (past, variables, features) = (config.history_length(), config.variables, config.time_features);
    Windows {
        past_values: normal([count, past, variables], device),
        past_observed: Tensor::ones([count, past, variables], device),
        past_features: normal([count, past, features], device),
        future_values: Some(normal([count, WINDOW, variables], device)),
        future_observed: Some(Tensor::ones([count, WINDOW, variables], device)),
        future_features: normal([count, WINDOW, features], device),
        statics: None,
    }
}

fn diffusion(steps: usize) -> anyhow::Result<GaussianDiffusion> {
    let schedule = ScheduleConfig::Linear { steps, beta_start: 1e-4, beta_end: 0.1 };
    Ok(GaussianDiffusion::new(schedule.init()?, Prediction::Eps, Variance::FixedSmall))
}

fn normal<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}
