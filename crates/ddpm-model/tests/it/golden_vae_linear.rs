//! The linear-Gaussian VAE of `fixtures/vae/linear_gaussian` as a perceptron without hidden layers: at the maximum of the
//! likelihood its bound is the likelihood of every row, and elsewhere it is lower by the divergence from the true posterior.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_model::autoencoder::perceptron::{Activation, Perceptron, PerceptronConfig};
use ddpm_model::likelihood::gaussian;
use ddpm_model::pass::Pass;
use ddpm_testing::support::*;
use serde_json::Value;

use crate::vae_parts;

/// The fixture, in one precision.
struct Linear {
    meta: Value,
    data: Safetensors,
    device: Device,
    dtype: DType,
}

impl Linear {
    fn all() -> Vec<Self> {
        let parts =
            vae_parts("linear").into_iter().flat_map(|folder| [DType::F32, DType::F64].map(|d| (folder.clone(), d)));
        parts
            .map(|(folder, dtype)| {
                let meta = read_json(folder.join("meta.json"));
                let data = Safetensors::open(folder.join("data.safetensors"));
                Self { meta, data, device: Device::default(), dtype }
            })
            .collect()
    }

    fn sizes(&self) -> [usize; 2] {
        ["dim", "latent"].map(|key| whole(&self.meta, key))
    }

    /// The network with these parameters: W and A, a, logvar of the encoder.
    fn network(&self, [weight, a, shift, log_variance]: [&str; 4]) -> Perceptron {
        let [dim, latent] = self.sizes();
        let config = PerceptronConfig { hidden: Vec::new(), latent, activation: Activation::Relu };
        let stored = |name: &str| (self.data.f64(name), self.data.shape(name));
        let mut load = Load {
            // The log variance is the same for every row.
            values: [
                ("mean.weight", stored(a)),
                ("mean.bias", stored(shift)),
                ("log_variance.weight", (vec![0.0; dim * latent], vec![latent, dim])),
                ("log_variance.bias", stored(log_variance)),
                ("out.weight", stored(weight)),
                ("out.bias", stored("mu")),
            ],
            path: Vec::new(),
            dtype: self.dtype,
        };
        config.init([dim, 1, 1], dim, &self.device).map(&mut load)
    }

    /// The bound of each row. For a linear decoder the mean over z of log p(x|z) is in closed form: its value at the mean of
    /// the posterior, less `v_k |W_k|^2 / (2 sigma^2)` for each dimension of the latent.
    fn elbo(&self, network: &Perceptron) -> Vec<f64> {
        let [dim, latent] = self.sizes();
        let x: Tensor<4> = self.data.tensor("x", &self.device, self.dtype);
        let (rows, pass) = (x.dims()[0], Pass::default());
        let posterior = network.encode(x.clone(), &pass);
        let at_mean = network.decode(posterior.mean(), &pass);
        // Without a look at the weights: what the decoder makes of each axis of the latent.
        let axes = Tensor::<2>::eye(latent, &self.device).cast(self.dtype).reshape([latent, latent, 1, 1]);
        let columns = network.decode(axes.clone(), &pass) - network.decode(axes.zeros_like(), &pass);
        let squares: Tensor<2> = columns.square().flatten::<2>(1, 3).sum_dim(1).reshape([1, latent]);
        let variance: Tensor<2> = posterior.log_variance().exp().flatten(1, 3);
        let sigma2 = number(&self.meta, "sigma2");
        let log_sigma = Tensor::full([1, 1], 0.5 * sigma2.ln(), (&self.device, self.dtype));
        let log_px = gaussian::log_prob(x.reshape([rows, dim]), at_mean.reshape([rows, dim]), log_sigma).sum_dim(1);
        let spread = (variance * squares).sum_dim(1).mul_scalar(0.5 / sigma2);
        values((log_px - spread).reshape([rows]) - posterior.kl())
    }

    fn check(&self, name: &str, found: &[f64], wanted: &[f64]) {
        let key = if self.dtype == DType::F64 { "tol_f64" } else { "tol_f32" };
        assert_close(
            found,
            wanted,
            number(&self.meta, key),
            &format!("{} {name} {:?}", text(&self.meta, "id"), self.dtype),
        );
    }
}

/// Values with their shape.
type Stored = (Vec<f64>, Vec<usize>);

/// Puts values, with matrices `[out, in]`, in place of those drawn.
struct Load<'a> {
    values: [(&'a str, Stored); 6],
    path: Vec<String>,
    dtype: DType,
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let (_, (values, shape)) = self.values.iter().find(|(ours, _)| *ours == name).expect(&name);
        param.map(|value| {
            let data = TensorData::new(values.clone(), fit::<D>(shape));
            let stored = Tensor::<D>::from_data(data, (&value.device(), self.dtype));
            let stored = if D == 2 { stored.transpose() } else { stored };
            assert_eq!(stored.dims(), value.dims(), "{name}");
            stored
        })
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn at_the_maximum_the_bound_is_the_likelihood_of_every_row() {
    for part in Linear::all() {
        let elbo = part.elbo(&part.network(["W", "encoder_A", "encoder_a", "encoder_logvar"]));
        part.check("elbo", &elbo, &part.data.f64("elbo"));
        part.check("log_likelihood", &elbo, &part.data.f64("log_likelihood"));
        part.check("per datum", &[mean(&elbo)], &[number(&part.meta, "log_likelihood_per_datum")]);
    }
}

#[test]
fn elsewhere_it_is_lower_by_the_divergence_from_the_true_posterior() {
    for part in Linear::all() {
        let elbo = part.elbo(&part.network(["W_rotated", "off_A", "off_a", "off_logvar"]));
        part.check("off_elbo", &elbo, &part.data.f64("off_elbo"));
        let likelihood = part.data.f64("off_log_likelihood");
        let gap: Vec<f64> = likelihood.iter().zip(&elbo).map(|(likelihood, elbo)| likelihood - elbo).collect();
        part.check("off_gap", &gap, &part.data.f64("off_gap"));
        part.check("off per datum", &[mean(&elbo)], &[number(&part.meta, "off_elbo_per_datum")]);
    }
}
