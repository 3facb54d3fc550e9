//! LibTorch's own operations with LibTorch's own gradients, each as one operation of Burn.
//!
//! Burn asks LibTorch for values only and composes gradients of its own: that of a convolution's weight is then a convolution
//! with a kernel as large as the picture, and a normalisation is a dozen passes over memory both ways. Here LibTorch records
//! the operation, and differentiates it when Burn's backward pass gets there.
#![allow(deprecated, reason = "Burn calls its LibTorch backend that, as a whole")]

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::libtorch::TchTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, DispatchDevice, LibTorch, backend_extension};
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

/// Whether LibTorch computes there, with or without autodiff.
pub(crate) fn is_on_torch(device: &Device) -> bool {
    matches!(device.clone().without_autodiff().as_dispatch(), DispatchDevice::LibTorch(_))
}

/// The convolution, if it is one with a bias and the same padding on opposite sides, of a tensor that LibTorch holds.
pub(crate) fn conv2d(conv: &Conv2d, x: &Tensor<4>) -> Option<Tensor<4>> {
    let padding = match conv.padding {
        PaddingConfig2d::Valid => [0, 0],
        PaddingConfig2d::Explicit(top, left, bottom, right) if [top, left] == [bottom, right] => [top, left],
        _ => return None,
    };
    // A wrong number of channels is left to Burn, which names it.
    if !is_on_torch(&x.device()) || x.dims()[1] != conv.weight.dims()[1] * conv.groups {
        return None;
    }
    let bias = conv.bias.as_ref()?.val();
    let Conv2d { stride, dilation, groups, .. } = *conv;
    Some(native(x.clone(), conv.weight.val(), bias, Operation::Conv2d { stride, padding, dilation, groups }))
}

/// The dense layer of the channels of a tensor that LibTorch holds, if it has a bias: a convolution of width 1, which leaves
/// the channels where they are.
pub(crate) fn dense_channels(linear: &Linear, x: &Tensor<4>) -> Option<Tensor<4>> {
    let weight = linear.weight.val();
    let [inputs, outputs] = weight.dims();
    if !is_on_torch(&x.device()) || x.dims()[1] != inputs {
        return None;
    }
    let weight = weight.cast(x.dtype()).transpose().reshape([outputs, inputs, 1, 1]);
    let bias = linear.bias.as_ref()?.val().cast(x.dtype());
    Some(native(
        x.clone(),
        weight,
        bias,
        Operation::Conv2d { stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 },
    ))
}

/// `silu(norm(x))` or `norm(x)` with these parameters, all of which LibTorch must hold.
pub(crate) fn group_norm<const D: usize>(
    norm: &GroupNorm,
    (gamma, beta): (Tensor<1>, Tensor<1>),
    x: Tensor<D>,
    activated: bool,
) -> Tensor<D> {
    native(x, gamma, beta, Operation::GroupNorm { groups: norm.num_groups, epsilon: norm.epsilon, activated })
}

/// Attention of `[batch, heads, pixels, width]`, all of which LibTorch must hold.
pub(crate) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    native(q, k, v, Operation::Attention)
}

fn native<const A: usize, const B: usize, const C: usize>(
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
    operation: Operation,
) -> Tensor<A> {
    Tensor::from_dispatch(<Dispatch as TorchOps>::native(
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
        operation,
    ))
}

/// What LibTorch is asked to make of three tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// Of input, weight and bias.
    Conv2d { stride: [usize; 2], padding: [usize; 2], dilation: [usize; 2], groups: usize },
    /// Of input, scale and shift, with SiLU after it or without.
    GroupNorm { groups: usize, epsilon: f64, activated: bool },
    /// Of queries, keys and values.
    Attention,
}

impl Operation {
    fn apply(self, [a, b, c]: [&tch::Tensor; 3]) -> tch::Tensor {
        let both = |axes: [usize; 2]| axes.map(|axis| axis as i64);
        match self {
            Self::Conv2d { stride, padding, dilation, groups } => {
                a.conv2d(b, Some(c), both(stride), both(padding), both(dilation), groups as i64)
            }
            Self::GroupNorm { groups, epsilon, activated } => {
                let y = a.group_norm(groups as i64, Some(b), Some(c), epsilon, true);
                if activated { y.silu() } else { y }
            }
            Self::Attention => {
                tch::Tensor::scaled_dot_product_attention(a, b, c, None::<&tch::Tensor>, 0.0, false, None, false)
            }
        }
    }
}

#[backend_extension(LibTorch, Autodiff)]
pub(crate) trait TorchOps: Backend {
    fn native(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        operation: Operation,
    ) -> FloatTensor<Self>;
}

impl TorchOps for LibTorch {
    fn native(a: TchTensor, b: TchTensor, c: TchTensor, operation: Operation) -> TchTensor {
        TchTensor::new(operation.apply([&a.tensor, &b.tensor, &c.tensor]))
    }
}

impl<C: CheckpointStrategy> TorchOps for Autodiff<LibTorch, C> {
    fn native(
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        operation: Operation,
    ) -> FloatTensor<Self> {
        let inputs = [a, b, c];
        let tracked = inputs.each_ref().map(|input| input.is_tracked());
        match Recorded.prepare::<C>(inputs.each_ref().map(|input| input.node())).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let mut tracked = tracked.into_iter();
                let inputs = inputs.map(|input| leaf(&input.into_primitive(), tracked.next().unwrap_or_default()));
                let output = TchTensor::new(operation.apply(inputs.each_ref().map(|input| &input.tensor)));
                let y = leaf(&output, false);
                prep.finish(Recording { inputs, output }, y)
            }
            OpsKind::UnTracked(prep) => {
                let [a, b, c] = inputs.map(|input| input.into_primitive());
                prep.finish(LibTorch::native(a, b, c, operation))
            }
        }
    }
}

/// The same values outside LibTorch's graph, or at its beginning.
///
/// Both know of each other: Burn writes into a tensor only where nobody else holds it.
fn leaf(tensor: &TchTensor, tracked: bool) -> TchTensor {
    let values = tensor.tensor.detach();
    TchTensor { tensor: if tracked { values.set_requires_grad(true) } else { values }, storage: tensor.storage.clone() }
}

/// An operation that LibTorch has recorded.
#[derive(Clone, Debug)]
struct Recording {
    inputs: [TchTensor; 3],
    output: TchTensor,
}

#[derive(Debug)]
struct Recorded;

impl Backward<LibTorch, 3> for Recorded {
    type State = Recording;

    fn backward(self, ops: Ops<Recording, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = grads.consume::<LibTorch>(&ops.node).tensor;
        let Recording { inputs, output } = ops.state;
        // LibTorch differentiates a number. The gradients of this one are those of the output, times `dy`.
        let number = output.tensor.flatten(0, -1).dot(&dy.flatten(0, -1));
        let (nodes, inputs): (Vec<_>, Vec<_>) =
            ops.parents.into_iter().zip(&inputs).filter_map(|(node, input)| Some((node?, &input.tensor))).unzip();
        let gradients = tch::Tensor::run_backward(&[number], &inputs, false, false);
        for (node, gradient) in nodes.into_iter().zip(gradients) {
            grads.register::<LibTorch>(node.id, TchTensor::new(gradient));
        }
    }
}
