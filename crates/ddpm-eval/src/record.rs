//! The evaluations of a run, which are stored with it: one JSON line for each set of samples.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::metrics::Evaluation;

/// How samples were drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingSettings {
    /// Training steps behind the weights.
    pub step: u64,
    /// Width of the EMA of the weights; `None` for the EMA of the snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// The sampler's name.
    pub sampler: String,
    /// Steps of the sampler.
    pub sampler_steps: usize,
    /// The noise levels that these visit, as a name, or as a name with its parameters; null for what is made in one pass.
    pub levels: serde_json::Value,
    /// Guidance scale; 1 disables it.
    pub guidance: f64,
    /// Seed of the samples.
    pub seed: u64,
    /// Further options by their names on the command line: `eta`, `class`, `guidance-interval` and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl SamplingSettings {
    /// Sampler, steps, guidance and options, such as `ddim 50, guidance 2, eta 0.5`.
    pub fn summary(&self) -> String {
        let guidance = if self.guidance == 1.0 { String::new() } else { format!(", guidance {}", self.guidance) };
        format!("{}{guidance}{}", self.sampler_and_steps(), self.options_summary())
    }

    /// Such as `ddim 50`; what is made in one pass visits no levels, and has no number.
    pub fn sampler_and_steps(&self) -> String {
        match self.levels.is_null() {
            true => self.sampler.clone(),
            false => format!("{} {}", self.sampler, self.sampler_steps),
        }
    }

    /// The options at the end of a summary, such as `, eta 0.5`.
    pub fn options_summary(&self) -> String {
        self.options.iter().map(|(name, value)| format!(", {name} {value}")).collect()
    }
}

/// A line of a run's evaluations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was measured, in UTC.
    pub at: String,
    /// How the samples were drawn.
    #[serde(rename = "how")]
    pub sampling: SamplingSettings,
    /// Their metrics.
    #[serde(rename = "verdict")]
    pub evaluation: Evaluation,
    /// The metrics of real items and of a Gaussian, for comparison.
    pub floors: Vec<Evaluation>,
}

impl Record {
    /// Measured now.
    pub fn now(sampling: SamplingSettings, evaluation: Evaluation, floors: &[Evaluation]) -> Self {
        let at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        Self { at, sampling, evaluation, floors: floors.to_vec() }
    }
}

/// Appends lines to a file in a single write.
pub fn append(path: &Path, records: &[Record]) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    OpenOptions::new().create(true).append(true).open(path)?.write_all(&lines)
}

/// The lines of a file, oldest first: none if there is no such file. Lines that cannot be read are left out.
pub fn read(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Measurement;

    #[test]
    fn lines_are_added_and_damaged_ones_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evaluations.jsonl");
        assert!(read(&path).is_empty());
        let record = |step, width: Option<f64>| {
            let measured =
                vec![Measurement { metric: "FD".into(), name: "FD (x)".into(), value: 0.1, deviation: Some(0.2) }];
            let (of, against) = ("samples".to_string(), "test".to_string());
            let evaluation =
                Evaluation { of, count: 3, against, measured, class_shares: vec![0.5, 0.5], warnings: Vec::new() };
            let (sampler, levels) = ("ddim".to_string(), "sgm-uniform".into());
            let options = if width.is_some() { [("eta".into(), "0.5".into())].into() } else { BTreeMap::new() };
            let sampling =
                SamplingSettings { step, width, sampler, sampler_steps: 5, levels, guidance: 1.0, seed: 0, options };
            Record::now(sampling, evaluation.clone(), &[Evaluation { class_shares: Vec::new(), ..evaluation }])
        };
        let (first, second) = ([record(1, None), record(2, Some(0.05))], [record(3, None)]);
        assert_eq!(first[1].sampling.summary(), "ddim 5, eta 0.5");
        let (sampler, levels) = ("one pass".to_string(), serde_json::Value::Null);
        let in_one_pass = SamplingSettings { sampler, levels, ..first[0].sampling.clone() };
        assert_eq!(in_one_pass.summary(), "one pass");
        append(&path, &first).unwrap();
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"at\": \"2026\n").unwrap();
        append(&path, &second).unwrap();
        assert_eq!(read(&path), [&first[..], &second].concat());
        assert!(append(dir.path(), &second).is_err());
    }
    #[test]
    fn lines_have_the_keys_that_they_always_had() {
        let line = r#"{"at":"2026-01-02T03:04:05Z","how":{"step":7,"sampler":"heun","sampler_steps":18,"levels":{"karras":{"rho":7.0,"ends":{"min":null,"max":80.0}}},"guidance":1.0,"seed":0},"verdict":{"of":"a","count":3,"against":"b","measured":[]},"floors":[]}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!(record.sampling.levels["karras"]["ends"]["max"], 80.0);
        let again = serde_json::to_value(&record).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(line).unwrap());
    }
}
