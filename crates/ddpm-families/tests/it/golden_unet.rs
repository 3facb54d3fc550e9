//! The U-Net against networks of diffusers: their configuration there and back, outputs, the sinusoids of the time,
//! and all gradients.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use ddpm_families::diffusers::unet_config::{self, UNetFile};
use ddpm_families::snapshot::load_weights;
use ddpm_model::condition::Condition;
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_model::unet::{UNet, UNetConfig};
use ddpm_testing::gradients::{assert_gradients, gradients};
use ddpm_testing::support;
use serde_json::Value;
use support::*;

#[test]
fn outputs_are_those_of_diffusers() {
    for model in models() {
        let network = model.load(&Device::default());
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        let (mut worst, mut square) = (0.0_f64, true);
        for case in cases(&model.meta, "cases") {
            let found = values(model.forward(&network, &io, case, &Device::default()));
            let wanted = io.f64(text(case, "out_f64"));
            let tolerance = output_tolerance(case, &wanted);
            assert_close(&found, &wanted, tolerance, &format!("{} {}", model.id, text(case, "out")));
            let error = found.iter().zip(&wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
            worst = worst.max(error);
            let shape = whole_numbers(&case["shape"]);
            square &= shape[2] == shape[3];
        }
        println!("{}: off by {worst:.1e} at most, {}", model.id, if square { "square" } else { "also not square" });
    }
}

#[test]
fn sinusoids_are_those_of_diffusers() {
    let mut compared = 0;
    for model in models().into_iter().filter(|model| !model.meta["activations"].is_null()) {
        let activations = Safetensors::open(model.folder.join(text(&model.meta["activations"], "file")));
        let wanted = activations.f64("time_proj");
        let case = &cases(&model.meta, "cases")[0];
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        let t = io.tensor::<1>(text(case, "t"), &Device::default(), DType::F32).narrow(0, 0, 1);
        let (embedding, width) = (model.config.embedding, model.config.base_channels);
        let time = values(t.clone())[0];
        let found = values(embedding.embed(t, width));
        assert_eq!(found.len(), wanted.len(), "{}", model.id);
        // Frequency i is e^-x. Rounding moves x by its share, so the angle by 1 + x of them.
        let half = width / 2;
        for i in 0..found.len() {
            let x = 1e4_f64.ln() * (i % half) as f64 / (half - embedding.frequency_shift) as f64;
            let tolerance = 1e-6 + f64::from(f32::EPSILON) * time * (-x).exp() * (1.0 + x);
            assert_close(&[found[i]], &[wanted[i]], tolerance, &format!("{} {i}", model.id));
        }
        compared += 1;
    }
    assert!(compared > 0, "no fixture has activations");
}

#[test]
fn gradients_are_those_of_diffusers() {
    let mut compared = 0;
    for model in models().into_iter().filter(|model| !model.meta["grad"].is_null()) {
        let device = Device::default().autodiff();
        let network = model.load(&device);
        let io = Safetensors::open(model.folder.join(text(&model.meta, "io")));
        let target = Safetensors::open(model.folder.join(text(&model.meta["grad"], "target_file")));
        let wanted = Safetensors::open(model.folder.join(text(&model.meta["grad"], "grads_file")));

        let y = model.forward(&network, &io, &cases(&model.meta, "cases")[0], &device);
        let [target_name] = target.names().try_into().expect("one target");
        let loss = (y - target.tensor::<4>(&target_name, &device, DType::F32)).square().mean();
        let loss_value = f64::from(loss.clone().into_scalar::<f32>());
        let wanted_loss = number(&model.meta["grad"], "loss_f64");
        assert_close(&[loss_value], &[wanted_loss], 1e-5_f64.max(4e-6 * wanted_loss), &model.id);

        assert_gradients(&gradients(network, &loss), &wanted, [1e-4, 1e-6], &model.id);
        compared += 1;
    }
    assert!(compared > 0, "no fixture has gradients");
}

#[test]
fn a_missing_or_foreign_key_is_an_error() {
    let model = models().remove(0);
    let refuse = |config: UNetConfig, parts: &[&str]| {
        let network = NetworkConfig::UNet(config).init(&Device::default());
        let message = load_weights(network, &model.weights).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    };
    let deeper = model.config.blocks_per_level + 1;
    let last = format!("up_blocks.0.resnets.{deeper}.conv1.weight is missing");
    refuse(UNetConfig { blocks_per_level: deeper, ..model.config.clone() }, &[&last]);
    let foreign = "mid_block.attentions.0.to_q.weight is not part of the network";
    refuse(UNetConfig { middle_attention: false, ..model.config.clone() }, &[foreign]);
}

/// Theirs to ours to theirs: every key that they wrote comes back as it was, except for the names of the blocks that
/// do not resample, of which two mean the same.
#[test]
fn configurations_lead_there_and_back() {
    let root = fixtures_dir().join("unet");
    for entry in cases(&read_json(root.join("index.json")), "models") {
        let json = read_json(root.join(text(entry, "folder")).join("config.json"));
        let UNetFile { config, size } = unet_config::read(&json).unwrap();
        let again = unet_config::write(&config, size).unwrap();
        let same = |way: &str, i: usize| {
            let [found, wanted] = [&again, &json].map(|json| json[way][i].as_str().unwrap());
            let resamples = i + 1 < json[way].as_array().unwrap().len();
            let plain = |name: &str| name.starts_with("Resnet") || !name.starts_with("Attn");
            assert!(found == wanted || (!resamples && plain(found) && plain(wanted)), "{way} {i}: {found} {wanted}");
        };
        for (key, value) in json.as_object().unwrap().iter().filter(|(key, _)| !key.starts_with("_diffusers")) {
            match key.as_str() {
                way @ ("down_block_types" | "up_block_types") => {
                    (0..value.as_array().unwrap().len()).for_each(|i| same(way, i));
                }
                key => assert_eq!(&again[key], value, "{} {key}", text(entry, "id")),
            }
        }
        assert_eq!(unet_config::read(&again).unwrap(), UNetFile { config, size });
    }
}

/// One folder of `unet/`.
struct Model {
    id: String,
    folder: std::path::PathBuf,
    weights: std::path::PathBuf,
    meta: Value,
    config: UNetConfig,
}

/// All models whose weights are safetensors.
fn models() -> Vec<Model> {
    let root = fixtures_dir().join("unet");
    let index = read_json(root.join("index.json"));
    let models: Vec<Model> = cases(&index, "models")
        .iter()
        .filter(|entry| text(entry, "weights").ends_with(".safetensors"))
        .map(|entry| Model::open(&root, entry))
        .collect();
    assert!(!models.is_empty(), "no model has safetensors");
    models
}

impl Model {
    fn open(root: &Path, entry: &Value) -> Self {
        let folder = root.join(text(entry, "folder"));
        let UNetFile { config, size } = unet_config::read(&read_json(folder.join("config.json"))).unwrap();
        let meta = read_json(folder.join("meta.json"));
        let model = Self {
            id: text(entry, "id").to_string(),
            weights: folder.join(text(entry, "weights")),
            folder,
            meta,
            config,
        };
        let shape = [model.config.in_channels, size[0], size[1]];
        assert_eq!(model.config.problems(&shape), vec![], "{}", model.id);
        assert_eq!(model.config.init(&Device::default()).num_params(), whole(entry, "params"), "{}", model.id);
        model
    }

    fn load(&self, device: &Device) -> UNet {
        assert_eq!(Safetensors::open(&self.weights).names().len(), whole(&self.meta, "tensors"), "{}", self.id);
        let network = NetworkConfig::UNet(self.config.clone()).init(device);
        match load_weights(network, &self.weights).unwrap() {
            Network::UNet(network) => network,
            Network::DiT(_) | Network::PointMlp(_) | Network::Custom(_) => unreachable!("it was a U-Net"),
        }
    }

    fn forward(&self, network: &UNet, io: &Safetensors, case: &Value, device: &Device) -> Tensor<4> {
        let x = io.tensor::<4>(text(case, "x"), device, DType::F32);
        let t = io.tensor::<1>(text(case, "t"), device, DType::F32);
        let condition = match case["y"].as_str() {
            None => Condition::None,
            Some(name) => {
                let classes = TensorData::new(io.i64(name), io.shape(name));
                Condition::Class(Tensor::<1, Int>::from_data(classes, device))
            }
        };
        network.forward(x, t, &condition)
    }
}
