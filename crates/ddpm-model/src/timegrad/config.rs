//! The description of a TimeGrad network, and its checks.

use serde::{Deserialize, Serialize};

use crate::network::Problem;

/// The kind of recurrent cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cell {
    /// Gated recurrent unit.
    #[default]
    #[serde(alias = "GRU")]
    Gru,
    /// Long short-term memory.
    #[serde(alias = "LSTM")]
    Lstm,
}

impl Cell {
    /// Gates, each with rows of its own in the weights.
    pub fn gates(self) -> usize {
        match self {
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }
}

/// The network that removes noise from the values of all variables of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DenoiserConfig {
    /// Convolutions over the variables, seen as a circle, as in the original; for two variables or more.
    Convolution(ConvolutionConfig),
    /// Dense layers over all variables at once.
    Mlp(MlpConfig),
    /// Attention among the variables.
    Attention(AttentionConfig),
}

impl Default for DenoiserConfig {
    fn default() -> Self {
        Self::Convolution(ConvolutionConfig::default())
    }
}

/// The denoiser of the original.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvolutionConfig {
    /// Residual blocks.
    pub residual_layers: usize,
    /// Channels of these blocks.
    pub residual_channels: usize,
    /// The dilation doubles from block to block and starts again at 1 after this many.
    #[serde(alias = "dilation_cycle_length")]
    pub dilation_cycle: usize,
}

impl Default for ConvolutionConfig {
    fn default() -> Self {
        Self { residual_layers: 8, residual_channels: 8, dilation_cycle: 2 }
    }
}

impl ConvolutionConfig {
    /// The dilation of a residual block.
    pub fn dilation(&self, block: usize) -> usize {
        1 << (block % self.dilation_cycle.max(1))
    }
}

/// A denoiser of dense layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MlpConfig {
    /// Width of the layers.
    pub width: usize,
    /// Residual blocks of two layers.
    pub blocks: usize,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self { width: 128, blocks: 3 }
    }
}

/// A denoiser of attention among the variables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionConfig {
    /// Values for each variable.
    pub width: usize,
    /// Heads of the attention; they divide the width.
    pub heads: usize,
    /// Blocks of attention and two dense layers.
    pub blocks: usize,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self { width: 64, heads: 4, blocks: 2 }
    }
}

impl DenoiserConfig {
    /// All that keeps the denoiser of so many variables from being built.
    fn problems(&self, variables: usize) -> Vec<Problem> {
        let sizes: Vec<(&str, usize)> = match self {
            Self::Convolution(config) => vec![
                ("residual_layers", config.residual_layers),
                ("residual_channels", config.residual_channels),
                ("dilation_cycle", config.dilation_cycle),
            ],
            Self::Mlp(config) => vec![("width", config.width), ("blocks", config.blocks)],
            Self::Attention(config) => {
                vec![("width", config.width), ("heads", config.heads), ("blocks", config.blocks)]
            }
        };
        let problem = |key: &str, message: String| Problem::new(&format!("denoiser.{key}"), message);
        let zero = sizes.into_iter().filter(|(_, size)| *size == 0);
        let mut problems: Vec<Problem> =
            zero.map(|(key, _)| problem(key, "is 0, expected at least 1".into())).collect();
        match self {
            Self::Convolution(_) if variables == 1 => {
                let message =
                    "\"convolution\" needs two variables or more: it convolves over them; take \"mlp\"".into();
                problems.push(problem("kind", message));
            }
            Self::Convolution(config) => {
                // A block's padding wraps around the variables and the four that the first layer adds.
                let (longest, most) =
                    (config.residual_layers.min(config.dilation_cycle).saturating_sub(1), variables + 4);
                if longest >= 32 || 1usize << longest > most {
                    let message = format!(
                        "block {longest} would have a dilation of 2^{longest}, expected at most {most} for {variables} \
                         variables"
                    );
                    problems.push(problem("dilation_cycle", message));
                }
            }
            Self::Attention(config) if config.heads > 0 && config.width % config.heads != 0 => {
                let message = format!("{} do not divide the width, {}", config.heads, config.width);
                problems.push(problem("heads", message));
            }
            Self::Mlp(_) | Self::Attention(_) => {}
        }
        problems
    }
}

/// The networks of TimeGrad (Rasul et al. 2021, arXiv:2101.12072) as pytorch-ts has them: a recurrent network over the
/// past, and a denoiser of all variables of one step given its state. The defaults are those of its authors' examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeGradConfig {
    /// Variables of the series; 0: as the data have.
    pub variables: usize,
    /// Steps of the past that the recurrent network reads.
    pub context_length: usize,
    /// Steps to forecast.
    pub prediction_length: usize,
    /// How many steps back the values are that the recurrent network reads at each step; empty: by the frequency.
    pub lags: Vec<usize>,
    /// Time features at each step: two for each calendar field.
    pub time_features: usize,
    /// Whether each variable is divided by its mean absolute value in the context.
    pub scaling: bool,
    /// The kind of recurrent cell.
    pub cell: Cell,
    /// Layers of recurrent cells.
    pub layers: usize,
    /// Width of each of these layers.
    #[serde(alias = "num_cells")]
    pub cells: usize,
    /// Dropout between these layers while training.
    pub dropout: f64,
    /// Width of what the denoiser is conditioned on.
    pub conditioning_length: usize,
    /// The network that removes noise.
    pub denoiser: DenoiserConfig,
}

impl Default for TimeGradConfig {
    fn default() -> Self {
        Self {
            variables: 0,
            context_length: 24,
            prediction_length: 24,
            lags: Vec::new(),
            time_features: 4,
            scaling: true,
            cell: Cell::default(),
            layers: 2,
            cells: 40,
            dropout: 0.1,
            conditioning_length: 100,
            denoiser: DenoiserConfig::default(),
        }
    }
}

impl TimeGradConfig {
    /// Values that the recurrent network reads at each step: the lagged ones, an embedding of each variable and the time
    /// features.
    pub fn input_size(&self) -> usize {
        self.variables * (self.lags.len() + 1) + self.time_features
    }

    /// Steps of the past that a window needs: the context, and before it as many as the longest lag.
    pub fn history_length(&self) -> usize {
        self.context_length + self.lags.iter().copied().max().unwrap_or(0)
    }

    /// All that keeps the network from being built.
    pub fn problems(&self) -> Vec<Problem> {
        let sizes = [
            ("context_length", self.context_length),
            ("prediction_length", self.prediction_length),
            ("layers", self.layers),
            ("cells", self.cells),
            ("conditioning_length", self.conditioning_length),
        ];
        let zero = sizes.into_iter().filter(|(_, size)| *size == 0);
        let mut problems: Vec<Problem> = zero.map(|(key, _)| Problem::new(key, "is 0, expected at least 1")).collect();
        if self.variables == 0 {
            problems.push(Problem::new("variables", "is 0, expected at least 1"));
        }
        problems.extend(self.denoiser.problems(self.variables));
        if self.lags.is_empty() || self.lags.contains(&0) {
            problems.push(Problem::new("lags", format!("{:?} given, expected some of at least 1", self.lags)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(Problem::new("dropout", format!("is {}, expected 0 or more and less than 1", self.dropout)));
        }
        problems
    }
}
