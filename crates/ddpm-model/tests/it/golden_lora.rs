//! LoRA files that diffusers 0.42.1 with peft 0.21.2 wrote, next to the weights that it made of them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, bridge};
use burn::tensor::Device;
use ddpm_model::network::Network;
use ddpm_testing::support::{Safetensors, fixture, number, read_json, text};
use ddpm_weights::lora::{FILE, LayerFactors, Lora, Part, encode};
use serde_json::Value;

use crate::golden_unet_conditioned::{all, network};

fn root() -> PathBuf {
    fixture("lora")
}

fn meta() -> Value {
    read_json(root().join("meta.json"))
}

/// The network whose factors are in the files.
fn unet() -> Network {
    let meta = meta();
    let part = all().into_iter().find(|part| part.id == text(&meta, "network")).unwrap();
    network(&part, &Device::default())
}

fn weights(network: &Network) -> BTreeMap<String, Vec<f32>> {
    let tensors = network.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    tensors
        .into_iter()
        .map(|tensor| (tensor.name.clone(), bridge::into_data(tensor).unwrap().iter().collect()))
        .collect()
}

#[test]
fn factors_of_every_form_are_merged_as_by_diffusers() {
    let meta = meta();
    let merged = Safetensors::open(root().join("merged.safetensors"));
    let before = weights(&unet());
    for name in [FILE, "old.safetensors", "kohya.safetensors"] {
        let mut network = unet();
        let lora = Lora::open(&root().join(name)).unwrap();
        let changed = lora.merge_into(Part::UNet, &mut network, number(&meta, "strength")).unwrap();
        assert_eq!(changed, merged.names().len(), "{name}");
        for (key, found) in weights(&network) {
            let wanted = match merged.names().contains(&key) {
                true => merged.f64(&key),
                false => before[&key].iter().map(|value| f64::from(*value)).collect(),
            };
            let error = found.iter().zip(&wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(error < 1e-6, "{name} {key}: {error}");
        }
    }
}

#[test]
fn a_folder_of_diffusers_is_opened_and_strength_zero_changes_nothing() {
    let mut network = unet();
    let before = weights(&network);
    let lora = Lora::open(&root()).unwrap();
    lora.merge_into(Part::UNet, &mut network, 0.0).unwrap();
    assert_eq!(weights(&network), before);
    assert_eq!(lora.parts().into_iter().collect::<Vec<_>>(), [Part::UNet]);
}

#[test]
fn what_is_written_is_what_is_read() {
    let factors = |layer: &str, inputs: &[usize], outputs: usize, rank: usize| {
        let [down, up] = [[&[rank], inputs].concat(), vec![outputs, rank]];
        let values = |shape: &[usize]| (0..shape.iter().product::<usize>()).map(|k| k as f32 * 0.01).collect();
        LayerFactors { layer: layer.into(), down: (down.clone(), values(&down)), up: (up.clone(), values(&up)) }
    };
    let name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q";
    let mut network = unet();
    let before = weights(&network);
    let shape: Vec<usize> = network
        .collect(None, Some(Box::new(BurnToPyTorchAdapter)), true)
        .into_iter()
        .find_map(|tensor| (tensor.name == format!("{name}.weight")).then(|| tensor.shape.to_vec()))
        .unwrap();
    let [outputs, inputs] = shape[..] else { panic!("{shape:?}") };
    let layer = factors(name, &[inputs], outputs, 3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    std::fs::write(&file, encode(Part::UNet, 6.0, std::slice::from_ref(&layer)).unwrap()).unwrap();
    Lora::open(folder.path()).unwrap().merge_into(Part::UNet, &mut network, 0.5).unwrap();

    let (after, key) = (weights(&network), format!("{name}.weight"));
    // alpha / rank times the strength is 6 / 3 * 0.5.
    for (place, (now, then)) in after[&key].iter().zip(&before[&key]).enumerate() {
        let (row, column) = (place / inputs, place % inputs);
        let product: f32 = (0..3).map(|r| layer.up.1[row * 3 + r] * layer.down.1[r * inputs + column]).sum();
        assert!((now - then - product).abs() < 1e-5, "{now} {then} {product}");
    }
    assert!(after.iter().filter(|(name, _)| **name != key).all(|(name, values)| before[name] == *values));
}

#[test]
fn what_does_not_fit_is_named_and_changes_nothing() {
    let open = |layers: &[LayerFactors]| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        std::fs::write(&file, encode(Part::UNet, 1.0, layers).unwrap()).unwrap();
        Lora::open(&file)
    };
    let layer = |name: &str, inputs: usize| LayerFactors {
        layer: name.into(),
        down: (vec![1, inputs], vec![1.0; inputs]),
        up: (vec![8, 1], vec![1.0; 8]),
    };
    let mut network = unet();
    let before = weights(&network);
    for (lora, expected) in [
        (
            open(&[layer("down_blocks.9.attentions.0.proj_in", 8)]),
            "unet.down_blocks.9.attentions.0.proj_in is not part",
        ),
        (open(&[layer("conv_in", 7)]), "conv_in.weight has shape"),
    ] {
        let error = lora.unwrap().merge_into(Part::UNet, &mut network, 1.0).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(weights(&network), before);
    }
    let error = Lora::open(&all()[0].folder.join("diffusion_pytorch_model.safetensors")).unwrap_err().to_string();
    assert!(error.contains("expected the factors of LoRA"), "{error}");
}
