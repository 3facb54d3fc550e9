#![allow(clippy::unwrap_used)]

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_data::augment::AugmentConfig;
use ddpm_data::random::Stream;
use ddpm_data::{DataInfo, Units};
use ddpm_model::pass::Pass;
use toml::Table;

use super::tables::{HvaeObjective, HvaeTables};
use super::trained::TrainedHvae;
use super::{HvaeBatch, HvaeFamily};
use crate::family::stored::ModelCard;
use crate::family::trained::{Bound, Draw, Encode, Generate, LikelihoodOf, Reconstruct};
use crate::family::{Family, Origin};
use crate::items::batch_of;
use crate::parameters::settle;

const NETWORK: &str = "encoder = '4x1,4d4,1x1'\ndecoder = '1x1,4m1,4x1'\nwidth = 8\nbottleneck_multiple = 0.5\n\
                       latent_channels = 2\n";

fn tables(model: &str) -> HvaeTables {
    let text = format!("[model]\n{model}");
    HvaeFamily::read(text.parse::<Table>().unwrap()).unwrap()
}

fn origin(shape: &[usize]) -> Origin {
    let units = Units::identity(1);
    let data = DataInfo {
        name: "digits".into(),
        shape: shape.to_vec(),
        classes: Vec::new(),
        units,
        series: None,
        latent: false,
        has_captions: false,
    };
    Origin { experiment: "test".into(), data, source: None }
}

/// A network with the same weights in every test.
fn trained(likelihood: &str) -> TrainedHvae {
    let tables = tables(&format!("{NETWORK}likelihood = {likelihood}"));
    let family = HvaeFamily::new(tables, origin(&[1, 4, 4])).unwrap();
    let model = settle(family.init(&Device::default())).map(&mut Fill);
    let card = ModelCard::in_training(&family);
    TrainedHvae::new(family, model, card)
}

/// Fills all parameters with values that look like noise, small where many are added up.
struct Fill;

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let dims = old.dims();
        let count: usize = dims.iter().product();
        let inputs = (count / dims[0]).max(1) as f64;
        let value = |i: usize| (1.5 / inputs.sqrt() * (78.233 * (i + 7 * count) as f64).sin()) as f32;
        let values: Vec<f32> = (0..count).map(value).collect();
        Param::from_mapped_value(id, Tensor::from_data(TensorData::new(values, dims), &old.device()), mapper)
    }
}

const BERNOULLI: &str = "{ kind = 'bernoulli' }";
const MIXTURE: &str = "{ kind = 'logistic-mixture', mixtures = 2, levels = 17, tails = 'exact' }";
const LOGISTIC: &str = "{ kind = 'discretized-logistic', levels = 17 }";

/// Levels of 17 that look like noise.
fn items(count: usize) -> Vec<f32> {
    (0..16 * count).map(|i| ((i * i + 3 * i) % 17) as f32 / 8.0 - 1.0).collect()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn what_is_wrong_with_the_tables_is_said_by_key() {
    let keys = |tables: HvaeTables, shape: &[usize]| {
        let problems = HvaeFamily::new(tables, origin(shape)).err().unwrap_or_default();
        problems.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert!(keys(tables(NETWORK), &[1, 4, 4]).is_empty());
    assert_eq!(keys(tables(NETWORK), &[2]), ["data.kind"]);
    assert_eq!(keys(tables(&format!("{NETWORK}image_channels = 3")), &[1, 4, 4]), ["model.image_channels"]);
    let network = NETWORK.replace("4x1,4d4,1x1", "4x1,4d5");
    assert!(keys(tables(&network), &[1, 4, 4]).contains(&"model.encoder".to_string()));
    let levels = tables(&format!("{NETWORK}likelihood = {{ kind = 'discretized-logistic', levels = 1 }}"));
    assert_eq!(keys(levels, &[1, 4, 4]), ["model.likelihood"]);
    let moved = HvaeTables { augment: AugmentConfig { crop: 4, ..AugmentConfig::default() }, ..tables(NETWORK) };
    assert_eq!(keys(moved, &[1, 4, 4]), ["augment.crop"]);
    let labels = AugmentConfig { probability: 0.5, ..AugmentConfig::default() };
    let problems = HvaeFamily::problems(&HvaeTables { augment: labels, ..tables(NETWORK) });
    assert_eq!(problems[0].0, "augment.probability");
    for (text, key) in [("[model]\nwdth = 3", "wdth"), ("[model]\n[hvae]\nbeta = 2.0", "beta")] {
        let error = HvaeFamily::read(text.parse::<Table>().unwrap()).unwrap_err();
        assert!(error.contains("unknown field") && error.contains(key), "{error}");
    }
}

#[test]
fn the_weight_of_the_divergence_rises() {
    let objective = |kl_warmup| HvaeObjective { kl_warmup };
    assert_eq!(objective(0).kl_weight(0), 1.0);
    assert_eq!([0, 5, 10, 99].map(|step| objective(10).kl_weight(step)), [0.0, 0.5, 1.0, 1.0]);

    // The loss has the weight, the rows and parts have not.
    let TrainedHvae { mut family, model, .. } = trained(BERNOULLI);
    family.tables.hvae = objective(4);
    let device = Device::default();
    let noises = family.noises(1, Stream::Noise, 0..3, &device);
    let batch = HvaeBatch { x: batch_of(items(3), family.shape, &device), noises, step: 1 };
    let found = family.losses(&model, &batch, &Pass::default());
    let value = |x: &Tensor<1>| x.clone().mean().into_scalar::<f64>();
    let (reconstruction, kl) = (value(&found.parts[0]), value(&found.parts[1]));
    assert!(kl > 0.1, "{kl}");
    assert!((value(&found.loss) - (reconstruction + 0.25 * kl)).abs() < 1e-4 * value(&found.loss));
    assert!((value(&found.rows) - (reconstruction + kl)).abs() < 1e-4 * value(&found.rows));
}

#[test]
fn sample_k_depends_on_the_seed_and_k_alone() {
    for likelihood in [BERNOULLI, MIXTURE, LOGISTIC] {
        let model = trained(likelihood);
        let draw = Draw::of_seed(3);
        let (all, last) = (model.generate(&draw, 0, 300).unwrap(), model.generate(&draw, 298, 2).unwrap());
        assert_eq!((&all.shape[..], all.count()), (&[1, 4, 4][..], 300));
        assert!(largest_difference(&all.values[16 * 298..], &last.values) < 1e-5, "{likelihood}");
        let other = model.generate(&Draw::of_seed(4), 298, 2).unwrap();
        assert!(largest_difference(&other.values, &last.values) > 1e-3, "{likelihood}");
    }
}

#[test]
fn at_temperature_0_all_latents_are_the_means_of_the_prior() {
    let cold = Draw { seed: 3, temperature: 0.0 };
    for (likelihood, pixels_vary) in [(BERNOULLI, false), (MIXTURE, true), (LOGISTIC, true)] {
        let model = trained(likelihood);
        let latents = model.prior(&cold, 0, 2).unwrap();
        let [first, second] = [0, 1].map(|k| &latents[k * latents.len() / 2..(k + 1) * latents.len() / 2]);
        assert!(largest_difference(first, second) < 1e-6);
        let samples = model.generate(&cold, 0, 2).unwrap().values;
        // The temperature is not that of the likelihood.
        assert_eq!(largest_difference(&samples[..16], &samples[16..]) > 1e-3, pixels_vary, "{likelihood}");
        assert!(samples.iter().all(|value| (-1.0..=1.0).contains(value)), "{likelihood}");
    }
    let warm = trained(BERNOULLI).prior(&Draw::of_seed(3), 0, 2).unwrap();
    assert!(largest_difference(&warm[..warm.len() / 2], &warm[warm.len() / 2..]) > 0.1);
}

#[test]
fn upper_layers_are_those_of_the_item_and_the_others_of_the_prior() {
    let (model, items) = (trained(BERNOULLI), items(3));
    let draw = Draw { seed: 3, temperature: 0.7 };
    let of = |layers, first| model.reconstruct(&items, layers, &draw, first).unwrap();
    assert_eq!(model.layers(), 3);
    let all = of(3, 0);
    assert!(largest_difference(&all, &model.decode(&model.encode(&items).unwrap()).unwrap()) < 1e-5);
    assert!(largest_difference(&all, &of(3, 9)) < 1e-6, "nothing is drawn");
    assert!(largest_difference(&of(0, 5), &model.generate(&draw, 5, 3).unwrap().values) < 1e-5, "nothing is encoded");
    assert!(largest_difference(&of(1, 0), &all) > 1e-3 && largest_difference(&of(1, 0), &of(0, 0)) > 1e-3);
    assert!(largest_difference(&of(1, 0), &of(1, 1)) > 1e-3, "item k has the draw of place k");
}

#[test]
fn a_latent_is_all_latents_in_a_row() {
    let (model, items) = (trained(BERNOULLI), items(2));
    assert_eq!(model.latent_shape(), [2 + 32 + 32]);
    let latents = model.encode(&items).unwrap();
    assert_eq!(latents.len(), 2 * 66);
    assert!(largest_difference(&latents[66..], &model.encode(&items[16..]).unwrap()) < 1e-5);
    // Draws of the prior decode to the samples.
    let draw = Draw::of_seed(8);
    let decoded = model.decode(&model.prior(&draw, 4, 2).unwrap()).unwrap();
    assert!(largest_difference(&decoded, &model.generate(&draw, 4, 2).unwrap().values) < 1e-5);
}

#[test]
fn the_bound_is_by_layer_and_its_weights_are_those_of_its_draws() {
    use LikelihoodOf::{BinaryValues, PixelLevels};
    for (likelihood, of) in [(BERNOULLI, BinaryValues), (MIXTURE, PixelLevels), (LOGISTIC, PixelLevels)] {
        let (model, items) = (trained(likelihood), items(3));
        assert_eq!((model.parts(), model.likelihood_of()), ("layer", of));
        let terms = model.bound(&items, 400, 5, 0).unwrap();
        for terms in &terms {
            assert_eq!((terms.kl.len(), terms.log_weights.len()), (3, 400));
            assert!(terms.kl.iter().all(|kl| *kl > 0.0), "{:?}", terms.kl);
            // The log weights are another estimate of the bound, of the same draws.
            let mean = terms.log_weights.iter().sum::<f64>() / 400.0;
            let spread = terms.log_weights.iter().map(|weight| (weight - mean).powi(2)).sum::<f64>() / 400.0;
            assert!((mean - terms.elbo()).abs() < 5.0 * (spread / 400.0).sqrt() + 1e-3, "{mean} {}", terms.elbo());
            assert!(terms.importance_weighted(400) > terms.elbo());
        }
        let last = model.bound(&items[32..], 2, 5, 2).unwrap();
        assert!((last[0].log_weights[1] - terms[2].log_weights[1]).abs() < 1e-3);
    }
}
