//! `ddpm-infer eval`: metrics of samples and of reconstructions against a reference set.

mod baselines;
mod extraction;
mod images;
mod input_set;
mod models;
mod points;
mod reconstructions;
mod results;
mod samples;
mod series;
mod sweep;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Parser};
use ddpm_console::numbers::at_least;
use ddpm_data::{Bounds, Split};
use ddpm_device::device::OpenDevice;
use ddpm_eval::metrics::Measurement;
use ddpm_eval::resize::Resize;
use ddpm_files::runs::{steps_in, width_of, widths_in};
use extraction::Extractor;
use input_set::InputSet;
use models::{Candidate, Model};
use results::{Made, Results, write};
use sweep::{SampleSet, SweepArgs, about_denoising};

use crate::commands::choose::{SnapshotArgs, not_able, split_parser};
use crate::commands::measure_likelihood::{self, LikelihoodArgs};
use crate::commands::shards::Shard;

/// What is evaluated, against which reference set, and by what.
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
    /// Reconstructs these instead of a split of the data of the snapshot: a file or folder of images, or an .npy of items
    /// [N, ..] in the layout and range of samples.npy.
    #[arg(long, value_name = "PATH", conflicts_with = "files")]
    reconstruct: Option<PathBuf>,
    /// Split of the reference set, where it has splits, and of the items that are reconstructed.
    #[arg(long, value_name = "SPLIT", value_parser = split_parser(), default_value = Split::Test.name())]
    split: Split,
    /// Number of samples; default: 1000 images or 2048 points, 100 of each window of series, or all files. Of items to reconstruct, the first ones;
    /// default: all images, or 2048 points.
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
    /// Steps of the forecasts of a model of series; default: those that it was trained for. One that imputes is evaluated by
    /// its forecasts with this, and otherwise by its imputations.
    #[arg(long, value_name = "H", conflicts_with = "files", value_parser = at_least::<1, usize>)]
    horizon: Option<usize>,
    /// Windows of series that are evaluated, spread over the test data; default: all that are forecast, 64 that are imputed.
    #[arg(long, value_name = "N", conflicts_with = "files", value_parser = at_least::<1, usize>)]
    windows: Option<usize>,
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
    let models = args.models(&open)?;
    let of_series = series::evaluate(args, &models)?;
    if !of_series.is_empty() {
        of_series.iter().for_each(|found| found.results.append_to_runs());
        results::write_series(args, &of_series)?;
        return Ok(results::summary_of_series(args, &of_series));
    }
    let sets = args.sweep.sample_sets(args, &models, &open)?;
    args.check_options(&models, &sets)?;
    let reference = args.reference(&models)?;
    std::fs::create_dir_all(&args.work).with_context(|| format!("cannot make the folder {}", args.work.display()))?;
    let samples = args.evaluate_samples(&sets, &reference, &open)?;
    let reconstructions = reconstructions::evaluate(args, &models, &reference, &open)?;
    let (Some(samples), Some(reconstructions)) = (samples, reconstructions) else {
        // A shard only extracts features.
        return Ok(args.work.display().to_string());
    };
    samples.append_to_runs();
    reconstructions.append_to_runs();
    write(args, &samples, &reconstructions)?;
    Ok(results::summary(args, &samples, &reconstructions))
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

    /// The weights to evaluate, opened.
    fn models(&self, open: &OpenDevice) -> anyhow::Result<Vec<Model>> {
        let opened = |weights| Model::open(&self.snapshot, weights, &open.device);
        self.weights()?.into_iter().map(opened).collect()
    }

    /// Refuses models of which nothing can be measured, and options that these models have no use for.
    fn check_options(&self, models: &[Model], sets: &[SampleSet]) -> anyhow::Result<()> {
        for model in models {
            let Model::OfFamily(model) = model else { continue };
            let (trained, path) = (&*model.trained, model.weights.path.display());
            if trained.generate().is_none() && trained.reconstruct().is_none() {
                bail!("{path}: {}", not_able(trained, "sample or reconstruct, which eval measures"));
            }
            if self.bits_per_dim.is_some() {
                bail!("--bits-per-dim is {}", about_denoising(trained));
            }
            if sets.is_empty() && self.statistics.is_some() {
                bail!("--statistics are those of samples: {path}: {}", not_able(trained, "sample"));
            }
        }
        Ok(())
    }

    /// Evaluates the samples of snapshots, or files; nothing if there are none, `None` for a shard.
    fn evaluate_samples(
        &self,
        sets: &[SampleSet],
        reference: &InputSet,
        open: &OpenDevice,
    ) -> anyhow::Result<Option<Results>> {
        let made = sets.iter().map(|set| Made { path: set.path.clone(), settings: set.settings.clone() }).collect();
        let mut evaluations = match (sets.is_empty() && self.files.is_none(), reference.is_points()?) {
            (true, _) => return Ok(Some(Results::default())),
            (false, true) => points::evaluate(self, reference, sets, open)?,
            (false, false) => match images::evaluate(self, reference, sets, open)? {
                Some(evaluations) => evaluations,
                None => return Ok(None),
            },
        };
        if let Some(count) = self.bits_per_dim {
            for (set, evaluation) in sets.iter().zip(&mut evaluations) {
                evaluation.measured.extend(self.bits_per_dim(set, count)?);
            }
        }
        Ok(Some(Results { evaluations, made }))
    }

    /// The reference set; by default the data that the newest snapshot was trained on.
    fn reference(&self, models: &[Model]) -> anyhow::Result<InputSet> {
        if let Some(against) = &self.against {
            return InputSet::parse(against);
        }
        let Some(newest) = models.last() else { bail!("--files requires --against (the reference set)") };
        match newest.source() {
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
        let methods: &[&str] = if set.data.bounds() == Bounds::Bytes { &["bound", "ode"] } else { &["ode"] };
        let mut all = Vec::new();
        for method in methods {
            let mut arguments: Vec<String> =
                ["likelihood", "--from", &set.path.to_string_lossy(), "--method", method].map(Into::into).into();
            arguments.extend(["--count".into(), count.to_string(), "--seed".into(), self.sweep.seed.to_string()]);
            arguments.extend(self.snapshot.device_arguments());
            let line = measure_likelihood::run(&Command::try_parse_from(arguments)?.args)?;
            let mut parts = line.split(' ');
            let value = parts.next().unwrap_or_default().parse().context("the likelihood's number")?;
            let metric = format!("{} ({method})", parts.next().unwrap_or_default());
            let name = format!("{metric} of the first {count} test items");
            all.push(Measurement { metric, name, value, deviation: None });
        }
        Ok(all)
    }
}
