//! Variational autoencoders of dense layers with given noise against `fixtures/vae`: values, losses and gradients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor};
use ddpm_model::autoencoder::diagonal_gaussian::DiagonalGaussian;
use ddpm_model::autoencoder::elbo::{KlTerm, importance_weighted_bound, log_importance_weight, loss};
use ddpm_model::autoencoder::perceptron::{Activation, Perceptron, PerceptronConfig};
use ddpm_model::likelihood::{bernoulli, gaussian};
use ddpm_model::pass::Pass;
use ddpm_testing::gradients::{Matrices, gradients_by_path};
use ddpm_testing::support;
use serde_json::Value;
use support::*;

use crate::vae_parts;

/// A part of the fixtures.
struct Part {
    meta: Value,
    weights: Safetensors,
    io: Safetensors,
    gradients: Safetensors,
    device: Device,
}

/// What one noise gives.
struct Draw {
    posterior: DiagonalGaussian<4>,
    z: Tensor<4>,
    out: Tensor<2>,
    log_px: Tensor<1>,
}

impl Part {
    fn all() -> Vec<Self> {
        vae_parts("dense")
            .into_iter()
            .map(|folder| {
                let open = |name: &str| Safetensors::open(folder.join(format!("{name}.safetensors")));
                Self {
                    meta: read_json(folder.join("meta.json")),
                    weights: open("weights"),
                    io: open("io"),
                    gradients: open("grads"),
                    device: Device::flex().autodiff(),
                }
            })
            .collect()
    }

    fn network(&self) -> Perceptron {
        let config = PerceptronConfig {
            hidden: whole_numbers(&self.meta["hidden"]),
            latent: whole(&self.meta, "latent"),
            activation: match text(&self.meta, "act") {
                "relu" => Activation::Relu,
                "tanh" => Activation::Tanh,
                "silu" => Activation::Silu,
                "gelu" => Activation::Gelu,
                other => panic!("activation {other}"),
            },
        };
        let network = config.init([whole(&self.meta, "dim"), 1, 1], whole(&self.meta, "dim"), &self.device);
        network.map(&mut Load { weights: &self.weights, path: Vec::new() })
    }

    /// `ln sigma` of a Gaussian likelihood: given, or a parameter of each dimension.
    fn log_sigma(&self) -> Option<Tensor<2>> {
        if text(&self.meta, "likelihood") == "bernoulli" {
            return None;
        }
        Some(match self.meta["sigma"].as_f64() {
            Some(sigma) => Tensor::full([1, 1], sigma.ln(), &self.device),
            None => {
                let values: Tensor<1> = self.weights.tensor("log_sigma", &self.device, DType::F32);
                let dims = values.dims()[0];
                values.reshape([1, dims]).require_grad()
            }
        })
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        self.io.tensor(name, &self.device, DType::F32)
    }

    /// The pass with noise number `k`.
    fn draw(&self, network: &Perceptron, log_sigma: Option<&Tensor<2>>, k: usize) -> Draw {
        let x: Tensor<2> = self.input("x");
        let [rows, dims] = x.dims();
        let posterior = network.encode(x.clone().reshape([rows, dims, 1, 1]), &Pass::default());
        let latent = whole(&self.meta, "latent");
        let noise: Tensor<3> = self.input("eps");
        let z = posterior.sample(noise.narrow(0, k, 1).reshape([rows, latent, 1, 1]));
        let out = network.decode(z.clone(), &Pass::default()).reshape([rows, dims]);
        let log_p = match log_sigma {
            None => bernoulli::log_prob(x, out.clone()),
            Some(log_sigma) => gaussian::log_prob(x, out.clone(), log_sigma.clone()),
        };
        Draw { posterior, z, out, log_px: log_p.sum_dim(1).reshape([rows]) }
    }

    fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        let tolerance = number(&self.meta["f32_vs_f64"][name], "tol_abs_f32");
        assert_close(&values(found), &self.io.f64(name), tolerance, &format!("{} {name}", text(&self.meta, "id")));
    }

    fn check_gradients(&self, name: &str, loss: Tensor<1>, network: &Perceptron, log_sigma: Option<&Tensor<2>>) {
        let wanted = number(&self.meta["losses"][name], "f64");
        let found = loss.clone().into_scalar::<f64>();
        let what = format!("{} {name}", text(&self.meta, "id"));
        assert!((found - wanted).abs() <= 1e-5 * wanted.abs().max(1.0), "{what}: {found} {wanted}");
        let gradients = loss.backward();
        let found = gradients_by_path(network, &gradients, Matrices::OutIn);
        let mut found: Vec<_> = found.into_iter().map(|(path, gradient)| (name_of(&path), gradient)).collect();
        if let Some(gradient) = log_sigma.and_then(|log_sigma| log_sigma.grad(&gradients)) {
            found.push(("log_sigma".into(), values(gradient)));
        }
        assert!(found.len() >= self.weights.names().len(), "{what}: {} gradients", found.len());
        for (parameter, found) in found {
            let wanted = self.gradients.f64(&format!("{name}/{parameter}"));
            let apart = norm(found.iter().zip(&wanted).map(|(a, b)| a - b));
            let bound = number(&self.meta, "tol_grad_relative_norm") * norm(wanted.iter().copied())
                + number(&self.meta, "tol_grad_abs_per_element") * (wanted.len() as f64).sqrt();
            assert!(found.len() == wanted.len() && apart <= bound, "{what} {parameter}: {apart} over {bound}");
        }
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Their name of a parameter of ours.
fn name_of(path: &str) -> String {
    path.replace("mean.", "mu.").replace("log_variance.", "logvar.")
}

/// Puts the stored weights in place of those drawn.
struct Load<'a> {
    weights: &'a Safetensors,
    path: Vec<String>,
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = name_of(&self.path.join("."));
        let (id, value, mapper) = param.consume();
        let stored: Tensor<D> = self.weights.tensor(&name, &value.device(), DType::F32);
        // Theirs are [out, in].
        let stored = if D == 2 { stored.transpose() } else { stored };
        assert_eq!(stored.dims(), value.dims(), "{name}");
        Param::from_mapped_value(id, stored.detach().require_grad(), mapper)
    }
}

#[test]
fn values_are_those_of_the_fixtures() {
    for part in Part::all() {
        let (network, log_sigma) = (part.network(), part.log_sigma());
        let Draw { posterior, z, out, log_px } = part.draw(&network, log_sigma.as_ref(), 0);
        part.check("mu", posterior.mean());
        part.check("logvar", posterior.log_variance());
        part.check("z", z);
        part.check("out", out);
        part.check("log_px", log_px.clone());
        part.check("kl_dim", posterior.kl_by_dimension());
        part.check("kl", posterior.kl());
        part.check("elbo", log_px - posterior.kl());

        let draws = part.input::<3>("eps").dims()[0];
        let all: Vec<Draw> = (0..draws).map(|k| part.draw(&network, log_sigma.as_ref(), k)).collect();
        let log_px = Tensor::stack::<2>(all.iter().map(|draw| draw.log_px.clone()).collect(), 0);
        part.check("log_px_all", log_px.clone());
        let rows = log_px.dims()[1];
        part.check(&format!("elbo_{draws}"), log_px.mean_dim(0).reshape([rows]) - posterior.kl());
        let weights = all.iter().map(|d| log_importance_weight(d.log_px.clone(), &d.posterior, d.z.clone())).collect();
        let log_w = Tensor::stack::<2>(weights, 0);
        part.check("log_w", log_w.clone());
        for k in [1, 5, draws] {
            part.check(&format!("iwae_{k}"), importance_weighted_bound(log_w.clone().narrow(0, 0, k)));
        }
    }
}

#[test]
fn losses_and_all_gradients_are_those_of_the_fixtures() {
    for part in Part::all() {
        let hyper = |key: &str| number(&part.meta["hyper"], key);
        let terms = [
            ("elbo", KlTerm::Weighted { beta: 1.0, free_bits: 0.0 }),
            ("beta_h", KlTerm::Weighted { beta: hyper("beta"), free_bits: 0.0 }),
            ("capacity_b", KlTerm::Capacity { gamma: hyper("gamma"), capacity: hyper("capacity") }),
            ("free_bits", KlTerm::Weighted { beta: 1.0, free_bits: hyper("free_bits") }),
        ];
        for (name, term) in terms {
            let (network, log_sigma) = (part.network(), part.log_sigma());
            let draw = part.draw(&network, log_sigma.as_ref(), 0);
            let kl: Tensor<2> = draw.posterior.kl_by_dimension().flatten(1, 3);
            part.check_gradients(name, loss(draw.log_px, kl, term), &network, log_sigma.as_ref());
        }
        let (network, log_sigma) = (part.network(), part.log_sigma());
        let weight = |k| {
            let Draw { posterior, z, log_px, .. } = part.draw(&network, log_sigma.as_ref(), k);
            log_importance_weight(log_px, &posterior, z)
        };
        let bound = importance_weighted_bound(Tensor::stack::<2>((0..5).map(weight).collect(), 0));
        part.check_gradients("iwae_5", -bound.mean(), &network, log_sigma.as_ref());
    }
}
