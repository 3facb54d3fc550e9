//! The inception score, accumulated row by row.

use super::EvaluationError;

/// A score over splits.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// Of each split.
    pub splits: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, divided by their number.
    pub deviation: f64,
}

/// exp(mean KL(p(y|x) || p(y))) over the rows of logits so far (Salimans et al. 2016), split in order.
///
/// KL is the difference of two entropies, so that sums suffice.
#[derive(Clone, Debug)]
pub struct InceptionScore {
    rows: usize,
    seen: usize,
    splits: Vec<Sums>,
}

#[derive(Clone, Debug)]
struct Sums {
    count: f64,
    /// Sum over the rows of p.
    p: Vec<f64>,
    /// Sum over rows and classes of p log p.
    p_log_p: f64,
}

impl InceptionScore {
    /// For `rows` rows over `classes` classes; split s holds the rows from s * rows / splits on.
    pub fn new(rows: usize, classes: usize, splits: usize) -> Result<Self, EvaluationError> {
        if splits == 0 || rows < splits {
            return Err(EvaluationError::TooFew { what: "the inception score", least: splits.max(1), found: rows });
        }
        let empty = Sums { count: 0.0, p: vec![0.0; classes], p_log_p: 0.0 };
        Ok(Self { rows, seen: 0, splits: vec![empty; splits] })
    }

    /// Takes the logits of the next item.
    pub fn push(&mut self, logits: &[f32]) {
        let count = self.splits.len();
        // The last split that begins at this row or before it.
        let split = (((self.seen + 1) * count).div_ceil(self.rows) - 1).min(count - 1);
        let sums = &mut self.splits[split];
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shifted = logits.iter().map(|logit| f64::from(*logit) - f64::from(largest));
        let log_sum = shifted.clone().map(f64::exp).sum::<f64>().ln();
        for (sum, logit) in sums.p.iter_mut().zip(shifted) {
            let log_p = logit - log_sum;
            let p = log_p.exp();
            *sum += p;
            sums.p_log_p += p * log_p;
        }
        sums.count += 1.0;
        self.seen += 1;
    }

    /// The score of all splits.
    pub fn score(&self) -> Score {
        let of_split = |sums: &Sums| {
            let marginal = sums.p.iter().map(|sum| sum / sums.count).filter(|p| *p > 0.0);
            (sums.p_log_p / sums.count - marginal.map(|p| p * p.ln()).sum::<f64>()).exp()
        };
        let splits: Vec<f64> = self.splits.iter().map(of_split).collect();
        let n = splits.len() as f64;
        let mean = splits.iter().sum::<f64>() / n;
        let deviation = (splits.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / n).sqrt();
        Score { splits, mean, deviation }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn certain_and_even_is_the_number_of_classes_and_uncertain_is_one() {
        let score = |row: &dyn Fn(usize) -> Vec<f32>| {
            let mut score = InceptionScore::new(40, 4, 2).unwrap();
            (0..40).for_each(|k| score.push(&row(k)));
            score.score()
        };
        let certain = score(&|k| (0..4).map(|class| if class == k % 4 { 100.0 } else { 0.0 }).collect());
        assert!((certain.mean - 4.0).abs() < 1e-9 && certain.deviation < 1e-9, "{certain:?}");
        let uncertain = score(&|k| vec![k as f32; 4]);
        assert!((uncertain.mean - 1.0).abs() < 1e-9);
        assert!(InceptionScore::new(1, 4, 2).is_err());
    }

    #[test]
    fn splits_begin_where_integer_division_says() {
        for (rows, splits) in [(10, 3), (7, 7), (11, 4), (20, 1)] {
            let mut score = InceptionScore::new(rows, 1, splits).unwrap();
            (0..rows).for_each(|_| score.push(&[0.0]));
            let found: Vec<f64> = score.splits.iter().map(|sums| sums.count).collect();
            let wanted: Vec<f64> = (0..splits).map(|s| ((s + 1) * rows / splits - s * rows / splits) as f64).collect();
            assert_eq!(found, wanted, "{rows} in {splits}");
        }
    }
}
