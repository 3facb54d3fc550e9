//! Prompts as classes: a job numbers them, and the network sees the tokens of the prompt with that number. So all that a
//! job does with classes (guidance, tasks, any batch size) it does with prompts, and with whatever else belongs to one sample.

use burn::tensor::{Device, Int, Tensor, TensorData};
use ddpm_data::DataInfo;
use ddpm_model::condition::{Condition, Tokens};
use ddpm_model::diffusion::Diffusion;

use crate::job::{Predictor, TrainedModel};

/// A network that is conditioned on tokens, as one that is conditioned on the number of a prompt.
pub struct Prompted<'a> {
    network: &'a dyn Predictor,
    rows: Rows,
    prompts: usize,
    /// Whether there is a row that guidance leads away from.
    has_null: bool,
    /// More channels of the input, a row for each prompt.
    channels: Option<Tensor<4>>,
    /// How many channels of the output count.
    kept: Option<usize>,
}

/// What the network is conditioned on: a row for each prompt, then one for the prompt that guidance leads away from.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one per job: a box would save nothing
enum Rows {
    /// The negative or the empty prompt comes last.
    Tokens(Tokens),
    /// The null class comes last, or any class where there is none.
    Classes(Tensor<1, Int>),
    /// Nothing, whatever the number.
    Nothing,
}

impl<'a> Prompted<'a> {
    /// The network under these prompts, of which the last row of `tokens` is the one that guidance leads away from.
    pub fn new(network: &'a dyn Predictor, tokens: Tokens) -> Self {
        let prompts = tokens.states.dims()[0].saturating_sub(1);
        Self { network, rows: Rows::Tokens(tokens), prompts, has_null: true, channels: None, kept: None }
    }

    /// The network where prompt k is the class `classes[k]`, and guidance leads away from `null`, if there is such a class.
    pub fn of_classes(network: &'a dyn Predictor, classes: &[usize], null: Option<usize>, device: &Device) -> Self {
        let last = null.or(classes.first().copied()).unwrap_or_default();
        let rows: Vec<i64> = classes.iter().chain([&last]).map(|class| *class as i64).collect();
        let rows = Rows::Classes(Tensor::from_data(TensorData::new(rows, [classes.len() + 1]), device));
        Self { network, rows, prompts: classes.len(), has_null: null.is_some(), channels: None, kept: None }
    }

    /// The network without any condition.
    pub fn of_nothing(network: &'a dyn Predictor) -> Self {
        Self { network, rows: Rows::Nothing, prompts: 0, has_null: false, channels: None, kept: None }
    }

    /// With more channels behind those of x_t, `[prompts, C, H, W]`: row k for prompt k. Under guidance what it leads away from
    /// has those of the prompt that it is compared with.
    #[must_use]
    pub fn with_channels(self, channels: Tensor<4>) -> Self {
        Self { channels: Some(channels), ..self }
    }

    /// With only the first `kept` channels of what the network predicts.
    #[must_use]
    pub fn keeping(self, kept: usize) -> Self {
        Self { kept: Some(kept), ..self }
    }

    /// The network as a job takes it: every prompt is a class, and the last row is the null class.
    pub fn model<'b>(&'b self, diffusion: &'b Diffusion, data: &'b DataInfo) -> TrainedModel<'b> {
        let numbered = !matches!(self.rows, Rows::Nothing);
        let (classes, null_class) = (numbered.then_some(self.prompts), self.has_null.then_some(self.prompts));
        TrainedModel { classes, null_class, ..TrainedModel::new(self, diffusion, data) }
    }

    /// The condition of rows with these numbers.
    fn condition(&self, rows: &Tensor<1, Int>) -> Condition {
        match &self.rows {
            Rows::Tokens(tokens) => Condition::Tokens(tokens.rows(rows.clone())),
            Rows::Classes(classes) => Condition::Class(classes.clone().select(0, rows.clone())),
            Rows::Nothing => Condition::None,
        }
    }

    /// The additional channels of rows with these numbers.
    fn channels_of(&self, channels: &Tensor<4>, rows: &Tensor<1, Int>) -> Tensor<4> {
        let half = rows.dims()[0] / 2;
        let (first, second) = (rows.clone().narrow(0, 0, half), rows.clone().narrow(0, half, rows.dims()[0] - half));
        // Guidance doubles the rows: those under the null class are the second half.
        let compared =
            rows.clone().mask_where(rows.clone().equal_elem(self.prompts as i64), Tensor::cat(vec![second, first], 0));
        channels.clone().select(0, compared)
    }
}

impl Predictor for Prompted<'_> {
    fn predict(&self, x_t: Tensor<4>, t: Tensor<1>, condition: &Condition) -> Tensor<4> {
        let rows = match condition {
            Condition::Class(prompts) => prompts.clone(),
            _ => {
                let rows = x_t.dims()[0];
                let null = TensorData::new(vec![self.prompts as i64; rows], [rows]);
                Tensor::<1, Int>::from_data(null, &x_t.device())
            }
        };
        let x_t = match &self.channels {
            Some(channels) => Tensor::cat(vec![x_t, self.channels_of(channels, &rows)], 1),
            None => x_t,
        };
        let output = self.network.predict(x_t, t, &self.condition(&rows));
        match self.kept {
            Some(kept) => output.narrow(1, 0, kept),
            None => output,
        }
    }
}
