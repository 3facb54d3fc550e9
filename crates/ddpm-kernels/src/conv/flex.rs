//! The convolution as an operation of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use super::general::Geometry;
use super::kernel;
use crate::flex::{FlexTensor, contiguous, tensor, values};
use crate::kept::wide;
use crate::precision::Precision;

/// The convolution by the kernel; everything must be `f32` on flex.
pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    geometry: Geometry,
    precision: Precision,
) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as ConvOps>::convolve(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        geometry,
        precision,
    ))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait ConvOps: Backend {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl ConvOps for Flex {
    fn convolve(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        geometry: Geometry,
        precision: Precision,
    ) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let y = kernel::forward(precision.into(), &geometry, values(&x), &wide(&weight), values(&bias));
        let [height, width] = geometry.output().unwrap_or_default();
        tensor(y, [geometry.batch, geometry.channels_out, height, width])
    }
}

impl<C: CheckpointStrategy> ConvOps for Autodiff<Flex, C> {
    fn convolve(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        geometry: Geometry,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match FusedConv.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // The values of the bias play no part in any gradient.
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&weight)];
                let y = Flex::convolve(
                    x.into_primitive(),
                    weight.into_primitive(),
                    bias.into_primitive(),
                    geometry,
                    precision,
                );
                prep.finish((inputs, geometry, precision), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::convolve(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                geometry,
                precision,
            )),
        }
    }
}

#[derive(Debug)]
struct FusedConv;

impl Backward<Flex, 3> for FusedConv {
    /// Input and weight, which are Burn's to keep or to recompute, and the sizes and precision of the forward pass.
    type State = ([NodeId; 2], Geometry, Precision);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (inputs, geometry, precision) = ops.state;
        let [x, weight] = inputs.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));

        let asked = ops.parents.each_ref().map(Option::is_some);
        let gradients = kernel::backward(precision.into(), &geometry, values(&x), values(&weight), values(&dy), asked);
        let [x_node, weight_node, bias_node] = ops.parents;
        let shapes = [x.shape(), weight.shape(), Shape::from([geometry.channels_out])];
        let of_parents = [(x_node, gradients.input), (weight_node, gradients.weight), (bias_node, gradients.bias)];
        for ((node, gradient), shape) in of_parents.into_iter().zip(shapes) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}
