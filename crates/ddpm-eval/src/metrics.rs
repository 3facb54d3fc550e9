//! The evaluation of one set: all metrics, and the names that their values are quoted by.

use serde::{Deserialize, Serialize};

use super::blocks::FeatureSummary;
use super::{EvaluationError, Features, Statistics, frechet, kid, novelty, precision_recall};

/// With more classes than this, shares depend mostly on the number of samples.
const MOST_CLASSES: usize = 100;

/// The value of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The metric and its settings, e.g. `KID, 100 subsets of 1000`.
    pub metric: String,
    /// The metric with extractor, resize and counts: how the value is to be quoted.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its standard deviation over subsets or splits, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
}

/// The metrics of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The set.
    pub of: String,
    /// How many items.
    pub count: usize,
    /// The reference set.
    pub against: String,
    /// The metrics.
    pub measured: Vec<Measurement>,
    /// The share of every class, by the extractor's own classes; empty where it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_shares: Vec<f64>,
    /// Why the values may be unreliable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Evaluation {
    /// A metric by its name or, if there is none of this name, the first whose name begins so.
    pub fn value(&self, metric: &str) -> Option<&Measurement> {
        let named = self.measured.iter().find(|measured| measured.metric == metric);
        named.or_else(|| self.measured.iter().find(|measured| measured.metric.starts_with(metric)))
    }
}

/// The settings of the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Subsets of KID.
    pub subsets: usize,
    /// Items of a subset.
    pub subset_size: usize,
    /// k of the k-NN radius.
    pub k: usize,
    /// Seed of the subsets.
    pub seed: u64,
}

/// The reference set.
#[derive(Clone, Debug)]
pub struct Reference {
    /// A short name for people.
    pub name: String,
    /// Its moments.
    pub statistics: Statistics,
    /// Features of its first items; `None` if it was read from a file of statistics.
    pub kept: Option<Features>,
    /// Features of training items and of held-out items, for the novelty.
    pub for_novelty: Option<[Features; 2]>,
}

/// Computes every metric that the set and its reference allow. `extractor` is the extractor's name, `published` whether
/// it is the Inception network that the word FID is reserved for.
pub fn evaluate(
    set: &FeatureSummary,
    reference: &Reference,
    extractor: &str,
    published: bool,
    settings: Settings,
) -> Result<Evaluation, EvaluationError> {
    let mut measured = Measurements { extractor, all: Vec::new() };
    measured.frechet_distance(set, &reference.statistics, published)?;
    if let Some(kept) = &reference.kept {
        measured.pairwise(&set.kept, kept, settings)?;
    }
    if let Some(score) = &set.score {
        let metric = format!("inception score, {} splits", score.splits.len());
        measured.add(metric, &set.count.to_string(), score.mean, Some(score.deviation));
    }
    measured.class_shares(set);
    if let Some([train, held_out]) = &reference.for_novelty {
        let counts = format!("{} against {}, relative to {}", set.kept.len(), train.len(), held_out.len());
        measured.add("novelty".into(), &counts, novelty(&set.kept, train, held_out)?, None);
    }
    Ok(Evaluation {
        of: set.name.clone(),
        count: set.count,
        against: reference.name.clone(),
        measured: measured.all,
        class_shares: set.class_shares.clone(),
        warnings: Vec::new(),
    })
}

/// The Frechet distance, with what its name begins with: `r` where the set are reconstructions.
pub fn frechet_distance(
    prefix: &str,
    set: &FeatureSummary,
    reference: &Statistics,
    extractor: &str,
    published: bool,
) -> Result<Measurement, EvaluationError> {
    let of_reference = match reference.count {
        Some(count) => count.to_string(),
        None => "an unknown number".into(),
    };
    // The one place where the word FID is used.
    let metric = format!("{prefix}{}", if published { "FID" } else { "FD" });
    let name = format!("{metric} ({extractor}; {} against {of_reference})", set.count);
    Ok(Measurement { metric, name, value: frechet(&set.statistics, reference)?, deviation: None })
}

/// Measurements of one set by one extractor.
struct Measurements<'a> {
    extractor: &'a str,
    all: Vec<Measurement>,
}

impl Measurements<'_> {
    fn add(&mut self, metric: String, counts: &str, value: f64, deviation: Option<f64>) {
        let name = format!("{metric} ({}; {counts})", self.extractor);
        self.all.push(Measurement { metric, name, value, deviation });
    }

    fn frechet_distance(
        &mut self,
        set: &FeatureSummary,
        reference: &Statistics,
        published: bool,
    ) -> Result<(), EvaluationError> {
        self.all.push(frechet_distance("", set, reference, self.extractor, published)?);
        Ok(())
    }

    /// Metrics that compare the items of both sets with each other, as far as there are enough of them.
    fn pairwise(&mut self, set: &Features, reference: &Features, settings: Settings) -> Result<(), EvaluationError> {
        let fewest = set.len().min(reference.len());
        let counts = format!("{} against {}", set.len(), reference.len());
        if fewest >= 2 {
            let found = kid(set, reference, settings.subsets, settings.subset_size, settings.seed)?;
            let metric = format!("KID, {} subsets of {}", found.subsets, found.size);
            self.add(metric, &counts, found.mean, Some(found.deviation));
        }
        let k = settings.k;
        if fewest > k {
            let found = precision_recall(reference, set, k)?;
            for (name, value) in [
                ("precision", found.precision),
                ("recall", found.recall),
                ("density", found.density),
                ("coverage", found.coverage),
            ] {
                self.add(format!("{name}, k = {k}"), &counts, value, None);
            }
        }
        Ok(())
    }

    /// The smallest and the largest class.
    fn class_shares(&mut self, set: &FeatureSummary) {
        let shares = &set.class_shares;
        if !(2..=MOST_CLASSES).contains(&shares.len()) {
            return;
        }
        let of = format!("{} classes as seen", shares.len());
        let counts = set.count.to_string();
        self.add(format!("least share of {of}"), &counts, shares.iter().copied().fold(1.0, f64::min), None);
        self.add(format!("largest share of {of}"), &counts, shares.iter().copied().fold(0.0, f64::max), None);
    }
}
