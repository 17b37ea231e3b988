//! Order of a row's classes: by their scores, the largest first. Of equal scores the earlier class is
//! first. NaN is below all numbers. Where targets lose ties, the target is ordered by a score that is lower
//! by its rounding.

use super::blocks::{Block, Blocks, LANES, Read, Visitor, at, of_lane};
use super::float::Float;
use super::instructions::Task;
use crate::operation::{Slack, Ties};

/// Task: first class of the largest score in each of `W` rows whose scores are `x`.
pub(crate) struct First<'a, A, const W: usize> {
    pub(crate) x: &'a [A],
    pub(crate) losers: Option<Losers<W>>,
}

/// Classes that lose ties, one of each row.
pub(crate) struct Losers<const W: usize> {
    pub(crate) class: [usize; W],
    /// See [`Ties::TargetLoses`].
    pub(crate) magnitude: f64,
}

impl<A: Float, const W: usize> Task for First<'_, A, W> {
    type Output = [usize; W];

    #[inline(always)]
    fn run<const FMA: bool>(self) -> [usize; W] {
        let mut best = Best::<A> {
            score: [-A::INFINITY; LANES],
            step: [A::ZERO; LANES],
        };
        let mut x = Read::new(self.x, -A::INFINITY);
        let steps = 0..x.steps();
        match self.losers {
            None => x.visit(steps, &mut best),
            Some(Losers { class, magnitude }) => {
                let mut lowered = Lowered {
                    step: steps_of::<A, W>(class),
                    score: lowered(scores_of(self.x, class), magnitude),
                    best: &mut best,
                };
                x.visit(steps, &mut lowered);
            }
        }
        let mut classes = [0; W];
        for row in 0..W {
            let mut score = -A::INFINITY;
            for lane in (row..LANES).step_by(W) {
                let class = class_of::<W>(best.step[lane].to_f64() as usize, lane);
                let is_earlier = best.score[lane] == score && class < classes[row];
                if best.score[lane] > score || is_earlier {
                    score = best.score[lane];
                    classes[row] = class;
                }
            }
        }
        classes
    }
}

/// Task: number of classes of each row that come before `class`.
pub(crate) struct Before<'a, A, const W: usize> {
    pub(crate) x: &'a [A],
    pub(crate) class: [usize; W],
    pub(crate) ties: Ties,
}

impl<A: Float, const W: usize> Task for Before<'_, A, W> {
    type Output = [usize; W];

    #[inline(always)]
    fn run<const FMA: bool>(self) -> [usize; W] {
        let scores = scores_of(self.x, self.class);
        let score = match self.ties {
            Ties::ByClass => scores,
            Ties::TargetLoses { magnitude } => lowered(scores, magnitude),
        };
        let mut steps_before = [A::ZERO; LANES];
        for lane in 0..LANES {
            steps_before[lane] = A::of(steps_before_class::<W>(self.class[lane % W], lane) as f64);
        }
        let mut counter = Counter::<A, W> {
            score,
            steps_before,
            before: [A::ZERO; LANES],
        };
        let mut x = Read::new(self.x, -A::INFINITY);
        x.visit(0..x.steps(), &mut counter);
        // The total is an integer: f32 counts exactly to 2^24 only.
        let mut before = [0; W];
        for lane in 0..LANES {
            before[lane % W] += counter.before[lane].to_f64() as usize;
        }
        for row in 0..W {
            // A target is above its own lowered score.
            before[row] -= usize::from(scores[row] > score[row]);
        }
        before
    }
}

/// Scores of one class of each row; NaN is the lowest score.
#[inline(always)]
fn scores_of<A: Float, const W: usize>(x: &[A], class: [usize; W]) -> [A; W] {
    let mut scores = [A::ZERO; W];
    for row in 0..W {
        scores[row] = or_lowest(x[at::<W>(class[row], row)]);
    }
    scores
}

/// Scores of targets that lose ties: lower by the rounding of a product of two features.
fn lowered<A: Float, const W: usize>(scores: [A; W], magnitude: f64) -> [A; W] {
    let slack = Slack::new(magnitude, A::EPSILON.to_f64(), A::SMALLEST.to_f64());
    let (share, least) = (A::of(slack.share), A::of(slack.least));
    scores.map(|score| {
        let size = if score < A::ZERO { -score } else { score };
        let slack = size * share;
        score - if slack > least { slack } else { least }
    })
}

/// Replaces NaN by the lowest score.
#[inline(always)]
fn or_lowest<A: Float>(x: A) -> A {
    if x >= -A::INFINITY { x } else { -A::INFINITY }
}

/// Class of a lane in block `step`.
#[inline(always)]
fn class_of<const W: usize>(step: usize, lane: usize) -> usize {
    if W == 1 { step * LANES + lane } else { step }
}

/// Number of blocks in which the lane's class is before `class`.
#[inline(always)]
fn steps_before_class<const W: usize>(class: usize, lane: usize) -> usize {
    if W == 1 {
        (class + LANES - 1 - lane) / LANES
    } else {
        class
    }
}

/// Largest score of each lane, and the first block with it. Block numbers are numbers of the arithmetic, in
/// f32 exact up to 2^24 blocks: 2^30 classes that lie together, 2^24 that do not.
struct Best<A> {
    score: Block<A>,
    step: Block<A>,
}

impl<A: Float> Visitor<A> for Best<A> {
    #[inline(always)]
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A> {
        let step = A::of(step as f64);
        for lane in 0..LANES {
            let (x, score) = (block[lane], self.score[lane]);
            self.step[lane] = if x > score { step } else { self.step[lane] };
            self.score[lane] = if x > score { x } else { score };
        }
        *block
    }
}

/// Shows the blocks to [`Best`], with a lower score for one class of each row.
struct Lowered<'b, A, const W: usize> {
    /// Step of the class, in the lane that holds it; -1 in the other lanes.
    step: Block<A>,
    score: [A; W],
    best: &'b mut Best<A>,
}

impl<A: Float, const W: usize> Visitor<A> for Lowered<'_, A, W> {
    #[inline(always)]
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A> {
        let at = A::of(step as f64);
        let mut lowered = *block;
        for lane in 0..LANES {
            let score = of_lane(&self.score, lane);
            lowered[lane] = if self.step[lane] == at {
                score
            } else {
                block[lane]
            };
        }
        self.best.visit(step, &lowered);
        *block
    }
}

/// Step whose block holds the class of a row, in the lane that holds it; -1 in the other lanes.
#[inline(always)]
fn steps_of<A: Float, const W: usize>(class: [usize; W]) -> Block<A> {
    let mut steps = [-A::ONE; LANES];
    for row in 0..W {
        let (step, lane) = match W {
            1 => (class[row] / LANES, class[row] % LANES),
            _ => (class[row], row),
        };
        steps[lane] = A::of(step as f64);
    }
    steps
}

struct Counter<A, const W: usize> {
    score: [A; W],
    /// Number of blocks in which the lane's class is before the target.
    steps_before: Block<A>,
    before: Block<A>,
}

impl<A: Float, const W: usize> Visitor<A> for Counter<A, W> {
    #[inline(always)]
    fn visit(&mut self, step: usize, block: &Block<A>) -> Block<A> {
        let step = A::of(step as f64);
        for lane in 0..LANES {
            let x = or_lowest(block[lane]);
            let score = of_lane(&self.score, lane);
            let same = if x == score && step < self.steps_before[lane] {
                A::ONE
            } else {
                A::ZERO
            };
            self.before[lane] += if x > score { A::ONE } else { same };
        }
        *block
    }
}
