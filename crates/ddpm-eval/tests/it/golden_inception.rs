//! The Inception network against pytorch-fid's, with weights from a formula, over the fixtures' `inception` folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::tensor::Device;
use ddpm_eval::extractor::FeatureExtractor;
use ddpm_eval::image::Image;
use ddpm_eval::inception::{Inception, Weight, Weights};
use ddpm_eval::resize::Resize;
use ddpm_testing::support;
use formula::Formula;
use serde_json::Value;
use support::{
    Safetensors, assert_close, cases, fixtures_dir, number, numbers, read_json, text, values, whole, whole_numbers,
};

use super::formula;

fn weights(meta: &Value) -> Weights {
    let weights = formula::weights(meta);
    for (name, probe) in meta["probe"].as_object().unwrap() {
        let found: Vec<f64> = weights[name].values.iter().map(|value| f64::from(*value)).collect();
        assert_close(&found[..8.min(found.len())], &numbers(&probe["first_8"]), 1e-12, name);
        assert_close(&[found.iter().sum()], &[number(probe, "sum_f64")], 1e-6, name);
    }
    weights
}

fn images(meta: &Value) -> Vec<Image> {
    let one = |image: &Value| {
        let (height, width) = (whole(image, "h"), whole(image, "w"));
        let bytes = match text(image, "kind") {
            "waves" => {
                let [a, b] = ["a", "b"].map(|key| whole_numbers(&image[key]));
                let byte = |c: usize, y: usize, x: usize| (a[c] * x * x + 3 * b[c] * y + 17 * x * y + 40 * c) % 256;
                (0..3 * height * width)
                    .map(|i| byte(i / (height * width), i / width % height, i % width) as u8)
                    .collect()
            }
            "hash" => {
                let name = format!("image-{}", whole(image, "salt"));
                let stream = Formula::of(&name, meta["seed"].as_u64().unwrap());
                stream.take(3 * height * width).map(|u| (256.0 * u) as u8).collect()
            }
            other => panic!("unknown image {other}"),
        };
        Image { channels: 3, height, width, bytes }
    };
    cases(meta, "images").iter().map(one).collect()
}

#[test]
fn the_resize_of_pytorch_fid() {
    let folder = fixtures_dir().join("inception");
    let meta = read_json(folder.join("meta.json"));
    let expected = Safetensors::open(folder.join("expected.safetensors"));
    let shape = expected.shape("images");
    let size: usize = shape[1..].iter().product();
    for (k, image) in images(&meta).iter().enumerate() {
        let found: Vec<f64> = image.bytes.iter().map(|byte| f64::from(*byte) / 255.0).collect();
        assert_close(&found, &expected.f64("images")[k * size..][..size], 1e-7, "image");

        let resized: Vec<f64> =
            Resize::PytorchFid.resized(image).iter().map(|value| f64::from(*value) / 255.0).collect();
        let rows = expected.f64("resized_rows");
        for colour in 0..3 {
            let plane = &resized[colour * 299 * 299..][..299 * 299];
            for (i, row) in [0, 1, 2, 149, 150, 297, 298].into_iter().enumerate() {
                let wanted = &rows[((k * 3 + colour) * 7 + i) * 299..][..299];
                assert_close(&plane[row * 299..][..299], wanted, 1e-5, &format!("row {row} of image {k}"));
            }
            let mean = plane.iter().sum::<f64>() / plane.len() as f64;
            assert_close(&[mean], &expected.f64("resized_mean")[k * 3 + colour..][..1], 1e-5, "mean");
        }
    }
}

#[test]
fn features_and_logits_of_the_network() {
    let folder = fixtures_dir().join("inception");
    let meta = read_json(folder.join("meta.json"));
    let expected = Safetensors::open(folder.join("expected.safetensors"));
    let weights = weights(&meta);
    let device = Device::flex();
    let mut network = Inception::new(&weights, Resize::PytorchFid, &device).unwrap();
    let images = images(&meta);
    let stages = network.stages(network.input(&images));
    let tolerance = |name: &str| number(&meta["tol_abs_f32"], name);
    for features in stages.features {
        let name = format!("features_{}", features.dims()[1]);
        assert_close(&values(features), &expected.f64(&format!("{name}_f64")), tolerance(&name), &name);
    }
    let logits = "logits_unbiased";
    assert_close(&values(stages.logits), &expected.f64("logits_unbiased_f64"), tolerance(logits), logits);

    // The fixture's file is a known answer, of weights that were never published.
    network.check_known_answer(&folder.join("expected.safetensors")).unwrap();
    assert!(!network.is_published_inception() && network.name().contains("not verified"));

    let mut others = weights.clone();
    let gain = "Mixed_6c.branch7x7_2.bn.weight";
    others.get_mut(gain).unwrap().values.iter_mut().for_each(|value| *value *= 1.1);
    let said = Inception::new(&others, Resize::PytorchFid, &device)
        .unwrap()
        .check_known_answer(&folder.join("expected.safetensors"))
        .unwrap_err()
        .to_string();
    assert!(said.contains("differ from the known answer"), "{said}");

    others.insert("Mixed_9a.conv.weight".into(), Weight { shape: vec![1], values: vec![0.0] });
    let removed = others.remove(gain).unwrap();
    let said = Inception::new(&others, Resize::PytorchFid, &device).unwrap_err().to_string();
    assert!(said.contains("472") && said.contains(gain) && said.contains("Mixed_9a"), "{said}");
    others.remove("Mixed_9a.conv.weight");
    others.insert(gain.into(), Weight { shape: vec![1, removed.values.len()], values: removed.values });
    let said = Inception::new(&others, Resize::PytorchFid, &device).unwrap_err().to_string();
    assert!(said.contains(gain) && said.contains("[1, "), "{said}");
}
