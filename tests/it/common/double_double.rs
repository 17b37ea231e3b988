//! Numbers of about 106 bits: the sum of two f64, of which the second is at most half a unit in the last
//! place of the first. [`exact`](super::exact) computes with them straight from the definition, because what
//! cancels there still leaves more digits than f64 has.
//!
//! The range is that of f64. Below 1e-290 the second number is subnormal, and digits are lost.

use std::ops::{Add, Div, Mul, Neg, Sub};

#[derive(Clone, Copy, Debug)]
pub struct Dd {
    high: f64,
    low: f64,
}

impl Dd {
    pub const ZERO: Self = Self::of(0.0);
    pub const ONE: Self = Self::of(1.0);
    /// `ln 2`.
    pub const LN_2: Self = Self::new(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);

    /// The number of two parts that do not overlap.
    pub const fn new(high: f64, low: f64) -> Self {
        Self { high, low }
    }

    pub const fn of(value: f64) -> Self {
        Self::new(value, 0.0)
    }

    pub fn to_f64(self) -> f64 {
        self.high + self.low
    }

    pub fn abs(self) -> Self {
        if self.high < 0.0 { -self } else { self }
    }

    /// The number whose parts are the sum of any two f64, without error.
    fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        if !high.is_finite() {
            return Self::of(high);
        }
        let of_b = high - a;
        Self {
            high,
            low: (a - (high - of_b)) + (b - of_b),
        }
    }

    /// The product of two f64, without error.
    fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        if !high.is_finite() {
            return Self::of(high);
        }
        Self {
            high,
            low: a.mul_add(b, -high),
        }
    }

    /// The number times a power of 2. A power beyond the range of f64 is taken in steps.
    fn times_power_of_2(self, mut exponent: i32) -> Self {
        let mut scaled = self;
        while exponent != 0 {
            let step = exponent.clamp(-1000, 1000);
            let factor = 2f64.powi(step);
            scaled = Self {
                high: scaled.high * factor,
                low: scaled.low * factor,
            };
            exponent -= step;
        }
        scaled
    }

    /// `2^k exp(r)` with `|r| <= ln(2) / 2`, and `exp(r)` by its power series.
    pub fn exp(self) -> Self {
        /// Terms of the series: `0.35^27 / 27!` is 5e-41.
        const TERMS: u32 = 27;
        if self.high < -760.0 {
            return Self::ZERO;
        }
        if self.high > 709.0 {
            return Self::of(f64::INFINITY);
        }
        let power = (self.high / std::f64::consts::LN_2).round();
        let rest = self - Self::LN_2 * Self::of(power);
        let series = (1..=TERMS).rev().fold(Self::ONE, |series, term| {
            Self::ONE + rest * series / Self::of(f64::from(term))
        });
        series.times_power_of_2(power as i32)
    }

    /// The logarithm: that of f64, and one step of Newton's, which doubles its digits. A power of 2 is taken
    /// out of very small and large numbers, of which `exp` would leave the range.
    pub fn ln(self) -> Self {
        if !(self.high > 0.0 && self.high.is_finite()) {
            return Self::of(self.high.ln());
        }
        let first = self.high.ln();
        if first.abs() > 600.0 {
            let power = (self.high.log2() * 0.5).round() as i32;
            let rest = self.times_power_of_2(-power);
            return rest.ln() + Self::LN_2 * Self::of(f64::from(power));
        }
        let first = Self::of(first);
        first + (self * (-first).exp() - Self::ONE)
    }

    /// `tanh`, by its power series near 0, where the difference of the exponentials would lose its digits.
    pub fn tanh(self) -> Self {
        if self.high.abs() < 1e-5 {
            let square = self * self;
            let series = [-17.0 / 315.0, 2.0 / 15.0]
                .map(Self::of)
                .into_iter()
                .fold(Self::ZERO, |series, factor| series * square + factor);
            let third = Self::ONE / Self::of(3.0);
            return self - self * square * (third - square * series);
        }
        let falling = (self.abs() * Self::of(-2.0)).exp();
        let size = (Self::ONE - falling) / (Self::ONE + falling);
        if self.high < 0.0 { -size } else { size }
    }

    /// The derivative of `tanh`: `4 / (exp(v) + exp(-v))^2`.
    pub fn tanh_slope(self) -> Self {
        if self.high.abs() > 350.0 {
            return Self::ZERO;
        }
        let sum = self.exp() + (-self).exp();
        Self::of(4.0) / (sum * sum)
    }
}

impl Neg for Dd {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            high: -self.high,
            low: -self.low,
        }
    }
}

impl Add for Dd {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let high = Self::sum(self.high, other.high);
        let low = Self::sum(self.low, other.low);
        let sum = Self::sum(high.high, high.low + low.high);
        Self::sum(sum.high, sum.low + low.low)
    }
}

impl Sub for Dd {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for Dd {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let product = Self::product(self.high, other.high);
        if !product.high.is_finite() {
            return product;
        }
        let cross = self.high * other.low + self.low * other.high;
        Self::sum(product.high, product.low + cross)
    }
}

impl Div for Dd {
    type Output = Self;

    /// Long division with three digits, each an f64.
    fn div(self, other: Self) -> Self {
        let first = self.high / other.high;
        if first == 0.0 || !first.is_finite() {
            return Self::of(first);
        }
        let rest = self - other * Self::of(first);
        let second = rest.high / other.high;
        let rest = rest - other * Self::of(second);
        let third = rest.high / other.high;
        Self::sum(first, second) + Self::of(third)
    }
}

impl std::iter::Sum for Dd {
    fn sum<I: Iterator<Item = Self>>(numbers: I) -> Self {
        numbers.fold(Self::ZERO, Add::add)
    }
}
