//! Joining and shifting channels as operations of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;

use crate::clock::{Operation, time};
use crate::conv::frame::LANES;
use crate::flex::{FlexTensor, contiguous, tensor, values, values_mut};
use crate::output::written;
use crate::simd::{lanes, totals, vectorised};

/// Channels of a task at least.
const TASK_CHANNELS: usize = 8;

/// [`super::concat`] by the kernel.
pub(super) fn concat(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as ChannelOps>::concat_channels(a.into_dispatch(), b.into_dispatch()))
}

/// [`super::shift`] by the kernel.
pub(super) fn shift(x: Tensor<4>, by: Tensor<2>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as ChannelOps>::shift_channels(x.into_dispatch(), by.into_dispatch()))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait ChannelOps: Backend {
    fn concat_channels(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    fn shift_channels(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl ChannelOps for Flex {
    fn concat_channels(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let [a, b] = [a, b].map(contiguous);
        let mut shape = a.shape();
        let sizes = [&a, &b].map(|x| x.shape().as_slice()[1..].iter().product::<usize>());
        shape[1] += b.shape()[1];
        let y = time(Operation::Concat, || {
            written(shape.num_elements(), |y| {
                y.par_chunks((sizes[0] + sizes[1]).max(1)).enumerate().for_each(|(image, y)| {
                    let (first, second) = y.split_at(sizes[0]);
                    first.copied(&values(&a)[image * sizes[0]..][..sizes[0]]);
                    second.copied(&values(&b)[image * sizes[1]..][..sizes[1]]);
                });
            })
        });
        tensor(y, shape)
    }

    fn shift_channels(x: FlexTensor, by: FlexTensor) -> FlexTensor {
        let [mut x, by] = [x, by].map(contiguous);
        let plane = plane(&x.shape());
        time(Operation::Shift, || {
            let planes = values_mut(&mut x).par_chunks_exact_mut(plane).zip(values(&by)).with_min_len(TASK_CHANNELS);
            planes.for_each(|(x, by)| {
                vectorised(
                    #[inline(always)]
                    || x.iter_mut().for_each(|x| *x += by),
                )
            });
        });
        x
    }
}

impl<C: CheckpointStrategy> ChannelOps for Autodiff<Flex, C> {
    fn concat_channels(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [a.node(), b.node()];
        let channels = [a.primitive().shape()[1], b.primitive().shape()[1]];
        let again = ConcatAgain(nodes.each_ref().map(|node| node.id()));
        match Concat.prepare::<C>(nodes).memory_bound().retro_forward(again).parents([&a, &b]).stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(channels, Flex::concat_channels(a.into_primitive(), b.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::concat_channels(a.into_primitive(), b.into_primitive())),
        }
    }

    fn shift_channels(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), by.node()];
        let again = ShiftAgain(nodes.each_ref().map(|node| node.id()));
        match Shift.prepare::<C>(nodes).memory_bound().retro_forward(again).parents([&x, &by]).stateful() {
            OpsKind::Tracked(prep) => prep.finish((), Flex::shift_channels(x.into_primitive(), by.into_primitive())),
            OpsKind::UnTracked(prep) => prep.finish(Flex::shift_channels(x.into_primitive(), by.into_primitive())),
        }
    }
}

/// How channels are joined again, where memory is to be saved.
#[derive(Debug)]
struct ConcatAgain([NodeId; 2]);

impl RetroForward for ConcatAgain {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [a, b] = self.0.map(|id| states.get_state::<FlexTensor>(&id));
        states.save(out_node, Flex::concat_channels(a, b));
    }
}

/// How channels are shifted again, where memory is to be saved.
#[derive(Debug)]
struct ShiftAgain([NodeId; 2]);

impl RetroForward for ShiftAgain {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [x, by] = self.0.map(|id| states.get_state::<FlexTensor>(&id));
        states.save(out_node, Flex::shift_channels(x, by));
    }
}

#[derive(Debug)]
struct Concat;

impl Backward<Flex, 2> for Concat {
    /// Channels of either part.
    type State = [usize; 2];

    fn backward(self, ops: Ops<[usize; 2], 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let shape = dy.shape();
        let plane = plane(&shape);
        let mut first = 0;
        for (node, channels) in ops.parents.into_iter().zip(ops.state) {
            if let Some(node) = node {
                let size = channels * plane;
                let part = time(Operation::Concat, || {
                    written(shape[0] * size, |part| {
                        let parts = part.par_chunks(size.max(1)).zip(values(&dy).par_chunks(shape[1] * plane));
                        parts.for_each(|(part, dy)| {
                            part.copied(&dy[first * plane..][..size]);
                        });
                    })
                });
                grads.register::<Flex>(node.id, tensor(part, [shape[0], channels, shape[2], shape[3]]));
            }
            first += channels;
        }
    }
}

#[derive(Debug)]
struct Shift;

impl Backward<Flex, 2> for Shift {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let shape = dy.shape();
        let [x, by] = ops.parents;
        if let Some(node) = by {
            let sums = time(Operation::Shift, || plane_sums(values(&dy), plane(&shape)));
            grads.register::<Flex>(node.id, tensor(sums, [shape[0], shape[1]]));
        }
        if let Some(node) = x {
            grads.register::<Flex>(node.id, dy);
        }
    }
}

/// The sum of each plane.
fn plane_sums(dy: &[f32], plane: usize) -> Vec<f32> {
    let mut sums = vec![0.0; dy.len() / plane];
    let tasks = sums.par_chunks_mut(LANES * TASK_CHANNELS).zip(dy.par_chunks(LANES * TASK_CHANNELS * plane));
    tasks.for_each(|(sums, dy)| {
        vectorised(
            #[inline(always)]
            || {
                for (sums, dy) in sums.chunks_mut(LANES).zip(dy.chunks(LANES * plane)) {
                    let mut sets = [[0.0; LANES]; LANES];
                    for (set, plane) in sets.iter_mut().zip(dy.chunks_exact(plane)) {
                        *set = lanes(plane, |v| v);
                    }
                    sums.copy_from_slice(&totals(sets)[..sums.len()]);
                }
            },
        );
    });
    sums
}

fn plane(shape: &Shape) -> usize {
    shape[2] * shape[3]
}
