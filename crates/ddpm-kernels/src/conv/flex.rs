//! The convolution as an operation of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Dims};
use crate::flex::{FlexTensor, contiguous, tensor, values};
use crate::precision::Precision;

/// The convolution by the kernel; everything must be `f32` on flex.
pub(super) fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>, _precision: Precision) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as ConvOps>::conv_same(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait ConvOps: Backend {
    fn conv_same(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl ConvOps for Flex {
    fn conv_same(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let dims = dims(&x.shape(), &weight.shape());
        let y = kernel::forward(&dims, values(&x), values(&weight), values(&bias));
        tensor(y, [dims.batch, dims.channels_out, dims.height, dims.width])
    }
}

impl<C: CheckpointStrategy> ConvOps for Autodiff<Flex, C> {
    fn conv_same(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match FusedConv.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // The values of the bias play no part in any gradient.
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&weight)];
                let y =
                    <Flex as ConvOps>::conv_same(x.into_primitive(), weight.into_primitive(), bias.into_primitive());
                prep.finish(inputs, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(<Flex as ConvOps>::conv_same(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
            )),
        }
    }
}

#[derive(Debug)]
struct FusedConv;

impl Backward<Flex, 3> for FusedConv {
    /// Input and weight, which are Burn's to keep or to recompute.
    type State = [NodeId; 2];

    fn backward(self, ops: Ops<[NodeId; 2], 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, weight] = ops.state.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));
        let dims = dims(&x.shape(), &weight.shape());

        let asked = ops.parents.each_ref().map(Option::is_some);
        let gradients = kernel::backward(&dims, values(&x), values(&weight), values(&dy), asked);
        let [x_node, weight_node, bias_node] = ops.parents;
        let shapes = [x.shape(), weight.shape(), Shape::from([dims.channels_out])];
        let of_parents = [(x_node, gradients.input), (weight_node, gradients.weight), (bias_node, gradients.bias)];
        for ((node, gradient), shape) in of_parents.into_iter().zip(shapes) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}

fn dims(x: &Shape, weight: &Shape) -> Dims {
    Dims {
        batch: x[0],
        channels_in: weight[1],
        channels_out: weight[0],
        height: x[2],
        width: x[3],
        kernel_width: weight[3],
    }
}
