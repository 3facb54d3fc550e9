//! Tests of the whole network.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Distribution, Int};

use super::*;
use crate::condition::AddedCondition;
use crate::embedding::SinusoidConfig;

/// Two levels, attention on the second, four classes and the null class.
fn small() -> UNetConfig {
    UNetConfig {
        in_channels: 2,
        out_channels: 2,
        sample_size: 8,
        base_channels: 8,
        multipliers: vec![1.0, 1.5],
        blocks_per_level: 1,
        attention_resolutions: vec![4],
        heads: Heads::Count(2),
        dropout: 0.0,
        norm_groups: 4,
        classes: 4,
        ..UNetConfig::default()
    }
}

fn variants() -> Vec<UNetConfig> {
    vec![
        small(),
        UNetConfig {
            time_shift: TimeShift::ScaleShift,
            resampling: Resampling::Residual,
            middle_attention_norm: MiddleNorm::None,
            heads: Heads::Width { width: 4 },
            embedding: SinusoidConfig::improved(),
            out_channels: 4,
            ..small()
        },
        UNetConfig {
            downsample_padding: DownsamplePadding::Symmetric,
            middle_attention: false,
            multipliers: vec![2.0, 1.0, 1.0],
            ..small()
        },
        UNetConfig { augment_dim: 3, ..small() },
        UNetConfig { heads_up: Some(Heads::Width { width: 3 }), ..small() },
        conditioned(),
    ]
}

/// Transformers with two blocks on the second level, in place of attentions.
fn conditioned() -> UNetConfig {
    let added = Some(AddedEmbeddingConfig { pooled_width: 3, sizes: 2, size_width: 4 });
    let cross = CrossAttentionConfig { token_width: 5, depths: vec![2], added, ..CrossAttentionConfig::default() };
    UNetConfig { cross_attention: Some(cross), classes: 0, ..small() }
}

/// A network whose zero-initialised layers are not zero, so that everything has an effect.
fn shaken(config: &UNetConfig, device: &Device) -> UNet {
    struct Shake;
    impl ModuleMapper for Shake {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|x| {
                let noise = x.random_like(Distribution::Normal(0.0, 0.1));
                let shaken = (x + noise).detach();
                if shaken.device().is_autodiff() { shaken.require_grad() } else { shaken }
            })
        }
    }
    config.init(device).map(&mut Shake)
}

fn noise(batch: usize, size: [usize; 2], device: &Device) -> Tensor<4> {
    Tensor::random([batch, 2, size[0], size[1]], Distribution::Normal(0.0, 1.0), device)
}

fn classes(classes: &[i64], device: &Device) -> Condition {
    Condition::Class(Tensor::<1, Int>::from_ints(classes, device))
}

/// Two rows of what the network is conditioned on.
fn condition_of(config: &UNetConfig, device: &Device) -> Condition {
    match config.cross_attention {
        Some(_) => Condition::Tokens(tokens([2, 3, 5], device)),
        None => classes(&[0, 3], device),
    }
}

#[test]
fn the_papers_network_has_the_papers_size() {
    #[derive(Default)]
    struct Count {
        tensors: usize,
        values: usize,
    }
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.tensors += 1;
            self.values += param.lazy_shape().num_elements();
        }
    }
    let network = UNetConfig::cifar10().init(&Device::default());
    let mut count = Count::default();
    network.visit(&mut count);
    assert_eq!((count.tensors, count.values), (328, 35_746_307));
    assert_eq!(network.num_params(), 35_746_307);
}

#[test]
fn a_new_network_predicts_zero_in_the_right_shape() {
    let device = Device::default();
    for config in variants() {
        assert_eq!(config.problems(&[2, 8, 8]), vec![]);
        let network = config.init(&device);
        for size in [[8, 8], [4, 12]] {
            let t = Tensor::from_floats([3.0, 250.5], &device);
            let y = network.forward(noise(2, size, &device), t, &condition_of(&config, &device));
            assert_eq!(y.dims(), [2, config.out_channels, size[0], size[1]]);
            assert_eq!(y.abs().max().into_scalar::<f32>(), 0.0);
        }
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    struct Missing<'a> {
        grads: &'a GradientsParams,
        path: Vec<String>,
        missing: Vec<String>,
    }
    impl ModuleVisitor for Missing<'_> {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            // A key's bias moves all scores of a pixel alike, which softmax does not see.
            let invisible = self.path.ends_with(&["to_k".into(), "bias".into()]);
            let reached = self
                .grads
                .get::<D>(param.id)
                .is_some_and(|grad| invisible || grad.abs().max().into_scalar::<f32>() > 0.0);
            if !reached {
                self.missing.push(self.path.join("."));
            }
        }
    }
    let device = Device::default().autodiff();
    for config in variants() {
        let network = shaken(&config, &device);
        let t = Tensor::from_floats([3.0, 250.5], &device);
        let labels = Tensor::random([2, config.augment_dim], Distribution::Default, &device);
        let labels = (config.augment_dim > 0).then_some(labels);
        let condition = condition_of(&config, &device);
        let y = network.forward_with(noise(2, [8, 8], &device), t, &condition, labels, &Pass::default());
        let grads = GradientsParams::from_grads(y.square().mean().backward(), &network);
        let mut visitor = Missing { grads: &grads, path: vec![], missing: vec![] };
        network.visit(&mut visitor);
        assert_eq!(visitor.missing, Vec::<String>::new());
    }
}

/// The weights are the same for any number of heads.
#[test]
fn heads_on_the_way_up_are_of_the_way_up_alone() {
    let device = Device::default();
    let config =
        |heads, up: Option<usize>| UNetConfig { heads: Heads::Count(heads), heads_up: up.map(Heads::Count), ..small() };
    let weights = shaken(&small(), &device).into_record();
    let x = noise(1, [8, 8], &device);
    let run = |config: UNetConfig| {
        let network = config.init(&device).load_record(weights.clone());
        network.forward(x.clone(), Tensor::from_floats([10.0], &device), &Condition::None).into_data()
    };
    assert_eq!(run(config(2, Some(2))), run(config(2, None)));
    let [down, up] = [run(config(4, Some(2))), run(config(2, Some(4)))];
    for same in [run(config(2, None)), run(config(4, None))] {
        assert_ne!(down, same);
        assert_ne!(up, same);
    }
    // Scores of 4x4 pixels twice for two more heads, in each of the two attentions on the way up.
    let kept = config(2, Some(4)).kept_values(8, 8) - config(2, None).kept_values(8, 8);
    assert_eq!(kept, 2 * 2 * 2 * 16 * 16);
}

#[test]
fn classes_times_and_the_null_class_matter() {
    let device = Device::default();
    let network = shaken(&small(), &device);
    let x = noise(1, [8, 8], &device);
    let run = |t: f32, condition: &Condition| {
        network.forward(x.clone(), Tensor::from_floats([t], &device), condition).into_data()
    };
    let one = run(10.0, &classes(&[1], &device));
    assert_eq!(one, run(10.0, &classes(&[1], &device)));
    assert_ne!(one, run(11.0, &classes(&[1], &device)));
    assert_ne!(one, run(10.0, &classes(&[2], &device)));
    assert_ne!(one, run(10.0, &Condition::None));
    // The null class is one more row, and what no condition means.
    let null = small().null_class().unwrap() as i64;
    assert_eq!(null, 4);
    assert_eq!(run(10.0, &Condition::None), run(10.0, &classes(&[null], &device)));
}

#[test]
fn no_augment_labels_are_the_same_as_zeros() {
    let device = Device::default();
    let network = shaken(&UNetConfig { augment_dim: 3, ..small() }, &device);
    let x = noise(2, [8, 8], &device);
    let run = |labels: Option<[[f32; 3]; 2]>| {
        let labels = labels.map(|labels| Tensor::<2>::from_floats(labels, &device));
        let t = Tensor::from_floats([10.0, 20.0], &device);
        network.forward_with(x.clone(), t, &classes(&[1, 2], &device), labels, &Pass::default())
    };
    let unlabeled = run(None);
    assert_eq!(unlabeled.clone().into_data(), run(Some([[0.0; 3]; 2])).into_data());
    // Only the row whose label is not zero changes.
    let labeled = run(Some([[0.0; 3], [0.0, 0.5, 0.0]]));
    let change = (labeled - unlabeled).abs().max_dims(&[1, 2, 3]).into_data().iter::<f32>().collect::<Vec<_>>();
    assert!(change[0] == 0.0 && change[1] > 0.0, "{change:?}");
}

#[test]
fn rows_of_a_batch_do_not_touch_each_other() {
    let device = Device::default();
    let network = shaken(&small(), &device);
    let x = noise(2, [8, 8], &device);
    let t = Tensor::<1>::from_floats([10.0, 900.0], &device);
    let together = network.forward(x.clone(), t.clone(), &classes(&[1, 2], &device));
    let alone = network.forward(x.narrow(0, 1, 1), t.narrow(0, 1, 1), &classes(&[2], &device));
    let difference = (together.narrow(0, 1, 1) - alone).abs().max().into_scalar::<f32>();
    assert!(difference < 1e-5, "{difference}");
}

fn tokens(shape: [usize; 3], device: &Device) -> Tokens {
    Tokens::new(Tensor::random(shape, Distribution::Normal(0.0, 1.0), device))
}

#[test]
fn masked_tokens_are_as_if_they_were_not_there() {
    let device = Device::default();
    let network = shaken(&conditioned(), &device);
    let x = noise(2, [8, 8], &device);
    let run = |tokens: Tokens| {
        let t = Tensor::from_floats([10.0, 20.0], &device);
        network.forward(x.clone(), t, &Condition::Tokens(tokens))
    };
    let all = tokens([2, 4, 5], &device);
    let first = Tokens::new(all.states.clone().narrow(1, 0, 3));
    let mask = Tensor::from_floats([[1.0, 1.0, 1.0, 0.0]; 2], &device);
    let masked = Tokens { mask: Some(mask), ..all.clone() };
    let apart = |a: Tensor<4>, b: Tensor<4>| (a - b).abs().max().into_scalar::<f32>();
    assert!(apart(run(masked), run(first.clone())) < 1e-5);
    assert!(apart(run(all), run(first)) > 1e-3);
}

/// Without tokens there is one of zeros, and the sizes and the vector of the prompt are zeros.
#[test]
fn no_condition_is_a_token_of_zeros() {
    let device = Device::default();
    let network = shaken(&conditioned(), &device);
    let x = noise(1, [8, 8], &device);
    let run =
        |condition: &Condition| network.forward(x.clone(), Tensor::from_floats([10.0], &device), condition).into_data();
    let zeros = Tokens {
        added: Some(AddedCondition { pooled: Tensor::zeros([1, 3], &device), sizes: Tensor::zeros([1, 2], &device) }),
        ..Tokens::new(Tensor::zeros([1, 1, 5], &device))
    };
    assert_eq!(run(&Condition::None), run(&Condition::Tokens(zeros.clone())));
    let sized = zeros.added.map(|added| AddedCondition { sizes: added.sizes + 100.0, ..added });
    assert_ne!(run(&Condition::None), run(&Condition::Tokens(Tokens { added: sized, ..zeros_of(&device) })));
    assert_ne!(run(&Condition::None), run(&Condition::Tokens(tokens([1, 4, 5], &device))));
}

fn zeros_of(device: &Device) -> Tokens {
    Tokens::new(Tensor::zeros([1, 1, 5], device))
}

/// Checkpoints know parameters by their paths: neither kind of attention may show in them.
#[test]
fn paths_do_not_name_the_kind_of_attention() {
    struct Paths(Vec<String>, Vec<String>);
    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
            self.1.push(self.0.join("."));
        }
    }
    for (config, path) in [
        (small(), "mid_block.attentions.0.to_q.weight"),
        (conditioned(), "mid_block.attentions.0.transformer_blocks.1.attn2.to_k.weight"),
    ] {
        let mut paths = Paths(vec![], vec![]);
        config.init(&Device::default()).visit(&mut paths);
        assert!(paths.1.iter().any(|found| found == path), "{path} is not in {:?}", paths.1);
    }
}
