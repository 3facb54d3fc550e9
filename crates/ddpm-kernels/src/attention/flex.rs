//! Attention as an operation of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Dims};
use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, tensor, values};
use crate::precision::Precision;

/// Attention by the kernel; everything must be `f32` on flex, keys and values of one shape.
pub(super) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, precision: Precision) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as AttentionOps>::fused_attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        precision,
    ))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait AttentionOps: Backend {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl AttentionOps for Flex {
    fn fused_attention(q: FlexTensor, k: FlexTensor, v: FlexTensor, precision: Precision) -> FlexTensor {
        let [q, k, v] = [q, k, v].map(contiguous);
        let shape = q.shape();
        let dims = dims(&shape, &k.shape(), precision);
        let y = time(Operation::Attention, || kernel::forward(&dims, values(&q), values(&k), values(&v)));
        tensor(y, shape)
    }
}

impl<C: CheckpointStrategy> AttentionOps for Autodiff<Flex, C> {
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [q.node(), k.node(), v.node()];
        match FusedAttention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&q), prep.checkpoint(&k), prep.checkpoint(&v)];
                let y = Flex::fused_attention(q.into_primitive(), k.into_primitive(), v.into_primitive(), precision);
                prep.finish((inputs, precision), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::fused_attention(
                q.into_primitive(),
                k.into_primitive(),
                v.into_primitive(),
                precision,
            )),
        }
    }
}

#[derive(Debug)]
struct FusedAttention;

impl Backward<Flex, 3> for FusedAttention {
    /// The inputs, which are Burn's to keep or to recompute, and the precision of the forward pass.
    type State = ([NodeId; 3], Precision);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (inputs, precision) = ops.state;
        let [q, k, v] = inputs.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));
        let shapes = [q.shape(), k.shape(), v.shape()];
        let dims = dims(&shapes[0], &shapes[1], precision);
        let gradients = time(Operation::AttentionBackward, || {
            kernel::backward(&dims, values(&q), values(&k), values(&v), values(&dy))
        });
        let gradients = [gradients.q, gradients.k, gradients.v].into_iter().zip(shapes);
        for (node, (gradient, shape)) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}

fn dims(queries: &Shape, keys: &Shape, precision: Precision) -> Dims {
    Dims { operands: precision.into(), queries: queries[3], keys: keys[3], width: queries[2] }
}
