//! Prompts to what a network of Stable Diffusion is conditioned on: the states of one text encoder, or of two with the whole
//! prompt as a vector and the sizes of the image.

use burn::tensor::{Device, Tensor, TensorData};
use ddpm_kernels::Precision;
use ddpm_model::condition::{AddedCondition, Tokens};

use super::{TextEncoder, TextEncoderError};

/// Prompts that are encoded at once.
const AT_ONCE: usize = 32;

/// The sizes that a network of Stable Diffusion XL is conditioned on, in pixels, height first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageSizes {
    /// The size that an image of the training data had before it was scaled.
    pub original: [f32; 2],
    /// Where it was cropped, from the top left.
    pub crop: [f32; 2],
    /// The size that is wanted.
    pub target: [f32; 2],
}

impl ImageSizes {
    /// Those of an image that is as it always was.
    pub fn of(size: [usize; 2]) -> Self {
        let size = size.map(|side| side as f32);
        Self { original: size, crop: [0.0; 2], target: size }
    }

    fn numbers(self) -> [f32; 6] {
        let Self { original, crop, target } = self;
        [original[0], original[1], crop[0], crop[1], target[0], target[1]]
    }
}

/// The text encoders of a pipeline.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per pipeline: a box would save nothing
pub enum PromptEncoder {
    /// The normalized states after the last layer: Stable Diffusion 1 and 2.
    Last(TextEncoder),
    /// The states before the last layer of all encoders next to each other, and the projection of the last encoder: XL.
    Penultimate {
        /// One or two.
        encoders: Vec<TextEncoder>,
        /// Whether no negative prompt means zeros, and not the empty prompt.
        zeros_for_none: bool,
    },
}

impl PromptEncoder {
    /// Width of the tokens.
    pub fn width(&self) -> usize {
        self.encoders().iter().map(TextEncoder::width).sum()
    }

    /// Width of the vector of the whole prompt, where there is one.
    pub fn pooled_width(&self) -> Option<usize> {
        match self {
            Self::Last(_) => None,
            Self::Penultimate { encoders, .. } => encoders.last()?.network.config().projection_dim,
        }
    }

    /// Its encoders.
    pub fn encoders(&self) -> &[TextEncoder] {
        match self {
            Self::Last(encoder) => std::slice::from_ref(encoder),
            Self::Penultimate { encoders, .. } => encoders,
        }
    }

    /// Its encoders, to change them.
    pub fn encoders_mut(&mut self) -> &mut [TextEncoder] {
        match self {
            Self::Last(encoder) => std::slice::from_mut(encoder),
            Self::Penultimate { encoders, .. } => encoders,
        }
    }

    /// The same encoders, computing in this precision.
    pub fn in_precision(self, precision: Precision) -> Self {
        match self {
            Self::Last(encoder) => Self::Last(encoder.in_precision(precision)),
            Self::Penultimate { encoders, zeros_for_none } => {
                let encoders = encoders.into_iter().map(|encoder| encoder.in_precision(precision)).collect();
                Self::Penultimate { encoders, zeros_for_none }
            }
        }
    }

    /// How many tokens of a prompt have no room, in the encoder with the least.
    pub fn dropped(&self, prompt: &str) -> usize {
        let of = |encoder: &TextEncoder| encoder.tokenizer.encode(prompt).map_or(0, |encoding| encoding.dropped);
        self.encoders().iter().map(of).max().unwrap_or(0)
    }

    /// A row for each prompt and one for the negative prompt, without which it is the empty one or zeros. `clip_skip` layers
    /// are left out for the prompts, but not for the negative one, as diffusers does.
    pub fn tokens(
        &self,
        prompts: &[String],
        negative: Option<&str>,
        clip_skip: usize,
        sizes: ImageSizes,
    ) -> Result<Tokens, TextEncoderError> {
        let mut rows = Vec::new();
        for prompts in prompts.chunks(AT_ONCE) {
            rows.push(self.encode(prompts, clip_skip)?);
        }
        let last = self.encode(&[negative.unwrap_or_default()], 0)?;
        rows.push(match self {
            Self::Penultimate { zeros_for_none: true, .. } if negative.is_none() => last.zeros(),
            _ => last,
        });
        let (states, pooled): (Vec<_>, Vec<_>) = rows.into_iter().map(|row| (row.states, row.pooled)).unzip();
        let mut tokens = Tokens::new(Tensor::cat(states, 0));
        let pooled: Option<Vec<Tensor<2>>> = pooled.into_iter().collect();
        tokens.added = pooled.map(|pooled| {
            let pooled = Tensor::cat(pooled, 0);
            let sizes = sizes_of(sizes, pooled.dims()[0], &pooled.device());
            AddedCondition { pooled, sizes }
        });
        Ok(tokens)
    }

    fn encode<S: AsRef<str>>(&self, prompts: &[S], clip_skip: usize) -> Result<Encoded, TextEncoderError> {
        match self {
            Self::Last(encoder) => {
                let states = encoder.states(prompts)?;
                Ok(Encoded { states: encoder.network.skipping(&states, clip_skip), pooled: None })
            }
            Self::Penultimate { encoders, .. } => {
                let all = encoders.iter().map(|encoder| encoder.states(prompts)).collect::<Result<Vec<_>, _>>()?;
                let before_last = all.iter().map(|states| {
                    let place = states.hidden.len().saturating_sub(2 + clip_skip);
                    states.hidden[place].clone()
                });
                let pooled = all.last().and_then(|states| states.projected.clone());
                Ok(Encoded { states: Tensor::cat(before_last.collect(), 2), pooled })
            }
        }
    }
}

/// Encoded prompts.
struct Encoded {
    states: Tensor<3>,
    pooled: Option<Tensor<2>>,
}

impl Encoded {
    fn zeros(self) -> Self {
        Self { states: self.states.zeros_like(), pooled: self.pooled.map(|pooled| pooled.zeros_like()) }
    }
}

/// The same sizes for all rows.
fn sizes_of(sizes: ImageSizes, rows: usize, device: &Device) -> Tensor<2> {
    let numbers = sizes.numbers();
    Tensor::from_data(TensorData::new(numbers.repeat(rows), [rows, numbers.len()]), device)
}
