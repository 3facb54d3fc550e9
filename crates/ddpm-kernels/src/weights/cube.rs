//! The steps over all weights on GPUs: one kernel for each parameter, in the place of what it changes.
//!
//! The formulas are those of the processor's kernels; a GPU may join a product and a sum, so that the last bits differ.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::AdamStep;
use crate::cube::{is_f32_on_cube, output_like, vector_size};

/// Whether the kernels can take this tensor.
pub(super) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
    let is_plain = matches!(x.device().as_dispatch(), DispatchDevice::Cube(_));
    is_plain && is_f32_on_cube(x) && !x.dims().contains(&0)
}

pub(super) fn adam<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    [moment_1, moment_2]: [Tensor<D>; 2],
    step: &AdamStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    let (weight, moment_1, moment_2) = <Dispatch as WeightKernels>::adam_step(
        weight.into_dispatch(),
        gradient.into_dispatch(),
        moment_1.into_dispatch(),
        moment_2.into_dispatch(),
        *step,
    );
    (Tensor::from_dispatch(weight), [moment_1, moment_2].map(Tensor::from_dispatch))
}

pub(super) fn blend<const D: usize>(average: Tensor<D>, weight: Tensor<D>, decay: f64) -> Tensor<D> {
    let (average, weight) = (average.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(<Dispatch as WeightKernels>::blend_weights(average, weight, decay))
}

#[backend_extension(Cube, Fusion)]
pub(crate) trait WeightKernels: Backend {
    #[fusion(meta = |weight, _gradient, moment_1, moment_2, _step| (weight.clone(), moment_1.clone(), moment_2.clone()))]
    fn adam_step(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        moment_1: FloatTensor<Self>,
        moment_2: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    #[fusion(dtype = average, shape = average)]
    fn blend_weights(average: FloatTensor<Self>, weight: FloatTensor<Self>, decay: f64) -> FloatTensor<Self>;
}

impl WeightKernels for CubeBackend {
    fn adam_step(
        weight: CubeTensor,
        gradient: CubeTensor,
        moment_1: CubeTensor,
        moment_2: CubeTensor,
        step: AdamStep,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [weight, gradient, moment_1, moment_2] = [weight, gradient, moment_1, moment_2].map(into_contiguous);
        let client = weight.client.clone();
        let (vector, cube_count, cube_dim) = geometry(&weight);
        let (correction, epsilon) = step.corrections();
        let (new_weight, new_weight_arg) = output_like(&weight, 0);
        let (new_moment_1, new_moment_1_arg) = output_like(&moment_1, 2);
        let (new_moment_2, new_moment_2_arg) = output_like(&moment_2, 3);
        adam_kernel::launch(
            &client,
            cube_count,
            cube_dim,
            vector,
            weight.into_buffer_arg(),
            gradient.into_buffer_arg(),
            moment_1.into_buffer_arg(),
            moment_2.into_buffer_arg(),
            new_weight_arg,
            new_moment_1_arg,
            new_moment_2_arg,
            step.beta_1,
            1.0 - step.beta_1,
            step.beta_2,
            1.0 - step.beta_2,
            correction,
            epsilon,
            step.rate as f32,
        );
        (new_weight, new_moment_1, new_moment_2)
    }

    fn blend_weights(average: CubeTensor, weight: CubeTensor, decay: f64) -> CubeTensor {
        let [average, weight] = [average, weight].map(into_contiguous);
        let client = average.client.clone();
        let (vector, cube_count, cube_dim) = geometry(&average);
        let (new, new_arg) = output_like(&average, 0);
        blend_kernel::launch(
            &client,
            cube_count,
            cube_dim,
            vector,
            average.into_buffer_arg(),
            weight.into_buffer_arg(),
            new_arg,
            decay as f32,
            (1.0 - decay) as f32,
        );
        new
    }
}

/// Values that a unit does at once, cubes, and units of a cube, for a unit for every few values.
fn geometry(tensor: &CubeTensor) -> (usize, CubeCount, CubeDim) {
    let values = tensor.meta.num_elements();
    let vector = vector_size(tensor, values);
    let cube_dim = CubeDim::new(&tensor.client, values / vector);
    (vector, calculate_cube_count_elemwise(&tensor.client, values / vector, cube_dim), cube_dim)
}

#[cube(launch)]
#[allow(clippy::too_many_arguments)]
fn adam_kernel<N: Size>(
    weight: &[Vector<f32, N>],
    gradient: &[Vector<f32, N>],
    moment_1: &[Vector<f32, N>],
    moment_2: &[Vector<f32, N>],
    new_weight: &mut [Vector<f32, N>],
    new_moment_1: &mut [Vector<f32, N>],
    new_moment_2: &mut [Vector<f32, N>],
    beta_1: f32,
    rest_1: f32,
    beta_2: f32,
    rest_2: f32,
    correction: f32,
    epsilon: f32,
    rate: f32,
) {
    if ABSOLUTE_POS >= weight.len() {
        terminate!();
    }
    let gradient = gradient[ABSOLUTE_POS];
    let first = moment_1[ABSOLUTE_POS] * Vector::new(beta_1) + gradient * Vector::new(rest_1);
    let second = moment_2[ABSOLUTE_POS] * Vector::new(beta_2) + gradient * gradient * Vector::new(rest_2);
    let direction = first * Vector::new(correction) / (second.sqrt() + Vector::new(epsilon));
    new_weight[ABSOLUTE_POS] = weight[ABSOLUTE_POS] - direction * Vector::new(rate);
    new_moment_1[ABSOLUTE_POS] = first;
    new_moment_2[ABSOLUTE_POS] = second;
}

#[cube(launch)]
fn blend_kernel<N: Size>(
    average: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    new: &mut [Vector<f32, N>],
    kept: f32,
    added: f32,
) {
    if ABSOLUTE_POS >= average.len() {
        terminate!();
    }
    new[ABSOLUTE_POS] = average[ABSOLUTE_POS] * Vector::new(kept) + weight[ABSOLUTE_POS] * Vector::new(added);
}
