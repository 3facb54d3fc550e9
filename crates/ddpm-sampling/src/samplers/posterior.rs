//! The posterior between two noise levels.

use ddpm_model::noise_level::NoiseLevel;

/// The Gaussian q(x_s | x_t, x_0) for two levels of one process, s the cleaner one:
/// mean `x_0 * from_x_0 + x_t * from_x_t`.
///
/// The steps need not be neighbors, which is all that "strided" sampling needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// Weight of x_0 in the mean.
    pub from_x_0: f64,
    /// Weight of x_t in the mean.
    pub from_x_t: f64,
    /// Variance of x_s when x_0 is known (beta-tilde, "fixed small").
    pub variance: f64,
    /// Variance of the noise that leads from x_s to x_t (beta, "fixed large").
    pub beta: f64,
}

impl Posterior {
    /// The posterior of level `s` seen from level `t`.
    pub fn between(t: NoiseLevel, s: NoiseLevel) -> Self {
        let alpha_ts = t.alpha / s.alpha;
        // Kingma et al. 2021 (20). With alpha^2 + sigma^2 = 1 this is beta = 1 - alpha_bar_t / alpha_bar_s.
        let beta = t.sigma.powi(2) - alpha_ts.powi(2) * s.sigma.powi(2);
        // Ho et al. 2020 (7), between any two levels.
        Self {
            from_x_0: s.alpha * beta / t.sigma.powi(2),
            from_x_t: alpha_ts * s.sigma.powi(2) / t.sigma.powi(2),
            variance: beta * s.sigma.powi(2) / t.sigma.powi(2),
            beta,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(alpha_bar: f64) -> NoiseLevel {
        NoiseLevel { alpha: alpha_bar.sqrt(), sigma: (1.0 - alpha_bar).sqrt() }
    }

    #[test]
    fn one_step_is_equation_7() {
        let (beta, alpha_bar_s) = (0.02, 0.6);
        let alpha_bar_t: f64 = alpha_bar_s * (1.0 - beta);
        let q = Posterior::between(level(alpha_bar_t), level(alpha_bar_s));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-14, "{a} {b}");
        close(q.beta, beta);
        close(q.variance, (1.0 - alpha_bar_s) / (1.0 - alpha_bar_t) * beta);
        close(q.from_x_0, alpha_bar_s.sqrt() * beta / (1.0 - alpha_bar_t));
        close(q.from_x_t, (1.0 - beta).sqrt() * (1.0 - alpha_bar_s) / (1.0 - alpha_bar_t));
    }

    #[test]
    fn the_clean_end_is_x_0_itself() {
        let q = Posterior::between(level(0.99), NoiseLevel { alpha: 1.0, sigma: 0.0 });
        assert!((q.from_x_0 - 1.0).abs() < 1e-14);
        assert_eq!((q.from_x_t, q.variance), (0.0, 0.0));
    }
}
