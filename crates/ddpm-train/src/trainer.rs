//! Training from another program, with a network of its own or one of ours.

use std::path::{Path, PathBuf};

use ddpm_families::diffusion::networks;
use ddpm_model::custom::CustomNetwork;

use crate::config::load::Source;
use crate::train::{Caller, Finish, Options, run_for};

/// A training: an experiment, and what the command line can say besides.
///
/// It does what the program `ddpm-train` does: the run folder has checkpoints, previews, metrics, snapshots and a report,
/// and a run that is stopped is [resumed](Self::resume) to the same bits. `ddpm_infer::Pipeline` samples the run.
///
/// ```
/// use ddpm_train::{Finish, Trainer};
///
/// # fn main() -> anyhow::Result<()> {
/// # let dir = tempfile::tempdir()?;
/// let experiment = r#"
///     data.kind = "swiss-roll"
///     model = { kind = "point-mlp", hidden = [8], embedding_width = 8 }
///     train = { steps = 2, batch_size = 4 }
///     preview.count = 0
/// "#;
/// let trainer = Trainer::of_toml("points", experiment).set("diffusion.prediction = v").runs(dir.path());
/// let Finish::Done(run) = trainer.run()? else { return Ok(()) };
/// Trainer::resume(run).set("train.steps = 4").run()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Trainer {
    experiment: Option<Source>,
    options: Options,
}

impl Trainer {
    /// Trains an experiment by its name or file, as `--experiment` does.
    pub fn new(experiment: impl Into<String>) -> Self {
        Self { experiment: None, options: Options { experiment: experiment.into(), ..Options::default() } }
    }

    /// Trains an experiment that is given as TOML. Runs are called after `name`.
    pub fn of_toml(name: impl Into<String>, text: impl Into<String>) -> Self {
        let name = name.into();
        let experiment = Some(Source::Text { name: name.clone(), text: text.into() });
        Self { experiment, ..Self::new(name) }
    }

    /// Goes on with a run, after its newest good checkpoint. A network of your own is registered again.
    pub fn resume(run: impl AsRef<Path>) -> Self {
        let resume = Some(run.as_ref().to_string_lossy().into_owned());
        Self { experiment: None, options: Options { resume, ..Options::default() } }
    }

    /// Makes a network of your own known in this process, as `[model] kind = "..."`.
    pub fn network<N: CustomNetwork>(self) -> Self {
        networks::register::<N>();
        self
    }

    /// Changes a key of the experiment: `"train.steps = 1000"`.
    pub fn set(mut self, change: impl Into<String>) -> Self {
        self.options.set.push(change.into());
        self
    }

    /// Starts from the weights of a snapshot.
    pub fn from_snapshot(mut self, snapshot: impl Into<PathBuf>) -> Self {
        self.options.from = Some(snapshot.into());
        self
    }

    /// Computes on this device, for example `flex` or `cuda:1`. More than one share every batch.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.options.devices.push(name.into());
        self
    }

    /// The folder of all runs; `runs` unless chosen.
    pub fn runs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.options.runs = folder.into();
        self
    }

    /// Trains until the steps are done or the process is asked to stop.
    pub fn run(self) -> anyhow::Result<Finish> {
        run_for(Caller::Trainer, &self.options, self.experiment)
    }
}
