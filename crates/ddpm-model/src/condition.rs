//! What a network is conditioned on, apart from the noisy data and the time.

use burn::tensor::{Device, Int, Tensor};

/// The condition of one batch.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per batch: a box would save nothing
pub enum Condition {
    /// Nothing: unconditional data, or every row under the null class.
    None,
    /// One class index per row, shape `[B]`. The null class of classifier-free guidance is one more index.
    Class(Tensor<1, Int>),
    /// A sequence of tokens per row, such as an encoded prompt.
    Tokens(Tokens),
}

impl Condition {
    /// The same condition on another device.
    pub fn to_device(self, device: &Device) -> Self {
        match self {
            Self::None => Self::None,
            Self::Class(classes) => Self::Class(classes.to_device(device)),
            Self::Tokens(tokens) => Self::Tokens(tokens.to_device(device)),
        }
    }
}

/// Encoded tokens, which the pixels attend to.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// One vector per token, `[B, L, D]`.
    pub states: Tensor<3>,
    /// 1 for the tokens that count and 0 for the others, `[B, L]`; without it all count. Stable Diffusion uses none: the
    /// padding of a prompt counts.
    pub mask: Option<Tensor<2>>,
    /// What is added to the embedding of the time, in networks such as that of Stable Diffusion XL.
    pub added: Option<AddedCondition>,
}

impl Tokens {
    /// Tokens that all count.
    pub fn new(states: Tensor<3>) -> Self {
        Self { states, mask: None, added: None }
    }

    /// The tokens of these rows, `[R]`, in their order.
    pub fn rows(&self, rows: Tensor<1, Int>) -> Self {
        let added = |added: &AddedCondition| AddedCondition {
            pooled: added.pooled.clone().select(0, rows.clone()),
            sizes: added.sizes.clone().select(0, rows.clone()),
        };
        Self {
            states: self.states.clone().select(0, rows.clone()),
            mask: self.mask.as_ref().map(|mask| mask.clone().select(0, rows.clone())),
            added: self.added.as_ref().map(added),
        }
    }

    /// The same tokens on another device.
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            states: self.states.to_device(device),
            mask: self.mask.map(|mask| mask.to_device(device)),
            added: self.added.map(|added| AddedCondition {
                pooled: added.pooled.to_device(device),
                sizes: added.sizes.to_device(device),
            }),
        }
    }
}

/// A condition on the image as a whole (Podell et al. 2023).
#[derive(Clone, Debug)]
pub struct AddedCondition {
    /// The whole prompt as one vector, `[B, P]`.
    pub pooled: Tensor<2>,
    /// Numbers such as the original size, the crop and the target size, `[B, N]`.
    pub sizes: Tensor<2>,
}
