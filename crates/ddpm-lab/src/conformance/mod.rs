//! `ddpm-lab conformance`: checks the results of a device against the reference backend.
//!
//! | file | |
//! | --- | --- |
//! | `shapes.rs` | every operation, with its shape, of the networks of the experiments and of the papers |
//! | `operations.rs` | the operations: values and gradients on random inputs |
//! | `networks.rs` | whole networks, against diffusers and against flex |
//! | `training.rs`, `sampling.rs` | the first steps of a training, and samples from fixed noise, against flex |
//! | `exchange.rs` | snapshots and checkpoints written on one device and read on another |
//! | `check.rs` | comparisons and their tolerances |

pub mod check;
pub mod exchange;
pub mod networks;
pub mod operations;
pub mod sampling;
pub mod shapes;
pub mod training;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use burn::tensor::{DType, Device};
use ddpm_data::{DataConfig, ImageChannels};
use ddpm_device::device::{self, DeviceError, OpenDevice};
use ddpm_families::diffusion::DiffusionFamily;
use ddpm_model::network::NetworkConfig;
use ddpm_model::unet::{Heads, TimeShift, UNetConfig};

use self::check::{Group, off_by, tolerance};
use self::networks::Reference;
use self::operations::Operation;
use self::training::{Recipe, Training};
use ddpm_console::output::print;
use ddpm_train::config::load::Source;
use ddpm_train::config::recipes::RECIPES;

/// Steps of the training that is compared.
const STEPS: u64 = 10;

/// Compares the results of a device with those of flex, in f64 where possible, and with reference implementations.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Exit codes: 0 all passed, 1 something did not, 2 wrong command line, 3 a device was not there."
)]
pub struct ConformanceArgs {
    /// A device to check, as for training; can be given several times. Default: $BURN_DEVICE, or that of this build.
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// The networks of the bundled data, and those of the fixtures that have gradients, only, in small batches: minutes
    /// instead of an hour.
    #[arg(long)]
    quick: bool,
    /// Only this part of the suite; can be given several times.
    #[arg(long, value_name = "PART")]
    part: Vec<Part>,
    /// The folder with the results of reference implementations; default: $DDPM_FIXTURES, or `fixtures` here or above.
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
}

/// A part of the suite.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say all.
pub enum Part {
    Operations,
    Fixtures,
    Networks,
    Training,
    Sampling,
    Exchange,
}

/// The outcome, in ascending order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Every check on every device passed.
    Passed,
    /// A device was not available, and nothing failed on the others.
    Skipped,
    /// A check failed.
    Failed,
}

/// Checks the devices one after another and prints a table.
pub fn run(args: &ConformanceArgs) -> anyhow::Result<Verdict> {
    let names = if args.device.is_empty() { vec![device::default_name()] } else { args.device.clone() };
    let flex = device::reference()?;
    let fixtures = args.fixtures.clone().map_or_else(find_fixtures, Ok)?;
    let suite = Suite::prepare(args, fixtures, flex)?;
    let (mut rows, mut verdict) = (Vec::new(), Verdict::Passed);
    for name in names {
        match device::open(Some(&name)) {
            Ok(open) => {
                let groups = suite.check(&open)?;
                print_failures(&name, &groups);
                let passed = groups.iter().all(|group| group.passes() == group.checks.len());
                verdict = verdict.max(if passed { Verdict::Passed } else { Verdict::Failed });
                rows.extend(table_rows(&open, &groups));
            }
            Err(error @ DeviceError::NotThere { .. }) => {
                ddpm_console::say!("{name}: skipped: {error}");
                rows.push(format!("| {name} | not there | skipped | | | | |"));
                verdict = verdict.max(Verdict::Skipped);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let outcome = match verdict {
        Verdict::Passed => "passed",
        Verdict::Skipped => "skipped",
        Verdict::Failed => "failed",
    };
    let head = [
        "| backend | device | what | checks passed | largest error | tolerance | time |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ];
    let lines = head.into_iter().chain(rows.iter().map(String::as_str)).chain([outcome]);
    print(&lines.map(|line| format!("{line}\n")).collect::<String>())?;
    Ok(verdict)
}

/// The checks of every device, with the results of flex.
struct Suite {
    quick: bool,
    parts: Vec<Part>,
    fixtures: PathBuf,
    flex: Device,
    networks: Vec<(String, NetworkConfig, Vec<usize>)>,
    recipe: Recipe,
}

impl Suite {
    fn prepare(args: &ConformanceArgs, fixtures: PathBuf, flex: Device) -> anyhow::Result<Self> {
        let (quick, parts) = (args.quick, args.part.clone());
        for index in ["unet/index.json", "pipelines/index.json"].map(|index| fixtures.join(index)) {
            ensure!(index.is_file(), "the fixtures lack {}: --fixtures DIR names their folder", index.display());
        }
        Ok(Self { quick, parts, fixtures, networks: networks(quick)?, recipe: Recipe::digits(quick, &flex)?, flex })
    }

    fn check(&self, open: &OpenDevice) -> anyhow::Result<Vec<Group>> {
        let device = &open.device;
        let say = |what: &str| ddpm_console::say!("{}: {what}", open.name);
        if let Some(remark) = open.first_use() {
            say(remark);
        }
        let selected = |part: Part| self.parts.is_empty() || self.parts.contains(&part);
        let mut groups = Vec::new();
        if selected(Part::Operations) {
            groups.extend(self.operations(open));
        }
        if selected(Part::Fixtures) {
            say("networks of the fixtures");
            groups.extend(networks::golden(&self.fixtures, device, self.quick)?);
        }
        if selected(Part::Networks) {
            groups.extend(self.whole_networks(open)?);
        }
        if selected(Part::Training) {
            say("training");
            groups.push(self.training(device));
        }
        if selected(Part::Sampling) {
            say("sampling");
            groups.push(sampling::check(&self.fixtures, device, &self.flex)?);
        }
        if selected(Part::Exchange) {
            say("exchange with flex");
            groups.extend(self.exchange(device));
        }
        Ok(groups)
    }

    /// Snapshots and checkpoints, through files.
    fn exchange(&self, device: &Device) -> [Group; 2] {
        let folder = std::env::temp_dir().join(format!("ddpm-conformance-{}", std::process::id()));
        let groups = exchange::check(&self.recipe, device, &self.flex, &folder);
        // What was written there served the comparison only.
        let _ = std::fs::remove_dir_all(&folder);
        groups
    }

    /// Every operation of every network, each once.
    fn operations(&self, open: &OpenDevice) -> Vec<Group> {
        let batch = if self.quick { 2 } else { 4 };
        let all = self.networks.iter().flat_map(|(_, config, shape)| shapes::operations_of(config, shape));
        let mut kinds: BTreeMap<&str, Vec<Operation>> = BTreeMap::new();
        for operation in all {
            let kind = kinds.entry(operation.group()).or_default();
            if !kind.contains(&operation) {
                kind.push(operation);
            }
        }
        let group_of = |(name, operations): (&'static str, Vec<Operation>)| {
            ddpm_console::say!("{}: {name}: {} shapes", open.name, operations.len());
            let mut group = Group::new(name, tolerance::OPERATION);
            for operation in operations {
                let wanted = operation.run(batch, &self.flex, DType::F64);
                group.attempt(&operation.to_string(), || {
                    let found = operation.run(batch, &open.device, DType::F32);
                    Ok(found.into_iter().zip(&wanted).map(|((name, f), (_, w))| (name, off_by(&f, w))).collect())
                });
            }
            group
        };
        kinds.into_iter().map(group_of).collect()
    }

    /// The networks of the experiments, outputs and gradients.
    fn whole_networks(&self, open: &OpenDevice) -> anyhow::Result<[Group; 2]> {
        let mut outputs = Group::new("networks of the experiments", tolerance::OUTPUT);
        let mut gradients = Group::new("the gradients of these", tolerance::GRADIENT);
        for (name, config, shape) in &self.networks {
            ddpm_console::say!("{}: the network of {name}", open.name);
            let reference = Reference::new(config, shape, 2, &self.flex)?;
            let mut of_parameters = Vec::new();
            outputs.attempt(name, || {
                let (output, parameters) = reference.compare(&open.device)?;
                of_parameters = parameters;
                Ok(vec![("output".into(), output)])
            });
            if !of_parameters.is_empty() {
                gradients.attempt(name, || Ok(of_parameters));
            }
        }
        Ok([outputs, gradients])
    }

    /// The first steps of the digits.
    fn training(&self, device: &Device) -> Group {
        let mut group = Group::new("training steps", tolerance::LOSS);
        group.attempt("digits", || {
            let wanted = Training::new(&self.recipe, &self.flex)?.steps(STEPS)?;
            let found = Training::new(&self.recipe, device)?.steps(STEPS)?;
            Ok(training::compare(&found, &wanted, 1))
        });
        group
    }
}

/// The networks of the experiments, each once, with the shape of their data; all of them, and the one of Nichol &
/// Dhariwal (2021) for ImageNet at 64x64, unless `quick`.
fn networks(quick: bool) -> anyhow::Result<Vec<(String, NetworkConfig, Vec<usize>)>> {
    let mut found: Vec<(String, NetworkConfig, Vec<usize>)> = Vec::new();
    for recipe in RECIPES {
        let experiment = Source::BuiltIn(recipe).load(&[], toml::Table::new())?;
        let Some(tables) = experiment.family.get::<DiffusionFamily>() else { continue };
        let mut model = tables.model.clone();
        // Each backend drops other values.
        if let NetworkConfig::UNet(config) = &mut model {
            config.dropout = 0.0;
        }
        let shape = if tables.latents.is_some() { LATENTS.to_vec() } else { shape_of(&experiment.data) };
        let small = shape.iter().product::<usize>() <= 64;
        let config = model.with_io(&shape, tables.diffusion.variance.output_channels(shape[0]));
        let known = found.iter().any(|(_, known, _)| *known == config);
        if !known && (small || !quick) {
            config.validate(&shape)?;
            found.push((recipe.name.into(), config, shape));
        }
    }
    if !quick {
        let nichol = UNetConfig {
            sample_size: 64,
            out_channels: 6,
            multipliers: vec![1.0, 2.0, 3.0, 4.0],
            blocks_per_level: 3,
            attention_resolutions: vec![16, 8],
            heads: Heads::Count(4),
            time_shift: TimeShift::ScaleShift,
            dropout: 0.0,
            ..UNetConfig::cifar10()
        };
        found.push(("ImageNet at 64x64".into(), NetworkConfig::UNet(nichol), vec![3, 64, 64]));
    }
    Ok(found)
}

/// The shape of latents, which the autoencoder of an experiment has, and not the experiment.
const LATENTS: [usize; 3] = [4, 8, 8];

/// The shape of an item, without reading the data.
fn shape_of(data: &DataConfig) -> Vec<usize> {
    match data {
        DataConfig::Digits(_) => vec![1, 8, 8],
        DataConfig::Mnist(mnist) | DataConfig::FashionMnist(mnist) => vec![1, mnist.size.into(), mnist.size.into()],
        DataConfig::Cifar10(_) => vec![3, 32, 32],
        DataConfig::Images(images) => {
            let channels = if images.channels == ImageChannels::Rgb { 3 } else { 1 };
            vec![channels, images.size, images.size]
        }
        _ => vec![2],
    }
}

/// What `DDPM_FIXTURES` says, or the folder `fixtures` here, above, or where this program was built.
fn find_fixtures() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DDPM_FIXTURES") {
        return Ok(folder.into());
    }
    let here = std::env::current_dir().unwrap_or_default();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = here.ancestors().chain(sources.ancestors()).map(|dir| dir.join("fixtures"));
    folders.find(|dir| dir.join("unet").is_dir()).context(
        "there is no folder `fixtures` here or above: run this in the project's folder, or pass --fixtures DIR",
    )
}

/// Prints the failed checks to the console.
fn print_failures(device: &str, groups: &[Group]) {
    for group in groups {
        for check in group.checks.iter().filter(|check| !group.passed(check)) {
            match &check.error {
                Ok(error) => {
                    ddpm_console::say!(
                        "{device}: FAILED: {}: off by {error:.1e}, allowed {:.1e}",
                        check.name,
                        group.tolerance
                    );
                }
                Err(reason) => ddpm_console::say!("{device}: FAILED: {}: {reason}", check.name),
            }
        }
    }
}

/// A row for each group, and one for all.
fn table_rows(open: &OpenDevice, groups: &[Group]) -> Vec<String> {
    let (backend, hardware) = (open.name.as_str(), open.hardware());
    let row = |what: &str, passes: usize, checks: usize, errors: [String; 2], time: Duration| {
        let [error, tolerance] = errors;
        let seconds = time.as_secs_f64();
        format!("| {backend} | {hardware} | {what} | {passes} of {checks} | {error} | {tolerance} | {seconds:.1} s |")
    };
    let number = |value: f64| if value == 0.0 { "0".to_string() } else { format!("{value:.1e}") };
    let mut rows: Vec<String> = groups
        .iter()
        .map(|group| {
            let errors = [number(group.largest_error()), number(group.tolerance)];
            row(group.name, group.passes(), group.checks.len(), errors, group.time)
        })
        .collect();
    let passes = groups.iter().map(Group::passes).sum();
    let checks = groups.iter().map(|group| group.checks.len()).sum();
    let time = groups.iter().map(|group| group.time).sum();
    rows.push(row("**all**", passes, checks, [String::new(), String::new()], time));
    rows
}
