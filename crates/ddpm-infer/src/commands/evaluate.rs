//! `ddpm-infer eval`: metrics of samples against a reference set.

mod extraction;
mod images;
mod input_set;
mod points;
mod samples;
mod sweep;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Parser};
use ddpm_console::numbers::at_least;
use ddpm_data::Split;
use ddpm_eval::metrics::{Evaluation, Measurement};
use ddpm_eval::record::{Record, SamplingSettings, append};
use ddpm_eval::report::{self, Scale};
use ddpm_eval::resize::Resize;
use ddpm_files::atomic;
use ddpm_files::runs::{RunFolder, steps_in, width_of, widths_in};
use extraction::Extractor;
use input_set::InputSet;
use sweep::{Candidate, SampleSet, SweepArgs};

use crate::commands::choose::{SnapshotArgs, split_parser};
use crate::commands::measure_likelihood::{self, LikelihoodArgs};
use crate::commands::shards::Shard;

/// Evaluates samples of a snapshot, or files, against a reference set.
///
/// Features are cached in the work folder: an interrupted evaluation resumes, and with --shard several processes share
/// the work.
#[derive(Args, Debug)]
pub struct EvalArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Evaluates these instead of samples of a snapshot: a folder of images (of `sample` too), an .npy or .npz of images or
    /// points, or an .npz of statistics.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["run", "from"])]
    files: Option<PathBuf>,
    /// Reference set: a built-in dataset, a folder, an .npy or .npz of images, or an .npz of statistics; default: the data
    /// of the snapshot.
    #[arg(long, value_name = "KIND|PATH")]
    against: Option<String>,
    /// Split of the reference set, where it has splits.
    #[arg(long, value_name = "SPLIT", value_parser = split_parser(), default_value = Split::Test.name())]
    split: Split,
    /// Number of samples; default: 1000 images or 2048 points, or all files.
    #[arg(long, value_name = "N", value_parser = at_least::<2, usize>)]
    count: Option<usize>,
    /// Evaluates every snapshot of the run, not only the newest.
    #[arg(long, conflicts_with_all = ["from", "files"])]
    every_snapshot: bool,
    /// Evaluates the EMAs of all widths that the run stored (ema.post_hoc), too, each at the step of the snapshot or the
    /// last one before it.
    #[arg(long, conflicts_with_all = ["from", "files"])]
    every_width: bool,
    /// Feature extractor; default: inception where --weights are given, otherwise a classifier of the data.
    #[arg(long, value_enum)]
    extractor: Option<Extractor>,
    /// Weights of the Inception-v3 of the FID papers: pytorch-fid's pt_inception-2015-12-05-6726825d.pth as it is, or the
    /// same as safetensors.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Features by pytorch-fid of some images with these weights; a distance is called FID only if they agree.
    #[arg(long, value_name = "FILE", requires = "weights")]
    known_answer: Option<PathBuf>,
    /// How images are resized for inception: pytorch-fid, legacy-tf or clean-fid.
    #[arg(long, value_name = "MODE", default_value = Resize::ALL[0].name())]
    resize: Resize,
    /// Weights of the classifier, which is trained and written here if the file does not exist; default: in the work folder.
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Subsets of KID.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least::<1, usize>)]
    subsets: usize,
    /// Items in a subset of KID at most.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least::<2, usize>)]
    subset_size: usize,
    /// k of the k-NN radius of precision, recall, density and coverage.
    #[arg(long, alias = "neighbour", value_name = "K", default_value_t = 3, value_parser = at_least::<1, usize>)]
    k: usize,
    /// Items of a set that are kept for pairwise metrics (KID, precision, recall, ...); the Frechet distance is of all.
    #[arg(long, alias = "most", value_name = "N", default_value_t = 10_000, value_parser = at_least::<2, usize>)]
    max_items: usize,
    /// Also measures the bits per dimension of this many test images, by the bound and by the ODE; slow.
    #[arg(long, value_name = "N", conflicts_with = "files", value_parser = at_least::<1, usize>)]
    bits_per_dim: Option<usize>,
    /// Only extracts the features of process I of N; run without --shard afterwards to evaluate them.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Images in a batch; changes the speed, not the result.
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = at_least::<1, usize>)]
    batch_size: usize,
    /// Cache of features.
    #[arg(long, value_name = "DIR", default_value = "evaluations")]
    work: PathBuf,
    /// Writes mean and covariance of the features, as pytorch-fid does; with --files and without --against, only this.
    #[arg(long, value_name = "FILE.npz")]
    statistics: Option<PathBuf>,
    /// Writes all metrics with their full names, and the settings of the sampler.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes table.csv and, for several sets of samples, plot.svg into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    // At the end, because its headings would also stand above what comes after.
    #[command(flatten)]
    sweep: SweepArgs,
}

/// Evaluates, and returns what is printed to stdout; the last line is the first metric.
pub fn run(args: &EvalArgs) -> anyhow::Result<String> {
    args.check()?;
    let open = args.snapshot.open()?;
    if let (Some(files), Some(path), None) = (&args.files, &args.statistics, &args.against) {
        return images::write_statistics(args, files, path, &open);
    }
    let sets = args.sweep.sample_sets(args, args.weights()?, &open)?;
    let reference = args.reference(&sets)?;
    std::fs::create_dir_all(&args.work).with_context(|| format!("cannot make the folder {}", args.work.display()))?;
    let mut evaluations = match reference.is_points()? {
        true => points::evaluate(args, &reference, &sets, &open)?,
        false => match images::evaluate(args, &reference, &sets, &open)? {
            Some(evaluations) => evaluations,
            // A shard only extracts features.
            None => return Ok(args.work.display().to_string()),
        },
    };
    if let Some(count) = args.bits_per_dim {
        for (set, evaluation) in sets.iter().zip(&mut evaluations) {
            evaluation.measured.extend(args.bits_per_dim(set, count)?);
        }
    }
    args.append_to_runs(&evaluations, &sets);
    args.write(&evaluations, &sets)?;
    Ok(args.summary(&evaluations, sets.len()))
}

impl EvalArgs {
    fn check(&self) -> anyhow::Result<()> {
        if self.extractor == Some(Extractor::Inception) && self.weights.is_none() {
            bail!(
                "--extractor inception requires --weights: pytorch-fid's pt_inception-2015-12-05-6726825d.pth, or the same \
                 as safetensors (docs/evaluation.md)"
            );
        }
        Ok(())
    }

    /// The reference set; by default the data that the newest snapshot was trained on.
    fn reference(&self, sets: &[SampleSet]) -> anyhow::Result<InputSet> {
        if let Some(against) = &self.against {
            return InputSet::parse(against);
        }
        let Some(newest) = sets.last() else { bail!("--files requires --against (the reference set)") };
        match &newest.snapshot.config.source {
            Some(source) => Ok(InputSet::Data(source.clone())),
            None => bail!("the snapshot does not record its training data: pass --against (the reference set)"),
        }
    }

    /// The weights to evaluate, the newest ones last.
    fn weights(&self) -> anyhow::Result<Vec<Candidate>> {
        if self.files.is_some() {
            return Ok(Vec::new());
        }
        let (newest, run) = self.snapshot.choose()?;
        let usual = |path: PathBuf| Candidate { width: width_of(&path), path };
        let Some(run) = run else { return Ok(vec![usual(newest)]) };
        let mut snapshots = steps_in(&run.snapshots());
        if !self.every_snapshot {
            snapshots.drain(..snapshots.len().saturating_sub(1));
        }
        if !self.every_width {
            return Ok(snapshots.into_iter().map(|(_, path)| usual(path)).collect());
        }
        let stored: Vec<_> =
            widths_in(&run.averages()).into_iter().map(|(width, dir)| (width, steps_in(&dir))).collect();
        if stored.iter().all(|(_, steps)| steps.is_empty()) {
            bail!(
                "--every-width: {} has stored no averages; train with --set 'ema.post_hoc={{ widths = [0.05, 0.1], every = \
                 100 }}'",
                run.0.display()
            );
        }
        let mut all: Vec<Candidate> = Vec::new();
        for (step, path) in snapshots {
            all.push(usual(path));
            for (width, averages) in &stored {
                let Some((_, average)) = averages.iter().rev().find(|(stored, _)| *stored <= step) else { continue };
                // Where fewer averages than snapshots were stored, one is the last before several.
                if !all.iter().any(|known| known.path == *average) {
                    all.push(Candidate { path: average.clone(), width: Some(*width) });
                }
            }
        }
        Ok(all)
    }

    /// Bits per dimension of test data, as `ddpm-infer likelihood` measures them.
    fn bits_per_dim(&self, set: &SampleSet, count: usize) -> anyhow::Result<Vec<Measurement>> {
        /// Parses the arguments of that command.
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            args: LikelihoodArgs,
        }
        let methods: &[&str] = if set.snapshot.config.data.shape.len() == 3 { &["bound", "ode"] } else { &["ode"] };
        let mut all = Vec::new();
        for method in methods {
            let mut arguments: Vec<String> =
                ["likelihood", "--from", &set.path.to_string_lossy(), "--method", method].map(Into::into).into();
            arguments.extend(["--count".into(), count.to_string(), "--seed".into(), self.sweep.seed.to_string()]);
            arguments.extend(self.snapshot.words_of_device());
            let line = measure_likelihood::run(&Command::try_parse_from(arguments)?.args)?;
            let mut parts = line.split(' ');
            let value = parts.next().unwrap_or_default().parse().context("the likelihood's number")?;
            let metric = format!("{} ({method})", parts.next().unwrap_or_default());
            let name = format!("{metric} of the first {count} test items");
            all.push(Measurement { metric, name, value, deviation: None });
        }
        Ok(all)
    }

    /// Appends the evaluations of samples to those of the run that the weights belong to.
    fn append_to_runs(&self, evaluations: &[Evaluation], sets: &[SampleSet]) {
        let floors = &evaluations[sets.len()..];
        let mut runs: BTreeMap<PathBuf, Vec<Record>> = BTreeMap::new();
        for (set, evaluation) in sets.iter().zip(evaluations) {
            let Some(run) = RunFolder::around(&set.path) else { continue };
            let record = Record::now(set.settings.clone(), evaluation.clone(), floors);
            runs.entry(run.evaluations()).or_default().push(record);
        }
        for (path, records) in runs {
            match append(&path, &records) {
                Ok(()) => eprintln!("recorded in {}, for `ddpm-train report`", path.display()),
                Err(error) => eprintln!("warning: not recorded in the run: {}: {error}", path.display()),
            }
        }
    }

    fn write(&self, evaluations: &[Evaluation], sets: &[SampleSet]) -> anyhow::Result<()> {
        if let Some(path) = &self.json {
            let json = serde_json::json!({ "verdicts": to_json(evaluations, sets)? });
            atomic::write(path, serde_json::to_vec_pretty(&json)?)?;
        }
        let Some(out) = &self.out else { return Ok(()) };
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        let settings: Vec<&SamplingSettings> = sets.iter().map(|set| &set.settings).collect();
        atomic::write(&out.join("table.csv"), report::csv(evaluations, &settings)?)?;
        match sets.len() {
            0 | 1 => Ok(()),
            _ => Ok(atomic::write(&out.join("plot.svg"), self.plot(evaluations, sets))?),
        }
    }

    /// The table, a hint if it is abridged, and the first metric. The first `sampled` sets are samples of snapshots.
    fn summary(&self, evaluations: &[Evaluation], sampled: usize) -> String {
        let mut text = report::table(evaluations, sampled);
        if report::is_short(evaluations) {
            text += &match &self.out {
                Some(out) => format!("all numbers: {}\n", out.join("table.csv").display()),
                None => "all numbers: --out DIR (table.csv, plot.svg), --json FILE\n".into(),
            };
        }
        let first = evaluations.first().and_then(|evaluation| evaluation.measured.first());
        let last = first.map(|first| format!("{} {}", first.name, report::rounded(first.value))).unwrap_or_default();
        text + "\n" + &last
    }

    /// The first metric of all sets.
    fn plot(&self, evaluations: &[Evaluation], sets: &[SampleSet]) -> String {
        let mut lines: Vec<report::Line> = Vec::new();
        let mut marks: Vec<(String, f64)> = Vec::new();
        for (set, evaluation) in sets.iter().zip(evaluations) {
            let Some(first) = evaluation.measured.first() else { continue };
            let (name, x) = self.place(&set.settings);
            let Some(x) = x else {
                marks.push((name, first.value));
                continue;
            };
            match lines.iter_mut().find(|line| line.0 == name) {
                Some((_, points)) => points.push([x, first.value]),
                None => lines.push((name, vec![[x, first.value]])),
            }
        }
        marks.extend(evaluations[sets.len()..].iter().filter_map(|evaluation| {
            let first = evaluation.measured.first()?;
            Some((evaluation.of.clone(), first.value))
        }));
        let title = evaluations[0].measured.first().map(|first| first.name.clone()).unwrap_or_default();
        let (x_name, scale) = match (self.every_snapshot, self.every_width, self.sweep.has_scales()) {
            (true, ..) => ("training step", Scale::Logarithmic),
            (false, true, _) => ("width of the average", Scale::Logarithmic),
            (false, false, true) => ("guidance scale", Scale::Linear),
            (false, false, false) => ("steps of the sampler", Scale::Logarithmic),
        };
        report::plot(&title, (x_name, scale), &lines, &marks)
    }

    /// The line of the plot that samples belong to, and their place on its axis; a set without a place is a mark.
    fn place(&self, settings: &SamplingSettings) -> (String, Option<f64>) {
        let width = |name: String| match (settings.width, self.every_width) {
            (Some(width), _) => format!("{name}, width {width}"),
            (None, true) => format!("{name}, usual"),
            (None, false) => name,
        };
        let steps = format!("{} {}", settings.sampler, settings.sampler_steps);
        let guided = match self.sweep.has_scales() {
            true => format!("{steps}, guidance {}", settings.guidance),
            false => steps.clone(),
        };
        match (self.every_snapshot, self.every_width, self.sweep.has_scales()) {
            (true, ..) => (width(guided), Some(settings.step as f64)),
            (false, true, _) if settings.width.is_none() => (width(guided), None),
            (false, true, _) => (guided, settings.width),
            (false, false, true) => (steps, Some(settings.guidance)),
            (false, false, false) => (settings.sampler.clone(), Some(settings.sampler_steps as f64)),
        }
    }
}

/// The evaluations as JSON, each with the settings of its samples. (These keys are read by other programs.)
fn to_json(evaluations: &[Evaluation], sets: &[SampleSet]) -> serde_json::Result<Vec<serde_json::Value>> {
    let one = |(place, evaluation): (usize, &Evaluation)| {
        let mut json = serde_json::to_value(evaluation)?;
        if let Some(set) = sets.get(place) {
            json["how"] = serde_json::to_value(&set.settings)?;
        }
        Ok(json)
    };
    evaluations.iter().enumerate().map(one).collect()
}
