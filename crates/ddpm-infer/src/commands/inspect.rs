//! `ddpm-infer inspect`: identifies a file or folder of weights, checks it, and prints how to use it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::module::Module;
use burn::tensor::Device;
use clap::Args;
use ddpm_console::output::print;
use ddpm_device::device;
use ddpm_families::checksums;
use ddpm_families::diffusers::pipeline::{Layout, read_json};
use ddpm_families::diffusers::unet_config;
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::{abilities, open};
use ddpm_families::snapshot::{DiffusionConfig, OWN, Snapshot, SnapshotError, WEIGHTS, folder_of_weights, nothing_at};
use ddpm_files::runs::{RunFolder, steps_in};
use ddpm_kernels::Precision;
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::UNetConfig;
use ddpm_weights::names::deduce;
use ddpm_weights::{Fault, Kind, Scheme, Weights, WeightsError, faults};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::import_series::SeriesKind;
use crate::commands::inspect_series::of_model;

/// Faults that are listed at most; there can be one for every key.
const LISTED: usize = 20;

/// Identify and check a file or folder of weights.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A snapshot, a folder of diffusers, a run, or a file of weights.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Name of the weights, in a file with several, such as ema.
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Print one JSON object: about (pairs of name and value), wrong, experiment (its tables as TOML, or null).
    #[arg(long)]
    json: bool,
}

/// The tables of an experiment with the network and diffusion of a snapshot.
#[derive(Serialize)]
struct Tables<'a> {
    model: &'a NetworkConfig,
    diffusion: &'a DiffusionConfig,
}

/// Prints the report. Faults are an error.
pub fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let device = device::open(None)?.device;
    let mut report = Report { device, lines: Vec::new(), wrong: Vec::new(), experiment: None };
    report.inspect(&args.path, args.entry.as_deref())?;
    let Report { lines: about, wrong, experiment, .. } = &report;
    match args.json {
        true => print(&format!("{}\n", json!({ "about": about, "wrong": wrong, "experiment": experiment })))?,
        false => print(&report.text())?,
    }
    match report.wrong.len() {
        0 => Ok(()),
        1 => bail!("{}: 1 fault", args.path.display()),
        count if count > LISTED => bail!("{}: {count} faults, of which {LISTED} are listed", args.path.display()),
        count => bail!("{}: {count} faults", args.path.display()),
    }
}

/// The findings.
struct Report {
    device: Device,
    lines: Vec<(String, String)>,
    wrong: Vec<String>,
    /// `[model]` and the other tables of its family, to paste into an experiment.
    experiment: Option<String>,
}

impl Report {
    /// A line for each finding, and what to paste into an experiment.
    fn text(&self) -> String {
        let width = self.lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let found = self.lines.iter().map(|(name, value)| format!("{name:width$}  {value}\n"));
        let wrong = self.wrong.iter().take(LISTED).map(|wrong| format!("{:width$}  {wrong}\n", "wrong"));
        let tables = self.experiment.iter();
        let tables = tables.map(|tables| format!("\n# The tables of an experiment with this model.\n{tables}\n"));
        found.chain(wrong).chain(tables).collect()
    }

    fn add(&mut self, name: &str, value: impl Display) {
        self.lines.push((name.into(), value.to_string()));
    }

    fn inspect(&mut self, path: &Path, entry: Option<&str>) -> anyhow::Result<()> {
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
        self.add("kind", format!("a run of ddpm-train with {} snapshots", steps.len()));
        self.add("checkpoints", steps_in(&run.checkpoints()).len());
        match steps.last() {
            None => {
                self.wrong.push("it has no snapshot yet, so there is nothing to sample from".into());
                Ok(())
            }
            Some((step, path)) => {
                self.add("newest", format!("step {step}, {}", path.display()));
                self.network(path)
            }
        }
    }

    /// A folder with a network that can be opened: one of our snapshots, or a folder of diffusers.
    fn network(&mut self, path: &Path) -> anyhow::Result<()> {
        match ModelCard::find(path) {
            Ok(Some(card)) => return self.card(&card, path),
            Err(error) => {
                self.wrong.push(error.to_string());
                return Ok(());
            }
            Ok(None) => {}
        }
        match Layout::find(path) {
            None => self.add("kind", "a snapshot of ddpm-train, in its own layout"),
            Some(layout) => {
                self.add(
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

    /// A snapshot that names its family.
    fn card(&mut self, card: &ModelCard, path: &Path) -> anyhow::Result<()> {
        self.add("kind", format!("a snapshot of family {}", card.family));
        self.add("from", card.origin());
        self.add("data", format!("{}, items of shape {:?}", card.data.name, card.data.shape));
        let model = open(path, &self.device, Precision::F32).map_err(|error| self.wrong.push(error.to_string())).ok();
        if let Some(series) = &card.data.series {
            of_model(series, model.as_deref()).into_iter().for_each(|(name, value)| self.add(name, value));
        }
        if let Some(model) = model {
            self.add("use", abilities(&*model));
        }
        self.experiment = Some(format!("family = \"{}\"\n\n{}", card.family, toml::to_string(&card.tables)?));
        self.changed(path);
        Ok(())
    }

    /// Files of a snapshot with another checksum than when they were written. Where a file has a fault already, the checksum
    /// is added to it.
    fn changed(&mut self, path: &Path) {
        // A file that is opened twice reports its fault twice.
        let mut known = BTreeSet::new();
        self.wrong.retain(|wrong| known.insert(wrong.clone()));
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

    /// The class names in the JSON files.
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
                    self.add(what, format!("{}, of diffusers {}", word("_class_name"), word("_diffusers_version")));
                }
                Err(error) => self.wrong.push(error.to_string()),
            }
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot, path: &Path) {
        let config = &snapshot.config;
        self.architecture(&config.network);
        self.add("parameters", snapshot.network.num_params());
        self.add("data", format!("{} of shape {:?}", config.data.name, config.data.shape));
        if !config.data.classes.is_empty() {
            self.add("classes", config.data.classes.join(", "));
        }
        match toml::to_string(&Tables { model: &config.network, diffusion: &config.diffusion }) {
            Ok(sections) => self.experiment = Some(sections),
            Err(error) => self.wrong.push(format!("its network and diffusion cannot be written as TOML: {error}")),
        }
        self.add("origin", config.origin());
        self.add("use", format!("ddpm-infer sample --from {}", path.display()));
        if config.network.null_class().is_some() {
            self.add("use", "with classes and classifier-free guidance");
        } else if config.network.num_classes() > 0 {
            self.add("use", "with classes, without classifier-free guidance: it has no null class");
        }
    }

    fn architecture(&mut self, config: &NetworkConfig) {
        match config {
            NetworkConfig::UNet(config) => self.unet(config),
            other => match toml::Table::try_from(other) {
                Ok(keys) => keys.into_iter().for_each(|(key, value)| self.add(&format!("network.{key}"), value)),
                Err(error) => self.wrong.push(format!("its network cannot be written as TOML: {error}")),
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
        self.add("network", format!("a U-Net, {} channels in, {} out", config.in_channels, config.out_channels));
        self.add("levels", format!("{}, from the image down", levels.join(", ")));
        self.add("blocks", format!("{} on each level", config.blocks_per_level));
        if let Some(up) = config.heads_up {
            self.add("attention", format!("{} heads on the down path, {up} on the up path", config.heads));
        }
        if config.classes > 0 {
            let null = if config.null_class { ", and the null class" } else { "" };
            self.add("labels", format!("{}{null}", config.classes));
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
            self.add("kind", "the one file of a snapshot of ddpm-train, of format 1");
            self.snapshot(&snapshot, path);
            self.changed(path);
            return Ok(());
        }
        self.add("kind", kind);
        let weights = Weights::open_entry(path, entry)?;
        self.weights(&weights);
        if let Some(folder) = folder_of_weights(path) {
            self.add("use", format!("not alone: pass the snapshot that it is in, {}", folder.display()));
            return Ok(());
        }
        if let Some(kind) = SeriesKind::of(&weights) {
            self.add("names", format!("those of {}", kind.name()));
            self.add("use", format!("ddpm-infer import {} --out DIR {}", path.display(), kind.needed()));
            return Ok(());
        }
        match Scheme::detect(&weights) {
            Ok(Scheme::Diffusers | Scheme::DiffusersOfOld) => {
                self.add("use", "not alone: its config.json, which describes the network, belongs next to it");
            }
            Ok(scheme) => self.importable(&weights, scheme, path)?,
            Err(error) => self.wrong.push(error.to_string()),
        }
        Ok(())
    }

    /// A file whose network can be deduced from its weights.
    fn importable(&mut self, weights: &Weights, scheme: Scheme, path: &Path) -> anyhow::Result<()> {
        let deduced = deduce(weights, scheme)?;
        // The file has no image size: for the names, any size that fits the levels will do.
        let config = deduced.at(1 << deduced.config.multipliers.len());
        self.unet(&config);
        if config.out_channels == 2 * config.in_channels {
            self.add("variance", "learned");
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
            self.add("use", format!("ddpm-infer import {} --out DIR --size PIXELS{heads}{schedule}", path.display()));
        }
        Ok(())
    }

    fn weights(&mut self, weights: &Weights) {
        self.add("weights", weights.path().display());
        let dtypes: Vec<String> =
            weights.dtypes().into_iter().map(|(dtype, count)| format!("{count} of {dtype}")).collect();
        self.add("tensors", format!("{}: {}", weights.tensors().len(), dtypes.join(", ")));
        self.add("values", weights.num_values());
        if let Ok(scheme) = Scheme::detect(weights) {
            self.add("names", format!("those of {scheme}"));
        }
        if !weights.others().is_empty() {
            self.add("also contains", weights.others().join(", "));
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
        self.add(
            "kind",
            class.map_or("a JSON file without a class name".into(), |class| format!("a {class} of diffusers")),
        );
        for (key, value) in json.as_object().context("the file has no keys")? {
            self.add(key, value);
        }
        self.add("use", "not alone: pass the folder that it is in");
        Ok(())
    }

    fn other_folder(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut names: Vec<String> =
            std::fs::read_dir(path)?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        if path.join("state.json").is_file() {
            self.add("kind", "a checkpoint of ddpm-train");
            self.add("use", "ddpm-train --resume, in the run that it belongs to");
            return Ok(());
        }
        if let Ok(weights) = Weights::find_in(path, None) {
            self.add("kind", "weights of diffusers without the config.json that describes the network");
            self.weights(&weights);
            self.wrong.push("config.json is missing".into());
            return Ok(());
        }
        let some = names.iter().take(8).cloned().collect::<Vec<_>>().join(", ");
        bail!("{}: no snapshot, run or folder of diffusers; it contains {some}", path.display())
    }
}

fn is_index(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(".index."))
}
