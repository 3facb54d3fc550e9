//! `ddpm-infer likelihood` of a model with a latent: the evidence lower bound and importance-weighted bounds, in nats.

use std::collections::BTreeMap;

use anyhow::bail;
use ddpm_console::bar::progress_bar;
use ddpm_families::family::trained::{Bound, BoundTerms, LikelihoodOf};
use serde::Serialize;

use super::given_items::Items;

/// Items between two steps of the bar.
const AT_ONCE: usize = 64;

/// What is measured, each number the mean over the items.
#[derive(Serialize)]
pub(crate) struct Report {
    /// Items.
    count: usize,
    /// The evidence lower bound of `ln p(x)`.
    pub(crate) elbo_nats: f64,
    /// `-E ln p(x|z)`.
    reconstruction_nats: f64,
    /// `KL(q(z|x) || p(z))`.
    kl_nats: f64,
    /// Importance-weighted bounds of `ln p(x)` by the number of draws.
    iwae_nats: BTreeMap<usize, f64>,
    /// The divergence by dimension or by layer of the latent.
    kl_nats_by_part: Vec<f64>,
    /// What the parts of the divergence are.
    part: &'static str,
    /// `-elbo / ln 2` for each value, where the likelihood is of 8-bit values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bits_per_dim: Option<f64>,
    /// The standard error of `elbo_nats`.
    elbo_standard_error: f64,
}

/// Measures with as many draws of each latent as the largest K needs.
pub(crate) fn measure(model: &dyn Bound, items: &Items, draws: &[usize], seed: u64) -> anyhow::Result<Report> {
    let size = items.values.len() / items.count;
    let most = draws.iter().copied().max().unwrap_or(1);
    let bar = progress_bar("{bar:28} {pos}/{len} items  {elapsed} < {eta}", items.count as u64);
    let mut terms: Vec<BoundTerms> = Vec::with_capacity(items.count);
    for part in items.values.chunks(AT_ONCE * size) {
        let first = terms.len() as u64;
        terms.extend(model.bound(part, most, seed, first).map_err(anyhow::Error::from_boxed)?);
        bar.set_position(terms.len() as u64);
    }
    bar.finish_and_clear();
    let report = report(model, &terms, draws, size);
    if !report.elbo_nats.is_finite() {
        bail!("the likelihood is not finite: the weights may be broken, or the training has diverged");
    }
    Ok(report)
}

fn report(model: &dyn Bound, terms: &[BoundTerms], draws: &[usize], size: usize) -> Report {
    let count = terms.len() as f64;
    let mean = |of: &dyn Fn(&BoundTerms) -> f64| terms.iter().map(of).sum::<f64>() / count;
    let parts = terms.first().map_or(0, |terms| terms.kl.len());
    let elbo = mean(&BoundTerms::elbo);
    let variance = mean(&|terms| (terms.elbo() - elbo).powi(2));
    Report {
        count: terms.len(),
        elbo_nats: elbo,
        reconstruction_nats: mean(&|terms| terms.reconstruction),
        kl_nats: mean(&|terms| terms.kl.iter().sum()),
        iwae_nats: draws.iter().map(|&k| (k, mean(&|terms| terms.importance_weighted(k)))).collect(),
        kl_nats_by_part: (0..parts).map(|part| mean(&|terms| terms.kl[part])).collect(),
        part: model.parts(),
        bits_per_dim: (model.likelihood_of() == LikelihoodOf::PixelLevels)
            .then(|| -elbo / (size as f64 * std::f64::consts::LN_2)),
        elbo_standard_error: (variance / (count - 1.0).max(1.0)).sqrt(),
    }
}

impl Report {
    /// The result in one line, minus the bound first.
    pub(crate) fn line(&self) -> String {
        let bits = self.bits_per_dim.map(|bits| format!("; {bits:.4} bits/dim")).unwrap_or_default();
        format!(
            "{:.4} nats = reconstruction {:.4} + KL {:.4}{bits}",
            -self.elbo_nats, self.reconstruction_nats, self.kl_nats
        )
    }

    /// What else there is to say, for people.
    pub(crate) fn details(&self) -> String {
        let bounds: Vec<String> = self.iwae_nats.iter().map(|(k, bound)| format!("K={k}: {:.4}", -bound)).collect();
        let mut parts: Vec<(usize, f64)> = self.kl_nats_by_part.iter().copied().enumerate().collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let shown: Vec<String> = parts.iter().take(PARTS_SHOWN).map(|(part, kl)| format!("{part}: {kl:.3}")).collect();
        let more = if parts.len() > PARTS_SHOWN { ", ..." } else { "" };
        format!(
            "standard error {:.4}; importance-weighted bounds in nats: {}\nKL by {}, the largest first: {}{more}",
            self.elbo_standard_error,
            bounds.join(", "),
            self.part,
            shown.join(", ")
        )
    }
}

/// Parts of the divergence in the message; the JSON file has all.
const PARTS_SHOWN: usize = 12;
