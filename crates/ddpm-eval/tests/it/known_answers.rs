//! Distances must grow with what is done to images: the digits, blurred and with noise, as pixels and as the classifier
//! sees them.
#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use ddpm_data::random::{Stream, normals, rng};
use ddpm_data::{DataConfig, Split};
use ddpm_eval::classifier::Classifier;
use ddpm_eval::extractor::{FeatureExtractor, Pixels};
use ddpm_eval::image::Image;
use ddpm_eval::sources::{Dataset, ImageSource};
use ddpm_eval::{Moments, Statistics, frechet, kid};

/// Some of the training digits, as values in [-1, 1].
fn digits(config: &DataConfig, count: usize) -> Vec<Image> {
    Dataset::open(config, Split::Train).unwrap().images(0..count).unwrap()
}

/// Averages over neighbours with the weights of a Gaussian of this deviation in pixels; the border goes on.
fn blurred(image: &Image, deviation: f64) -> Image {
    let [channels, height, width] = image.shape();
    let values = image.values();
    let weight = |distance: usize| (-0.5 * (distance as f64 / deviation).powi(2)).exp();
    let mut all = Vec::with_capacity(values.len());
    for channel in 0..channels {
        for row in 0..height {
            for column in 0..width {
                let (mut sum, mut weights) = (0.0, 0.0);
                for other_row in 0..height {
                    for other_column in 0..width {
                        let weight = weight(row.abs_diff(other_row)) * weight(column.abs_diff(other_column));
                        sum += weight * f64::from(values[(channel * height + other_row) * width + other_column]);
                        weights += weight;
                    }
                }
                all.push((sum / weights) as f32);
            }
        }
    }
    Image::from_values(image.shape(), &all)
}

/// With noise of this deviation, which is the same for every deviation but for its size.
fn noisy(image: &Image, index: usize, deviation: f32) -> Image {
    let noise = normals(&mut rng(5, Stream::Probe, index as u64), image.bytes.len());
    let values: Vec<f32> = image.values().iter().zip(noise).map(|(value, eps)| value + deviation * eps).collect();
    Image::from_values(image.shape(), &values)
}

fn statistics(extractor: &dyn FeatureExtractor, images: &[Image]) -> Statistics {
    Moments::of(&extractor.extract(images).unwrap().features).statistics().unwrap()
}

#[test]
fn distances_grow_with_blur_and_with_noise() {
    let config: DataConfig = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
    let clean = digits(&config, 400);
    let folder = tempfile::tempdir().unwrap();
    let classifier = Classifier::open(&folder.path().join("c.safetensors"), &config, &Device::flex()).unwrap();
    let extractors: [&dyn FeatureExtractor; 2] = [&Pixels { shape: [1, 8, 8] }, &classifier];
    for extractor in extractors {
        let of_clean = statistics(extractor, &clean);
        let own = frechet(&of_clean, &of_clean).unwrap();
        let change = |change: &dyn Fn(usize, &Image) -> Image| {
            let changed: Vec<Image> = clean.iter().enumerate().map(|(k, image)| change(k, image)).collect();
            frechet(&of_clean, &statistics(extractor, &changed)).unwrap()
        };
        let blur = [0.3, 0.5, 0.8, 1.2, 2.0].map(|deviation| change(&|_, image| blurred(image, deviation)));
        let noise = [0.05, 0.1, 0.2, 0.4, 0.8].map(|deviation| change(&|k, image| noisy(image, k, deviation)));
        for (what, distances) in [("blur", blur), ("noise", noise)] {
            let all: Vec<f64> = std::iter::once(own).chain(distances).collect();
            // Every step is far above the rounding of the distance to itself.
            let far = all[all.len() - 1] * 1e-5;
            assert!(own.abs() < far, "{}: {own} of itself, with {what} {all:?}", extractor.name());
            let grows = all.windows(2).all(|pair| pair[0] + far < pair[1]);
            assert!(grows, "{}, with {what}: {all:?}", extractor.name());
        }
    }
}

#[test]
fn halves_of_the_digits_have_no_kernel_distance_on_average() {
    let config: DataConfig = serde_json::from_str(r#"{"kind": "digits"}"#).unwrap();
    let pixels = Pixels { shape: [1, 8, 8] };
    let all = pixels.extract(&digits(&config, 1200)).unwrap().features;
    // Each time other halves: disjoint sets that were drawn from the same 1,200 digits.
    let draws: Vec<f64> = (0..60)
        .map(|seed| {
            let order = ddpm_data::permutation(seed, 0, all.len());
            let [a, b] = [&order[..600], &order[600..]].map(|half| all.select(half.iter().copied()));
            kid(&a, &b, 2, 200, seed).unwrap().mean
        })
        .collect();
    let count = draws.len() as f64;
    let mean = draws.iter().sum::<f64>() / count;
    let error = (draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / count / (count - 1.0)).sqrt();
    assert!(mean.abs() < 4.0 * error, "{mean} with an error of {error}");
    assert!(draws.iter().any(|draw| *draw < 0.0) && draws.iter().any(|draw| *draw > 0.0), "{draws:?}");
    // And the same test sees a difference where there is one.
    let blurred: Vec<Image> = digits(&config, 600).iter().map(|image| blurred(image, 0.5)).collect();
    let blurred = pixels.extract(&blurred).unwrap().features;
    let apart = kid(&all.select(600..1200), &blurred, 2, 200, 0).unwrap().mean;
    assert!(apart > 20.0 * error, "{apart} with an error of {error}");
}
