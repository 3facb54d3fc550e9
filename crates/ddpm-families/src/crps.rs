//! The continuous ranked probability score, for what is measured while training; `ddpm-eval` has it in every definition.

/// `E|X - y| - E|X - X'| / 2` of sorted samples, over all pairs.
pub(crate) fn energy_crps(sorted: &[f64], truth: f64) -> f64 {
    let n = sorted.len() as f64;
    let distance = sorted.iter().map(|sample| (sample - truth).abs()).sum::<f64>() / n;
    // The sum over all pairs, from the order statistics.
    let pairs = sorted.iter().enumerate().map(|(i, sample)| (2.0 * i as f64 + 1.0 - n) * sample).sum::<f64>();
    distance - pairs / (n * n)
}

#[cfg(test)]
mod tests {
    use super::energy_crps;

    #[test]
    fn it_is_that_of_all_pairs() {
        let (samples, truth) = ([-1.0, 0.5, 2.0, 2.0, 7.0], 1.25);
        let distance = samples.iter().map(|x: &f64| (x - truth).abs()).sum::<f64>() / 5.0;
        let pairs: f64 = samples.iter().flat_map(|a| samples.iter().map(move |b| (a - b).abs())).sum();
        assert!((energy_crps(&samples, truth) - (distance - pairs / 50.0)).abs() < 1e-12);
        assert_eq!(energy_crps(&[2.0], 1.5), 0.5);
    }
}
