//! Dynamic loss scaling for f16, whose smallest number is 6e-8 (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

use serde::{Deserialize, Serialize};

/// Where it begins.
const START: f64 = 65536.0;
/// Steps without an overflow after which it doubles.
const PATIENCE: u64 = 2000;

/// The factor of the loss, and so of all gradients until they are divided by it: as large as f16 has room for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// A power of two, so that no digit is lost by it.
    pub factor: f64,
    /// Steps since it changed.
    since: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { factor: START, since: 0 }
    }
}

impl LossScale {
    /// After a step whose gradients were finite.
    pub fn held(&mut self) {
        self.since += 1;
        if self.since == PATIENCE {
            *self = Self { factor: 2.0 * self.factor, since: 0 };
        }
    }

    /// After a step whose gradients were not. False where less would not help: something else is wrong.
    pub fn overflowed(&mut self) -> bool {
        let can_fall = self.factor > 1.0;
        if can_fall {
            *self = Self { factor: self.factor / 2.0, since: 0 };
        }
        can_fall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_after_many_good_steps_and_halves_at_once_down_to_one() {
        let mut scale = LossScale::default();
        assert!(scale.overflowed());
        assert_eq!(scale.factor, START / 2.0);
        for _ in 1..PATIENCE {
            scale.held();
        }
        assert_eq!(scale.factor, START / 2.0);
        scale.held();
        assert_eq!(scale, LossScale::default());
        for _ in 0..16 {
            assert!(scale.overflowed());
        }
        assert_eq!(scale.factor, 1.0);
        assert!(!scale.overflowed());
    }

    #[test]
    fn an_overflow_starts_the_patience_anew() {
        let mut scale = LossScale::default();
        (1..PATIENCE).for_each(|_| scale.held());
        assert!(scale.overflowed());
        (1..PATIENCE).for_each(|_| scale.held());
        assert_eq!(scale.factor, START / 2.0);
    }
}
