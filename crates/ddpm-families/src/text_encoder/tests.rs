#![allow(clippy::unwrap_used)]

use burn::optim::{AdamConfig, GradientsParams};
use ddpm_data::shapes::Combination;
use ddpm_data::{DataConfig, Example, OrderedLoader, Split};

use super::*;
use crate::latent::TextEncoder;

const DATA: &str = "kind = 'shapes'\ncount = 600";

fn config(text: &str) -> DataConfig {
    toml::from_str(text).unwrap()
}

/// A family whose vocabulary is learned from the captions of the train split.
fn family(tables: &str) -> TextEncoderFamily {
    let config = config(DATA);
    let data = ddpm_data::open(&config, Split::Train, 0).unwrap();
    let subject =
        Subject { experiment: "words", config: &config, data: &data, balanced: false, device: &Device::default() };
    TextEncoderFamily::resolve(toml::from_str(tables).unwrap(), &subject).unwrap()
}

const SMALL: &str =
    "[model]\nwidth = 32\nlayers = 1\nheads = 2\nmax_length = 16\n[contrast]\nchannels = [8, 16, 16, 16]\nwidth = 16";

#[test]
fn the_words_of_the_captions_are_tokens_and_the_same_in_every_run() {
    let first = family(SMALL);
    assert_eq!(first.tables, family(SMALL).tables);
    for combination in Combination::all() {
        let caption = combination.caption();
        let ids = first.tokenizer.ids(&caption).unwrap();
        assert_eq!(ids.len(), caption.split(' ').count() + 2, "{caption}");
    }
    let restored = TextEncoderFamily::restored(first.tables.clone(), first.origin.clone()).unwrap();
    assert_eq!(restored.vocabulary, first.vocabulary);
}

#[test]
fn a_snapshot_is_a_text_encoder_and_comes_back_whole() {
    let (family, device) = (family(SMALL), Device::default());
    let model = settle(family.init(&device));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("snapshot");
    family.save(&model, Progress { step: 3, images_seen: 9 }, &dir).unwrap();
    let encoder = TextEncoder::open(&dir, &device).unwrap();
    let captions = ["large red circle top left", "never seen \u{1f600}", ""];
    let ids = family.ids(&captions, &device);
    assert_eq!(encoder.ids(&captions).unwrap().into_data(), ids.clone().into_data());
    let own = model.text.encode(ids.clone(), None, &Pass::default()).last;
    assert_eq!(encoder.states(&captions).unwrap().last.into_data(), own.into_data());

    let card = ModelCard::find(&dir).unwrap().unwrap();
    assert_eq!((card.family.as_str(), card.step), ("text-encoder", 3));
    assert!(card.checksums.contains_key("tokenizer/vocab.json") && card.checksums.len() == 7, "{:?}", card.checksums);
    let tables = TextEncoderFamily::read(card.tables).unwrap();
    let restored = TextEncoderFamily::restored(tables, family.origin.clone()).unwrap();
    let loaded = restored.load(&dir, &device).unwrap();
    let images = Tensor::<4>::ones([3, 3, 32, 32], &device);
    let of = |model: &TextAndImages| model.similarities(images.clone(), ids.clone(), &Pass::default()).into_data();
    assert_eq!(of(&loaded), of(&model));
}

#[test]
fn data_without_captions_are_refused_by_key() {
    let tables: TextEncoderTables = toml::from_str(SMALL).unwrap();
    let keys = |text: &str| -> Vec<String> {
        let data = ddpm_data::open(&config(text), Split::Train, 0).unwrap();
        tables.problems_with_data(&data.info).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(DATA), Vec::<String>::new());
    assert_eq!(keys("kind = 'sprites'"), ["data.kind"]);
    assert_eq!(keys("kind = 'moons'"), ["data.kind"]);
    let wrong = "[model]\nvocabulary = 100\nmax_length = 2\nwidth = 30\nheads = 4\nmerges = ['ab c']";
    let tables: TextEncoderTables = toml::from_str(wrong).unwrap();
    let keys: Vec<String> = tables.problems().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["model.heads", "model.max_length", "model.vocabulary", "model.merges"]);
}

#[test]
fn captions_and_images_find_each_other_after_a_little_training() {
    let (family, device) = (family(SMALL), Device::default().autodiff());
    device.seed(1);
    let mut model = settle(family.init(&device));
    let data = ddpm_data::open(&config(DATA), Split::Train, 0).unwrap();
    let test = ddpm_data::open(&config(DATA), Split::Test, 0).unwrap();
    let setup = HeldOutSetup { data: &test, count: 96, batch_size: 32, device: &Device::default() };
    let held_out = family.held_out(&setup).unwrap();
    let before = held_out.measure(&model.clone().valid());
    let mut optimizer = AdamConfig::new().init();
    let loader = OrderedLoader::new(&data, 32, 0).unwrap().with_workers(0);
    for items in loader.iter().take(250) {
        let batch = family.batch(items.unwrap(), 0, &device);
        let loss = family.losses(&model, &batch, &Pass::default()).loss;
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
    }
    let after = held_out.measure(&model.valid());
    assert!(before[1] < 0.1 && after[1] > 0.15 && after[0] < 3.2, "{before:?} {after:?}");
}

/// An item in place of one of the data.
#[test]
fn a_caption_of_any_length_is_a_row_of_the_same_length() {
    let family = family(SMALL);
    let long = "red ".repeat(10_000);
    let captions = [long.as_str(), "", "\u{5e9}\u{5dc}\u{5d5}\u{5dd} \u{1f600}"];
    let items: Vec<Example> = captions
        .iter()
        .map(|caption| Example {
            values: vec![0.0; 3 * 32 * 32],
            label: None,
            window: None,
            caption: Some((*caption).into()),
        })
        .collect();
    let batch = measure::of_examples(&family, &items, &Device::default());
    assert_eq!(batch.ids.dims(), [3, 16]);
}
