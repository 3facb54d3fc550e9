//! The family `text-encoder`: a small text encoder of CLIP's form, with a vocabulary of its own, that learns from captioned
//! images to bring captions and their images together (Radford et al. 2021). What it makes of the tokens of a caption is
//! what a text-to-image model is conditioned on.

pub mod measure;
pub mod preview;
pub mod tables;
pub mod trained;

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::{OpenData, StreamItem, three_axes};
use ddpm_files::atomic::AtomicFolder;
use ddpm_kernels::Precision;
use ddpm_model::network::MemoryEstimate;
use ddpm_model::pass::Pass;
use ddpm_model::text::{ClipText, Contrast, contrastive_loss, found_captions};
use ddpm_text::{ClipTokenizer, Vocabulary};
use ddpm_weights::{Weights, load_clip_text};
use serde::{Deserialize, Serialize};

use self::tables::TextEncoderTables;
use self::trained::TrainedTextEncoder;
use crate::family::stored::{self, ModelCard};
use crate::family::trained::Trained;
use crate::family::{
    AnyError, Family, HeldOut, HeldOutSetup, Losses, Origin, Preview, PreviewSetup, Problem, Progress, StepLosses,
    Subject,
};
use crate::items::batch_of;
use crate::latent::{TEXT_ENCODER, TOKENIZER, write_text_encoder};
use crate::loss_sum::LossSum;
use crate::parameters::settle;
use crate::snapshot::{SnapshotError, WEIGHTS, Written, save_weights};

/// Text encoders of captioned images.
#[derive(Clone, Debug)]
pub struct TextEncoderFamily {
    tables: TextEncoderTables,
    vocabulary: Vocabulary,
    tokenizer: ClipTokenizer,
    /// The shape of an image.
    shape: [usize; 3],
    /// Tokens of the longest caption that the vocabulary was learned from; none if it was given.
    longest: Option<usize>,
    origin: Origin,
}

/// What is trained.
#[derive(Module, Debug)]
pub struct TextAndImages {
    /// The text encoder.
    pub text: ClipText,
    /// What it learns with.
    pub contrast: Contrast,
    #[module(skip)]
    precision: Precision,
}

impl TextAndImages {
    /// The scaled similarities of images `[B, C, H, W]`, in rows, and captions `[B, L]`, in columns.
    pub fn similarities(&self, images: Tensor<4>, ids: Tensor<2, Int>, pass: &Pass<'_>) -> Tensor<2> {
        self.contrast.similarities(self.images(images, pass), self.captions(ids, pass))
    }

    /// Images as vectors of length 1.
    pub fn images(&self, images: Tensor<4>, pass: &Pass<'_>) -> Tensor<2> {
        self.contrast.images(images, self.precision, &pass.inside(format_args!("contrast")))
    }

    /// Captions as vectors of length 1.
    pub fn captions(&self, ids: Tensor<2, Int>, pass: &Pass<'_>) -> Tensor<2> {
        self.contrast.captions(&self.text, ids, self.precision, pass)
    }
}

/// Images with the ids of their captions.
#[derive(Clone, Debug)]
pub struct CaptionedBatch {
    images: Tensor<4>,
    ids: Tensor<2, Int>,
}

/// How many captions were found by their image, since the last line of metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderMemory {
    found: LossSum,
}

/// Captions that the vocabulary is learned from, at most: they are spread over all of the data.
const MOST_CAPTIONS: usize = 10_000;

/// Captions of the data, in their order.
fn captions(data: &OpenData) -> Result<Vec<String>, AnyError> {
    let step = data.items.len().div_ceil(MOST_CAPTIONS).max(1);
    let caption = |item| Ok(data.items.get(item)?.caption.map(String::from).unwrap_or_default());
    (0..data.items.len()).step_by(step).map(caption).collect()
}

impl TextEncoderFamily {
    /// The family with the vocabulary of its tables, for data of which only the description is known.
    pub fn new(tables: TextEncoderTables, origin: Origin) -> Result<Self, AnyError> {
        let vocabulary = Vocabulary::of_merges(&tables.model.merges, tables.model.max_length)?;
        let (tokenizer, shape) = (vocabulary.tokenizer()?, three_axes(&origin.data.shape));
        Ok(Self { tables, vocabulary, tokenizer, shape, longest: None, origin })
    }

    /// The ids of captions, `[B, L]`.
    fn ids(&self, captions: &[&str], device: &Device) -> Tensor<2, Int> {
        // A text that cannot be encoded is as good as an empty one; the vocabulary has symbols for all bytes.
        let encode = |caption: &&str| self.tokenizer.encode(caption).or_else(|_| self.tokenizer.encode(""));
        let ids: Vec<i64> = captions.iter().flat_map(encode).flat_map(|encoding| encoding.ids).map(i64::from).collect();
        Tensor::from_data(TensorData::new(ids, [captions.len(), self.tokenizer.max_length()]), device)
    }

    /// Images and captions on a device.
    fn captioned(&self, values: Vec<f32>, captions: &[&str], device: &Device) -> CaptionedBatch {
        CaptionedBatch { images: batch_of(values, self.shape, device), ids: self.ids(captions, device) }
    }

    /// Writes the files of a snapshot into a folder that is being written, and gives their paths.
    fn write(&self, model: &TextAndImages, folder: &AtomicFolder) -> Result<Vec<PathBuf>, SnapshotError> {
        let special = [self.tokenizer.start(), self.tokenizer.pad()];
        let mut files = write_text_encoder(&model.text.clone().materialize(), special, folder)?;
        files.push(folder.path().join(WEIGHTS));
        save_weights(&model.contrast.clone().materialize(), &folder.path().join(WEIGHTS), folder)?;
        for (name, text) in self.vocabulary.files() {
            let file = folder.path().join(TOKENIZER).join(name);
            folder.write(&file, text)?;
            files.push(file);
        }
        Ok(files)
    }
}

impl Family for TextEncoderFamily {
    const NAME: &'static str = "text-encoder";
    const ABOUT: &'static str = "text encoders for text to image, learned from captioned images";
    const SECTIONS: &'static [(&'static str, &'static str)] = TextEncoderTables::SECTIONS;
    const CURVES: &'static [(&'static str, &'static str)] =
        &[("found_captions", "Share of captions found by their image, in the batch")];
    const MEASURES: &'static [(&'static str, &'static str)] = measure::NAMES;

    type Tables = TextEncoderTables;
    type Model = TextAndImages;
    type Batch = CaptionedBatch;
    type Memory = TextEncoderMemory;

    fn problems(tables: &TextEncoderTables) -> Vec<Problem> {
        tables.problems()
    }

    fn resolve(mut tables: TextEncoderTables, subject: &Subject<'_>) -> Result<Self, Vec<Problem>> {
        let problems = tables.problems_with_data(&subject.data.info);
        if !problems.is_empty() {
            return Err(problems);
        }
        let wrong = |error: AnyError| vec![("model.merges".to_string(), error.to_string())];
        if !tables.model.merges.is_empty() {
            return Self::new(tables, subject.origin()).map_err(wrong);
        }
        let captions = captions(subject.data).map_err(wrong)?;
        let learned = Vocabulary::learn(&captions, tables.model.vocabulary, tables.model.max_length);
        tables.model.merges = learned.map_err(|error| wrong(error.into()))?.merges();
        let family = Self::new(tables, subject.origin()).map_err(wrong)?;
        let lengths = captions.iter().filter_map(|caption| family.tokenizer.ids(caption).ok()).map(|ids| ids.len());
        Ok(Self { longest: lengths.max(), ..family })
    }

    fn restored(tables: TextEncoderTables, origin: Origin) -> Result<Self, AnyError> {
        match tables.problems().into_iter().chain(tables.problems_with_data(&origin.data)).next() {
            Some((key, message)) => Err(format!("{key}: {message}").into()),
            None => Self::new(tables, origin),
        }
    }

    fn tables(&self) -> &TextEncoderTables {
        &self.tables
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }

    fn remarks(&self, _: &Subject<'_>) -> Vec<String> {
        let (tokens, most) =
            (format!("a vocabulary of {} tokens", self.vocabulary.size()), self.tables.model.max_length);
        vec![match self.longest {
            None => tokens,
            Some(longest) if longest > most => {
                format!("{tokens}, captions of up to {longest}: what comes after model.max_length = {most} is cut off")
            }
            Some(longest) => format!("{tokens}, captions of up to {longest}"),
        }]
    }

    fn init(&self, device: &Device) -> TextAndImages {
        let TextEncoderTables { model, contrast } = &self.tables;
        TextAndImages {
            text: model.network(&self.vocabulary).init(device),
            contrast: contrast.init(self.shape, model.width, device),
            precision: Precision::F32,
        }
    }

    fn set_precision(&self, model: &mut TextAndImages, precision: Precision) {
        model.precision = precision;
        model.text = model.text.clone().in_precision(precision);
    }

    fn memory_estimate(&self, parameters: usize, batch: usize) -> MemoryEstimate {
        let TextEncoderTables { model, contrast } = &self.tables;
        let of_layer = 16 * model.width + model.heads * model.max_length;
        let kept = model.max_length * model.layers * of_layer + contrast.kept_values(self.shape);
        MemoryEstimate::of(parameters, kept, batch)
    }

    fn batch(&self, items: Vec<StreamItem>, _: u64, device: &Device) -> CaptionedBatch {
        let captions: Vec<&str> = items.iter().map(|item| item.example.caption.as_deref().unwrap_or("")).collect();
        let values = items.iter().flat_map(|item| item.example.values.iter().copied()).collect();
        self.captioned(values, &captions, device)
    }

    fn to_device(&self, batch: CaptionedBatch, device: &Device) -> CaptionedBatch {
        CaptionedBatch { images: batch.images.to_device(device), ids: batch.ids.to_device(device) }
    }

    fn losses(&self, model: &TextAndImages, batch: &CaptionedBatch, pass: &Pass<'_>) -> Losses {
        let similarities = model.similarities(batch.images.clone(), batch.ids.clone(), pass);
        let count = similarities.dims()[0];
        let found = found_captions(similarities.clone().detach()) / count as f64;
        let rows = contrastive_loss(similarities);
        Losses { loss: rows.clone().mean(), rows: rows.detach(), parts: vec![found] }
    }

    fn first_memory(&self) -> TextEncoderMemory {
        TextEncoderMemory::default()
    }

    fn remember(&self, memory: &mut TextEncoderMemory, step: &StepLosses) {
        if let [found] = step.parts[..] {
            memory.found.add(found);
        }
    }

    fn curves(&self, memory: &TextEncoderMemory) -> Vec<Option<f64>> {
        vec![memory.found.mean()]
    }

    fn clear_sums(&self, memory: &mut TextEncoderMemory) {
        memory.found = LossSum::default();
    }

    fn held_out(&self, setup: &HeldOutSetup<'_>) -> Result<Box<dyn HeldOut<TextAndImages>>, AnyError> {
        Ok(Box::new(measure::Retrieval::read(self, setup)?))
    }

    fn preview(&self, setup: &PreviewSetup<'_>) -> Result<Box<dyn Preview<TextAndImages>>, AnyError> {
        Ok(Box::new(preview::FoundImages::read(self, setup)?))
    }

    /// `text_encoder/` and `tokenizer/` as transformers has them, and what it learned with next to them.
    fn save(&self, model: &TextAndImages, progress: Progress, dir: &Path) -> Result<Written, SnapshotError> {
        stored::save_as(self, progress, dir, |folder| self.write(model, folder))?;
        let reason = "it is a part of one: transformers opens its folders text_encoder and tokenizer";
        Ok(Written::Own { reason: reason.into() })
    }

    fn load(&self, folder: &Path, device: &Device) -> Result<TextAndImages, SnapshotError> {
        let mut model = settle(self.init(device));
        load_clip_text(&mut model.text, Weights::find_in(&folder.join(TEXT_ENCODER), None)?)?;
        Ok(TextAndImages { contrast: stored::load_weights(model.contrast, folder)?, ..model })
    }

    fn trained(self, _: TextAndImages, card: ModelCard) -> Box<dyn Trained> {
        Box::new(TrainedTextEncoder { card })
    }
}

#[cfg(test)]
mod tests;
