//! Sums of many terms that lose few digits, and products in which 0 times infinity is 0.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Sum of many terms, added up in runs: consecutive equal terms are rounded the same way every time, so
/// the error grows with the longest run. Some drivers optimise compensated sums, such as Kahan's, away.
#[derive(CubeType)]
pub(crate) struct Sum<A: Float, N: Size> {
    runs: Vector<A, N>,
    run: Vector<A, N>,
}

#[cube]
impl<A: Float, N: Size> Sum<A, N> {
    pub(crate) fn of(term: Vector<A, N>) -> Sum<A, N> {
        Sum::<A, N> {
            runs: term,
            run: zeros(),
        }
    }

    pub(crate) fn add(&mut self, term: Vector<A, N>) {
        self.run += term;
    }

    pub(crate) fn end_run(&mut self) {
        self.runs += self.run;
        self.run = zeros();
    }

    /// Keeps the lanes that stay, and sets the others to `sum`.
    pub(crate) fn unless(&mut self, stays: Vector<bool, N>, sum: Vector<A, N>) {
        self.runs = select_many(stays, self.runs, sum);
        self.run = select_many(stays, self.run, zeros());
    }

    pub(crate) fn value(&self) -> Vector<A, N> {
        self.runs + self.run
    }
}

/// Product in which 0 times infinity is 0.
#[cube]
pub(crate) fn times<A: Float, N: Size>(share: Vector<A, N>, x: Vector<A, N>) -> Vector<A, N> {
    select_many(share.equal(&zeros()), zeros(), share * x)
}

#[cube]
pub(crate) fn zeros<A: Float, N: Size>() -> Vector<A, N> {
    Vector::new(A::new(0.0))
}

#[cube]
pub(crate) fn ones<A: Float, N: Size>() -> Vector<A, N> {
    Vector::new(A::new(1.0))
}
