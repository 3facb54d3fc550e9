//! What is read beside weights, damaged or made to do harm: arrays of NumPy, noise, the files of a snapshot.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use ddpm_eval::arrays::{Array, npz_member, read_npz, write_npz};
use ddpm_families::snapshot::{DiffusionConfig, Snapshot, SnapshotConfig};
use ddpm_files::npy::{self, RowReader};
use ddpm_infer::commands::init_noise;
use ddpm_model::network::NetworkConfig;
use ddpm_model::point_mlp::PointMlpConfig;
use ddpm_model::unet::UNetConfig;
use ddpm_testing::hostile;
use ddpm_testing::support::{copy, fixture};
use hostile::{damage, within_bounds};

const AT_LEAST: usize = 1 << 20;
/// A byte becomes an f64, a compressed one a thousand of them; both lie in memory at once with what grows into them.
const PER_BYTE: usize = 32 * 1032;

/// As [`damage`] to a file that can be read, within bounds.
fn damage_within(path: &Path, count: usize, read: impl Fn() -> Result<(), String>) {
    read().unwrap();
    damage(path, count, || {
        let size = fs::metadata(path).unwrap().len() as usize;
        within_bounds(size, AT_LEAST, PER_BYTE, &read)
    });
}

fn in_words<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

#[test]
fn damaged_arrays_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    fs::write(&path, npy::encode(&[3, 2, 2], &[0.5; 12])).unwrap();
    damage_within(&path, 2000, || {
        let mut reader = RowReader::open(&path).map_err(in_words)?;
        let rows = reader.header().shape.first().copied().unwrap_or(0);
        reader.rows(0..rows, &path).map(|_| ()).map_err(in_words)
    });
    damage_within(&path, 2000, || init_noise::read(&path, &[2, 2]).map(|_| ()).map_err(|error| format!("{error:#}")));

    let path = dir.path().join("a.npz");
    let array = |shape: &[usize]| Array { shape: shape.to_vec(), values: vec![0.25; shape.iter().product()] };
    write_npz(&path, &[("mu".into(), array(&[3])), ("sigma".into(), array(&[3, 3])), ("n".into(), array(&[]))])
        .unwrap();
    assert_eq!(read_npz(&path).unwrap()[2].1, array(&[]));
    damage_within(&path, 2000, || read_npz(&path).map(|_| ()).map_err(in_words));
    damage_within(&path, 500, || npz_member(&path, "sigma").map(|_| ()).map_err(in_words));
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let whole = npy::encode(&[2, 3], &[0.0; 6]);
    for shape in ["4294967296, 4294967296, 2", "0, 18446744073709551615, 9", "18446744073709551616", "2, -3", "2, 3, 0"]
    {
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}\n");
        let length = (header.len() as u16).to_le_bytes();
        fs::write(&path, [&whole[..8], &length, header.as_bytes(), &[0; 24]].concat()).unwrap();
        assert!(RowReader::open(&path).is_err(), "{shape}");
        assert!(init_noise::read(&path, &[3]).is_err(), "{shape}");
    }
}

/// Every file of a snapshot in turn; the weights themselves have a test of their own.
#[test]
fn damaged_snapshots_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let unet = NetworkConfig::UNet(UNetConfig {
        base_channels: 8,
        multipliers: vec![1.0],
        blocks_per_level: 1,
        attention_resolutions: vec![],
        middle_attention: false,
        norm_groups: 4,
        ..UNetConfig::default()
    });
    let mlp =
        NetworkConfig::PointMlp(PointMlpConfig { hidden: vec![4], embedding_width: 4, ..PointMlpConfig::default() });
    for (name, network, data) in [("pictures", unet, "digits"), ("points", mlp, "moons")] {
        let data = toml::from_str(&format!("kind = '{data}'")).unwrap();
        let info = ddpm_data::open(&data, ddpm_data::Split::Test, 0).unwrap().info;
        let network = network.with_io(&info.shape, info.shape[0]);
        let config = SnapshotConfig::new(network.clone(), DiffusionConfig::default(), info, data, "test");
        let snapshot = dir.path().join(name);
        Snapshot::save(&network.init(&device), &config, &snapshot).unwrap();
    }
    // Of before, in one file.
    copy(&fixture("format_1").join("snapshot"), &dir.path().join("old"));
    for snapshot in ["pictures", "points", "old"].map(|name| dir.path().join(name)) {
        for file in files(&snapshot) {
            let count = if file.extension().is_some_and(|extension| extension == "safetensors") { 60 } else { 200 };
            damage_within(&file, count, || Snapshot::load(&snapshot, &device).map(|_| ()).map_err(in_words));
        }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(self::files(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
