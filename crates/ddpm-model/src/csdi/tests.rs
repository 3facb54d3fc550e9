use burn::tensor::{Device, Distribution, Int, Tensor};

use super::masks::{MaskDraw, MaskStrategy, random};
use super::*;

fn small() -> CsdiConfig {
    CsdiConfig {
        variables: 3,
        layers: 2,
        channels: 8,
        heads: 2,
        step_embedding: 8,
        time_embedding: 6,
        feature_embedding: 3,
        steps: 5,
        ..CsdiConfig::default()
    }
}

fn output(config: &CsdiConfig) -> Tensor<3> {
    let device = Device::default();
    let network = config.init(&device).unwrap();
    let times = Tensor::<1, Int>::arange(0..4, &device).float().unsqueeze_dim::<2>(0).expand([2, 4]);
    let side = network.side_information(times, None, Tensor::ones([2, config.variables, 4], &device));
    assert_eq!(side.dims(), [2, config.side_channels(), config.variables, 4]);
    let input =
        Tensor::random([2, config.input_channels(), config.variables, 4], Distribution::Normal(0.0, 1.0), &device);
    network.forward(input, side, Tensor::from_data([0, 4], &device), &Pass::default())
}

#[test]
fn every_kind_of_network_starts_as_the_prediction_zero() {
    let uncond = CsdiConfig { unconditional: true, ..small() };
    let linear = CsdiConfig { linear_attention: true, ..small() };
    let one = CsdiConfig { variables: 1, ..small() };
    for config in [small(), uncond, linear, one] {
        let output = output(&config);
        assert_eq!(output.dims(), [2, config.variables, 4]);
        // The weights of the last convolution are 0: one value everywhere, its bias.
        let values: Vec<f32> = output.into_data().try_to_vec().unwrap();
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
    }
}

#[test]
fn configs_name_what_is_wrong() {
    assert!(small().problems().is_empty());
    assert!(CsdiConfig::default().with_variables(35).problems().is_empty());
    assert_eq!(small().with_variables(35).variables, 3);
    let cases = [
        (CsdiConfig::default(), "variables: is 0, expected at least 1"),
        (CsdiConfig { heads: 3, ..small() }, "heads: is 3; expected a divisor of the 8 channels"),
        (CsdiConfig { heads: 0, ..small() }, "heads: is 0, expected at least 1"),
        (CsdiConfig { step_embedding: 2, ..small() }, "step_embedding: is 2; expected an even number of at least 4"),
        (CsdiConfig { time_embedding: 7, ..small() }, "time_embedding: is 7; expected an even number of at least 2"),
    ];
    for (config, wanted) in cases {
        let found: Vec<String> = config.problems().iter().map(ToString::to_string).collect();
        assert_eq!(found, [wanted]);
        assert!(config.init(&Device::default()).is_err());
    }
}

#[test]
fn traced_layers_have_the_keys_of_the_original() {
    let config = CsdiConfig { linear_attention: true, layers: 1, ..small() };
    let device = Device::default();
    let network = config.init(&device).unwrap();
    let trace = crate::pass::Trace::default();
    let side = Tensor::zeros([1, config.side_channels(), 3, 4], &device);
    network.forward(Tensor::zeros([1, 2, 3, 4], &device), side, Tensor::from_data([0], &device), &trace.pass());
    let paths: Vec<String> = trace.into_layers().into_iter().map(|layer| layer.path).collect();
    for key in ["layers.layers.0.0.fn.to_q", "layers.layers.0.0.norm", "layers.layers.0.1.fn.fn.w1"] {
        let key = format!("diffmodel.residual_layers.0.time_layer.{key}");
        assert!(paths.contains(&key), "{key} is not in {paths:?}");
    }
}

#[test]
fn random_masks_take_the_largest_numbers_of_what_was_observed() {
    let observed = [true, false, true, true, true];
    let uniforms = [0.1, 0.9, 0.8, 0.3, 0.5];
    // 1.5 and 2.5 of 4 and 5 are rounded to even.
    assert_eq!(random(&observed, &uniforms, 0.375), [true, false, false, true, false]);
    assert_eq!(random(&[true; 5], &uniforms, 0.5), [true, false, false, true, true]);
    assert_eq!(random(&observed, &uniforms, 1.0), [false; 5]);
    assert_eq!(random(&observed, &uniforms, 0.0), observed);
}

#[test]
fn historical_masks_take_the_pattern_before() {
    let observed = vec![vec![true; 3]; 2];
    let patterns = vec![vec![true, false, true], vec![false, true, true]];
    let before = vec![patterns[1].clone(), patterns[0].clone()];
    assert_eq!(MaskStrategy::Historical.given(&observed, &patterns, &[]), before);
    assert_eq!(MaskStrategy::Forecast.given(&observed, &patterns, &[]), patterns);
    let draw = |choice| MaskDraw { ratio: 1.0, uniforms: vec![0.5; 3], choice };
    let mixed = MaskStrategy::Mix.given(&observed, &patterns, &[draw(0.5), draw(0.6)]);
    assert_eq!(mixed, [before[0].clone(), vec![false; 3]]);
}
