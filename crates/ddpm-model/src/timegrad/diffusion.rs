//! The losses and noise schedules that pytorch-ts offers for TimeGrad.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::schedule::ScheduleConfig;

/// The first beta of every schedule that has one.
const BETA_START: f64 = 1e-4;

/// How the predicted noise is compared with the noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoiseLoss {
    /// Mean square.
    #[default]
    L2,
    /// Mean absolute value.
    L1,
    /// Half the square up to 1, linear from there on.
    Huber,
}

impl NoiseLoss {
    /// The mean over everything.
    pub fn of<const D: usize>(self, prediction: Tensor<D>, noise: Tensor<D>) -> Tensor<1> {
        // Not `mean`: Burn's gradient of a division by a number rounds its inverse to f32.
        let share = 1.0 / noise.dims().iter().product::<usize>() as f64;
        self.each(prediction, noise).sum() * share
    }

    /// The loss of each value.
    pub fn each<const D: usize>(self, prediction: Tensor<D>, target: Tensor<D>) -> Tensor<D> {
        let error = target - prediction;
        match self {
            Self::L2 => error.square(),
            Self::L1 => error.abs(),
            Self::Huber => {
                let size = error.abs();
                let near = size.clone().clamp_max(1.0);
                near.clone().square() * 0.5 + (size - near)
            }
        }
    }
}

/// The schedule that pytorch-ts has under this name.
///
/// `jsd` ends with a beta of 1, from which no sample can start; such a schedule is refused where its tables are computed.
pub fn schedule(name: &str, steps: usize, beta_end: f64) -> Result<ScheduleConfig, String> {
    let beta_start = BETA_START;
    Ok(match name {
        "linear" => ScheduleConfig::Linear { steps, beta_start, beta_end },
        "quad" => ScheduleConfig::Quadratic { steps, beta_start, beta_end },
        "const" => ScheduleConfig::Constant { steps, beta: beta_end },
        "sigmoid" => ScheduleConfig::Sigmoid { steps, beta_start, beta_end },
        "cosine" => ScheduleConfig::Cosine { steps, s: 0.008, max_beta: 0.999 },
        "jsd" => ScheduleConfig::Explicit { betas: (0..steps).map(|step| 1.0 / (steps - step) as f64).collect() },
        _ => return Err(format!("{name:?} is no schedule, expected linear, quad, const, sigmoid, cosine or jsd")),
    })
}
