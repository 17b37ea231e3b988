//! Loss and gradients of probabilities `s`: `sum_c a[c] (-ln s[c])`, `-a[c] / s[c]`.

use super::blocks::{Block, Blocks, LANES, RUN, Read, Total, Visitor, Write, at, of_lane};
use super::float::Float;
use super::row_loss::RowLoss;
use super::rows::{Losses, Rows};
use super::shares::{Shares, share_slope};

/// `W` rows of probabilities, see [`blocks`](super::blocks).
#[derive(Clone, Copy)]
pub(crate) struct Probabilities<'a, A, const W: usize> {
    pub(crate) rows: &'a Rows<A, W>,
    /// Absent where only the target's class has a share.
    pub(crate) shares: Option<Shares<'a, A>>,
}

impl<A: Float, const W: usize> RowLoss<A, W> for Probabilities<'_, A, W> {
    fn with_distribution_alone(self) -> Option<Self> {
        let shares = Some(self.shares?.apart_from_distribution()?);
        Some(Self { shares, ..self })
    }

    #[inline(always)]
    fn losses<const FMA: bool>(self, s: &[A]) -> Losses<A, W> {
        let mut main = match self.shares {
            None => [A::ZERO; W],
            Some(shares) => spread_losses::<A, W, FMA>(&shares, s),
        };
        let mut log_prob = [A::ZERO; W];
        for row in 0..W {
            let share = self.rows.share[row];
            let s = s[at::<W>(self.rows.class[row], row)];
            log_prob[row] = s.ln::<FMA>();
            if share != A::ZERO {
                main[row] += share * -log_prob[row];
            }
        }
        Losses {
            main,
            penalty: [A::ZERO; W],
            lse: [A::ZERO; W],
            log_prob,
            max_log_prob: [A::ZERO; W],
        }
    }

    #[inline(always)]
    fn gradient_over<const FMA: bool>(self, s: &mut [A]) -> Losses<A, W> {
        let losses = self.losses::<FMA>(s);
        let mut at_target = [A::ZERO; W];
        for row in 0..W {
            let share = self.rows.share[row];
            if share != A::ZERO {
                let s = s[at::<W>(self.rows.class[row], row)];
                at_target[row] = quotient(share, s, self.rows.scale[row]);
            }
        }
        match self.shares {
            None => s.fill(A::ZERO),
            Some(shares) => {
                let rows = self.rows;
                let mut blocks = Write::new(s, A::ONE);
                blocks.visit(0..blocks.steps(), &mut Quotients { rows, shares });
            }
        }
        for row in 0..W {
            let at = at::<W>(self.rows.class[row], row);
            s[at] = s[at] - at_target[row];
        }
        losses
    }

    /// `-(1 - e) weight[c] ln s[c]`, 0 where the factor of the logarithm is 0.
    #[inline(always)]
    fn targets_gradient<const FMA: bool>(self, s: &[A], gradient: &mut [A]) {
        let shares = self.shares.expect("distributions have shares");
        gradient.copy_from_slice(s);
        let mut gradient = Write::new(gradient, A::ONE);
        let rows = self.rows;
        let mut visitor = Slopes::<A, W, FMA> { rows, shares };
        gradient.visit(0..gradient.steps(), &mut visitor);
    }

    /// `sum_c s[c] (-ln s[c])`; a class of probability 0 adds 0.
    #[inline(always)]
    fn entropy<const FMA: bool>(self, s: &[A]) -> [A; W] {
        let mut s = Read::new(s, A::ONE);
        let mut entropy = Total::new();
        for first in (0..s.steps()).step_by(RUN) {
            let mut visitor = OwnSurprisals::<A, FMA> {
                run: [A::ZERO; LANES],
            };
            s.visit(first..s.steps().min(first + RUN), &mut visitor);
            entropy.add(&visitor.run);
        }
        entropy.finish::<W>()
    }
}

#[inline(always)]
fn spread_losses<A: Float, const W: usize, const FMA: bool>(
    shares: &Shares<'_, A>,
    s: &[A],
) -> [A; W] {
    let mut s = Read::new(s, A::ONE);
    let mut losses = Total::new();
    for first in (0..s.steps()).step_by(RUN) {
        let mut visitor = Surprisals::<A, W, FMA> {
            shares: *shares,
            run: [A::ZERO; LANES],
        };
        s.visit(first..s.steps().min(first + RUN), &mut visitor);
        losses.add(&visitor.run);
    }
    losses.finish::<W>()
}

/// Adds up `-s ln s`; a class of probability 0 adds 0.
struct OwnSurprisals<A, const FMA: bool> {
    run: Block<A>,
}

impl<A: Float, const FMA: bool> Visitor<A> for OwnSurprisals<A, FMA> {
    #[inline(always)]
    fn visit(&mut self, _step: usize, s: &Block<A>) -> Block<A> {
        for lane in 0..LANES {
            let term = s[lane] * -s[lane].ln::<FMA>();
            self.run[lane] += if s[lane] == A::ZERO { A::ZERO } else { term };
        }
        *s
    }
}

/// Adds up `-a ln s`.
struct Surprisals<'a, A, const W: usize, const FMA: bool> {
    shares: Shares<'a, A>,
    run: Block<A>,
}

impl<A: Float, const W: usize, const FMA: bool> Visitor<A> for Surprisals<'_, A, W, FMA> {
    #[inline(always)]
    fn visit(&mut self, step: usize, s: &Block<A>) -> Block<A> {
        let shares = self.shares.block::<W>(step);
        for lane in 0..LANES {
            let share = shares[lane];
            let loss = share * -s[lane].ln::<FMA>();
            self.run[lane] += if share == A::ZERO { A::ZERO } else { loss };
        }
        *s
    }
}

/// `share / s * scale`, 0 where the share is 0. Where the quotient overflows, the scale comes first. For a
/// mean over nothing the scale is 0.
#[inline(always)]
fn quotient<A: Float>(share: A, s: A, scale: A) -> A {
    let quotient = share / s;
    let scaled_first = share * scale / s;
    let instead = if scale == A::ZERO {
        A::ZERO
    } else {
        scaled_first
    };
    let overflows = quotient == A::INFINITY || quotient == -A::INFINITY;
    let scaled = if overflows { instead } else { quotient * scale };
    if share == A::ZERO { A::ZERO } else { scaled }
}

/// Turns probabilities into the gradient `-a / s`.
struct Quotients<'a, A, const W: usize> {
    rows: &'a Rows<A, W>,
    shares: Shares<'a, A>,
}

impl<A: Float, const W: usize> Visitor<A> for Quotients<'_, A, W> {
    #[inline(always)]
    fn visit(&mut self, step: usize, s: &Block<A>) -> Block<A> {
        let shares = self.shares.block::<W>(step);
        let mut gradient = [A::ZERO; LANES];
        for lane in 0..LANES {
            gradient[lane] = -quotient(shares[lane], s[lane], of_lane(&self.rows.scale, lane));
        }
        gradient
    }
}

/// Turns probabilities into the gradient of the distributions.
struct Slopes<'a, A, const W: usize, const FMA: bool> {
    rows: &'a Rows<A, W>,
    shares: Shares<'a, A>,
}

impl<A: Float, const W: usize, const FMA: bool> Visitor<A> for Slopes<'_, A, W, FMA> {
    #[inline(always)]
    fn visit(&mut self, step: usize, s: &Block<A>) -> Block<A> {
        let factors = self.shares.slopes::<W>(step);
        let mut slopes = [A::ZERO; LANES];
        for lane in 0..LANES {
            let scale = of_lane(&self.rows.scale, lane);
            slopes[lane] = share_slope(factors[lane], scale, -s[lane].ln::<FMA>());
        }
        slopes
    }
}
