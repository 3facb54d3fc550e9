//! Whether the loss has left its lowest value far behind: the run diverges, though every number is still finite.

use std::collections::BTreeMap;

/// Steps that the loss is smoothed over.
const SMOOTHED_OVER: f64 = 20.0;

/// So many times its lowest value, a loss has diverged.
const TIMES: f64 = 10.0;

/// The smoothed loss of a run, now and at its lowest. The logarithm is smoothed: a single peak says nothing.
#[derive(Clone, Debug, Default)]
pub struct Divergence {
    sum: f64,
    weight: f64,
    lowest: Option<f64>,
}

impl Divergence {
    /// What the lines of `metrics.jsonl` tell of the steps so far.
    pub fn of_lines(lines: &[BTreeMap<String, f64>]) -> Self {
        let mut seen = Self::default();
        let mut last = 0.0;
        for line in lines {
            if let (Some(step), Some(loss)) = (line.get("step"), line.get("loss")) {
                seen.see(*loss, step - last);
                last = *step;
            }
        }
        seen
    }

    /// Takes note of the loss of a step, or the mean loss of several.
    pub fn see(&mut self, loss: f64, steps: f64) {
        if !(loss > 0.0 && loss.is_finite() && steps > 0.0) {
            return;
        }
        let kept = (1.0 - 1.0 / SMOOTHED_OVER).powf(steps);
        self.sum = kept * self.sum + (1.0 - kept) * loss.ln();
        self.weight = kept * self.weight + (1.0 - kept);
        let now = self.smoothed();
        self.lowest = Some(self.lowest.map_or(now, |lowest| lowest.min(now)));
    }

    fn smoothed(&self) -> f64 {
        (self.sum / self.weight).exp()
    }

    /// The smoothed loss and its lowest value, if the run has diverged.
    pub fn verdict(&self) -> Option<[f64; 2]> {
        self.lowest.map(|lowest| [self.smoothed(), lowest]).filter(|[now, lowest]| *now > TIMES * lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(losses: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
        let mut seen = Divergence::default();
        losses.into_iter().for_each(|loss| seen.see(loss, 1.0));
        seen.verdict()
    }

    #[test]
    fn a_loss_that_runs_away_is_told_from_one_that_falls_or_has_a_peak() {
        let falling = |step: u32| 1.0 / f64::from(1 + step) * if step.is_multiple_of(2) { 0.4 } else { 2.0 };
        assert_eq!(after((0..500).map(falling)), None);
        assert_eq!(after((0..500).map(|step| if step == 490 { 1e9 } else { falling(step) })), None);
        assert_eq!(after([1.0, f64::INFINITY, f64::NAN, 0.0, 1.0]), None);
        let [now, lowest] = after((0..100).map(|step| 0.5 * 1.2_f64.powi(step))).unwrap_or_default();
        assert!(now > 100.0 && (lowest - 0.5).abs() < 1e-9, "{now} {lowest}");
        assert!(after([0.5; 60].into_iter().chain([2.3e8; 20])).is_some());
    }

    #[test]
    fn lines_tell_what_steps_did() {
        let line = |step: f64, loss: f64| BTreeMap::from([("step".to_string(), step), ("loss".to_string(), loss)]);
        let lines = [line(50.0, 0.5), line(100.0, 0.5), line(150.0, 50.0)];
        assert!(Divergence::of_lines(&lines).verdict().is_some());
        assert!(Divergence::of_lines(&lines[..2]).verdict().is_none());
    }
}
