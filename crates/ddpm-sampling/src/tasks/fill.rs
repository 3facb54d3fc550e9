//! Inpainting as the pipelines of Stable Diffusion do it: what is known enters every evaluation under the same noise.
//!
//! Every step is one of each value for itself, so what a sampler makes of the known part never reaches the rest, and it is
//! enough to replace the known part where the network is evaluated, and in the end. So any sampler will do, and one that
//! learns from earlier steps keeps doing so.

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

use super::noised;

/// A denoiser that sees what is known in its place.
pub struct Filled<'a, const D: usize> {
    /// The denoiser inside.
    pub inner: &'a dyn Denoiser<D>,
    /// The known items.
    pub known: Tensor<D>,
    /// 1 where they stay and 0 where something new is generated; broadcasts.
    pub mask: Tensor<D>,
    /// The noise that they are hidden in, at every level.
    pub noise: Tensor<D>,
    /// The level of the start, where nothing is replaced.
    pub first: NoiseLevel,
}

impl<const D: usize> Filled<'_, D> {
    /// `x` with the known items in their place.
    pub fn finish(&self, x: Tensor<D>) -> Tensor<D> {
        self.replaced(x, self.known.clone())
    }

    fn replaced(&self, x: Tensor<D>, known: Tensor<D>) -> Tensor<D> {
        known * self.mask.clone() + x * (-self.mask.clone() + 1.0)
    }
}

impl<const D: usize> Denoiser<D> for Filled<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        if level == self.first {
            return self.inner.denoise(x_t, level);
        }
        let known = noised(self.known.clone(), level, self.noise.clone());
        self.inner.denoise(&self.replaced(x_t.clone(), known), level)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use std::cell::RefCell;

    /// Writes down what it is called with, and takes all for data.
    struct Recorder(RefCell<Vec<Vec<f32>>>);

    impl Denoiser<2> for Recorder {
        fn denoise(&self, x_t: &Tensor<2>, _level: NoiseLevel) -> Denoised<2> {
            self.0.borrow_mut().push(x_t.clone().try_into_vec_as().unwrap());
            Denoised { x_0: x_t.clone(), variance_logit: None }
        }
    }

    #[test]
    fn what_is_known_is_replaced_at_every_level_but_the_first() {
        let row = |values: [f32; 2]| Tensor::<2>::from_floats([values], &Device::default());
        let (first, next) = (NoiseLevel { alpha: 0.6, sigma: 0.8 }, NoiseLevel { alpha: 0.8, sigma: 0.6 });
        let inner = Recorder(RefCell::default());
        let filled =
            Filled { inner: &inner, known: row([2.0, 3.0]), mask: row([1.0, 0.0]), noise: row([10.0, 10.0]), first };
        filled.denoise(&row([5.0, 6.0]), first);
        filled.denoise(&row([5.0, 6.0]), next);
        let seen = inner.0.borrow();
        assert_eq!(seen[0], [5.0, 6.0]);
        assert!((seen[1][0] - 7.6).abs() < 1e-5 && seen[1][1] == 6.0, "{seen:?}");
        assert_eq!(filled.finish(row([5.0, 6.0])).try_into_vec_as::<f32>().unwrap(), [2.0, 6.0]);
    }
}
