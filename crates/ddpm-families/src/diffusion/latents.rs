//! Training on latents of a frozen autoencoder (Rombach et al. 2022): which autoencoder, and the latents of items.
//!
//! Images that are not changed at random are encoded once, and kept in memory and in a file on disk; others are encoded
//! with the batch that they are in.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{Example, Flip, OpenData, StreamItem, fnv1a, three_axes};
use ddpm_files::runs::{RUNS, RunFolder};
use serde::{Deserialize, Serialize};

use super::latent_cache::{self, Cached, EncodingProgress};
use crate::family::Problem;
use crate::items::batch_of;
use crate::latent::{FirstStage, find_part};

/// Images that are encoded at once.
const AT_ONCE: usize = 64;
/// Images that a scale is measured over, at most.
const MEASURED: usize = 1024;

/// The network has the channels, the height and the width of the latents, and not those of the images.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatentsConfig {
    /// The autoencoder, which stays as it is: a folder of diffusers, a snapshot of family `vae` with the network `"kl"`,
    /// a run, or the name of an experiment, of which the newest run counts. Must be given.
    pub autoencoder: PathBuf,
    /// What is learned of the distribution of an image's latents.
    pub posterior: PosteriorUse,
    /// The factor of the latents: `"autoencoder"`, as its config says; `"measured"`, so that latents of the training
    /// images have unit variance; or a number. Snapshots have it in `vae/config.json`.
    pub scale: LatentScale,
}

/// What is learned of the posterior of the latents of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PosteriorUse {
    /// Its mean.
    #[default]
    Mean,
    /// Samples of it, another one each time.
    Sample,
}

/// The factor of latents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, or `autoencoder` or `measured` as text")]
pub enum LatentScale {
    /// From elsewhere.
    From(ScaleSource),
    /// This one.
    Factor(f64),
}

/// Where the factor of latents comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleSource {
    /// From the autoencoder's config.
    Autoencoder,
    /// From the training images.
    Measured,
}

impl Default for LatentScale {
    fn default() -> Self {
        Self::From(ScaleSource::Autoencoder)
    }
}

impl LatentsConfig {
    /// What is wrong with values that are of the right type.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.autoencoder.as_os_str().is_empty() {
            let message = "must name an autoencoder: a folder, a run, or an experiment that was run".to_string();
            problems.push(("latents.autoencoder".into(), message));
        }
        if let LatentScale::Factor(factor) = self.scale
            && !(factor > 0.0 && factor.is_finite())
        {
            problems.push(("latents.scale".into(), format!("must be a positive number, not {factor}")));
        }
        problems
    }

    /// Opens the autoencoder on a device, and gives the config with nothing left open: an absolute path and a number.
    pub(super) fn resolve(self, data: &OpenData, device: &Device) -> Result<(Self, FirstStage), Problem> {
        let at_fault = |message| ("latents.autoencoder".to_string(), message);
        let folder = find_part(&self.autoencoder).map_err(at_fault)?;
        let stage = FirstStage::open(&folder, device);
        let stage = stage.map_err(|error| at_fault(format!("{}: {error}", folder.display())))?;
        if let FirstStage::Vq(_) = stage {
            let reason = "an autoencoder with a codebook is not written into snapshots; expected an AutoencoderKL";
            return Err(at_fault(format!("{}: {reason}", folder.display())));
        }
        stage.latent_shape(&data.info.shape).map_err(|error| at_fault(format!("{}: {error}", folder.display())))?;
        let factor = match self.scale {
            LatentScale::Factor(factor) => factor,
            LatentScale::From(ScaleSource::Autoencoder) => stage.scale(),
            LatentScale::From(ScaleSource::Measured) => {
                measured_scale(&stage, data).map_err(|message| ("latents.scale".to_string(), message))?
            }
        };
        let config = Self { autoencoder: folder, scale: LatentScale::Factor(factor), ..self };
        Ok((config, stage.scaled_by(factor)))
    }
}

/// The factor with which the latents of the training images have unit variance.
fn measured_scale(stage: &FirstStage, data: &OpenData) -> Result<f64, String> {
    let items = data.items.len();
    let count = items.min(MEASURED);
    let mut values: Vec<f64> = Vec::new();
    let places: Vec<usize> = (0..count).map(|k| k * items / count).collect();
    for part in places.chunks(AT_ONCE) {
        let images = part.iter().map(|&place| data.items.get(place).map(|example| example.values));
        let images = images.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?.concat();
        let latents = stage.encode(batch_of(images, three_axes(&data.info.shape), &stage.device()), None);
        values.extend(latents.into_data().iter::<f64>());
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    let factor = stage.scale() / variance.sqrt();
    match factor.is_finite() && factor > 0.0 {
        true => Ok(factor),
        false => Err("cannot be measured: the latents of all training images are the same".into()),
    }
}

/// From images to what is learned of their latents.
#[derive(Clone, Debug)]
pub struct LatentEncoder {
    /// The autoencoder.
    pub stage: FirstStage,
    /// What is learned of the posterior.
    pub posterior: PosteriorUse,
    /// The shape of an image.
    pub image: [usize; 3],
    /// The shape of its latents.
    pub latent: [usize; 3],
    /// Whether images are encoded with their batch, since they are another each time.
    pub in_batch: bool,
}

impl LatentEncoder {
    /// The shape of an encoded item: mean, and standard deviation behind it where samples are learned.
    fn item_shape(&self) -> [usize; 3] {
        let [channels, height, width] = self.latent;
        match self.posterior {
            PosteriorUse::Mean => self.latent,
            PosteriorUse::Sample => [2 * channels, height, width],
        }
    }

    fn item_size(&self) -> usize {
        self.item_shape().iter().product()
    }

    /// Images, one after the other, as encoded items.
    fn encode(&self, images: Vec<f32>) -> Vec<f32> {
        let images = batch_of(images, self.image, &self.stage.device());
        let rows = images.dims()[0];
        let values = |tensor: burn::tensor::Tensor<4>| tensor.into_data().iter::<f32>().collect::<Vec<f32>>();
        match self.posterior {
            PosteriorUse::Mean => values(self.stage.encode(images, None)),
            PosteriorUse::Sample => {
                let [mean, std] = self.stage.posterior(images).map(values);
                let size = mean.len() / rows;
                let both = mean.chunks(size).zip(std.chunks(size));
                both.flat_map(|(mean, std)| [mean, std].concat()).collect()
            }
        }
    }

    /// The latents of a batch of items.
    pub(super) fn latents(&self, items: Vec<StreamItem>, seed: u64) -> Vec<f32> {
        let places: Vec<u64> = items.iter().map(|item| item.place).collect();
        let values: Vec<f32> = items.into_iter().flat_map(|item| item.example.values).collect();
        let values = if self.in_batch { self.encode(values) } else { values };
        match self.posterior {
            PosteriorUse::Mean => values,
            PosteriorUse::Sample => {
                let rows = values.chunks(self.item_size()).zip(places);
                rows.flat_map(|(row, place)| sample(row, seed, place)).collect()
            }
        }
    }

    /// The items as they are learned from: encoded already, unless each batch does that.
    pub(super) fn items(&self, data: OpenData, cache: Option<PathBuf>) -> OpenData {
        if self.in_batch {
            return data;
        }
        let info = data.info.as_latents(&self.item_shape());
        let (source, encoder) = (data.items, self.clone());
        let items = Arc::new(LatentItems { source, encoder, cache, encoded: OnceLock::new() });
        OpenData { info, items, flip: Flip::Never, ..data }
    }
}

/// A sample of the posterior of an item.
fn sample(item: &[f32], seed: u64, place: u64) -> Vec<f32> {
    let (mean, std) = item.split_at(item.len() / 2);
    let noise = normals(&mut rng(seed, Stream::Latents, place), mean.len());
    mean.iter().zip(std).zip(noise).map(|((mean, std), noise)| mean + std * noise).collect()
}

/// The folder of encoded images: in the run of the autoencoder, or else among the runs; none where there is neither.
pub(super) fn cache_folder(autoencoder: &Path) -> Option<PathBuf> {
    let runs = || Some(PathBuf::from(RUNS)).filter(|runs| runs.is_dir());
    RunFolder::around(autoencoder).map(|run| run.0).or_else(runs).map(|folder| folder.join("latents"))
}

/// Items that are encoded when the first of them is read.
struct LatentItems {
    source: Arc<dyn Dataset<Example>>,
    encoder: LatentEncoder,
    cache: Option<PathBuf>,
    /// All items; or the first one that cannot be read.
    encoded: OnceLock<Result<Vec<Example>, usize>>,
}

impl Dataset<Example> for LatentItems {
    fn get(&self, index: usize) -> Result<Example, DatasetError> {
        match self.encoded.get_or_init(|| self.encode()) {
            Ok(encoded) => Ok(encoded[index].clone()),
            // Its error says why.
            Err(broken) => self.source.get(*broken),
        }
    }

    fn len(&self) -> usize {
        self.source.len()
    }
}

impl LatentItems {
    fn encode(&self) -> Result<Vec<Example>, usize> {
        let mut examples = Vec::with_capacity(self.len());
        let mut hash = fnv1a(format!("{:?}", self.encoder.posterior).bytes()) ^ self.encoder.stage.fingerprint();
        for index in 0..self.len() {
            let example = self.source.get(index).map_err(|_| index)?;
            let bytes = example.values.iter().flat_map(|value| value.to_le_bytes());
            hash = fnv1a(hash.to_le_bytes().into_iter().chain(bytes));
            examples.push(Example { values: Vec::new(), ..example });
        }
        let file = self.cache.as_ref().map(|folder| folder.join(format!("{hash:016x}.latents")));
        let count = examples.len() * self.encoder.item_size();
        let values = match file.as_deref().map(|file| latent_cache::read(file, count)) {
            Some(Cached::Found(values)) => values,
            found => {
                if let (Some(Cached::Damaged(reason)), Some(file)) = (found, &file) {
                    latent_cache::note(&format!("{}: {reason}; the images are encoded again", file.display()));
                }
                let values = self.encode_all()?;
                if let Some(file) = &file {
                    latent_cache::write(file, &values);
                }
                values
            }
        };
        for (example, latent) in examples.iter_mut().zip(values.chunks(self.encoder.item_size())) {
            example.values = latent.to_vec();
        }
        Ok(examples)
    }

    fn encode_all(&self) -> Result<Vec<f32>, usize> {
        let mut values = Vec::with_capacity(self.len() * self.encoder.item_size());
        let mut progress = EncodingProgress::of(self.len());
        for start in (0..self.len()).step_by(AT_ONCE) {
            progress.at(start);
            let mut images = Vec::new();
            for index in start..(start + AT_ONCE).min(self.len()) {
                images.extend(self.source.get(index).map_err(|_| index)?.values);
            }
            values.extend(self.encoder.encode(images));
        }
        Ok(values)
    }
}
