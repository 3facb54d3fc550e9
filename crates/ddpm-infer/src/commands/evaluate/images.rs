//! Evaluation of images: sources, their features, and the metrics of these.

use std::path::Path;

use anyhow::{Context, bail};
use ddpm_console::bar::progress_bar;
use ddpm_console::say;
use ddpm_data::{DataConfig, Split};
use ddpm_device::device::OpenDevice;
use ddpm_eval::blocks::{FeatureBlocks, FeatureSummary, Progress};
use ddpm_eval::metrics::{self, Evaluation, Measurement, Reference, Settings};
use ddpm_eval::sources::{AnySource, Dataset, ImageSource, PixelGaussian};
use ddpm_eval::{EvaluationError, Statistics, frechet};

use super::extraction::{Extraction, choose_extractor};
use super::input_set::InputSet;
use super::{EvalArgs, SampleSet};
use crate::commands::shards::Shard;

/// Samples of the Gaussian baseline at most: it is so far off that more would not matter.
const GAUSSIAN_SAMPLES: usize = 5000;

/// All sources of an evaluation.
struct Sets {
    samples: Vec<AnySource>,
    /// The reference set.
    reference: Option<AnySource>,
    /// The other split of the reference set.
    other_split: Option<AnySource>,
    /// The baseline.
    gaussian: Option<AnySource>,
}

/// A reference set, and real items with the reference that they are compared with: their metrics are the floor.
struct References {
    samples: Reference,
    floor: Option<(FeatureSummary, Reference)>,
}

/// Evaluates all sets of samples, then the floor and the baseline; `None` for a shard, which only extracts features.
pub(super) fn evaluate(
    args: &EvalArgs,
    reference: &InputSet,
    sample_sets: &[SampleSet],
    open: &OpenDevice,
) -> anyhow::Result<Option<Vec<Evaluation>>> {
    let files = args.files.as_deref().map(|path| InputSet::parse(&path.to_string_lossy())).transpose()?;
    if sample_sets.iter().any(|set| !set.data.is_image()) {
        bail!("the snapshot generates points: --against must be points, too");
    }
    match (&files, reference) {
        (Some(InputSet::Statistics(files)), InputSet::Statistics(reference)) => {
            return Ok(Some(vec![compare_statistics(files, reference)?]));
        }
        (Some(InputSet::Statistics(_)), _) => {
            bail!("--files are statistics, which can only be compared with statistics: --against is something else")
        }
        _ => {}
    }
    let sets = Sets::open(args, reference, files.as_ref(), sample_sets, open)?;
    let images = sets.reference.as_deref().or(sets.samples.first().map(|first| &**first));
    let features = Features { args, extraction: choose_extractor(args, reference, images, open)? };
    features.announce(open);
    features.extract_all(&sets)?;
    match args.shard {
        Some(_) => Ok(None),
        None => features.evaluate(&sets, reference).map(Some),
    }
}

/// Writes the statistics of `--files` for later comparisons, and returns their path; that of the work folder for a shard.
pub(super) fn write_statistics(
    args: &EvalArgs,
    files: &Path,
    path: &Path,
    open: &OpenDevice,
) -> anyhow::Result<String> {
    std::fs::create_dir_all(&args.work).with_context(|| format!("cannot make the folder {}", args.work.display()))?;
    let files_set = InputSet::parse(&files.to_string_lossy())?;
    let Some(source) = files_set.images()? else { bail!("{}: expected images", files.display()) };
    let features = Features { args, extraction: choose_extractor(args, &files_set, Some(&*source), open)? };
    features.extract(&*source, features.samples_wanted())?;
    if args.shard.is_some() {
        return Ok(args.work.display().to_string());
    }
    features.gather(&*source, features.samples_wanted(), |_| true)?.statistics.write(path)?;
    Ok(path.display().to_string())
}

/// Frechet distances of reconstructions to the reference set.
pub(super) struct FrechetDistances<'a> {
    features: Features<'a>,
    /// The reference set and what it is called; `None` for a shard, which only extracts features.
    reference: Option<(Statistics, String)>,
}

impl<'a> FrechetDistances<'a> {
    /// Opens the extractor and the reference set; `images` are some of those that distances are measured of.
    pub(super) fn open(
        args: &'a EvalArgs,
        reference: &InputSet,
        images: &dyn ImageSource,
        open: &OpenDevice,
    ) -> anyhow::Result<Self> {
        let features = Features { args, extraction: choose_extractor(args, reference, Some(images), open)? };
        let source: Option<AnySource> = match reference {
            InputSet::Data(config) => Some(Box::new(Dataset::open(config, args.split)?)),
            other => other.images()?,
        };
        if let Some(source) = &source {
            features.extract(&**source, usize::MAX)?;
        }
        let reference = match (args.shard, source, reference) {
            (Some(_), ..) => None,
            (None, Some(source), _) => {
                Some((features.gather(&*source, usize::MAX, |_| true)?.statistics, source.name()))
            }
            (None, None, InputSet::Statistics(path)) => Some((Statistics::read(path)?, path.display().to_string())),
            (None, None, _) => bail!("--against: there is nothing to compare with"),
        };
        Ok(Self { features, reference })
    }

    /// The distance of reconstructions; `None` for a shard.
    pub(super) fn of_reconstructions(&self, images: &dyn ImageSource) -> anyhow::Result<Option<Measurement>> {
        self.features.extract(images, usize::MAX)?;
        let Some((reference, of)) = &self.reference else { return Ok(None) };
        let found = self.features.gather(images, usize::MAX, |_| true)?;
        let extractor = &self.features.extraction.extractor;
        let (name, published) = (extractor.name(), extractor.is_published_inception());
        let measured = metrics::frechet_distance("r", &found, reference, &name, published)?;
        let name = measured.name.strip_suffix(')').unwrap_or(&measured.name);
        Ok(Some(Measurement { name: format!("{name} of {of})"), ..measured }))
    }
}

impl Sets {
    fn open(
        args: &EvalArgs,
        reference: &InputSet,
        files: Option<&InputSet>,
        sample_sets: &[SampleSet],
        open: &OpenDevice,
    ) -> anyhow::Result<Self> {
        let mut samples: Vec<AnySource> = Vec::new();
        for set in sample_sets {
            samples.push(Box::new(set.source(open)));
        }
        match files {
            Some(InputSet::Data(config)) => samples.push(Box::new(Dataset::open(config, Split::Test)?)),
            Some(files) => samples.extend(files.images()?),
            None => {}
        }
        let class = sample_sets.first().and_then(SampleSet::class);
        let count = args.count.unwrap_or(usize::MAX).min(samples.first().map_or(0, |first| first.count()));
        let gaussian = |source: &dyn ImageSource| -> anyhow::Result<Option<AnySource>> {
            let fit = PixelGaussian::fit(source, args.max_items, count.min(GAUSSIAN_SAMPLES), args.sweep.seed)?;
            Ok(fit.map(|gaussian| Box::new(gaussian) as AnySource))
        };
        if let InputSet::Data(config) = reference {
            return Ok(Self {
                samples,
                reference: Some(Box::new(dataset(config, args.split, class)?)),
                other_split: Some(Box::new(dataset(config, args.split.other(), class)?)),
                gaussian: gaussian(&dataset(config, Split::Train, class)?)?,
            });
        }
        if let Some(class) = class {
            say!("warning: the samples are all of class {class}, the reference set may not be");
        }
        let reference = reference.images()?;
        let gaussian = reference.as_deref().map(gaussian).transpose()?.flatten();
        Ok(Self { samples, reference, other_split: None, gaussian })
    }
}

/// A split of a dataset, or the items of one class in it.
fn dataset(config: &DataConfig, split: Split, class: Option<&str>) -> anyhow::Result<Dataset> {
    let all = Dataset::open(config, split)?;
    match class {
        Some(class) => Ok(all.of_class(class)?),
        None => Ok(all),
    }
}

/// Features of sources, cached in the work folder.
struct Features<'a> {
    args: &'a EvalArgs,
    extraction: Extraction,
}

impl Features<'_> {
    fn announce(&self, open: &OpenDevice) {
        let extractor = &self.extraction.extractor;
        say!("features by {} on {}, cached in {}", extractor.name(), open.name, self.args.work.display());
        if let Some(warning) = extractor.warning() {
            say!("warning: {warning}");
        }
    }

    fn samples_wanted(&self) -> usize {
        self.args.count.unwrap_or(usize::MAX)
    }

    fn blocks<'s>(&'s self, source: &'s dyn ImageSource, count: usize) -> Result<FeatureBlocks<'s>, EvaluationError> {
        let extractor = (&*self.extraction.extractor, self.extraction.identity.as_str());
        FeatureBlocks::open(&self.args.work, source, extractor, count, self.args.batch_size)
    }

    fn extract_all(&self, sets: &Sets) -> anyhow::Result<()> {
        for source in &sets.samples {
            self.extract(&**source, self.samples_wanted())?;
        }
        if let Some(source) = &sets.reference {
            self.extract(&**source, usize::MAX)?;
        }
        if let Some(source) = &sets.other_split {
            self.extract(&**source, self.args.max_items)?;
        }
        if let Some(source) = &sets.gaussian {
            self.extract(&**source, usize::MAX)?;
        }
        Ok(())
    }

    /// Extracts the missing features of the first `count` items, with a progress bar.
    fn extract(&self, source: &dyn ImageSource, count: usize) -> anyhow::Result<()> {
        let blocks = self.blocks(source, count)?;
        let missing = blocks.missing().len();
        say!("{}: {} images, {missing} of {} blocks to extract", source.name(), blocks.count(), blocks.len());
        let bar = progress_bar("{bar:28} {pos}/{len} images  {msg}  {elapsed} < {eta}", blocks.count() as u64);
        bar.set_position(blocks.done() as u64);
        let shard = self.args.shard.unwrap_or(Shard::ALL);
        blocks.extract_missing(|block| shard.has_block(block), &mut |progress| match progress {
            Progress::Extracted(items) => bar.inc(items as u64),
            Progress::Sampling(step) => bar.set_message(format!("step {}/{}", step.done, step.of)),
        })?;
        bar.finish_and_clear();
        Ok(())
    }

    /// The features of those of the first `count` items that `wanted` chooses.
    fn gather(
        &self,
        source: &dyn ImageSource,
        count: usize,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<FeatureSummary, EvaluationError> {
        self.blocks(source, count)?.gather(self.args.max_items, wanted)
    }

    fn evaluate(&self, sets: &Sets, reference: &InputSet) -> anyhow::Result<Vec<Evaluation>> {
        let gather = |source: &AnySource| self.gather(&**source, self.samples_wanted(), |_| true);
        let samples = sets.samples.iter().map(gather).collect::<Result<Vec<_>, _>>()?;
        let first = samples.first();
        if let (Some(path), Some(first)) = (&self.args.statistics, first) {
            first.statistics.write(path)?;
        }
        let references = self.references(sets, reference, first.map_or(usize::MAX, |first| first.count))?;
        let mut evaluations = Vec::new();
        for set in &samples {
            evaluations.push(self.metrics(set, &references.samples)?);
        }
        if let Some((real, reference)) = references.floor {
            evaluations
                .push(self.metrics(&FeatureSummary { name: format!("real: {}", real.name), ..real }, &reference)?);
        }
        if let Some(gaussian) = &sets.gaussian {
            let gaussian = self.gather(&**gaussian, usize::MAX, |_| true)?;
            evaluations.push(self.metrics(&gaussian, &references.samples)?);
        }
        Ok(evaluations)
    }

    /// What `count` samples are compared with, and the floor of real items.
    fn references(&self, sets: &Sets, reference: &InputSet, count: usize) -> anyhow::Result<References> {
        match (reference, &sets.reference, &sets.other_split) {
            (InputSet::Statistics(path), _, _) => {
                let (name, statistics) = (path.display().to_string(), Statistics::read(path)?);
                Ok(References { samples: Reference { name, statistics, kept: None, for_novelty: None }, floor: None })
            }
            (_, Some(reference), Some(other)) => self.with_other_split(&**reference, &**other, count),
            (_, Some(reference), None) => self.with_halves(&**reference),
            (_, None, _) => bail!("--against: there is nothing to compare with"),
        }
    }

    /// The reference of a dataset with two splits: the floor is that of as many items of the other split.
    fn with_other_split(
        &self,
        reference: &dyn ImageSource,
        other: &dyn ImageSource,
        count: usize,
    ) -> anyhow::Result<References> {
        let all = self.gather(reference, usize::MAX, |_| true)?;
        let others = self.gather(other, self.args.max_items, |_| true)?;
        // Evenly spread, because neighbors in a dataset are often alike.
        let (of, wanted) = (others.count, count.min(others.count));
        let real = self.gather(other, self.args.max_items, |item| item * wanted % of < wanted)?;
        let for_novelty = match self.args.split {
            Split::Test => [others.kept, all.kept.clone()],
            Split::Train => [all.kept.clone(), others.kept],
        };
        let reference = plain(all);
        let samples = Reference { for_novelty: Some(for_novelty), ..reference.clone() };
        Ok(References { samples, floor: Some((real, reference)) })
    }

    /// The reference of a set without splits: the floor is that of its even items against its odd ones.
    fn with_halves(&self, reference: &dyn ImageSource) -> anyhow::Result<References> {
        let all = self.gather(reference, usize::MAX, |_| true)?;
        let even = self.gather(reference, usize::MAX, |item| item % 2 == 0)?;
        let odd = self.gather(reference, usize::MAX, |item| item % 2 == 1)?;
        let for_novelty = Some([odd.kept.clone(), even.kept.clone()]);
        let floor = (halved(even, "one"), plain(halved(odd, "the other")));
        Ok(References { samples: Reference { for_novelty, ..plain(all) }, floor: Some(floor) })
    }

    /// All metrics of a set, with warnings where they are unreliable.
    fn metrics(&self, set: &FeatureSummary, reference: &Reference) -> anyhow::Result<Evaluation> {
        let args = self.args;
        let extractor = &self.extraction.extractor;
        let mut warnings: Vec<String> = extractor.warning().into_iter().collect();
        let width = reference.statistics.mean.len();
        let fewest = reference.statistics.count.unwrap_or(u64::MAX).min(set.count as u64);
        if fewest <= width as u64 {
            let few =
                format!("{fewest} items for {width} features: the Frechet distance is far from that of many items");
            say!("warning: {}: {few}", set.name);
            warnings.push(few);
        }
        let settings =
            Settings { subsets: args.subsets, subset_size: args.subset_size, k: args.k, seed: args.sweep.seed };
        let published = extractor.is_published_inception();
        Ok(Evaluation { warnings, ..metrics::evaluate(set, reference, &extractor.name(), published, settings)? })
    }
}

/// A reference without the parts that the novelty needs.
fn plain(all: FeatureSummary) -> Reference {
    Reference { name: all.name, statistics: all.statistics, kept: Some(all.kept), for_novelty: None }
}

fn halved(half: FeatureSummary, which: &str) -> FeatureSummary {
    FeatureSummary { name: format!("{which} half of {}", half.name), ..half }
}

/// The Frechet distance, which is all that statistics allow.
fn compare_statistics(files: &Path, reference: &Path) -> anyhow::Result<Evaluation> {
    let (a, b) = (Statistics::read(files)?, Statistics::read(reference)?);
    let counts = [&a, &b].map(|set| set.count.map_or("an unknown number".into(), |count| count.to_string()));
    let metric = "FD".to_string();
    let name = format!("{metric} (statistics of {} features; {} against {})", a.mean.len(), counts[0], counts[1]);
    let measured = vec![Measurement { metric, name, value: frechet(&a, &b)?, deviation: None }];
    let count = a.count.unwrap_or_default() as usize;
    let [of, against] = [files, reference].map(|path| path.display().to_string());
    Ok(Evaluation { of, count, against, measured, class_shares: Vec::new(), warnings: Vec::new() })
}
