//! The fused normalisation as an operation of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Dims};
use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, tensor, values, values_mut};

/// `gamma * norm(x) + beta` by the kernel, of `[groups, rows, channels]` with parameters `[groups, channels]`; all must be `f32`
/// on flex.
pub(super) fn layer_norm(x: Tensor<3>, gamma: Tensor<2>, beta: Tensor<2>, epsilon: f64) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as LayerNormOps>::row_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon,
    ))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait LayerNormOps: Backend {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
}

impl LayerNormOps for Flex {
    fn row_norm(x: FlexTensor, gamma: FlexTensor, beta: FlexTensor, epsilon: f64) -> FlexTensor {
        let [x, gamma, beta] = [x, gamma, beta].map(contiguous);
        let shape = x.shape();
        let y = time(Operation::LayerNorm, || {
            kernel::forward(&dims(&shape), values(&x), values(&gamma), values(&beta), epsilon)
        });
        tensor(y, shape)
    }
}

impl<C: CheckpointStrategy> LayerNormOps for Autodiff<Flex, C> {
    fn row_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        // Cheaper to compute again than to keep, where memory is to be saved.
        let again = Again { inputs: nodes.each_ref().map(|node| node.id()), epsilon };
        let prep = FusedLayerNorm.prepare::<C>(nodes).memory_bound().retro_forward(again);
        match prep.parents([&x, &gamma, &beta]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&gamma)];
                let y = Flex::row_norm(x.into_primitive(), gamma.into_primitive(), beta.into_primitive(), epsilon);
                prep.finish((inputs, epsilon), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(<Flex as LayerNormOps>::row_norm(
                x.into_primitive(),
                gamma.into_primitive(),
                beta.into_primitive(),
                epsilon,
            )),
        }
    }
}

/// How the output is computed again.
#[derive(Debug)]
struct Again {
    inputs: [NodeId; 3],
    epsilon: f64,
}

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [x, gamma, beta] = self.inputs.map(|id| states.get_state::<FlexTensor>(&id));
        states.save(out_node, Flex::row_norm(x, gamma, beta, self.epsilon));
    }
}

#[derive(Debug)]
struct FusedLayerNorm;

impl Backward<Flex, 3> for FusedLayerNorm {
    /// Input and scale, which are Burn's to keep or to recompute, and epsilon.
    type State = ([NodeId; 2], f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (inputs, epsilon) = ops.state;
        let mut dx = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, gamma] = inputs.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));
        let (dims, parameters) = (dims(&x.shape()), gamma.shape());
        let gradients = time(Operation::LayerNormBackward, || {
            kernel::backward(&dims, values(&x), values(&gamma), epsilon, values_mut(&mut dx))
        });
        let [x_node, gamma_node, beta_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, dx);
        }
        for (node, gradient) in [(gamma_node, gradients.gamma), (beta_node, gradients.beta)] {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, parameters.clone()));
            }
        }
    }
}

fn dims(shape: &Shape) -> Dims {
    Dims { rows: shape[1], channels: shape[2] }
}
