//! Changed pictures against `fixtures/augment/edm.json`: the pipeline of Karras et al. (2022) as they published it.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use ddpm_data::augment::Changes;
use serde_json::Value;

/// Both work in f32, the other one also where it turns and scales.
const TOLERANCE: f64 = 2e-4;

fn fixture() -> Value {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let folder = std::env::var_os("DDPM_FIXTURES").map(PathBuf::from).filter(|folder| folder.join("augment").is_dir());
    let path = folder.unwrap_or_else(ours).join("augment/edm.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn images_and_their_augment_labels_are_those_of_the_paper() {
    let fixture = fixture();
    let cases = fixture["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for (k, case) in cases.iter().enumerate() {
        let (given, number) = (&case["changes"], |name: &str| case["changes"][name].as_f64().unwrap());
        let changes = Changes {
            flip_x: given["flip_x"].as_bool().unwrap(),
            flip_y: given["flip_y"].as_bool().unwrap(),
            scale: number("scale"),
            turn: number("turn"),
            stretch: number("stretch"),
            stretch_axis: number("stretch_axis"),
            shift: numbers(&given["shift"]).try_into().unwrap(),
        };
        let shape: Vec<usize> = numbers(&case["shape"]).iter().map(|&size| size as usize).collect();
        let mut picture: Vec<f32> = numbers(&case["picture"]).iter().map(|&value| value as f32).collect();
        changes.apply(&mut picture, shape.try_into().unwrap());
        let compare = |what: &str, found: &[f32], wanted: &[f64]| {
            assert_eq!(found.len(), wanted.len());
            let off = found.iter().zip(wanted).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(off < TOLERANCE, "case {k}, {changes:?}: {what} off by {off}");
        };
        compare("the picture is", &picture, &numbers(&case["changed"]));
        compare("the labels are", &changes.labels(), &numbers(&case["told"]));
    }
}
