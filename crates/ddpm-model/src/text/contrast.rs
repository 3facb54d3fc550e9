//! What a text encoder learns with: captions and images as vectors of one space, those that belong together close to each
//! other (CLIP, Radford et al. 2021).

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear, PaddingConfig2d};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor};
use ddpm_kernels::{Precision, conv2d, dense, norm_silu};
use serde::{Deserialize, Serialize};

use super::clip::ClipText;
use crate::network::Problem;
use crate::pass::Pass;
use crate::unet::layers::{Norm, Start, conv3x3, conv3x3_strided, linear, unbiased};

/// The first logarithm of the factor of the similarities, and the highest: 1 / 0.07 and 100, as CLIP has them.
const FIRST_LOG_SCALE: f64 = 2.659_26;
const HIGHEST_LOG_SCALE: f64 = 4.605_17;

/// Channels in a group of the normalizations.
const GROUP: usize = 8;
/// Added to variances and squared lengths.
const EPSILON: f64 = 1e-6;

/// An encoder of small images, and the space in which images and captions are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContrastConfig {
    /// Channels of the image encoder at each resolution, the largest resolution first; each is half as high and wide as the
    /// one before. Multiples of 8.
    pub channels: Vec<usize>,
    /// Dimensions of the space in which images and captions are compared.
    pub width: usize,
}

impl Default for ContrastConfig {
    fn default() -> Self {
        Self { channels: vec![32, 64, 64, 64], width: 64 }
    }
}

impl ContrastConfig {
    /// All reasons why this network cannot be built for images of this shape.
    pub fn problems(&self, [_, height, width]: [usize; 3]) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.channels.is_empty() || self.channels.iter().any(|channels| *channels == 0 || channels % GROUP != 0) {
            let message = format!("are {:?}: expected a multiple of {GROUP} for each resolution", self.channels);
            problems.push(Problem::new("channels", message));
        }
        let halvings = self.channels.len().saturating_sub(1) as u32;
        let divides = |side: usize| 1usize.checked_shl(halvings).is_some_and(|unit| side.is_multiple_of(unit));
        if !divides(height) || !divides(width) {
            let message = format!("images of {height}x{width} cannot be halved {halvings} times");
            problems.push(Problem::new("channels", message));
        }
        if self.width == 0 {
            problems.push(Problem::new("width", "must be at least 1, not 0"));
        }
        problems
    }

    /// Builds the network for images of this shape and a text encoder of this width.
    pub fn init(&self, [channels, height, width]: [usize; 3], text_width: usize, device: &Device) -> Contrast {
        let norm = Norm { groups: 1, eps: EPSILON };
        let of = |channels: usize| Norm { groups: channels / GROUP, ..norm }.init(channels, device);
        let halvings = self.channels.len() - 1;
        let down = self.channels.windows(2).map(|pair| Halving {
            norm: of(pair[0]),
            conv: conv3x3_strided([pair[0], pair[1]], PaddingConfig2d::Explicit(1, 1, 1, 1), device),
        });
        let last = self.channels[halvings];
        let pixels = (height >> halvings) * (width >> halvings);
        Contrast {
            conv_in: conv3x3([channels, self.channels[0]], Start::Random, device),
            down: down.collect(),
            norm_out: of(last),
            image_projection: linear(last * pixels, self.width, Start::Random, device),
            text_projection: unbiased(text_width, self.width, device),
            log_scale: Param::from_tensor(Tensor::full([1], FIRST_LOG_SCALE, device)),
        }
    }

    /// Values that a training step keeps for one image.
    pub fn kept_values(&self, [channels, height, width]: [usize; 3]) -> usize {
        let level = |(level, channels): (usize, &usize)| 3 * channels * ((height * width) >> (2 * level));
        channels * height * width + self.channels.iter().enumerate().map(level).sum::<usize>()
    }
}

/// The network.
#[derive(Module, Debug)]
pub struct Contrast {
    conv_in: Conv2d,
    down: Vec<Halving>,
    norm_out: GroupNorm,
    image_projection: Linear,
    text_projection: Linear,
    log_scale: Param<Tensor<1>>,
}

/// From one resolution to the next.
#[derive(Module, Debug)]
struct Halving {
    norm: GroupNorm,
    conv: Conv2d,
}

impl Contrast {
    /// Images `[B, C, H, W]` as vectors of length 1, `[B, D]`.
    pub fn images(&self, x: Tensor<4>, precision: Precision, pass: &Pass<'_>) -> Tensor<2> {
        let h = pass.layer("conv_in", x, |x| conv2d(&self.conv_in, x, precision));
        let h = self.down.iter().enumerate().fold(h, |h, (number, halving)| {
            let pass = pass.inside(format_args!("down.{number}"));
            let h = pass.layer("norm", h, |h| norm_silu(&halving.norm, h));
            pass.layer("conv", h, |h| conv2d(&halving.conv, h, precision))
        });
        let h: Tensor<2> = pass.layer("norm_out", h, |h| norm_silu(&self.norm_out, h)).flatten(1, 3);
        normalized(pass.layer("image_projection", h, |h| dense(&self.image_projection, h, precision)))
    }

    /// Captions, as ids `[B, L]`, as vectors of length 1, `[B, D]`.
    pub fn captions(&self, text: &ClipText, ids: Tensor<2, Int>, precision: Precision, pass: &Pass<'_>) -> Tensor<2> {
        let pooled = text.encode(ids, None, &pass.inside(format_args!("text"))).pooled;
        let pass = pass.inside(format_args!("contrast"));
        normalized(pass.layer("text_projection", pooled, |h| dense(&self.text_projection, h, precision)))
    }

    /// The scaled similarities of images `[B, D]`, in rows, and captions `[B', D]`, in columns.
    pub fn similarities(&self, images: Tensor<2>, captions: Tensor<2>) -> Tensor<2> {
        let scale = self.log_scale.val().clamp_max(HIGHEST_LOG_SCALE).exp();
        images.matmul(captions.transpose()) * scale.unsqueeze::<2>()
    }
}

/// The symmetric loss of every pair, `[B]`, of the similarities `[B, B]` of images and their captions: how surprising the
/// caption is among all, given the image, and the image, given the caption.
pub fn contrastive_loss(similarities: Tensor<2>) -> Tensor<1> {
    let count = similarities.dims()[0];
    let own = Tensor::<2>::eye(count, &similarities.device());
    let log_share = log_softmax(similarities.clone(), 1) + log_softmax(similarities, 0);
    (log_share * own).sum_dim(1).reshape([count]) * -0.5
}

/// For how many images, of the similarities `[B, B]`, no other caption is as close as their own.
pub fn found_captions(similarities: Tensor<2>) -> Tensor<1> {
    let count = similarities.dims()[0];
    let own = Tensor::<1, Int>::arange(0..count as i64, &similarities.device());
    similarities.argmax(1).reshape([count]).equal(own).float().sum()
}

fn normalized(x: Tensor<2>) -> Tensor<2> {
    let length = (x.clone().square().sum_dim(1) + EPSILON).sqrt();
    x / length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_that_of_both_directions() {
        let device = Device::default();
        let even = contrastive_loss(Tensor::<2>::zeros([4, 4], &device));
        for loss in even.into_data().iter::<f64>() {
            assert!((loss - 4f64.ln()).abs() < 1e-6, "{loss}");
        }
        // Rows: ln(e^2 + e^1) - 2 and ln(e^0 + e^3) - 3; columns: ln(e^2 + e^0) - 2 and ln(e^1 + e^3) - 3.
        let pairs = Tensor::<2>::from_floats([[2.0, 1.0], [0.0, 3.0]], &device);
        let entropy = |own: f64, other: f64| (own.exp() + other.exp()).ln() - own;
        let wanted = [(entropy(2.0, 1.0) + entropy(2.0, 0.0)) / 2.0, (entropy(3.0, 0.0) + entropy(3.0, 1.0)) / 2.0];
        for (found, wanted) in contrastive_loss(pairs.clone()).into_data().iter::<f64>().zip(wanted) {
            assert!((found - wanted).abs() < 1e-6, "{found} instead of {wanted}");
        }
        assert_eq!(found_captions(pairs).into_scalar::<f64>(), 2.0);
        let crossed = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 3.0]], &device);
        assert_eq!(found_captions(crossed).into_scalar::<f64>(), 1.0);
    }

    #[test]
    fn images_are_vectors_of_length_one() {
        let (device, config) = (Device::default(), ContrastConfig { channels: vec![8, 16], width: 5 });
        let network = config.init([3, 8, 8], 12, &device);
        let x = Tensor::<4>::random([2, 3, 8, 8], burn::tensor::Distribution::Normal(0.0, 1.0), &device);
        let vectors = network.images(x, Precision::F32, &Pass::default());
        assert_eq!(vectors.dims(), [2, 5]);
        for length in vectors.square().sum_dim(1).into_data().iter::<f64>() {
            assert!((length - 1.0).abs() < 1e-3, "{length}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_by_key() {
        let keys = |config: ContrastConfig, shape| -> Vec<String> {
            config.problems(shape).into_iter().map(|problem| problem.key).collect()
        };
        assert_eq!(keys(ContrastConfig::default(), [3, 32, 32]), Vec::<String>::new());
        assert_eq!(keys(ContrastConfig::default(), [3, 36, 36]), ["channels"]);
        assert_eq!(keys(ContrastConfig { channels: vec![12], width: 0 }, [3, 32, 32]), ["channels", "width"]);
    }
}
