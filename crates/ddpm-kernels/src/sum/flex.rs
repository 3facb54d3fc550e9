//! The sum as an operation of Burn.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, values, values_mut};
use crate::simd::vectorised;

/// Values of a task.
const TASK_VALUES: usize = 16 * 1024;

/// The sum by the kernel; both must be `f32` on flex and of one shape.
pub(super) fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as SumOps>::parallel_sum(a.into_dispatch(), b.into_dispatch()))
}

#[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
pub(crate) trait SumOps: Backend {
    fn parallel_sum(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl SumOps for Flex {
    fn parallel_sum(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let [a, b] = [a, b].map(contiguous);
        // In place of the one that nobody else holds, if there is one.
        let (mut sum, other) = if a.is_unique() { (a, b) } else { (b, a) };
        time(Operation::Sum, || {
            let parts = values_mut(&mut sum).par_chunks_mut(TASK_VALUES);
            parts.zip(values(&other).par_chunks(TASK_VALUES)).for_each(|(sum, other)| {
                vectorised(
                    #[inline(always)]
                    || sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other),
                );
            });
        });
        sum
    }
}

impl<C: CheckpointStrategy> SumOps for Autodiff<Flex, C> {
    fn parallel_sum(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [a.node(), b.node()];
        let again = Again(nodes.each_ref().map(|node| node.id()));
        let prep = ParallelSum.prepare::<C>(nodes).memory_bound().retro_forward(again);
        match prep.parents([&a, &b]).stateful() {
            OpsKind::Tracked(prep) => prep.finish((), Flex::parallel_sum(a.into_primitive(), b.into_primitive())),
            OpsKind::UnTracked(prep) => prep.finish(Flex::parallel_sum(a.into_primitive(), b.into_primitive())),
        }
    }
}

/// How the sum is computed again, where memory is to be saved.
#[derive(Debug)]
struct Again([NodeId; 2]);

impl RetroForward for Again {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [a, b] = self.0.map(|id| states.get_state::<FlexTensor>(&id));
        states.save(out_node, Flex::parallel_sum(a, b));
    }
}

#[derive(Debug)]
struct ParallelSum;

impl Backward<Flex, 2> for ParallelSum {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<Flex>(node.id, dy.clone());
        }
    }
}
