//! What happens to every weight in a step of training, in one pass over memory each and on all cores.
//!
//! On the processor the results of [`adam`] and [`blend`] are those of Burn's operations bit for bit: the same roundings in
//! the same order. Tensors are without autodiff.

use burn::tensor::Tensor;

#[cfg(feature = "cube")]
mod cube;

/// The constants of a step of Adam (Kingma & Ba 2015, algorithm 1).
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Added to the root of the corrected second moment.
    pub epsilon: f32,
    /// The learning rate.
    pub rate: f64,
    /// Which step it is, from 1.
    pub time: usize,
}

impl AdamStep {
    /// What the first moment, and `epsilon`, are multiplied by, so that both corrections of the bias are made.
    fn corrections(&self) -> (f32, f32) {
        let time = self.time as i32;
        let root = (1.0 - self.beta_2.powi(time)).sqrt();
        (root / (1.0 - self.beta_1.powi(time)), self.epsilon * root)
    }
}

/// A step of Adam: the new weight and the new moments.
pub fn adam<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    [moment_1, moment_2]: [Tensor<D>; 2],
    step: &AdamStep,
) -> (Tensor<D>, [Tensor<D>; 2]) {
    #[cfg(feature = "cube")]
    if [&weight, &gradient, &moment_1, &moment_2].into_iter().all(cube::takes) {
        return cube::adam(weight, gradient, [moment_1, moment_2], step);
    }
    #[cfg(feature = "flex")]
    if [&weight, &gradient, &moment_1, &moment_2].into_iter().all(flex::takes) {
        return flex::adam(weight, gradient, [moment_1, moment_2], step);
    }
    let moment_1 = moment_1.mul_scalar(step.beta_1) + gradient.clone().mul_scalar(1.0 - step.beta_1);
    let moment_2 = moment_2.mul_scalar(step.beta_2) + gradient.square().mul_scalar(1.0 - step.beta_2);
    let (correction, epsilon) = step.corrections();
    let direction = moment_1.clone().mul_scalar(correction) / moment_2.clone().sqrt().add_scalar(epsilon);
    (weight - direction.mul_scalar(step.rate), [moment_1, moment_2])
}

/// `decay average + (1 - decay) weight`
pub fn blend<const D: usize>(average: Tensor<D>, weight: Tensor<D>, decay: f64) -> Tensor<D> {
    #[cfg(feature = "cube")]
    if cube::takes(&average) && cube::takes(&weight) {
        return cube::blend(average, weight, decay);
    }
    #[cfg(feature = "flex")]
    if flex::takes(&average) && flex::takes(&weight) {
        return flex::blend(average, weight, decay);
    }
    average * decay + weight * (1.0 - decay)
}

/// All values times `factor`.
pub fn scale<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::scale(x, factor);
    }
    x * factor
}

/// The sum of the squares of all values.
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if flex::takes(&x) {
        return flex::sum_of_squares(x);
    }
    x.square().sum()
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::{DispatchDevice, Flex};
    use burn::tensor::{DType, Tensor};
    use rayon::prelude::*;

    use super::AdamStep;
    use crate::clock::{Operation, time};
    use crate::flex::{FlexTensor, contiguous, tensor, values, values_mut};
    use crate::simd::{sum, vectorised};

    /// Values of a task. Sums are made of one `f32` number for each, so that the number of threads changes nothing.
    const TASK_VALUES: usize = 16 * 1024;

    /// Whether the kernels can take this tensor.
    pub(super) fn takes<const D: usize>(x: &Tensor<D>) -> bool {
        x.dtype() == DType::F32 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_)) && !x.dims().contains(&0)
    }

    /// The primitive of a tensor that [`takes`] has let through, without gaps.
    fn primitive<const D: usize>(x: Tensor<D>) -> FlexTensor {
        #[allow(clippy::expect_used, reason = "the callers ask `takes` first")]
        contiguous(x.try_into_primitive::<Flex>().expect("a tensor on flex"))
    }

    pub(super) fn adam<const D: usize>(
        weight: Tensor<D>,
        gradient: Tensor<D>,
        moments: [Tensor<D>; 2],
        step: &AdamStep,
    ) -> (Tensor<D>, [Tensor<D>; 2]) {
        let (new, moments) = adam_on_flex(primitive(weight), primitive(gradient), moments.map(primitive), step);
        (Tensor::from_primitive::<Flex>(new), moments.map(Tensor::from_primitive::<Flex>))
    }

    // The kernels proper know no rank: a generic function would be compiled in the crate that calls it, once for each
    // rank and with as little optimisation as that crate.

    fn adam_on_flex(
        weight: FlexTensor,
        gradient: FlexTensor,
        mut moments: [FlexTensor; 2],
        step: &AdamStep,
    ) -> (FlexTensor, [FlexTensor; 2]) {
        // The gradient is needed no more: the new weight takes its place.
        let mut new = gradient;
        let [moment_1, moment_2] = &mut moments;
        time(Operation::Adam, || {
            let parts = values_mut(&mut new)
                .par_chunks_mut(TASK_VALUES)
                .zip(values(&weight).par_chunks(TASK_VALUES))
                .zip(values_mut(moment_1).par_chunks_mut(TASK_VALUES))
                .zip(values_mut(moment_2).par_chunks_mut(TASK_VALUES));
            parts.for_each(|(((new, weight), moment_1), moment_2)| {
                vectorised(
                    #[inline(always)]
                    || adam_on_slices(new, weight, moment_1, moment_2, step),
                );
            });
        });
        (new, moments)
    }

    /// `new` holds the gradient before, and the weight after.
    #[inline(always)]
    fn adam_on_slices(new: &mut [f32], weight: &[f32], moment_1: &mut [f32], moment_2: &mut [f32], step: &AdamStep) {
        let (correction, epsilon) = step.corrections();
        let (beta_1, beta_2, rate) = (step.beta_1, step.beta_2, step.rate as f32);
        let (rest_1, rest_2) = (1.0 - beta_1, 1.0 - beta_2);
        for (((new, weight), m), v) in new.iter_mut().zip(weight).zip(moment_1).zip(moment_2) {
            let gradient = *new;
            *m = *m * beta_1 + gradient * rest_1;
            *v = *v * beta_2 + gradient * gradient * rest_2;
            *new = weight - *m * correction / (v.sqrt() + epsilon) * rate;
        }
    }

    pub(super) fn blend<const D: usize>(average: Tensor<D>, weight: Tensor<D>, decay: f64) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(blend_on_flex(primitive(average), primitive(weight), decay))
    }

    fn blend_on_flex(mut average: FlexTensor, weight: FlexTensor, decay: f64) -> FlexTensor {
        let (kept, added) = (decay as f32, (1.0 - decay) as f32);
        time(Operation::Average, || {
            let parts = values_mut(&mut average).par_chunks_mut(TASK_VALUES);
            parts.zip(values(&weight).par_chunks(TASK_VALUES)).for_each(|(average, weight)| {
                vectorised(
                    #[inline(always)]
                    || {
                        for (average, weight) in average.iter_mut().zip(weight) {
                            *average = *average * kept + weight * added;
                        }
                    },
                );
            });
        });
        average
    }

    pub(super) fn scale<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
        Tensor::from_primitive::<Flex>(scale_on_flex(primitive(x), factor as f32))
    }

    fn scale_on_flex(mut x: FlexTensor, factor: f32) -> FlexTensor {
        time(Operation::Norm, || {
            values_mut(&mut x).par_chunks_mut(TASK_VALUES).for_each(|x| {
                vectorised(
                    #[inline(always)]
                    || x.iter_mut().for_each(|x| *x *= factor),
                );
            });
        });
        x
    }

    pub(super) fn sum_of_squares<const D: usize>(x: Tensor<D>) -> Tensor<1> {
        Tensor::from_primitive::<Flex>(sum_of_squares_on_flex(&primitive(x)))
    }

    fn sum_of_squares_on_flex(x: &FlexTensor) -> FlexTensor {
        let parts: Vec<f32> = time(Operation::Norm, || {
            values(x)
                .par_chunks(TASK_VALUES)
                .map(|x| {
                    vectorised(
                        #[inline(always)]
                        || sum(x, |v| v * v),
                    )
                })
                .collect()
        });
        let total: f64 = parts.into_iter().map(f64::from).sum();
        tensor(vec![total as f32], [1])
    }
}
