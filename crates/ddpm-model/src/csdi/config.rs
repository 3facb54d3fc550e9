//! The description of a network of CSDI, and its checks.

use serde::{Deserialize, Serialize};

use crate::network::Problem;

/// The network of CSDI (Tashiro et al. 2021, arXiv:2107.03502). The defaults are those of the paper for the imputation of
/// PhysioNet 2012, with the number of variables left to the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsdiConfig {
    /// Variables of a series; 0: as the data have.
    pub variables: usize,
    /// Residual layers.
    pub layers: usize,
    /// Channels of the residual layers.
    pub channels: usize,
    /// Heads of attention, which share the channels.
    #[serde(alias = "nheads")]
    pub heads: usize,
    /// Width of the embedding of the diffusion step.
    #[serde(alias = "diffusion_embedding_dim")]
    pub step_embedding: usize,
    /// Width of the embedding of the time of a value.
    #[serde(alias = "timeemb")]
    pub time_embedding: usize,
    /// Width of the embedding of the variable of a value.
    #[serde(alias = "featureemb")]
    pub feature_embedding: usize,
    /// A network that is not given the observed values, for sampling by replacement.
    pub unconditional: bool,
    /// Attention between the variables; without it each is imputed by itself.
    pub feature_layer: bool,
    /// Adds the side information to the input as well, so that the first attention knows times and variables. The original does
    /// not.
    pub side_at_input: bool,
    /// Attention whose cost is linear in the length, as in the paper's forecasts.
    #[serde(alias = "is_linear")]
    pub linear_attention: bool,
    /// Diffusion steps, which the network has embeddings of.
    #[serde(alias = "num_steps")]
    pub steps: usize,
}

impl Default for CsdiConfig {
    fn default() -> Self {
        Self {
            variables: 0,
            layers: 4,
            channels: 64,
            heads: 8,
            step_embedding: 128,
            time_embedding: 128,
            feature_embedding: 16,
            unconditional: false,
            feature_layer: true,
            side_at_input: false,
            linear_attention: false,
            steps: 50,
        }
    }
}

impl CsdiConfig {
    /// With the number of variables of the data where it is left open.
    pub fn with_variables(mut self, variables: usize) -> Self {
        if self.variables == 0 {
            self.variables = variables;
        }
        self
    }

    /// Channels of the input: the given values and the noisy ones, or the noisy ones alone.
    pub fn input_channels(&self) -> usize {
        if self.unconditional { 1 } else { 2 }
    }

    /// Channels of the side information: time, variable, and unless unconditional the mask of what is given.
    pub fn side_channels(&self) -> usize {
        self.time_embedding + self.feature_embedding + usize::from(!self.unconditional)
    }

    /// All reasons why this network cannot be built.
    pub fn problems(&self) -> Vec<Problem> {
        let counts = [
            ("variables", self.variables),
            ("layers", self.layers),
            ("channels", self.channels),
            ("heads", self.heads),
            ("feature_embedding", self.feature_embedding),
            ("steps", self.steps),
        ];
        let mut problems: Vec<Problem> = counts
            .into_iter()
            .filter(|(_, value)| *value == 0)
            .map(|(key, _)| Problem::new(key, "is 0, expected at least 1"))
            .collect();
        if self.heads > 0 && !self.channels.is_multiple_of(self.heads) {
            let message = format!("is {}; expected a divisor of the {} channels", self.heads, self.channels);
            problems.push(Problem::new("heads", message));
        }
        // Frequencies go from the first to the last of at least two.
        for (key, width, least) in
            [("step_embedding", self.step_embedding, 4), ("time_embedding", self.time_embedding, 2)]
        {
            if width < least || !width.is_multiple_of(2) {
                problems.push(Problem::new(key, format!("is {width}; expected an even number of at least {least}")));
            }
        }
        problems
    }
}
