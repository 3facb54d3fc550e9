//! Which snapshot, on which device, in which precision: the arguments that all commands about a snapshot share.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ddpm_console::say;
use ddpm_data::Split;
use ddpm_device::device::{self, DeviceError, OpenDevice};
use ddpm_families::checksums;
use ddpm_families::family::trained::{Trained, abilities, open};
use ddpm_families::snapshot::Snapshot;
use ddpm_files::runs::{RUNS, RunError, RunFolder};
use ddpm_kernels::Precision;
use ddpm_model::diffusion::Diffusion;

/// The snapshot and the device of a command.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// A run: its folder, or its name in the runs folder; without it, the newest run that has a snapshot.
    #[arg(long, value_name = "RUN", conflicts_with = "from")]
    run: Option<String>,
    /// A snapshot folder, or a diffusers folder.
    #[arg(long, value_name = "PATH")]
    from: Option<PathBuf>,
    /// The folder of all runs.
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,
    /// Where to compute, e.g. flex, wgpu, cuda:1; without it, the device of the compiled-in feature.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// What the network computes in: f32, bf16 or f16, where the device can.
    #[arg(long, value_name = "f32|bf16|f16", default_value = "f32")]
    precision: Precision,
}

impl SnapshotArgs {
    /// The snapshot, and the run it belongs to if it was found by its run.
    pub fn choose(&self) -> Result<(PathBuf, Option<RunFolder>), RunError> {
        if let Some(from) = &self.from {
            return Ok((from.clone(), None));
        }
        let run = match &self.run {
            Some(run) => RunFolder::find(&self.runs, run)?,
            None => RunFolder::newest_with_snapshot(&self.runs)?,
        };
        Ok((run.newest_snapshot()?, Some(run)))
    }

    /// Device and precision as arguments of another command.
    pub(crate) fn device_arguments(&self) -> Vec<String> {
        let device = self.device.iter().flat_map(|device| ["--device".into(), device.clone()]);
        device.chain(["--precision".into(), self.precision.name().into()]).collect()
    }

    /// The device.
    pub(crate) fn open(&self) -> Result<OpenDevice, DeviceError> {
        let open = device::open(self.device.as_deref())?;
        open.check(self.precision)?;
        if let Some(note) = open.precision_note(self.precision) {
            say!("note: {note}");
        }
        Ok(open)
    }

    /// The model of a snapshot of any family, for use.
    pub(crate) fn open_model(&self) -> anyhow::Result<OpenModel> {
        let (path, run) = self.choose()?;
        let device = self.open()?;
        let model = self.open_at(&path, &device.device)?;
        Ok(OpenModel { path, run, device, model })
    }

    /// The model of this snapshot, of any family, for use.
    pub(crate) fn open_at(&self, path: &Path, device: &Device) -> anyhow::Result<Box<dyn Trained>> {
        for changed in checksums::changed(path) {
            say!("warning: {changed}");
        }
        open(path, device, self.precision.on(device)).map_err(anyhow::Error::from_boxed)
    }

    /// What the network computes in.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// A snapshot and the process that it was trained for.
    pub(crate) fn load(&self, path: &Path, device: &Device) -> anyhow::Result<(Snapshot, Diffusion)> {
        for changed in checksums::changed(path) {
            say!("warning: {changed}");
        }
        let mut snapshot = Snapshot::load(path, device)?;
        snapshot.network = snapshot.network.in_precision(self.precision.on(device));
        let diffusion =
            snapshot.config.diffusion.init().with_context(|| format!("{}: its schedule", path.display()))?;
        Ok((snapshot, diffusion))
    }
}

/// A model for use, and where it comes from.
pub(crate) struct OpenModel {
    pub(crate) path: PathBuf,
    pub(crate) run: Option<RunFolder>,
    pub(crate) device: OpenDevice,
    pub(crate) model: Box<dyn Trained>,
}

impl OpenModel {
    /// The message about a model that cannot do what a command is for.
    pub(crate) fn cannot(&self, what: &str) -> anyhow::Error {
        anyhow::anyhow!("{}: {}", self.path.display(), not_able(&*self.model, what))
    }
}

/// What a message says about a model that cannot do this.
pub(crate) fn not_able(model: &dyn Trained, what: &str) -> String {
    format!("this snapshot is a {}: {}, not {what}", model.card().family, abilities(model))
}

/// The parser of `--split`.
pub(crate) fn split_parser() -> impl TypedValueParser<Value = Split> {
    PossibleValuesParser::new([Split::Train, Split::Test].map(Split::name))
        .map(|name| if name == Split::Train.name() { Split::Train } else { Split::Test })
}
