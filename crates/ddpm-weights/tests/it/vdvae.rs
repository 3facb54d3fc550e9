//! Checkpoints of VDVAE, whose names a hierarchical VAE has.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot};
use burn::tensor::Device;
use ddpm_model::hvae::HvaeConfig;
use ddpm_model::likelihood::PixelLikelihood;
use ddpm_testing::support::{Safetensors, fixture, number, read_json, text, whole};
use ddpm_weights::{Weights, load_own_names};

fn config() -> HvaeConfig {
    let meta = read_json(fixture("vae/hvae").join("meta.json"));
    let config = &meta["config"];
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
        likelihood: PixelLikelihood::LogisticMixture {
            mixtures: whole(config, "num_mixtures"),
            levels: 256,
            tails: Default::default(),
        },
        ..HvaeConfig::default()
    }
}

#[test]
fn a_checkpoint_of_vdvae_is_loaded_by_name() {
    let path = fixture("vae/hvae").join("weights.safetensors");
    let mut network = config().init(&Device::default()).unwrap();
    load_own_names(&mut network, &Weights::open(&path).unwrap()).unwrap();
    let file = Safetensors::open(&path);
    let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    assert_eq!(tensors.len(), file.names().len());
    for tensor in tensors {
        let values: Vec<f64> = burn::store::bridge::into_data(tensor.clone()).unwrap().iter::<f64>().collect();
        assert_eq!(values, file.f64(&tensor.name), "{}", tensor.name);
    }
}

#[test]
fn a_checkpoint_of_another_network_is_refused_with_every_key() {
    let path = fixture("vae/hvae").join("weights.safetensors");
    let own = config();
    let deeper = HvaeConfig { decoder: format!("{},{}", own.decoder, own.image_size), ..own.clone() };
    let mut network = deeper.init(&Device::default()).unwrap();
    let error = load_own_names(&mut network, &Weights::open(&path).unwrap()).unwrap_err().to_string();
    let block = own.layout().unwrap().decoder.len();
    assert!(error.contains(&format!("decoder.dec_blocks.{block}.z_proj.weight is missing")), "{error}");
    let mut network = HvaeConfig { latent_channels: own.latent_channels + 1, ..own }.init(&Device::default()).unwrap();
    let error = load_own_names(&mut network, &Weights::open(&path).unwrap()).unwrap_err().to_string();
    assert!(error.contains("decoder.dec_blocks.0.z_proj.weight"), "{error}");
}
