//! CLIP's text encoder against transformers (`fixtures/sd_parts`): states, pooled states, projections and gradients.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use ddpm_model::pass::{Pass, Trace};
use ddpm_model::text::{ClipText, ClipTextConfig};
use ddpm_testing::gradients::{assert_gradients, gradients};
use ddpm_testing::networks::parameters;
use ddpm_testing::support::{cases, whole};
use ddpm_weights::{Weights, load_clip_text};

use crate::sd_parts::Part;

fn all() -> Vec<Part> {
    ["CLIPTextModel", "CLIPTextModelWithProjection"].into_iter().flat_map(Part::all).collect()
}

fn encoder(part: &Part, weights: Weights, device: &Device) -> ClipText {
    let config = ClipTextConfig::from_transformers(&part.config()).unwrap();
    assert_eq!(config.problems(), vec![]);
    let mut encoder = config.init(device);
    load_clip_text(&mut encoder, weights).unwrap();
    assert_eq!(encoder.num_params(), whole(&part.meta, "params"), "{}", part.id);
    encoder
}

#[test]
fn states_are_those_of_transformers() {
    let device = Device::default();
    for part in all() {
        let encoder = encoder(&part, part.weights("weights"), &device);
        for (i, case) in cases(&part.meta, "cases").iter().enumerate() {
            let ids = part.whole_numbers::<2>(&format!("ids{i}"), &device);
            let mask = part.has(&format!("mask{i}")).then(|| part.whole_numbers::<2>(&format!("mask{i}"), &device));
            assert_eq!(mask.is_some(), case["attention_mask"].as_bool().unwrap());
            if let Some(places) = part.places(&format!("pooled_position_case{i}")) {
                let found: Vec<i64> = encoder.pooled_places(ids.clone()).into_data().iter::<i64>().collect();
                assert_eq!(found, places, "{} {i}", part.id);
            }
            let states = encoder.encode(ids, mask.map(|mask| mask.float()), &Pass::default());
            let (last_hidden, _) = states.hidden.split_last().unwrap();
            assert_eq!(values(states.penultimate()), values(states.hidden[states.hidden.len() - 2].clone()));
            assert_eq!(values(encoder.skipping(&states, 0)), values(states.last.clone()));
            assert_ne!(values(last_hidden.clone()), values(states.last.clone()));
            for name in case["tensors"].as_object().unwrap().keys() {
                let check = |found: Tensor<3>| part.check(&case["tensors"], name, found);
                match name.trim_end_matches(char::is_numeric) {
                    "last" => check(states.last.clone()),
                    "clip_skip1_" => check(encoder.skipping(&states, 1)),
                    "pooled" => part.check(&case["tensors"], name, states.pooled.clone()),
                    "text_embeds" => part.check(&case["tensors"], name, states.projected.clone().unwrap()),
                    hidden if hidden.starts_with("hidden") => {
                        let layer: usize = name.rsplit('_').next().unwrap().parse().unwrap();
                        check(states.hidden[layer].clone());
                    }
                    other => panic!("unknown tensor {other}"),
                }
            }
        }
    }
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    ddpm_testing::support::values(x)
}

#[test]
fn gradients_are_those_of_transformers() {
    let device = Device::default().autodiff();
    for part in all() {
        let encoder = encoder(&part, part.weights("weights"), &device);
        let target = part.gradient_file("target_file").unwrap();
        let states = encoder.encode(part.whole_numbers("ids3", &device), None, &Pass::default());
        let pooled = states.projected.unwrap_or(states.pooled);
        let loss = (states.last * target.tensor("r_last", &device, DType::F32)).sum()
            + (pooled * target.tensor("r_pooled", &device, DType::F32)).sum();
        part.check_loss(&loss);
        let wanted = part.gradient_file("file").unwrap();
        assert_gradients(&gradients(encoder, &loss), &wanted, part.gradient_tolerance(), &part.id);
    }
}

#[test]
fn names_without_the_prefix_are_read_too() {
    let (device, mut compared) = (Device::default(), 0);
    for part in all().into_iter().filter(|part| !part.meta["weights_without_prefix"].is_null()) {
        let [with, without] = ["weights", "weights_without_prefix"].map(|key| part.weights(key));
        assert!(with.shape("text_model.embeddings.position_ids").is_some(), "the unused tensor is in the file");
        let [with, without] = [with, without].map(|weights| parameters(&encoder(&part, weights, &device)));
        assert_eq!(with, without, "{}", part.id);
        compared += 1;
    }
    assert!(compared > 0, "no fixture has names without the prefix");
}

#[test]
fn a_trace_has_every_layer_and_long_sequences_are_refused() {
    let config = ClipTextConfig {
        vocab_size: 7,
        hidden_size: 4,
        intermediate_size: 6,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        max_position_embeddings: 5,
        eos_token_id: 6,
        projection_dim: Some(3),
        ..ClipTextConfig::default()
    };
    let encoder = config.init(&Device::default());
    let trace = Trace::default();
    let ids = Tensor::from_ints([[1, 6, 2], [3, 4, 5]], &Device::default());
    // Without an end token the first place counts.
    assert_eq!(encoder.pooled_places(ids.clone()).into_data().iter::<i64>().collect::<Vec<_>>(), [1, 0]);
    assert_eq!(encoder.encode(ids, None, &trace.pass()).projected.unwrap().dims(), [2, 3]);
    let paths: Vec<String> = trace.into_layers().into_iter().map(|layer| layer.path).collect();
    for path in ["self_attn.attention", "layer_norm2", "mlp.fc2"] {
        assert!(paths.contains(&format!("text_model.encoder.layers.0.{path}")), "{path} is not in {paths:?}");
    }
    let error = encoder.check_input([2, 6]).unwrap_err().to_string();
    assert!(error.contains("[2, 6]") && error.contains("1 to 5 tokens"), "{error}");
}
