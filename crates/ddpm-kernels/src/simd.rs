//! Elementary functions that the compiler turns into vector code, and the choice of instructions.
//!
//! What is called inside [`vectorised`] must be inlined into it, hence `inline(always)`: code that is
//! not is compiled for the oldest processor of the architecture.

use crate::conv::frame::transposed;

/// Values that are worked on together. The compiler maps them onto whatever width there is.
pub(crate) const LANES: usize = 16;

/// Runs `kernel` as compiled for the best vector instructions of this processor. A closure must say `#[inline(always)]`, or a
/// large one is compiled for the oldest.
pub(crate) fn vectorised<R>(kernel: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(kernel)
}

/// `1 / (1 + exp(-x))`, within 3e-7 of the exact value.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The hyperbolic tangent, within 3e-7 of the exact value.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

/// The exponential for arguments in [-87, 87], beyond which it stays constant. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has so few digits that its product with an integer is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let x = x.clamp(-87.0, 87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    // exp(r) for |r| <= ln(2) / 2: the minimax polynomial of Cephes' expf.
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 5e-1;
    p = p * r * r + r + 1.0;
    let two_to_n = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    p * two_to_n
}

/// Whether so many values are a few whole vectors, which are best written without a call.
#[inline(always)]
pub(crate) fn is_short(len: usize) -> bool {
    len <= 16 * LANES && len.is_multiple_of(LANES)
}

/// Copies values: short lines without a call, which would take longer than the copy.
#[inline(always)]
pub(crate) fn copy(to: &mut [f32], from: &[f32]) {
    if !is_short(from.len()) {
        to.copy_from_slice(from);
        return;
    }
    assert_eq!(to.len(), from.len(), "lengths of a copy");
    for (to, from) in to.as_chunks_mut::<LANES>().0.iter_mut().zip(from.as_chunks::<LANES>().0) {
        *to = *from;
    }
}

/// The sum of `term` over the values of `a`, in an order that depends on their number only.
#[inline(always)]
pub(crate) fn sum(a: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    total(lanes(a, term))
}

/// The sums of `term` over every [`LANES`]th value of `a`, for [`total`] or [`totals`] to add up.
#[inline(always)]
pub(crate) fn lanes(a: &[f32], term: impl Fn(f32) -> f32) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += term(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += term(value);
    }
    lanes
}

/// `a b + c` with one rounding, as one instruction where [`vectorised`] finds one.
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// The sum of the products of `a` and `b`, in an order that depends on their number only.
#[inline(always)]
pub(crate) fn sum_of_products(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = fma(a[lane], b[lane], lanes[lane]);
        }
    }
    for (lane, (&a, &b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane = fma(a, b, *lane);
    }
    total(lanes)
}

/// Replaces each `b` by `f(a, b).0`, and returns the [`lanes`] of the two other values of `f`.
#[inline(always)]
pub(crate) fn map_and_lanes(a: &[f32], b: &mut [f32], f: impl Fn(f32, f32) -> (f32, f32, f32)) -> [[f32; LANES]; 2] {
    let mut first = [0.0; LANES];
    let mut second = [0.0; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks_mut::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            let (value, one, two) = f(a[lane], b[lane]);
            b[lane] = value;
            first[lane] += one;
            second[lane] += two;
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        let (value, one, two) = f(*a, *b);
        *b = value;
        first[lane] += one;
        second[lane] += two;
    }
    [first, second]
}

/// The sums of several sets of lanes at once, each in the order of [`total`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "two rows of the same array")]
pub(crate) fn totals(sets: [[f32; LANES]; LANES]) -> [f32; LANES] {
    let mut rows = transposed(sets);
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            for set in 0..LANES {
                rows[lane][set] += rows[lane + width][set];
            }
        }
    }
    rows[0]
}

/// Pairwise, so that neither the order nor the rounding depends on the vector width.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_is_within_a_few_units_of_the_last_place() {
        for step in -8_700..=8_700 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) / exact - 1.0).abs();
            assert!(error < 3e-7, "exp({x}) is off by {error}");
        }
    }

    #[test]
    fn sigmoid_keeps_its_limits_and_nan() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(200.0), 1.0);
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert!(sigmoid(-200.0) < 1e-37);
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-37);
        assert!(sigmoid(f32::NAN).is_nan());
    }

    #[test]
    fn sums_at_once_are_those_one_by_one() {
        let sets: [[f32; LANES]; LANES] =
            std::array::from_fn(|set| std::array::from_fn(|lane| ((set * 37 + lane * 11) as f32).sin() / 3.0));
        assert_eq!(totals(sets).map(f32::to_bits), sets.map(|lanes| total(lanes).to_bits()));
    }

    #[test]
    fn copies_of_any_length() {
        for n in [0, 5, 16, 48, 256, 272, 300] {
            let from: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut to = vec![-1.0; n];
            copy(&mut to, &from);
            assert_eq!(to, from);
        }
    }

    #[test]
    fn sums_of_any_length() {
        for n in [0, 1, 15, 16, 17, 40] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut b = vec![2.0; n];
            let expected = a.iter().sum::<f32>();
            assert_eq!(sum(&a, |v| v), expected);
            let sums = map_and_lanes(&a, &mut b, |a, b| (a + b, a, a * b));
            assert_eq!(sums.map(total), [expected, 2.0 * expected]);
            assert!(a.iter().zip(&b).all(|(a, b)| *b == a + 2.0));
        }
    }
}
