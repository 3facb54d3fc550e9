//! Mixtures of Bernoulli distributions over binary values: what a VAE with a Bernoulli likelihood must beat.

use ddpm_data::permutation;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};

use super::{EvaluationError, Features};

/// Items as if there were one more of each value: no probability is 0 or 1.
const SMOOTHING: f64 = 1.0;

/// A mixture over binary items; inside a component all values are independent.
#[derive(Clone, Debug)]
pub struct BernoulliMixture {
    /// The weight of every component.
    weights: Vec<f64>,
    /// The probability of a 1: a row for each component, a column for each value of an item.
    probabilities: Mat<f64>,
}

/// How a mixture is fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixtureFit {
    /// Number of components.
    pub components: usize,
    /// Fits from different starts, of which the one with the best likelihood of the train split is taken.
    pub restarts: usize,
    /// Iterations of EM at most.
    pub iterations: usize,
    /// EM ends when the mean log-likelihood changes by less than this many nats.
    pub tolerance: f64,
    /// Which items the fits start from.
    pub seed: u64,
}

impl MixtureFit {
    /// The best of six fits.
    pub fn new(components: usize) -> Self {
        Self { components, restarts: 6, iterations: 300, tolerance: 1e-5, seed: 0 }
    }
}

impl BernoulliMixture {
    /// From weights that add up to 1, and the probabilities of a 1, a row for each component.
    pub fn new(weights: Vec<f64>, probabilities: &[f64]) -> Result<Self, EvaluationError> {
        let wrong = |reason: String| Err(EvaluationError::Argument { what: "a Bernoulli mixture", reason });
        let components = weights.len();
        if components == 0 || probabilities.is_empty() || !probabilities.len().is_multiple_of(components) {
            let count = probabilities.len();
            return wrong(format!("{count} probabilities for {components} components; expected as many for each"));
        }
        if !(weights.iter().all(|weight| *weight >= 0.0) && (weights.iter().sum::<f64>() - 1.0).abs() < 1e-6) {
            return wrong("the weights are negative or do not add up to 1".into());
        }
        if !probabilities.iter().all(|probability| *probability > 0.0 && *probability < 1.0) {
            return wrong("a probability is not between 0 and 1".into());
        }
        let width = probabilities.len() / components;
        let probabilities = Mat::from_fn(components, width, |row, column| probabilities[row * width + column]);
        Ok(Self { weights, probabilities })
    }

    /// One component: every value has its own probability, whatever the others are.
    pub fn independent(train: &Features) -> Result<Self, EvaluationError> {
        check(train)?;
        Ok(Self::maximized(&train.matrix(), &Mat::full(train.len(), 1, 1.0)))
    }

    /// Fits the items by EM, smoothed.
    pub fn fit(train: &Features, fit: &MixtureFit) -> Result<Self, EvaluationError> {
        check(train)?;
        if fit.components == 0 || fit.components > train.len() || fit.restarts == 0 {
            let reason = format!(
                "{} components and {} restarts for {} items; expected at least 1 each, and no more components than items",
                fit.components,
                fit.restarts,
                train.len()
            );
            return Err(EvaluationError::Argument { what: "a Bernoulli mixture", reason });
        }
        let items = train.matrix();
        let fits = (0..fit.restarts as u64).map(|restart| Self::restart(&items, fit, restart));
        let best = fits.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(mixture, _)| mixture);
        best.ok_or(EvaluationError::TooFew { what: "a Bernoulli mixture", least: 1, found: 0 })
    }

    /// A fit that starts from random items, and the mean log-likelihood of the items.
    fn restart(items: &Mat<f64>, fit: &MixtureFit, restart: u64) -> (Self, f64) {
        let starts = permutation(fit.seed, restart, items.nrows());
        let components = fit.components;
        let mut mixture = Self {
            weights: vec![1.0 / components as f64; components],
            probabilities: Mat::from_fn(components, items.ncols(), |row, column| {
                0.25 + 0.5 * items[(starts[row], column)]
            }),
        };
        let (mut responsibilities, mut before) = mixture.responsibilities(items);
        for _ in 0..fit.iterations {
            mixture = Self::maximized(items, &responsibilities);
            let now;
            (responsibilities, now) = mixture.responsibilities(items);
            let change = mean(&now) - mean(&before);
            before = now;
            if change.abs() < fit.tolerance {
                break;
            }
        }
        let likelihood = mean(&before);
        (mixture, likelihood)
    }

    /// The M step: the smoothed mixture for items that belong to the components by these shares, a row for each item.
    fn maximized(items: &Mat<f64>, responsibilities: &Mat<f64>) -> Self {
        let (count, components) = (items.nrows() as f64, responsibilities.ncols());
        let sizes: Vec<f64> = (0..components).map(|k| responsibilities.col(k).iter().sum()).collect();
        let mut ones = Mat::zeros(components, items.ncols());
        matmul(&mut ones, Accum::Replace, responsibilities.transpose(), items, 1.0, Par::rayon(0));
        Self {
            weights: sizes.iter().map(|size| size / count).collect(),
            probabilities: Mat::from_fn(components, items.ncols(), |row, column| {
                (ones[(row, column)] + SMOOTHING) / (sizes[row] + 2.0 * SMOOTHING)
            }),
        }
    }

    /// The E step: how far every item belongs to every component, a row for each item; and its log-likelihood.
    fn responsibilities(&self, items: &Mat<f64>) -> (Mat<f64>, Vec<f64>) {
        let (components, width) = (self.weights.len(), self.probabilities.ncols());
        let logits = Mat::from_fn(width, components, |row, column| {
            let probability = self.probabilities[(column, row)];
            (probability / (1.0 - probability)).ln()
        });
        let zeros = |k: usize| self.probabilities.row(k).iter().map(|probability| (-probability).ln_1p()).sum::<f64>();
        let base: Vec<f64> = (0..components).map(|k| self.weights[k].ln() + zeros(k)).collect();
        let mut joint = Mat::from_fn(items.nrows(), components, |_, k| base[k]);
        matmul(&mut joint, Accum::Add, items, &logits, 1.0, Par::rayon(0));
        let log_likelihoods = (0..items.nrows())
            .map(|item| {
                let largest = joint.row(item).iter().fold(f64::NEG_INFINITY, |largest, value| largest.max(*value));
                let total = joint.row(item).iter().map(|value| (value - largest).exp()).sum::<f64>().ln() + largest;
                joint.row_mut(item).iter_mut().for_each(|value| *value = (*value - total).exp());
                total
            })
            .collect();
        (joint, log_likelihoods)
    }

    /// The logarithm of the probability of every item, in nats.
    pub fn log_likelihoods(&self, items: &Features) -> Result<Vec<f64>, EvaluationError> {
        if items.width() != self.probabilities.ncols() {
            return Err(EvaluationError::Width { left: items.width(), right: self.probabilities.ncols() });
        }
        check(items)?;
        Ok(self.responsibilities(&items.matrix()).1)
    }

    /// The negative log-likelihood in nats per item.
    pub fn negative_log_likelihood(&self, items: &Features) -> Result<f64, EvaluationError> {
        Ok(-mean(&self.log_likelihoods(items)?))
    }

    /// The weight of every component.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The probabilities of a 1 in a component.
    pub fn probabilities(&self, component: usize) -> Vec<f64> {
        self.probabilities.row(component).iter().copied().collect()
    }
}

/// An error unless there are items and all their values are 0 or 1.
fn check(items: &Features) -> Result<(), EvaluationError> {
    if items.is_empty() {
        return Err(EvaluationError::TooFew { what: "a Bernoulli mixture", least: 1, found: 0 });
    }
    match items.values().iter().find(|value| **value != 0.0 && **value != 1.0) {
        None => Ok(()),
        Some(value) => {
            let reason = format!("a value is {value}; expected binarized values, each 0 or 1");
            Err(EvaluationError::Argument { what: "a Bernoulli mixture", reason })
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn message<T>(result: Result<T, EvaluationError>) -> String {
        result.err().unwrap().to_string()
    }

    #[test]
    fn independent_values_are_counted() {
        let train = Features::new(2, vec![1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        let model = BernoulliMixture::independent(&train).unwrap();
        assert_eq!((model.weights(), model.probabilities(0)), (&[1.0][..], vec![4.0 / 6.0, 2.0 / 6.0]));
        let found = model.log_likelihoods(&Features::new(2, vec![1.0, 1.0, 0.0, 0.0])).unwrap();
        let wanted = 2.0_f64.ln() - 9.0_f64.ln() + 0.0;
        assert!(found.iter().all(|value| (value - wanted).abs() < 1e-12), "{found:?}");
    }

    #[test]
    fn a_mixture_finds_two_patterns() {
        let mut values = [[1.0, 1.0, 0.0, 0.0]; 30].concat();
        values.extend([[0.0, 0.0, 1.0, 1.0]; 10].concat());
        let train = Features::new(4, values);
        let mixture = BernoulliMixture::fit(&train, &MixtureFit::new(2)).unwrap();
        let mut weights = mixture.weights().to_vec();
        weights.sort_by(f64::total_cmp);
        assert!((weights[0] - 0.25).abs() < 0.01 && (weights[1] - 0.75).abs() < 0.01, "{weights:?}");
        let one = BernoulliMixture::independent(&train).unwrap();
        let [one, two] = [one, mixture].map(|model| model.negative_log_likelihood(&train).unwrap());
        assert!(two + 1.0 < one, "{two} {one}");
    }

    #[test]
    fn what_is_not_binary_or_no_mixture_is_refused() {
        let train = Features::new(2, vec![1.0, 0.0, 1.0, 0.5]);
        assert!(message(BernoulliMixture::independent(&train)).contains("0.5; expected binarized values"));
        let train = Features::new(2, vec![1.0, 0.0, 1.0, 1.0]);
        for components in [0, 3] {
            let fit = MixtureFit::new(components);
            assert!(message(BernoulliMixture::fit(&train, &fit)).contains(&format!("{components} components")));
        }
        assert!(message(BernoulliMixture::new(vec![0.5; 2], &[0.5; 3])).contains("3 probabilities"));
        assert!(message(BernoulliMixture::new(vec![0.5; 3], &[0.5; 3])).contains("add up to 1"));
        assert!(message(BernoulliMixture::new(vec![1.0], &[0.5, 1.0])).contains("between 0 and 1"));
        let model = BernoulliMixture::independent(&train).unwrap();
        assert!(model.log_likelihoods(&Features::new(3, vec![0.0; 3])).is_err());
        assert!(model.log_likelihoods(&Features::empty(2)).is_err());
    }
}
