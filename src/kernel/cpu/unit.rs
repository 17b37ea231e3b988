//! Steps of the computation over the rows of a unit, for every layout.

use super::ahead::Ahead;
use super::constants::Constants;
use super::float::Float;
use super::logits::{Scale, Softmax};
use super::probabilities::Probabilities;
use super::ranks::{Before, First, Losers};
use super::row_loss::{EntropyOf, GradientOver, LossesOf, RowLoss, TargetsGradient};
use super::row_value::{Entropy, LogSumExp};
use super::rows::{Losses, RowOutputs, Rows};
use super::shares::{Evens, Shares};
use super::softcap::{Bend, Softcap, Unbend};
use super::sparse::EntriesOfRow;
use super::tail::{TailLosses, TailRows};
use crate::operation::{InputValues, Outputs, RowValue, Ties};

/// Numbers of one unit besides its logits.
pub(crate) struct Unit<'a, A, const W: usize> {
    pub(super) rows: Rows<A, W>,
    pub(super) shares: Option<Shares<'a, A>>,
    /// Entries of a sparse distribution that is not spread over the classes.
    pub(super) entries: Option<&'a mut EntriesOfRow<A>>,
    /// Entries and tails of sparse distributions that have tails.
    pub(super) tails: Option<&'a mut TailRows<A>>,
    /// Place of the even shares, where masked classes have none.
    pub(super) evens: Option<&'a mut [A]>,
    /// Place of the gradient of the distributions.
    pub(super) targets_gradient: Option<&'a mut [A]>,
    /// Whether the gradient of the logits is wanted.
    pub(super) wants_gradient: bool,
    /// Outputs besides the losses, where they are wanted.
    pub(super) outputs: Option<RowOutputs<A, W>>,
    /// Logits of the next unit, and the place of their gradient.
    pub(super) ahead: [Ahead; 2],
}

/// Logits (or probabilities) of a unit, and what becomes of them.
enum Numbers<'x, A> {
    Read(&'x [A]),
    /// The gradient replaces them.
    Replaced(&'x mut [A]),
}

impl<A: Float> Constants<'_, A> {
    /// Computes the losses. The gradient, if it is wanted, replaces the logits (or probabilities) `x`.
    /// Otherwise a softcap and tails overwrite `x` too.
    pub(super) fn write<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        x: &mut [A],
        spare: &mut Vec<A>,
    ) -> Losses<A, W> {
        let softcap = self.softcap();
        if let Some(softcap) = softcap {
            spare.clear();
            spare.extend_from_slice(x);
            self.instructions.run(Bend { softcap, x });
        }
        let given = softcap.is_some().then_some(&**spare);
        if !unit.wants_gradient && unit.tails.is_none() {
            return self.losses(unit, Numbers::Read(x), given);
        }
        let losses = self.losses(unit, Numbers::Replaced(x), given);
        if let Some(softcap) = softcap.filter(|_| unit.wants_gradient) {
            self.instructions.run(Unbend {
                softcap,
                logits: spare,
                gradient: x,
            });
        }
        losses
    }

    /// Computes the losses of the logits (or probabilities) `x`, which stay as they are.
    pub(super) fn read<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        x: &[A],
        spare: &mut Vec<A>,
    ) -> Losses<A, W> {
        let softcap = self.softcap();
        let has_tails = unit.tails.is_some();
        if softcap.is_none() && !has_tails {
            return self.losses(unit, Numbers::Read(x), None);
        }
        spare.clear();
        spare.extend_from_slice(x);
        if let Some(softcap) = softcap {
            self.instructions.run(Bend { softcap, x: spare });
        }
        let given = softcap.is_some().then_some(x);
        let numbers = match has_tails {
            true => Numbers::Replaced(spare),
            false => Numbers::Read(spare),
        };
        self.losses(unit, numbers, given)
    }

    fn softcap(&self) -> Option<Softcap<A>> {
        match self.values {
            InputValues::Logits {
                scale,
                softcap: Some(cap),
            } => Some(Softcap::new(scale, cap)),
            _ => None,
        }
    }

    /// Computes the losses of scores `x`; `given` are the logits as they came in, where a softcap has changed
    /// them.
    fn losses<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        mut x: Numbers<'_, A>,
        given: Option<&[A]>,
    ) -> Losses<A, W> {
        let Unit {
            rows,
            shares,
            entries,
            tails,
            evens,
            targets_gradient,
            wants_gradient,
            outputs,
            ahead,
        } = unit;
        let shares = self.over_valid::<W>(*shares, evens.take(), x.numbers());
        let rows = &*rows;
        let targets_gradient = targets_gradient.take();
        let class = self.class_to_rank(rows, shares);
        match self.values {
            InputValues::Probabilities => {
                let loss = Probabilities { rows, shares };
                *outputs = self.outputs(loss, class, x.numbers(), given);
                if let Some(outputs) = outputs {
                    let predicted = self.log_prob_of(outputs.predicted, rows, x.numbers());
                    outputs.max_log_prob = Some(predicted);
                }
                self.finish(loss, targets_gradient, x)
            }
            InputValues::Logits { scale, softcap } => {
                // The softcap has applied the scale.
                let scale = softcap.map_or(scale, |_| 1.0);
                let entries = entries.as_mut().map(|entries| entries.beside(x.numbers()));
                let loss = Softmax {
                    entries,
                    ..self.softmax(rows, shares, scale, *ahead)
                };
                if let (Some(tails), Numbers::Replaced(x)) = (tails, &mut x) {
                    *outputs = self.outputs(loss, tails.largest(), x, given);
                    return self.instructions.run(TailLosses {
                        softmax: loss,
                        tails,
                        x,
                        wants_gradient: *wants_gradient,
                    });
                }
                *outputs = self.outputs(loss, class, x.numbers(), given);
                match self.value {
                    RowValue::Loss => self.finish(loss, targets_gradient, x),
                    RowValue::LogSumExp => self.finish(LogSumExp(loss), None, x),
                    RowValue::Entropy => self.finish(Entropy(loss), None, x),
                    RowValue::PairSigmoid => unreachable!("pairs have a file of their own"),
                }
            }
        }
    }

    /// Shares with the even shares of the classes of `x` that are not masked, where they have a place.
    fn over_valid<'s, const W: usize>(
        &self,
        shares: Option<Shares<'s, A>>,
        evens: Option<&'s mut [A]>,
        x: &[A],
    ) -> Option<Shares<'s, A>> {
        let (Some(over), Some(evens)) = (self.over_valid, evens) else {
            return shares;
        };
        evens.copy_from_slice(x);
        self.instructions.run(Evens::<A, W> {
            over,
            numbers: evens,
        });
        shares.map(|shares| Shares {
            evens: Some(evens),
            ..shares
        })
    }

    /// Logarithm of the probability of one class of each row.
    fn log_prob_of<const W: usize>(&self, class: [usize; W], rows: &Rows<A, W>, x: &[A]) -> [A; W] {
        let loss = Probabilities {
            rows: &Rows { class, ..*rows },
            shares: None,
        };
        self.instructions.run(LossesOf { loss, x }).log_prob
    }

    /// The loss of logits of which nothing but losses and their gradient is wanted; `None` if more is wanted.
    pub(super) fn only_softmax<'u>(
        &'u self,
        unit: &'u Unit<'_, A, 1>,
    ) -> Option<Softmax<'u, A, 1>> {
        let is_only = unit.targets_gradient.is_none()
            && self.outputs == Outputs::None
            && self.over_valid.is_none()
            && unit.entries.is_none()
            && unit.tails.is_none()
            && self.value == RowValue::Loss;
        match self.values {
            InputValues::Logits {
                scale,
                softcap: None,
            } if is_only => Some(self.softmax(&unit.rows, unit.shares, scale, unit.ahead)),
            _ => None,
        }
    }

    fn softmax<'u, const W: usize>(
        &'u self,
        rows: &'u Rows<A, W>,
        shares: Option<Shares<'u, A>>,
        scale: f64,
        ahead: [Ahead; 2],
    ) -> Softmax<'u, A, W> {
        Softmax {
            rows,
            shares,
            scale: Scale::new(scale),
            z_loss: self.z_loss,
            factor: self.factor,
            entries: None,
            weights: self.shares.weights,
            ahead,
        }
    }

    fn finish<L: RowLoss<A, W>, const W: usize>(
        &self,
        loss: L,
        targets_gradient: Option<&mut [A]>,
        x: Numbers<'_, A>,
    ) -> Losses<A, W> {
        if let Some(gradient) = targets_gradient {
            self.instructions.run(TargetsGradient {
                loss,
                x: x.numbers(),
                gradient,
            });
        }
        match x {
            Numbers::Read(x) => self.instructions.run(LossesOf { loss, x }),
            Numbers::Replaced(x) => self.instructions.run(GradientOver { loss, x }),
        }
    }

    /// Class of each row whose rank is wanted: the target, of a distribution its largest class.
    fn class_to_rank<const W: usize>(
        &self,
        rows: &Rows<A, W>,
        shares: Option<Shares<'_, A>>,
    ) -> [usize; W] {
        match shares.and_then(|shares| shares.distribution) {
            Some(x) if self.outputs != Outputs::None => {
                let losers = None;
                self.instructions.run(First::<A, W> { x, losers })
            }
            _ => rows.class,
        }
    }

    /// Outputs of the rows besides their losses, where they are wanted. Classes are ordered by the logits as
    /// they came in: a softcap keeps the order, but makes equal numbers of large ones.
    fn outputs<L: RowLoss<A, W>, const W: usize>(
        &self,
        loss: L,
        class: [usize; W],
        x: &[A],
        given: Option<&[A]>,
    ) -> Option<RowOutputs<A, W>> {
        if self.outputs == Outputs::None {
            return None;
        }
        let (instructions, ties) = (self.instructions, self.ties);
        let losers = match ties {
            Ties::ByClass => None,
            Ties::TargetLoses { magnitude } => Some(Losers { class, magnitude }),
        };
        let given = given.unwrap_or(x);
        let entropy = || instructions.run(EntropyOf { loss, x });
        // The loss of the distribution alone is minus its log-probability.
        let log_prob = |loss| {
            let losses = instructions.run(LossesOf { loss, x });
            losses.main.map(|loss| -loss)
        };
        Some(RowOutputs {
            predicted: instructions.run(First::<A, W> { x: given, losers }),
            rank: instructions.run(Before::<A, W> {
                x: given,
                class,
                ties,
            }),
            target: class,
            log_prob: loss.with_distribution_alone().map(log_prob),
            max_log_prob: None,
            entropy: (self.outputs == Outputs::RowsAndEntropy).then(entropy),
        })
    }
}

impl<A> Numbers<'_, A> {
    fn numbers(&self) -> &[A] {
        match self {
            Self::Read(x) => x,
            Self::Replaced(x) => x,
        }
    }
}
