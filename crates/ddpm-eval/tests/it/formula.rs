//! Weights of Inception from a formula, as the README of `fixtures/inception` has it.
#![allow(clippy::unwrap_used)]

use ddpm_eval::inception::{Weight, Weights};
use serde_json::Value;

/// The stream of numbers of a tensor or picture.
pub struct Formula {
    state: u64,
}

impl Formula {
    /// The stream of this name.
    pub fn of(name: &str, seed: u64) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { state: hash ^ seed }
    }
}

impl Iterator for Formula {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Some(((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// All tensors that the fixture's `meta.json` lists.
pub fn weights(meta: &Value) -> Weights {
    let tensor = |entry: &Value| {
        let name = entry["name"].as_str().unwrap();
        let sizes = entry["shape"].as_array().unwrap();
        let shape: Vec<usize> = sizes.iter().map(|size| size.as_u64().unwrap() as usize).collect();
        let size: usize = shape.iter().product();
        let value = |u: f64| match name {
            "fc.weight" => (2.0 * u - 1.0) / 2048.0_f64.sqrt(),
            "fc.bias" => 0.2 * u - 0.1,
            _ if name.ends_with(".conv.weight") => {
                (2.0 * u - 1.0) * (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt()
            }
            _ if name.ends_with(".bn.weight") => 0.75 + 0.5 * u,
            _ if name.ends_with(".bn.running_var") => 0.5 + u,
            _ => 0.4 * u - 0.2,
        };
        let values = Formula::of(name, meta["seed"].as_u64().unwrap()).take(size).map(|u| value(u) as f32).collect();
        (name.to_string(), Weight { shape, values })
    };
    meta["tensors"].as_array().unwrap().iter().map(tensor).collect()
}
