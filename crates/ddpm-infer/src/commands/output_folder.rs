//! The folder that a command writes into.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ddpm_files::runs::RunFolder;

/// Where the result goes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Folder for the result; default: a new one in the run's folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace an earlier result in --out; other files stay.
    #[arg(long, requires = "out")]
    overwrite: bool,
}

impl OutputArgs {
    /// Makes the folder. One that has any of these files is refused, unless they are to be replaced.
    pub(crate) fn make(
        &self,
        run: Option<&RunFolder>,
        kind: &str,
        snapshot: &Path,
        files: &[&str],
    ) -> anyhow::Result<PathBuf> {
        let name = snapshot.file_stem().unwrap_or_default().to_string_lossy();
        let out = match (&self.out, run) {
            (Some(out), _) => out.clone(),
            (None, Some(run)) => fresh_folder(&run.0.join(kind), &name),
            (None, None) => fresh_folder(Path::new(kind), &name),
        };
        let there: Vec<&str> = files.iter().copied().filter(|file| out.join(file).exists()).collect();
        if !there.is_empty() && !self.overwrite {
            bail!(
                "{}: holds {} already: choose another folder, or replace with --overwrite",
                out.display(),
                there.join(", ")
            );
        }
        std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        Ok(out)
    }
}

/// A folder of this name, or of one after it that no other result has.
pub(crate) fn fresh_folder(parent: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut folders = std::iter::once(name.to_string()).chain(numbered).map(|name| parent.join(name));
    folders.find(|folder| !folder.exists()).unwrap_or_else(|| parent.join(name))
}
