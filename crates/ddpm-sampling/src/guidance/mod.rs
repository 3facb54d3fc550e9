//! Guidance: denoisers that wrap denoisers and push their predictions towards a condition.
//!
//! All of them are a change of the score. With `score = -eps / sigma` and `x_t = alpha x_0 + sigma eps`, a change
//! of the score by g is one of eps by `-sigma g` and one of x_0 by `sigma^2 / alpha g`. A combination of answers
//! whose weights sum to 1 is therefore the same in x_0, in eps and in the score; here it is written in x_0.
//!
//! To add one: its file, with a [`Guide`] of its own; where jobs are to have it, a field of [`Guidance`], its
//! check, and its place in `job.rs`.

mod autoguidance;
mod classifier;
mod classifier_free;
mod interval;
mod rescale;
mod threshold;

use burn::tensor::Tensor;
use ddpm_model::denoiser::{Denoised, Denoiser};
use ddpm_model::gaussian::Clip;
use ddpm_model::noise_level::NoiseLevel;
use ddpm_model::prediction::Prediction;

pub use autoguidance::AutoGuidance;
pub use classifier::ClassifierGuidance;
pub use classifier_free::{Answers, ClassifierFree};
pub use interval::{Interval, Within};
pub use rescale::Rescaled;
pub use threshold::{Threshold, Thresholded};

/// A denoiser whose answer is another one's, pushed. What it was before can be had too, because some refinements
/// of guidance compare the two, and at some noise levels the push is not wanted.
pub trait Guide<const D: usize>: Denoiser<D> {
    /// The answer without guidance, at no more than its own cost.
    fn plain(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Denoised<D>;

    /// The prediction without and with guidance, each evaluated once.
    fn both(&self, x_t: &Tensor<D>, level: NoiseLevel) -> Guided<D>;
}

/// One answer before and after guidance.
#[derive(Clone, Debug)]
pub struct Guided<const D: usize> {
    /// Before.
    pub plain: Denoised<D>,
    /// After.
    pub guided: Denoised<D>,
}

/// How a job is guided. The default is not to guide.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// Weight of the answer under the class (or of the better network) over that under none (or of the weaker
    /// one); 1: no guidance. Called 1 + w by Ho & Salimans 2022.
    pub scale: f64,
    /// The noise levels that are guided.
    pub interval: Interval,
    /// Share of the answer that gets the deviation back which it had without guidance.
    pub rescale: f64,
    /// The deviation of what: of x_0, or as in the pipelines of diffusers of eps or v, where the network predicts it.
    pub rescaled: Prediction,
    /// Dynamic thresholding of x_0; clipping if `None`.
    pub threshold: Option<Threshold>,
}

impl Default for Guidance {
    fn default() -> Self {
        Self { scale: 1.0, interval: Interval::ALL, rescale: 0.0, rescaled: Prediction::X0, threshold: None }
    }
}

/// What a network has to be guided by.
#[derive(Clone, Copy, Debug)]
pub struct Guidable<'a> {
    /// Shape of an item.
    pub shape: &'a [usize],
    /// How many classes it is conditioned on, if it is.
    pub classes: Option<usize>,
    /// The null class, if one was trained.
    pub null_class: Option<usize>,
}

/// Why there is no such guidance.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GuidanceError {
    /// A scale that is negative or not a number.
    #[error("the scale of guidance is {scale}, but must be a number from 0 up; 1 is no guidance")]
    Scale {
        /// The value that was given.
        scale: f64,
    },
    /// No class to be guided to.
    #[error("guidance needs classes, but the network was trained without; a weaker snapshot can guide it")]
    Unconditional,
    /// Nothing to be guided away from.
    #[error(
        "classifier-free guidance needs a null class, but the network was trained without one (train.label_drop); \
         a weaker snapshot can guide it"
    )]
    NoNullClass,
    /// A guide for other data.
    #[error("the guide makes samples of shape {guide:?}, but must make those of the network, {network:?}")]
    GuideShape {
        /// Shape that the guide makes.
        guide: Vec<usize>,
        /// Shape that is wanted.
        network: Vec<usize>,
    },
    /// A guide that knows other classes.
    #[error("the guide was trained with {guide} classes, the network with {network}: a guide has the same, or none")]
    GuideClasses {
        /// Classes of the guide.
        guide: usize,
        /// Classes of the network.
        network: usize,
    },
    /// A guide that has nothing to do.
    #[error("a guide at scale 1 changes nothing: give another scale, such as 2")]
    IdleGuide,
    /// An interval that is empty or not one of noise levels.
    #[error("guidance from sigma {lo} to {hi}: expected LO,HI, two numbers from 0 up, the smaller one first")]
    Interval {
        /// Smallest sigma.
        lo: f64,
        /// Largest sigma.
        hi: f64,
    },
    /// Not an interval.
    #[error("`{text}` is no interval: expected LO,HI, the smallest and the largest sigma that are guided")]
    NoInterval {
        /// What was given.
        text: String,
    },
    /// Not a share.
    #[error("the share that is rescaled is {phi}, but must lie between 0 (none) and 1 (all)")]
    Rescale {
        /// The value that was given.
        phi: f64,
    },
    /// Not a percentile, or a bound inside of the data.
    #[error("{threshold:?}: the percentile must be a share above 0, at most 1, and the maximum at least 1")]
    Threshold {
        /// The value that was given.
        threshold: Threshold,
    },
    /// Data that may be anywhere.
    #[error("dynamic thresholding keeps x_0 between -1 and 1, the range of images; these data have no bounds")]
    Unbounded,
}

impl Guidance {
    /// Whether it needs more than the plain prediction.
    pub fn is_active(&self) -> bool {
        self.scale != 1.0
    }

    /// Whether `network` can be guided so, by its null class or by `guide`.
    pub fn check(&self, network: Guidable<'_>, guide: Option<Guidable<'_>>, clip: Clip) -> Result<(), GuidanceError> {
        let Self { scale, interval, rescale: phi, threshold, .. } = *self;
        if !(0.0..f64::INFINITY).contains(&scale) {
            return Err(GuidanceError::Scale { scale });
        }
        if !(interval.lo >= 0.0 && interval.lo < interval.hi) {
            return Err(GuidanceError::Interval { lo: interval.lo, hi: interval.hi });
        }
        if !(0.0..=1.0).contains(&phi) {
            return Err(GuidanceError::Rescale { phi });
        }
        match threshold {
            Some(threshold) if !threshold.is_sound() => return Err(GuidanceError::Threshold { threshold }),
            Some(_) if clip == Clip::None => return Err(GuidanceError::Unbounded),
            _ => {}
        }
        match guide {
            Some(guide) => self.check_guide(network, guide),
            None if !self.is_active() => Ok(()),
            None if network.classes.is_none() => Err(GuidanceError::Unconditional),
            None if network.null_class.is_none() => Err(GuidanceError::NoNullClass),
            None => Ok(()),
        }
    }

    fn check_guide(&self, network: Guidable<'_>, guide: Guidable<'_>) -> Result<(), GuidanceError> {
        if guide.shape != network.shape {
            return Err(GuidanceError::GuideShape { guide: guide.shape.to_vec(), network: network.shape.to_vec() });
        }
        if guide.classes.is_some() && guide.classes != network.classes {
            return Err(GuidanceError::GuideClasses {
                guide: guide.classes.unwrap_or(0),
                network: network.classes.unwrap_or(0),
            });
        }
        if self.is_active() { Ok(()) } else { Err(GuidanceError::IdleGuide) }
    }
}

/// From the weaker answer through the plain one: at scale 1 exactly the plain one, at 0 exactly the weaker.
///
/// The variance of the step stays that of the plain answer.
fn extrapolate<const D: usize>(plain: &Denoised<D>, weaker: Denoised<D>, scale: f64) -> Denoised<D> {
    if scale == 1.0 {
        return plain.clone();
    }
    let push = plain.x_0.clone() - weaker.x_0.clone();
    Denoised { x_0: weaker.x_0 + push * scale, variance_logit: plain.variance_logit.clone() }
}
