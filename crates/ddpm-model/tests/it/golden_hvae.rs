//! The hierarchical VAE against VDVAE's modules (`fixtures/vae/hvae`): all values and all gradients, in f32 by the kernels
//! and in f64 by Burn's operations.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::f64::consts::LN_2;
use std::path::PathBuf;

use burn::module::{Module, ModuleMapper, Param};
use burn::store::{ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{DType, Device, Tensor};
use ddpm_model::hvae::{Hvae, HvaeConfig, TopDown};
use ddpm_model::likelihood::logistic_mixture::Tails;
use ddpm_model::likelihood::{PixelLikelihood, Uniforms};
use ddpm_model::pass::Pass;
use ddpm_testing::gradients::{Matrices, gradients_by_path};
use ddpm_testing::support;
use serde_json::Value;
use support::*;

use crate::vae_parts;

/// What a run in f64 may be off by, relative to the largest value.
const TOLERANCE_F64: f64 = 1e-9;

/// One folder, in one of the two widths.
struct Golden {
    folder: PathBuf,
    meta: Value,
    io: Safetensors,
    dtype: DType,
    device: Device,
    network: Hvae,
}

/// Every part in both widths.
fn all() -> Vec<Golden> {
    let both = |folder: PathBuf| [DType::F32, DType::F64].map(|dtype| Golden::open(folder.clone(), dtype));
    vae_parts("hvae").into_iter().flat_map(both).collect()
}

fn config(meta: &Value) -> HvaeConfig {
    let config = &meta["config"];
    let likelihood = PixelLikelihood::LogisticMixture {
        mixtures: whole(config, "num_mixtures"),
        levels: 256,
        tails: Tails::Density,
    };
    HvaeConfig {
        image_channels: whole(config, "image_channels"),
        image_size: whole(config, "image_size"),
        encoder: text(config, "enc_blocks").into(),
        decoder: text(config, "dec_blocks").into(),
        width: whole(config, "width"),
        custom_widths: text(config, "custom_width_str").into(),
        bottleneck_multiple: number(config, "bottleneck_multiple"),
        latent_channels: whole(config, "zdim"),
        no_bias_above: whole(config, "no_bias_above"),
        residual_posterior: false,
        likelihood,
    }
}

/// The same weights in f64.
struct Wide;

impl ModuleMapper for Wide {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        Param::from_mapped_value(id, value.cast(DType::F64).detach().require_grad(), mapper)
    }
}

impl Golden {
    fn open(folder: PathBuf, dtype: DType) -> Self {
        let meta = read_json(folder.join("meta.json"));
        let device = Device::default().autodiff();
        let mut network = config(&meta).init(&device).unwrap();
        assert_eq!(network.num_params(), whole(&meta, "params"));
        // Names that are missing or left over are errors: ours are VDVAE's.
        let mut store =
            SafetensorsStore::from_file(folder.join("weights.safetensors")).with_from_adapter(PyTorchToBurnAdapter);
        let applied = network.load_from(&mut store).unwrap();
        assert!(applied.missing.is_empty() && applied.unused.is_empty(), "{applied}");
        let network = if dtype == DType::F64 { network.map(&mut Wide) } else { network };
        let io = Safetensors::open(folder.join("io.safetensors"));
        Self { folder, meta, io, dtype, device, network }
    }

    fn tensor(&self, name: &str) -> Tensor<4> {
        self.io.tensor(name, &self.device, self.dtype)
    }

    /// A tensor `[B, H, W, C]` with the channels second.
    fn channels_second(&self, name: &str) -> Tensor<4> {
        self.tensor(name).permute([0, 3, 1, 2])
    }

    fn noises(&self, prefix: &str) -> Vec<Tensor<4>> {
        let blocks = cases(&self.meta, "blocks").len();
        let noises: Vec<Tensor<4>> = (0..blocks).map(|i| self.tensor(&format!("{prefix}{i}"))).collect();
        let shapes: Vec<[usize; 4]> = noises.iter().map(|noise| noise.dims()).collect();
        assert_eq!(shapes, self.network.noise_shapes(whole(&self.meta, "batch")));
        noises
    }

    fn posterior_pass(&self) -> TopDown {
        self.network.forward(self.channels_second("x"), self.noises("eps"), &Pass::default())
    }

    fn check(&self, name: &str, found: Vec<f64>) {
        let wanted = self.io.f64(&format!("{name}_f64"));
        let tolerance = match self.dtype {
            DType::F64 => TOLERANCE_F64 * wanted.iter().fold(1.0_f64, |scale, value| scale.max(value.abs())),
            _ => number(&self.meta["f32_vs_f64"][name], "tol_abs_f32"),
        };
        assert_close(&found, &wanted, tolerance, &format!("{} {name} {:?}", self.folder.display(), self.dtype));
    }

    fn check_channels_last(&self, name: &str, found: Tensor<4>) {
        self.check(name, values(found.permute([0, 2, 3, 1])));
    }

    /// Rate, distortion and ELBO of every image, in nats per value.
    fn elbo(&self, pass: &TopDown) -> [Tensor<1>; 3] {
        let target = self.channels_second("target");
        let [_, channels, height, width] = target.dims();
        // Not divided: Burn's gradient of a division by a number rounds its inverse to f32.
        let per_value = 1.0 / (channels * height * width) as f64;
        let rate = pass.kl() * per_value;
        let distortion = self.network.config().likelihood.log_prob(pass.output.clone(), target) * -per_value;
        [rate.clone(), distortion.clone(), rate + distortion]
    }
}

#[test]
fn the_blocks_are_those_of_vdvae() {
    for folder in vae_parts("hvae") {
        let meta = read_json(folder.join("meta.json"));
        let layout = config(&meta).layout().unwrap();
        let found: Vec<(usize, Option<usize>)> =
            layout.decoder.iter().map(|block| (block.resolution, block.mixin)).collect();
        let wanted: Vec<(usize, Option<usize>)> = cases(&meta, "blocks")
            .iter()
            .map(|block| (whole(block, "resolution"), block["mixin"].as_u64().map(|mixin| mixin as usize)))
            .collect();
        assert_eq!(found, wanted);
    }
}

#[test]
fn states_of_the_encoder_are_those_of_vdvae() {
    for golden in all() {
        let shift = number(&golden.meta, "input_shift");
        let pixels = golden.io.i64("pixels");
        let scaled: Vec<f64> =
            pixels.iter().map(|&pixel| (pixel as f64 + shift) * number(&golden.meta, "input_scale")).collect();
        assert_close(&values(golden.tensor("x")), &scaled, 1e-5, "x");
        let activations = golden.network.encode(golden.channels_second("x"), &Pass::default());
        let names = golden.io.names().into_iter().filter(|name| name.starts_with("activation_"));
        assert_eq!(names.count(), 2 * activations.len(), "each in f32 and f64");
        for (resolution, activation) in activations {
            golden.check(&format!("activation_{resolution}"), values(activation));
        }
    }
}

#[test]
fn the_posterior_pass_is_that_of_vdvae() {
    for golden in all() {
        let pass = golden.posterior_pass();
        golden.check("px_z", values(pass.state.clone()));
        golden.check_channels_last("dmol", pass.output.clone());
        let kl = pass.kl_of_blocks();
        assert_eq!(kl.len(), cases(&golden.meta, "blocks").len());
        for (i, (latent, kl)) in pass.latents.iter().zip(kl).enumerate() {
            golden.check(&format!("z{i}"), values(latent.value.clone()));
            golden.check(&format!("kl{i}"), values(kl));
        }
        let [rate, distortion, elbo] = golden.elbo(&pass);
        golden.check("rate", values(rate));
        golden.check("distortion", values(distortion));
        golden.check("elbo_nats_per_dim", values(elbo.clone()));
        golden.check("bits_per_dim", values(elbo / LN_2));
    }
}

#[test]
fn prior_passes_and_samples_are_those_of_vdvae() {
    for golden in all() {
        let channels = golden.network.config().image_channels;
        for (suffix, temperature) in [("", 1.0), ("_t0.8", 0.8)] {
            let pass = golden.network.from_prior(golden.noises("prior_eps"), temperature, &Pass::default());
            golden.check(&format!("prior_px_z{suffix}"), values(pass.state));
            golden.check_channels_last(&format!("prior_dmol{suffix}"), pass.output.clone());
            let uniforms = Uniforms {
                mixture: Some(golden.channels_second("uniform_mixture")),
                values: golden.channels_second("uniform_logistic"),
            };
            assert_eq!(uniforms.values.dims()[1], channels);
            let sample = golden.network.config().likelihood.sample(pass.output, uniforms);
            golden.check_channels_last(&format!("prior_sample{suffix}"), sample);
        }
    }
}

#[test]
fn given_latents_lead_to_the_same_output() {
    for golden in all() {
        let pass = golden.posterior_pass();
        let latents = pass.latents.iter().map(|latent| latent.value.clone()).collect();
        let again = golden.network.decode(latents, &Pass::default());
        golden.check_channels_last("dmol", again.output);
    }
}

#[test]
fn gradients_are_those_of_vdvae() {
    for golden in all() {
        let [_, _, elbo] = golden.elbo(&golden.posterior_pass());
        let loss = elbo.mean();
        check_loss(&golden, values(loss.clone())[0]);
        let gradients = loss.backward();
        let found = gradients_by_path(&golden.network, &gradients, Matrices::InOut);
        let file = Safetensors::open(golden.folder.join("grads.safetensors"));
        assert_eq!(2 * found.len(), file.names().len(), "each in f32 and f64");
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        for (name, found) in found {
            let wanted = file.f64(&format!("{name}_f64"));
            assert_eq!(found.len(), wanted.len(), "{name}");
            let error = norm(&mut found.iter().zip(&wanted).map(|(f, w)| f - w));
            let (relative, per_element) = match golden.dtype {
                DType::F64 => (TOLERANCE_F64, TOLERANCE_F64),
                _ => (number(&golden.meta, "tol_grad_relative_norm"), number(&golden.meta, "tol_grad_abs_per_element")),
            };
            let allowed = relative * norm(&mut wanted.iter().copied()) + per_element * (wanted.len() as f64).sqrt();
            assert!(error <= allowed, "{name} {:?}: off by {error:e}, allowed {allowed:e}", golden.dtype);
        }
    }
}

fn check_loss(golden: &Golden, found: f64) {
    let wanted = number(&golden.meta, "elbo_f64");
    let tolerance = if golden.dtype == DType::F64 { TOLERANCE_F64 } else { 2e-5 };
    assert_close(&[found], &[wanted], tolerance * wanted.abs().max(1.0), "elbo");
}
