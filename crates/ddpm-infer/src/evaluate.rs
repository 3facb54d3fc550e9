//! `ddpm-infer eval`: how good samples are, with numbers that can be quoted.

mod pictures;
mod points;
mod real;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Parser, ValueEnum};
use ddpm_model::diffusion::Diffusion;

use crate::choose::SnapshotArgs;
use crate::device::OpenDevice;
use crate::evaluation::blocks::Shard;
use crate::evaluation::judge::{Measured, Verdict};
use crate::evaluation::record::{How, Record, append};
use crate::evaluation::report;
use crate::evaluation::resize::Resize;
use crate::evaluation::sources::weights_hash;
use crate::guidance::Guidance;
use crate::job::{ClassChoice, SamplingJob};
use crate::levels::Ladder;
use crate::measure_likelihood::{self, LikelihoodArgs};
use crate::noise::NoiseChoice;
use crate::numbers::at_least;
use crate::runs::{RunFolder, steps_in, width_of, widths_in};
use crate::sample::{clip_for, in_half};
use crate::samplers::{Sampler, SamplerOptions};
use crate::snapshot::Snapshot;
use crate::tasks::Task;
use real::Real;

/// Judges the samples of a snapshot, or files.
///
/// Features are kept in the work folder: what was interrupted goes on where it was, and with --shard several
/// processes share the work.
#[derive(Args, Debug)]
pub struct EvalArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Judges these instead of a snapshot's samples: a folder of pictures, an .npy or .npz of pictures or points, or an
    /// .npz of statistics.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["run", "from"])]
    files: Option<PathBuf>,
    /// What is real: a bundled kind of data, a folder, an .npy or .npz of pictures, or an .npz of statistics; without
    /// it, the data of the snapshot.
    #[arg(long, value_name = "KIND|PATH")]
    against: Option<String>,
    /// Which part of data that have parts.
    #[arg(long, value_enum, default_value_t = Part::Test)]
    split: Part,
    /// How many samples; without it, 1000 images or 2048 points, or all files.
    #[arg(long, value_name = "N", value_parser = at_least::<2, usize>)]
    count: Option<usize>,
    /// Sample k depends on the seed and on k alone.
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = at_least::<0, u64>)]
    seed: u64,
    /// Samplers, with commas between; each is judged.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "ddim")]
    samplers: Vec<String>,
    /// Steps, with commas between; each is judged. Without it, what is usual for the sampler.
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', value_parser = at_least::<1, usize>)]
    steps: Vec<usize>,
    /// Noise levels that the steps visit, as `ddpm-infer sample` names them.
    #[arg(long, value_name = "NAME")]
    levels: Option<Ladder>,
    /// Judges every snapshot of the run, not only the newest.
    #[arg(long, conflicts_with_all = ["from", "files"])]
    every_snapshot: bool,
    /// Judges the averages of all widths that the run stored (ema.post_hoc) beside the usual one, each at the step of the
    /// snapshot or the last one before it.
    #[arg(long, conflicts_with_all = ["from", "files"])]
    every_width: bool,
    /// What looks at the pictures; without it, inception where --weights are given, otherwise a classifier of the data.
    #[arg(long, value_enum)]
    extractor: Option<Extractor>,
    /// Weights of the Inception-v3 of the FID papers (pt_inception-2015-12-05), as safetensors.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// What pytorch-fid says of some images with these weights; only with it a distance is called FID.
    #[arg(long, value_name = "FILE", requires = "weights")]
    known_answer: Option<PathBuf>,
    /// How pictures are made to fit inception: pytorch-fid, legacy-tf or clean-fid.
    #[arg(long, value_name = "MODE", default_value = Resize::ALL[0].name())]
    resize: Resize,
    /// Weights of the classifier, which are made and kept here if there are none; without it, in the work folder.
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// Subsets of the kernel distance.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least::<1, usize>)]
    subsets: usize,
    /// Items in a subset, or as many as there are.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = at_least::<2, usize>)]
    subset_size: usize,
    /// The neighbour whose distance is the radius of a ball, for precision, recall, density and coverage.
    #[arg(long, value_name = "K", default_value_t = 3, value_parser = at_least::<1, usize>)]
    neighbour: usize,
    /// Items of a set that are compared with every item of the other; the Frechet distance is of all.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least::<2, usize>)]
    most: usize,
    /// Measures the bits per dimension of this many test images too, by the bound and by the ODE; takes long.
    #[arg(long, value_name = "N", conflicts_with = "files", value_parser = at_least::<1, usize>)]
    bits_per_dim: Option<usize>,
    /// Only makes the features that fall to process I of N; without --shard all of them are put together.
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Images at once; changes the speed, not the result.
    #[arg(long, value_name = "B", default_value_t = 64, value_parser = at_least::<1, usize>)]
    batch_size: usize,
    /// Where features are kept.
    #[arg(long, value_name = "DIR", default_value = "evaluations")]
    work: PathBuf,
    /// Writes mean and covariance of what is judged, as pytorch-fid does; of --files without --against only this.
    #[arg(long, value_name = "FILE.npz")]
    statistics: Option<PathBuf>,
    /// Writes all numbers with their full names.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes table.csv, and of several samplers, steps, snapshots or widths plot.svg, into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Train,
    Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Extractor {
    /// The network of the FID papers.
    Inception,
    /// A small network, trained on the labels of the data.
    Classifier,
    /// None: the values themselves.
    Pixels,
}

/// A snapshot with one way to sample from it.
struct Drawn {
    snapshot: Arc<Snapshot>,
    diffusion: Arc<Diffusion>,
    weights_hash: u64,
    job: SamplingJob,
    path: PathBuf,
    name: String,
    how: How,
}

/// Weights that are judged.
struct Weights {
    path: PathBuf,
    /// Width of the average that they are; nothing for that of the snapshots.
    width: Option<f64>,
}

/// Does what the arguments say and gives what goes to stdout; its last line is the first number.
pub fn run(args: &EvalArgs) -> anyhow::Result<String> {
    args.check()?;
    let open = args.snapshot.open()?;
    if let (Some(files), Some(path), None) = (&args.files, &args.statistics, &args.against) {
        return pictures::only_statistics(args, files, path, &open);
    }
    let drawn = args.drawn(args.weights()?, &open)?;
    let real = match &args.against {
        Some(against) => Real::parse(against)?,
        None => match drawn.last() {
            Some(newest) => match &newest.snapshot.config.source {
                Some(source) => Real::Data(source.clone()),
                None => bail!("the snapshot does not say what data it was trained on: --against what?"),
            },
            None => bail!("--files needs --against: what are they to be compared with?"),
        },
    };
    std::fs::create_dir_all(&args.work).with_context(|| format!("cannot make the folder {}", args.work.display()))?;
    let mut verdicts = match real.is_points()? {
        true => points::judge(args, &real, &drawn, &open)?,
        false => match pictures::judge(args, &real, &drawn, &open)? {
            Some(verdicts) => verdicts,
            // A shard's work is features.
            None => return Ok(args.work.display().to_string()),
        },
    };
    if let Some(count) = args.bits_per_dim {
        for (drawn, verdict) in drawn.iter().zip(&mut verdicts) {
            verdict.measured.extend(args.bits_per_dim(drawn, count)?);
        }
    }
    args.keep(&verdicts, &drawn);
    args.write(&verdicts, &drawn)?;
    let first = verdicts.first().and_then(|verdict| verdict.measured.first());
    let last = first.map(|first| format!("{} {}", first.name, report::rounded(first.value))).unwrap_or_default();
    Ok(format!("{}\n{last}", report::table(&verdicts, &hows(&drawn))))
}

impl EvalArgs {
    fn check(&self) -> anyhow::Result<()> {
        for (option, value) in
            [("--count", self.count.unwrap_or(2)), ("--most", self.most), ("--subset-size", self.subset_size)]
        {
            if value < 2 {
                bail!("{option} must be at least 2");
            }
        }
        for (option, value) in [
            ("--batch-size", self.batch_size),
            ("--subsets", self.subsets),
            ("--neighbour", self.neighbour),
            ("--bits-per-dim", self.bits_per_dim.unwrap_or(1)),
            ("--steps", self.steps.iter().copied().min().unwrap_or(1)),
        ] {
            if value == 0 {
                bail!("{option} must be at least 1");
            }
        }
        if self.extractor == Some(Extractor::Inception) && self.weights.is_none() {
            bail!(
                "--extractor inception needs --weights: pt_inception-2015-12-05 as safetensors; docs/evaluation.md says \
                 how to make it"
            );
        }
        Ok(())
    }

    /// The weights that are judged, the newest ones last.
    fn weights(&self) -> anyhow::Result<Vec<Weights>> {
        if self.files.is_some() {
            return Ok(Vec::new());
        }
        let (newest, run) = self.snapshot.choose()?;
        let usual = |path: PathBuf| Weights { width: width_of(&path), path };
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
        let mut all: Vec<Weights> = Vec::new();
        for (step, path) in snapshots {
            all.push(usual(path));
            for (width, averages) in &stored {
                let Some((_, average)) = averages.iter().rev().find(|(stored, _)| *stored <= step) else { continue };
                // Where fewer averages than snapshots were stored, one is the last before several.
                if !all.iter().any(|known| known.path == *average) {
                    all.push(Weights { path: average.clone(), width: Some(*width) });
                }
            }
        }
        Ok(all)
    }

    /// All weights with every sampler in every number of steps.
    fn drawn(&self, weights: Vec<Weights>, open: &OpenDevice) -> anyhow::Result<Vec<Drawn>> {
        let mut all = Vec::new();
        for Weights { path, width } in &weights {
            let (snapshot, diffusion) = self.snapshot.load(path, &open.device)?;
            let weights_hash = weights_hash(&snapshot);
            let (snapshot, diffusion) = (Arc::new(snapshot), Arc::new(diffusion));
            for sampler in &self.samplers {
                let several = if self.steps.is_empty() { vec![None] } else { self.steps.iter().map(Some).collect() };
                for steps in several {
                    let variance = diffusion.variance();
                    let sampler = Sampler::new(sampler, SamplerOptions { variance, ..SamplerOptions::default() })?;
                    let steps = steps.copied().unwrap_or_else(|| sampler.usual_steps(&diffusion));
                    let config = &snapshot.config;
                    let is_image = config.data.shape.len() == 3;
                    let job = SamplingJob {
                        task: Task::Sample,
                        count: self.count.unwrap_or(if is_image { 1000 } else { 2048 }),
                        seed: self.seed,
                        batch_size: self.batch_size,
                        sampler,
                        steps: Some(steps),
                        levels: self.levels.clone().unwrap_or_else(|| sampler.usual_levels(&diffusion)),
                        plan: None,
                        noise: NoiseChoice::default(),
                        class: ClassChoice::Any,
                        clip: clip_for(&config.data),
                        guidance: Guidance::default(),
                        frames: 0,
                    };
                    let of_width = width.map(|width| format!(" width {width}")).unwrap_or_default();
                    let name = format!(
                        "{} step {}{of_width}, {} {steps}{}",
                        config.experiment,
                        config.step,
                        sampler.name(),
                        in_half(&snapshot.network)
                    );
                    let how = How {
                        step: config.step,
                        width: *width,
                        sampler: sampler.name().into(),
                        sampler_steps: steps,
                        levels: job.levels.clone(),
                        guidance: job.guidance.scale,
                        seed: self.seed,
                    };
                    let (snapshot, diffusion) = (snapshot.clone(), diffusion.clone());
                    all.push(Drawn { snapshot, diffusion, weights_hash, job, path: path.clone(), name, how });
                }
            }
        }
        Ok(all)
    }

    /// Bits per dimension of test data, as `ddpm-infer likelihood` measures them.
    fn bits_per_dim(&self, drawn: &Drawn, count: usize) -> anyhow::Result<Vec<Measured>> {
        /// The words of that command.
        #[derive(Parser)]
        struct Words {
            #[command(flatten)]
            args: LikelihoodArgs,
        }
        let methods: &[&str] = if drawn.snapshot.config.data.shape.len() == 3 { &["bound", "ode"] } else { &["ode"] };
        let mut all = Vec::new();
        for method in methods {
            let mut words: Vec<String> =
                ["likelihood", "--from", &drawn.path.to_string_lossy(), "--method", method].map(Into::into).into();
            words.extend(["--count".into(), count.to_string(), "--seed".into(), self.seed.to_string()]);
            words.extend(self.snapshot.words_of_device());
            let line = measure_likelihood::run(&Words::try_parse_from(words)?.args)?;
            let mut parts = line.split(' ');
            let value = parts.next().unwrap_or_default().parse().context("the likelihood's number")?;
            let metric = format!("{} ({method})", parts.next().unwrap_or_default());
            let name = format!("{metric} of the first {count} test items");
            all.push(Measured { metric, name, value, deviation: None });
        }
        Ok(all)
    }

    /// Adds what was measured to the evaluations of the run that the weights lie in.
    fn keep(&self, verdicts: &[Verdict], drawn: &[Drawn]) {
        let floors = &verdicts[drawn.len()..];
        let mut runs: BTreeMap<PathBuf, Vec<Record>> = BTreeMap::new();
        for (drawn, verdict) in drawn.iter().zip(verdicts) {
            let Some(run) = RunFolder::around(&drawn.path) else { continue };
            let record = Record::now(drawn.how.clone(), verdict.clone(), floors);
            runs.entry(run.evaluations()).or_default().push(record);
        }
        for (path, records) in runs {
            match append(&path, &records) {
                Ok(()) => eprintln!("kept in {}, for `ddpm-train report`", path.display()),
                Err(error) => eprintln!("warning: not kept with the run: {}: {error}", path.display()),
            }
        }
    }

    fn write(&self, verdicts: &[Verdict], drawn: &[Drawn]) -> anyhow::Result<()> {
        let put = |path: &Path, bytes: &[u8]| {
            std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        if let Some(path) = &self.json {
            put(path, &serde_json::to_vec_pretty(&serde_json::json!({ "verdicts": verdicts }))?)?;
        }
        let Some(out) = &self.out else { return Ok(()) };
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        put(&out.join("table.csv"), &report::csv(verdicts, &hows(drawn))?)?;
        if drawn.len() < 2 {
            return Ok(());
        }
        let mut lines: Vec<report::Line> = Vec::new();
        let mut marks: Vec<(String, f64)> = Vec::new();
        for (drawn, verdict) in drawn.iter().zip(verdicts) {
            let Some(first) = verdict.measured.first() else { continue };
            let (name, x) = self.place(&drawn.how);
            let Some(x) = x else {
                marks.push((name, first.value));
                continue;
            };
            match lines.iter_mut().find(|line| line.0 == name) {
                Some((_, points)) => points.push([x, first.value]),
                None => lines.push((name, vec![[x, first.value]])),
            }
        }
        marks.extend(verdicts[drawn.len()..].iter().filter_map(|verdict| {
            let first = verdict.measured.first()?;
            Some((verdict.of.clone(), first.value))
        }));
        let title = verdicts[0].measured.first().map(|first| first.name.clone()).unwrap_or_default();
        let x_name = match (self.every_snapshot, self.every_width) {
            (true, _) => "training step",
            (false, true) => "width of the average",
            (false, false) => "steps of the sampler",
        };
        put(&out.join("plot.svg"), report::plot(&title, x_name, &lines, &marks).as_bytes())
    }

    /// The line of the plot that samples belong to, and their place on it; one without is a mark.
    fn place(&self, how: &How) -> (String, Option<f64>) {
        let sampler = format!("{} {}", how.sampler, how.sampler_steps);
        match (self.every_snapshot, self.every_width, how.width) {
            (true, _, Some(width)) => (format!("{sampler}, width {width}"), Some(how.step as f64)),
            (true, true, None) => (format!("{sampler}, usual"), Some(how.step as f64)),
            (true, false, None) => (sampler, Some(how.step as f64)),
            (false, true, None) => (format!("{sampler}, usual"), None),
            (false, true, width) => (sampler, width),
            (false, false, _) => (how.sampler.clone(), Some(how.sampler_steps as f64)),
        }
    }
}

/// How the first sets were drawn; of those after them nothing is said.
fn hows(drawn: &[Drawn]) -> Vec<&How> {
    drawn.iter().map(|drawn| &drawn.how).collect()
}
