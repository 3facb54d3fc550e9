//! All that is said of one set, and the names of these numbers.

use serde::{Deserialize, Serialize};

use super::blocks::Gathered;
use super::{EvaluationError, Features, Statistics, frechet, kid, novelty, precision_recall};

/// The shares of more classes than this say more about the number of samples.
const MOST_CLASSES: usize = 100;

/// A number with its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The metric and its settings, e.g. `KID, 100 subsets of 1000`.
    pub metric: String,
    /// The metric with extractor, resize and counts: what the number is to be quoted as.
    pub name: String,
    /// The number.
    pub value: f64,
    /// Its standard deviation over subsets or splits, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f64>,
}

/// The numbers of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The set.
    pub of: String,
    /// How many items.
    pub count: usize,
    /// What it was compared with.
    pub against: String,
    /// The numbers.
    pub measured: Vec<Measured>,
    /// The share of every class, as the extractor sees it; empty where it knows none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub class_shares: Vec<f64>,
    /// Why the numbers may mean little.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Verdict {
    /// The value of a metric by the beginning of its name.
    pub fn value(&self, metric: &str) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.metric.starts_with(metric))
    }
}

/// The settings of the metrics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Subsets of the kernel distance.
    pub subsets: usize,
    /// Their size.
    pub subset_size: usize,
    /// k of the k-NN radius.
    pub k: usize,
    /// Seed of the subsets.
    pub seed: u64,
}

/// What sets are compared with.
#[derive(Clone, Debug)]
pub struct Reference {
    /// For people.
    pub name: String,
    /// Its moments.
    pub statistics: Statistics,
    /// Features of its first items; nothing is known of them if it came as a file of statistics.
    pub kept: Option<Features>,
    /// Training items and others that were held out, which copies are looked for with.
    pub copies: Option<[Features; 2]>,
}

/// Every number that can be said of a set. `extractor` is the extractor's name, `published` whether it is the one that
/// a bare FID is about.
pub fn judge(
    set: &Gathered,
    reference: &Reference,
    extractor: &str,
    published: bool,
    settings: Settings,
) -> Result<Verdict, EvaluationError> {
    let mut measured = Vec::new();
    let of_reference = match reference.statistics.count {
        Some(count) => count.to_string(),
        None => "an unknown number".into(),
    };
    let all = format!("{} against {of_reference}", set.count);
    let mut add = |metric: String, counts: &str, value: f64, deviation: Option<f64>| {
        let name = format!("{metric} ({extractor}; {counts})");
        measured.push(Measured { metric, name, value, deviation });
    };
    // The one place where the bare word is used.
    let word = if published { "FID" } else { "FD" };
    add(word.into(), &all, frechet(&set.statistics, &reference.statistics)?, None);
    if let Some(kept) = &reference.kept {
        let counts = format!("{} against {}", set.kept.len(), kept.len());
        if set.kept.len().min(kept.len()) >= 2 {
            let found = kid(&set.kept, kept, settings.subsets, settings.subset_size, settings.seed)?;
            let metric = format!("KID, {} subsets of {}", found.subsets, found.size);
            add(metric, &counts, found.mean, Some(found.deviation));
        }
        let k = settings.k;
        if set.kept.len().min(kept.len()) > k {
            let found = precision_recall(kept, &set.kept, k)?;
            for (name, value) in [
                ("precision", found.precision),
                ("recall", found.recall),
                ("density", found.density),
                ("coverage", found.coverage),
            ] {
                add(format!("{name}, k = {k}"), &counts, value, None);
            }
        }
    }
    if let Some(score) = &set.score {
        let metric = format!("inception score, {} splits", score.splits.len());
        add(metric, &set.count.to_string(), score.mean, Some(score.deviation));
    }
    let shares = &set.class_shares;
    if (2..=MOST_CLASSES).contains(&shares.len()) {
        let of = format!("{} classes as seen", shares.len());
        let counts = set.count.to_string();
        add(format!("least share of {of}"), &counts, shares.iter().copied().fold(1.0, f64::min), None);
        add(format!("largest share of {of}"), &counts, shares.iter().copied().fold(0.0, f64::max), None);
    }
    if let Some([train, held_out]) = &reference.copies {
        let counts = format!("{} against {}, relative to {}", set.kept.len(), train.len(), held_out.len());
        add("novelty".into(), &counts, novelty(&set.kept, train, held_out)?, None);
    }
    Ok(Verdict {
        of: set.name.clone(),
        count: set.count,
        against: reference.name.clone(),
        measured,
        class_shares: set.class_shares.clone(),
        warnings: Vec::new(),
    })
}
