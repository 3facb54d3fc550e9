//! What a person sees while training: a bar on a terminal, plain lines in a pipe. Everything goes to stderr.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::{MetricDefinition, MetricId, MetricName, NumericEntry};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};
use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Share of the time that a step waits for its data.
const WORTH_SAYING: f64 = 0.1;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Display {
    /// A bar if stderr is a terminal, otherwise lines.
    Plain,
    /// Burn's dashboard owns the screen: everything else keeps quiet until it closes.
    Dashboard,
}

/// A handle to the display, for the step loop and the renderer alike.
#[derive(Clone)]
pub struct Reporter {
    bar: ProgressBar,
    display: Display,
    held_back: Arc<Mutex<Vec<String>>>,
}

impl Reporter {
    /// A display for a run of `total` steps that begins after step `done`.
    pub fn new(display: Display, total: u64, done: u64) -> Self {
        let bar = match display {
            Display::Plain if std::io::stderr().is_terminal() => ProgressBar::new(total).with_position(done),
            _ => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{bar:28} {pos}/{len}  {msg}  {elapsed} < {eta}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.reset_eta();
        Self { bar, display, held_back: Arc::default() }
    }

    /// Says something without tearing the bar.
    pub fn say(&self, line: &str) {
        match self.display {
            Display::Plain => self.bar.suspend(|| eprintln!("{line}")),
            Display::Dashboard => self.held_back().push(line.to_string()),
        }
    }

    /// Takes the display away and says what was held back.
    pub fn close(&self) {
        self.bar.finish_and_clear();
        for line in self.held_back().drain(..) {
            eprintln!("{line}");
        }
    }

    fn held_back(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The renderer behind [`Display::Plain`].
pub struct PlainRenderer {
    reporter: Reporter,
    total: u64,
    names: HashMap<MetricId, MetricName>,
    values: HashMap<String, f64>,
    started: Option<(Instant, u64)>,
    last_line: Option<Instant>,
}

impl PlainRenderer {
    /// Shows progress through `reporter`.
    pub fn new(reporter: Reporter, total: u64) -> Self {
        Self { reporter, total, names: HashMap::new(), values: HashMap::new(), started: None, last_line: None }
    }

    fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(f64::NAN)
    }

    fn show(&mut self, step: u64) {
        let loss = self.values.get("loss").copied().unwrap_or_else(|| self.value("step_loss"));
        let memory = self.values.get("memory_mib").map_or_else(String::new, |mib| format!("  {mib:.0} MiB"));
        let held_out = match (self.values.get("valid_bpd"), self.values.get("valid_loss")) {
            (Some(bits), _) => format!("  held out {bits:.3} bits/dim"),
            (None, Some(loss)) => format!("  held out {loss:.4}"),
            (None, None) => String::new(),
        };
        // Only where more threads, or packed pictures, would make a difference.
        let waits = self.values.get("data_wait").filter(|share| **share >= WORTH_SAYING);
        let waits = waits.map_or_else(String::new, |share| {
            format!("  waits {:.0} % for data ({:.0}/s)", 100.0 * share, self.value("data_per_sec"))
        });
        let rate = self.value("images_per_sec");
        let message = format!("loss {loss:.4}{held_out}  {rate:.1} images/s{waits}{memory}");
        let bar = &self.reporter.bar;
        if !bar.is_hidden() {
            bar.set_position(step);
            bar.set_message(message);
            return;
        }
        let now = Instant::now();
        let (start, first) = *self.started.get_or_insert((now, step));
        let due = self.last_line.is_none_or(|last| now - last >= LINE_EVERY) || step == self.total;
        if due {
            self.last_line = Some(now);
            let eta = match step - first {
                0 => String::new(),
                done => {
                    let left = (now - start).mul_f64((self.total - step) as f64 / done as f64);
                    format!("  eta {}", clock(left))
                }
            };
            self.reporter.say(&format!("step {step}/{}  {message}{eta}", self.total));
        }
    }
}

/// Minutes and seconds, or hours and minutes.
pub fn clock(time: Duration) -> String {
    match time.as_secs() {
        secs @ ..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        secs => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
    }
}

impl MetricsRendererTraining for PlainRenderer {
    fn update_train(&mut self, state: MetricState) {
        if let MetricState::Numeric(entry, Some(NumericEntry::Value(value))) = state
            && let Some(name) = self.names.get(&entry.metric_id)
        {
            self.values.insert(name.to_string(), value);
        }
    }

    fn update_valid(&mut self, _: MetricState) {}
}

impl TrainingProgressLogger for PlainRenderer {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}

    fn update_epoch(&mut self, _: usize) {}

    fn start_split(&mut self, _: &str, _: usize) {}

    fn update_split(&mut self, items_processed: usize) {
        if self.reporter.display == Display::Plain {
            self.show(items_processed as u64);
        }
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {
        self.reporter.bar.finish_and_clear();
    }

    fn log_event_training(&mut self, _: String) {}
}

// The trainer evaluates nothing through burn-train.
impl MetricsRendererEvaluation for PlainRenderer {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl EvaluationProgressLogger for PlainRenderer {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for PlainRenderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id.clone(), definition.name);
    }
}
