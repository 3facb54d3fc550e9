//! Elementary functions that the compiler turns into vector code, and the choice of instructions.
//!
//! What is called inside [`vectorised`] must be inlined into it, hence `inline(always)`: code that is
//! not is compiled for the oldest processor of the architecture.

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

/// The sum of `term` over the values of `a`, in an order that depends on their number only.
#[inline(always)]
pub(crate) fn sum(a: &[f32], term: impl Fn(f32) -> f32) -> f32 {
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
    total(lanes)
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

/// Replaces each `b` by `f(a, b).0`, and returns the sums of the two other values of `f`.
#[inline(always)]
pub(crate) fn map_and_sum(a: &[f32], b: &mut [f32], f: impl Fn(f32, f32) -> (f32, f32, f32)) -> (f32, f32) {
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
    (total(first), total(second))
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
    fn sums_of_any_length() {
        for n in [0, 1, 15, 16, 17, 40] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let mut b = vec![2.0; n];
            let expected = a.iter().sum::<f32>();
            assert_eq!(sum(&a, |v| v), expected);
            let sums = map_and_sum(&a, &mut b, |a, b| (a + b, a, a * b));
            assert_eq!(sums, (expected, 2.0 * expected));
            assert!(a.iter().zip(&b).all(|(a, b)| *b == a + 2.0));
        }
    }
}
