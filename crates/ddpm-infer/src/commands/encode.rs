//! `ddpm-infer encode`: the latents of items.

use std::path::PathBuf;

use clap::Args;
use ddpm_console::say;
use ddpm_files::{atomic, npy};

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
    let Some(model) = open.model.encode() else { return Err(open.cannot("encode")) };
    let items = args.items.read(card, &open.path)?;
    let out = args.output.make(open.run.as_ref(), "latents", &open.path, &[LATENTS])?;
    let latents = model.encode(&items.values).map_err(anyhow::Error::from_boxed)?;
    let shape: Vec<usize> = [items.count].into_iter().chain(model.latent_shape()).collect();
    say!("{}: latents {shape:?} of {}", open.path.display(), items.from);
    atomic::write(&out.join(LATENTS), npy::encode(&shape, &latents))?;
    Ok(out)
}
