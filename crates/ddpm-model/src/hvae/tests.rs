#![allow(clippy::unwrap_used)]

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::TensorData;

use crate::likelihood::{PixelLikelihood, Uniforms};

use super::*;

fn small() -> HvaeConfig {
    HvaeConfig {
        image_channels: 1,
        image_size: 8,
        encoder: "8x1,8d2,4x1,4d4,1".into(),
        decoder: "1x2,4m1,8m4".into(),
        width: 8,
        bottleneck_multiple: 0.5,
        latent_channels: 3,
        likelihood: PixelLikelihood::Bernoulli {},
        ..HvaeConfig::default()
    }
}

/// Values between -1.5 and 1.5 that look like noise and are the same in every run; others for another phase.
fn pattern<const D: usize>(shape: [usize; D], phase: f64) -> Tensor<D> {
    let value = |i: usize| (1.5 * (78.233 * i as f64 + phase).sin()) as f32;
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::default())
}

fn images(batch: usize) -> Tensor<4> {
    pattern([batch, 1, 8, 8], 0.5)
}

fn noises(network: &Hvae, batch: usize, phase: f64) -> Vec<Tensor<4>> {
    network.noise_shapes(batch).into_iter().map(|shape| pattern(shape, phase)).collect()
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    values(x).into_iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

/// The same values in every run, for all parameters or for those that a new network does not start at zero; or zeros.
enum Fill {
    All,
    NotZero,
    Zeros,
}

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, value, mapper) = param.consume();
        let value = match self {
            Self::NotZero if largest(value.clone()) == 0.0 => value,
            Self::Zeros => value.zeros_like(),
            _ => pattern(value.dims(), value.dims()[0] as f64) * 0.4,
        };
        Param::from_mapped_value(id, value.detach(), mapper)
    }
}

fn filled(config: &HvaeConfig, mut fill: Fill) -> Hvae {
    config.init(&Device::default()).unwrap().map(&mut fill)
}

#[test]
fn a_new_network_has_standard_normal_priors() {
    let network = filled(&small(), Fill::NotZero);
    let pass = network.forward(images(2), noises(&network, 2, 1.0), &Pass::default());
    for latent in &pass.latents {
        assert_eq!((largest(latent.prior.mean.clone()), largest(latent.prior.log_scale.clone())), (0.0, 0.0));
        let posterior = latent.posterior.clone().unwrap();
        let [mean, log_scale] = [posterior.mean, posterior.log_scale].map(values);
        let per_image = mean.len() / 2;
        for (image, found) in values(latent.kl().unwrap()).into_iter().enumerate() {
            let of_value = |i: usize| 0.5 * ((2.0 * log_scale[i]).exp() + mean[i] * mean[i] - 1.0) - log_scale[i];
            let wanted: f64 = (image * per_image..(image + 1) * per_image).map(of_value).sum();
            assert!((found - wanted).abs() < 1e-5 * (1.0 + wanted), "{found} instead of {wanted}");
        }
    }
    assert!(values(pass.kl()).iter().all(|&kl| kl > 0.1));
}

#[test]
fn the_divergence_is_zero_where_prior_and_posterior_are_equal() {
    for residual_posterior in [false, true] {
        let config = HvaeConfig { residual_posterior, ..small() };
        let network = filled(&config, Fill::Zeros);
        let pass = network.forward(images(3), noises(&network, 3, 1.0), &Pass::default());
        assert_eq!(values(pass.kl()), [0.0; 3]);
        assert_eq!(values(pass.log_ratio()), [0.0; 3]);
    }
}

#[test]
fn the_divergence_is_the_mean_of_the_log_ratio() {
    let [p, q] = [(0.3, -0.4), (-0.5, 0.2)].map(|(mean, log_scale)| {
        let constant = |value| Tensor::<4>::zeros([2, 2, 1, 1], &Device::default()) + value;
        DiagonalNormal { mean: constant(mean), log_scale: constant(log_scale) }
    });
    // The log ratio is quadratic in the noise, so the noises 1 and -1 give its mean exactly.
    let noise = Tensor::<1>::from_floats([1.0, 1.0, -1.0, -1.0], &Device::default()).reshape([2, 2, 1, 1]);
    let value = q.sample(noise, 1.0);
    let latent = Latent { value, prior: p, posterior: Some(q) };
    let [sampled, exact] = [latent.log_ratio(), latent.kl()].map(|kl| values(kl.unwrap().mean())[0]);
    assert!((sampled - exact).abs() < 1e-5, "{sampled} {exact}");
}

#[test]
fn a_residual_posterior_is_an_offset_from_the_prior() {
    let plain = filled(&small(), Fill::All);
    let mut residual = plain.clone();
    residual.config.residual_posterior = true;
    let (images, noises) = (images(2), noises(&plain, 2, 1.0));
    let first = |network: &Hvae| {
        let pass = network.forward(images.clone(), noises.clone(), &Pass::default());
        pass.latents[0].clone()
    };
    let (plain, residual) = (first(&plain), first(&residual));
    let [plain_q, residual_q] = [plain.posterior.unwrap(), residual.posterior.unwrap()];
    assert!(largest(plain.prior.mean.clone()) > 1e-3, "a prior of zero would show nothing");
    assert!(largest(plain.prior.mean.clone() + plain_q.mean - residual_q.mean) < 1e-5);
    assert!(largest(plain.prior.log_scale.clone() + plain_q.log_scale - residual_q.log_scale) < 1e-5);
}

#[test]
fn at_temperature_zero_the_noise_has_no_effect() {
    let network = filled(&small(), Fill::All);
    let outputs = |temperature| {
        [1.0, 2.0]
            .map(|phase| values(network.from_prior(noises(&network, 2, phase), temperature, &Pass::default()).output))
    };
    let [a, b] = outputs(0.0);
    assert_eq!(a, b);
    let [a, b] = outputs(1.0);
    assert_ne!(a, b);
}

#[test]
fn upper_latents_come_from_the_image_and_the_others_from_the_prior() {
    let network = filled(&small(), Fill::All);
    let (images, noises) = (images(2), noises(&network, 2, 1.0));
    let blocks = noises.len();
    let upper = |upper, temperature| {
        network.from_upper_latents(images.clone(), upper, noises.clone(), temperature, &Pass::default())
    };
    let whole = network.forward(images.clone(), noises.clone(), &Pass::default());
    assert_eq!(values(upper(blocks, 0.3).output), values(whole.output.clone()));
    let prior = network.from_prior(noises.clone(), 0.3, &Pass::default());
    assert_eq!(values(upper(0, 0.3).output), values(prior.output.clone()));
    let mixed = upper(2, 0.3);
    assert_eq!(mixed.kl_of_blocks().len(), 2);
    for (i, latent) in mixed.latents.iter().enumerate() {
        let same = values(latent.value.clone()) == values(whole.latents[i].value.clone());
        assert_eq!(same, i < 2, "latent {i}");
    }
}

#[test]
fn wider_states_are_padded_on_the_way_down_and_cut_on_the_way_up() {
    let config = HvaeConfig {
        encoder: "8d2,4d4".into(),
        decoder: "1,4m1,8m4".into(),
        custom_widths: "1:20,4:12".into(),
        ..small()
    };
    let network = filled(&config, Fill::All);
    let activations = network.encode(images(2), &Pass::default());
    let shapes: Vec<[usize; 4]> = activations.values().map(|state| state.dims()).collect();
    assert_eq!(shapes, [[2, 20, 1, 1], [2, 12, 4, 4], [2, 8, 8, 8]]);
    let padding = activations[&4].clone().narrow(1, 8, 4);
    assert_eq!(largest(padding), 0.0);
    assert!(largest(activations[&4].clone().narrow(1, 0, 8)) > 0.0);
    let pass = network.forward(images(2), noises(&network, 2, 1.0), &Pass::default());
    assert_eq!(pass.state.dims(), [2, 8, 8, 8]);
    assert!(values(pass.output).into_iter().all(f64::is_finite));
}

#[test]
fn resolutions_above_the_bound_start_from_zeros() {
    let parameters = |no_bias_above| {
        let network = HvaeConfig { no_bias_above, ..small() }.init(&Device::default()).unwrap();
        let pass = network.from_prior(noises(&network, 2, 1.0), 1.0, &Pass::default());
        assert_eq!(pass.output.dims(), [2, 1, 8, 8]);
        network.num_params()
    };
    assert_eq!(parameters(8) - parameters(4), 8 * 8 * 8);
    assert_eq!(parameters(4) - parameters(0), 8 * (4 * 4 + 1));
}

/// Largest absolute values of the weights whose name ends so, for each.
struct Largest<'a> {
    ending: &'a str,
    path: Vec<String>,
    found: Vec<f64>,
}

impl ModuleVisitor for Largest<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.path.join(".").ends_with(self.ending) {
            self.found.push(largest(param.val()));
        }
    }
}

#[test]
fn last_convolutions_begin_smaller_by_the_root_of_the_number_of_blocks() {
    let config = HvaeConfig { width: 64, ..small() };
    let network = config.init(&Device::default()).unwrap();
    let bound_of = |ending: &str, fan_in: f64, factor: f64, count: usize| {
        let mut visitor = Largest { ending, path: Vec::new(), found: Vec::new() };
        network.visit(&mut visitor);
        assert_eq!(visitor.found.len(), count, "{ending}");
        let bound = factor / fan_in.sqrt();
        assert!(visitor.found.iter().all(|&found| found > 0.7 * bound && found <= bound), "{ending}: {bound}");
    };
    // 4 blocks in the decoder, 32 channels inside.
    bound_of("resnet.c4.weight", 32.0, 0.5, 4);
    bound_of("z_proj.weight", 3.0, 0.5, 4);
    bound_of("enc.c4.weight", 32.0, 1.0, 4);
    bound_of("resnet.c1.weight", 64.0, 1.0, 4);
    let mut priors = Largest { ending: "prior.c4.weight", path: Vec::new(), found: Vec::new() };
    network.visit(&mut priors);
    assert_eq!(priors.found, [0.0; 4]);
}

#[test]
fn every_likelihood_has_outputs_means_and_samples() {
    let mixture = PixelLikelihood::LogisticMixture { mixtures: 2, levels: 16, tails: Default::default() };
    for (likelihood, outputs) in
        [(mixture, 20), (PixelLikelihood::DiscretizedLogistic { levels: 16 }, 6), (PixelLikelihood::Bernoulli {}, 3)]
    {
        // A side that is odd on the way: 7 / 2 = 3, whose last row is dropped.
        let config = HvaeConfig {
            image_channels: 3,
            image_size: 7,
            encoder: "7d2,3d3,1".into(),
            decoder: "1,7m1".into(),
            likelihood,
            ..small()
        };
        let network = filled(&config, Fill::All);
        let noises = noises(&network, 2, 1.0);
        let output = network.from_prior(noises.clone(), 1.0, &Pass::default()).output;
        assert_eq!(output.dims(), [2, outputs, 7, 7]);
        let shapes = likelihood.uniform_shapes([2, 3, 7, 7]);
        let uniform = |shape: [usize; 4]| pattern(shape, 3.0) / 3.1 + 0.5;
        let uniforms = Uniforms { mixture: shapes.mixture.map(uniform), values: uniform(shapes.values) };
        let sample = likelihood.sample(output.clone(), uniforms);
        let log_prob = values(likelihood.log_prob(output, sample.clone()));
        assert!(log_prob.iter().all(|&value| value < 0.0 && value.is_finite()), "{log_prob:?}");
        let images = network.reconstruct(sample, noises, &Pass::default());
        assert_eq!(images.dims(), [2, 3, 7, 7]);
        assert!(largest(images) <= 1.0);
    }
}

#[test]
fn bernoulli_logits_give_the_cross_entropy() {
    let [logits, data] = [[2.0, -1.0], [1.0, -0.5]]
        .map(|pair: [f32; 2]| Tensor::<1>::from_floats(pair, &Device::default()).reshape([1, 2, 1, 1]));
    let p = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    let wanted = p(2.0).ln() + 0.25 * p(-1.0).ln() + 0.75 * (1.0 - p(-1.0)).ln();
    let found = values(PixelLikelihood::Bernoulli {}.log_prob(logits, data))[0];
    assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
}

#[test]
fn problems_name_the_key_and_what_was_expected() {
    let cases: [(HvaeConfig, &str, &str); 13] = [
        (HvaeConfig { encoder: "8d2,8x1".into(), ..small() }, "encoder", "resolution 8, but what enters is 4"),
        (HvaeConfig { encoder: "8y2".into(), ..small() }, "encoder", "8y2"),
        (HvaeConfig { encoder: "8d9".into(), ..small() }, "encoder", "cannot be pooled by 9"),
        (HvaeConfig { decoder: "2,8m2".into(), ..small() }, "decoder", "no state at resolution [2]"),
        (HvaeConfig { decoder: "1,4m1".into(), ..small() }, "decoder", "no block is at the resolution of the image"),
        (HvaeConfig { decoder: "8m1,1".into(), no_bias_above: 0, ..small() }, "decoder", "not there yet"),
        (HvaeConfig { decoder: "8,4m8".into(), ..small() }, "decoder", "4 is not a multiple of 8"),
        (HvaeConfig { custom_widths: "8:9".into(), ..small() }, "custom_widths", "expected 8 as in width"),
        (HvaeConfig { custom_widths: "4:3".into(), ..small() }, "encoder", "expected at least as many"),
        (HvaeConfig { bottleneck_multiple: 0.01, ..small() }, "bottleneck_multiple", "leaves no channel"),
        (HvaeConfig { latent_channels: 0, ..small() }, "latent_channels", "expected at least 1"),
        (HvaeConfig { image_size: 9, ..small() }, "image_size", "images are 8x8"),
        (
            HvaeConfig { likelihood: PixelLikelihood::DiscretizedLogistic { levels: 1 }, ..small() },
            "likelihood",
            "expected at least 2",
        ),
    ];
    assert_eq!(small().problems(&[1, 8, 8]), []);
    for (config, key, message) in cases {
        let problems = config.problems(&[1, 8, 8]);
        let found = problems.iter().any(|problem| problem.key == key && problem.message.contains(message));
        assert!(found, "{key}, {message:?}: {problems:?}");
    }
    let deeper = HvaeConfig { encoder: "8y2".into(), ..small() };
    assert!(deeper.init(&Device::default()).is_err());
    assert_eq!(HvaeConfig::default().with_data(&[3, 32, 32]).problems(&[3, 32, 32]), []);
}

#[test]
fn keys_of_vdvae_are_read_and_unknown_ones_refused() {
    let text = r#"{"enc_blocks": "8d8", "dec_blocks": "1,8m1", "zdim": 5, "custom_width_str": "1:400",
        "likelihood": {"kind": "logistic-mixture", "num_mixtures": 3}}"#;
    let config: HvaeConfig = serde_json::from_str(text).unwrap();
    let likelihood = PixelLikelihood::LogisticMixture { mixtures: 3, levels: 256, tails: Default::default() };
    assert_eq!((config.latent_channels, config.likelihood), (5, likelihood));
    assert_eq!(config.with_data(&[3, 8, 8]).problems(&[3, 8, 8]), []);
    let again: HvaeConfig = serde_json::from_value(serde_json::to_value(small()).unwrap()).unwrap();
    assert_eq!(again, small());
    assert!(serde_json::from_str::<HvaeConfig>(r#"{"depth": 3}"#).is_err());
    assert!(serde_json::from_str::<HvaeConfig>(r#"{"likelihood": {"kind": "bernoulli", "levels": 3}}"#).is_err());
}
