//! Our side of the measurement of networks of latent diffusion.

use std::time::Instant;

use anyhow::bail;
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use ddpm_data::random::{Stream, mix};
use ddpm_families::parameters::settle;
use ddpm_kernels::{Precision, among_the_kernels};
use ddpm_model::condition::{Condition, Tokens};
use ddpm_model::network::Network;
use serde_json::json;

use super::latent::Latent;
use super::worker::{Plan, Worker, answer_commands, data_info, measure, name_of, operations};
use ddpm_train::memory::peak_mib;

/// Answers commands until there are no more.
pub(super) fn run(
    latent: Latent,
    device: &Device,
    gradient_checkpointing: bool,
    precision: Precision,
) -> anyhow::Result<()> {
    if latent.trains() {
        let [_, channels, height, width] = latent.dims();
        let data = data_info(vec![channels, height, width]);
        let condition = move |device: &Device| Condition::Tokens(tokens(latent, device));
        let plan = Plan { network: latent.network(), data, batch: latent.dims()[0], condition: Box::new(condition) };
        return Worker::new(plan, device, gradient_checkpointing, precision)?.run(precision);
    }
    device.seed(mix(0, Stream::Init, 0));
    let network = settle(latent.network().init(device).in_precision(precision.on(device)).with_kept_weights());
    let parameters = network.num_params();
    let step = Step { network, latent, device: device.clone() };
    answer_commands(&name_of(precision), parameters, |command, number| {
        Ok(match command {
            "forward" => measure(number, || step.take()),
            "memory" => json!({ "peak_mib": peak_mib().unwrap_or(0.0) }),
            "profile" => step.profile(number),
            other => bail!("no such command: {other}"),
        })
    })
}

fn tokens(latent: Latent, device: &Device) -> Tokens {
    let [count, width] = latent.tokens();
    Tokens::new(Tensor::random([latent.dims()[0], count, width], Distribution::Normal(0.0, 1.0), device))
}

/// A denoising step of a network that is not trained.
struct Step {
    network: Network,
    latent: Latent,
    device: Device,
}

impl Step {
    fn take(&self) {
        let x = Tensor::<4>::random(self.latent.dims(), Distribution::Normal(0.0, 1.0), &self.device);
        let t = Tensor::<1>::full([self.latent.dims()[0]], 500.0, &self.device);
        let condition = Condition::Tokens(tokens(self.latent, &self.device));
        let y = among_the_kernels(&self.device, || self.network.forward(x, t, &condition));
        y.sum().into_scalar::<f32>();
    }

    fn profile(&self, steps: usize) -> serde_json::Value {
        self.take();
        ddpm_kernels::clock::reset();
        let start = Instant::now();
        (0..steps).for_each(|_| self.take());
        operations(start.elapsed().as_secs_f64() * 1e3 / steps as f64, steps)
    }
}
