//! The U-Net with cross-attention against diffusers' `UNet2DConditionModel` (`fixtures/sd_parts`): outputs, gradients of the
//! weights, the image and the tokens.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use ddpm_model::condition::{AddedCondition, Condition, Tokens};
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_model::network::{Network, NetworkConfig};
use ddpm_model::pass::{Pass, Trace};
use ddpm_model::unet::{AddedEmbeddingConfig, CrossAttentionConfig, DownsamplePadding, Heads, UNetConfig};
use ddpm_testing::gradients::{assert_gradients, gradients};
use ddpm_testing::support::{assert_close, cases, number, values, whole, whole_numbers};
use ddpm_weights::{Scheme, load_into};
use serde_json::Value;

use crate::sd_parts::Part;

pub fn all() -> Vec<Part> {
    Part::all("UNet2DConditionModel")
}

/// One number for each level, or the same for all.
fn by_level(value: &Value, levels: usize) -> Vec<usize> {
    value.as_u64().map_or_else(|| whole_numbers(value), |one| vec![one as usize; levels])
}

/// The peer's config in our keys.
fn config(peer: &Value) -> UNetConfig {
    let channels = whole_numbers(&peer["block_out_channels"]);
    let size = whole(peer, "sample_size");
    let attends = |level: &usize| peer["down_block_types"][*level].as_str().unwrap().starts_with("CrossAttn");
    let added = peer["addition_embed_type"].as_str().map(|kind| {
        assert_eq!(kind, "text_time");
        let (sizes, size_width) = (6, whole(peer, "addition_time_embed_dim"));
        let pooled_width = whole(peer, "projection_class_embeddings_input_dim") - sizes * size_width;
        AddedEmbeddingConfig { pooled_width, sizes, size_width }
    });
    let order = if peer["flip_sin_to_cos"] == true { SinusoidOrder::CosSin } else { SinusoidOrder::SinCos };
    assert_eq!(whole(peer, "downsample_padding"), 1);
    UNetConfig {
        in_channels: whole(peer, "in_channels"),
        out_channels: whole(peer, "out_channels"),
        sample_size: size,
        base_channels: channels[0],
        multipliers: channels.iter().map(|&c| c as f64 / channels[0] as f64).collect(),
        blocks_per_level: whole(peer, "layers_per_block"),
        attention_resolutions: (0..channels.len()).filter(attends).map(|level| size >> level).collect(),
        heads: Heads::Count(1),
        dropout: number(peer, "dropout"),
        norm_groups: whole(peer, "norm_num_groups"),
        norm_eps: number(peer, "norm_eps"),
        downsample_padding: DownsamplePadding::Symmetric,
        embedding: SinusoidConfig { order, frequency_shift: whole(peer, "freq_shift") },
        cross_attention: Some(CrossAttentionConfig {
            token_width: whole(peer, "cross_attention_dim"),
            depths: by_level(&peer["transformer_layers_per_block"], channels.len()),
            // This is the number of heads, whatever its name.
            heads: by_level(&peer["attention_head_dim"], channels.len()),
            linear_projection: peer["use_linear_projection"] == true,
            added,
        }),
        ..UNetConfig::default()
    }
}

pub fn network(part: &Part, device: &Device) -> Network {
    let config = config(&part.config());
    assert_eq!(config.problems(&[config.out_channels, config.sample_size, config.sample_size]), vec![]);
    let mut network = NetworkConfig::UNet(config).init(device);
    load_into(&mut network, &part.weights("weights"), Scheme::Diffusers).unwrap();
    assert_eq!(network.num_params(), whole(&part.meta, "params"), "{}", part.id);
    network
}

fn tokens(part: &Part, case: usize, device: &Device) -> Tokens {
    let name = |what: &str| format!("{what}{case}");
    let mut tokens = Tokens::new(part.input(&name("text"), device));
    let mask = name("text_mask");
    tokens.mask = part.has(&mask).then(|| part.whole_numbers::<2>(&mask, device).float());
    tokens.added = part.has(&name("text_embeds")).then(|| AddedCondition {
        pooled: part.input(&name("text_embeds"), device),
        sizes: part.input(&name("time_ids"), device),
    });
    tokens
}

#[test]
fn outputs_are_those_of_diffusers() {
    let device = Device::default();
    for part in all() {
        let network = network(&part, &device);
        for (i, case) in cases(&part.meta, "cases").iter().enumerate() {
            let x: Tensor<4> = part.input(&format!("x{i}"), &device);
            assert_eq!(x.dims().to_vec(), whole_numbers(&case["shape"]));
            assert_eq!(network.check_input(&x.dims()), Ok(()));
            let tokens = tokens(&part, i, &device);
            assert_eq!(tokens.mask.is_some(), case["text_mask"] == true);
            assert_eq!(tokens.added.is_some(), case["added_conditions"] == true);
            let y = network.forward(x, part.input(&format!("t{i}"), &device), &Condition::Tokens(tokens));
            part.check(&case["tensors"], &format!("out{i}"), y);
        }
    }
}

#[test]
fn gradients_are_those_of_diffusers() {
    let (device, mut compared) = (Device::default().autodiff(), 0);
    for part in all().into_iter().filter(|part| !part.meta["grad"].is_null()) {
        let network = network(&part, &device);
        let x: Tensor<4> = part.input("x0", &device).require_grad();
        let mut tokens = tokens(&part, 0, &device);
        tokens.states = tokens.states.require_grad();
        let condition = Condition::Tokens(tokens.clone());
        let y = network.forward(x.clone(), part.input("t0", &device), &condition);
        let target = part.gradient_file("target_file").unwrap();
        let loss = (y - target.tensor("target", &device, DType::F32)).square().mean();
        part.check_loss(&loss);

        let inputs = part.gradient_file("input_grads_file").unwrap();
        let grads = loss.backward();
        let found = [("x", values(x.grad(&grads).unwrap())), ("text", values(tokens.states.grad(&grads).unwrap()))];
        for (name, found) in found {
            let wanted = inputs.f64(&format!("{name}_f64"));
            let scale = wanted.iter().fold(0.0_f64, |scale, value| scale.max(value.abs()));
            assert_close(&found, &wanted, 1e-4 * scale, &format!("{} gradient of {name}", part.id));
        }
        let wanted = part.gradient_file("file").unwrap();
        let y = network.forward(x.detach(), part.input("t0", &device), &condition);
        let loss = (y - target.tensor("target", &device, DType::F32)).square().mean();
        assert_gradients(&gradients(network, &loss), &wanted, part.gradient_tolerance(), &part.id);
        compared += 1;
    }
    assert!(compared > 0, "no fixture has gradients");
}

#[test]
fn a_trace_has_the_layers_of_the_transformers() {
    let part = all().remove(0);
    let (device, trace) = (Device::default(), Trace::default());
    let condition = Condition::Tokens(tokens(&part, 0, &device));
    let network = network(&part, &device);
    let run = |pass: &Pass<'_>| {
        network.forward_with(part.input::<4>("x0", &device), part.input("t0", &device), &condition, None, pass)
    };
    assert_eq!(run(&trace.pass()).into_data(), run(&Pass::default()).into_data());
    let paths: Vec<String> = trace.into_layers().into_iter().map(|layer| layer.path).collect();
    for path in ["proj_in", "transformer_blocks.0.attn2.to_k", "transformer_blocks.0.ff.net.2", "sum"] {
        let path = format!("mid_block.attentions.0.{path}");
        assert!(paths.contains(&path), "{path} is not in {paths:?}");
    }
}
