//! Whether single latent dimensions stand for single factors of the data: the mutual information gap and the score of
//! FactorVAE, with the constants of disentanglement_lib.
//!
//! Both are functions of latents, a row for each item (of a VAE, the means of its posteriors), and of the items' factors:
//! values counted from 0, row-major, as many for each item.

use ddpm_data::random::{RngExt, Stream, rng};

use super::{EvaluationError, Features};

/// Bins of equal width that a latent dimension is discretized into.
pub const BINS: usize = 20;

/// The mutual information gap of latents and factors.
#[derive(Clone, Debug, PartialEq)]
pub struct MutualInformationGap {
    /// The mean over the factors, between 0 and 1.
    pub mean: f64,
    /// The gap of every factor.
    pub per_factor: Vec<f64>,
    /// The mutual information in nats: for every factor that with each latent dimension.
    pub mutual_information: Vec<Vec<f64>>,
}

/// For every factor: the mutual information with the latent dimension that has most of it, less that with the second, as a
/// share of the factor's entropy (Chen et al. 2018). 1 if one dimension alone determines the factor; 0 if the factor is
/// in no dimension, or equally in two.
pub fn mutual_information_gap(latents: &Features, factors: &[usize]) -> Result<MutualInformationGap, EvaluationError> {
    let factors = Factors::new("the mutual information gap", latents, factors)?;
    let bins: Vec<Vec<usize>> = (0..latents.width()).map(|dimension| binned(latents, dimension)).collect();
    let information = |column: &Vec<usize>| bins.iter().map(|bins| mutual_information(column, bins)).collect();
    let mutual_information: Vec<Vec<f64>> = factors.columns.iter().map(information).collect();
    let gap = |(column, row): (&Vec<usize>, &Vec<f64>)| {
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        // A second dimension that is not there knows nothing.
        (sorted[0] - sorted.get(1).unwrap_or(&0.0)) / entropy(column)
    };
    let per_factor: Vec<f64> = factors.columns.iter().zip(&mutual_information).map(gap).collect();
    let mean = per_factor.iter().sum::<f64>() / per_factor.len() as f64;
    Ok(MutualInformationGap { mean, per_factor, mutual_information })
}

/// How the score of FactorVAE is estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VoteSettings {
    /// Votes that decide which factor a dimension stands for.
    pub train_votes: usize,
    /// Votes that are then counted.
    pub test_votes: usize,
    /// Items of a vote.
    pub items: usize,
    /// A dimension whose standard deviation over all items is below this has collapsed to the prior and is left out.
    pub least_deviation: f64,
    /// Which items vote.
    pub seed: u64,
}

impl Default for VoteSettings {
    fn default() -> Self {
        Self { train_votes: 10_000, test_votes: 5_000, items: 64, least_deviation: 0.05, seed: 0 }
    }
}

/// The score of FactorVAE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FactorScore {
    /// The share of the test votes that are right; by chance one of the number of factors.
    pub score: f64,
    /// The share of the train votes that are.
    pub train_score: f64,
    /// Latent dimensions that have not collapsed. Without any, the scores are 0.
    pub active: usize,
}

/// The score of FactorVAE (Kim & Mnih 2018): a factor is fixed at the value of a random item, and the latent dimension that
/// varies least over items with this value, in relation to all items, votes for it. The factor with most votes of a
/// dimension is what the dimension stands for. Items are drawn from those given, which should be the whole grid of the
/// factors or an even sample of it.
pub fn factor_vae_score(
    latents: &Features,
    factors: &[usize],
    settings: &VoteSettings,
) -> Result<FactorScore, EvaluationError> {
    let factors = Factors::new("the score of FactorVAE", latents, factors)?;
    if settings.items < 2 || settings.train_votes == 0 || settings.test_votes == 0 {
        let reason = "too few votes, or items of a vote; expected at least 1 and 2".into();
        return Err(EvaluationError::Argument { what: "the score of FactorVAE", reason });
    }
    let all: Vec<usize> = (0..latents.len()).collect();
    let variances: Vec<f64> = (0..latents.width()).map(|dimension| variance(latents, dimension, &all)).collect();
    let active: Vec<usize> = (0..variances.len())
        .filter(|&dimension| variances[dimension] > 0.0 && variances[dimension].sqrt() >= settings.least_deviation)
        .collect();
    if active.is_empty() {
        return Ok(FactorScore { score: 0.0, train_score: 0.0, active: 0 });
    }
    let groups = factors.groups();
    let count = |votes: std::ops::Range<usize>| {
        let mut counts = vec![vec![0_usize; groups.len()]; latents.width()];
        for vote in votes {
            let (factor, items) = drawn(&factors, &groups, settings, vote as u64);
            let share = |dimension: usize| variance(latents, dimension, &items) / variances[dimension];
            let least = active.iter().map(|&dimension| (share(dimension), dimension));
            if let Some((_, dimension)) = least.min_by(|a, b| a.0.total_cmp(&b.0)) {
                counts[dimension][factor] += 1;
            }
        }
        counts
    };
    let train = count(0..settings.train_votes);
    let test = count(settings.train_votes..settings.train_votes + settings.test_votes);
    // The first of the factors with most votes.
    let majority = |votes: &Vec<usize>| (0..votes.len()).rev().max_by_key(|&factor| votes[factor]).unwrap_or(0);
    let chosen: Vec<usize> = train.iter().map(majority).collect();
    let right = |counts: &[Vec<usize>]| counts.iter().zip(&chosen).map(|(votes, &factor)| votes[factor]).sum::<usize>();
    Ok(FactorScore {
        score: right(&test) as f64 / settings.test_votes as f64,
        train_score: right(&train) as f64 / settings.train_votes as f64,
        active: active.len(),
    })
}

/// The factors of items, a column for each.
struct Factors {
    columns: Vec<Vec<usize>>,
}

impl Factors {
    /// Checks that latents and factors are there, and fit each other.
    fn new(what: &'static str, latents: &Features, factors: &[usize]) -> Result<Self, EvaluationError> {
        let (items, wrong) = (latents.len(), |reason| Err(EvaluationError::Argument { what, reason }));
        if items < 2 || factors.is_empty() || !factors.len().is_multiple_of(items) {
            let reason =
                format!("{} factors of {items} items; expected as many for each of two or more", factors.len());
            return wrong(reason);
        }
        if !latents.is_finite() {
            return Err(EvaluationError::NotFinite { what: "an encoder".into() });
        }
        let count = factors.len() / items;
        let column = |factor: usize| factors.iter().skip(factor).step_by(count).copied().collect::<Vec<_>>();
        let columns: Vec<Vec<usize>> = (0..count).map(column).collect();
        match columns.iter().position(|column| column.iter().all(|value| *value == column[0])) {
            Some(constant) => wrong(format!("factor {constant} has the same value for all items; expected several")),
            None => Ok(Self { columns }),
        }
    }

    /// For every factor and each of its values, the items that have it.
    fn groups(&self) -> Vec<Vec<Vec<usize>>> {
        let group = |column: &Vec<usize>| {
            let mut groups = vec![Vec::new(); column.iter().max().map_or(0, |most| most + 1)];
            column.iter().enumerate().for_each(|(item, &value)| groups[value].push(item));
            groups
        };
        self.columns.iter().map(group).collect()
    }
}

/// A random factor, and random items that share its value with a random item.
fn drawn(factors: &Factors, groups: &[Vec<Vec<usize>>], settings: &VoteSettings, vote: u64) -> (usize, Vec<usize>) {
    let mut rng = rng(settings.seed, Stream::Probe, vote);
    let factor = rng.random_range(0..groups.len());
    let column = &factors.columns[factor];
    let group = &groups[factor][column[rng.random_range(0..column.len())]];
    (factor, (0..settings.items).map(|_| group[rng.random_range(0..group.len())]).collect())
}

/// The unbiased variance of a latent dimension over some items.
fn variance(latents: &Features, dimension: usize, items: &[usize]) -> f64 {
    let values = || items.iter().map(|&item| f64::from(latents.row(item)[dimension]));
    let mean = values().sum::<f64>() / items.len() as f64;
    values().map(|value| (value - mean).powi(2)).sum::<f64>() / (items.len() - 1) as f64
}

/// The bin of every item's value of a latent dimension; the bins are between its smallest and its largest value.
fn binned(latents: &Features, dimension: usize) -> Vec<usize> {
    let values = || latents.rows().map(|row| f64::from(row[dimension]));
    let (least, most) =
        values().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)));
    let bin = |value: f64| ((value - least) / (most - least) * BINS as f64) as usize;
    values().map(|value| if most > least { bin(value).min(BINS - 1) } else { 0 }).collect()
}

/// The mutual information of two discrete variables in nats.
fn mutual_information(a: &[usize], b: &[usize]) -> f64 {
    let width = b.iter().max().map_or(0, |most| most + 1);
    let both: Vec<usize> = a.iter().zip(b).map(|(a, b)| a * width + b).collect();
    (entropy(a) + entropy(b) - entropy(&both)).max(0.0)
}

/// The entropy of a discrete variable in nats.
fn entropy(values: &[usize]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let count = sorted.len() as f64;
    let runs = sorted.chunk_by(|a, b| a == b).map(|run| run.len() as f64 / count);
    runs.map(|share| -share * share.ln()).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ddpm_data::random::normals;
    use ddpm_data::sprites;

    /// Latents as a function of the four factors, each in [-1, 1], over the whole grid of the sprites.
    fn over_the_grid(latent: impl Fn(usize, [f32; 4]) -> Vec<f32>) -> (Features, Vec<usize>) {
        let factors: Vec<[usize; 4]> = (0..sprites::COUNT).map(sprites::factors).collect();
        let scaled = |values: [usize; 4]| {
            let mut factors = values.iter().zip(sprites::FACTORS);
            [(); 4].map(|()| {
                factors.next().map_or(0.0, |(value, factor)| 2.0 * *value as f32 / (factor.values - 1) as f32 - 1.0)
            })
        };
        let rows: Vec<Vec<f32>> = factors.iter().enumerate().map(|(k, values)| latent(k, scaled(*values))).collect();
        (Features::new(rows[0].len(), rows.concat()), factors.concat())
    }

    fn few_votes() -> VoteSettings {
        VoteSettings { train_votes: 1000, test_votes: 500, ..VoteSettings::default() }
    }

    #[test]
    fn aligned_latents_score_one_in_any_order_and_unit() {
        let (latents, factors) =
            over_the_grid(|_, [shape, scale, y, x]| vec![-3.0 * x, scale, 0.0, 7.0 + shape, 0.2 * y]);
        let gap = mutual_information_gap(&latents, &factors).unwrap();
        assert!(gap.per_factor.iter().all(|gap| (gap - 1.0).abs() < 1e-9), "{gap:?}");
        assert!((gap.mean - 1.0).abs() < 1e-9);
        let eight = 8.0_f64.ln();
        assert!((gap.mutual_information[3][0] - eight).abs() < 1e-9 && gap.mutual_information[3][1].abs() < 1e-9);
        let score = factor_vae_score(&latents, &factors, &few_votes()).unwrap();
        assert_eq!(score, FactorScore { score: 1.0, train_score: 1.0, active: 4 });
    }

    #[test]
    fn two_dimensions_with_the_same_factor_have_no_gap() {
        let (latents, factors) = over_the_grid(|_, [a, b, c, d]| vec![a, a, b, b, c, c, d, d]);
        let gap = mutual_information_gap(&latents, &factors).unwrap();
        assert!(gap.mean.abs() < 1e-9, "{gap:?}");
        // Votes cannot see it: the dimension that varies least is always one of the right two.
        assert_eq!(factor_vae_score(&latents, &factors, &few_votes()).unwrap().score, 1.0);
    }

    #[test]
    fn rotated_latents_lose_the_gap() {
        let turn = |a: f32, b: f32| [(a + b) / 2.0_f32.sqrt(), (a - b) / 2.0_f32.sqrt()];
        let (latents, factors) = over_the_grid(|_, [a, b, c, d]| [turn(a, b), turn(c, d)].concat());
        let gap = mutual_information_gap(&latents, &factors).unwrap();
        // The two dimensions of a pair know the same of both of their factors, but for values at the borders of bins.
        assert!(gap.mean < 0.1, "{gap:?}");
        // And all that votes can see is which of the two pairs it is.
        let score = factor_vae_score(&latents, &factors, &few_votes()).unwrap().score;
        assert!((0.4..0.75).contains(&score), "{score}");
    }

    #[test]
    fn independent_latents_score_next_to_nothing() {
        let (latents, factors) = over_the_grid(|k, _| normals(&mut rng(1, Stream::Noise, k as u64), 6));
        let gap = mutual_information_gap(&latents, &factors).unwrap();
        assert!(gap.mean < 0.02, "{gap:?}");
        let score = factor_vae_score(&latents, &factors, &few_votes()).unwrap();
        // Chance is one in four.
        assert!(score.active == 6 && score.score < 0.35, "{score:?}");
    }

    #[test]
    fn collapsed_dimensions_do_not_vote() {
        let (latents, factors) = over_the_grid(|_, _| vec![0.0, 1.0]);
        let score = factor_vae_score(&latents, &factors, &few_votes()).unwrap();
        assert_eq!(score, FactorScore { score: 0.0, train_score: 0.0, active: 0 });
        assert_eq!(mutual_information_gap(&latents, &factors).unwrap().mean, 0.0);
        // A thousandth of the prior's deviation, but perfectly aligned.
        let (latents, factors) = over_the_grid(|_, [a, b, c, d]| [a, b, c, d].map(|v| v * 1e-3).to_vec());
        assert_eq!(factor_vae_score(&latents, &factors, &few_votes()).unwrap().active, 0);
        let settings = VoteSettings { least_deviation: 0.0, ..few_votes() };
        assert_eq!(factor_vae_score(&latents, &factors, &settings).unwrap().score, 1.0);
    }

    #[test]
    fn bins_are_those_of_numpy() {
        let latents = Features::new(1, vec![0.0, 20.0, 0.5, 1.0, 19.0, 18.99, 10.0]);
        assert_eq!(binned(&latents, 0), [0, 19, 0, 1, 19, 18, 10]);
        assert_eq!(binned(&Features::new(1, vec![3.0; 2]), 0), [0, 0]);
    }

    #[test]
    fn factors_must_fit_the_latents() {
        let latents = Features::new(1, vec![0.0, 1.0, 2.0]);
        for (factors, said) in [(vec![0, 1], "2 factors of 3 items"), (vec![], "0 factors"), (vec![4; 3], "factor 0")] {
            let message = mutual_information_gap(&latents, &factors).unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
        }
        let broken = Features::new(1, vec![0.0, f32::NAN]);
        assert!(mutual_information_gap(&broken, &[0, 1]).unwrap_err().to_string().contains("not finite"));
        let settings = VoteSettings { items: 1, ..few_votes() };
        assert!(factor_vae_score(&latents, &[0, 1, 2], &settings).is_err());
    }
}
