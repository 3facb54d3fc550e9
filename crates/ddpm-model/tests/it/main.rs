//! The integration tests of ddpm-model: one program, one file a subject.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod golden_clip;
mod golden_csdi;
mod golden_dit;
mod golden_ema;
mod golden_gaussian;
mod golden_hvae;
mod golden_likelihood;
mod golden_lora;
mod golden_resample;
mod golden_schedules;
mod golden_sssd;
mod golden_timegrad;
mod golden_unet_conditioned;
mod golden_vae;
mod golden_vae_conv;
mod golden_vae_linear;
mod sd_parts;
mod unet_kernels;

/// The folders of `fixtures/vae` of this kind, of which there must be one.
fn vae_parts(kind: &str) -> Vec<std::path::PathBuf> {
    use ddpm_testing::support::{cases, fixture, read_json, text};
    let root = fixture("vae");
    let index = read_json(root.join("index.json"));
    let of_kind = cases(&index, "parts").iter().filter(|part| text(part, "kind") == kind);
    let folders: Vec<_> = of_kind.map(|part| root.join(text(part, "folder"))).collect();
    assert!(!folders.is_empty(), "no part of {} is of the kind {kind}", root.display());
    folders
}
