//! Baselines of autoencoders and VAEs on the bundled digits, over the fixtures' `vae_baselines` and `vae/linear_gaussian`
//! folders.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::path::Path;

use ddpm_eval::Features;
use ddpm_eval::bernoulli_mixture::{BernoulliMixture, MixtureFit};
use ddpm_eval::pca::Pca;
use ddpm_eval::probabilistic_pca::ProbabilisticPca;
use ddpm_testing::support::{Safetensors, assert_close, cases, fixture, number, read_json, whole};
use faer::Mat;
use flate2::read::GzDecoder;
use serde_json::Value;

fn baselines() -> Value {
    read_json(fixture("vae_baselines").join("baselines.json"))
}

/// The digits in the order of their file, in [0, 1]: the first rows and the last, as the fixture splits them.
fn digits(golden: &Value) -> [Features; 2] {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/optdigits/digits.csv.gz");
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    let pixels = text.lines().flat_map(|line| line.split(',').take(64).map(|cell| cell.trim().parse::<f32>().unwrap()));
    let all = Features::new(64, pixels.map(|pixel| pixel / 16.0).collect());
    let train = whole(golden, "train_n");
    assert_eq!(all.len(), train + whole(golden, "test_n"));
    [all.select(0..train), all.select(train..all.len())]
}

/// 1 where a pixel is 8 or more of 16.
fn binary(digits: [Features; 2]) -> [Features; 2] {
    digits.map(|set| {
        let values = set.values().iter().map(|value| if *value >= 0.5 { 1.0 } else { 0.0 });
        Features::new(set.width(), values.collect())
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn reconstructions_by_principal_components() {
    let golden = baselines();
    let [train, test] = digits(&golden);
    let pca = Pca::fit(&train).unwrap();
    let [on_train, on_test] = [&train, &test].map(|set| pca.reconstruction_errors(set).unwrap());
    for case in cases(&golden, "pca") {
        let d = whole(case, "d");
        let wanted = [number(case, "train_mse"), number(case, "test_mse"), number(case, "test_mse_unit_minus1_1")];
        assert_close(&[on_train[d], on_test[d], 4.0 * on_test[d]], &wanted, 1e-9, &format!("{d} components"));
    }
    assert_close(&[on_test[0]], &[number(&golden, "mean_image_test_mse")], 1e-9, "the mean image");
}

#[test]
fn likelihoods_of_probabilistic_pca() {
    let golden = baselines();
    let [train, test] = digits(&golden);
    let isotropic = (0, &golden["isotropic_gaussian"]);
    for (d, case) in cases(&golden, "ppca").iter().map(|case| (whole(case, "d"), case)).chain([isotropic]) {
        let model = ProbabilisticPca::fit(&train, d).unwrap();
        let [on_train, on_test] = [&train, &test].map(|set| mean(&model.log_likelihoods(set).unwrap()));
        let wanted = ["sigma2", "train_log_likelihood", "test_log_likelihood"].map(|key| number(case, key));
        assert_close(&[model.variance, on_train, on_test], &wanted, 1e-9, &format!("{d} dimensions"));
    }
    let message = ProbabilisticPca::fit(&train, 64).unwrap_err().to_string();
    assert!(message.contains("64 latent dimensions for items of 64 values"), "{message}");
    // Some pixels are constant.
    let message = ProbabilisticPca::fit(&train, 63).unwrap_err().to_string();
    assert!(message.contains("leave no noise"), "{message}");
}

#[test]
fn the_linear_gaussian_model() {
    let folder = fixture("vae/linear_gaussian");
    let (meta, data) = (read_json(folder.join("meta.json")), Safetensors::open(folder.join("data.safetensors")));
    let (width, latent, tolerance) = (whole(&meta, "dim"), whole(&meta, "latent"), number(&meta, "tol_f64"));
    let items = Features::new(width, data.f32("x"));
    assert_eq!(items.len(), whole(&meta, "n"));

    let model = ProbabilisticPca::fit(&items, latent).unwrap();
    let weight: Vec<f64> = (0..width * latent).map(|k| model.weight[(k / latent, k % latent)]).collect();
    assert_close(&weight, &data.f64("W"), tolerance, "W");
    assert_close(&model.mean, &data.f64("mu"), tolerance, "the mean");
    assert_close(&[model.variance], &[number(&meta, "sigma2")], tolerance, "the variance");
    let found = model.log_likelihoods(&items).unwrap();
    assert_close(&found, &data.f64("log_likelihood"), tolerance, "log-likelihoods");
    assert_close(&[mean(&found)], &[number(&meta, "log_likelihood_per_datum")], tolerance, "their mean");
    let isotropic = mean(&ProbabilisticPca::fit(&items, 0).unwrap().log_likelihoods(&items).unwrap());
    assert_close(&[isotropic], &[number(&meta, "log_likelihood_isotropic_gaussian")], tolerance, "isotropic");

    // A rotation of the latent space changes nothing.
    let rotated = data.f64("W_rotated");
    let weight = Mat::from_fn(width, latent, |row, column| rotated[row * latent + column]);
    let found = ProbabilisticPca { weight, ..model }.log_likelihoods(&items).unwrap();
    assert_close(&found, &data.f64("off_log_likelihood"), tolerance, "rotated");
}

#[test]
fn likelihoods_of_given_bernoulli_models() {
    let golden = baselines();
    let sets = binary(digits(&golden));
    let data = Safetensors::open(fixture("vae_baselines").join("parameters.safetensors"));
    let check = |model: &BernoulliMixture, case: &Value, what: &str| {
        let found = sets.each_ref().map(|set| model.negative_log_likelihood(set).unwrap());
        assert_close(&found, &[number(case, "train_nll"), number(case, "test_nll")], 1e-9, what);
    };
    let independent = BernoulliMixture::independent(&sets[0]).unwrap();
    assert_close(&independent.probabilities(0), &data.f64("pixel_probability"), 1e-12, "pixel_probability");
    check(&independent, &golden["independent_pixels"], "independent pixels");
    for case in cases(&golden, "bernoulli_mixture") {
        let name = format!("mixture{}", whole(case, "components"));
        let [weights, probabilities] = ["weights", "probability"].map(|part| data.f64(&format!("{name}_{part}")));
        check(&BernoulliMixture::new(weights, &probabilities).unwrap(), case, &name);
    }
}

#[test]
fn bernoulli_mixtures_fitted_here_are_as_good() {
    let golden = baselines();
    let [train, test] = binary(digits(&golden));
    for case in cases(&golden, "bernoulli_mixture") {
        let components = whole(case, "components");
        let mixture = BernoulliMixture::fit(&train, &MixtureFit::new(components)).unwrap();
        let found = [&train, &test].map(|set| mixture.negative_log_likelihood(set).unwrap());
        let tolerance = if components > 10 { 0.5 } else { 0.3 };
        println!("{components} components: {found:?}");
        let wanted = [number(case, "train_nll"), number(case, "test_nll")];
        assert_close(&found, &wanted, tolerance, &format!("{components} components"));
    }
}
