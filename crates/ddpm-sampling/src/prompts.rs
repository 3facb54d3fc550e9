//! Prompts as classes: a job numbers them, and the network sees the tokens of the prompt with that number. So all that a
//! job does with classes (guidance, tasks, any batch size) it does with prompts.

use burn::tensor::{Int, Tensor, TensorData};
use ddpm_data::DataInfo;
use ddpm_model::condition::{Condition, Tokens};
use ddpm_model::diffusion::Diffusion;

use crate::job::{Predictor, TrainedModel};

/// A network that is conditioned on tokens, as one that is conditioned on the number of a prompt.
#[derive(Debug)]
pub struct Prompted<'a, N> {
    network: &'a N,
    /// A row for each prompt, then one for the prompt that guidance leads away from: the negative or the empty one.
    tokens: Tokens,
    prompts: usize,
}

impl<'a, N> Prompted<'a, N> {
    /// The network under these prompts, of which the last row of `tokens` is the one that guidance leads away from.
    pub fn new(network: &'a N, tokens: Tokens) -> Self {
        let prompts = tokens.states.dims()[0].saturating_sub(1);
        Self { network, tokens, prompts }
    }

    /// The network as a job takes it: every prompt is a class, and the last row is the null class.
    pub fn model<'b>(&'b self, diffusion: &'b Diffusion, data: &'b DataInfo) -> TrainedModel<'b, Self> {
        let (classes, null_class) = (Some(self.prompts), Some(self.prompts));
        TrainedModel { classes, null_class, ..TrainedModel::new(self, diffusion, data) }
    }
}

impl<N: Predictor> Predictor for Prompted<'_, N> {
    fn predict<const D: usize>(&self, x_t: Tensor<D>, t: Tensor<1>, condition: &Condition) -> Tensor<D> {
        let rows = match condition {
            Condition::Class(prompts) => prompts.clone(),
            _ => {
                let rows = x_t.dims()[0];
                let null = TensorData::new(vec![self.prompts as i64; rows], [rows]);
                Tensor::<1, Int>::from_data(null, &x_t.device())
            }
        };
        self.network.predict(x_t, t, &Condition::Tokens(self.tokens.rows(rows)))
    }
}
