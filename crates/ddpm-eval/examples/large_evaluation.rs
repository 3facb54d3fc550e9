//! Makes what a large evaluation needs and nobody can ship: weights of Inception from the formula of
//! `fixtures/inception`, and two sets of pictures, which are textures of waves.
//!
//! `cargo run -p ddpm-infer --example large_evaluation -- DIR COUNT REFERENCES`
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/it/formula.rs"]
mod formula;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ddpm_data::random::{RngExt, Stream, rng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Height and width of the pictures.
const SIDE: usize = 32;
/// Waves in each colour of a picture.
const WAVES: usize = 4;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, count, references] = &words[..] else {
        eprintln!("expected a folder, and how many pictures and references");
        std::process::exit(2);
    };
    let (dir, count, references) =
        (Path::new(dir), count.parse().expect("COUNT"), references.parse().expect("REFERENCES"));
    std::fs::create_dir_all(dir).unwrap();
    write_weights(&dir.join("weights.safetensors"));
    write_pictures(&dir.join("pictures.npy"), count, 1);
    write_pictures(&dir.join("references.npy"), references, 2);
    println!(
        "ddpm-infer eval --files {0}/pictures.npy --against {0}/references.npy --weights {0}/weights.safetensors",
        dir.display()
    );
}

fn write_weights(path: &Path) {
    let fixtures = std::env::var_os("DDPM_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures"), Into::into);
    let meta = std::fs::read(fixtures.join("inception/meta.json")).unwrap();
    let weights = formula::weights(&serde_json::from_slice(&meta).unwrap());
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = weights
        .into_iter()
        .map(|(name, weight)| {
            (name, weight.shape, weight.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views =
        bytes.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

/// Bytes `[count, SIDE, SIDE, 3]`: in each colour a few waves of random length, direction and phase.
fn write_pictures(path: &Path, count: usize, seed: u64) {
    let mut file = BufWriter::new(File::create(path).unwrap());
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {SIDE}, {SIDE}, 3), }}");
    let length = (10 + header.len() + 1).next_multiple_of(64) - 10;
    file.write_all(b"\x93NUMPY\x01\x00").unwrap();
    file.write_all(&(length as u16).to_le_bytes()).unwrap();
    writeln!(file, "{header:width$}", width = length - 1).unwrap();
    for picture in 0..count {
        let mut draws = rng(seed, Stream::Points, picture as u64);
        let waves: [[[f32; 4]; WAVES]; 3] =
            std::array::from_fn(|_| std::array::from_fn(|_| std::array::from_fn(|_| draws.random::<f32>())));
        let mut bytes = Vec::with_capacity(SIDE * SIDE * 3);
        for pixel in 0..SIDE * SIDE {
            let (row, column) = ((pixel / SIDE) as f32, (pixel % SIDE) as f32);
            bytes.extend(waves.iter().map(|waves| {
                let value: f32 = waves
                    .iter()
                    .map(|[rows, columns, phase, size]| {
                        size * ((rows - 0.5) * row + (columns - 0.5) * column + phase * std::f32::consts::TAU).sin()
                    })
                    .sum();
                (127.5 + 50.0 * value).clamp(0.0, 255.0) as u8
            }));
        }
        file.write_all(&bytes).unwrap();
    }
    file.flush().unwrap();
}
