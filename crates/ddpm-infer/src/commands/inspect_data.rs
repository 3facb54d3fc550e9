//! `ddpm-infer data`: lists the built-in datasets, inspects a dataset, and packs images.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use ddpm_console::bar::{checking_images, progress_bar};
use ddpm_console::output::{print, print_path};
use ddpm_console::say;
use ddpm_data::packed::{self, Packed};
use ddpm_data::series::{Index, Opened, ReadHints, read_any};
use ddpm_data::{DataConfig, ImagesConfig, OpenData, Split, printable, shown, with_home};
use ddpm_render::{self, Samples};

use crate::commands::inspect_series;

/// Items in the overview of `--out`; and items of each class, if there are classes.
const SHOWN: usize = 100;
const SHOWN_OF_CLASS: usize = 10;
/// Classes in the overview at most.
const CLASSES_SHOWN: usize = 50;
/// Values of all items in the overview at most, so that large images fit into memory.
const NUMBERS_SHOWN: usize = 1 << 25;

/// List the built-in datasets, or inspect one.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DataArgs {
    #[command(subcommand)]
    command: Option<DataCommand>,
    /// A built-in dataset, or a folder or file of data; default: list the kinds of data.
    #[arg(value_name = "KIND|PATH")]
    what: Option<String>,
    /// Kind of the data at the path; default: guessed from the files.
    #[arg(long)]
    kind: Option<String>,
    /// Height and width for a folder of images.
    #[arg(long, default_value_t = 32)]
    size: usize,
    #[command(flatten)]
    labels: LabelArgs,
    /// Also writes data.png into this folder: items evenly spread over the set or, with classes, a row for each; of series a
    /// plot.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Where the classes of a folder of images come from.
#[derive(Args, Debug)]
struct LabelArgs {
    /// Where the classes of a folder of images come from; "folders": one for each sub-folder. As data.labels.
    #[arg(long, value_enum, default_value = "none")]
    labels: Labels,
    /// The same as --labels folders.
    #[arg(long, conflicts_with = "labels")]
    classes: bool,
}

/// `data.labels`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Labels {
    None,
    Folders,
}

impl LabelArgs {
    /// The value in the config.
    fn value(&self) -> &'static str {
        match self.labels {
            Labels::None if !self.classes => "none",
            _ => "folders",
        }
    }
}

#[derive(Subcommand, Debug)]
enum DataCommand {
    /// Decode a folder or zip archive of images into one file, from which training reads without decoding.
    Build(BuildArgs),
    /// Compare such a file with its checksum, and with its source if that still exists.
    Verify {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
struct BuildArgs {
    /// The folder or zip archive.
    source: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Height and width that every image is scaled and cropped to.
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// One channel instead of three.
    #[arg(long)]
    grayscale: bool,
    #[command(flatten)]
    labels: LabelArgs,
    /// Skips files that are not readable images, instead of stopping.
    #[arg(long)]
    skip_bad: bool,
}

impl BuildArgs {
    /// Builds the file, and prints how to train on it.
    fn run(&self) -> anyhow::Result<()> {
        let choose = |yes: bool, values: [&str; 2]| values[usize::from(yes)].to_string();
        let source: ImagesConfig = serde_json::from_value(serde_json::json!({
            "path": self.source,
            "size": self.size,
            "channels": choose(self.grayscale, ["rgb", "grayscale"]),
            "labels": self.labels.value(),
            "on_bad_file": choose(self.skip_bad, ["stop", "skip"]),
        }))?;
        if let Some(problem) = DataConfig::Images(source.clone()).problems().into_iter().next() {
            bail!("--{}: {}", problem.key, problem.reason);
        }
        let bar = progress_bar("{bar:28} {pos}/{len} images  {elapsed} < {eta}", 0);
        let built = packed::build(&source, &self.out, &checking_images(), |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let (packed, skipped, ignored) = built?;
        if ignored.count > 0 {
            say!("note: {ignored}");
        }
        if !skipped.is_empty() {
            say!("warning: {} files are not readable images and are left out:", skipped.len());
            skipped.iter().take(10).for_each(|file| say!("  {file}"));
        }
        say!("{}", describe(&packed));
        say!("to train on it: [data] kind = \"packed\", path = {:?}", self.out);
        print_path(&self.out)
    }
}

fn describe(packed: &Packed) -> String {
    let Packed { info, train, test, .. } = packed;
    let classes = match info.classes.len() {
        0 => String::new(),
        count => format!(", {count} classes"),
    };
    format!("{train} images of shape {:?} to train on, {test} held out{classes}", info.shape)
}

/// Runs the command.
pub fn run(args: &DataArgs) -> anyhow::Result<()> {
    match &args.command {
        Some(DataCommand::Build(build)) => return build.run(),
        Some(DataCommand::Verify { file }) => {
            return print(&format!("{}: intact; {}\n", file.display(), describe(&packed::verify(file)?)));
        }
        None => {}
    }
    let Some(what) = &args.what else { return print(&kinds()) };
    let config = config_of(what, args)?;
    let open = |split| ddpm_data::open_with_progress(&config, split, 0, &checking_images());
    let (train, test) = (open(Split::Train)?, open(Split::Test)?);
    print(&match &train.series {
        Some(_) => inspect_series::report(&config, &train, &test)?,
        None => report(&train, &test),
    })?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        let path = out.join("data.png");
        if train.series.is_some() {
            inspect_series::draw(&train, &path)?;
            return print_path(&path);
        }
        let (samples, rows) = overview(&train)?;
        ddpm_render::write_overview(&path, &samples, None)?;
        if !rows.is_empty() {
            print(&format!("rows of data.png, from the top: {}\n", rows.join(", ")))?;
        }
        print_path(&path)?;
    }
    Ok(())
}

/// The kinds of datasets, each with what it is.
fn kinds() -> String {
    let [built_in, from_path] = [&DataConfig::BUILT_IN[..], &DataConfig::FROM_PATH[..]].map(|kinds| {
        let line = |(kind, description): &(&str, &str)| format!("  {kind:14} {description}\n");
        kinds.iter().map(line).collect::<String>()
    });
    format!("Ready to use:\n{built_in}Your own, with a path:\n{from_path}")
}

/// What is in both splits.
fn report(train: &OpenData, test: &OpenData) -> String {
    let mut lines = vec![
        format!("{}: items of shape {:?}", train.info.name, train.info.shape),
        format!("{} to train on, {} held out", train.items.len(), test.items.len()),
    ];
    let classes = &train.info.classes;
    if !classes.is_empty() {
        let names: Vec<String> = classes.iter().map(|name| printable(name)).collect();
        lines.push(format!("{} classes: {}", classes.len(), names.join(", ")));
    }
    // Both splits may have read the same folder.
    let ignored: BTreeSet<String> = [train, test]
        .map(|data| &data.ignored)
        .into_iter()
        .filter(|ignored| ignored.count > 0)
        .map(ToString::to_string)
        .collect();
    lines.extend(ignored);
    let skipped: BTreeSet<String> = train.skipped.iter().chain(&test.skipped).map(ToString::to_string).collect();
    if !skipped.is_empty() {
        let count = skipped.len();
        let what = "are not readable images and would have to be skipped (data.on_bad_file = \"skip\")";
        lines.push(format!("{count} files {what}:"));
        lines.extend(skipped.iter().map(|file| format!("  {file}")));
    }
    lines.join("\n") + "\n"
}

fn config_of(what: &str, args: &DataArgs) -> anyhow::Result<DataConfig> {
    let path = &with_home(Path::new(what));
    let kind = match &args.kind {
        Some(kind) => kind.as_str(),
        None if DataConfig::BUILT_IN.iter().any(|(kind, _)| *kind == what) => what,
        None => guess(path)?,
    };
    let mut config = serde_json::json!({ "kind": kind });
    if DataConfig::FROM_PATH.iter().any(|(known, _)| *known == kind) {
        config["path"] = what.into();
    }
    if kind == "images" {
        // So that every bad file is listed.
        config["size"] = args.size.into();
        config["on_bad_file"] = "skip".into();
        config["labels"] = args.labels.value().into();
    }
    serde_json::from_value(config).with_context(|| format!("--kind {kind}"))
}

/// The kind of the data at a path, guessed from its files.
pub(crate) fn guess(path: &Path) -> anyhow::Result<&'static str> {
    let holds = |name: &str| path.join(name).exists();
    let ends_in = |ending: &str| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(ending));
    if packed::is_packed(path) {
        Ok("packed")
    } else if path.is_file() && ends_in("zip") {
        Ok("images")
    } else if path.is_file() && ends_in("csv") {
        Ok(if has_times(path) { "series" } else { "csv" })
    } else if path.is_file() && is_series_file(path) {
        Ok("series")
    } else if !path.is_dir() {
        bail!(
            "{}: there is no such folder, CSV file, file of series, zip archive, packed file or built-in dataset",
            shown(path)
        )
    } else if holds("data_batch_1.bin") || holds("cifar-10-batches-bin") {
        Ok("cifar10")
    } else if holds("train-images-idx3-ubyte") || holds("train-images-idx3-ubyte.gz") {
        Ok("mnist")
    } else if holds_series(path) {
        Ok("series")
    } else {
        Ok("images")
    }
}

/// How files of series end that are never anything else, without `.gz`.
const SERIES: [&str; 11] = ["npy", "npz", "tsv", "txt", "tab", "dat", "json", "jsonl", "ndjson", "tsf", "parquet"];

fn is_series_file(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let ending = plain.rsplit_once('.').map(|(_, ending)| ending).unwrap_or_default();
    SERIES.contains(&ending) || name.ends_with(".csv.gz")
}

/// Whether a table has a column of times: without, two columns may as well be points.
fn has_times(path: &Path) -> bool {
    let times = |opened: Opened| opened.series.first().is_some_and(|series| series.index != Index::Counted);
    read_any(path, &ReadHints::default()).is_ok_and(times)
}

/// Whether a folder is one of GluonTS or of PhysioNet 2012.
fn holds_series(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_dir();
    has("set-a") || (folder.join("metadata.json").is_file() && has("train") && has("test"))
}

/// Items evenly spread over a set, or, with classes, a row of items of each class; and the names of the rows.
fn overview(data: &OpenData) -> anyhow::Result<(Samples, Vec<String>)> {
    let most = (NUMBERS_SHOWN / data.info.values_per_item().max(1)).max(1);
    let Some(labels) = data.labels()? else {
        let items = spread(data.items.len(), SHOWN.min(most)).map(Some).collect();
        return Ok((samples(data, items)?, Vec::new()));
    };
    let classes: Vec<usize> = spread(data.info.classes.len(), CLASSES_SHOWN.min(most)).collect();
    let columns = SHOWN_OF_CLASS.min(most / classes.len().max(1)).max(1);
    let row = |&class: &usize| {
        let items: Vec<usize> = (0..labels.len()).filter(|&item| labels[item] as usize == class).collect();
        let chosen: Vec<usize> = spread(items.len(), columns).map(|place| items[place]).collect();
        (0..columns).map(move |column| chosen.get(column).copied())
    };
    let items = classes.iter().flat_map(row).collect();
    let names = classes.iter().map(|&class| printable(&data.info.classes[class])).collect();
    Ok((Samples { row: Some(columns), ..samples(data, items)? }, names))
}

/// Up to `most` of the numbers below `len`, evenly spread.
fn spread(len: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = len.min(most);
    (0..count).map(move |k| k * len / count)
}

/// Items as samples; places without an item are white.
fn samples(data: &OpenData, items: Vec<Option<usize>>) -> anyhow::Result<Samples> {
    let mut values = Vec::with_capacity(items.len() * data.info.values_per_item());
    for item in &items {
        match item {
            Some(item) => values.extend(data.items.get(*item)?.values),
            None => values.resize(values.len() + data.info.values_per_item(), 1.0),
        }
    }
    Ok(Samples { labels: vec![None; items.len()], values, shape: data.info.shape.clone(), ..Samples::default() })
}
