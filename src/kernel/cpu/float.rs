//! Numbers of the arithmetic, f32 and f64, with the elementary functions that the loss needs. These have
//! no branches, so that they vectorise.
//!
//! `exp`, `ln` and `ln_1p` are within 2 units in the last place over the range that the loss uses
//! (tested below, f32 densely against f64). The reductions of the argument are those of Cephes
//! (`exp`) and of Sun's fdlibm (`ln`, the correction term of `ln_1p`); the coefficients of f32's
//! `exp` are Cephes's `expf`, all others are those of the Taylor series, which at these lengths end
//! beneath the precision.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

pub(crate) trait Float:
    Copy
    + PartialOrd
    + Default
    + Send
    + Sync
    + std::fmt::Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + 'static
{
    const ZERO: Self;
    const ONE: Self;
    const TWO: Self;
    const INFINITY: Self;
    const NAN: Self;
    /// Distance of 1 to the next larger number.
    const EPSILON: Self;

    /// Smallest argument of `exp` with a normal result; below it `exp` is 0.
    const EXP_FLOOR: Self;
    const LOG2_E: Self;
    /// `ln 2` in two parts, the first of so few digits that its product with an exponent is exact.
    const LN_2: [Self; 2];
    /// Addend that rounds a number to an integer `n`. The low bits of the sum are `n` plus the bias of the
    /// exponents: shifted up, they are `2^n`.
    const ROUNDING: Self;
    /// Coefficients of `(exp(r) - 1 - r) / r^2`, the highest power first.
    const EXP: &[Self];
    /// Coefficients of `(2 atanh(s) / s - 2) / s^2`, the highest power of `s^2` first.
    const ATANH: &[Self];
    /// The smallest normal number.
    const SMALLEST: Self;
    /// A power of two that makes every subnormal number normal, and its exponent.
    const LIFT: [Self; 2];

    fn of(value: f64) -> Self;
    fn to_f64(self) -> f64;

    /// Converts numbers, or copies them where the dtypes are equal.
    fn from_f32s(stored: &[f32], numbers: &mut [Self]);
    fn to_f32s(numbers: &[Self], stored: &mut [f32]);
    fn from_f64s(stored: &[f64], numbers: &mut [Self]);
    fn to_f64s(numbers: &[Self], stored: &mut [f64]);

    /// The numbers, if they are f32.
    fn as_f32s(numbers: &[Self]) -> Option<&[f32]>;
    fn as_f32s_mut(numbers: &mut [Self]) -> Option<&mut [f32]>;

    fn abs(self) -> Self;

    /// `self * factor + term`, in one rounding where the processor can.
    fn mul_add<const FMA: bool>(self, factor: Self, term: Self) -> Self;

    /// `2^n` from `n + ROUNDING`, for `n` that make a normal number.
    fn power_of_two(rounded: Self) -> Self;

    /// Splits a normal number into `(m, k)` with `m * 2^k` and `m` in `[sqrt(1/2), sqrt(2))`.
    fn mantissa_and_exponent(self) -> (Self, Self);

    /// `exp(self) = (1 + q) s` from `EXP_FLOOR` to 0: `(q, s)`.
    #[inline(always)]
    fn exp_parts<const FMA: bool>(self) -> (Self, Self) {
        let rounded = self.mul_add::<FMA>(Self::LOG2_E, Self::ROUNDING);
        let n = rounded - Self::ROUNDING;
        let r = n.mul_add::<FMA>(-Self::LN_2[0], self);
        let r = n.mul_add::<FMA>(-Self::LN_2[1], r);
        let mut series = Self::EXP[0];
        for &coefficient in &Self::EXP[1..] {
            series = series.mul_add::<FMA>(r, coefficient);
        }
        let q = series.mul_add::<FMA>(r * r, r);
        (q, Self::power_of_two(rounded))
    }

    /// `exp(self)` for `self <= 0`; exactly 1 at 0; NaN at NaN; 0 where the result is subnormal.
    #[inline(always)]
    fn exp<const FMA: bool>(self) -> Self {
        let (q, power) = self.exp_parts::<FMA>();
        let exp = q.mul_add::<FMA>(power, power);
        // The comparison is false for NaN.
        if self < Self::EXP_FLOOR {
            Self::ZERO
        } else {
            exp
        }
    }

    /// `exp(self) - 1` for `self <= 0`.
    #[inline(always)]
    fn exp_m1<const FMA: bool>(self) -> Self {
        let (q, power) = self.exp_parts::<FMA>();
        let exp_m1 = q.mul_add::<FMA>(power, power - Self::ONE);
        if self < Self::EXP_FLOOR {
            -Self::ONE
        } else {
            exp_m1
        }
    }

    #[inline(always)]
    fn ln<const FMA: bool>(self) -> Self {
        let subnormal = self < Self::SMALLEST;
        let x = if subnormal {
            self * Self::LIFT[0]
        } else {
            self
        };
        let (m, k) = x.mantissa_and_exponent();
        let k = if subnormal { k - Self::LIFT[1] } else { k };
        let f = m - Self::ONE;
        let s = f / (m + Self::ONE);
        let square = s * s;
        let mut series = Self::ATANH[0];
        for &coefficient in &Self::ATANH[1..] {
            series = series.mul_add::<FMA>(square, coefficient);
        }
        // ln(1 + f) = f - (f^2 / 2 - s (f^2 / 2 + R)): the large term is added last.
        let half = f * f / Self::TWO;
        let small = s.mul_add::<FMA>(series.mul_add::<FMA>(square, half), k * Self::LN_2[1]);
        let ln = (small - half + f) + k * Self::LN_2[0];
        let ln = if self == Self::ZERO {
            -Self::INFINITY
        } else {
            ln
        };
        let ln = if self == Self::INFINITY { self } else { ln };
        // The comparison is false for NaN too.
        if self >= Self::ZERO { ln } else { Self::NAN }
    }

    /// `ln(1 + self)` for `self >= 0`.
    #[inline(always)]
    fn ln_1p<const FMA: bool>(self) -> Self {
        let sum = self + Self::ONE;
        let lost = self - (sum - Self::ONE);
        sum.ln::<FMA>() + lost / sum
    }

    #[inline(always)]
    fn tanh<const FMA: bool>(self) -> Self {
        let m = (-(self.abs() * Self::TWO)).exp_m1::<FMA>();
        let tanh = -m / (m + Self::TWO);
        if self < Self::ZERO { -tanh } else { tanh }
    }

    /// `1 - tanh(self)^2` as `4 t / (1 + t)^2` with `t = exp(-2 |self|)`, where nothing cancels.
    #[inline(always)]
    fn tanh_slope<const FMA: bool>(self) -> Self {
        let t = (-(self.abs() * Self::TWO)).exp::<FMA>();
        let sum = t + Self::ONE;
        t * Self::of(4.0) / (sum * sum)
    }

    #[inline(always)]
    fn is_finite(self) -> bool {
        self.abs() < Self::INFINITY
    }
}

/// Implements `Float` from the properties of the binary format.
macro_rules! float {
    ($float:ident, $signed:ident, $unsigned:ident, bits: $bits:literal, $($constants:tt)*) => {
        impl Float for $float {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const TWO: Self = 2.0;
            const INFINITY: Self = $float::INFINITY;
            const NAN: Self = $float::NAN;
            const EPSILON: Self = $float::EPSILON;
            const LOG2_E: Self = std::$float::consts::LOG2_E;
            const SMALLEST: Self = $float::MIN_POSITIVE;
            $($constants)*

            #[inline(always)]
            fn of(value: f64) -> Self {
                value as $float
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn abs(self) -> Self {
                $float::abs(self)
            }

            #[inline(always)]
            fn mul_add<const FMA: bool>(self, factor: Self, term: Self) -> Self {
                if FMA {
                    $float::mul_add(self, factor, term)
                } else {
                    self * factor + term
                }
            }

            #[inline(always)]
            fn power_of_two(rounded: Self) -> Self {
                $float::from_bits(rounded.to_bits() << $bits)
            }

            #[inline(always)]
            fn mantissa_and_exponent(self) -> (Self, Self) {
                const ONE: $unsigned = (1.0 as $float).to_bits();
                const LOWEST: $unsigned = std::$float::consts::FRAC_1_SQRT_2.to_bits();
                const MANTISSA: $unsigned = (1 << $bits) - 1;
                const BIAS: $signed = $float::MAX_EXP as $signed - 1;
                let bits = self.to_bits().wrapping_add(ONE - LOWEST);
                let exponent = (bits >> $bits) as $signed - BIAS;
                (
                    $float::from_bits((bits & MANTISSA).wrapping_add(LOWEST)),
                    exponent as $float,
                )
            }
        }
    };
}

/// The methods that convert between slices of two types, and those that copy.
macro_rules! conversions {
    (copy: $from:ident, $to:ident; convert: $from_other:ident, $to_other:ident, $other:ident) => {
        #[inline(always)]
        fn $from(stored: &[Self], numbers: &mut [Self]) {
            numbers.copy_from_slice(stored);
        }

        #[inline(always)]
        fn $to(numbers: &[Self], stored: &mut [Self]) {
            stored.copy_from_slice(numbers);
        }

        #[inline(always)]
        fn $from_other(stored: &[$other], numbers: &mut [Self]) {
            for (number, &stored) in numbers.iter_mut().zip(stored) {
                *number = stored as Self;
            }
        }

        #[inline(always)]
        fn $to_other(numbers: &[Self], stored: &mut [$other]) {
            for (stored, &number) in stored.iter_mut().zip(numbers) {
                *stored = number as $other;
            }
        }
    };
}

float!(f32, i32, u32, bits: 23,
    conversions!(copy: from_f32s, to_f32s; convert: from_f64s, to_f64s, f64);

    fn as_f32s(numbers: &[Self]) -> Option<&[f32]> {
        Some(numbers)
    }

    fn as_f32s_mut(numbers: &mut [Self]) -> Option<&mut [f32]> {
        Some(numbers)
    }

    const EXP_FLOOR: Self = -87.3;
    const LN_2: [Self; 2] = [0.693_359_4, -2.121_944_4e-4];
    const ROUNDING: Self = 12_582_912.0 + 127.0;
    const EXP: &[Self] = &[
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5e-1,
    ];
    const ATANH: &[Self] = &[2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0];
    const LIFT: [Self; 2] = [33_554_432.0, 25.0];
);

float!(f64, i64, u64, bits: 52,
    conversions!(copy: from_f64s, to_f64s; convert: from_f32s, to_f32s, f32);

    fn as_f32s(_numbers: &[Self]) -> Option<&[f32]> {
        None
    }

    fn as_f32s_mut(_numbers: &mut [Self]) -> Option<&mut [f32]> {
        None
    }

    const EXP_FLOOR: Self = -708.3;
    const LN_2: [Self; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const ROUNDING: Self = 6_755_399_441_055_744.0 + 1023.0;
    const EXP: &[Self] = &[
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        1.0 / 2.0,
    ];
    const ATANH: &[Self] = &[
        2.0 / 21.0,
        2.0 / 19.0,
        2.0 / 17.0,
        2.0 / 15.0,
        2.0 / 13.0,
        2.0 / 11.0,
        2.0 / 9.0,
        2.0 / 7.0,
        2.0 / 5.0,
        2.0 / 3.0,
    ];
    const LIFT: [Self; 2] = [18_014_398_509_481_984.0, 54.0];
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::cpu::instructions::{Instructions, Task};

    /// Function of one number that is applied to many.
    trait Function<A> {
        fn value<const FMA: bool>(x: A) -> A;
    }

    struct Over<'a, A, F>(&'a mut [A], std::marker::PhantomData<F>);

    impl<A: Float, F: Function<A>> Task for Over<'_, A, F> {
        type Output = ();

        #[inline(always)]
        fn run<const FMA: bool>(self) {
            for x in self.0 {
                *x = F::value::<FMA>(*x);
            }
        }
    }

    macro_rules! function {
        ($name:ident, $method:ident) => {
            struct $name;
            impl<A: Float> Function<A> for $name {
                #[inline(always)]
                fn value<const FMA: bool>(x: A) -> A {
                    x.$method::<FMA>()
                }
            }
        };
    }
    function!(Exp, exp);
    function!(Ln, ln);
    function!(Ln1p, ln_1p);
    function!(Tanh, tanh);
    function!(TanhSlope, tanh_slope);

    fn values<A: Float, F: Function<A>>(instructions: Instructions, xs: &[A]) -> Vec<A> {
        let mut values = xs.to_vec();
        instructions.run(Over::<A, F>(&mut values, std::marker::PhantomData));
        values
    }

    /// Error of an f32 in units of the last place of the true value.
    fn units(found: f32, truth: f64) -> f64 {
        let exponent = truth.abs().log2().floor().max(-126.0);
        (f64::from(found) - truth).abs() / (exponent - 23.0).exp2()
    }

    /// Checks the largest error of an f32 function in units of the last place of the true value.
    #[track_caller]
    fn assert_f32<F: Function<f32>>(xs: &[f32], truth: fn(f64) -> f64, allowed: f64) {
        for instructions in Instructions::available() {
            for (&x, found) in xs.iter().zip(values::<f32, F>(instructions, xs)) {
                let truth = truth(f64::from(x));
                let error = units(found, truth);
                assert!(
                    error <= allowed,
                    "{instructions:?} at {x:e}: {found:e} instead of {truth:e}, {error} units"
                );
            }
        }
    }

    /// Compares a function of f64 with the standard library's, which is accurate to one last unit.
    #[track_caller]
    fn assert_f64<F: Function<f64>>(xs: &[f64], truth: fn(f64) -> f64, allowed: f64) {
        for instructions in Instructions::available() {
            for (&x, found) in xs.iter().zip(values::<f64, F>(instructions, xs)) {
                let truth = truth(x);
                let unit = (truth.abs().log2().floor().max(-1022.0) - 52.0).exp2();
                // Two steps, as the unit itself may be below the smallest number.
                let error = if unit > 0.0 {
                    (found - truth).abs() / unit
                } else {
                    (found - truth).abs() / f64::from_bits(1)
                };
                assert!(
                    error <= allowed,
                    "{instructions:?} at {x:e}: {found:e} instead of {truth:e}, {error} units"
                );
            }
        }
    }

    /// Every `stride`-th of the positive f32 from `from` to `to`.
    fn dense(from: f32, to: f32, stride: usize) -> Vec<f32> {
        (from.to_bits()..=to.to_bits())
            .step_by(stride)
            .map(f32::from_bits)
            .collect()
    }

    fn dense_f64(from: f64, to: f64, count: u64) -> Vec<f64> {
        let (from, to) = (from.to_bits(), to.to_bits());
        let stride = ((to - from) / count).max(1) as usize;
        (from..=to).step_by(stride).map(f64::from_bits).collect()
    }

    /// Largest error of an f32 function over all inputs whose bits are in a range, and where it is.
    fn worst<F: Function<f32>>(
        bits: std::ops::RangeInclusive<u32>,
        truth: fn(f64) -> f64,
    ) -> (f64, f32) {
        const AT_ONCE: usize = 1 << 16;
        let (from, to) = (*bits.start(), *bits.end());
        let next = std::sync::atomic::AtomicU64::new(from.into());
        let work = || {
            let mut worst = (0.0, 0.0);
            loop {
                let first = next.fetch_add(AT_ONCE as u64, std::sync::atomic::Ordering::Relaxed);
                if first > to.into() {
                    return worst;
                }
                let last = to.min((first + AT_ONCE as u64 - 1) as u32);
                let xs: Vec<f32> = (first as u32..=last).map(f32::from_bits).collect();
                let truths: Vec<f64> = xs.iter().map(|x| truth(f64::from(*x))).collect();
                for instructions in Instructions::available() {
                    let found = values::<f32, F>(instructions, &xs);
                    for ((x, found), truth) in xs.iter().zip(found).zip(&truths) {
                        let error = units(found, *truth);
                        if error > worst.0 {
                            worst = (error, *x);
                        }
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let ended = workers
                .into_iter()
                .map(|worker| worker.join().expect("it counts"));
            ended.fold(
                (0.0, 0.0),
                |worst, one| if one.0 > worst.0 { one } else { worst },
            )
        })
    }

    #[test]
    #[ignore = "takes minutes, and is for an optimised build: every f32"]
    fn every_input_of_f32_is_within_its_bound() {
        let bits = |from: f32, to: f32| from.to_bits()..=to.to_bits();
        let positive = || bits(f32::from_bits(1), f32::MAX);
        let results = [
            (
                "exp, -87.3 to 0",
                1.1,
                worst::<Exp>(bits(-0.0, -87.3), f64::exp),
            ),
            ("ln", 2.0, worst::<Ln>(positive(), f64::ln)),
            ("ln_1p", 2.0, worst::<Ln1p>(positive(), f64::ln_1p)),
            ("tanh", 4.0, worst::<Tanh>(positive(), f64::tanh)),
            (
                "-tanh",
                4.0,
                worst::<Tanh>(bits(-f32::from_bits(1), f32::MIN), f64::tanh),
            ),
        ];
        for (name, allowed, (error, x)) in results {
            println!("{name}: {error:.3} units, at {x:e}");
            assert!(error <= allowed, "{name}: {error} units at {x:e}");
        }
    }

    #[test]
    fn exp_is_within_one_unit_where_it_is_a_normal_number() {
        let xs: Vec<f32> = dense(1e-9, 87.3, 307).iter().map(|x| -x).collect();
        assert_f32::<Exp>(&xs, f64::exp, 1.1);
        let xs: Vec<f64> = dense_f64(1e-18, 708.3, 500_000)
            .iter()
            .map(|x| -x)
            .collect();
        assert_f64::<Exp>(&xs, f64::exp, 2.0);
    }

    #[test]
    fn exp_is_exact_at_its_ends() {
        for instructions in Instructions::available() {
            let xs = [0.0f32, -0.0, f32::NEG_INFINITY, -1e30, -88.0];
            let found = values::<f32, Exp>(instructions, &xs);
            assert_eq!(found, [1.0, 1.0, 0.0, 0.0, 0.0]);
            assert!(values::<f32, Exp>(instructions, &[f32::NAN])[0].is_nan());
            let xs = [0.0f64, -0.0, f64::NEG_INFINITY, -1e300, -709.0];
            let found = values::<f64, Exp>(instructions, &xs);
            assert_eq!(found, [1.0, 1.0, 0.0, 0.0, 0.0]);
            assert!(values::<f64, Exp>(instructions, &[f64::NAN])[0].is_nan());
        }
    }

    #[test]
    fn ln_is_within_two_units_over_all_positive_numbers() {
        assert_f32::<Ln>(&dense(f32::from_bits(1), f32::MAX, 997), f64::ln, 2.0);
        // Around 1 the result is small.
        assert_f32::<Ln>(&dense(0.9, 1.1, 3), f64::ln, 2.0);
        let xs = dense_f64(f64::from_bits(1), f64::MAX, 500_000);
        assert_f64::<Ln>(&xs, f64::ln, 2.0);
        assert_f64::<Ln>(&dense_f64(0.9, 1.1, 500_000), f64::ln, 2.0);
    }

    #[test]
    fn ln_is_right_at_its_ends() {
        for instructions in Instructions::available() {
            let xs = [0.0f32, -0.0, f32::INFINITY, 1.0, -1.0, f32::NAN];
            let found = values::<f32, Ln>(instructions, &xs);
            assert_eq!(found[..2], [f32::NEG_INFINITY; 2]);
            assert_eq!(found[2..4], [f32::INFINITY, 0.0]);
            assert!(found[4].is_nan() && found[5].is_nan());
            let xs = [0.0f64, -0.0, f64::INFINITY, 1.0, -1.0, f64::NAN];
            let found = values::<f64, Ln>(instructions, &xs);
            assert_eq!(found[..2], [f64::NEG_INFINITY; 2]);
            assert_eq!(found[2..4], [f64::INFINITY, 0.0]);
            assert!(found[4].is_nan() && found[5].is_nan());
        }
    }

    #[test]
    fn ln_1p_is_within_two_units_up_to_the_largest_sums() {
        assert_f32::<Ln1p>(&dense(f32::from_bits(1), 1e9, 601), f64::ln_1p, 2.0);
        let xs = dense_f64(1e-300, 1e12, 500_000);
        assert_f64::<Ln1p>(&xs, f64::ln_1p, 2.0);
    }

    #[test]
    fn tanh_and_its_slope_are_within_four_units() {
        let xs = dense(1e-30, 40.0, 307);
        let negative: Vec<f32> = xs.iter().map(|x| -x).collect();
        assert_f32::<Tanh>(&xs, f64::tanh, 4.0);
        assert_f32::<Tanh>(&negative, f64::tanh, 4.0);
        let slope = |x: f64| 1.0 / (x.cosh() * x.cosh());
        assert_f32::<TanhSlope>(&xs, slope, 4.0);
        for instructions in Instructions::available() {
            let xs = [f32::NEG_INFINITY, f32::INFINITY, 60.0, -60.0];
            assert_eq!(
                values::<f32, Tanh>(instructions, &xs),
                [-1.0, 1.0, 1.0, -1.0]
            );
            assert_eq!(values::<f32, TanhSlope>(instructions, &xs), [0.0; 4]);
        }
        assert_f64::<Tanh>(&dense_f64(1e-100, 300.0, 200_000), f64::tanh, 4.0);
    }
}
