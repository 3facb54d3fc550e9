//! Adam in one pass over each parameter. Its state and its results are those of Burn's Adam, bit for bit, so that
//! either goes on from the other's checkpoints.

use burn::optim::{AdamState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};
use ddpm_kernels::weights::{AdamStep, adam};

/// Adam (Kingma & Ba 2015) with its constants.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

impl Optimizer for Adam {
    type State<const D: usize> = AdamState<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamState<D>>,
    ) -> (Tensor<D>, Option<AdamState<D>>) {
        let (time, moments) = match state.map(|state| state.momentum) {
            Some(momentum) => (momentum.time + 1, [momentum.moment_1, momentum.moment_2]),
            None => (1, [tensor.zeros_like(), tensor.zeros_like()]),
        };
        let Self { beta_1, beta_2, epsilon } = *self;
        let step = AdamStep { beta_1, beta_2, epsilon, rate, time };
        let (tensor, [moment_1, moment_2]) = adam(tensor, grad, moments, &step);
        (tensor, Some(AdamState::new(AdaptiveMomentumState::new(time, moment_1, moment_2))))
    }

    fn to_device<const D: usize>(mut state: AdamState<D>, device: &Device) -> AdamState<D> {
        state.momentum = state.momentum.to_device(device);
        state
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
    use burn::tensor::Distribution;

    use super::*;
    use ddpm_families::parameters::settle;

    fn bits(linear: &Linear) -> Vec<u32> {
        let values: Vec<f32> = linear.weight.val().into_data().try_to_vec().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn it_goes_on_from_burns_records_and_burn_from_its_own() {
        let device = Device::default().autodiff();
        let start: Linear = settle(LinearConfig::new(40, 30).init(&device));
        let ours = || ModuleOptimizer::from(Adam { beta_1: 0.8, beta_2: 0.99, epsilon: 1e-6 });
        let burns = || AdamConfig::new().with_beta_1(0.8).with_beta_2(0.99).with_epsilon(1e-6).init();
        let gradients: Vec<_> =
            (0..6).map(|_| Tensor::<2>::random([40, 30], Distribution::Normal(0.0, 1.0), &Device::default())).collect();
        let steps = |mut optimizer: ModuleOptimizer, mut linear: Linear, gradients: &[Tensor<2>]| {
            for gradient in gradients {
                let mut grads = GradientsParams::new();
                grads.register(linear.weight.id, gradient.clone());
                linear = optimizer.step(1e-2, linear, grads);
            }
            (optimizer, linear)
        };
        let (_, expected) = steps(burns(), start.clone(), &gradients);
        let makers: [[&dyn Fn() -> ModuleOptimizer; 2]; 2] = [[&burns, &ours], [&ours, &burns]];
        for [first, second] in makers {
            let (before, linear) = steps(first(), start.clone(), &gradients[..3]);
            let after = second().load_record(before.to_record());
            let (_, found) = steps(after, linear, &gradients[3..]);
            assert_eq!(bits(&found), bits(&expected));
        }
    }
}
