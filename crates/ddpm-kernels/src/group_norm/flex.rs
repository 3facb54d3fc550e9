//! The fused normalisation as an operation of Burn.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::nn::GroupNorm;
use burn::tensor::{Shape, Tensor};

use super::Activation;
use super::kernel::{self, Dims, Statistics};
use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, tensor, values, values_mut};

/// `activation(norm(x))` by the kernel; `x` and the parameters must be `f32` on flex.
pub(super) fn group_norm<const D: usize>(
    norm: &GroupNorm,
    (gamma, beta): (Tensor<1>, Tensor<1>),
    x: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as GroupNormOps>::group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        norm.num_groups,
        norm.epsilon,
        activation,
    ))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait GroupNormOps: Backend {
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

impl GroupNormOps for Flex {
    fn group_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        groups: usize,
        epsilon: f64,
        activation: Activation,
    ) -> FlexTensor {
        forward(x, gamma, beta, groups, epsilon, activation).0
    }
}

impl<C: CheckpointStrategy> GroupNormOps for Autodiff<Flex, C> {
    fn group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        groups: usize,
        epsilon: f64,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        // Cheaper to compute again than to keep, where memory is to be saved.
        let again = Again { inputs: nodes.each_ref().map(|node| node.id()), groups, epsilon, activation };
        let prep = FusedGroupNorm.prepare::<C>(nodes).memory_bound().retro_forward(again);
        match prep.parents([&x, &gamma, &beta]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&gamma), prep.checkpoint(&beta)];
                let (y, statistics) = forward(
                    x.into_primitive(),
                    gamma.into_primitive(),
                    beta.into_primitive(),
                    groups,
                    epsilon,
                    activation,
                );
                let saved = Saved { inputs, statistics: Arc::new(statistics), groups, activation };
                prep.finish(saved, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(<Flex as GroupNormOps>::group_norm(
                x.into_primitive(),
                gamma.into_primitive(),
                beta.into_primitive(),
                groups,
                epsilon,
                activation,
            )),
        }
    }
}

/// What the backward pass needs. The inputs are Burn's to keep or to recompute.
#[derive(Clone, Debug)]
struct Saved {
    inputs: [NodeId; 3],
    statistics: Arc<Vec<Statistics>>,
    groups: usize,
    activation: Activation,
}

/// How the output is computed again.
#[derive(Debug)]
struct Again {
    inputs: [NodeId; 3],
    groups: usize,
    epsilon: f64,
    activation: Activation,
}

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [x, gamma, beta] = self.inputs.map(|id| states.get_state::<FlexTensor>(&id));
        states.save(out_node, Flex::group_norm(x, gamma, beta, self.groups, self.epsilon, self.activation));
    }
}

#[derive(Debug)]
struct FusedGroupNorm;

impl Backward<Flex, 3> for FusedGroupNorm {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, statistics, groups, activation } = ops.state;
        let mut dx = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, gamma, beta] = inputs.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));
        let shape = x.shape();
        let channels = shape[1];
        let dims = dims(&shape, groups);
        let gradients = time(Operation::NormBackward, || {
            kernel::backward(
                &dims,
                values(&x),
                values(&gamma),
                values(&beta),
                &statistics,
                values_mut(&mut dx),
                activation,
            )
        });

        let [x_node, gamma_node, beta_node] = ops.parents;
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, dx);
        }
        if let Some(node) = gamma_node {
            grads.register::<Flex>(node.id, tensor(gradients.gamma, [channels]));
        }
        if let Some(node) = beta_node {
            grads.register::<Flex>(node.id, tensor(gradients.beta, [channels]));
        }
    }
}

fn forward(
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    groups: usize,
    epsilon: f64,
    activation: Activation,
) -> (FlexTensor, Vec<Statistics>) {
    let [x, gamma, beta] = [x, gamma, beta].map(contiguous);
    let shape = x.shape();
    let dims = dims(&shape, groups);
    let (y, statistics) = time(Operation::NormForward, || {
        kernel::forward(&dims, values(&x), values(&gamma), values(&beta), epsilon, activation)
    });
    (tensor(y, shape), statistics)
}

fn dims(shape: &Shape, groups: usize) -> Dims {
    let plane = shape.as_slice()[2..].iter().product();
    Dims { batch: shape[0], channels: shape[1], plane, groups }
}
