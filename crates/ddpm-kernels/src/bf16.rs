//! bf16: f32 with 8 of its 24 bits of mantissa, two of which fit where one f32 lies.

use pulp::Simd;

/// The nearest bf16 in the upper half of the bits, of two equally near ones the even. NaN stays NaN.
#[inline(always)]
fn nearest(x: f32) -> u32 {
    let bits = x.to_bits();
    let even = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    (if x.is_nan() { bits | 0x0040_0000 } else { even }) & 0xffff_0000
}

/// Two numbers of bf16 in the place of one f32.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits((nearest(first) >> 16) | nearest(second))
}

/// How two numbers become a pair: as [`pair`].
pub(crate) trait Pairs<S: Simd>: Copy {
    fn pair(self, simd: S, first: S::f32s, second: S::f32s) -> S::f32s;

    /// Pairs of two lines, of which the second may end early: zeros follow it.
    #[inline(always)]
    fn write(self, simd: S, first: &[f32], second: &[f32], pairs: &mut [f32]) {
        let (both, single) = pairs.split_at_mut(second.len());
        let (first, first_rest) = first.split_at(second.len());
        let whole = both.len() / S::F32_LANES * S::F32_LANES;
        let (vectors, rest) = both.split_at_mut(whole);
        let vectors = S::as_mut_simd_f32s(vectors).0.iter_mut();
        let operands = S::as_simd_f32s(&first[..whole]).0.iter().zip(S::as_simd_f32s(&second[..whole]).0);
        for (vector, (&first, &second)) in vectors.zip(operands) {
            *vector = self.pair(simd, first, second);
        }
        for ((value, &first), &second) in rest.iter_mut().zip(&first[whole..]).zip(&second[whole..]) {
            *value = pair(first, second);
        }
        for (value, &first) in single.iter_mut().zip(first_rest) {
            *value = pair(first, 0.0);
        }
    }
}

/// How operands are multiplied and added up.
pub(crate) trait Dot<S: Simd>: Copy {
    /// `a b + sum`
    fn add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;
}

/// [`Dot`] for any vector instructions.
pub(crate) trait Portable: Copy {
    fn add<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s;
}

impl<S: Simd, P: Portable> Dot<S> for P {
    #[inline(always)]
    fn add(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        Portable::add(self, simd, a, b, sum)
    }
}

/// Numbers of f32.
#[derive(Clone, Copy)]
pub(crate) struct Full;

impl Portable for Full {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, sum)
    }
}

/// Pairs, taken apart: each product of two numbers of bf16 is exact in f32.
#[derive(Clone, Copy)]
pub(crate) struct PortablePairs;

impl Portable for PortablePairs {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s, sum: S::f32s) -> S::f32s {
        let upper = simd.splat_u32s(0xffff_0000);
        let second = |x: S::f32s| simd.transmute_f32s_u32s(simd.and_u32s(simd.transmute_u32s_f32s(x), upper));
        let by = simd.splat_u32s(16);
        let first = |x: S::f32s| simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(x), by));
        let sum = simd.mul_add_e_f32s(second(a), second(b), sum);
        simd.mul_add_e_f32s(first(a), first(b), sum)
    }
}

impl<S: Simd> Pairs<S> for PortablePairs {
    #[inline(always)]
    fn pair(self, simd: S, first: S::f32s, second: S::f32s) -> S::f32s {
        let [one, by, upper] = [1, 16, 0xffff_0000].map(|bits| simd.splat_u32s(bits));
        let nearest = |x: S::f32s| {
            let bits = simd.transmute_u32s_f32s(x);
            let odd = simd.and_u32s(simd.wrapping_dyn_shr_u32s(bits, by), one);
            let even = simd.add_u32s(bits, simd.add_u32s(odd, simd.splat_u32s(0x7fff)));
            let quiet = simd.or_u32s(bits, simd.splat_u32s(0x0040_0000));
            simd.and_u32s(simd.select_u32s(simd.equal_f32s(x, x), even, quiet), upper)
        };
        let first = simd.wrapping_dyn_shr_u32s(nearest(first), by);
        simd.transmute_f32s_u32s(simd.or_u32s(first, nearest(second)))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #![allow(unsafe_code, reason = "an instruction that pulp does not have, and code compiled for it")]

    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_permutexvar_epi16,
    };
    use std::mem::transmute;

    use pulp::f32x16;
    use pulp::x86::V4;

    use super::{Dot, Pairs};
    use crate::product::{Job, PairJob};

    /// A processor that multiplies pairs. Made by [`Self::detect`] only.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(V4);

    impl Avx512 {
        pub(crate) fn detect() -> Option<Self> {
            if is_x86_feature_detected!("avx512bf16") { V4::try_new().map(Self) } else { None }
        }

        pub(crate) fn run(self, job: impl Job) {
            // SAFETY: there is a `V4` only on processors with its instructions, and `detect` has asked for the rest.
            unsafe { compiled_for_it(self, job) }
        }

        pub(crate) fn make_pairs(self, job: impl PairJob) {
            // SAFETY: as above.
            unsafe { pairs_compiled_for_it(self, job) }
        }
    }

    impl Dot<V4> for Avx512 {
        #[inline(always)]
        fn add(self, _: V4, a: f32x16, b: f32x16, sum: f32x16) -> f32x16 {
            // SAFETY: `detect` has found the instruction. The types are the same 64 bytes, of which every pattern is
            // a value.
            unsafe {
                let (a, b) = (transmute::<f32x16, __m512bh>(a), transmute::<f32x16, __m512bh>(b));
                transmute::<__m512, f32x16>(_mm512_dpbf16_ps(transmute::<f32x16, __m512>(sum), a, b))
            }
        }
    }

    /// In which 16 bits of two rounded vectors, one after the other, those of their pairs lie.
    const PLACES: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 16 {
            (places[2 * i], places[2 * i + 1]) = (i as u16, 16 + i as u16);
            i += 1;
        }
        places
    };

    impl Pairs<V4> for Avx512 {
        #[inline(always)]
        fn pair(self, _: V4, first: f32x16, second: f32x16) -> f32x16 {
            // SAFETY: as above; the other instruction is of `V4`.
            unsafe {
                let (first, second) = (transmute::<f32x16, __m512>(first), transmute::<f32x16, __m512>(second));
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second, first));
                let places = transmute::<[u16; 32], __m512i>(PLACES);
                transmute::<__m512i, f32x16>(_mm512_permutexvar_epi16(places, both))
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    fn compiled_for_it(processor: Avx512, job: impl Job) {
        job.run(processor.0, processor);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    fn pairs_compiled_for_it(processor: Avx512, job: impl PairJob) {
        job.run(processor.0, processor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::{PairJob, make_pairs, make_pairs_portably};

    /// Both numbers of a pair as f32.
    fn parts(pair: f32) -> (f32, f32) {
        (f32::from_bits(pair.to_bits() << 16), f32::from_bits(pair.to_bits() & 0xffff_0000))
    }

    /// Writes pairs of what lies one after the other.
    struct Halves<'a>(&'a [f32], &'a mut [f32]);

    impl PairJob for Halves<'_> {
        fn run<S: Simd, P: Pairs<S>>(self, simd: S, pairs: P) {
            let (first, second) = self.0.split_at(self.1.len());
            pairs.write(simd, first, second, self.1);
        }
    }

    #[test]
    fn vectors_round_as_numbers_do() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1.0 + 1.0 / 256.0];
        let number = |i: u32| f32::from_bits(i.wrapping_mul(2_654_435_761) & 0xbfff_ffff | 0x0100_0000);
        let values: Vec<f32> = special.into_iter().chain((0..200).map(number)).collect();
        let half = values.len() / 2 + 3;
        let expected: Vec<f32> =
            (0..half).map(|i| pair(values[i], values.get(half + i).copied().unwrap_or(0.0))).collect();
        for portable in [false, true] {
            let mut found = vec![1.0; half];
            let job = Halves(&values, &mut found);
            match portable {
                false => make_pairs(job),
                true => make_pairs_portably(job),
            }
            for (found, expected) in found.iter().zip(&expected) {
                let both = |pair: f32| [parts(pair).0, parts(pair).1];
                for (found, expected) in both(*found).into_iter().zip(both(*expected)) {
                    assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan());
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_to_even() {
        // Steps of 1/128 between 1 and 2.
        let cases = [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 1.1 / 256.0, 1.0 + 1.0 / 128.0),
            (1.0 + 3.0 / 256.0, 1.0 + 2.0 / 128.0),
            (-257.0, -256.0),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (-0.0, 0.0),
        ];
        for (x, expected) in cases {
            assert_eq!(parts(pair(x, 3.0)), (expected, 3.0));
            assert_eq!(parts(pair(-5.0, x)), (-5.0, expected));
        }
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0x7f80_0001)] {
            let (first, second) = parts(pair(nan, nan));
            assert!(first.is_nan() && second.is_nan());
        }
    }
}
