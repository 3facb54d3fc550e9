//! Guidance in a limited interval of noise levels (Kynkäänniemi et al. 2024).
//!
//! At the noisiest levels guidance costs variety, at the cleanest it changes nothing but the cost. The interval is
//! one of sigma (`sigma / alpha`, in other words of the log-SNR, -2 ln sigma), as in the paper, because it then
//! means the same for every sampler, schedule and number of steps, which a share of the steps does not.

use std::str::FromStr;

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::noise_level::NoiseLevel;

use super::{GuidanceError, Guide, Guided};

/// The noise levels with `lo < sigma <= hi`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The largest sigma that is too clean.
    pub lo: f64,
    /// The largest one that is guided.
    pub hi: f64,
}

impl Interval {
    /// Every level.
    pub const ALL: Self = Self { lo: 0.0, hi: f64::INFINITY };

    /// Whether the level is one of these.
    pub fn contains(&self, level: NoiseLevel) -> bool {
        let sigma = level.ratio();
        self.lo < sigma && sigma <= self.hi
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromStr for Interval {
    type Err = GuidanceError;

    fn from_str(text: &str) -> Result<Self, GuidanceError> {
        let ends = text.split_once(',').and_then(|(lo, hi)| Some((lo.trim().parse().ok()?, hi.trim().parse().ok()?)));
        ends.map(|(lo, hi)| Self { lo, hi }).ok_or_else(|| GuidanceError::NoInterval { text: text.to_string() })
    }
}

/// Guidance within an interval, and the plain answer, at its own cost, outside of it.
pub struct Within<'a, const D: usize> {
    /// The guidance inside.
    pub inner: &'a dyn Guide<D>,
    /// Where guidance applies.
    pub interval: Interval,
}

impl<const D: usize> Guide<D> for Within<'_, D> {
    fn plain(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        self.inner.plain(x_t, level)
    }

    fn both(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Guided<D> {
        if self.interval.contains(level) {
            return self.inner.both(x_t, level);
        }
        let plain = self.inner.plain(x_t, level);
        Guided { guided: plain.clone(), plain }
    }
}

impl<const D: usize> Denoiser<D> for Within<'_, D> {
    fn denoise(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D> {
        match self.interval.contains(level) {
            true => self.inner.denoise(x_t, level),
            false => self.inner.plain(x_t, level),
        }
    }
}
