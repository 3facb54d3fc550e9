//! Autoencoders against those of diffusers: every value, all gradients, both generations of names, and folders that are
//! read and written.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device};
use ddpm_families::diffusers::autoencoder::{
    load_autoencoder, load_tiny_autoencoder, save_autoencoder, save_tiny_autoencoder,
};
use ddpm_model::autoencoder::{AutoencoderKL, AutoencoderKLConfig, AutoencoderTinyConfig, DiagonalGaussian};
use ddpm_testing::gradients::{assert_gradients, gradients};
use ddpm_testing::networks::parameters;
use ddpm_testing::support;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::*;

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

#[test]
fn autoencoders_give_the_values_of_diffusers() {
    for part in parts("AutoencoderKL") {
        let model = load_autoencoder(&part.folder, &Device::default()).unwrap();
        compare_values(&model, &part.numbers(), &part.id);
    }
}

/// Everything that one case of a fixture holds.
fn compare_values(model: &AutoencoderKL, numbers: &Part, what: &str) {
    assert_eq!(model.num_params(), whole(&numbers.meta, "params"), "{what}");
    let io = numbers.io();
    let mut worst = 0.0_f64;
    for (i, case) in cases(&numbers.meta, "cases").iter().enumerate() {
        let input = |name: &str| io.tensor::<4>(&format!("{name}{i}"), &Device::default(), DType::F32);
        let (x, noise, latent) = (input("x"), input("noise"), input("latent"));
        assert_eq!(model.config().check_images(&x.dims()), Ok(()));
        let posterior = model.encode(x);
        let z = posterior.sample(noise);
        let found = BTreeMap::from([
            ("mean", values(posterior.mean())),
            ("logvar", values(posterior.log_variance())),
            ("z", values(z.clone())),
            ("kl", values(posterior.kl())),
            ("nll", values(posterior.nll(latent.clone()))),
            ("scaled", values(model.scale_latents(z.clone()))),
            ("recon", values(model.decode(z))),
            ("recon_mode", values(model.decode(posterior.mean()))),
            ("decoded", values(model.decode(model.unscale_latents(latent)))),
        ]);
        assert_eq!(case["tensors"].as_object().unwrap().len(), found.len(), "{what} {i}");
        for (name, found) in found {
            let name = format!("{name}{i}");
            let tolerance = number(&case["tensors"][&name], "tol_abs_f32");
            let wanted = io.f64(&format!("{name}_f64"));
            assert_close(&found, &wanted, tolerance, &format!("{what} {name}"));
            let error = found.iter().zip(&wanted).map(|(f, w)| (f - w).abs()).fold(0.0, f64::max);
            worst = worst.max(error / tolerance);
        }
    }
    println!("{what}: at most {worst:.2} of what is allowed");
}

#[test]
fn gradients_of_autoencoders_are_those_of_diffusers() {
    let mut compared = 0;
    for part in parts("AutoencoderKL").into_iter().filter(|part| !part.meta["grad"].is_null()) {
        let device = Device::default().autodiff();
        let model = load_autoencoder(&part.folder, &device).unwrap();
        let (io, grad) = (part.io(), &part.meta["grad"]);
        let input = |name: &str| io.tensor::<4>(name, &device, DType::F32);

        let posterior = model.encode(input("x0"));
        let error = model.decode(posterior.sample(input("noise0"))) - input("x0");
        let loss = error.square().sum() + posterior.kl().sum() * number(grad, "kl_weight");
        let wanted_loss = number(grad, "loss_f64");
        let loss_value = f64::from(loss.clone().into_scalar::<f32>());
        assert_close(&[loss_value], &[wanted_loss], 1e-5 * wanted_loss, &part.id);

        let wanted = Safetensors::open(part.folder.join(text(grad, "file")));
        let tolerance = [number(grad, "tol_relative_norm"), number(grad, "tol_abs_per_element")];
        assert_gradients(&gradients(model, &loss), &wanted, tolerance, &part.id);
        compared += 1;
    }
    assert!(compared > 0, "no fixture has gradients");
}

/// The first repositories stored the attention as dense layers or as convolutions over one pixel.
#[test]
fn attentions_stored_as_convolutions_are_read_too() {
    let mut compared = 0;
    for part in parts("AutoencoderKL") {
        let Some(file) = part.meta["weights_conv1x1"].as_str() else { continue };
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(part.folder.join("config.json"), dir.path().join("config.json")).unwrap();
        std::fs::copy(part.folder.join(file), dir.path().join(WEIGHTS)).unwrap();
        let model = load_autoencoder(dir.path(), &Device::default()).unwrap();
        let dense = load_autoencoder(&part.folder, &Device::default()).unwrap();
        assert_eq!(parameters(&model), parameters(&dense), "{}", part.id);
        compare_values(&model, &part.numbers(), file);
        compared += 1;
    }
    assert!(compared > 0, "no fixture has attentions stored as convolutions");
}

#[test]
fn the_posterior_is_that_of_diffusers() {
    for part in parts("DiagonalGaussianDistribution") {
        let io = part.io();
        let input = |name: &str| io.tensor::<4>(name, &Device::default(), DType::F32);
        let posterior = DiagonalGaussian::from_moments_clamped(input("moments"));
        for (name, found) in [
            ("mean", values(posterior.mean())),
            ("logvar", values(posterior.log_variance())),
            ("std", values(posterior.std())),
            ("sample", values(posterior.sample(input("noise")))),
            ("kl", values(posterior.kl())),
            ("nll", values(posterior.nll(input("target")))),
        ] {
            let (wanted, rounded) = (io.f64(&format!("{name}_f64")), io.f64(name));
            // As the folders with a `meta.json` allow: ten times the spread of the peer's own f32. It may happen to be exact.
            let spread = wanted.iter().zip(&rounded).map(|(w, r)| (w - r).abs()).fold(0.0, f64::max);
            let scale = wanted.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
            assert_close(&found, &wanted, (10.0 * spread).max(1e-6 * scale), &format!("{} {name}", part.id));
        }
    }
}

#[test]
fn tiny_autoencoders_give_the_values_of_diffusers() {
    for part in parts("AutoencoderTiny") {
        let model = load_tiny_autoencoder(&part.folder, &Device::default()).unwrap();
        let io = part.io();
        let input = |name: &str| io.tensor::<4>(name, &Device::default(), DType::F32);
        let (x, latent) = (input("x"), input("latent"));
        assert_eq!(model.config().check_images(&x.dims()), Ok(()));
        let scaled = model.config().scale_latents(latent.clone());
        let found = BTreeMap::from([
            ("encoded", values(model.encode(x))),
            ("decoded", values(model.decode(latent.clone()))),
            ("scaled", values(scaled)),
            ("unscaled", values(model.config().unscale_latents(latent))),
        ]);
        assert_eq!(part.meta["tensors"].as_object().unwrap().len(), found.len(), "{}", part.id);
        for (name, found) in found {
            let tolerance = number(&part.meta["tensors"][name], "tol_abs_f32");
            assert_close(&found, &io.f64(&format!("{name}_f64")), tolerance, &format!("{} {name}", part.id));
        }
    }
}

#[test]
fn every_parameter_of_a_tiny_autoencoder_has_a_gradient() {
    let part = parts("AutoencoderTiny").remove(0);
    let device = Device::default().autodiff();
    let model = load_tiny_autoencoder(&part.folder, &device).unwrap();
    let x = part.io().tensor::<4>("x", &device, DType::F32);
    let loss = (model.decode(model.encode(x.clone())) - x).square().mean();
    let found = gradients(model, &loss);
    for (name, gradient) in &found {
        assert!(gradient.iter().all(|value| value.is_finite()), "{name}");
        assert!(gradient.iter().any(|&value| value != 0.0), "{name} has no gradient");
    }
}

/// What was read is written with the names, shapes and values of the original, and with all that its config says.
#[test]
fn folders_lead_there_and_back() {
    for part in parts("AutoencoderKL") {
        let dir = tempfile::tempdir().unwrap();
        let model = load_autoencoder(&part.folder, &Device::default()).unwrap();
        save_autoencoder(&model, dir.path()).unwrap();
        // Those with old names are written with those of today.
        assert_same_tensors(dir.path(), &part.numbers().folder, &part.id);
        assert_same_config(dir.path(), &part.folder, &part.id);
        let again = load_autoencoder(dir.path(), &Device::default()).unwrap();
        assert_eq!(again.config(), model.config(), "{}", part.id);
        assert_eq!(parameters(&again), parameters(&model), "{}", part.id);
    }
    for part in parts("AutoencoderTiny") {
        let dir = tempfile::tempdir().unwrap();
        let model = load_tiny_autoencoder(&part.folder, &Device::default()).unwrap();
        save_tiny_autoencoder(&model, dir.path()).unwrap();
        assert_same_tensors(dir.path(), &part.folder, &part.id);
        assert_same_config(dir.path(), &part.folder, &part.id);
    }
}

fn assert_same_tensors(found: &Path, wanted: &Path, what: &str) {
    let [found, wanted] = [found, wanted].map(|folder| Safetensors::open(folder.join(WEIGHTS)));
    assert_eq!(found.names(), wanted.names(), "{what}");
    for name in wanted.names() {
        assert_eq!(found.shape(&name), wanted.shape(&name), "{what} {name}");
        assert_eq!(found.f64(&name), wanted.f64(&name), "{what} {name}");
    }
}

fn assert_same_config(found: &Path, wanted: &Path, what: &str) {
    let [found, wanted] = [found, wanted].map(|folder| read_json(folder.join("config.json")));
    for (key, wanted) in wanted.as_object().unwrap().iter().filter(|(key, _)| *key != "_diffusers_version") {
        let found = found.get(key).unwrap_or_else(|| panic!("{what}: {key} is not written"));
        // Python writes 3 where it has a whole number.
        let same = found == wanted || (found.is_number() && found.as_f64() == wanted.as_f64());
        assert!(same, "{what} {key}: {found} instead of {wanted}");
    }
}

#[test]
fn what_is_wrong_with_a_folder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = AutoencoderKLConfig {
        block_out_channels: vec![4, 4],
        norm_num_groups: 2,
        in_channels: 1,
        ..AutoencoderKLConfig::default()
    };
    save_autoencoder(&config.init(&Device::default()), dir.path()).unwrap();
    let said = || load_autoencoder(dir.path(), &Device::default()).unwrap_err().to_string();
    let refused = |parts: &[&str]| {
        let said = said();
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    };

    let tensors = dir.path().join(WEIGHTS);
    let whole = std::fs::read(&tensors).unwrap();
    let place = tensors.display().to_string();
    rewrite(&tensors, |tensors| drop(tensors.remove("decoder.conv_out.bias")));
    refused(&[&place, "decoder.conv_out.bias is missing"]);
    rewrite(&tensors, |tensors| {
        let bias = (vec![1], vec![0; 4]);
        tensors.insert("decoder.conv_out.bias".into(), bias.clone());
        tensors.insert("encoder.extra".into(), bias);
    });
    refused(&["encoder.extra is not part of the network"]);
    std::fs::write(&tensors, &whole).unwrap();
    rewrite(&tensors, |tensors| drop(tensors.insert("quant_conv.bias".into(), (vec![2, 4], vec![0; 32]))));
    refused(&["quant_conv.bias has shape [2, 4] instead of [8]"]);
    std::fs::remove_file(&tensors).unwrap();
    refused(&["the folder holds no weights"]);
    std::fs::write(&tensors, &whole).unwrap();
    load_autoencoder(dir.path(), &Device::default()).unwrap();

    let file = dir.path().join("config.json");
    let json = read_json(&file);
    let with = |key: &str, value: Value| {
        let mut json = json.clone();
        json[key] = value;
        std::fs::write(&file, json.to_string()).unwrap();
    };
    let place = file.display().to_string();
    with("_class_name", json!("UNet2DModel"));
    refused(&[&place, "_class_name = \"UNet2DModel\"", "AutoencoderKL"]);
    with("use_attention", json!(true));
    refused(&[&place, "use_attention"]);
    with("norm_num_groups", json!(3));
    refused(&[&place, "norm_num_groups: 4 channels do not divide into 3 groups"]);
    with("mid_block_add_attention", json!(false));
    refused(&["encoder.mid_block.attentions.0.to_q.weight is not part of the network"]);
    std::fs::remove_file(&file).unwrap();
    refused(&[&place]);

    let tiny = tempfile::tempdir().unwrap();
    save_tiny_autoencoder(&AutoencoderTinyConfig::default().init(&Device::default()), tiny.path()).unwrap();
    let said = load_autoencoder(tiny.path(), &Device::default()).unwrap_err().to_string();
    assert!(said.contains("AutoencoderTiny") && said.contains("AutoencoderKL"), "{said}");
}

/// Shapes and bytes by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

/// Changes the tensors in a file, which are all in f32.
fn rewrite(path: &Path, change: impl FnOnce(&mut Tensors)) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |(name, view): (String, TensorView<'_>)| (name, (view.shape().to_vec(), view.data().to_vec()));
    let mut tensors: Tensors = file.tensors().into_iter().map(tensor).collect();
    change(&mut tensors);
    let view = |(shape, bytes)| TensorView::new(safetensors::Dtype::F32, Vec::clone(shape), bytes).unwrap();
    let views = tensors.iter().map(|(name, (shape, bytes))| (name, view((shape, bytes))));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// One folder of `sd_parts/`.
struct Part {
    id: String,
    folder: PathBuf,
    meta: Value,
}

/// All of one kind that the index lists.
fn parts(kind: &str) -> Vec<Part> {
    let root = fixture("sd_parts");
    let index = read_json(root.join("index.json"));
    let entries = cases(&index, "parts").iter().filter(|entry| text(entry, "kind") == kind);
    let parts: Vec<Part> = entries.map(|entry| Part::open(&root, text(entry, "folder"), text(entry, "id"))).collect();
    assert!(!parts.is_empty(), "no fixture is of kind {kind}");
    parts
}

impl Part {
    fn open(root: &Path, folder: &str, id: &str) -> Self {
        let folder = root.join(folder);
        let meta = folder.join("meta.json");
        let meta = if meta.is_file() { read_json(meta) } else { Value::Null };
        Self { id: id.into(), folder, meta }
    }

    /// The part with the numbers of this one: another one where that has the same network.
    fn numbers(&self) -> Self {
        let own = self.folder.file_name().unwrap().to_string_lossy();
        let name = self.meta["same_numbers_as"].as_str().unwrap_or(&own);
        Self::open(self.folder.parent().unwrap(), name, name)
    }

    fn io(&self) -> Safetensors {
        Safetensors::open(self.folder.join("io.safetensors"))
    }
}
