//! The names inside a spatial transformer, which are the same in diffusers and in the original code of latent diffusion.

use super::{Entry, layer};

/// Every tensor of a transformer with so many blocks, on `channels` that attend to tokens of another width. The projections
/// around the blocks are dense layers or convolutions over one pixel, and read from either.
pub(super) fn entries(modules: &[String; 2], [channels, tokens]: [usize; 2], depth: usize, linear: bool) -> Vec<Entry> {
    let projection = |name: &str| match linear {
        true => both(modules, name, &[channels, channels]).into_iter().map(pointwise).collect(),
        false => both(modules, name, &[channels, channels, 1, 1]),
    };
    let mut entries = both(modules, "norm", &[channels]);
    entries.extend(projection("proj_in"));
    for block in 0..depth {
        let mut add = |name: &str, shape: &[usize]| {
            entries.extend(both(modules, &format!("transformer_blocks.{block}.{name}"), shape));
        };
        for norm in ["norm1", "norm2", "norm3"] {
            add(norm, &[channels]);
        }
        for attention in ["attn1", "attn2"] {
            add(&format!("{attention}.to_out.0"), &[channels, channels]);
        }
        add("ff.net.0.proj", &[8 * channels, channels]);
        add("ff.net.2", &[channels, 4 * channels]);
        for (attention, inputs) in [("attn1", channels), ("attn2", tokens)] {
            for (part, inputs) in [("to_q", channels), ("to_k", inputs), ("to_v", inputs)] {
                let name = format!("transformer_blocks.{block}.{attention}.{part}");
                // These have no bias.
                entries.extend(both(modules, &name, &[channels, inputs]).into_iter().take(1));
            }
        }
    }
    entries.extend(projection("proj_out"));
    entries
}

fn both(modules: &[String; 2], name: &str, shape: &[usize]) -> Vec<Entry> {
    layer(modules, [name; 2], shape)
}

fn pointwise(entry: Entry) -> Entry {
    Entry { pointwise: true, ..entry }
}
