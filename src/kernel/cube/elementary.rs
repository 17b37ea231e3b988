//! Elementary functions that are accurate on every device. Those of the shader languages lose digits
//! where the result is small.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// `ln(1 + s)` for `s >= 0`.
#[cube]
pub(crate) fn ln_1p<A: Float>(s: A) -> A {
    let s = Vector::<A, Const<1>>::new(s);
    let one = Vector::new(A::new(1.0));
    select_many(s.less_than(&one), ln_above(s), (s + one).ln()).extract(0usize)
}

/// `ln(s)`.
#[cube]
pub(crate) fn ln<A: Float, N: Size>(s: Vector<A, N>) -> Vector<A, N> {
    let one = Vector::<A, N>::new(A::new(1.0));
    let is_below = s.less_than(&Vector::new(A::new(2.0)));
    let is_near_one = s.greater_than(&Vector::new(A::new(0.5))).vec_and(is_below);
    // Between these bounds the difference `s - 1` is exact.
    select_many(is_near_one, ln_above(s - one), s.ln())
}

/// `ln(1 + s)` for `s` from -1/2 to 1, by the series of `2 atanh(z)` with `z = s / (2 + s)`: up to the 33rd
/// power of a third, beneath the last place of f64.
#[cube]
fn ln_above<A: Float, N: Size>(s: Vector<A, N>) -> Vector<A, N> {
    let z = s / (s + Vector::new(A::new(2.0)));
    let square = z * z;
    let mut series = Vector::<A, N>::new(A::new(2.0) / A::new(33.0));
    #[unroll]
    for step in 0..16u32 {
        let odd = comptime!((31 - 2 * step) as f32);
        series = series * square + Vector::new(A::new(2.0) / A::new(odd));
    }
    series * z
}

/// `tanh(v)`: for small `v` by the seventh convergent of Lambert's continued fraction, accurate to 3e-15
/// there, else from `exp(-2 |v|)`, which cannot overflow. Both share one division.
#[cube]
pub(crate) fn tanh<A: Float, N: Size>(v: Vector<A, N>) -> Vector<A, N> {
    let one = Vector::<A, N>::new(A::new(1.0));
    let zero = Vector::<A, N>::new(A::new(0.0));
    let q = v * v;
    let above = Vector::new(A::new(135135.0))
        + q * (Vector::new(A::new(17325.0)) + q * (Vector::new(A::new(378.0)) + q));
    let below = Vector::new(A::new(135135.0))
        + q * (Vector::new(A::new(62370.0))
            + q * (Vector::new(A::new(3150.0)) + q * Vector::new(A::new(28.0))));
    let t = exp_of_minus_twice(v);
    let sign = select_many(v.less_than(&zero), zero - one, one);
    let is_small = q.less_than(&Vector::new(A::new(0.25)));
    select_many(is_small, v * above, sign * (one - t)) / select_many(is_small, below, one + t)
}

/// `1 - tanh(v)^2` as `4 t / (1 + t)^2` with `t = exp(-2 |v|)`, where nothing cancels.
#[cube]
pub(crate) fn tanh_slope<A: Float, N: Size>(v: Vector<A, N>) -> Vector<A, N> {
    let t = exp_of_minus_twice(v);
    let sum = t + Vector::new(A::new(1.0));
    Vector::new(A::new(4.0)) * t / (sum * sum)
}

#[cube]
fn exp_of_minus_twice<A: Float, N: Size>(v: Vector<A, N>) -> Vector<A, N> {
    let zero = Vector::<A, N>::new(A::new(0.0));
    let size = select_many(v.less_than(&zero), zero - v, v);
    (size * Vector::new(A::new(-2.0))).exp()
}
