//! `ddpm-infer import` of models of series: a state dict of pytorch-ts, CSDI or SSSD becomes a snapshot.
//!
//! Most of a network is found from the shapes of its tensors. The rest is set by the keys of an experiment; those without a
//! safe default are required.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use burn::module::Module;
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use ddpm_console::numbers::at_least;
use ddpm_console::say;
use ddpm_console::settings::{expand_kinds, in_words, insert, parse_set};
use ddpm_data::series::{Frequency, SeriesInfo};
use ddpm_data::{DataConfig, DataInfo, Split, Units};
use ddpm_device::device;
use ddpm_families::family::{Family, Progress};
use ddpm_families::masked::MaskedFamily;
use ddpm_families::masked::foreign::{network_of, read_foreign};
use ddpm_families::masked::network::MaskedNetworkConfig;
use ddpm_families::masked::tables::MaskedTables;
use ddpm_families::timegrad::foreign::{pytorch_ts_keys, read_pytorch_ts};
use ddpm_families::timegrad::tables::ForecastKeys;
use ddpm_weights::Weights;
use serde::de::Deserialize;
use toml::{Table, Value};

/// The project that a model of series is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum SeriesKind {
    /// TimeGrad of pytorch-ts.
    Timegrad,
    /// The original program of CSDI.
    Csdi,
    /// The original program of SSSD, with S4 layers.
    Sssd,
}

/// What an import of a model of series needs besides.
#[derive(Args, Debug)]
#[command(next_help_heading = "Models of series")]
pub(super) struct SeriesImportArgs {
    /// The project that a model of series is of; default: found from the names of the weights.
    #[arg(long, value_enum)]
    kind: Option<SeriesKind>,
    /// Steps of a window, of models that impute; default: for SSSD, what its kernels are stored for.
    #[arg(long, value_name = "STEPS", value_parser = at_least::<1, usize>)]
    length: Option<usize>,
    /// The frequency, for TimeGrad, whose lags and time features follow from it: h, d, b, 30min.
    #[arg(long, value_name = "FREQUENCY")]
    freq: Option<String>,
    /// The series that the model was trained on: names, frequency, and for models that impute mean and deviation of the
    /// variables; default: numbers for names, and values as the network has them.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
}

/// The settings of `--set`, and the other arguments.
pub(super) struct Import<'a> {
    pub(super) args: &'a SeriesImportArgs,
    pub(super) sets: &'a [String],
    pub(super) out: &'a Path,
}

/// Where SSSD's checkpoints have the weights of the network.
pub(super) const SSSD_ENTRY: &str = "model_state_dict";

impl SeriesImportArgs {
    /// Whether the weights are of a model of series, and of which.
    pub(super) fn find(&self, weights: &Weights) -> Option<SeriesKind> {
        self.kind.or_else(|| SeriesKind::of(weights))
    }
}

impl SeriesKind {
    /// By the names of the weights.
    pub(super) fn of(weights: &Weights) -> Option<Self> {
        let has = |name: &str| weights.tensors().contains_key(name);
        match network_of(weights) {
            Some(MaskedNetworkConfig::Csdi(_)) => Some(Self::Csdi),
            Some(MaskedNetworkConfig::Sssd(_)) => Some(Self::Sssd),
            None => (has("rnn.weight_ih_l0") && has("denoise_fn.input_projection.weight")).then_some(Self::Timegrad),
        }
    }

    /// The project and its model, in words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Timegrad => "TimeGrad of pytorch-ts",
            Self::Csdi => "CSDI",
            Self::Sssd => "SSSD with S4 layers",
        }
    }

    /// The arguments that an import cannot do without.
    pub(super) fn needed(self) -> &'static str {
        match self {
            Self::Timegrad => "--freq FREQUENCY --set timegrad.horizon=H",
            Self::Csdi => "--length STEPS --set model.heads=N --set diffusion.schedule.kind=KIND",
            Self::Sssd => "--set diffusion.schedule.steps=N",
        }
    }
}

impl Import<'_> {
    /// Writes the snapshot.
    pub(super) fn run(&self, kind: SeriesKind, weights: Weights) -> anyhow::Result<()> {
        let device = device::open(None)?.device;
        match kind {
            SeriesKind::Timegrad => self.timegrad(weights, &device),
            SeriesKind::Csdi | SeriesKind::Sssd => self.masked(kind, weights, &device),
        }
    }

    fn timegrad(&self, weights: Weights, device: &Device) -> anyhow::Result<()> {
        let path = weights.path().display().to_string();
        let mut sections = self.sections()?;
        let section = sections.remove("timegrad").unwrap_or_else(|| Table::new().into());
        if let Some(other) = sections.keys().next() {
            bail!("--set {other}: for TimeGrad only the keys of [timegrad] are set; the rest is in the file");
        }
        let Value::Table(mut section) = section else {
            bail!("--set timegrad: expected keys, such as timegrad.horizon=24")
        };
        let mut missing = Vec::new();
        if !["horizon", "prediction_length"].iter().any(|key| section.contains_key(*key)) {
            missing.push(
                "--set timegrad.horizon=H: its prediction_length; and --set timegrad.context=C where its \
                          context_length is another number",
            );
        }
        if self.args.freq.is_none() && self.args.data.is_none() {
            missing.push("--freq FREQUENCY: h, d, b, 30min");
        }
        require(&path, &missing)?;
        for (key, value) in usual_keys()? {
            section.entry(key).or_insert(value);
        }
        let keys = ForecastKeys::deserialize(Value::Table(section))
            .map_err(|error| anyhow!("--set: timegrad: {}", in_words(error.message())))?;
        let variables = weights.shape("embed.weight").and_then(|shape| shape.first()).copied().unwrap_or(1);
        // pytorch-ts has its values as they are.
        let data = DataInfo { units: Units::identity(variables), ..self.data(variables, 1)? };
        let (family, model) = read_pytorch_ts(weights, data, keys, device).map_err(anyhow::Error::from_boxed)?;
        self.save(&family, &model, &path, SeriesKind::Timegrad)
    }

    fn masked(&self, kind: SeriesKind, weights: Weights, device: &Device) -> anyhow::Result<()> {
        let path = weights.path().display().to_string();
        let network = network_of(&weights)
            .filter(|network| matches!(network, MaskedNetworkConfig::Csdi(_)) == (kind == SeriesKind::Csdi))
            .with_context(|| format!("{path}: expected the names of {}", kind.name()))?;
        let (variables, stored) = match &network {
            MaskedNetworkConfig::Csdi(config) => (config.variables, 0),
            MaskedNetworkConfig::Sssd(config) => (config.in_channels, config.length),
        };
        let given = self.sections()?;
        let length = self.args.length.unwrap_or(stored);
        require(&path, &missing_of_masked(kind, &given, length))?;
        let has_sum = is_set(&given, "model", &["kernel_sum"]);
        let tables = masked_tables(kind, &network, given)?;
        let data = self.data(variables, length)?;
        let (family, model) = read_foreign(weights, tables, data, device).map_err(anyhow::Error::from_boxed)?;
        self.save(&family, &model, &path, kind)?;
        if kind == SeriesKind::Sssd && !has_sum {
            say!(
                "note: its kernels are summed in full; where it was trained with neither SSSD's CUDA extension nor pykeops: \
                 --set model.kernel_sum=half"
            );
        }
        Ok(())
    }

    fn save<F: Family>(&self, family: &F, model: &F::Model, path: &str, kind: SeriesKind) -> anyhow::Result<()> {
        say!("{path}: {}, {} parameters", kind.name(), model.num_params());
        say!("{}", toml::to_string(family.tables())?);
        family.save(model, Progress { step: 0, images_seen: 0 }, self.out)?;
        Ok(())
    }

    /// The sections of `--set`.
    fn sections(&self) -> anyhow::Result<Table> {
        let mut sections = Table::new();
        for set in self.sets {
            let (key, value) = parse_set(set, "model.heads=8").map_err(|error| anyhow!("--set {set}: {error}"))?;
            insert(&mut sections, &key, value);
            expand_kinds(&mut sections);
        }
        Ok(sections)
    }

    /// What is known of the series: from a file, or nothing but the frequency.
    fn data(&self, variables: usize, length: usize) -> anyhow::Result<DataInfo> {
        let frequency = self.args.freq.as_deref().map(|text| {
            let frequency = Frequency::parse(text).map(|frequency| frequency.to_string());
            frequency.with_context(|| format!("--freq {text}: expected {}", Frequency::EXPECTED))
        });
        let frequency = frequency.transpose()?;
        let mut data = match &self.args.data {
            Some(file) => data_of(file, variables)?,
            None => numbered(variables),
        };
        data.shape = vec![variables, length];
        if let (Some(frequency), Some(series)) = (frequency, &mut data.series) {
            series.frequency = Some(frequency);
        }
        Ok(data)
    }
}

/// Whether one of these keys of a section is given.
fn is_set(given: &Table, section: &str, keys: &[&str]) -> bool {
    let table = given.get(section).and_then(Value::as_table);
    table.is_some_and(|table| keys.iter().any(|key| table.contains_key(*key)))
}

/// What must be given of a model that imputes.
fn missing_of_masked(kind: SeriesKind, given: &Table, length: usize) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if kind == SeriesKind::Csdi && !is_set(given, "model", &["heads", "nheads"]) {
        missing.push("--set model.heads=8: its nheads");
    }
    if kind == SeriesKind::Csdi && !is_set(given, "diffusion", &["schedule"]) {
        missing.push(
            "--set diffusion.schedule.kind=quadratic or linear: its schedule, with diffusion.schedule.steps (num_steps), \
             diffusion.schedule.beta_start and diffusion.schedule.beta_end",
        );
    }
    if length == 0 {
        missing.push("--length STEPS: steps of its windows");
    }
    missing
}

/// The sections of a model that imputes: what was found of its network, and what is given.
fn masked_tables(kind: SeriesKind, network: &MaskedNetworkConfig, given: Table) -> anyhow::Result<MaskedTables> {
    let mut model = Table::try_from(network)?;
    if kind == SeriesKind::Csdi {
        // The steps are those of the schedule, and the heads are given.
        ["steps", "heads"].iter().for_each(|key| drop(model.remove(*key)));
    }
    let has_sampler = is_set(&given, "masked", &["sampler", "steps"]);
    let mut sections = Table::from_iter([("model".to_string(), model.into())]);
    merge(&mut sections, given);
    let mut tables = MaskedFamily::read(sections).map_err(|error| anyhow!("--set: {}", in_words(&error)))?;
    if !has_sampler {
        // That of the original programs.
        (tables.masked.sampler, tables.masked.steps) = ("ddpm".into(), tables.diffusion.schedule.steps());
    }
    let problems: Vec<String> =
        MaskedFamily::problems(&tables).iter().map(|(key, message)| format!("{key}: {message}")).collect();
    if problems.is_empty() { Ok(tables) } else { bail!("--set: {}", problems.join("; ")) }
}

/// The message about settings that are not in the file.
fn require(path: &str, missing: &[&str]) -> anyhow::Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let lines: String = missing.iter().map(|line| format!("\n  {line}")).collect();
    bail!("{path}: the file does not contain these settings; pass them{lines}")
}

/// What models of pytorch-ts have where nothing is set.
fn usual_keys() -> anyhow::Result<Table> {
    let mut usual = Table::try_from(pytorch_ts_keys(0, 1))?;
    for set in ["horizon", "context"] {
        usual.remove(set);
    }
    Ok(usual)
}

/// Adds the keys of sections to those that are there, also inside of tables.
fn merge(into: &mut Table, sections: Table) {
    for (key, value) in sections {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(more)) => merge(into, more),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Variables without names, in the units of the network.
fn numbered(variables: usize) -> DataInfo {
    let series = SeriesInfo {
        variables: (0..variables).map(|k| k.to_string()).collect(),
        frequency: None,
        covariates: Vec::new(),
        covariate_units: Units::identity(0),
        lowest: vec![None; variables],
        highest: vec![None; variables],
        static_categories: Vec::new(),
        static_units: Units::default(),
    };
    DataInfo {
        name: "series".into(),
        shape: vec![variables, 1],
        classes: Vec::new(),
        units: Units::identity(variables),
        series: Some(series),
        latent: false,
        has_captions: false,
    }
}

/// The description of the series of a file.
fn data_of(file: &Path, variables: usize) -> anyhow::Result<DataInfo> {
    let config: DataConfig = serde_json::from_value(serde_json::json!({ "kind": "series", "path": file }))?;
    let data = ddpm_data::open(&config, Split::Train, 0)?.info;
    let found = data.series.as_ref().map_or(0, |series| series.variables.len());
    if found != variables {
        bail!("--data {}: it has {found} variables, and the model is of {variables}", file.display());
    }
    Ok(data)
}
