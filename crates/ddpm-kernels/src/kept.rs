//! Weights as they are kept in memory: in f32, or in bf16 where a network is not trained, which takes half of it.

use std::ops::Deref;

use burn::tensor::{DType, Tensor, bf16};
use rayon::prelude::*;

use crate::flex::{FlexTensor, is_f32_on_flex, is_flex, values};
use crate::scratch::Scratch;
use crate::simd::vectorised;

/// Values of a task.
const TASK_VALUES: usize = 64 * 1024;

/// Whether the kernels of layers can take this weight.
pub(crate) fn is_weight_on_flex<const D: usize>(weight: &Tensor<D>) -> bool {
    let device = weight.device();
    is_f32_on_flex(weight) || weight.dtype() == DType::BF16 && is_flex(&device) && !device.is_autodiff()
}

/// A weight in f32.
pub(crate) enum Wide<'a> {
    /// As it is kept.
    Kept(&'a [f32]),
    /// Made of bf16, for this product only.
    Made(Scratch),
}

impl Deref for Wide<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Kept(values) => values,
            Self::Made(values) => values,
        }
    }
}

/// The values of a weight without gaps.
pub(crate) fn wide(weight: &FlexTensor) -> Wide<'_> {
    let Some(halves) = weight.as_slice::<bf16>() else { return Wide::Kept(values(weight)) };
    let mut made = Scratch::new(halves.len());
    made.par_chunks_mut(TASK_VALUES).zip(halves.par_chunks(TASK_VALUES)).for_each(|(made, halves)| {
        vectorised(
            #[inline(always)]
            || {
                for (made, half) in made.iter_mut().zip(halves) {
                    *made = f32::from_bits(u32::from(half.to_bits()) << 16);
                }
            },
        );
    });
    Wide::Made(made)
}
