//! The feature extractor of an evaluation: the one that was chosen, or the one that fits the data.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::tensor::Device;
use clap::ValueEnum;
use ddpm_console::say;
use ddpm_data::{DataConfig, Split, fnv1a};
use ddpm_device::device::OpenDevice;
use ddpm_eval::classifier::Classifier;
use ddpm_eval::extractor::{FeatureExtractor, Pixels};
use ddpm_eval::inception::{self, Inception};
use ddpm_eval::sources::{GAUSSIAN_VALUES, ImageSource};
use ddpm_weights::{StoredTensor, Weights};

use super::EvalArgs;
use super::input_set::InputSet;

/// `--extractor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Extractor {
    /// The network of the FID papers.
    Inception,
    /// A small network, trained on the labels of the data.
    Classifier,
    /// None: the values themselves.
    Pixels,
}

/// A feature extractor, and what its features depend on.
pub(super) struct Extraction {
    pub(super) extractor: Box<dyn FeatureExtractor>,
    pub(super) identity: String,
}

/// Opens the extractor. `images` are some of those that it will be applied to.
pub(super) fn choose_extractor(
    args: &EvalArgs,
    reference: &InputSet,
    images: Option<&dyn ImageSource>,
    open: &OpenDevice,
) -> anyhow::Result<Extraction> {
    let device = open.device.clone().without_autodiff();
    let labelled = match reference {
        InputSet::Data(config) => Some(config).filter(|config| is_labeled(config)),
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
        (Extractor::Inception, Some(weights), _) => open_inception(args, weights, &device, &open.name),
        (Extractor::Classifier, _, Some(config)) => open_classifier(args, config, &device, &open.name),
        (Extractor::Pixels, _, _) => pixels_of(images),
        _ => bail!("--extractor classifier needs labelled data: --against digits, cifar10 or mnist"),
    }
}

fn open_inception(args: &EvalArgs, path: &Path, device: &Device, device_name: &str) -> anyhow::Result<Extraction> {
    let weights = inception_weights(path)?;
    let mut inception = Inception::new(&weights, args.resize, device).with_context(|| format!("{}", path.display()))?;
    if let Some(answer) = &args.known_answer {
        inception.check_known_answer(answer)?;
    }
    // The features are the same whether the weights were verified or not.
    let of_weights = fnv1a(std::fs::read(path)?);
    let identity = format!("inception {of_weights:016x} {} on {device_name}", args.resize.name());
    Ok(Extraction { extractor: Box::new(inception), identity })
}

fn open_classifier(
    args: &EvalArgs,
    config: &DataConfig,
    device: &Device,
    device_name: &str,
) -> anyhow::Result<Extraction> {
    let name = format!("classifier-{:016x}.safetensors", fnv1a(format!("{config:?}").bytes()));
    let file: PathBuf = args.classifier.clone().unwrap_or_else(|| args.work.join(name));
    if !file.is_file() {
        say!("training a classifier of the data; its weights go to {}", file.display());
    }
    let classifier = Classifier::open(&file, config, device)?;
    let identity = format!("classifier {:016x} on {device_name}", fnv1a(std::fs::read(&file)?));
    Ok(Extraction { extractor: Box::new(classifier), identity })
}

fn pixels_of(images: Option<&dyn ImageSource>) -> anyhow::Result<Extraction> {
    let first = images.map(|source| source.images(0..1)).transpose()?;
    let Some(shape) = first.and_then(|first| first.first().map(|image| image.shape())) else {
        bail!("--extractor pixels: there are no images");
    };
    let values: usize = shape.iter().product();
    if values > GAUSSIAN_VALUES {
        bail!("--extractor pixels: images of shape {shape:?} have {values} values; expected at most {GAUSSIAN_VALUES}");
    }
    Ok(Extraction { extractor: Box::new(Pixels { shape }), identity: format!("pixels {shape:?}") })
}

fn is_labeled(config: &DataConfig) -> bool {
    ddpm_data::open(config, Split::Train, 0).is_ok_and(|data| !data.info.classes.is_empty())
}

/// The tensors of a `.pth` or safetensors file, without PyTorch's batch counters, which are no weights.
fn inception_weights(path: &Path) -> anyhow::Result<inception::Weights> {
    let file = Weights::open(path)?;
    let tensors = file.tensors().iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked"));
    let weight = |tensor: &StoredTensor| -> anyhow::Result<inception::Weight> {
        Ok(inception::Weight { shape: tensor.shape().to_vec(), values: tensor.read()? })
    };
    tensors.map(|(name, tensor)| Ok((name.clone(), weight(tensor)?))).collect()
}
