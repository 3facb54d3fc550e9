//! Fixtures as tensors, and what else of the golden tests needs the mathematics.

use burn::tensor::{DType, Device, Tensor, TensorData};
use ddpm_model::schedule::{Schedule, ScheduleConfig};
use serde_json::Value;

use crate::support::{Safetensors, fit, number, text, whole};

impl Safetensors {
    /// A floating-point tensor in the wanted dtype, its shape fitted to the rank by [`fit`].
    pub fn tensor<const D: usize>(&self, name: &str, device: &Device, dtype: DType) -> Tensor<D> {
        let shape: [usize; D] = fit(&self.shape(name));
        Tensor::from_data(TensorData::new(self.f64(name), shape), (device, dtype))
    }
}

/// The host values of a tensor of any float dtype.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// The model of `gaussian/README.md`: an explicit function of `x` and `u = (t + 1) / steps`.
#[derive(Clone, Debug)]
pub struct DummyModel {
    /// `p x + q x u + r sin(x)` on the mean channels.
    pub mean: [f64; 3],
    /// `c cos(d x) + e (2u - 1)` on the variance channels, where there are any.
    pub variance: Option<[f64; 3]>,
    /// Steps of the schedule that the model counts in.
    pub steps: f64,
}

impl DummyModel {
    /// From the `model` entry of the config in `gaussian/cases.json`.
    pub fn from_json(model: &Value, mean_type: &str, learned_variance: bool, steps: f64) -> Self {
        let three = |entry: &Value, keys: [&str; 3]| keys.map(|key| number(entry, key));
        Self {
            mean: three(&model[mean_type], ["p", "q", "r"]),
            variance: learned_variance.then(|| three(&model["var"], ["c", "d", "e"])),
            steps,
        }
    }

    /// The output for rows at the times `t`, shape `[B]` in the dtype of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, t: Tensor<1>) -> Tensor<D> {
        let mut rows = [1; D];
        rows[0] = x.dims()[0];
        let u = ((t + 1.0) / self.steps).reshape(rows);
        let [p, q, r] = self.mean;
        let mean = x.clone() * p + x.clone() * u.clone() * q + x.clone().sin() * r;
        match self.variance {
            None => mean,
            Some([c, d, e]) => Tensor::cat(vec![mean, (x * d).cos() * c + (u * 2.0 - 1.0) * e], 1),
        }
    }
}

/// The schedule of a fixture entry: `kind` and its parameters, beside it or under `params`.
pub fn schedule(entry: &Value) -> Schedule {
    let params = match &entry["params"] {
        Value::Null => entry,
        params => params,
    };
    let steps = whole(params, "T");
    let or = |key: &str, default: f64| params[key].as_f64().unwrap_or(default);
    let config = match text(entry, "kind") {
        "linear" => ScheduleConfig::Linear {
            steps,
            beta_start: number(params, "beta_start"),
            beta_end: number(params, "beta_end"),
        },
        "linear_rescaled" => ScheduleConfig::LinearRescaled { steps },
        "sqrt_linear" => ScheduleConfig::Quadratic {
            steps,
            beta_start: number(params, "beta_start"),
            beta_end: number(params, "beta_end"),
        },
        "cosine" => ScheduleConfig::Cosine { steps, s: or("s", 0.008), max_beta: or("max_beta", 0.999) },
        other => panic!("unknown schedule {other:?}"),
    };
    config.init().unwrap()
}
