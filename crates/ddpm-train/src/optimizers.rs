//! The optimisers behind one section of the config: our Adam, and Burn's for the rest, with every constant stated, because
//! Burn's defaults are not always those of the papers.

use burn::module::{Module, ParamGroup};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{
    AdaGradConfig, AdafactorConfig, AdamWConfig, AdanConfig, AdjustLrFn, LambConfig, LearningRate, LionConfig,
    ModuleOptimizer, Muon, MuonConfig, MuonState, Optimizer, RmsPropConfig, SgdConfig,
};
use burn::tensor::{Device, Tensor};
use ddpm_families::parameters::{Parameter, parameters};

use crate::adam::Adam;
use crate::config::{OptimizerConfig, OptimizerKind};

impl OptimizerKind {
    /// The constants that the rule reads, with the values of its paper.
    pub fn constants(self) -> &'static [(&'static str, f64)] {
        match self {
            Self::Adam => &[("beta_1", 0.9), ("beta_2", 0.999), ("epsilon", 1e-8)],
            Self::AdamW => &[("beta_1", 0.9), ("beta_2", 0.999), ("epsilon", 1e-8), ("weight_decay", 0.0)],
            Self::Sgd => &[("momentum", 0.0), ("nesterov", 0.0), ("weight_decay", 0.0)],
            Self::RmsProp => &[("beta_2", 0.99), ("momentum", 0.0), ("epsilon", 1e-8), ("weight_decay", 0.0)],
            Self::AdaGrad => &[("epsilon", 1e-10), ("weight_decay", 0.0)],
            Self::Adan => {
                &[("beta_1", 0.98), ("beta_2", 0.92), ("beta_3", 0.99), ("epsilon", 1e-8), ("weight_decay", 0.0)]
            }
            Self::Lamb => &[("beta_1", 0.9), ("beta_2", 0.999), ("epsilon", 1e-6), ("weight_decay", 0.0)],
            Self::Lion => &[("beta_1", 0.9), ("beta_2", 0.99), ("weight_decay", 0.0)],
            Self::Adafactor => &[("weight_decay", 0.0)],
            Self::Muon => &[
                ("momentum", 0.95),
                ("nesterov", 1.0),
                ("beta_1", 0.9),
                ("beta_2", 0.999),
                ("epsilon", 1e-8),
                ("weight_decay", 0.0),
            ],
        }
    }
}

impl OptimizerConfig {
    /// The config with the constants that its rule reads filled in where they were left out.
    pub fn resolved(mut self) -> Self {
        for &(key, value) in self.kind.constants() {
            let constant = match key {
                "beta_1" => &mut self.beta_1,
                "beta_2" => &mut self.beta_2,
                "beta_3" => &mut self.beta_3,
                "momentum" => &mut self.momentum,
                "epsilon" => &mut self.epsilon,
                "weight_decay" => &mut self.weight_decay,
                _ => {
                    self.nesterov.get_or_insert(value != 0.0);
                    continue;
                }
            };
            constant.get_or_insert(value);
        }
        self
    }

    /// What is wrong with the constants, each with its key.
    pub fn constant_problems(&self) -> Vec<(&'static str, String)> {
        let known = self.kind.constants();
        let nesterov = self.nesterov.map(|nesterov| f64::from(u8::from(nesterov)));
        let given = [
            ("beta_1", self.beta_1),
            ("beta_2", self.beta_2),
            ("beta_3", self.beta_3),
            ("momentum", self.momentum),
            ("nesterov", nesterov),
            ("epsilon", self.epsilon),
            ("weight_decay", self.weight_decay),
        ];
        let mut problems = Vec::new();
        for (key, value) in given.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            let share = key.starts_with("beta") || key == "momentum";
            // Older versions wrote a decay of 0 where there was none.
            if known.iter().all(|(name, _)| *name != key) && (key, value) != ("weight_decay", 0.0) {
                let read: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                problems.push((key, format!("is no constant of this kind, which has {}", read.join(", "))));
            } else if share && !(0.0..1.0).contains(&value) {
                problems.push((key, format!("must lie in [0, 1), not {value}")));
            } else if !(value >= 0.0 && value.is_finite()) {
                problems.push((key, format!("must not be negative, but is {value}")));
            }
        }
        if self.kind == OptimizerKind::Sgd && self.nesterov == Some(true) && self.momentum.unwrap_or(0.0) == 0.0 {
            problems.push(("nesterov", "looks ahead along the momentum, which is 0".into()));
        }
        problems
    }

    /// The optimiser of a network whose parameters have their final ids.
    pub fn init<M: Module>(&self, network: &M) -> ModuleOptimizer {
        let config = self.clone().resolved();
        let of = |constant: Option<f64>| constant.unwrap_or_default() as f32;
        let [beta_1, beta_2, epsilon] = [config.beta_1, config.beta_2, config.epsilon].map(of);
        let weight_decay = of(config.weight_decay);
        // Added to the gradient, as these rules have it.
        let l2 = (weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay));
        let momentum = MomentumConfig::new()
            .with_momentum(config.momentum.unwrap_or_default())
            .with_dampening(0.0)
            .with_nesterov(config.nesterov.unwrap_or_default());
        let adam_w = AdamWConfig::new()
            .with_beta_1(beta_1)
            .with_beta_2(beta_2)
            .with_epsilon(epsilon)
            .with_weight_decay(weight_decay);
        match self.kind {
            OptimizerKind::Adam => Adam { beta_1, beta_2, epsilon }.into(),
            OptimizerKind::AdamW => adam_w.init(),
            OptimizerKind::Sgd => {
                let momentum = (momentum.momentum > 0.0).then_some(momentum);
                SgdConfig::new().with_momentum(momentum).with_weight_decay(l2).init()
            }
            OptimizerKind::RmsProp => RmsPropConfig::new()
                .with_alpha(beta_2)
                .with_momentum(of(config.momentum))
                .with_epsilon(epsilon)
                .with_weight_decay(l2)
                .init(),
            OptimizerKind::AdaGrad => AdaGradConfig::new().with_epsilon(epsilon).with_weight_decay(l2).init(),
            OptimizerKind::Adan => AdanConfig::new()
                .with_beta_1(beta_1)
                .with_beta_2(beta_2)
                .with_beta_3(of(config.beta_3))
                .with_epsilon(epsilon)
                .with_weight_decay(weight_decay)
                .init(),
            OptimizerKind::Lamb => LambConfig::new()
                .with_beta_1(beta_1)
                .with_beta_2(beta_2)
                .with_epsilon(epsilon)
                .with_weight_decay(weight_decay)
                .init(),
            OptimizerKind::Lion => {
                LionConfig::new().with_beta_1(beta_1).with_beta_2(beta_2).with_weight_decay(weight_decay).init()
            }
            // The schedule is ours: Burn's own cap of one over the root of the step would be a second one.
            OptimizerKind::Adafactor => {
                AdafactorConfig::new().with_relative_step(false).with_weight_decay(weight_decay).init()
            }
            OptimizerKind::Muon => {
                // Updates of the size of AdamW's, so that one rate suits both halves.
                let muon = MuonConfig::new()
                    .with_momentum(momentum)
                    .with_weight_decay((weight_decay > 0.0).then(|| WeightDecayConfig::new(weight_decay)))
                    .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW);
                adam_w.init().with_group(matrices(network), AsMatrix(muon.build()), None)
            }
        }
    }
}

/// The weights that multiply: matrices and the kernels of convolutions, but not tables of classes.
fn matrices<M: Module>(network: &M) -> ParamGroup {
    let multiplies =
        |parameter: &Parameter| parameter.shape.len() >= 2 && !parameter.name.starts_with("class_embedding");
    ParamGroup::from_ids(parameters(network).into_iter().filter(multiplies).map(|parameter| parameter.id).collect())
}

/// Muon for weights of any rank from 2 on: the first axis by all the others together, as its author does with
/// convolutions.
#[derive(Clone)]
struct AsMatrix(Muon);

impl Optimizer for AsMatrix {
    type State<const D: usize> = MuonState<2>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<MuonState<2>>,
    ) -> (Tensor<D>, Option<MuonState<2>>) {
        let shape = tensor.dims();
        let matrix = |x: Tensor<D>| x.reshape([shape[0] as i32, -1]);
        let (tensor, state) = self.0.step::<2>(rate, matrix(tensor), matrix(grad), state);
        (tensor.reshape(shape), state)
    }

    fn to_device<const D: usize>(state: MuonState<2>, device: &Device) -> MuonState<2> {
        Muon::to_device::<2>(state, device)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::optim::{GradientsParams, OptimizerRecord};
    use burn::tensor::{Distribution, TensorData};
    use ddpm_data::random::{Stream, normals, rng};
    use ddpm_model::condition::Condition;
    use ddpm_model::network::{Network, NetworkConfig};
    use ddpm_model::point_mlp::PointMlpConfig;
    use ddpm_model::unet::UNetConfig;

    use super::*;
    use ddpm_families::parameters::settle;
    use ddpm_testing::drawn::drawn;

    const KINDS: [(OptimizerKind, f64); 10] = [
        (OptimizerKind::Adam, 1e-2),
        (OptimizerKind::AdamW, 1e-2),
        (OptimizerKind::Sgd, 5e-2),
        (OptimizerKind::RmsProp, 1e-3),
        (OptimizerKind::AdaGrad, 3e-2),
        (OptimizerKind::Adan, 1e-2),
        (OptimizerKind::Lamb, 1e-2),
        (OptimizerKind::Lion, 1e-2),
        (OptimizerKind::Adafactor, 1e-1),
        (OptimizerKind::Muon, 1e-2),
    ];

    const STEPS: usize = 200;

    fn points(device: &Device) -> Network {
        let config = PointMlpConfig { hidden: vec![16], embedding_width: 8, classes: 2, ..PointMlpConfig::default() };
        drawn(settle(NetworkConfig::PointMlp(config).with_io(&[2], 2).init(device)), 0.4)
    }

    /// Learns to swap the coordinates of fixed points, and gives the losses and the network.
    fn learn(mut network: Network, config: &OptimizerConfig, stop_at: Option<usize>) -> (Vec<f64>, Network) {
        let device = Device::default().autodiff();
        let x = TensorData::new(normals(&mut rng(7, Stream::Noise, 0), 128), [64, 2]);
        let x = Tensor::<2>::from_data(x, &Device::default());
        let (x, wanted) = (x.clone().autodiff(), x.flip([1]).autodiff());
        let t = Tensor::<1>::zeros([64], &device);
        let mut optimizer = config.init(&network);
        let mut losses = Vec::new();
        for step in 0..STEPS {
            let y = network.forward(x.clone(), t.clone(), &Condition::None);
            let loss = (y - wanted.clone()).square().mean();
            losses.push(loss.clone().into_scalar::<f64>());
            let grads = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(config.learning_rate, network, grads);
            if stop_at == Some(step) {
                let bytes = optimizer.to_record().into_bytes().unwrap();
                optimizer = config.init(&network).load_record(OptimizerRecord::from_bytes(bytes).unwrap());
            }
        }
        (losses, network)
    }

    fn bits(network: &Network) -> Vec<u8> {
        network.clone().into_record().into_bytes().unwrap().to_vec()
    }

    #[test]
    fn every_rule_learns_and_goes_on_from_its_record() {
        let start = points(&Device::default().autodiff());
        for (kind, learning_rate) in KINDS {
            let config = OptimizerConfig { kind, learning_rate, ..OptimizerConfig::default() };
            let momentum = (kind == OptimizerKind::Sgd).then_some(0.9);
            let slower = learning_rate / if momentum.is_some() { 5.0 } else { 1.0 };
            let other = OptimizerConfig { momentum, weight_decay: Some(1e-3), learning_rate: slower, ..config.clone() };
            for config in [config, other] {
                let (losses, whole) = learn(start.clone(), &config, None);
                let (first, last) = (losses[0], losses[STEPS - 1]);
                assert!(last < 0.7 * first, "{kind:?}: from {first} to {last}");
                let (_, resumed) = learn(start.clone(), &config, Some(20));
                assert!(bits(&whole) == bits(&resumed), "{kind:?} differs after it was taken up again");
            }
        }
    }

    #[test]
    fn constants_of_other_rules_and_impossible_ones_are_told() {
        let keys = |config: OptimizerConfig| -> Vec<&str> {
            config.constant_problems().into_iter().map(|(key, _)| key).collect()
        };
        let of = |kind| OptimizerConfig { kind, ..OptimizerConfig::default() };
        for (kind, _) in KINDS {
            assert_eq!(keys(of(kind).resolved()), [""; 0], "{kind:?}");
        }
        let all = |kind| OptimizerConfig {
            beta_1: Some(1.0),
            beta_2: Some(0.5),
            beta_3: Some(-0.1),
            momentum: Some(2.0),
            epsilon: Some(f64::NAN),
            weight_decay: Some(-1.0),
            ..of(kind)
        };
        assert_eq!(keys(all(OptimizerKind::Adan)), ["beta_1", "beta_3", "momentum", "epsilon", "weight_decay"]);
        assert_eq!(keys(OptimizerConfig { beta_3: Some(0.9), ..of(OptimizerKind::Adam) }), ["beta_3"]);
        // What older versions wrote for Adam.
        assert_eq!(keys(OptimizerConfig { weight_decay: Some(0.0), ..of(OptimizerKind::Adam) }), [""; 0]);
        assert_eq!(keys(OptimizerConfig { weight_decay: Some(0.1), ..of(OptimizerKind::Adam) }), ["weight_decay"]);
        assert_eq!(keys(OptimizerConfig { nesterov: Some(true), ..of(OptimizerKind::Sgd) }), ["nesterov"]);
    }

    /// What one step does to a weight of a U-Net, as a matrix of its first axis by the others.
    fn row_norms_after_muon(layer: &str) -> Vec<f64> {
        let device = Device::default().autodiff();
        device.seed(5);
        let config = UNetConfig {
            base_channels: 4,
            multipliers: vec![1.0],
            attention_resolutions: vec![],
            blocks_per_level: 1,
            norm_groups: 2,
            ..UNetConfig::default()
        };
        let network = settle(NetworkConfig::UNet(config).with_io(&[1, 4, 4], 1).init(&device));
        let weight = parameters(&network).into_iter().find(|parameter| parameter.name == layer).unwrap();
        let (rows, columns) = (weight.shape[0], weight.len() / weight.shape[0]);
        let grad = Tensor::<4>::random(
            [weight.shape[0], weight.shape[1], weight.shape[2], weight.shape[3]],
            Distribution::Normal(0.0, 1.0),
            &device.clone().without_autodiff(),
        );
        let mut grads = GradientsParams::new();
        grads.register(weight.id, grad);
        let config = OptimizerConfig { kind: OptimizerKind::Muon, learning_rate: 1.0, ..OptimizerConfig::default() };
        let before = Take::from(&network, weight.id);
        let after = Take::from(&config.init(&network).step(1.0, network, grads), weight.id);
        let step: Vec<f64> =
            before.iter().zip(&after).map(|(a, b)| (a - b) / (0.2 * (rows.max(columns) as f64).sqrt())).collect();
        // The diagonal of the product with its own transpose: squared norms of the rows, 1 if these are orthonormal.
        (0..rows).map(|row| step[row * columns..][..columns].iter().map(|x| x * x).sum::<f64>()).collect()
    }

    struct Take(burn::module::ParamId, Vec<f64>);

    impl Take {
        fn from(network: &Network, id: burn::module::ParamId) -> Vec<f64> {
            let mut take = Self(id, Vec::new());
            network.visit(&mut take);
            take.1
        }
    }

    impl burn::module::ModuleVisitor for Take {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
            if param.id == self.0 {
                self.1 = param.val().into_data().iter::<f64>().collect();
            }
        }
    }

    #[test]
    fn muon_makes_the_rows_of_a_convolution_orthonormal() {
        // Its five iterations of Newton and Schulz bring singular values between about 0.7 and 1.2.
        for square in row_norms_after_muon("mid_block.resnets.0.conv1.weight") {
            assert!((0.4..1.5).contains(&square), "{square}");
        }
    }
}
