//! Importance sampling of time steps (Nichol & Dhariwal 2021, section 3.3 and eq. 18).
//!
//! `p_t ~ sqrt(E[L_t^2])`, the expectation taken over the last losses of each step; losses are then divided
//! by `T p_t`, so that their mean stays that of uniform steps. Until every step has a full history the
//! steps are drawn uniformly.

use serde::{Deserialize, Serialize};

/// The constants of the rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSecondMoment {
    /// Losses kept per step.
    pub history_per_step: usize,
    /// Share of the draws that stays uniform, so that every step is drawn now and then.
    pub uniform_share: f64,
}

impl Default for LossSecondMoment {
    /// Those of the paper.
    fn default() -> Self {
        Self { history_per_step: 10, uniform_share: 0.001 }
    }
}

/// The last losses of every step, oldest first.
///
/// Stored as `f32`, which losses are; the text of an `f64` would not be read back to its last bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<Vec<f32>>", into = "Vec<Vec<f32>>")]
pub struct LossHistory(Vec<Vec<f64>>);

impl LossHistory {
    /// The history of `steps` steps before the first loss.
    pub fn new(steps: usize) -> Self {
        Self(vec![Vec::new(); steps])
    }
}

impl From<Vec<Vec<f32>>> for LossHistory {
    fn from(losses: Vec<Vec<f32>>) -> Self {
        Self(losses.into_iter().map(|of_step| of_step.into_iter().map(f64::from).collect()).collect())
    }
}

impl From<LossHistory> for Vec<Vec<f32>> {
    fn from(history: LossHistory) -> Self {
        history.0.into_iter().map(|of_step| of_step.into_iter().map(|loss| loss as f32).collect()).collect()
    }
}

impl LossSecondMoment {
    /// Records the losses of a batch, row by row; the oldest of each step are dropped.
    pub fn record(&self, history: &mut LossHistory, t: &[usize], losses: &[f64]) {
        debug_assert_eq!(t.len(), losses.len());
        for (&t, &loss) in t.iter().zip(losses) {
            let of_step = &mut history.0[t];
            if of_step.len() == self.history_per_step {
                of_step.remove(0);
            }
            of_step.push(loss);
        }
    }

    /// Whether every step has a full history.
    pub fn is_warm(&self, history: &LossHistory) -> bool {
        history.0.iter().all(|of_step| of_step.len() == self.history_per_step)
    }

    /// The probability of each step.
    pub fn probabilities(&self, history: &LossHistory) -> Vec<f64> {
        let even = 1.0 / history.0.len() as f64;
        if !self.is_warm(history) {
            return vec![even; history.0.len()];
        }
        let mean_square = |losses: &Vec<f64>| losses.iter().map(|loss| loss * loss).sum::<f64>() / losses.len() as f64;
        let roots: Vec<f64> = history.0.iter().map(|of_step| mean_square(of_step).sqrt()).collect();
        let total: f64 = roots.iter().sum();
        // All losses are 0.
        let share = |root: f64| if total > 0.0 { root / total } else { even };
        roots.into_iter().map(|root| share(root) * (1.0 - self.uniform_share) + self.uniform_share * even).collect()
    }
}

/// The step at this quantile, from 0 to 1, of the distribution with these probabilities.
pub fn step_at(probabilities: &[f64], uniform: f64) -> usize {
    let mut right_edge = 0.0;
    let found = probabilities.iter().position(|probability| {
        right_edge += probability;
        uniform < right_edge
    });
    // Rounding may leave the last edge a little below 1.
    found.unwrap_or(probabilities.len() - 1)
}

/// `1 / (T p_t)`, the importance weight of step `t`.
pub fn importance_weight(probabilities: &[f64], t: usize) -> f64 {
    1.0 / (probabilities.len() as f64 * probabilities[t])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_drawn_with_their_probabilities() {
        let probabilities = [0.1, 0.0, 0.6, 0.3];
        let mut counts = [0; 4];
        (0..1000).for_each(|i| counts[step_at(&probabilities, (f64::from(i) + 0.5) / 1000.0)] += 1);
        assert_eq!(counts, [100, 0, 600, 300]);
        assert_eq!(step_at(&[0.5, 0.4999], 0.999_999), 1);
    }

    #[test]
    fn the_weighted_mean_is_that_of_even_draws() {
        let rule = LossSecondMoment { history_per_step: 1, uniform_share: 0.01 };
        let mut history = LossHistory::new(3);
        let losses = [5.0, 0.5, 1.0];
        rule.record(&mut history, &[0, 1, 2], &losses);
        let p = rule.probabilities(&history);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-15);
        let mean: f64 = (0..3).map(|t| p[t] * importance_weight(&p, t) * losses[t]).sum();
        assert!((mean - 6.5 / 3.0).abs() < 1e-14);
    }

    #[test]
    fn what_is_stored_is_read_back_to_the_last_bit() {
        let rule = LossSecondMoment::default();
        let mut history = LossHistory::new(2);
        let losses: Vec<f64> = (0..40u8).map(|i| f64::from((f32::from(i) * 0.37).exp().recip())).collect();
        let t: Vec<usize> = (0..40).map(|i| i % 2).collect();
        rule.record(&mut history, &t, &losses);
        assert!(rule.is_warm(&history));
        let json = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<LossHistory>(&json).unwrap(), history);
    }
}
