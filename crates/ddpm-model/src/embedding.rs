//! Embeddings of what a network takes besides `x_t`: the time as sinusoids, the class as a row of a table.

use burn::nn::Embedding;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::condition::Condition;

/// The longest wavelength is this many times `2 pi` steps.
const MAX_PERIOD: f64 = 10_000.0;

/// Which half of the sinusoidal embedding comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinusoidOrder {
    /// Sines first (Ho et al. 2020).
    SinCos,
    /// Cosines first (Nichol & Dhariwal 2021, Dhariwal & Nichol 2021).
    CosSin,
}

/// Sinusoidal embedding of the time, in one of the two conventions in use: `{ order = "sin-cos", frequency_shift = 1 }`
/// (Ho et al. 2020) or `{ order = "cos-sin", frequency_shift = 0 }` (Nichol & Dhariwal 2021).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinusoidConfig {
    /// Which half comes first.
    pub order: SinusoidOrder,
    /// Subtracted from the number of frequencies in the exponent's denominator: 1 makes the lowest frequency exactly
    /// 1/10000 (Ho et al.), 0 leaves it just above (Nichol & Dhariwal).
    pub frequency_shift: usize,
}

impl SinusoidConfig {
    /// The convention of Ho et al. (2020).
    pub const fn ho() -> Self {
        Self { order: SinusoidOrder::SinCos, frequency_shift: 1 }
    }

    /// The convention of Nichol & Dhariwal (2021) and what followed it.
    pub const fn improved() -> Self {
        Self { order: SinusoidOrder::CosSin, frequency_shift: 0 }
    }

    /// Why there is no embedding of `width` values, if so.
    pub(crate) fn problem(&self, width: usize) -> Option<String> {
        if !width.is_multiple_of(2) {
            return Some(format!("{width} is odd: half of the values are sines, half cosines"));
        }
        if self.frequency_shift > 1 {
            return Some(format!("a frequency shift of {} is neither 0 nor 1", self.frequency_shift));
        }
        (width / 2 <= self.frequency_shift).then(|| format!("{width} leaves no room for a frequency"))
    }

    /// The angular frequencies of an embedding of `width` values, highest first.
    pub fn frequencies(&self, width: usize) -> Vec<f64> {
        let half = width / 2;
        let denominator = (half - self.frequency_shift) as f64;
        (0..half).map(|i| (-MAX_PERIOD.ln() * i as f64 / denominator).exp()).collect()
    }

    /// Embeds times of shape `[B]`, whole or fractional, to `[B, width]`.
    ///
    /// A product of time and frequency rounded to f32 is off by 3e-5 at a thousand steps. So each frequency
    /// is split on the host into a head of 12 bits, whose product with a step below 4096 is exact, and the
    /// small rest; the two angles are joined by the addition theorems.
    pub fn embed(&self, time: Tensor<1>, width: usize) -> Tensor<2> {
        let row = |frequencies: Vec<f64>| {
            let data = TensorData::from(frequencies.as_slice());
            Tensor::<1>::from_data(data, (&time.device(), time.dtype())).unsqueeze_dim::<2>(0)
        };
        let frequencies = self.frequencies(width);
        let heads: Vec<f64> = frequencies.iter().map(|&frequency| first_12_bits(frequency)).collect();
        let rests = frequencies.iter().zip(&heads).map(|(frequency, head)| frequency - head).collect();
        let (heads, rests) = (row(heads), row(rests));

        let time = time.unsqueeze_dim::<2>(1);
        let (a, b) = (time.clone() * heads, time * rests);
        let (sin_a, cos_a, sin_b, cos_b) = (a.clone().sin(), a.cos(), b.clone().sin(), b.cos());
        let sin = sin_a.clone() * cos_b.clone() + cos_a.clone() * sin_b.clone();
        let cos = cos_a * cos_b - sin_a * sin_b;
        match self.order {
            SinusoidOrder::SinCos => Tensor::cat(vec![sin, cos], 1),
            SinusoidOrder::CosSin => Tensor::cat(vec![cos, sin], 1),
        }
    }
}

impl Default for SinusoidConfig {
    fn default() -> Self {
        Self::ho()
    }
}

/// The rows of a class table that a condition selects, shape `[B, width]`.
///
/// No condition is the null class. `None` comes back only for a network without one, which callers rule out.
pub(crate) fn class_features(
    table: &Embedding,
    null_class: Option<usize>,
    condition: &Condition,
    batch: usize,
    device: &Device,
) -> Option<Tensor<2>> {
    let classes = match (condition, null_class) {
        (Condition::Class(classes), _) => classes.clone(),
        (Condition::None | Condition::Tokens(_), Some(null)) => Tensor::full([batch], null as i64, device),
        (Condition::None | Condition::Tokens(_), None) => {
            debug_assert!(false, "this network has no null class: every row needs a class");
            return None;
        }
    };
    debug_assert_eq!(classes.dims(), [batch], "one class a row");
    Some(table.weight.val().select(0, classes))
}

/// The number with all but the first 12 bits of its mantissa cut off.
fn first_12_bits(value: f64) -> f64 {
    f64::from_bits(value.to_bits() & !((1 << (f64::MANTISSA_DIGITS - 12)) - 1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn embed(config: SinusoidConfig, times: &[f32], width: usize) -> Vec<f32> {
        let time = Tensor::<1>::from_floats(times, &Device::default());
        config.embed(time, width).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn conventions_differ_in_order_and_lowest_frequency() {
        // Four values, so frequencies 1 and 1/10000 (shift 1), or 1 and 1/100 (shift 0).
        let time = 0.5_f64;
        let ho = embed(SinusoidConfig::ho(), &[time as f32], 4);
        let improved = embed(SinusoidConfig::improved(), &[time as f32], 4);
        let expected_ho = [time.sin(), (time * 1e-4).sin(), time.cos(), (time * 1e-4).cos()];
        let expected_improved = [time.cos(), (time * 1e-2).cos(), time.sin(), (time * 1e-2).sin()];
        for i in 0..4 {
            assert!((f64::from(ho[i]) - expected_ho[i]).abs() < 1e-7, "{i}");
            assert!((f64::from(improved[i]) - expected_improved[i]).abs() < 1e-7, "{i}");
        }
    }

    #[test]
    fn late_and_fractional_times_stay_accurate() {
        let (config, width) = (SinusoidConfig::improved(), 128);
        for time in [0.0, 77.25, 999.0, 3999.0] {
            let found = embed(config, &[time as f32], width);
            for (i, frequency) in config.frequencies(width).into_iter().enumerate() {
                let (cos, sin) = (f64::from(found[i]), f64::from(found[width / 2 + i]));
                assert!((cos - (time * frequency).cos()).abs() < 3e-7, "cos, t {time}, {i}");
                assert!((sin - (time * frequency).sin()).abs() < 3e-7, "sin, t {time}, {i}");
            }
        }
    }

    #[test]
    fn impossible_widths_are_named() {
        assert!(SinusoidConfig::ho().problem(7).unwrap().contains("odd"));
        assert!(SinusoidConfig::ho().problem(2).is_some());
        assert!(SinusoidConfig { order: SinusoidOrder::SinCos, frequency_shift: 3 }.problem(8).is_some());
        assert_eq!(SinusoidConfig::improved().problem(2), None);
    }
}
