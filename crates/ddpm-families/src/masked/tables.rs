//! What an experiment says of a model of masked series, and what of it follows from the data.

use ddpm_data::DataInfo;
use ddpm_model::bound::Loss;
use ddpm_model::schedule::ScheduleConfig;
use ddpm_model::variance::Variance;
use ddpm_sampling::samplers::{Sampler, SamplerOptions};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::masks::MaskConfig;
use super::network::MaskedNetworkConfig;
use crate::family::Problem;
use crate::snapshot::DiffusionConfig;

/// The sections of a model of masked series.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskedTables {
    /// The network.
    pub model: MaskedNetworkConfig,
    /// The forward process and what the network predicts. Without `schedule` it is that of the network's paper: for
    /// `"csdi"` quadratic in 50 steps from 1e-4 to 0.5, for `"sssd"` linear in 200 steps from 1e-4 to 0.02.
    #[serde(default)]
    pub diffusion: DiffusionConfig,
    /// Windows, and what is hidden of them.
    #[serde(default)]
    pub masked: MaskedConfig,
}

/// Windows, what is hidden of them in training, and how what is missing is sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MaskedConfig {
    /// Steps of a window; left out: as the data have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Steps from the start of a training window to that of the next one, in long series.
    pub stride: usize,
    /// Variables of a training item, chosen at random; left out: all. For `"csdi"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variables_per_item: Option<usize>,
    /// How the cells that the network learns to predict are chosen; several kinds are mixed.
    pub masks: Vec<MaskConfig>,
    /// What the loss is a mean of.
    pub mean: LossMean,
    /// The sampler, unless another is named: any name that `cargo xtask sample --help` lists.
    pub sampler: String,
    /// Its steps, at most those of the schedule.
    pub steps: usize,
}

/// What the loss of a batch is a mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossMean {
    /// The hidden cells: windows of which much is hidden count more, as in the papers.
    #[default]
    Cells,
    /// The windows, each with the mean of its hidden cells.
    Windows,
}

impl Default for MaskedConfig {
    fn default() -> Self {
        Self {
            window: None,
            stride: 1,
            variables_per_item: None,
            masks: vec![MaskConfig::default()],
            mean: LossMean::Cells,
            sampler: "ddim".into(),
            steps: 20,
        }
    }
}

impl MaskedTables {
    /// The sections, each with what must be in it; more than once where kinds have keys of their own.
    pub(super) const SECTIONS: &'static [(&'static str, &'static str)] = &[
        ("model", "kind = 'csdi'"),
        ("model", "kind = 'sssd'"),
        ("diffusion", ""),
        ("diffusion.schedule", "kind = 'linear'"),
        ("diffusion.schedule", "kind = 'cosine'"),
        ("diffusion.weighting", "kind = 'min-snr'"),
        ("masked", ""),
    ];

    /// Reads the sections, with the schedule of the network's paper where none is given.
    pub(super) fn read(mut tables: Table) -> Result<Self, String> {
        let kind = tables.get("model").and_then(|model| model.get("kind")).and_then(Value::as_str);
        let usual = match kind {
            Some("csdi") => ScheduleConfig::Quadratic { steps: 50, beta_start: 1e-4, beta_end: 0.5 },
            _ => ScheduleConfig::Linear { steps: 200, beta_start: 1e-4, beta_end: 0.02 },
        };
        let diffusion = tables.entry("diffusion").or_insert(Table::new().into());
        if let (Some(table), Ok(usual)) = (diffusion.as_table_mut(), Value::try_from(usual)) {
            table.entry("schedule").or_insert(usual);
        }
        Self::deserialize(Value::Table(tables)).map_err(|error| error.message().to_string())
    }

    /// What is wrong with the values, before the data are known.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .diffusion
            .problems()
            .into_iter()
            .chain(self.other_processes())
            .map(|(key, message)| (format!("diffusion.{key}"), message))
            .collect();
        problems.extend(self.masked.problems(self.diffusion.schedule.steps()));
        problems
    }

    /// Keys of the process that mean nothing here.
    fn other_processes(&self) -> Vec<Problem> {
        let DiffusionConfig { variance, loss, offset_noise, self_conditioning, continuous, .. } = &self.diffusion;
        let wrong = [
            (continuous.is_some(), "continuous", "masked series have counted steps"),
            (*variance == Variance::Learned, "variance", "the networks of masked series learn no variance"),
            (*loss != Loss::Mse, "loss", "masked series are learned by the squared error, \"mse\""),
            (*offset_noise != 0.0, "offset_noise", "is for images"),
            (*self_conditioning, "self_conditioning", "the networks of masked series take no estimate of their own"),
        ];
        let wrong = wrong.into_iter().filter(|(is_wrong, ..)| *is_wrong);
        wrong.map(|(_, key, message)| (key.to_string(), message.to_string())).collect()
    }

    /// What does not go together with these data.
    pub(super) fn problems_with_data(&self, data: &DataInfo) -> Vec<Problem> {
        let [variables, length] = data.shape[..] else {
            let message = format!("masked models are for series, the data are {:?}", data.shape);
            return vec![("data.kind".into(), message)];
        };
        let of_model = |problem: ddpm_model::network::Problem| (format!("model.{}", problem.key), problem.message);
        let mut problems: Vec<Problem> = self.model.problems([variables, length]).into_iter().map(of_model).collect();
        if let Some(chosen) = self.masked.variables_per_item {
            let key = "masked.variables_per_item".to_string();
            if !(1..=variables).contains(&chosen) {
                problems.push((key, format!("is {chosen}; expected 1 to {variables}, the variables of the data")));
            } else if !matches!(self.model, MaskedNetworkConfig::Csdi(_)) {
                problems.push((key, "is for model.kind = \"csdi\", which takes any number of variables".into()));
            }
        }
        problems
    }
}

impl MaskedConfig {
    fn problems(&self, schedule: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, key: &str, message: String| {
            if !holds {
                problems.push((format!("masked.{key}"), message));
            }
        };
        require(self.window != Some(0), "window", "must be at least 1, not 0".into());
        require(self.stride > 0, "stride", "must be at least 1, not 0".into());
        require(!self.masks.is_empty(), "masks", "names no kind; expected at least one".into());
        for (number, mask) in self.masks.iter().enumerate() {
            for (key, message) in mask.problems() {
                require(false, &format!("masks.{number}.{key}"), message);
            }
        }
        let steps = self.steps;
        require(
            (1..=schedule).contains(&steps),
            "steps",
            format!("is {steps}; expected 1 to {schedule}, as the schedule"),
        );
        if let Err(error) = Sampler::new(&self.sampler, SamplerOptions::default()) {
            require(false, "sampler", error.to_string());
        }
        problems
    }
}
