//! What was measured on a run, as it is kept with the run: one JSON line for each set of samples.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::judge::Verdict;
use crate::levels::Ladder;

/// How samples were drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct How {
    /// Training steps behind the weights.
    pub step: u64,
    /// Width of the average that the weights are; nothing for the one that every snapshot has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// The sampler's name.
    pub sampler: String,
    /// Steps of the sampler.
    pub sampler_steps: usize,
    /// The noise levels that these visit.
    pub levels: Ladder,
    /// Scale of guidance; 1 is none.
    pub guidance: f64,
    /// Seed of the samples.
    pub seed: u64,
    /// What else was chosen, by the names on the command line: `eta`, `class`, `guidance-interval` and so on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl How {
    /// Sampler, steps and what else was chosen, such as `ddim 50, guidance 2, eta 0.5`.
    pub fn sampling(&self) -> String {
        let guidance = if self.guidance == 1.0 { String::new() } else { format!(", guidance {}", self.guidance) };
        format!("{} {}{guidance}{}", self.sampler, self.sampler_steps, self.options_in_words())
    }

    /// The options as they are added to a description, such as `, eta 0.5`.
    pub fn options_in_words(&self) -> String {
        self.options.iter().map(|(name, value)| format!(", {name} {value}")).collect()
    }
}

/// A line of a run's evaluations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it was measured, in UTC.
    pub at: String,
    /// How the samples were drawn.
    pub how: How,
    /// What they are worth.
    pub verdict: Verdict,
    /// What real items and a Gaussian are worth beside them.
    pub floors: Vec<Verdict>,
}

impl Record {
    /// Measured now.
    pub fn now(how: How, verdict: Verdict, floors: &[Verdict]) -> Self {
        let at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        Self { at, how, verdict, floors: floors.to_vec() }
    }
}

/// Adds lines to a file, in one piece.
pub fn append(path: &Path, records: &[Record]) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    OpenOptions::new().create(true).append(true).open(path)?.write_all(&lines)
}

/// The lines of a file, oldest first. None if there is no such file; what cannot be read is left out.
pub fn read(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::evaluation::judge::Measured;

    #[test]
    fn lines_are_added_and_damaged_ones_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("evaluations.jsonl");
        assert!(read(&path).is_empty());
        let record = |step, width: Option<f64>| {
            let measured =
                vec![Measured { metric: "FD".into(), name: "FD (x)".into(), value: 0.1, deviation: Some(0.2) }];
            let (of, against) = ("samples".to_string(), "test".to_string());
            let verdict =
                Verdict { of, count: 3, against, measured, class_shares: vec![0.5, 0.5], warnings: Vec::new() };
            let (sampler, levels) = ("ddim".to_string(), Ladder::SgmUniform);
            let options = if width.is_some() { [("eta".into(), "0.5".into())].into() } else { BTreeMap::new() };
            let how = How { step, width, sampler, sampler_steps: 5, levels, guidance: 1.0, seed: 0, options };
            Record::now(how, verdict.clone(), &[Verdict { class_shares: Vec::new(), ..verdict }])
        };
        let (first, second) = ([record(1, None), record(2, Some(0.05))], [record(3, None)]);
        assert_eq!(first[1].how.sampling(), "ddim 5, eta 0.5");
        append(&path, &first).unwrap();
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"at\": \"2026\n").unwrap();
        append(&path, &second).unwrap();
        assert_eq!(read(&path), [&first[..], &second].concat());
        assert!(append(dir.path(), &second).is_err());
    }
}
