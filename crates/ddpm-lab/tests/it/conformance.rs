//! `ddpm-lab conformance` says what is right, what is wrong, and what is not there.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use ddpm_testing::support::copy;

fn conformance(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ddpm-lab")).args(["conformance", "--quick"]).args(words).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn flex_conforms() {
    let output = conformance(&["--device", "flex"]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().last(), Some("passed"));
    for kind in ["convolutions 1x1", "U-Nets of diffusers", "training steps", "samples", "**all**"] {
        assert!(table.contains(&format!("| {kind} |")), "{kind} is missing: {table}");
    }
}

/// Numbers of another network are what a wrong kernel would give.
#[test]
fn wrong_numbers_fail() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let dir = tempfile::tempdir().unwrap();
    copy(&fixtures.join("pipelines"), &dir.path().join("pipelines"));
    copy(&fixtures.join("unet"), &dir.path().join("unet"));
    let weights = dir.path().join("unet/improved/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // Weights that lie at the end of the file become zeros.
    bytes.iter_mut().rev().take(4096).for_each(|byte| *byte = 0);
    std::fs::write(&weights, bytes).unwrap();
    let output = conformance(&["--device", "flex", "--fixtures", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("FAILED: improved: out0: off by"), "{}", said(&output));
    assert!(said(&output).lines().any(|line| line == "failed"));
}

#[test]
fn a_backend_that_is_not_compiled_in_is_no_skipped_one() {
    let compiled = ddpm_device::device::compiled_in();
    let Some(missing) = ["rocm", "cuda", "metal"].into_iter().find(|name| !compiled.contains(name)) else { return };
    let output = conformance(&["--device", missing]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&format!("--features {missing}")), "{}", said(&output));
}
