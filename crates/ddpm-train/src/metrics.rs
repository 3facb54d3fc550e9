//! The numbers of a step as burn-train metrics, and the file of JSON lines they end up in.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{
    Metric, MetricAttributes, MetricDefinition, MetricId, MetricMetadata, MetricName, Numeric, NumericAttributes,
    NumericEntry, SerializedEntry,
};
use ddpm_files::{WriteError, atomic};

use crate::progress::Reporter;
use crate::tensorboard::EventFile;
use crate::train_step::StepReport;

/// A metric's name in `metrics.jsonl`, and where its value comes from.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The name.
    pub name: &'static str,
    read: Read,
}

#[derive(Clone, Copy, Debug)]
enum Read {
    /// What every step has.
    Step(fn(&StepReport) -> f64),
    /// What the family makes of the losses.
    Curve,
    /// What the family measures of held-out data.
    HeldOut,
}

impl Field {
    const fn of(name: &'static str, read: fn(&StepReport) -> f64) -> Self {
        Self { name, read: Read::Step(read) }
    }

    /// The value; NaN where this step has none.
    fn value(&self, report: &StepReport) -> f64 {
        let of = |value: Option<f64>| value.unwrap_or(f64::NAN);
        match self.read {
            Read::Step(read) => read(report),
            Read::Curve => of(report.curves.iter().find(|(name, _)| *name == self.name).and_then(|(_, value)| *value)),
            Read::HeldOut => of(report.held_out.iter().find(|(name, _)| *name == self.name).map(|(_, value)| *value)),
        }
    }
}

/// The first fields of a line. A NaN mean loss says that no line is due.
const FIRST: [Field; 3] = [
    Field::of("step", |report| report.step as f64),
    Field::of("images_seen", |report| report.images_seen as f64),
    Field::of("loss", |report| report.mean_loss.unwrap_or(f64::NAN)),
];

/// The last fields of a line. From `images_per_sec` on they depend on the machine.
const LAST: [Field; 9] = [
    Field::of("grad_norm", |report| report.grad_norm),
    Field::of("weight_norm", |report| report.weight_norm.unwrap_or(f64::NAN)),
    Field::of("learning_rate", |report| report.learning_rate),
    Field::of("ema_decay", |report| report.ema_decay),
    Field::of("skipped", |report| report.skipped as f64),
    Field::of("images_per_sec", |report| report.images_per_sec),
    Field::of("data_wait", |report| report.data_wait.unwrap_or(f64::NAN)),
    Field::of("data_per_sec", |report| report.data_per_sec.unwrap_or(f64::NAN)),
    Field::of("memory_mib", |report| report.memory_mib.unwrap_or(f64::NAN)),
];

/// Steps with clipped gradients so far; only where steps with large gradients are skipped.
const CLIPPED: Field = Field::of("clipped", |report| report.clipped as f64);

/// Seconds since 1970.
const TIME: Field = Field::of("time", |report| report.time.unwrap_or(f64::NAN));

/// The fields of a line, in their order: those of a family and of its held-out data follow the loss. `skips_large`: steps
/// with large gradients are skipped.
pub fn fields(curves: &[&'static str], held_out: &[&'static str], skips_large: bool) -> Vec<Field> {
    let curves = curves.iter().map(|&name| Field { name, read: Read::Curve });
    let held_out = held_out.iter().map(|&name| Field { name, read: Read::HeldOut });
    let clipped = skips_large.then_some(CLIPPED);
    FIRST.into_iter().chain(curves).chain(held_out).chain(clipped).chain(LAST).chain([TIME]).collect()
}

/// The raw loss of every step, for the progress bar and the dashboard.
pub const STEP_LOSS: Field = Field::of("step_loss", |report| report.loss);

/// One number of [`StepReport`] as a metric. Its value is the newest one; averaging is the trainer's matter.
#[derive(Clone)]
pub struct StepMetric {
    name: MetricName,
    field: Field,
    /// NaN where this step has no value.
    newest: f64,
    /// The last one that was there, for people.
    shown: f64,
}

impl StepMetric {
    /// The metric of a field.
    pub fn new(field: Field) -> Self {
        Self { name: Arc::new(field.name.into()), field, newest: f64::NAN, shown: f64::NAN }
    }

    fn entry(&self) -> SerializedEntry {
        SerializedEntry::new(format!("{:.4}", self.shown), number(self.newest))
    }
}

impl Metric for StepMetric {
    type Input = StepReport;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: false }.into()
    }

    fn update(&mut self, report: &StepReport, _: &MetricMetadata) -> Result<SerializedEntry, TensorReadError> {
        self.newest = self.field.value(report);
        if !self.newest.is_nan() {
            self.shown = self.newest;
        }
        Ok(self.entry())
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.entry())
    }

    fn clear(&mut self) {}
}

impl Numeric for StepMetric {
    fn value(&self) -> Option<NumericEntry> {
        (!self.newest.is_nan()).then_some(NumericEntry::Value(self.newest))
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.value()
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.newest)
    }
}

/// Writes a line of `metrics.jsonl` whenever one is due, each with a single write so that a kill leaves whole lines.
pub struct JsonLines {
    path: PathBuf,
    file: File,
    events: Option<EventFile>,
    fields: Vec<Field>,
    names: HashMap<MetricId, MetricName>,
    reporter: Reporter,
    /// Whether somebody knows already that lines are missing.
    said: bool,
}

impl JsonLines {
    /// Opens the file at its end. What is written goes to TensorBoard's file too, if there is one.
    pub fn append(
        path: &Path,
        fields: Vec<Field>,
        events: Option<EventFile>,
        reporter: Reporter,
    ) -> std::io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self { path: path.into(), file, events, fields, names: HashMap::new(), reporter, said: false })
    }
}

impl MetricLogger for JsonLines {
    fn log(&mut self, update: MetricsUpdate, _epoch: usize, _split: &Split) {
        let values: HashMap<&str, f64> = update
            .entries_numeric
            .iter()
            .filter_map(|metric| match &metric.numeric_entry {
                // The final entry of a metric is a mean over the run: not a line.
                Some(NumericEntry::Value(value)) => Some((self.names.get(&metric.entry.metric_id)?.as_str(), *value)),
                _ => None,
            })
            .collect();
        if !values.contains_key("loss") {
            return;
        }
        let values: Vec<(&str, f64)> =
            self.fields.iter().filter_map(|field| Some((field.name, *values.get(field.name)?))).collect();
        let fields = values.iter().map(|(name, value)| format!("\"{name}\":{}", number(*value)));
        let line = format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","));
        // What keeps lines from being written must not stop the training; it may keep checkpoints from it, too.
        let written = self.file.write_all(line.as_bytes());
        let written = written.and(self.events.as_mut().map_or(Ok(()), |events| events.write(&values)));
        if let Err(error) = written
            && !std::mem::replace(&mut self.said, true)
        {
            self.reporter.say(&format!("warning: {}: metrics are no longer all written: {error}", self.path.display()));
        }
    }

    fn read_numeric(&mut self, _: &str, _: usize, _: &Split) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id.clone(), definition.name);
    }

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}

/// JSON has no infinities; Rust's shortest form reads back to the same bits.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value}") } else { "null".into() }
}

/// Drops the lines after `step`, which a resumed run will write again.
pub fn truncate_after(path: &Path, step: u64) -> Result<(), WriteError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|error| WriteError { path: path.to_path_buf(), error })?,
    };
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| {
            let line: Option<serde_json::Value> = serde_json::from_str(line).ok();
            line.and_then(|line| line.get("step")?.as_u64()).is_some_and(|at| at <= step)
        })
        .collect();
    atomic::write(path, kept)
}

/// Reads the lines of `metrics.jsonl`, each as its names and numbers; what is torn or no number is left out.
pub fn read_lines(path: &Path) -> std::io::Result<Vec<BTreeMap<String, f64>>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let numbers = |line| {
        let line: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).ok()?;
        Some(line.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?))).collect())
    };
    Ok(text.lines().filter_map(numbers).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn lines_after_the_step_and_torn_lines_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":5}\n{\"step\":10}\n{\"step\":15}\n{\"st").unwrap();
        truncate_after(&path, 10).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":5}\n{\"step\":10}\n");
        truncate_after(&dir.path().join("none.jsonl"), 10).unwrap();
    }

    #[test]
    fn numbers_read_back_to_the_same_bits() {
        for value in [0.1, 1.0 / 3.0, 1e-300, 12_345_678.0] {
            assert_eq!(number(value).parse::<f64>().unwrap().to_bits(), value.to_bits());
        }
        assert_eq!(number(f64::NAN), "null");
    }
}
