//! `ddpm-infer likelihood` of a model of time series: the variational bound of held-out values, in nats.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use ddpm_console::bar::progress_bar;
use ddpm_data::Split;
use ddpm_data::series::SeriesSet;
use ddpm_families::family::stored::ModelCard;
use ddpm_families::family::trained::{BoundDraw, ScoredPart, SeriesBound, SeriesBoundTerms, Stretch};
use ddpm_model::density_bound::{DensityBound, ReverseVariance};
use serde::Serialize;

use super::series_windows::{in_a_row, rolling, spread};

/// Which windows of a split are measured.
pub(crate) struct Windows {
    pub(crate) split: Split,
    /// Steps that are scored at the end of each; none: as is usual for the model.
    pub(crate) horizon: Option<usize>,
    /// So many at most, evenly spread.
    pub(crate) most: usize,
}

/// What is measured: means over the values that are scored, in nats and in the units of the data.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Windows.
    count: usize,
    /// Values that are scored.
    values: usize,
    /// Observed values that are not: the network predicts them together with values that were never observed.
    left_out: usize,
    /// What is scored of each window.
    scored: String,
    /// The bound of minus the log-density of a value.
    pub(crate) nats_per_dim: f64,
    /// Its standard error, over the windows.
    standard_error: f64,
    /// `L_T`.
    prior_nats: f64,
    /// `L_1` to `L_{T-1}`.
    divergence_nats: f64,
    /// `L_0`.
    decoder_nats: f64,
    /// What the units of the networks add.
    log_scale_nats: f64,
    /// The variances of the reverse steps, those of the tighter bound.
    variance: &'static str,
    /// The bound with either.
    nats_per_dim_by_variance: BTreeMap<&'static str, f64>,
}

/// Measures the windows of a split of the data that the model was trained on.
pub(crate) fn measure(
    model: &dyn SeriesBound,
    card: &ModelCard,
    snapshot: &Path,
    windows: &Windows,
    draw: &BoundDraw,
) -> anyhow::Result<Report> {
    let source = card.source.as_ref();
    let source =
        source.with_context(|| format!("{}: the snapshot does not record its training data", snapshot.display()))?;
    let data = ddpm_data::open(source, windows.split, 0)?;
    let set = data.series.with_context(|| format!("{}: its data are not series", data.info.name))?;
    let part = windows.horizon.map_or_else(|| model.usual(), ScoredPart::Horizon);
    let stretches = windows.stretches(&set, part);
    if stretches.is_empty() {
        bail!("{}: its {} split has no window of {}", data.info.name, windows.split.name(), steps_of(part));
    }
    let bar = progress_bar("{bar:28} {pos}/{len} windows  {elapsed} < {eta}", stretches.len() as u64);
    let mut terms = Vec::with_capacity(stretches.len());
    for stretches in stretches.chunks(draw.at_once.max(1)) {
        terms.extend(model.series_bound(stretches, part, draw).map_err(anyhow::Error::from_boxed)?);
        bar.set_position(terms.len() as u64);
    }
    bar.finish_and_clear();
    report(&terms, part)
}

impl Windows {
    fn stretches<'a>(&self, set: &'a SeriesSet, part: ScoredPart) -> Vec<Stretch<'a>> {
        // The past of a forecast may lie in front of the split.
        let (mut places, length, is_whole) = match part {
            ScoredPart::Horizon(horizon) => (rolling(set, horizon), horizon, false),
            ScoredPart::Window(length) => (in_a_row(set, length), length, true),
        };
        spread(&mut places, self.most);
        let stretch = |(number, (of, start)): (usize, &(usize, usize))| Stretch {
            series: &set.series()[*of],
            start: if is_whole { *start } else { 0 },
            end: start + length,
            number: number as u64,
        };
        places.iter().enumerate().map(stretch).collect()
    }
}

fn steps_of(part: ScoredPart) -> String {
    match part {
        ScoredPart::Horizon(steps) => format!("{steps} steps that follow others"),
        ScoredPart::Window(steps) => format!("{steps} steps"),
    }
}

fn report(terms: &[SeriesBoundTerms], part: ScoredPart) -> anyhow::Result<Report> {
    let scored: Vec<&SeriesBoundTerms> = terms.iter().filter(|terms| terms.values > 0).collect();
    let values: usize = scored.iter().map(|terms| terms.values).sum();
    let left_out = terms.iter().map(|terms| terms.left_out).sum();
    if values == 0 {
        bail!(
            "no value can be scored: {left_out} were observed, and all of them next to values that never were, which the \
             network predicts together with them"
        );
    }
    let sum = |of: &dyn Fn(&SeriesBoundTerms) -> f64| scored.iter().map(|terms| of(terms)).sum::<f64>();
    let mean = |of: &dyn Fn(&SeriesBoundTerms) -> f64| sum(of) / values as f64;
    let nats = |terms: &SeriesBoundTerms, k: usize| terms.bounds[k].total() + terms.log_scale;
    let all = [0, 1].map(|k| mean(&|terms| nats(terms, k)));
    let tighter = usize::from(all[1] < all[0]);
    let part_of = |of: &dyn Fn(&DensityBound) -> f64| mean(&|terms| of(&terms.bounds[tighter]));
    let whole = all[tighter];
    if !whole.is_finite() {
        bail!("the likelihood is not finite: the weights may be broken, or the training has diverged");
    }
    let windows = scored.len() as f64;
    let squares = sum(&|terms| (nats(terms, tighter) - whole * terms.values as f64).powi(2));
    let names = ReverseVariance::ALL.map(ReverseVariance::name);
    Ok(Report {
        count: scored.len(),
        values,
        left_out,
        scored: match part {
            ScoredPart::Horizon(steps) => format!("{steps} steps given those before"),
            ScoredPart::Window(steps) => format!("what is hidden of {steps} steps given the rest"),
        },
        nats_per_dim: whole,
        standard_error: (squares * windows / (windows - 1.0).max(1.0)).sqrt() / values as f64,
        prior_nats: part_of(&|bound| bound.prior),
        divergence_nats: part_of(&|bound| bound.divergence),
        decoder_nats: part_of(&|bound| bound.decoder),
        log_scale_nats: mean(&|terms| terms.log_scale),
        variance: names[tighter],
        nats_per_dim_by_variance: names.into_iter().zip(all).collect(),
    })
}

impl Report {
    /// The result in one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:.4} nats/dim = L_T {:.4} + L_1..T-1 {:.4} + L_0 {:.4} + units {:.4}",
            self.nats_per_dim, self.prior_nats, self.divergence_nats, self.decoder_nats, self.log_scale_nats
        )
    }

    /// What else there is to say, for people.
    pub(crate) fn details(&self) -> String {
        let other = self.nats_per_dim_by_variance.iter().find(|(name, _)| **name != self.variance);
        let other = other.map(|(name, nats)| format!(" ({name}: {nats:.4})")).unwrap_or_default();
        let left_out = match self.left_out {
            0 => String::new(),
            count => format!("; {count} are left out, since values next to them were never observed"),
        };
        format!(
            "standard error {:.4}; {} values of {} windows, {}{left_out}\nvariance of the reverse steps: {}{other}",
            self.standard_error, self.values, self.count, self.scored, self.variance
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn terms(values: usize, [small, large]: [f64; 2]) -> SeriesBoundTerms {
        let bound = |decoder| DensityBound { prior: 1.0, divergence: 2.0, decoder };
        SeriesBoundTerms { values, left_out: 1, log_scale: 0.5, bounds: [bound(small), bound(large)] }
    }

    #[test]
    fn the_report_is_a_mean_over_values_with_its_error_over_windows() {
        let all = [terms(2, [10.0, 4.5]), terms(6, [9.0, 12.5]), terms(0, [0.0, 0.0])];
        let found = report(&all, ScoredPart::Horizon(3)).unwrap();
        assert_eq!((found.count, found.values, found.left_out), (2, 8, 3));
        // With large variances 8 and 16 nats, with small ones 13.5 and 12.5.
        assert_eq!((found.nats_per_dim, found.variance), (3.0, "fixed-large"));
        assert_eq!(found.nats_per_dim_by_variance["fixed-small"], 26.0 / 8.0);
        // 8 - 2 * 3 and 16 - 6 * 3.
        assert!((found.standard_error - (2.0 * (4.0 + 4.0f64)).sqrt() / 8.0).abs() < 1e-12);
        let parts = found.prior_nats + found.divergence_nats + found.decoder_nats + found.log_scale_nats;
        assert!((parts - 3.0).abs() < 1e-12);
        let error = report(&all[2..], ScoredPart::Window(3)).unwrap_err().to_string();
        assert!(error.contains("1 were observed"), "{error}");
    }
}
