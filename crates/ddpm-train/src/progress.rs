//! What a person sees while training: a bar on a terminal, plain lines in a pipe. Everything goes to stderr.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use burn_train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn_train::metric::{MetricDefinition, MetricId, MetricName, NumericEntry};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

use crate::status_line::{Parts, StatusLine};
use ddpm_console::say;

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
    display: Display,
    /// The line of a terminal; without one there are lines in a pipe.
    line: Option<Arc<Mutex<StatusLine>>>,
    held_back: Arc<Mutex<Vec<String>>>,
}

impl Reporter {
    /// A display.
    pub fn new(display: Display) -> Self {
        let line = match display {
            Display::Plain => StatusLine::on_terminal(),
            Display::Dashboard => None,
        };
        Self { display, line: line.map(|line| Arc::new(Mutex::new(line))), held_back: Arc::default() }
    }

    /// Says something without tearing the line of progress.
    pub fn say(&self, line: &str) {
        match (self.display, self.line()) {
            (Display::Dashboard, _) => self.held_back().push(line.to_string()),
            (Display::Plain, Some(mut foot)) => foot.say(line),
            (Display::Plain, None) => say!("{line}"),
        }
    }

    /// Takes the display away and says what was held back.
    pub fn close(&self) {
        if let Some(mut line) = self.line() {
            line.clear();
        }
        for line in self.held_back().drain(..) {
            say!("{line}");
        }
    }

    fn line(&self) -> Option<MutexGuard<'_, StatusLine>> {
        self.line.as_ref().map(|line| line.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn held_back(&self) -> MutexGuard<'_, Vec<String>> {
        self.held_back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The renderer behind [`Display::Plain`].
pub struct PlainRenderer {
    reporter: Reporter,
    total: u64,
    names: HashMap<MetricId, MetricName>,
    values: HashMap<String, f64>,
    began: Instant,
    /// The first step that was shown: before it, some devices compile.
    started: Option<(Instant, u64)>,
    last_line: Option<Instant>,
}

impl PlainRenderer {
    /// Shows progress through `reporter`.
    pub fn new(reporter: Reporter, total: u64) -> Self {
        let (names, values) = (HashMap::new(), HashMap::new());
        Self { reporter, total, names, values, began: Instant::now(), started: None, last_line: None }
    }

    fn value(&self, name: &str) -> f64 {
        self.values.get(name).copied().unwrap_or(f64::NAN)
    }

    fn show(&mut self, step: u64) {
        let now = Instant::now();
        let (start, first) = *self.started.get_or_insert((now, step));
        let left = match step - first {
            0 => None,
            done => Some((now - start).mul_f64(self.total.saturating_sub(step) as f64 / done as f64)),
        };
        let parts = self.parts(step, now, left);
        if let Some(mut line) = self.reporter.line() {
            line.show(parts);
            return;
        }
        if self.last_line.is_none_or(|last| now - last >= LINE_EVERY) || step == self.total {
            self.last_line = Some(now);
            let eta = left.map_or_else(String::new, |left| format!("  eta {}", clock(left)));
            self.reporter.say(&format!("step {step}/{}  {}{eta}", self.total, parts.message()));
        }
    }

    fn parts(&self, step: u64, now: Instant, left: Option<Duration>) -> Parts {
        let loss = self.values.get("loss").copied().unwrap_or_else(|| self.value("step_loss"));
        let held_out = match (self.values.get("valid_bpd"), self.values.get("valid_loss")) {
            (Some(bits), _) => Some([format!("held out {bits:.3} bits/dim"), format!("held out {bits:.3}")]),
            (None, Some(loss)) => Some([format!("held out {loss:.4}"), format!("held out {loss:.4}")]),
            (None, None) => None,
        };
        // Only where more threads, or packed pictures, would make a difference.
        let waits = self.values.get("data_wait").filter(|share| **share >= WORTH_SAYING).map(|share| {
            let short = format!("waits {:.0} %", 100.0 * share);
            [format!("{short} for data ({:.0}/s)", self.value("data_per_sec")), short]
        });
        // Only where large gradients are skipped.
        let skips = self.values.get("clipped").map(|clipped| {
            let skipped = self.value("skipped");
            [format!("clipped {clipped}, skipped {skipped}"), format!("skipped {skipped}")]
        });
        let short = |time: Duration| if time.as_secs() < 60 { format!("{}s", time.as_secs()) } else { clock(time) };
        let passed = short(now - self.began);
        Parts {
            done: step,
            total: self.total,
            loss: format!("loss {loss:.4}"),
            held_out,
            rate: format!("{:.1} images/s", self.value("images_per_sec")),
            waits,
            skips,
            memory: self.values.get("memory_mib").map(|mib| format!("{mib:.0} MiB")),
            clock: left.map_or_else(|| passed.clone(), |left| format!("{passed} < {}", short(left))),
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
        if let Some(mut line) = self.reporter.line() {
            line.clear();
        }
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
