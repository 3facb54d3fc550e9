//! `manifest.json`: what made a run, so that somebody else can make it again.

use std::path::{Path, PathBuf};
use std::process::Command;

use ddpm_kernels::Precision;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What made a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The experiment's name.
    pub experiment: String,
    /// How many numbers are trained.
    pub parameters: usize,
    /// Name, shape and number of items of the data.
    pub data: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The snapshot whose weights it started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The first start and every resumption.
    pub starts: Vec<Start>,
}

/// One start of the program on the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// When, in UTC.
    pub at: String,
    /// The step it began from.
    pub from_step: u64,
    /// The words of the command line.
    pub command: Vec<String>,
    /// The commit of the sources, where they are known.
    pub commit: Option<String>,
    /// The device.
    pub device: String,
    /// What it computes in: another precision than the experiment says where the device computes in that no faster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Threads of the host.
    pub threads: usize,
    /// Versions of this program and of Burn, and the platform.
    pub versions: [String; 3],
}

impl Start {
    /// This start.
    pub fn now(device: &str, precision: Precision, from_step: u64) -> Self {
        Self {
            at: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
            from_step,
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            commit: commit(),
            device: device.into(),
            precision: Some(precision),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            versions: [
                format!("ddpm {}", env!("CARGO_PKG_VERSION")),
                "burn 0.22.1".into(),
                format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            ],
        }
    }
}

/// The commit that the program was built from, if its sources are still there.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    Some(if changed { format!("{head} with changes") } else { head })
}

impl Manifest {
    /// What tells this run from all others, whatever its folder is called.
    pub fn origin(&self) -> String {
        let begun = self.starts.first().map_or("", |start| &start.at);
        format!("{}, begun {begun}", self.experiment)
    }

    /// What the run has computed in so far. Another precision has other roundings, so that it is kept on every processor.
    pub fn precision(&self) -> Option<Precision> {
        self.starts.iter().find_map(|start| start.precision)
    }

    /// Reads the manifest of a run.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}
