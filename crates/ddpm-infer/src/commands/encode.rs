//! `ddpm-infer encode`: the latents of items.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use ddpm_families::family::trained::abilities;
use ddpm_files::npy;

use crate::commands::choose::SnapshotArgs;
use crate::commands::given_items::ItemsArgs;
use crate::commands::output_folder::OutputArgs;

/// Encode items: latents.npy holds the means of their posteriors.
#[derive(Args, Debug)]
pub struct EncodeArgs {
    #[command(flatten, next_help_heading = "Model and device")]
    snapshot: SnapshotArgs,
    #[command(flatten)]
    items: ItemsArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the command writes.
const LATENTS: &str = "latents.npy";

/// Encodes, and gives the folder with the latents.
pub fn run(args: &EncodeArgs) -> anyhow::Result<PathBuf> {
    let open = args.snapshot.open_model()?;
    let card = open.model.card();
    let Some(model) = open.model.encode() else {
        bail!("{}: this snapshot is a {}: {}, not encode", open.path.display(), card.family, abilities(&*open.model));
    };
    let items = args.items.read(card, &open.path)?;
    let out = args.output.make(open.run.as_ref(), "latents", &open.path, &[LATENTS])?;
    let latents = model.encode(&items.values).map_err(anyhow::Error::from_boxed)?;
    let shape: Vec<usize> = [items.count].into_iter().chain(model.latent_shape()).collect();
    eprintln!("{}: latents {shape:?} of {}", open.path.display(), items.from);
    let path = out.join(LATENTS);
    std::fs::write(&path, npy::encode(&shape, &latents)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(out)
}
