//! GELU as an operation of Burn.

use std::f32::consts::FRAC_1_SQRT_2;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, tensor, values, values_mut};
use crate::simd::{exp, vectorised};

/// Values of a task.
const TASK_VALUES: usize = 16 * 1024;

/// GELU by the kernel; `x` must be `f32` on flex.
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GeluOps>::exact_gelu(x.into_dispatch()))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait GeluOps: Backend {
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl GeluOps for Flex {
    fn exact_gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        let shape = x.shape();
        let mut y = vec![0.0; shape.num_elements()];
        time(Operation::Gelu, || forward(values(&x), &mut y));
        tensor(y, shape)
    }
}

fn forward(x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(TASK_VALUES).zip(x.par_chunks(TASK_VALUES)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * normal_cdf(x)),
        );
    });
}

/// Replaces the gradients of the output by those of the input.
fn backward(x: &[f32], gradient: &mut [f32]) {
    gradient.par_chunks_mut(TASK_VALUES).zip(x.par_chunks(TASK_VALUES)).for_each(|(gradient, x)| {
        vectorised(
            #[inline(always)]
            || gradient.iter_mut().zip(x).for_each(|(gradient, &x)| *gradient *= slope(x)),
        );
    });
}

/// The derivative of `x Phi(x)`.
#[inline(always)]
pub(crate) fn slope(x: f32) -> f32 {
    const DENSITY_AT_0: f32 = 0.398_942_3;
    normal_cdf(x) + x * DENSITY_AT_0 * exp(-0.5 * x * x)
}

/// The share of a standard normal distribution below `x`.
#[inline(always)]
pub(crate) fn normal_cdf(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * FRAC_1_SQRT_2)
}

/// The error function, within 5e-7 of the exact value. NaN stays NaN.
#[inline(always)]
fn erf(x: f32) -> f32 {
    // The rational minimax approximation of Eigen and XLA.
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142_3e-10;
    above = above * square + 2.770_681_4e-8;
    above = above * square - 2.101_024_1e-6;
    above = above * square - 5.692_506_5e-5;
    above = above * square - 7.349_906_5e-4;
    above = above * square - 2.954_6e-3;
    above = above * square - 1.609_603_3e-2;
    let mut below = -1.456_607_2e-5;
    below = below * square - 2.133_740_6e-4;
    below = below * square - 1.682_827e-3;
    below = below * square - 7.373_329e-3;
    below = below * square - 1.426_473_9e-2;
    x * above / below
}

impl<C: CheckpointStrategy> GeluOps for Autodiff<Flex, C> {
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let node = x.node();
        let again = Again(node.id());
        // Cheaper to compute again than to keep, where memory is to be saved.
        let prep = ExactGelu.prepare::<C>([node]).memory_bound().retro_forward(again);
        match prep.parents([&x]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let input = prep.checkpoint(&x);
                prep.finish(input, Flex::exact_gelu(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::exact_gelu(x.into_primitive())),
        }
    }
}

/// How the output is computed again.
#[derive(Debug)]
struct Again(NodeId);

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let x = states.get_state::<FlexTensor>(&self.0);
        states.save(out_node, Flex::exact_gelu(x));
    }
}

#[derive(Debug)]
struct ExactGelu;

impl Backward<Flex, 1> for ExactGelu {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let mut gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let x = contiguous(checkpointer.retrieve_node_output::<FlexTensor>(ops.state));
        time(Operation::GeluBackward, || backward(values(&x), values_mut(&mut gradient)));
        for node in ops.parents.into_iter().flatten() {
            grads.register::<Flex>(node.id, gradient.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_keeps_its_limits_and_nan() {
        assert_eq!(erf(0.0), 0.0);
        assert!((erf(f32::INFINITY) - 1.0).abs() < 1e-6 && (erf(-30.0) + 1.0).abs() < 1e-6);
        assert!(erf(f32::NAN).is_nan());
        // erf(1) and erf(0.5), from tables.
        assert!((f64::from(erf(1.0)) - 0.842_700_792_949_714_9).abs() < 2e-7);
        assert!((f64::from(erf(-0.5)) + 0.520_499_877_813_046_5).abs() < 2e-7);
    }
}
