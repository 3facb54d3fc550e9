//! The fused normalisation on GPUs as an operation of Burn: through fusion, which queues it among its own operations, and
//! through autodiff.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::retro_forward::RetroForward;
use burn::backend::autodiff::checkpoint::state::BackwardStates;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Cube, Dispatch, backend_extension};
use burn::nn::GroupNorm;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;

use super::Activation;
use super::cube_kernel::{self, Inputs, Settings};

/// The tensor primitive of GPUs.
type CubeFloat = FloatTensor<Cube>;

/// `activation(norm(x))` by the kernel; `x` must be on a GPU, and the parameters `f32` there.
pub(super) fn group_norm<const D: usize>(
    norm: &GroupNorm,
    (gamma, beta): (Tensor<1>, Tensor<1>),
    x: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as NormOps>::fused_group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        Settings { groups: norm.num_groups, epsilon: norm.epsilon, activation },
    ))
}

/// `silu(norm(x) * (1 + scale) + shift)` by the kernel; the same, and `scale_shift` is `[batch, 2 * channels]`.
pub(super) fn modulated_group_norm<const D: usize>(
    norm: &GroupNorm,
    (gamma, beta): (Tensor<1>, Tensor<1>),
    x: Tensor<D>,
    scale_shift: Tensor<2>,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as NormOps>::fused_modulated_group_norm(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        scale_shift.into_dispatch(),
        Settings { groups: norm.num_groups, epsilon: norm.epsilon, activation: Activation::Silu },
    ))
}

/// The kernels, on whatever Burn has between them and autodiff.
#[backend_extension(Cube, Fusion)]
pub(crate) trait NormKernels: Backend {
    /// The output, and the statistics for the gradients.
    #[fusion(meta = |x, _gamma, _beta, settings| (x.clone(), statistics_of(x, settings)))]
    fn norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of `x`, `gamma` and `beta`.
    #[fusion(meta = |dy, _x, gamma, beta, _statistics, _settings| (dy.clone(), gamma.clone(), beta.clone()))]
    fn norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The output, and the statistics for the gradients.
    #[fusion(meta = |x, _gamma, _beta, _modulation, settings| (x.clone(), statistics_of(x, settings)))]
    fn modulated_norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of `x`, `gamma`, `beta` and `modulation`.
    #[fusion(meta = |dy, _x, gamma, beta, modulation, _statistics, _settings| {
        (dy.clone(), gamma.clone(), beta.clone(), modulation.clone())
    })]
    fn modulated_norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

fn statistics_of(x: &TensorSpec, settings: &Settings) -> TensorSpec {
    TensorSpec::new([2 * x.shape[0] * settings.groups].into(), DType::F32)
}

impl NormKernels for CubeBackend {
    fn norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube_kernel::forward(Inputs::new(x, gamma, beta, None), settings)
    }

    fn norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        cube_kernel::backward(dy, Inputs::new(x, gamma, beta, None), statistics, settings)
    }

    fn modulated_norm_forward(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        cube_kernel::forward(Inputs::new(x, gamma, beta, Some(modulation)), settings)
    }

    fn modulated_norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let inputs = Inputs::new(x, gamma, beta, Some(modulation));
        cube_kernel::modulated_backward(dy, inputs, statistics, settings)
    }
}

/// The operations, with gradients where there is autodiff.
#[backend_extension(Cube, Autodiff)]
pub(crate) trait NormOps: Backend {
    fn fused_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self>;

    fn fused_modulated_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self>;
}

impl NormOps for Cube {
    fn fused_group_norm(x: CubeFloat, gamma: CubeFloat, beta: CubeFloat, settings: Settings) -> CubeFloat {
        Self::norm_forward(x, gamma, beta, settings).0
    }

    fn fused_modulated_group_norm(
        x: CubeFloat,
        gamma: CubeFloat,
        beta: CubeFloat,
        modulation: CubeFloat,
        settings: Settings,
    ) -> CubeFloat {
        Self::modulated_norm_forward(x, gamma, beta, modulation, settings).0
    }
}

impl<C: CheckpointStrategy> NormOps for Autodiff<Cube, C> {
    fn fused_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        // Cheaper to compute again than to keep, where memory is to be saved.
        let again = Again { inputs: nodes.each_ref().map(|node| node.id()), settings };
        let prep = FusedGroupNorm.prepare::<C>(nodes).memory_bound().retro_forward(again);
        match prep.parents([&x, &gamma, &beta]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [prep.checkpoint(&x), prep.checkpoint(&gamma), prep.checkpoint(&beta)];
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                let (y, statistics) = Cube::norm_forward(x, gamma, beta, settings);
                prep.finish(Saved { inputs, statistics, settings }, y)
            }
            OpsKind::UnTracked(prep) => {
                let [x, gamma, beta] = [x, gamma, beta].map(|tensor| tensor.into_primitive());
                prep.finish(Cube::fused_group_norm(x, gamma, beta, settings))
            }
        }
    }

    fn fused_modulated_group_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        modulation: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node(), modulation.node()];
        let again = Again { inputs: nodes.each_ref().map(|node| node.id()), settings };
        let prep = FusedGroupNorm.prepare::<C>(nodes).memory_bound().retro_forward(again);
        match prep.parents([&x, &gamma, &beta, &modulation]).stateful() {
            OpsKind::Tracked(mut prep) => {
                let inputs = [&x, &gamma, &beta, &modulation].map(|tensor| prep.checkpoint(tensor));
                let [x, gamma, beta, modulation] = [x, gamma, beta, modulation].map(|tensor| tensor.into_primitive());
                let (y, statistics) = Cube::modulated_norm_forward(x, gamma, beta, modulation, settings);
                prep.finish(Saved { inputs, statistics, settings }, y)
            }
            OpsKind::UnTracked(prep) => {
                let [x, gamma, beta, modulation] = [x, gamma, beta, modulation].map(|tensor| tensor.into_primitive());
                prep.finish(Cube::fused_modulated_group_norm(x, gamma, beta, modulation, settings))
            }
        }
    }
}

/// What the backward pass needs. The inputs are Burn's to keep or to recompute.
#[derive(Clone, Debug)]
struct Saved<const N: usize> {
    inputs: [NodeId; N],
    statistics: CubeFloat,
    settings: Settings,
}

/// How the output is computed again.
#[derive(Debug)]
struct Again<const N: usize> {
    inputs: [NodeId; N],
    settings: Settings,
}

impl RetroForward for Again<3> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [x, gamma, beta] = self.inputs.map(|id| states.get_state::<CubeFloat>(&id));
        states.save(out_node, Cube::fused_group_norm(x, gamma, beta, self.settings));
    }
}

impl RetroForward for Again<4> {
    fn forward(&self, states: &mut BackwardStates, out_node: NodeId) {
        let [x, gamma, beta, modulation] = self.inputs.map(|id| states.get_state::<CubeFloat>(&id));
        states.save(out_node, Cube::fused_modulated_group_norm(x, gamma, beta, modulation, self.settings));
    }
}

#[derive(Debug)]
struct FusedGroupNorm;

impl Backward<Cube, 3> for FusedGroupNorm {
    type State = Saved<3>;

    fn backward(self, ops: Ops<Saved<3>, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, statistics, settings } = ops.state;
        let dy = grads.consume::<Cube>(&ops.node);
        let [x, gamma, beta] = inputs.map(|id| checkpointer.retrieve_node_output::<CubeFloat>(id));
        let (dx, dgamma, dbeta) = Cube::norm_backward(dy, x, gamma, beta, statistics, settings);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dgamma, dbeta]) {
            if let Some(node) = node {
                grads.register::<Cube>(node.id, gradient);
            }
        }
    }
}

impl Backward<Cube, 4> for FusedGroupNorm {
    type State = Saved<4>;

    fn backward(self, ops: Ops<Saved<4>, 4>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let Saved { inputs, statistics, settings } = ops.state;
        let dy = grads.consume::<Cube>(&ops.node);
        let [x, gamma, beta, modulation] = inputs.map(|id| checkpointer.retrieve_node_output::<CubeFloat>(id));
        let (dx, dgamma, dbeta, dmodulation) =
            Cube::modulated_norm_backward(dy, x, gamma, beta, modulation, statistics, settings);
        for (node, gradient) in ops.parents.into_iter().zip([dx, dgamma, dbeta, dmodulation]) {
            if let Some(node) = node {
                grads.register::<Cube>(node.id, gradient);
            }
        }
    }
}
