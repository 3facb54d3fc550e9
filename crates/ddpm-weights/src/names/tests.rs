#![allow(clippy::unwrap_used)]

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot};
use burn::tensor::Device;
use ddpm_model::unet::{AddedEmbeddingConfig, CrossAttentionConfig, Heads, MiddleNorm, Resampling, TimeShift};

use super::*;

fn configs() -> Vec<UNetConfig> {
    let small = UNetConfig {
        in_channels: 3,
        out_channels: 6,
        sample_size: 8,
        base_channels: 8,
        multipliers: vec![1.0, 1.5, 2.0],
        blocks_per_level: 2,
        attention_resolutions: vec![4],
        norm_groups: 4,
        ..UNetConfig::default()
    };
    vec![
        UNetConfig { classes: 3, null_class: true, heads: Heads::Count(2), ..small.clone() },
        UNetConfig { classes: 3, null_class: false, resampling: Resampling::Residual, ..small.clone() },
        UNetConfig { time_shift: TimeShift::ScaleShift, middle_attention_norm: MiddleNorm::None, ..small.clone() },
        UNetConfig { middle_attention: false, attention_resolutions: vec![8, 2], blocks_per_level: 1, ..small.clone() },
        UNetConfig { augment_dim: 9, ..small.clone() },
        UNetConfig { heads: Heads::Count(2), heads_up: Some(Heads::Count(4)), ..small.clone() },
        UNetConfig {
            cross_attention: Some(CrossAttentionConfig { token_width: 5, ..Default::default() }),
            ..small.clone()
        },
        UNetConfig {
            cross_attention: Some(CrossAttentionConfig {
                token_width: 5,
                depths: vec![1, 2, 1],
                linear_projection: true,
                added: Some(AddedEmbeddingConfig { pooled_width: 3, sizes: 2, size_width: 4 }),
                ..Default::default()
            }),
            ..small.clone()
        },
        UNetConfig { multipliers: vec![1.0], attention_resolutions: vec![8], ..small },
    ]
}

/// Both follow the topology, but the names and the layers within a block are written down twice.
#[test]
fn our_entries_are_the_parameters_of_the_network() {
    for config in configs() {
        let mut network: Vec<(String, Vec<usize>)> = config
            .init(&Device::default())
            .collect(None, Some(Box::new(BurnToPyTorchAdapter)), true)
            .into_iter()
            .map(|tensor| (tensor.name, tensor.shape.to_vec()))
            .collect();
        let mut entries: Vec<_> =
            Scheme::Diffusers.entries(&config).into_iter().map(|entry| (entry.ours, entry.shape)).collect();
        network.sort();
        entries.sort();
        assert_eq!(entries, network, "{config:?}");
    }
}

#[test]
fn every_scheme_gives_every_parameter_a_name_of_its_own() {
    let schemes = [
        Scheme::DiffusersOfOld,
        Scheme::OpenAi(QkvOrder::HeadByHead),
        Scheme::OpenAi(QkvOrder::Parted),
        Scheme::Pesser,
    ];
    for config in configs() {
        let ours = Scheme::Diffusers.entries(&config);
        for scheme in schemes {
            let entries = scheme.entries(&config);
            assert!(entries.iter().zip(&ours).all(|(a, b)| (&a.ours, &a.shape) == (&b.ours, &b.shape)));
            // Only the parts of a joint projection share a name.
            let mut places: Vec<_> =
                entries.iter().map(|entry| (&entry.theirs, entry.rows.as_ref().map(|rows| rows[0].start))).collect();
            places.sort();
            places.dedup();
            assert_eq!(places.len(), entries.len(), "{scheme}: {config:?}");
        }
    }
}

#[test]
fn joint_projections_are_taken_apart_head_by_head_or_at_once() {
    assert_eq!(QkvOrder::HeadByHead.rows(1, 4, 2), [2..4, 8..10]);
    assert_eq!(QkvOrder::Parted.rows(1, 4, 2), [4..6, 6..8]);
    assert_eq!(QkvOrder::HeadByHead.rows(2, 4, 1), QkvOrder::Parted.rows(2, 4, 1));
}
