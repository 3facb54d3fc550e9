//! Reconstructions of models with a latent, and what else there is to measure of the latent, next to simpler models.

use std::cell::OnceCell;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, bail};
use burn::tensor::Device;
use ddpm_console::bar::progress_bar;
use ddpm_console::say;
use ddpm_data::sprites::{self, factors_of};
use ddpm_data::{Bounds, DataConfig, DataInfo, Fit, Split, fnv1a};
use ddpm_device::device::OpenDevice;
use ddpm_eval::disentanglement::{BINS, VoteSettings, factor_vae_score, mutual_information_gap};
use ddpm_eval::image::Image;
use ddpm_eval::metrics::{Evaluation, Measurement};
use ddpm_eval::reconstruction::{RANGE_0_TO_1, mean_squared_errors, psnr};
use ddpm_eval::sources::ImageSource;
use ddpm_eval::{EvaluationError, Features};
use ddpm_families::family::AnyError;
use ddpm_families::family::trained::Draw;

use super::images::FrechetDistances;
use super::input_set::InputSet;
use super::models::{FamilyModel, Model};
use super::sweep::usual_count;
use super::{EvalArgs, Made, Results, baselines};
use crate::commands::choose::not_able;
use crate::commands::given_items::{Items, of_files, of_split};
use crate::commands::measure_bound;

/// Items between two steps of the bar.
const AT_ONCE: usize = 64;

/// Evaluates the reconstructions of all models that reconstruct; `None` for a shard, which only extracts features.
pub(super) fn evaluate(
    args: &EvalArgs,
    models: &[Model],
    reference: &InputSet,
    open: &OpenDevice,
) -> anyhow::Result<Option<Results>> {
    let models: Vec<&Rc<FamilyModel>> = models.iter().filter_map(that_reconstructs).collect();
    let Some(newest) = models.last() else {
        if let Some(path) = &args.reconstruct {
            bail!("--reconstruct {}: no snapshot that is evaluated reconstructs", path.display());
        }
        return Ok(Some(Results::default()));
    };
    let Some(items) = read_items(args, newest)? else { return Ok(Some(Results::default())) };
    let items = Rc::new(items);
    let is_image = is_image(newest);
    let mut distances = None;
    let mut results = Results::default();
    for model in &models {
        let (model, items, device) = (Rc::clone(model), items.clone(), open.device.clone());
        let source = Reconstructions { model, items, device, values: OnceCell::new() };
        if args.shard.is_none() {
            source.reconstruct_all().map_err(anyhow::Error::from_boxed)?;
        }
        let distance = match (is_image, &distances) {
            (false, _) => None,
            (true, Some(distances)) => FrechetDistances::of_reconstructions(distances, &source)?,
            (true, None) => {
                distances.insert(FrechetDistances::open(args, reference, &source, open)?).of_reconstructions(&source)?
            }
        };
        if args.shard.is_none() {
            results.evaluations.push(source.evaluate(args, distance)?);
            let settings = source.model.settings("reconstruction", args.sweep.seed);
            results.made.push(Made { path: source.model.weights.path.clone(), settings });
        }
    }
    if args.shard.is_some() {
        return Ok(None);
    }
    results.evaluations.extend(baselines::evaluate(newest, &items)?);
    Ok(Some(results))
}

/// The model, if it reconstructs.
fn that_reconstructs(model: &Model) -> Option<&Rc<FamilyModel>> {
    match model {
        Model::OfFamily(model) => model.trained.reconstruct().map(|_| model),
        Model::Denoiser(_) => None,
    }
}

fn is_image(model: &FamilyModel) -> bool {
    model.trained.card().data.is_image()
}

/// The items to reconstruct: of --reconstruct, or of a split of the data; `None` if there are none, which is fatal only where
/// nothing else is measured.
fn read_items(args: &EvalArgs, model: &FamilyModel) -> anyhow::Result<Option<Items>> {
    let (card, path) = (model.trained.card(), &model.weights.path);
    // Points are generated without end.
    let usual = if is_image(model) { usize::MAX } else { usual_count(&card.data) };
    let most = args.count.unwrap_or(usual);
    let items = match (&args.reconstruct, &card.source) {
        (Some(files), _) => of_files(files, &card.data, most, Fit::Refused).with_context(|| option_of(files))?,
        (None, Some(_)) => of_split(card, path, args.split, most)?,
        (None, None) => {
            let reason = format!("{}: the snapshot does not record its training data", path.display());
            if model.trained.generate().is_none() {
                bail!("{reason}: give items by --reconstruct");
            }
            say!("no reconstructions: {reason}; --reconstruct gives items");
            return Ok(None);
        }
    };
    match items.count {
        0 => bail!("{}: there are no items", items.from),
        _ => Ok(Some(items)),
    }
}

fn option_of(files: &Path) -> String {
    format!("--reconstruct {}", files.display())
}

/// Items in the units that errors and densities are measured in: images from 0 to 1, standardized points.
pub(super) fn in_units_of_errors(values: &[f32], data: &DataInfo) -> Features {
    let size = data.values_per_item();
    match data.bounds() {
        Bounds::Bytes => Features::new(size, values.iter().map(|value| (value + 1.0) / 2.0).collect()),
        Bounds::None => Features::new(size, values.to_vec()),
    }
}

/// The errors of reconstructions, both in [`in_units_of_errors`]. `about` is what their names say of the items.
pub(super) fn errors(
    items: &Features,
    found: &Features,
    is_image: bool,
    about: &str,
) -> Result<Vec<Measurement>, EvaluationError> {
    let errors = mean_squared_errors(items, found)?;
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / errors.len() as f64;
    let unit = if is_image { "images from 0 to 1" } else { "standardized points" };
    let one = |metric: &str, value: f64| {
        let (metric, name) = (metric.to_string(), format!("{metric} ({unit}; {about})"));
        Measurement { metric, name, value, deviation: None }
    };
    let mut measured = vec![one("MSE", mean(&mut errors.iter().copied()))];
    let ratio = mean(&mut errors.iter().map(|error| psnr(*error, RANGE_0_TO_1)));
    // An image without an error has no ratio.
    if is_image && ratio.is_finite() {
        measured.push(one("PSNR, dB", ratio));
    }
    Ok(measured)
}

/// What a model makes of items.
struct Reconstructions {
    model: Rc<FamilyModel>,
    items: Rc<Items>,
    device: Device,
    /// All of them, once they are there.
    values: OnceCell<Vec<f32>>,
}

impl Reconstructions {
    fn size(&self) -> usize {
        self.items.values.len() / self.items.count
    }

    /// Some of them.
    fn reconstruct(&self, range: Range<usize>) -> Result<Vec<f32>, AnyError> {
        let (size, trained) = (self.size(), &self.model.trained);
        let Some(model) = trained.reconstruct() else {
            return Err(format!("{}: {}", self.model.name(), not_able(&**trained, "reconstruct")).into());
        };
        let items = &self.items.values[range.start * size..range.end * size];
        model.reconstruct(items, model.layers(), &Draw::of_seed(0), range.start as u64)
    }

    /// Makes all of them.
    fn reconstruct_all(&self) -> Result<(), AnyError> {
        let count = self.items.count;
        say!("{}: reconstructing {count} of {}", self.model.name(), self.items.from);
        let bar = progress_bar("{bar:28} {pos}/{len} items  {elapsed} < {eta}", count as u64);
        let mut values = Vec::with_capacity(self.items.values.len());
        for start in (0..count).step_by(AT_ONCE) {
            let end = (start + AT_ONCE).min(count);
            values.extend(self.reconstruct(start..end)?);
            bar.set_position(end as u64);
        }
        bar.finish_and_clear();
        if values.iter().any(|value| !value.is_finite()) {
            let name = self.model.name();
            return Err(format!("the reconstructions of {name} are not finite: its weights may be broken").into());
        }
        let _ = self.values.set(values);
        Ok(())
    }

    /// Everything that is measured of the model, with the distance of its reconstructions.
    fn evaluate(&self, args: &EvalArgs, distance: Option<Measurement>) -> anyhow::Result<Evaluation> {
        let (items, card) = (&self.items, self.model.trained.card());
        let found = self.values.get().map(Vec::as_slice).unwrap_or_default();
        let [inputs, found] = [&items.values, found].map(|values| in_units_of_errors(values, &card.data));
        let about = about(items);
        let mut measured = errors(&inputs, &found, is_image(&self.model), &about)?;
        measured.extend(distance);
        measured.extend(self.bound(args, &about)?);
        measured.extend(disentanglement(&self.model)?);
        Ok(evaluation(self.model.name(), items, measured))
    }

    /// The evidence lower bound of the items, if the model has one.
    fn bound(&self, args: &EvalArgs, about: &str) -> anyhow::Result<Vec<Measurement>> {
        let Some(bound) = self.model.trained.bound() else { return Ok(Vec::new()) };
        let report = measure_bound::measure(bound, &self.items, &[1], args.sweep.seed)?;
        let one = |metric: &str, value: f64| {
            let (metric, name) = (metric.to_string(), format!("{metric} ({about}; one draw of the latent)"));
            Measurement { metric, name, value, deviation: None }
        };
        let bits = report.bits_per_dim.map(|bits| one("bits/dim, by the ELBO", bits));
        Ok([one("-ELBO, nats", -report.elbo_nats)].into_iter().chain(bits).collect())
    }
}

/// What names of measurements say of the items.
pub(super) fn about(items: &Items) -> String {
    format!("{} of {}", items.count, items.from)
}

/// The evaluation of a model by its reconstructions.
pub(super) fn evaluation(of: String, items: &Items, measured: Vec<Measurement>) -> Evaluation {
    let (count, against) = (items.count, items.from.clone());
    Evaluation { of, count, against, measured, class_shares: Vec::new(), warnings: Vec::new() }
}

/// How single dimensions of the latent stand for single factors, where the factors of the data are known.
fn disentanglement(model: &FamilyModel) -> anyhow::Result<Vec<Measurement>> {
    let card = model.trained.card();
    let (Some(encoder), Some(DataConfig::Sprites(_))) = (model.trained.encode(), &card.source) else {
        return Ok(Vec::new());
    };
    let (mut latents, mut factors) = (Vec::new(), Vec::new());
    for split in [Split::Train, Split::Test] {
        let items = of_split(card, &model.weights.path, split, usize::MAX)?;
        latents.extend(encoder.encode(&items.values).map_err(anyhow::Error::from_boxed)?);
        factors.extend(factors_of(split));
    }
    let latents = Features::new(encoder.latent_shape().iter().product(), latents);
    let gap = mutual_information_gap(&latents, &factors)?;
    let votes = factor_vae_score(&latents, &factors, &VoteSettings::default())?;
    let all = format!("all {} sprites", sprites::COUNT);
    let one = |metric: &str, about: String, value: f64| Measurement {
        metric: metric.into(),
        name: format!("{metric} ({all}; {about})"),
        value,
        deviation: None,
    };
    let active = format!("{} of {} dimensions in use", votes.active, latents.width());
    Ok(vec![one("MIG", format!("{BINS} bins"), gap.mean), one("FactorVAE score", active, votes.score)])
}

impl ImageSource for Reconstructions {
    fn count(&self) -> usize {
        self.items.count
    }

    fn name(&self) -> String {
        format!("reconstructions of {}", self.model.name())
    }

    fn identity(&self) -> String {
        let items = fnv1a(self.items.values.iter().flat_map(|value| value.to_le_bytes()));
        format!("reconstructions of {items:016x} by {}", self.model.identity(&self.device))
    }

    fn images(&self, range: Range<usize>) -> Result<Vec<Image>, EvaluationError> {
        let shape = &self.model.trained.card().data.shape;
        let [channels, height, width] = shape[..] else {
            return Err(EvaluationError::Source(format!("items of shape {shape:?} are no images").into()));
        };
        let size = self.size();
        let values = match self.values.get() {
            Some(values) => values[range.start * size..range.end * size].to_vec(),
            None => self.reconstruct(range).map_err(EvaluationError::Source)?,
        };
        Ok(values.chunks_exact(size).map(|values| Image::from_values([channels, height, width], values)).collect())
    }
}
