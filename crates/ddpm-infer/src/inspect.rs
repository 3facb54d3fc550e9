//! `ddpm-infer inspect`: what a file or folder is, what it can be used for, and what is wrong with it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::module::Module;
use burn::tensor::Device;
use clap::Args;
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::UNetConfig;
use serde::Serialize;
use serde_json::{Value, json};

use crate::checksums;
use crate::device;
use crate::diffusers::pipeline::{Layout, read_json};
use crate::diffusers::unet_config;
use crate::runs::{RunFolder, steps_in};
use crate::snapshot::{DiffusionConfig, OWN, Snapshot, SnapshotError, WEIGHTS, nothing_at};
use crate::weights::names::deduce;
use crate::weights::{Fault, Kind, Scheme, Weights, WeightsError, faults};

/// Faults that are listed; there can be one for every key.
const LISTED: usize = 20;

/// Says what a file or folder is.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A snapshot, a folder of diffusers, a run, or a file of weights.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Which weights of a file that holds several, such as ema.
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Print one JSON object: about (pairs of what and said), wrong, experiment (its sections as TOML, or null).
    #[arg(long)]
    json: bool,
}

/// The sections of an experiment that a snapshot answers.
#[derive(Serialize)]
struct Sections<'a> {
    model: &'a NetworkConfig,
    diffusion: &'a DiffusionConfig,
}

/// Prints what there is to say. What is wrong is printed and is an error.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let device = device::open(None)?.device;
    let mut report = Report { device, lines: Vec::new(), wrong: Vec::new(), experiment: None };
    report.look(&args.path, args.entry.as_deref())?;
    match args.json {
        true => {
            println!("{}", json!({ "about": report.lines, "wrong": report.wrong, "experiment": report.experiment }))
        }
        false => print(&report),
    }
    let count = report.wrong.len();
    match count {
        0 => Ok(()),
        _ if count > LISTED => bail!("{}: {count} things are wrong, of which {LISTED} are listed", args.path.display()),
        1 => bail!("{}: one thing is wrong", args.path.display()),
        _ => bail!("{}: {count} things are wrong", args.path.display()),
    }
}

fn print(report: &Report) {
    let width = report.lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    for (what, said) in &report.lines {
        println!("{what:width$}  {said}");
    }
    for wrong in report.wrong.iter().take(LISTED) {
        println!("{:width$}  {wrong}", "wrong");
    }
    if let Some(experiment) = &report.experiment {
        println!("\n# The sections of an experiment that has this network and this diffusion.\n{experiment}");
    }
}

/// What was found.
struct Report {
    device: Device,
    lines: Vec<(String, String)>,
    wrong: Vec<String>,
    /// `[model]` and `[diffusion]`, to paste into an experiment.
    experiment: Option<String>,
}

impl Report {
    fn say(&mut self, what: &str, said: impl Display) {
        self.lines.push((what.into(), said.to_string()));
    }

    fn look(&mut self, path: &Path, entry: Option<&str>) -> anyhow::Result<()> {
        let run = RunFolder(path.to_path_buf());
        if !path.exists() {
            bail!("{}: {}", path.display(), nothing_at(path));
        } else if path.is_file() {
            self.file(path, entry)
        } else if run.config().is_file() && run.snapshots().is_dir() {
            self.run(&run)
        } else if Layout::find(path).is_some() || path.join(WEIGHTS).is_file() {
            self.network(path)
        } else {
            self.other_folder(path)
        }
    }

    fn run(&mut self, run: &RunFolder) -> anyhow::Result<()> {
        let steps = steps_in(&run.snapshots());
        self.say("kind", format!("a run of ddpm-train with {} snapshots", steps.len()));
        self.say("checkpoints", steps_in(&run.checkpoints()).len());
        match steps.last() {
            None => {
                self.wrong.push("it has no snapshot yet, so there is nothing to sample from".into());
                Ok(())
            }
            Some((step, path)) => {
                self.say("newest", format!("step {step}, {}", path.display()));
                self.network(path)
            }
        }
    }

    /// A folder with a network that can be opened: one of our snapshots, or a folder of diffusers.
    fn network(&mut self, path: &Path) -> anyhow::Result<()> {
        match Layout::find(path) {
            None => self.say("kind", "a snapshot of ddpm-train, in its own layout"),
            Some(layout) => {
                self.say(
                    "kind",
                    match (path.join(OWN).is_file(), &layout.index) {
                        (true, _) => "a snapshot of ddpm-train, which is a pipeline of diffusers",
                        (false, Some(_)) if layout.network == path => "a pipeline of diffusers, all files side by side",
                        (false, Some(_)) => "a pipeline of diffusers",
                        (false, None) => "a model folder of diffusers",
                    },
                );
                self.classes(&layout);
                match Weights::find_in(&layout.network, None) {
                    Ok(weights) => self.weights(&weights),
                    Err(error) => self.wrong.push(error.to_string()),
                }
            }
        }
        match Snapshot::load(path, &self.device) {
            Ok(snapshot) => self.snapshot(&snapshot, path),
            Err(SnapshotError::Weights(WeightsError::Misfit { faults, .. })) => {
                self.wrong.extend(faults.iter().map(Fault::to_string));
            }
            Err(error) => {
                self.wrong.push(error.to_string());
                let config = Layout::find(path).and_then(|layout| read_json(&layout.network.join("config.json")).ok());
                if let Some(Ok(file)) = config.map(|json| unet_config::read(&json)) {
                    self.unet(&file.config);
                }
            }
        }
        self.changed(path);
        Ok(())
    }

    /// The files of a snapshot that are not what was written: said of them where something is wrong with them already.
    fn changed(&mut self, path: &Path) {
        // Files are opened more than once, and say the same each time.
        let mut said = BTreeSet::new();
        self.wrong.retain(|wrong| said.insert(wrong.clone()));
        for changed in checksums::changed(path) {
            let file = changed.file.display().to_string();
            match (self.wrong.iter_mut().find(|wrong| wrong.contains(&file)), &changed.found) {
                (None, _) => self.wrong.push(changed.to_string()),
                (Some(wrong), Some(found)) => {
                    *wrong += &format!(" (its CRC-32 is {found}, expected {})", changed.written);
                }
                (Some(_), None) => {}
            }
        }
    }

    /// The names that the JSON files give themselves.
    fn classes(&mut self, layout: &Layout) {
        let files = [
            ("pipeline", layout.index.clone()),
            ("network", Some(layout.network.join("config.json"))),
            ("scheduler", Some(layout.scheduler.clone()).filter(|file| file.is_file())),
        ];
        for (what, file) in files {
            let Some(file) = file else { continue };
            match read_json(&file) {
                Ok(json) => {
                    let word = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or("?").to_string();
                    self.say(what, format!("{}, of diffusers {}", word("_class_name"), word("_diffusers_version")));
                }
                Err(error) => self.wrong.push(error.to_string()),
            }
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot, path: &Path) {
        let config = &snapshot.config;
        self.architecture(&config.network);
        self.say("parameters", snapshot.network.num_params());
        self.say("data", format!("{} of shape {:?}", config.data.name, config.data.shape));
        if !config.data.classes.is_empty() {
            self.say("classes", config.data.classes.join(", "));
        }
        match toml::to_string(&Sections { model: &config.network, diffusion: &config.diffusion }) {
            Ok(sections) => self.experiment = Some(sections),
            Err(error) => self.wrong.push(format!("its network and diffusion cannot be written as TOML: {error}")),
        }
        self.say("origin", config.origin());
        self.say("use", format!("ddpm-infer sample --from {}", path.display()));
        if config.network.null_class().is_some() {
            self.say("use", "with classes and classifier-free guidance");
        } else if config.network.num_classes() > 0 {
            self.say("use", "with classes, without classifier-free guidance: it has no null class");
        }
    }

    fn architecture(&mut self, config: &NetworkConfig) {
        match config {
            NetworkConfig::UNet(config) => self.unet(config),
            other => match toml::Table::try_from(other) {
                Ok(keys) => keys.into_iter().for_each(|(key, value)| self.say(&format!("network.{key}"), value)),
                Err(error) => self.wrong.push(format!("its network cannot be said: {error}")),
            },
        }
    }

    fn unet(&mut self, config: &UNetConfig) {
        let levels: Vec<String> = config
            .level_channels()
            .iter()
            .enumerate()
            .map(|(level, channels)| {
                format!("{channels}{}", if config.attends(level) { " with attention" } else { "" })
            })
            .collect();
        self.say("network", format!("a U-Net, {} channels in, {} out", config.in_channels, config.out_channels));
        self.say("levels", format!("{}, from the image down", levels.join(", ")));
        self.say("blocks", format!("{} on each level", config.blocks_per_level));
        if let Some(up) = config.heads_up {
            self.say("attention", format!("{} on the way down, {up} on the way up", config.heads));
        }
        if config.classes > 0 {
            let null = if config.null_class { ", and the null class" } else { "" };
            self.say("labels", format!("{}{null}", config.classes));
        }
    }

    fn file(&mut self, path: &Path, entry: Option<&str>) -> anyhow::Result<()> {
        if path.extension().is_some_and(|extension| extension == "json") && !is_index(path) {
            return self.json(path);
        }
        let kind = Kind::of(path)?;
        if kind == Kind::Safetensors
            && let Ok(snapshot) = Snapshot::load(path, &self.device)
        {
            self.say("kind", "the file of a snapshot of ddpm-train");
            self.snapshot(&snapshot, path);
            self.changed(path);
            return Ok(());
        }
        self.say("kind", kind);
        let weights = Weights::open_entry(path, entry)?;
        self.weights(&weights);
        match Scheme::detect(&weights) {
            Ok(Scheme::Diffusers | Scheme::DiffusersOfOld) => {
                self.say("use", "none alone: the config.json that belongs beside it says how its network is built");
            }
            Ok(scheme) => self.importable(&weights, scheme, path)?,
            Err(error) => self.wrong.push(error.to_string()),
        }
        Ok(())
    }

    /// A file whose network shows in its weights.
    fn importable(&mut self, weights: &Weights, scheme: Scheme, path: &Path) -> anyhow::Result<()> {
        let deduced = deduce(weights, scheme)?;
        // Heights are not in the file; any at which each level has one will do for the names.
        let config = deduced.at(1 << deduced.config.multipliers.len());
        self.unet(&config);
        if config.out_channels == 2 * config.in_channels {
            self.say("variance", "learned");
        }
        let found = faults(&scheme.entries(&config), weights);
        let usable = found.is_empty();
        self.wrong.extend(found.iter().map(Fault::to_string));
        if usable {
            let heads = if deduced.heads_known { "" } else { " --set model.heads=N" };
            let schedule = match scheme {
                Scheme::OpenAi(_) => " --set diffusion.schedule.kind=KIND",
                _ => "",
            };
            self.say("use", format!("ddpm-infer import {} --out DIR --size PIXELS{heads}{schedule}", path.display()));
        }
        Ok(())
    }

    fn weights(&mut self, weights: &Weights) {
        self.say("weights", weights.path().display());
        let dtypes: Vec<String> =
            weights.dtypes().into_iter().map(|(dtype, count)| format!("{count} of {dtype}")).collect();
        self.say("tensors", format!("{}: {}", weights.tensors().len(), dtypes.join(", ")));
        self.say("values", weights.num_values());
        if let Ok(scheme) = Scheme::detect(weights) {
            self.say("names", format!("those of {scheme}"));
        }
        if !weights.others().is_empty() {
            self.say("beside", weights.others().join(", "));
        }
        for (name, tensor) in weights.tensors() {
            match tensor.read() {
                Ok(values) => {
                    let count = values.iter().filter(|value| !value.is_finite()).count();
                    if count > 0 {
                        self.wrong.push(format!("{name} holds {count} values that are not finite"));
                    }
                }
                Err(error) => self.wrong.push(error.to_string()),
            }
        }
    }

    fn json(&mut self, path: &Path) -> anyhow::Result<()> {
        let json = read_json(path)?;
        let class = json.get("_class_name").and_then(Value::as_str);
        self.say(
            "kind",
            class.map_or("a JSON file that names no class".into(), |class| format!("a {class} of diffusers")),
        );
        for (key, value) in json.as_object().context("the file holds no keys")? {
            self.say(key, value);
        }
        self.say("use", "none alone: give the folder it lies in");
        Ok(())
    }

    fn other_folder(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut names: Vec<String> =
            std::fs::read_dir(path)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        if path.join("state.json").is_file() {
            self.say("kind", "a checkpoint of ddpm-train");
            self.say("use", "ddpm-train --resume, in the run that it belongs to");
            return Ok(());
        }
        if let Ok(weights) = Weights::find_in(path, None) {
            self.say("kind", "weights of diffusers without the config.json that says how their network is built");
            self.weights(&weights);
            self.wrong.push("config.json is missing".into());
            return Ok(());
        }
        let some = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        bail!("{}: no snapshot, run or folder of diffusers; it holds {some}", path.display())
    }
}

fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".index."))
}
