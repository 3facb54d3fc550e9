//! How long a training step takes of the networks for time series: `time_series csdi 4`, `time_series sssd 248` or
//! `time_series timegrad 4`, with the number of variables or the length.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::time::Instant;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Gradients, Tensor};
use ddpm_kernels::weights::{AdamStep, adam};
use ddpm_model::csdi::{CsdiConfig, MaskedSeries};
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::pass::Pass;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::sssd::loss::missing_mse;
use ddpm_model::sssd::{Observations, SssdConfig};
use ddpm_model::timegrad::{Loss, TimeGradConfig, Windows};
use ddpm_model::variance::Variance;

const STEPS: usize = 12;

/// Adam with the moments of each parameter, flat.
struct Optimizer {
    moments: HashMap<u64, [Tensor<1>; 2]>,
    gradients: Option<Gradients>,
    time: usize,
}

impl ModuleMapper for Optimizer {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let grad = self.gradients.as_mut().and_then(|grads| value.grad_remove(grads));
        let Some(grad) = grad else { return Param::from_mapped_value(id, value, mapper) };
        let shape = value.dims();
        let weight = value.inner();
        let count = weight.shape().num_elements();
        let moments = self.moments.remove(&id.val());
        let moments = match moments {
            Some(moments) => moments.map(|moment| moment.reshape(shape)),
            None => [weight.zeros_like(), weight.zeros_like()],
        };
        let step = AdamStep { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, rate: 1e-3, time: self.time };
        let (weight, moments) = adam(weight, grad, moments, &step);
        self.moments.insert(id.val(), moments.map(|moment| moment.reshape([count])));
        Param::from_mapped_value(id, Tensor::from_inner(weight).require_grad(), mapper)
    }
}

fn time<M: Module>(mut network: M, loss: impl Fn(&M) -> Tensor<1>) {
    let mut optimizer = Optimizer { moments: HashMap::new(), gradients: None, time: 0 };
    println!("{} parameters", network.num_params());
    let (mut times, mut cpus) = (Vec::new(), 0.0);
    let repeats: usize = std::env::var("STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);
    for step in 0..repeats + 2 {
        if step == 2 {
            ddpm_kernels::clock::reset();
        }
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let value = loss(&network);
        let scalar: f32 = value.clone().inner().into_scalar();
        let forward = start.elapsed();
        optimizer.gradients = Some(value.backward());
        let backward = start.elapsed();
        optimizer.time += 1;
        network = network.map(&mut optimizer);
        let all = start.elapsed();
        assert!(scalar.is_finite());
        let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
        if step >= 2 {
            cpus += cpu_seconds() - cpu;
            times.push([ms(all), ms(forward), ms(backward - forward), ms(all - backward)]);
        }
    }
    for (name, calls, time) in ddpm_kernels::clock::read() {
        let ms = time.as_secs_f64() * 1e3 / repeats as f64;
        println!("{name:<50} {:>5.1} calls {ms:>8.2} ms", calls as f64 / repeats as f64);
    }
    times.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let show = |name: &str, t: [f64; 4]| {
        println!("{name}: step {:.2} ms (forward {:.2}, backward {:.2}, Adam {:.2})", t[0], t[1], t[2], t[3]);
    };
    println!("{:.2} ms of the processor a step", cpus * 1e3 / repeats as f64);
    show("minimum", times[0]);
    show("median", times[times.len() / 2]);
}

/// What all threads have run so far.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let nanoseconds = threads.map(|thread| {
        let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        text.split_whitespace().next().unwrap().parse::<f64>().unwrap()
    });
    nanoseconds.sum::<f64>() * 1e-9
}

fn diffusion(steps: usize) -> GaussianDiffusion {
    let schedule = ScheduleConfig::Linear { steps, beta_start: 1e-4, beta_end: 0.02 };
    GaussianDiffusion::new(schedule.init().unwrap(), Prediction::Eps, Variance::FixedSmall)
}

fn normal<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn csdi(variables: usize, device: &Device) {
    let (batch, length) = (16, 48);
    let network = CsdiConfig { variables, ..CsdiConfig::default() }.init(device).unwrap();
    let values = normal([batch, variables, length], device);
    let given = values.clone().greater_elem(0.0).float();
    let series = MaskedSeries::new(values.clone(), values.ones_like(), given.clone());
    let times: Tensor<2> = Tensor::<1, burn::tensor::Int>::arange(0..length as i64, device)
        .float()
        .unsqueeze_dim::<2>(0)
        .expand([batch, length]);
    let noise = normal([batch, variables, length], device);
    let t: Vec<usize> = (0..batch).map(|row| row * 3).collect();
    let diffusion = diffusion(50);
    time(network, |network| {
        let side = network.side_information(times.clone(), None, given.clone());
        network.loss(&series, side, &diffusion, &t, noise.clone(), &Pass::default())
    });
}

fn sssd(length: usize, full: bool, device: &Device) {
    let (batch, channels) = (8, 4);
    let small = SssdConfig {
        in_channels: channels,
        out_channels: channels,
        length,
        residual_channels: 64,
        skip_channels: 64,
        layers: 6,
        ..SssdConfig::default()
    };
    let original = SssdConfig { residual_channels: 256, skip_channels: 256, layers: 36, ..small.clone() };
    let network = if full { original } else { small }.init(device).unwrap();
    let start = Instant::now();
    let bases = network.bases(length).unwrap();
    println!("bases in {:.2} s", start.elapsed().as_secs_f64());
    let values = normal([batch, channels, length], device);
    let mask = values.clone().greater_elem(0.0).float();
    let noise = normal([batch, channels, length], device);
    let observed = Observations { values: values.clone(), mask: mask.clone() };
    let t: Tensor<1> = Tensor::<1, burn::tensor::Int>::arange(0..batch as i64, device).float() * 20.0;
    time(network, |network| {
        let output = network.forward(values.clone() + noise.clone(), &observed, t.clone(), &bases, &Pass::default());
        missing_mse(output, noise.clone(), mask.clone())
    });
}

fn timegrad(variables: usize, device: &Device) {
    let (batch, context, horizon, lags) = (64, 12, 12, vec![1, 2, 7]);
    let config = TimeGradConfig {
        variables,
        context_length: context,
        prediction_length: horizon,
        lags,
        dropout: 0.0,
        ..TimeGradConfig::default()
    };
    let network = config.init(device).unwrap();
    let past = config.history_length();
    let windows = |batch: usize, device: &Device| Windows {
        past_values: normal([batch, past, variables], device),
        past_observed: Tensor::ones([batch, past, variables], device),
        past_features: normal([batch, past, 4], device),
        future_values: Some(normal([batch, horizon, variables], device)),
        future_observed: Some(Tensor::ones([batch, horizon, variables], device)),
        future_features: normal([batch, horizon, 4], device),
    };
    let training = windows(batch, device);
    let noise = normal([batch * (context + horizon), 1, variables], device);
    let t: Vec<usize> = (0..batch * (context + horizon)).map(|row| row * 7 % 100).collect();
    let diffusion = diffusion(100);
    let plain = device.clone().without_autodiff();
    let inference = network.valid();
    for count in [1, 4] {
        let known = windows(count, &plain);
        for _ in 0..2 {
            let start = Instant::now();
            let samples = ddpm_kernels::among_the_kernels(&plain, || {
                inference.forecast(&known, 100, &diffusion, |_, _| normal([count * 100, 1, variables], &plain))
            });
            drop(samples.into_data());
            println!("forecast of {count} windows, 100 paths: {:.3} s", start.elapsed().as_secs_f64());
        }
    }
    time(network, |network| network.loss(&training, &diffusion, Loss::L2, &t, noise.clone()).unwrap());
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let size: usize = arguments[2].parse().unwrap();
    let device = Device::default().autodiff();
    device.seed(1);
    match arguments[1].as_str() {
        "csdi" => csdi(size, &device),
        "sssd" => sssd(size, false, &device),
        "sssd-full" => sssd(size, true, &device),
        "timegrad" => timegrad(size, &device),
        other => panic!("no network {other:?}"),
    }
}
