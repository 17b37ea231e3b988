//! Sparse distributions with a tail: the classes that are none of a row's entries have one share together, as one
//! class whose probability is the sum of theirs.
//!
//! With `x` the scaled and capped logits of a row, and its entries taken out of them for the sum over the rest:
//!
//! ```text
//! m, R   = maximum and sum of exp(x[c] - m) over the rest
//! M      = maximum of all
//! E, P   = R exp(m - M), sum of exp(x[y] - M) over the entries         E + P = 1 + others
//! loss   = sum_j s[j] (lse - x[y[j]]) + t (lse - lse_rest)             lse - lse_rest = ln(1 + P / E)
//! dx[y]  = A p[y] - s[y]                                               A = sum_j s[j] + t
//! dx[c]  = exp(x[c] - m) / R (A E / (E + P) - t)                       at the rest
//! ```
//!
//! So the rest is to the entries what a further class would be, and each of its classes has its part of that class's
//! gradient. As for a class of more than half the probability, the bracket is `sum_j s[j] - A P / (E + P)` where the
//! rest has more than the entries.

use super::blocks::{Blocks, Total, Write, at};
use super::float::Float;
use super::instructions::Task;
use super::logits::Softmax;
use super::row_value::Multiplied;
use super::rows::Losses;

/// Entries and tails of the rows of a unit.
pub(crate) struct TailRows<A> {
    /// Entries of one row after the other, by class. A class that a row has twice is one entry.
    entries: Vec<Entry<A>>,
    rows: Vec<Tail<A>>,
}

/// Entry of a row, and what is known of its class.
#[derive(Clone, Copy)]
struct Entry<A> {
    class: usize,
    share: A,
    logit: A,
    exponential: A,
    surprisal: A,
    slope: A,
}

/// The tail of a row.
#[derive(Clone, Copy)]
struct Tail<A> {
    /// End of the row's entries.
    end: usize,
    share: A,
    surprisal: A,
}

/// Maximum of the rest of a row, and the sum of its exponentials, with the maximum's own 1 and without.
#[derive(Clone, Copy)]
struct Rest<A> {
    maximum: A,
    sum: A,
    others: A,
}

/// Sums of a whole row.
struct RowSums<A> {
    maximum: A,
    /// Sums of the exponentials of the rest and of the entries.
    rest: A,
    entries: A,
    /// Both without the 1 of the maximum.
    others: A,
    /// `lse - maximum`.
    above: A,
    /// Sum of the entries' shares.
    shares: A,
}

impl<A: Float> TailRows<A> {
    pub(super) fn new() -> Self {
        Self {
            entries: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.rows.clear();
    }

    /// Adds a row with this tail.
    pub(super) fn add(&mut self, entries: impl Iterator<Item = (usize, A)>, tail: A) {
        let first = self.entries.len();
        self.entries.extend(entries.map(|(class, share)| Entry {
            class,
            share,
            logit: A::ZERO,
            exponential: A::ZERO,
            surprisal: A::ZERO,
            slope: A::ZERO,
        }));
        self.entries[first..].sort_unstable_by_key(|entry| entry.class);
        let mut end = first;
        for at in first..self.entries.len() {
            let entry = self.entries[at];
            match self.entries[first..end].last_mut() {
                Some(last) if last.class == entry.class => last.share += entry.share,
                _ => {
                    self.entries[end] = entry;
                    end += 1;
                }
            }
        }
        self.entries.truncate(end);
        self.rows.push(Tail {
            end,
            share: tail,
            surprisal: A::ZERO,
        });
    }

    fn entries(&self, row: usize) -> &[Entry<A>] {
        let first = row.checked_sub(1).map_or(0, |before| self.rows[before].end);
        &self.entries[first..self.rows[row].end]
    }

    /// Class of the largest share of each row, of several the first.
    pub(super) fn largest<const W: usize>(&self) -> [usize; W] {
        let mut classes = [0; W];
        for (row, class) in classes.iter_mut().take(self.rows.len()).enumerate() {
            let mut largest = A::ZERO;
            for entry in self.entries(row) {
                if entry.share > largest {
                    (*class, largest) = (entry.class, entry.share);
                }
            }
        }
        classes
    }

    /// `lse - x[class]` of an entry of a row.
    pub(super) fn surprisal(&self, row: usize, class: usize) -> A {
        let entries = self.entries(row);
        let at = entries.partition_point(|entry| entry.class < class);
        entries[at].surprisal
    }

    /// `lse - lse_rest` of a row.
    pub(super) fn surprisal_of_tail(&self, row: usize) -> A {
        self.rows[row].surprisal
    }

    /// Takes the entries' logits out of those of their rows, where -inf remains.
    #[inline(always)]
    fn take_from<const W: usize>(&mut self, x: &mut [A]) {
        let mut first = 0;
        for (lane, row) in self.rows.iter().enumerate() {
            for entry in &mut self.entries[first..row.end] {
                let place = &mut x[at::<W>(entry.class, lane)];
                entry.logit = std::mem::replace(place, -A::INFINITY);
            }
            first = row.end;
        }
    }

    /// Writes the entries' gradients.
    #[inline(always)]
    fn write_slopes<const W: usize>(&self, gradient: &mut [A]) {
        let mut first = 0;
        for (lane, row) in self.rows.iter().enumerate() {
            for entry in &self.entries[first..row.end] {
                gradient[at::<W>(entry.class, lane)] = entry.slope;
            }
            first = row.end;
        }
    }
}

/// Task: losses of `W` rows with tails.
pub(super) struct TailLosses<'a, 'x, A, const W: usize> {
    pub(super) softmax: Softmax<'a, A, W>,
    pub(super) tails: &'x mut TailRows<A>,
    /// Logits, over which the gradient is written, or what is left of them.
    pub(super) x: &'x mut [A],
    pub(super) wants_gradient: bool,
}

impl<A: Float, const W: usize> Task for TailLosses<'_, '_, A, W> {
    type Output = Losses<A, W>;

    #[inline(always)]
    fn run<const FMA: bool>(self) -> Losses<A, W> {
        let Self {
            softmax,
            tails,
            x,
            wants_gradient,
        } = self;
        tails.take_from::<W>(x);
        let mut rest = Write::new(x, -A::INFINITY);
        let sums = softmax.sums_of_rest::<FMA>(&mut rest);
        let zero = [A::ZERO; W];
        let mut losses = Losses {
            main: zero,
            penalty: zero,
            lse: zero,
            log_prob: zero,
            max_log_prob: zero,
        };
        let (mut factor, mut first) = (zero, 0);
        for (row, tail) in tails.rows.iter_mut().enumerate() {
            let rest = Rest {
                maximum: sums.maximum[row],
                sum: sums.others[row] + A::ONE,
                others: sums.others[row],
            };
            let entries = &mut tails.entries[first..tail.end];
            first = tail.end;
            let whole = softmax.sums_of_row::<FMA>(rest, entries);
            tail.surprisal = softmax.surprisal_of_rest::<FMA>(rest, &whole);
            losses.main[row] = loss_of(entries, tail, &whole);
            let lse = whole.maximum * softmax.scale.whole + whole.above;
            losses.penalty[row] = softmax.z_loss * lse * lse;
            losses.lse[row] = lse;
            losses.log_prob[row] = -losses.main[row];
            losses.max_log_prob[row] = -whole.above;
            if wants_gradient {
                let slope = softmax.slopes(row, entries, tail.share, &whole);
                factor[row] = rest.part_of(slope);
            }
        }
        if wants_gradient {
            rest.visit(0..rest.steps(), &mut Multiplied { factor: &factor });
            tails.write_slopes::<W>(x);
        }
        losses
    }
}

/// `sum_j s[j] (lse - x[y[j]]) + t (lse - lse_rest)`, where a share of 0 adds nothing.
#[inline(always)]
fn loss_of<A: Float>(entries: &[Entry<A>], tail: &Tail<A>, whole: &RowSums<A>) -> A {
    let mut loss = Total::<A, 1>::new();
    let terms = entries.iter().map(|entry| (entry.share, entry.surprisal));
    for (share, surprisal) in terms.chain([(tail.share, tail.surprisal)]) {
        if share != A::ZERO {
            loss.add(&[share * surprisal]);
        }
    }
    // A row without a distribution is NaN, also where no class has a share.
    loss.lanes()[0] + A::ZERO * whole.above
}

impl<A: Float> Rest<A> {
    /// Whether no class is left.
    fn is_empty(&self) -> bool {
        self.sum == A::ZERO
    }

    /// Factor that makes of the exponentials of the rest their parts of a gradient.
    fn part_of(&self, slope: A) -> A {
        if self.is_empty() {
            A::ZERO
        } else {
            slope / self.sum
        }
    }
}

impl<A: Float, const W: usize> Softmax<'_, A, W> {
    /// Sums of a row, and the gaps of the entries' logits as surprisals.
    #[inline(always)]
    fn sums_of_row<const FMA: bool>(&self, rest: Rest<A>, entries: &mut [Entry<A>]) -> RowSums<A> {
        let mut largest = -A::INFINITY;
        for entry in &*entries {
            if entry.logit > largest {
                largest = entry.logit;
            }
        }
        let is_in_rest = !rest.is_empty() && rest.maximum >= largest;
        let maximum = if is_in_rest { rest.maximum } else { largest };
        let offset = self.scale.offset(maximum);
        let [mut all, mut beside, mut shares] = [Total::<A, 1>::new(); 3];
        let mut has_maximum = is_in_rest;
        for entry in &mut *entries {
            let gap = self.scale.difference::<FMA>(entry.logit, offset);
            entry.surprisal = -gap;
            entry.exponential = gap.exp::<FMA>();
            all.add(&[entry.exponential]);
            shares.add(&[entry.share]);
            if has_maximum || entry.logit != maximum {
                beside.add(&[entry.exponential]);
            } else {
                has_maximum = true;
            }
        }
        let [all, beside, shares] = [all, beside, shares].map(|sum| sum.lanes()[0]);
        let of_rest = if rest.is_empty() {
            A::ZERO
        } else {
            rest.sum * (self.scale.difference::<FMA>(rest.maximum, offset)).exp::<FMA>()
        };
        let others = match is_in_rest {
            true => rest.others + beside,
            false => of_rest + beside,
        };
        let others = match maximum.is_finite() {
            true => others,
            false => A::of(f64::NAN),
        };
        let above = others.ln_1p::<FMA>();
        for entry in entries {
            entry.surprisal += above;
        }
        RowSums {
            maximum,
            rest: of_rest,
            entries: all,
            others,
            above,
            shares,
        }
    }

    /// `lse - lse_rest`: small where the entries have little, and then from what they have.
    #[inline(always)]
    fn surprisal_of_rest<const FMA: bool>(&self, rest: Rest<A>, whole: &RowSums<A>) -> A {
        if rest.is_empty() {
            return whole.above + A::INFINITY;
        }
        if whole.entries <= whole.rest {
            return (whole.entries / whole.rest).ln_1p::<FMA>();
        }
        let offset = self.scale.offset(whole.maximum);
        let gap = -self.scale.difference::<FMA>(rest.maximum, offset);
        gap + (whole.above - rest.others.ln_1p::<FMA>())
    }

    /// Gradients at the entries, and the sum of those at the rest.
    #[inline(always)]
    fn slopes(&self, row: usize, entries: &mut [Entry<A>], tail: A, whole: &RowSums<A>) -> A {
        let (scale, factor) = (self.rows.scale[row], self.scale.whole);
        let total = whole.shares + tail;
        let inverse = A::ONE / (whole.others + A::ONE);
        let pull = if self.z_loss == A::ZERO {
            A::ZERO
        } else {
            let lse = whole.maximum * factor + whole.above;
            A::TWO * self.z_loss * lse * self.rows.penalty_scale[row] * inverse
        };
        let mut dominant = None;
        for (at, entry) in entries.iter_mut().enumerate() {
            let pushed = entry.exponential * (total * scale * inverse + pull);
            entry.slope = (pushed - entry.share * scale) * factor;
            if whole.others < A::ONE && entry.logit == whole.maximum {
                dominant = Some(at);
            }
        }
        if let Some(dominant) = dominant {
            let mut elsewhere = Total::<A, 1>::new();
            elsewhere.add(&[tail]);
            for (at, entry) in entries.iter().enumerate() {
                if at != dominant {
                    elsewhere.add(&[entry.share]);
                }
            }
            let pulled = elsewhere.lanes()[0] - total * whole.others * inverse;
            entries[dominant].slope = (pulled * scale + pull) * factor;
        }
        let of_rest = if whole.rest >= whole.entries {
            whole.shares - total * whole.entries * inverse
        } else {
            total * whole.rest * inverse - tail
        };
        (of_rest * scale + pull * whole.rest) * factor
    }
}
