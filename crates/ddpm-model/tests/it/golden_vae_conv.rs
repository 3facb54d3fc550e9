//! The network of PyTorch-VAE's `VanillaVAE` against `fixtures/vae/conv`: evaluation, training, what a training pass makes of
//! the running statistics, losses and all gradients; in f32 and in f64.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor};
use ddpm_model::autoencoder::diagonal_gaussian::DiagonalGaussian;
use ddpm_model::autoencoder::elbo::{KlTerm, loss};
use ddpm_model::autoencoder::vanilla::{Vanilla, VanillaConfig};
use ddpm_model::batch_norm::{BatchStatistics, with_statistics};
use ddpm_model::pass::Pass;
use ddpm_testing::support::*;
use serde_json::Value;

use crate::vae_parts;

/// What f64 may be off by, of a value of 1.
const TOLERANCE_F64: f64 = 1e-9;

/// A part of the fixtures, in one precision.
struct Part {
    meta: Value,
    weights: Safetensors,
    io: Safetensors,
    gradients: Safetensors,
    device: Device,
    dtype: DType,
}

/// What comes out of a pass.
struct Output {
    posterior: DiagonalGaussian<4>,
    images: Tensor<4>,
}

impl Part {
    fn all() -> Vec<Self> {
        let parts =
            vae_parts("conv").into_iter().flat_map(|folder| [DType::F32, DType::F64].map(|d| (folder.clone(), d)));
        parts
            .map(|(folder, dtype)| {
                let open = |name: &str| Safetensors::open(folder.join(format!("{name}.safetensors")));
                let meta = read_json(folder.join("meta.json"));
                let [weights, io, gradients] = ["weights", "io", "grads"].map(open);
                Self { meta, weights, io, gradients, device: Device::default().autodiff(), dtype }
            })
            .collect()
    }

    fn what(&self, name: &str) -> String {
        format!("{} {name} {:?}", text(&self.meta, "id"), self.dtype)
    }

    fn network(&self) -> Vanilla {
        let (hidden_dims, latent) = (whole_numbers(&self.meta["hidden_dims"]), whole(&self.meta, "latent"));
        let shape: [usize; 3] = whole_numbers(&self.meta["image"]).try_into().unwrap();
        let config = VanillaConfig { hidden_dims, latent, tanh: Some(true) };
        let network = config.init(shape, shape[0], &self.device);
        let mut load = Load { part: self, path: Vec::new(), loaded: 0 };
        let network = network.map(&mut load);
        let names = self.weights.names();
        let stored = names.iter().filter(|name| !name.ends_with("num_batches_tracked")).count();
        assert_eq!(load.loaded, stored, "{names:?}");
        network
    }

    fn input(&self, name: &str) -> Tensor<4> {
        self.io.tensor(name, &self.device, self.dtype)
    }

    fn forward(&self, network: &Vanilla, pass: &Pass<'_>) -> Output {
        let posterior = network.encode(self.input("x"), pass);
        let images = network.decode(posterior.sample(self.input("eps")), pass);
        Output { posterior, images }
    }

    fn check<const D: usize>(&self, name: &str, found: Tensor<D>) {
        let wanted = self.io.f64(&format!("{name}_f64"));
        let tolerance = match self.dtype {
            DType::F64 => TOLERANCE_F64,
            _ => number(&self.meta["f32_vs_f64"][name], "tol_abs_f32"),
        };
        assert_close(&values(found), &wanted, tolerance, &self.what(name));
    }

    fn check_output(&self, phase: &str, output: &Output) {
        self.check(&format!("{phase}_mu"), output.posterior.mean());
        self.check(&format!("{phase}_logvar"), output.posterior.log_variance());
        self.check(&format!("{phase}_recon"), output.images.clone());
    }

    fn check_number(&self, name: &str, found: Tensor<1>, wanted: &Value) {
        let wanted = number(wanted, &format!("{name}_f64"));
        // Theirs has the capacity in f32, whatever the rest is in.
        let relative = if self.dtype == DType::F64 { 1e-7 } else { 1e-5 };
        let tolerance = relative * wanted.abs().max(1.0);
        assert_close(&values(found), &[wanted], tolerance, &self.what(name));
    }

    /// The mean over all values of the squared errors, plus a term of the divergence.
    fn loss(&self, output: &Output, term: KlTerm) -> Tensor<1> {
        let errors: Tensor<2> = (output.images.clone() - self.input("x")).square().flatten(1, 3);
        let log_px = -errors.mean_dim(1).squeeze_dim::<1>(1);
        loss(log_px, output.posterior.kl_by_dimension().flatten(1, 3), term)
    }
}

/// Their name of a parameter of ours: layers of a sequence have numbers.
fn name_of(path: &[String]) -> String {
    let name = path.join(".").replace("final_conv.", "final_layer.3.");
    name.replace("conv.", "0.").replace("norm.", "1.").replace("gamma", "weight").replace("beta", "bias")
}

/// Puts the stored weights and running statistics in place of those at the start.
struct Load<'a> {
    part: &'a Part,
    path: Vec<String>,
    loaded: usize,
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = name_of(&self.path);
        let stored: Tensor<D> = self.part.weights.tensor(&name, &self.part.device, self.part.dtype);
        // Theirs are [out, in].
        let stored = if D == 2 { stored.transpose() } else { stored };
        self.loaded += 1;
        param.map(|value| {
            assert_eq!(stored.dims(), value.dims(), "{name}");
            let is_trained = value.is_require_grad();
            assert_eq!(is_trained, !name.contains("running_"), "{name}");
            stored.detach().set_require_grad(is_trained)
        })
    }
}

/// The parameters, or their gradients where there are some, by their names.
struct Collect<'a> {
    gradients: Option<&'a Gradients>,
    path: Vec<String>,
    found: Vec<(String, Vec<f64>)>,
}

impl<'a> Collect<'a> {
    fn of(network: &Vanilla, gradients: Option<&'a Gradients>) -> Vec<(String, Vec<f64>)> {
        let mut collect = Self { gradients, path: Vec::new(), found: Vec::new() };
        network.visit(&mut collect);
        collect.found
    }
}

impl ModuleVisitor for Collect<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = match self.gradients {
            Some(gradients) => param.val().grad(gradients),
            None => Some(param.val().inner()),
        };
        if let Some(value) = value {
            let value = if D == 2 { value.transpose() } else { value };
            self.found.push((name_of(&self.path), values(value)));
        }
    }
}

#[test]
fn evaluation_uses_the_running_statistics() {
    for part in Part::all() {
        part.check_output("eval", &part.forward(&part.network(), &Pass::default()));
    }
}

#[test]
fn training_uses_those_of_the_batch_and_moves_the_running_ones() {
    for part in Part::all() {
        let (network, statistics) = (part.network(), BatchStatistics::default());
        part.check_output("train", &part.forward(&network, &Pass::default().training(&statistics)));
        // As long as nobody takes them over they are what they were.
        part.check_output("eval", &part.forward(&network, &Pass::default()));
        let after = Collect::of(&with_statistics(network, &statistics.into_values()), None);
        let wanted: Vec<String> = part.io.names().into_iter().filter(|name| name.starts_with("after/")).collect();
        let wanted: Vec<String> = wanted.into_iter().filter(|name| !name.ends_with("_f64")).collect();
        assert_eq!(after.iter().filter(|(name, _)| name.contains("running_")).count(), wanted.len());
        for name in wanted {
            let (_, found) = after.iter().find(|(ours, _)| name == format!("after/{ours}")).expect(&name);
            part.check(&name, Tensor::<1>::from_data(&found[..], (&Device::default(), DType::F64)));
        }
    }
}

#[test]
fn losses_are_those_of_the_vae_and_both_beta_vaes() {
    for part in Part::all() {
        let statistics = BatchStatistics::default();
        let output = part.forward(&part.network(), &Pass::default().training(&statistics));
        let (weight, beta_vae) = (number(&part.meta, "kl_weight"), &part.meta["beta_vae"]);
        let hyper = |key: &str| number(beta_vae, key);
        let weighted = |beta: f64| KlTerm::Weighted { beta, free_bits: 0.0 };
        let losses = &part.meta["losses"];
        part.check_number("train_loss", part.loss(&output, weighted(weight)), losses);
        part.check_number("train_recon_mse", part.loss(&output, KlTerm::None), losses);
        part.check_number("train_kl", output.posterior.kl().mean(), losses);
        part.check_number("H", part.loss(&output, weighted(hyper("beta") * weight)), beta_vae);
        let share = (hyper("iteration") / hyper("capacity_iterations")).min(1.0);
        let capacity = KlTerm::Capacity { gamma: hyper("gamma") * weight, capacity: hyper("capacity_max") * share };
        part.check_number("B", part.loss(&output, capacity), beta_vae);
    }
}

#[test]
fn gradients_are_those_of_the_fixtures() {
    for part in Part::all() {
        let (network, statistics) = (part.network(), BatchStatistics::default());
        let output = part.forward(&network, &Pass::default().training(&statistics));
        let term = KlTerm::Weighted { beta: number(&part.meta, "kl_weight"), free_bits: 0.0 };
        let gradients = part.loss(&output, term).backward();
        let found = Collect::of(&network, Some(&gradients));
        let names = part.gradients.names();
        assert_eq!(found.len(), names.iter().filter(|name| !name.ends_with("_f64")).count(), "{names:?}");
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        for (parameter, found) in &found {
            let wanted = part.gradients.f64(&format!("{parameter}_f64"));
            let apart: Vec<f64> = found.iter().zip(&wanted).map(|(a, b)| a - b).collect();
            let bound = match part.dtype {
                DType::F64 => TOLERANCE_F64 * norm(&wanted).max(1.0),
                _ => {
                    number(&part.meta, "tol_grad_relative_norm") * norm(&wanted)
                        + number(&part.meta, "tol_grad_abs_per_element") * (wanted.len() as f64).sqrt()
                }
            };
            assert!(
                found.len() == wanted.len() && norm(&apart) <= bound,
                "{}: {} over {bound}",
                part.what(parameter),
                norm(&apart)
            );
        }
        // A normalization takes out what a bias before it adds.
        for name in cases(&part.meta, "near_zero_gradients") {
            let (_, gradient) = found.iter().find(|(ours, _)| name == ours).expect("the bias has a gradient");
            let each = norm(gradient) / (gradient.len() as f64).sqrt();
            assert!(each <= number(&part.meta, "tol_grad_abs_per_element"), "{}: {each}", part.what(&name.to_string()));
        }
    }
}
