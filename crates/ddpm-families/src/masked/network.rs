//! The two networks of masked series behind one name.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use ddpm_kernels::Precision;
use ddpm_model::csdi::{Csdi, CsdiConfig, MaskedSeries};
use ddpm_model::network::{NetworkError, Problem};
use ddpm_model::pass::Pass;
use ddpm_model::sssd::{KernelBases, Observations, Sssd, SssdConfig};
use serde::{Deserialize, Serialize};

/// The network of an experiment, tagged by its `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum MaskedNetworkConfig {
    /// Transformers over the times and over the variables (Tashiro et al. 2021).
    Csdi(CsdiConfig),
    /// Residual blocks with state-space layers (Lopez Alcaraz & Strodthoff 2022).
    Sssd(SssdConfig),
}

impl MaskedNetworkConfig {
    /// With the variables and the length of the data, and the steps of the schedule.
    pub(super) fn with_data(self, [variables, length]: [usize; 2], steps: usize) -> Self {
        match self {
            Self::Csdi(config) => Self::Csdi(CsdiConfig { steps, ..config.with_variables(variables) }),
            Self::Sssd(config) => Self::Sssd(config.with_data(&[variables, length])),
        }
    }

    /// All reasons why the network cannot be built for series of this shape.
    pub(super) fn problems(&self, shape: [usize; 2]) -> Vec<Problem> {
        let variables = shape[0];
        let other = |key: &str, found: usize| {
            let message = format!("is {found}, but the series have {variables} variables; leave it out");
            (found != variables).then(|| Problem { key: key.into(), message })
        };
        match self.clone().with_data(shape, 1) {
            Self::Csdi(config) => config.problems().into_iter().chain(other("variables", config.variables)).collect(),
            Self::Sssd(config) => {
                let channels = [("in_channels", config.in_channels), ("out_channels", config.out_channels)];
                let others = channels.into_iter().filter_map(|(key, found)| other(key, found));
                config.problems().into_iter().chain(others).collect()
            }
        }
    }

    /// Whether the network is not given what is observed.
    pub(super) fn is_unconditional(&self) -> bool {
        matches!(self, Self::Csdi(config) if config.unconditional)
    }

    /// The network before training.
    pub(super) fn init(&self, device: &Device) -> Result<MaskedNetwork, NetworkError> {
        match self {
            Self::Csdi(config) => config.init(device).map(MaskedNetwork::Csdi),
            Self::Sssd(config) => config.init(device).map(MaskedNetwork::Sssd),
        }
    }

    /// Values that a training step keeps for one window: estimated from the layers' inputs and outputs.
    pub(super) fn kept_values(&self, [variables, length]: [usize; 2]) -> usize {
        match self {
            Self::Csdi(config) => {
                let cells = variables * length;
                let attention = config.heads * cells * (length + variables);
                config.layers * (40 * config.channels * cells + 4 * attention)
            }
            Self::Sssd(config) => config.layers * length * 30 * config.features(),
        }
    }
}

/// The network.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // One network per process: a box would only be in the way of Burn's derive.
pub enum MaskedNetwork {
    /// That of CSDI.
    Csdi(Csdi),
    /// That of SSSD.
    Sssd(Sssd),
}

/// What a network is given of some windows, `[B, K, L]`.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// The values; those at other cells do not matter.
    pub(super) values: Tensor<3>,
    /// 1 where a value is given, else 0.
    pub(super) cells: Tensor<3>,
    /// Which variables these are, `[B, K]`; none: all, in order.
    pub(super) variables: Option<Tensor<2, Int>>,
}

impl Given {
    /// 1 where no value is given, else 0.
    pub(super) fn missing(&self) -> Tensor<3> {
        self.cells.ones_like() - self.cells.clone()
    }
}

/// What a network makes of [`Given`] before it sees any noise.
#[allow(clippy::large_enum_variant)] // one per batch
pub(super) enum Condition {
    Csdi { series: MaskedSeries, side: Tensor<4> },
    Sssd { observations: Observations, bases: Arc<KernelBases> },
}

impl MaskedNetwork {
    /// Has the network compute in this precision.
    pub(super) fn set_precision(&mut self, precision: Precision) {
        if let Self::Csdi(network) = self {
            network.set_precision(precision);
        }
    }

    /// What does not depend on the noise, once for all steps of a sample.
    pub(super) fn condition(&self, given: &Given) -> Result<Condition, NetworkError> {
        let [batch, _, length] = given.cells.dims();
        match self {
            Self::Csdi(network) => {
                let series = MaskedSeries::new(given.values.clone(), given.cells.clone(), given.cells.clone());
                let times = Tensor::<1, Int>::arange(0..length as i64, &given.cells.device()).float();
                let times = times.unsqueeze_dim::<2>(0).expand([batch, length]);
                let side = network.side_information(times, given.variables.clone(), given.cells.clone());
                Ok(Condition::Csdi { series, side })
            }
            Self::Sssd(network) => {
                let observations = Observations { values: given.values.clone(), mask: given.cells.clone() };
                Ok(Condition::Sssd { observations, bases: network.kept_bases(length)? })
            }
        }
    }

    /// What the network predicts of noisy windows `[B, K, L]` at these steps, one for each.
    pub(super) fn forward(&self, noisy: Tensor<3>, steps: &[f64], condition: &Condition, pass: &Pass<'_>) -> Tensor<3> {
        match (self, condition) {
            (Self::Csdi(network), Condition::Csdi { series, side }) => {
                let input = series.input(noisy, network.config().unconditional);
                network.forward_at(input, side.clone(), steps, pass)
            }
            (Self::Sssd(network), Condition::Sssd { observations, bases }) => {
                let x = observations.with_noisy(noisy);
                let steps = Tensor::<1>::from_floats(steps, &x.device());
                network.forward(x, observations, steps, bases, pass)
            }
            _ => unreachable!("the condition of another network"),
        }
    }
}
