//! Operations of several inputs with one output as Burn sees them: what is particular to one is its arithmetic on slices.
#![allow(clippy::too_many_arguments, reason = "an operation has as many as it has inputs")]

use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Shape, Tensor};

use crate::clock::{Operation, time};
use crate::flex::{FlexTensor, contiguous, tensor, values};

/// The arithmetic of an operation. Inputs and gradients are in row-major order.
pub(crate) trait Arithmetic: Debug + Send + Sync + 'static {
    /// What the clock counts the forward and the backward pass as.
    fn names(&self) -> [Operation; 2];

    /// The shape of the output.
    fn shape(&self) -> Shape;

    /// Whether the output is cheaper to compute again than to keep, where memory is to be saved.
    fn is_cheap(&self) -> bool {
        false
    }

    /// The output.
    fn forward(&self, inputs: &[&[f32]]) -> Vec<f32>;

    /// The gradients of all inputs for that of the output. Those that are not asked for may be missing.
    fn backward(&self, inputs: &[&[f32]], dy: &[f32], asked: &[bool]) -> Vec<Option<Vec<f32>>>;
}

type Shared = Arc<dyn Arithmetic>;

/// Tensors of any rank, without it.
pub(crate) type Input = FloatTensor<Dispatch>;

macro_rules! operations {
    ($($operation:ident, $method:ident, $count:literal: $($input:ident)*;)*) => {
        $(
            #[backend_extension(Flex: cfg(feature = "flex"), Autodiff)]
            pub(crate) trait $operation: Backend {
                fn $method($($input: FloatTensor<Self>,)* arithmetic: Shared) -> FloatTensor<Self>;
            }

            impl $operation for Flex {
                fn $method($($input: FlexTensor,)* arithmetic: Shared) -> FlexTensor {
                    compute([$($input),*], &*arithmetic)
                }
            }

            impl<C: CheckpointStrategy> $operation for Autodiff<Flex, C> {
                fn $method($($input: FloatTensor<Self>,)* arithmetic: Shared) -> FloatTensor<Self> {
                    tracked::<C, $count>([$($input),*], arithmetic)
                }
            }
        )*

        fn dispatched(inputs: Vec<Input>, arithmetic: Shared) -> Input {
            match inputs.len() {
                $($count => {
                    let mut inputs = inputs.into_iter();
                    $(let $input = next(&mut inputs);)*
                    <Dispatch as $operation>::$method($($input,)* arithmetic)
                })*
                count => unreachable!("no operation of {count} inputs"),
            }
        }
    };
}

operations! {
    OfOne, of_one, 1: a;
    OfTwo, of_two, 2: a b;
    OfThree, of_three, 3: a b c;
    OfFour, of_four, 4: a b c d;
    OfFive, of_five, 5: a b c d e;
    OfSix, of_six, 6: a b c d e f;
    OfEleven, of_eleven, 11: a b c d e f g h i j k;
    OfThirteen, of_thirteen, 13: a b c d e f g h i j k l m;
}

fn next(inputs: &mut impl Iterator<Item = Input>) -> Input {
    #[allow(clippy::expect_used, reason = "as many are taken as were counted")]
    inputs.next().expect("as many inputs as were counted")
}

/// The operation; all inputs must be `f32` on flex.
pub(crate) fn apply<const D: usize>(inputs: Vec<Input>, arithmetic: impl Arithmetic) -> Tensor<D> {
    Tensor::from_dispatch(dispatched(inputs, Arc::new(arithmetic)))
}

fn compute<const N: usize>(inputs: [FlexTensor; N], arithmetic: &dyn Arithmetic) -> FlexTensor {
    let inputs = inputs.map(contiguous);
    let slices = inputs.each_ref().map(values);
    tensor(time(arithmetic.names()[0], || arithmetic.forward(&slices)), arithmetic.shape())
}

fn tracked<C: CheckpointStrategy, const N: usize>(
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
    arithmetic: Shared,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|x| x.node());
    let again = Again { inputs: nodes.each_ref().map(|node| node.id()), arithmetic: arithmetic.clone() };
    let prep = Fused.prepare::<C>(nodes);
    let prep = match arithmetic.is_cheap() {
        true => prep.memory_bound().retro_forward(again).parents(inputs.each_ref()),
        false => prep.compute_bound(),
    };
    match prep.stateful() {
        OpsKind::Tracked(mut prep) => {
            let ids = inputs.each_ref().map(|x| prep.checkpoint(x));
            let y = compute(inputs.map(|x| x.into_primitive()), &*arithmetic);
            prep.finish((ids, arithmetic), y)
        }
        OpsKind::UnTracked(prep) => prep.finish(compute(inputs.map(|x| x.into_primitive()), &*arithmetic)),
    }
}

/// How the output is computed again.
#[derive(Debug)]
struct Again<const N: usize> {
    inputs: [NodeId; N],
    arithmetic: Shared,
}

impl<const N: usize> RetroForward for Again<N> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let inputs = self.inputs.map(|id| states.get_state::<FlexTensor>(&id));
        states.save(out_node, compute(inputs, &*self.arithmetic));
    }
}

#[derive(Debug)]
struct Fused;

impl<const N: usize> Backward<Flex, N> for Fused {
    /// The inputs, which are Burn's to keep or to recompute.
    type State = ([NodeId; N], Shared);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (ids, arithmetic) = ops.state;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let inputs = ids.map(|id| contiguous(checkpointer.retrieve_node_output::<FlexTensor>(id)));
        let asked = ops.parents.each_ref().map(Option::is_some);
        let slices = inputs.each_ref().map(values);
        let gradients = time(arithmetic.names()[1], || arithmetic.backward(&slices, values(&dy), &asked));
        for ((node, gradient), input) in ops.parents.into_iter().zip(gradients).zip(&inputs) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, tensor(gradient, input.shape()));
            }
        }
    }
}
