//! The dense layer as an operation of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use super::kernel::{self, Along, Layer};
use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, tensor, values};
use crate::kept::wide;
use crate::precision::Precision;

/// The layer by the kernel; everything must be `f32` on flex.
pub(super) fn dense<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    along: Along,
    precision: Precision,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as DenseOps>::dense_layer(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        along,
        precision,
    ))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait DenseOps: Backend {
    fn dense_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        along: Along,
        precision: Precision,
    ) -> FloatTensor<Self>;
}

impl DenseOps for Flex {
    fn dense_layer(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        along: Along,
        precision: Precision,
    ) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let mut shape = x.shape();
        let layer = layer(&shape, &weight.shape(), along, precision);
        let y = time(Operation::Dense, || kernel::forward(&layer, values(&x), &wide(&weight), values(&bias)));
        let dimension = match along {
            Along::Last => shape.num_dims() - 1,
            Along::Channels => 1,
        };
        shape[dimension] = layer.outputs;
        tensor(y, shape)
    }
}

impl<C: CheckpointStrategy> DenseOps for Autodiff<Flex, C> {
    fn dense_layer(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        along: Along,
        precision: Precision,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        match DenseLayer.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // The values of the bias play no part in any gradient.
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&weight)];
                let y = Flex::dense_layer(
                    x.into_primitive(),
                    weight.into_primitive(),
                    bias.into_primitive(),
                    along,
                    precision,
                );
                prep.finish(Saved { inputs, along, precision }, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::dense_layer(
                x.into_primitive(),
                weight.into_primitive(),
                bias.into_primitive(),
                along,
                precision,
            )),
        }
    }
}

/// What the backward pass needs. Input and weight are Burn's to keep or to recompute.
#[derive(Clone, Debug)]
struct Saved {
    inputs: [NodeId; 2],
    along: Along,
    precision: Precision,
}

#[derive(Debug)]
struct DenseLayer;

impl Backward<Flex, 3> for DenseLayer {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, along, precision } = ops.state;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, weight] = inputs.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));
        let layer = layer(&x.shape(), &weight.shape(), along, precision);
        let asked = ops.parents.each_ref().map(Option::is_some);
        let gradients = time(Operation::DenseBackward, || {
            kernel::backward(&layer, values(&x), values(&weight), values(&dy), asked)
        });
        let shapes = [x.shape(), weight.shape(), Shape::from([layer.outputs])];
        let gradients = [gradients.input, gradients.weight, gradients.bias];
        for ((node, gradient), shape) in ops.parents.into_iter().zip(gradients).zip(shapes) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, tensor(gradient, shape));
            }
        }
    }
}

fn layer(x: &Shape, weight: &Shape, along: Along, precision: Precision) -> Layer {
    let [inputs, outputs] = [weight[0], weight[1]];
    let (batch, pixels) = match along {
        Along::Last => (x.num_elements() / inputs, 1),
        Along::Channels => (x[0], x[2] * x[3]),
    };
    Layer { operands: precision.into(), along, batch, inputs, outputs, pixels }
}
