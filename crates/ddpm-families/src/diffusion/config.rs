//! The process that a model is trained for: `[diffusion]` of an experiment.

use ddpm_model::bound::Loss;
use ddpm_model::continuous::{ContinuousDiffusion, Target};
use ddpm_model::diffusion::Diffusion;
use ddpm_model::gaussian::GaussianDiffusion;
use ddpm_model::prediction::Prediction;
use ddpm_model::schedule::{ScheduleConfig, ScheduleError};
use ddpm_model::variance::Variance;
use ddpm_model::weighting::Weighting;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// Time is discrete, with a schedule of steps, unless `continuous` is given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionConfig {
    /// The noise schedule.
    pub schedule: ScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The variance of the reverse steps.
    pub variance: Variance,
    /// What training minimises.
    pub loss: Loss,
    /// Weight of the squared error at each noise level; not with the losses `"kl"` and `"rescaled-kl"`.
    pub weighting: Weighting,
    /// Rescales the schedule to zero terminal SNR: nothing of the data is left at its last step. Needs another
    /// prediction than `"eps"`.
    pub zero_terminal_snr: bool,
    /// Standard deviation of extra noise that is the same all over a channel; 0.1 helps with very dark and very bright
    /// images. Only with the loss `"mse"` and a fixed variance.
    pub offset_noise: f64,
    /// Conditions the network on t scaled to a thousand steps, whatever the length of the schedule, as
    /// improved-diffusion can.
    pub rescaled_times: bool,
    /// Conditions the network on its own last estimate of x_0, in half of training and all of sampling. Needs a
    /// prediction whose estimate stays bounded: `"x0"` or `"v"`, or in continuous time `"flow"` or `"edm"`.
    pub self_conditioning: bool,
    /// Continuous time in place of the schedule. Then `schedule`, `prediction`, `variance`, `loss`, `zero_terminal_snr`
    /// and `rescaled_times` must be left out: another value than the default is refused, the default is reported as not
    /// read.
    pub continuous: Option<ContinuousDiffusion>,
}

impl Serialize for DiffusionConfig {
    /// Beside a path in continuous time, what is about counted steps is left out.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut keys = serializer.serialize_map(None)?;
        let of_steps = self.continuous.is_none();
        if of_steps {
            keys.serialize_entry("schedule", &self.schedule)?;
            keys.serialize_entry("prediction", &self.prediction)?;
            keys.serialize_entry("variance", &self.variance)?;
            keys.serialize_entry("loss", &self.loss)?;
        }
        keys.serialize_entry("weighting", &self.weighting)?;
        if of_steps {
            keys.serialize_entry("zero_terminal_snr", &self.zero_terminal_snr)?;
        }
        keys.serialize_entry("offset_noise", &self.offset_noise)?;
        if of_steps && self.rescaled_times {
            keys.serialize_entry("rescaled_times", &true)?;
        }
        if self.self_conditioning {
            keys.serialize_entry("self_conditioning", &true)?;
        }
        if let Some(continuous) = &self.continuous {
            keys.serialize_entry("continuous", continuous)?;
        }
        keys.end()
    }
}

impl DiffusionConfig {
    /// The keys about counted steps, which mean nothing beside `continuous`.
    pub const OF_STEPS: [&str; 6] =
        ["schedule", "prediction", "variance", "loss", "zero_terminal_snr", "rescaled_times"];

    /// The process with its tables.
    pub fn init(&self) -> Result<Diffusion, ScheduleError> {
        match self.continuous {
            Some(continuous) => Ok(Diffusion::Continuous(continuous)),
            None => self.chain().map(Diffusion::Discrete),
        }
    }

    /// The process of counted steps.
    fn chain(&self) -> Result<GaussianDiffusion, ScheduleError> {
        let schedule = match (self.schedule.init()?, self.zero_terminal_snr) {
            (schedule, false) => schedule,
            (schedule, true) => schedule.with_zero_terminal_snr()?,
        };
        let rescaled_times = self.rescaled_times;
        Ok(GaussianDiffusion { rescaled_times, ..GaussianDiffusion::new(schedule, self.prediction, self.variance) })
    }

    /// What is wrong with values that are of the right type, key by key.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems: Vec<(String, String)> =
            self.weighting.problems().into_iter().map(|(key, message)| (format!("weighting.{key}"), message)).collect();
        let mut report = |key: &str, message: &str| problems.push((key.into(), message.into()));
        if let Some(continuous) = &self.continuous {
            for (key, message) in continuous.problems() {
                report(&format!("continuous.{key}"), &message);
            }
            self.step_problems(&mut report);
        } else if self.weighting == (Weighting::Likelihood {}) {
            report("weighting", "\"likelihood\" needs a path in continuous time; over steps, use loss = \"kl\"");
        }
        if self.self_conditioning && !self.has_bounded_estimate() {
            report(
                "self_conditioning",
                "needs a prediction whose x_0 stays bounded where noise is all there is: \"x0\" or \"v\", or \"flow\" or \
                 \"edm\" in continuous time",
            );
        }
        if let Err(error) = self.chain() {
            report("schedule", &error.to_string());
        }
        if self.zero_terminal_snr && self.prediction == Prediction::Eps {
            report(
                "zero_terminal_snr",
                "needs prediction = \"v\" or \"x0\": where there is no signal, the noise says nothing about the data",
            );
        }
        if self.weighting != Weighting::default() && matches!(self.loss, Loss::Kl | Loss::RescaledKl) {
            report("weighting", "weighs the squared error, which the loss \"kl\" does not have");
        }
        if self.offset_noise > 0.0 && (self.loss != Loss::Mse || self.variance == Variance::Learned) {
            report(
                "offset_noise",
                "is not the noise that the bound is about: it needs loss = \"mse\" and a fixed variance",
            );
        }
        if !(self.offset_noise >= 0.0 && self.offset_noise.is_finite()) {
            report("offset_noise", &format!("must not be negative, but is {}", self.offset_noise));
        }
        problems
    }

    /// What is said about steps where there are none.
    fn step_problems(&self, report: &mut impl FnMut(&str, &str)) {
        let usual = Self::default();
        for (key, differs) in Self::OF_STEPS.into_iter().zip([
            self.schedule != usual.schedule,
            self.prediction != usual.prediction,
            self.variance != usual.variance,
            self.loss != usual.loss,
            self.zero_terminal_snr,
            self.rescaled_times,
        ]) {
            if differs {
                report(key, "is about counted steps and has no meaning beside [diffusion.continuous]");
            }
        }
    }

    fn has_bounded_estimate(&self) -> bool {
        match &self.continuous {
            Some(continuous) => !matches!(continuous.prediction, Target::Eps | Target::Score),
            None => matches!(self.prediction, Prediction::X0 | Prediction::V),
        }
    }
}
