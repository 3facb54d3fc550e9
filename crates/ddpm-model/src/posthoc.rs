//! Post-hoc EMA: averages of any width, reconstructed after training from stored ones (Karras et al. 2024, EDM2).
//!
//! An average by the power rule weights the parameters of time `s` by its profile
//! `p(s) = (gamma + 1) s^gamma / t^(gamma + 1)` for `s` from 0 to its own time `t`. The wanted profile is
//! replaced by the combination of the stored ones that is nearest in the mean square.

use thiserror::Error;

/// Why an average cannot be reconstructed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum PosthocError {
    /// There is nothing to combine.
    #[error("no stored average is given, expected at least one")]
    Empty,
    /// A profile that does not exist.
    #[error("a profile has the time {time} and gamma {gamma}, expected a positive time and a gamma above -1/2")]
    Profile {
        /// Its time.
        time: f64,
        /// Its exponent.
        gamma: f64,
    },
    /// Two stored averages are (nearly) the same.
    #[error("stored average {index} is a combination of those before it, expected different times or widths")]
    Dependent {
        /// Which one, from 0.
        index: usize,
    },
}

/// The profile of an average by the power rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Its end: images (or steps) seen.
    pub time: f64,
    /// Its exponent; see [`crate::ema::gamma_of`].
    pub gamma: f64,
}

impl Profile {
    /// The integral of the product of two profiles.
    pub fn inner_product(self, other: Self) -> f64 {
        let (Self { time: ta, gamma: ga }, Self { time: tb, gamma: gb }) = (self, other);
        // Only the time before both ends counts, and there both are powers of s.
        let exponent = if ta < tb { gb } else { -ga };
        (ga + 1.0) * (gb + 1.0) * (ta / tb).powf(exponent) / ((ga + gb + 1.0) * ta.max(tb))
    }

    fn check(self) -> Result<(), PosthocError> {
        // Below -1/2 a profile has no norm.
        match self.time > 0.0 && self.time.is_finite() && self.gamma > -0.5 && self.gamma.is_finite() {
            true => Ok(()),
            false => Err(PosthocError::Profile { time: self.time, gamma: self.gamma }),
        }
    }
}

/// The coefficients of the combination of stored averages that is nearest to `wanted`. They add up to 1.
pub fn coefficients(stored: &[Profile], wanted: Profile) -> Result<Vec<f64>, PosthocError> {
    if stored.is_empty() {
        return Err(PosthocError::Empty);
    }
    stored.iter().chain([&wanted]).try_for_each(|profile| profile.check())?;
    // The normal equations of the least squares, A x = b.
    let a = stored.iter().map(|&row| stored.iter().map(|&column| row.inner_product(column)).collect()).collect();
    let b = stored.iter().map(|&row| row.inner_product(wanted)).collect();
    let x = solve(a, b)?;
    let sum: f64 = x.iter().sum();
    Ok(x.into_iter().map(|x| x / sum).collect())
}

/// How far a combination of stored averages is from the wanted one: the distance of its profile, in the mean square,
/// as a share of the wanted profile's own size.
pub fn distance(stored: &[Profile], coefficients: &[f64], wanted: Profile) -> f64 {
    let terms = || stored.iter().zip(coefficients);
    let across: f64 = terms().map(|(a, x)| x * a.inner_product(wanted)).sum();
    let within: f64 = terms().flat_map(|(a, x)| terms().map(move |(b, y)| x * y * a.inner_product(*b))).sum();
    // Rounding can make the square of a distance that is none negative.
    ((within - 2.0 * across) / wanted.inner_product(wanted) + 1.0).max(0.0).sqrt()
}

/// Solves `A x = b` for a symmetric positive definite `A` by its Cholesky factor `L`, `A = L L^T`.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Result<Vec<f64>, PosthocError> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i][j] - (0..j).map(|k| a[i][k] * a[j][k]).sum::<f64>();
            if i > j {
                a[i][j] = rest / a[j][j];
            } else if rest > 1e-13 * a[i][i] {
                a[i][i] = rest.sqrt();
            } else {
                return Err(PosthocError::Dependent { index: i });
            }
        }
        b[i] = (b[i] - (0..i).map(|k| a[i][k] * b[k]).sum::<f64>()) / a[i][i];
    }
    for i in (0..n).rev() {
        b[i] = (b[i] - (i + 1..n).map(|k| a[k][i] * b[k]).sum::<f64>()) / a[i][i];
    }
    Ok(b)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const fn profile(time: f64, gamma: f64) -> Profile {
        Profile { time, gamma }
    }

    #[test]
    fn the_inner_product_is_the_integral() {
        let density = |p: Profile, s: f64| match s < p.time {
            true => (p.gamma + 1.0) * s.powf(p.gamma) / p.time.powf(p.gamma + 1.0),
            false => 0.0,
        };
        for (a, b) in [(profile(2.0, 3.0), profile(5.0, 7.5)), (profile(5.0, 3.0), profile(5.0, 1.0))] {
            let steps = 100_000;
            let width = 5.0 / f64::from(steps);
            let middle = |i: i32| (f64::from(i) + 0.5) * width;
            let integral: f64 = (0..steps).map(|i| density(a, middle(i)) * density(b, middle(i)) * width).sum();
            assert!((a.inner_product(b) - integral).abs() < 1e-6 * integral);
            assert!((a.inner_product(b) - b.inner_product(a)).abs() < 1e-15);
        }
    }

    #[test]
    fn a_stored_average_is_itself() {
        let stored = [profile(100.0, 6.0), profile(100.0, 17.0), profile(200.0, 6.0), profile(200.0, 17.0)];
        let found = coefficients(&stored, stored[2]).unwrap();
        for (i, x) in found.into_iter().enumerate() {
            assert!((x - f64::from(u8::from(i == 2))).abs() < 1e-10);
        }
    }

    #[test]
    fn the_distance_is_that_of_the_profiles_and_falls_with_what_is_stored() {
        // Profiles of one time: their difference squared, integrated, by the powers that they are.
        let (one, wanted) = (profile(1.0, 1.0), profile(1.0, 3.0));
        let square: f64 = 16.0 / 7.0 - 2.0 * 8.0 / 5.0 + 4.0 / 3.0;
        assert!((distance(&[one], &[1.0], wanted) - (square / (16.0 / 7.0)).sqrt()).abs() < 1e-12);

        let wanted = profile(64.0, 11.0);
        let off = |count: u32| {
            let times = (1..=count).map(|k| 64.0 * f64::from(k) / f64::from(count));
            let stored: Vec<Profile> = times.flat_map(|time| [profile(time, 6.0), profile(time, 17.0)]).collect();
            distance(&stored, &coefficients(&stored, wanted).unwrap(), wanted)
        };
        let found = [1, 2, 4, 8, 16].map(off);
        assert!(found.is_sorted_by(|a, b| a > b) && found[4] < 0.1 * found[0], "{found:?}");
    }

    #[test]
    fn impossible_combinations_are_refused() {
        let one = profile(100.0, 6.0);
        assert_eq!(coefficients(&[], one), Err(PosthocError::Empty));
        assert_eq!(coefficients(&[one, one], one), Err(PosthocError::Dependent { index: 1 }));
        assert!(matches!(coefficients(&[one], profile(0.0, 6.0)), Err(PosthocError::Profile { .. })));
        assert!(matches!(coefficients(&[one], profile(1.0, f64::NAN)), Err(PosthocError::Profile { .. })));
    }
}
