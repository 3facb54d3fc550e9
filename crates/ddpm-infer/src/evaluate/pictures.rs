//! Judging pictures: sources, their features, and what follows from these.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ddpm_data::{DataConfig, Split};

use super::real::Real;
use super::{Drawn, EvalArgs, Extractor, Part};
use crate::bar::progress_bar;
use crate::device::OpenDevice;
use crate::evaluation::blocks::{Blocks, Filled, Gathered, Shard};
use crate::evaluation::classifier::Classifier;
use crate::evaluation::extractor::{FeatureExtractor, Pixels};
use crate::evaluation::inception::{self, Inception};
use crate::evaluation::judge::{self, Measured, Reference, Settings, Verdict};
use crate::evaluation::sources::{AnySource, Dataset, GAUSSIAN_VALUES, PictureSource, PixelGaussian, hash};
use crate::evaluation::{Statistics, frechet};
use crate::job::Progress;
use crate::weights::{StoredTensor, Weights};

/// Draws of the Gaussian baseline at most: it is so far off that more would say nothing.
const GAUSSIAN_DRAWS: usize = 5000;

/// Pictures of all that is compared.
struct Sets {
    /// What is judged.
    judged: Vec<AnySource>,
    /// What is real.
    own: Option<AnySource>,
    /// The other split of the same data.
    other: Option<AnySource>,
    /// A baseline.
    gaussian: Option<AnySource>,
}

/// A feature extractor, and what its features depend on.
struct Extraction {
    extractor: Box<dyn FeatureExtractor>,
    identity: String,
}

/// Everything that is judged, then the floor and the baseline; nothing for a shard, which only makes features.
pub(super) fn judge(
    args: &EvalArgs,
    real: &Real,
    drawn: &[Drawn],
    open: &OpenDevice,
) -> anyhow::Result<Option<Vec<Verdict>>> {
    let files = args.files.as_deref().map(|path| Real::parse(&path.to_string_lossy())).transpose()?;
    if drawn.iter().any(|drawn| drawn.snapshot.config.data.shape.len() != 3) {
        bail!("the snapshot makes points; --against must be points too");
    }
    if let (Some(Real::Statistics(files)), Real::Statistics(real)) = (&files, real) {
        return Ok(Some(vec![of_statistics(files, real)?]));
    }
    if matches!(files, Some(Real::Statistics(_))) {
        bail!("--files of statistics can only be compared with statistics; --against is something else");
    }
    let sets = sets(args, real, files.as_ref(), drawn, open)?;
    let chosen = choose_extractor(args, real, &sets, open)?;
    eprintln!("features by {} on {}, kept in {}", chosen.extractor.name(), open.name, args.work.display());
    let doubt = chosen.extractor.doubt();
    if let Some(doubt) = &doubt {
        eprintln!("warning: {doubt}");
    }

    let extractor = (&*chosen.extractor, chosen.identity.as_str());
    let asked = args.count.unwrap_or(usize::MAX);
    let mut gathered = Vec::new();
    let fill = |source: &dyn PictureSource, count: usize| -> anyhow::Result<()> {
        let blocks = Blocks::open(&args.work, source, extractor, count, args.batch_size)?;
        show(&blocks, source, args.shard.unwrap_or(Shard { number: 1, of: 1 }))
    };
    for source in &sets.judged {
        fill(&**source, asked)?;
    }
    for source in sets.own.iter() {
        fill(&**source, usize::MAX)?;
    }
    for source in sets.other.iter() {
        fill(&**source, args.max_items)?;
    }
    for source in sets.gaussian.iter() {
        fill(&**source, usize::MAX)?;
    }
    if args.shard.is_some() {
        return Ok(None);
    }
    let gather = |source: &dyn PictureSource, count: usize, wanted: &dyn Fn(usize) -> bool| {
        Blocks::open(&args.work, source, extractor, count, args.batch_size)?.gather(args.max_items, wanted)
    };
    for source in &sets.judged {
        gathered.push(gather(&**source, asked, &|_| true)?);
    }
    if let (Some(path), Some(first)) = (&args.statistics, gathered.first()) {
        first.statistics.write(path)?;
    }
    let (reference, floor) = match (real, &sets.own) {
        (Real::Statistics(path), _) => {
            let statistics = Statistics::read(path)?;
            let name = path.display().to_string();
            (Reference { name, statistics, kept: None, copies: None }, None)
        }
        (_, Some(own)) => {
            let count = gathered.first().map_or(usize::MAX, |first| first.count);
            let all = gather(&**own, usize::MAX, &|_| true)?;
            match &sets.other {
                Some(other) => {
                    let others = gather(&**other, args.max_items, &|_| true)?;
                    // As many as there are samples, evenly spread: neighbours in a dataset are often alike.
                    let (of, wanted) = (others.count, count.min(others.count));
                    let floor = gather(&**other, args.max_items, &|item| item * wanted % of < wanted)?;
                    let copies = match args.split {
                        Part::Test => [others.kept, all.kept.clone()],
                        Part::Train => [all.kept.clone(), others.kept],
                    };
                    let reference = Reference { copies: Some(copies), ..plain(all) };
                    let floor = (floor, Reference { copies: None, ..reference.clone() });
                    (reference, Some(floor))
                }
                None => {
                    let [even, odd] = [0, 1].map(|half| gather(&**own, usize::MAX, &|item| item % 2 == half));
                    let (even, odd) = (even?, odd?);
                    let copies = Some([odd.kept.clone(), even.kept.clone()]);
                    (Reference { copies, ..plain(all) }, Some((halved(even, "one"), plain(halved(odd, "the other")))))
                }
            }
        }
        (_, None) => bail!("nothing to compare with"),
    };
    let settings = Settings { subsets: args.subsets, subset_size: args.subset_size, k: args.k, seed: args.sweep.seed };
    let (name, published) = (chosen.extractor.name(), chosen.extractor.is_published_inception());
    let mut verdicts = Vec::new();
    let mut add = |set: &Gathered, reference: &Reference| -> anyhow::Result<()> {
        let width = reference.statistics.mean.len();
        let of_reference = reference.statistics.count.unwrap_or(u64::MAX);
        let mut warnings: Vec<String> = doubt.iter().cloned().collect();
        let fewest = of_reference.min(set.count as u64);
        if fewest <= width as u64 {
            let few = format!("{fewest} items for {width} features: the Frechet distance is far from that of many");
            eprintln!("warning: {}: {few}", set.name);
            warnings.push(few);
        }
        verdicts.push(Verdict { warnings, ..judge::judge(set, reference, &name, published, settings)? });
        Ok(())
    };
    for set in &gathered {
        add(set, &reference)?;
    }
    if let Some((set, reference)) = &floor {
        add(&Gathered { name: format!("real: {}", set.name), ..set.clone() }, reference)?;
    }
    if let Some(gaussian) = &sets.gaussian {
        add(&gather(&**gaussian, usize::MAX, &|_| true)?, &reference)?;
    }
    Ok(Some(verdicts))
}

/// Writes the statistics of some files, for later comparisons, and gives their path; that of the work folder for a shard.
pub(super) fn only_statistics(args: &EvalArgs, files: &Path, path: &Path, open: &OpenDevice) -> anyhow::Result<String> {
    std::fs::create_dir_all(&args.work).with_context(|| format!("cannot make the folder {}", args.work.display()))?;
    let real = Real::parse(&files.to_string_lossy())?;
    let sets = Sets { judged: real.pictures()?.into_iter().collect(), own: None, other: None, gaussian: None };
    let Some(source) = sets.judged.first() else { bail!("{}: expected pictures", files.display()) };
    let chosen = choose_extractor(args, &real, &sets, open)?;
    let extractor = (&*chosen.extractor, chosen.identity.as_str());
    let count = args.count.unwrap_or(usize::MAX);
    let blocks = Blocks::open(&args.work, &**source, extractor, count, args.batch_size)?;
    show(&blocks, &**source, args.shard.unwrap_or(Shard { number: 1, of: 1 }))?;
    if args.shard.is_some() {
        return Ok(args.work.display().to_string());
    }
    blocks.gather(args.max_items, |_| true)?.statistics.write(path)?;
    Ok(path.display().to_string())
}

fn plain(all: Gathered) -> Reference {
    Reference { name: all.name, statistics: all.statistics, kept: Some(all.kept), copies: None }
}

fn halved(half: Gathered, which: &str) -> Gathered {
    Gathered { name: format!("{which} half of {}", half.name), ..half }
}

/// Makes the missing features of a source, with a bar.
fn show(blocks: &Blocks<'_>, source: &dyn PictureSource, shard: Shard) -> anyhow::Result<()> {
    let missing = blocks.missing().len();
    eprintln!("{}: {} pictures, {missing} of {} blocks to do", source.name(), blocks.count(), blocks.len());
    let bar = progress_bar("{bar:28} {pos}/{len} pictures  {msg}  {elapsed} < {eta}", blocks.count() as u64);
    bar.set_position(blocks.done() as u64);
    blocks.fill(shard, &mut |filled| match filled {
        Filled::Items(items) => bar.inc(items as u64),
        Filled::Drawing(Progress { steps_done, steps, .. }) => bar.set_message(format!("step {steps_done}/{steps}")),
    })?;
    bar.finish_and_clear();
    Ok(())
}

fn of_statistics(files: &Path, real: &Path) -> anyhow::Result<Verdict> {
    let [a, b] = [files, real].map(Statistics::read);
    let (a, b) = (a?, b?);
    let counts = [&a, &b].map(|set| set.count.map_or("an unknown number".into(), |count| count.to_string()));
    let metric = "FD".to_string();
    let name = format!("{metric} (statistics of {} features; {} against {})", a.mean.len(), counts[0], counts[1]);
    let measured = vec![Measured { metric, name, value: frechet(&a, &b)?, deviation: None }];
    let count = a.count.unwrap_or_default() as usize;
    let [of, against] = [files, real].map(|path| path.display().to_string());
    Ok(Verdict { of, count, against, measured, class_shares: Vec::new(), warnings: Vec::new() })
}

fn sets(
    args: &EvalArgs,
    real: &Real,
    files: Option<&Real>,
    drawn: &[Drawn],
    open: &OpenDevice,
) -> anyhow::Result<Sets> {
    let mut judged: Vec<AnySource> = Vec::new();
    for drawn in drawn {
        judged.push(Box::new(drawn.samples(open)));
    }
    match files {
        Some(Real::Data(config)) => judged.push(Box::new(Dataset::open(config, Split::Test)?)),
        Some(files) => judged.extend(files.pictures()?),
        None => {}
    }
    let (own, other, train): (Option<AnySource>, Option<AnySource>, _) = match real {
        Real::Data(config) => {
            let dataset = |split| -> anyhow::Result<Dataset> {
                let all = Dataset::open(config, split)?;
                match drawn.first().and_then(Drawn::class) {
                    Some(class) => Ok(all.of_class(class)?),
                    None => Ok(all),
                }
            };
            let (train, test) = (Box::new(dataset(Split::Train)?), Box::new(dataset(Split::Test)?));
            let again = Some(dataset(Split::Train)?);
            match args.split {
                Part::Train => (Some(train), Some(test), again),
                Part::Test => (Some(test), Some(train), again),
            }
        }
        _ => {
            if let Some(class) = drawn.first().and_then(Drawn::class) {
                eprintln!("warning: the samples are all of class {class}, the reference set may not be");
            }
            (real.pictures()?, None, None)
        }
    };
    let count = args.count.unwrap_or(usize::MAX).min(judged.first().map_or(0, |first| first.count()));
    let fitted_to = train.as_ref().map(|train| train as &dyn PictureSource).or(own.as_deref());
    let gaussian = match fitted_to {
        Some(source) => PixelGaussian::fit(source, args.max_items, count.min(GAUSSIAN_DRAWS), args.sweep.seed)?,
        None => None,
    };
    let gaussian = gaussian.map(|gaussian| Box::new(gaussian) as AnySource);
    Ok(Sets { judged, own, other, gaussian })
}

/// The extractor that was asked for, or the one that suits what there is.
fn choose_extractor(args: &EvalArgs, real: &Real, sets: &Sets, open: &OpenDevice) -> anyhow::Result<Extraction> {
    let device = open.device.clone().without_autodiff();
    let labelled = match real {
        Real::Data(config) => Some(config).filter(|config| is_labelled(config)),
        _ => None,
    };
    let choice = match (args.extractor, &args.weights, labelled) {
        (Some(choice), _, _) => choice,
        (None, Some(_), _) => Extractor::Inception,
        (None, None, Some(_)) => Extractor::Classifier,
        _ => bail!(
            "no feature extractor for this data: pass --extractor pixels, or --extractor inception --weights FILE; the \
             classifier needs labelled data (--against digits, cifar10, mnist)"
        ),
    };
    match (choice, &args.weights, labelled) {
        (Extractor::Inception, Some(path), _) => {
            let weights = inception_weights(path)?;
            let mut inception =
                Inception::new(&weights, args.resize, &device).with_context(|| format!("{}", path.display()))?;
            if let Some(answer) = &args.known_answer {
                inception.check_known_answer(answer)?;
            }
            // The features are the same whether the weights were verified or not.
            let of_weights = hash(&std::fs::read(path)?);
            let identity = format!("inception {of_weights:016x} {} on {}", args.resize.name(), open.name);
            Ok(Extraction { extractor: Box::new(inception), identity })
        }
        (Extractor::Classifier, _, Some(config)) => {
            let name = format!("classifier-{:016x}.safetensors", hash(format!("{config:?}").as_bytes()));
            let file: PathBuf = args.classifier.clone().unwrap_or_else(|| args.work.join(name));
            if !file.is_file() {
                eprintln!("training a classifier of the data, to be kept in {}", file.display());
            }
            let classifier = Classifier::open(&file, config, &device)?;
            let identity = format!("classifier {:016x} on {}", hash(&std::fs::read(&file)?), open.name);
            Ok(Extraction { extractor: Box::new(classifier), identity })
        }
        (Extractor::Pixels, _, _) => {
            let first = sets.own.as_ref().or(sets.judged.first()).map(|source| source.pictures(0..1)).transpose()?;
            let Some(shape) = first.and_then(|first| first.first().map(|picture| picture.shape())) else {
                bail!("there are no pictures to look at");
            };
            let values: usize = shape.iter().product();
            if values > GAUSSIAN_VALUES {
                bail!(
                    "--extractor pixels is for small pictures: {shape:?} are {values} values, allowed {GAUSSIAN_VALUES}"
                );
            }
            Ok(Extraction { extractor: Box::new(Pixels { shape }), identity: format!("pixels {shape:?}") })
        }
        _ => bail!("--extractor classifier needs labelled data: --against digits, cifar10 or mnist"),
    }
}

fn is_labelled(config: &DataConfig) -> bool {
    ddpm_data::open(config, Split::Train, 0).is_ok_and(|data| !data.info.classes.is_empty())
}

/// The tensors of a `.pth` or safetensors file, without the counters of batches, which are no weights.
fn inception_weights(path: &Path) -> anyhow::Result<inception::Weights> {
    let file = Weights::open(path)?;
    let tensors = file.tensors().iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked"));
    let weight = |tensor: &StoredTensor| -> anyhow::Result<inception::Weight> {
        Ok(inception::Weight { shape: tensor.shape().to_vec(), values: tensor.read()? })
    };
    tensors.map(|(name, tensor)| Ok((name.clone(), weight(tensor)?))).collect()
}
