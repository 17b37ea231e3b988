//! Steps of the computation over the rows of a unit, for every layout.

use super::constants::Constants;
use super::float::Float;
use super::probabilities::{self, Probabilities};
use super::ranks::{Before, First};
use super::rows::{Losses, RowOutputs, Rows};
use super::shares::Shares;
use super::softmax::{self, Bend, Softcap, Softmax, Unbend};
use crate::operation::{InputValues, Outputs};

/// Numbers of one unit besides its logits.
pub(super) struct Unit<'a, A, const W: usize> {
    pub(super) rows: Rows<A, W>,
    pub(super) shares: Option<Shares<'a, A>>,
    /// Place of the gradient of the distributions.
    pub(super) targets_gradient: Option<&'a mut [A]>,
    /// Whether the gradient of the logits is wanted.
    pub(super) wants_gradient: bool,
    /// Outputs besides the losses, where they are wanted.
    pub(super) outputs: Option<RowOutputs<A, W>>,
}

impl<A: Float> Constants<'_, A> {
    /// Computes the losses. The gradient, if it is wanted, replaces the logits (or probabilities) `x`.
    /// Otherwise `x` is overwritten too.
    pub(super) fn write<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        x: &mut [A],
        spare: &mut Vec<A>,
    ) -> Losses<A, W> {
        let instructions = self.instructions;
        match self.values {
            InputValues::Probabilities => {
                self.outputs_of_probabilities(unit, x);
                self.probabilities_targets_gradient(unit, x);
                let probabilities = probabilities_of(unit);
                if !unit.wants_gradient {
                    return instructions.run(probabilities::LossOf {
                        probabilities,
                        s: x,
                    });
                }
                instructions.run(probabilities::GradientOver {
                    probabilities,
                    s: x,
                })
            }
            InputValues::Logits {
                scale,
                softcap: None,
            } => self.write_logits(unit, A::of(scale), x),
            InputValues::Logits {
                scale,
                softcap: Some(cap),
            } => {
                let softcap = Softcap::new(scale, cap);
                spare.clear();
                spare.extend_from_slice(x);
                instructions.run(Bend { softcap, x });
                let losses = self.write_logits(unit, A::ONE, x);
                if unit.wants_gradient {
                    instructions.run(Unbend {
                        softcap,
                        logits: spare,
                        gradient: x,
                    });
                }
                losses
            }
        }
    }

    /// Computes the losses of the logits (or probabilities) `x`, which stay as they are.
    pub(super) fn read<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        x: &[A],
        spare: &mut Vec<A>,
    ) -> Losses<A, W> {
        let instructions = self.instructions;
        match self.values {
            InputValues::Probabilities => {
                self.outputs_of_probabilities(unit, x);
                self.probabilities_targets_gradient(unit, x);
                let probabilities = probabilities_of(unit);
                instructions.run(probabilities::LossOf {
                    probabilities,
                    s: x,
                })
            }
            InputValues::Logits {
                scale,
                softcap: None,
            } => self.read_logits(unit, A::of(scale), x),
            InputValues::Logits {
                scale,
                softcap: Some(cap),
            } => {
                let softcap = Softcap::new(scale, cap);
                spare.clear();
                spare.extend_from_slice(x);
                instructions.run(Bend { softcap, x: spare });
                self.read_logits(unit, A::ONE, spare)
            }
        }
    }

    fn write_logits<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        scale: A,
        x: &mut [A],
    ) -> Losses<A, W> {
        self.outputs_of_logits(unit, scale, x);
        self.logits_targets_gradient(unit, scale, x);
        let softmax = self.softmax_of(unit, scale);
        self.instructions.run(softmax::GradientOver {
            softmax,
            x,
            wanted: unit.wants_gradient,
        })
    }

    fn read_logits<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        scale: A,
        x: &[A],
    ) -> Losses<A, W> {
        self.outputs_of_logits(unit, scale, x);
        self.logits_targets_gradient(unit, scale, x);
        let softmax = self.softmax_of(unit, scale);
        self.instructions.run(softmax::LossOf { softmax, x })
    }

    fn outputs_of_logits<const W: usize>(&self, unit: &mut Unit<'_, A, W>, scale: A, x: &[A]) {
        if self.outputs == Outputs::None {
            return;
        }
        let mut outputs = self.ranks(unit, x);
        if self.outputs == Outputs::RowsAndEntropy {
            let softmax = self.softmax_of(unit, scale);
            outputs.entropy = Some(self.instructions.run(softmax::Entropy { softmax, x }));
        }
        if let Some(shares) = unit.shares.and_then(Shares::apart_from_distribution) {
            // The loss has the shares of the distribution alone.
            let softmax = Softmax {
                shares: Some(shares),
                ..self.softmax_of(unit, scale)
            };
            let losses = self.instructions.run(softmax::LossOf { softmax, x });
            outputs.log_prob = Some(losses.main.map(|loss| -loss));
        }
        unit.outputs = Some(outputs);
    }

    fn outputs_of_probabilities<const W: usize>(&self, unit: &mut Unit<'_, A, W>, s: &[A]) {
        if self.outputs == Outputs::None {
            return;
        }
        let mut outputs = self.ranks(unit, s);
        if self.outputs == Outputs::RowsAndEntropy {
            outputs.entropy = Some(self.instructions.run(probabilities::Entropy { s }));
        }
        if let Some(shares) = unit.shares.and_then(Shares::apart_from_distribution) {
            let probabilities = Probabilities {
                shares: Some(shares),
                ..probabilities_of(unit)
            };
            let losses = self
                .instructions
                .run(probabilities::LossOf { probabilities, s });
            outputs.log_prob = Some(losses.main.map(|loss| -loss));
        }
        unit.outputs = Some(outputs);
    }

    fn ranks<const W: usize>(&self, unit: &Unit<'_, A, W>, x: &[A]) -> RowOutputs<A, W> {
        let first = |x| self.instructions.run(First::<A, W> { x });
        let distribution = unit.shares.and_then(|shares| shares.distribution);
        let class = distribution.map_or(unit.rows.class, first);
        RowOutputs {
            predicted: first(x),
            rank: self.instructions.run(Before::<A, W> { x, class }),
            log_prob: None,
            entropy: None,
        }
    }

    fn logits_targets_gradient<const W: usize>(
        &self,
        unit: &mut Unit<'_, A, W>,
        scale: A,
        x: &[A],
    ) {
        if let Some(gradient) = unit.targets_gradient.take() {
            let softmax = self.softmax_of(unit, scale);
            self.instructions.run(softmax::TargetsGradient {
                softmax,
                x,
                gradient,
            });
        }
    }

    fn probabilities_targets_gradient<const W: usize>(&self, unit: &mut Unit<'_, A, W>, s: &[A]) {
        if let Some(gradient) = unit.targets_gradient.take() {
            let probabilities = probabilities_of(unit);
            self.instructions.run(probabilities::TargetsGradient {
                probabilities,
                s,
                gradient,
            });
        }
    }

    fn softmax_of<'u, const W: usize>(
        &self,
        unit: &'u Unit<'_, A, W>,
        scale: A,
    ) -> Softmax<'u, A, W> {
        Softmax {
            rows: &unit.rows,
            shares: unit.shares,
            scale,
            z_loss: self.z_loss,
        }
    }
}

fn probabilities_of<'u, A: Float, const W: usize>(
    unit: &'u Unit<'_, A, W>,
) -> Probabilities<'u, A, W> {
    Probabilities {
        rows: &unit.rows,
        shares: unit.shares,
    }
}
