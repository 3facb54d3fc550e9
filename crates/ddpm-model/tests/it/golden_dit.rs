//! The diffusion transformer against diffusers' `DiTTransformer2DModel` and against the original code (`fixtures/sd_parts`):
//! outputs, positions and gradients.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use ddpm_model::condition::Condition;
use ddpm_model::dit::{DiT, DiTConfig, position_table};
use ddpm_model::embedding::{SinusoidConfig, SinusoidOrder};
use ddpm_testing::gradients::{assert_gradients, gradients};
use ddpm_testing::support::{assert_close, number, whole};
use ddpm_weights::{Weights, load_dit};
use serde_json::Value;

use crate::sd_parts::Part;

/// diffusers' config in our keys.
fn diffusers_config(peer: &Value) -> DiTConfig {
    let heads = whole(peer, "num_attention_heads");
    DiTConfig {
        in_channels: whole(peer, "in_channels"),
        out_channels: whole(peer, "out_channels"),
        sample_size: whole(peer, "sample_size"),
        patch_size: whole(peer, "patch_size"),
        hidden_size: heads * whole(peer, "attention_head_dim"),
        depth: whole(peer, "num_layers"),
        heads,
        norm_eps: number(peer, "norm_eps"),
        shared_embedding: false,
        embedding: SinusoidConfig { order: SinusoidOrder::CosSin, frequency_shift: 1 },
        classes: whole(peer, "num_embeds_ada_norm"),
        ..DiTConfig::default()
    }
}

/// The original's config in our keys.
fn original_config(peer: &Value) -> DiTConfig {
    let channels = whole(peer, "in_channels");
    DiTConfig {
        in_channels: channels,
        out_channels: if peer["learn_sigma"] == true { 2 * channels } else { channels },
        sample_size: whole(peer, "input_size"),
        patch_size: whole(peer, "patch_size"),
        hidden_size: whole(peer, "hidden_size"),
        depth: whole(peer, "depth"),
        heads: whole(peer, "num_heads"),
        classes: whole(peer, "num_classes"),
        ..DiTConfig::default()
    }
}

fn network(config: &DiTConfig, weights: Weights, device: &Device) -> DiT {
    assert_eq!(config.problems(&[config.in_channels, config.sample_size, config.sample_size]), vec![]);
    let mut network = config.init(device);
    load_dit(&mut network, weights).unwrap();
    network
}

#[test]
fn outputs_and_positions_are_those_of_diffusers() {
    let device = Device::default();
    for part in Part::all("DiTTransformer2DModel") {
        let config = diffusers_config(&part.config());
        assert_eq!(config.null_class(), Some(whole(&part.meta, "null_class")));
        let grid = config.sample_size / config.patch_size;
        let places = position_table(config.hidden_size, [grid; 2], grid);
        assert_close(&places, &part.io.f64("pos_embed_f64"), 1e-12, &format!("{} positions", part.id));

        let network = network(&config, part.weights("weights"), &device);
        assert_eq!(network.num_params(), whole(&part.meta, "params"), "{}", part.id);
        let classes = Condition::Class(part.whole_numbers("y", &device));
        let y = network.forward(part.input("x", &device), part.input("t", &device), &classes);
        part.check(&part.meta["tensors"], "out", y);
    }
}

#[test]
fn gradients_are_those_of_diffusers() {
    let device = Device::default().autodiff();
    for part in Part::all("DiTTransformer2DModel") {
        let network = network(&diffusers_config(&part.config()), part.weights("weights"), &device);
        let classes = Condition::Class(part.whole_numbers("y", &device));
        let y = network.forward(part.input("x", &device), part.input("t", &device), &classes);
        let target: Tensor<4> = part.gradient_file("target_file").unwrap().tensor("target", &device, DType::F32);
        let loss = (y - target).square().mean();
        part.check_loss(&loss);
        let wanted = part.gradient_file("file").unwrap();
        assert_gradients(&gradients(network, &loss), &wanted, part.gradient_tolerance(), &part.id);
    }
}

#[test]
fn files_of_the_original_code_give_its_outputs() {
    let device = Device::default();
    for part in Part::all("DiT original .pt") {
        let network = network(&original_config(&part.meta["config"]), part.weights("weights"), &device);
        let (x, t): (Tensor<4>, _) = (part.input("x", &device), part.whole_numbers::<1>("t", &device).float());
        let y = part.whole_numbers::<1>("y", &device);
        let out = network.forward(x.clone(), t.clone(), &Condition::Class(y.clone()));
        part.check(&part.meta["tensors"], "out", out);

        // Guidance: the second half of the rows has the null class and the images of the first.
        let half = x.dims()[0] / 2;
        let x = x.narrow(0, 0, half);
        let out = network.forward(Tensor::cat(vec![x.clone(), x], 0), t, &Condition::Class(y));
        let (first, rest) = (out.clone().narrow(1, 0, 3), out.clone().narrow(1, 3, out.dims()[1] - 3));
        let (conditional, null) = (first.clone().narrow(0, 0, half), first.narrow(0, half, half));
        let guided = null.clone() + (conditional - null) * number(&part.meta, "cfg_scale");
        let guided = Tensor::cat(vec![Tensor::cat(vec![guided.clone(), guided], 0), rest], 1);
        part.check(&part.meta["tensors"], "out_cfg4", guided);
    }
}
