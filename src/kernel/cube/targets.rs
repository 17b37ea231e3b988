//! Targets of the rows: which rows count, and the share of every class.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::classes::Classes;
use super::plan::{Along, Tile};
use super::spec::{Extent, Numbers, Uniforms};
use super::sum::{ones, zeros};

/// Inputs of a kernel besides the logits.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Inputs<A: Float, P: Float, I: Int, N: Size> {
    /// One class per row; of entries then one for the outputs of each row.
    pub(crate) indices: ComptimeOption<Box<[I]>>,
    /// One number per logit.
    pub(crate) distributions: ComptimeOption<Box<[Vector<P, N>]>>,
    /// One number per class, then one per row, then the [`lines`] of the rows' entries or of a teacher, then the even
    /// share of each row's valid classes, as far as there are such. One buffer, because WebGPU guarantees few of them.
    pub(crate) weights: ComptimeOption<Box<[A]>>,
    #[cube(comptime)]
    pub(crate) weighed: Weighed,
    /// One class per row of distributions, for its outputs.
    pub(crate) labels: ComptimeOption<Box<[i32]>>,
    /// Index targets that are ignored. The number of them is compiled in, the values are not.
    pub(crate) ignored: Sequence<InputScalar>,
}

/// What has weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Weighed {
    pub(crate) classes: bool,
    pub(crate) rows: bool,
    /// Whether the label smoothing gives masked classes nothing, and each row has an even share of its own.
    pub(crate) evens: bool,
    /// Whether a row's index target is that of its entries with the largest logit, and its share and what is to be added
    /// to its loss are those of all, see [`entries`](super::entries).
    pub(crate) entries: bool,
    /// Whether the entries have a tail.
    pub(crate) tail: bool,
    /// Whether the distributions are the logits of a teacher, of which each row has two numbers.
    pub(crate) teacher: bool,
}

impl Weighed {
    /// Count of the lines of the rows that their even shares stand behind.
    const fn lines_before_evens(&self) -> usize {
        match (self.teacher, self.entries) {
            (true, _) => lines::OF_TEACHER,
            (false, true) => lines::of_inputs(self.tail),
            (false, false) => 0,
        }
    }
}

/// Numbers of the shares that differ from row to row, in each lane; placeholders where they do not.
#[derive(CubeType)]
pub(crate) struct RowShares<A: Float, N: Size> {
    /// Even share of a class that is not masked.
    even: Vector<A, N>,
    /// Largest logit of the teacher, and the factor that makes probabilities of the exponentials beside it.
    maximum: Vector<A, N>,
    probability: Vector<A, N>,
}

/// Lines of the numbers that rows have of their entries or of a teacher, each with one number per row.
pub(crate) mod lines {
    /// Sum of the shares of the entries.
    pub(crate) const SHARES: usize = 0;
    /// What the entries add to the loss beside that of the index target.
    pub(crate) const FURTHER: usize = 1;
    /// The same two without the weights of classes, for the outputs.
    pub(crate) const OWN_SHARES: usize = 2;
    pub(crate) const OWN_FURTHER: usize = 3;
    /// Sum of the shares of the entries that are not of the index target's class.
    pub(crate) const ELSEWHERE: usize = 4;
    /// With a tail, maximum of the scores of the rest, and the gradient of the loss by them as a factor of their
    /// exponentials beside it.
    pub(crate) const MAXIMUM_OF_REST: usize = 5;
    pub(crate) const AT_REST: usize = 6;
    /// Factor that makes probabilities of these exponentials, and the log-sum-exp of the row.
    pub(crate) const SHARE_OF_REST: usize = 7;
    pub(crate) const LSE: usize = 8;
    /// `lse - lse_rest`.
    pub(crate) const SURPRISAL: usize = 9;
    /// Maximum of the scores of the entries, and the sum of their exponentials beside it.
    pub(crate) const MAXIMUM: usize = 10;
    pub(crate) const SUM: usize = 11;
    pub(crate) const TAIL: usize = 12;

    /// Largest logit of a teacher, and the sum of the exponentials of all others beside it.
    pub(crate) const TEACHER: usize = 0;
    pub(crate) const OTHERS: usize = 1;
    pub(crate) const OF_TEACHER: usize = 2;

    pub(crate) const fn count(has_tail: bool) -> usize {
        if has_tail { 13 } else { 5 }
    }

    /// Those that the kernels over the rows read.
    pub(crate) const fn of_inputs(has_tail: bool) -> usize {
        if has_tail { 9 } else { 4 }
    }
}

/// Target of a row, resolved by the target rule.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(crate) struct Target {
    /// Class of an index target; 0 where the row does not count.
    pub(crate) class: u32,
    /// Whether the row is neither ignored nor bad.
    pub(crate) counts: bool,
    /// Whether the row's target is neither a class nor ignored.
    pub(crate) is_bad: bool,
}

/// Target of a row of distributions.
#[cube]
fn every_class() -> Target {
    Target {
        class: 0u32.runtime(),
        counts: true.runtime(),
        is_bad: false.runtime(),
    }
}

/// Target of a row. `K` is wide enough for the indices and for the number of classes.
#[allow(clippy::needless_range_loop)] // What a kernel unrolls.
#[cube]
pub(crate) fn target_of_row<I: Int, K: Int>(
    indices: &[I],
    row: usize,
    classes: usize,
    ignored: &Sequence<InputScalar>,
) -> Target {
    let index = K::cast_from(indices[row]);
    let mut is_ignored = false.runtime();
    #[unroll]
    for at in 0..ignored.len() {
        is_ignored = is_ignored || index == ignored[at].get::<K>();
    }
    let is_class = index >= K::from_int(0) && index < K::cast_from(classes);
    let counts = is_class && !is_ignored;
    Target {
        class: select(counts, u32::cast_from(index), 0u32),
        counts,
        is_bad: !is_class && !is_ignored,
    }
}

/// Target of a row, for index targets or distributions.
#[cube]
pub(crate) fn target_of<A: Float, P: Float, I: Int, K: Int, N: Size>(
    inputs: &Inputs<A, P, I, N>,
    row: usize,
    extent: &Extent,
) -> Target {
    inputs.target::<K>(row, extent.classes)
}

/// Share that an index target adds to its class.
#[cube]
pub(crate) fn share_of_target<A: Float, P: Float, I: Int, N: Size>(
    inputs: &Inputs<A, P, I, N>,
    row: usize,
    target: &Target,
    uniforms: &Uniforms,
) -> A {
    #[comptime]
    match &inputs.indices {
        ComptimeOption::Some(_) => match comptime!(inputs.weighed.entries) {
            true => inputs.number_of_row(row, lines::SHARES, &uniforms.extent),
            false => {
                let remaining = uniforms.numbers.remaining.get::<A>();
                remaining * inputs.weight(target.class as usize)
            }
        },
        ComptimeOption::None => A::new(0.0),
    }
}

#[cube]
impl<A: Float, P: Float, I: Int, N: Size> Inputs<A, P, I, N> {
    /// Target of a row. A row of weight 0 is ignored, whatever its target.
    pub(crate) fn target<K: Int>(&self, row: usize, classes: usize) -> Target {
        let target = #[comptime]
        match &self.indices {
            ComptimeOption::Some(indices) => {
                target_of_row::<I, K>(indices, row, classes, &self.ignored)
            }
            ComptimeOption::None => every_class(),
        };
        match comptime!(self.weighed.rows) {
            false => target,
            true => {
                let weighs = self.row_weight(row, classes) != A::new(0.0);
                Target {
                    class: select(weighs, target.class, 0u32),
                    counts: weighs && target.counts,
                    is_bad: weighs && target.is_bad,
                }
            }
        }
    }

    /// Class whose rank is wanted: that of the index target, or of the largest share of a distribution.
    pub(crate) fn class_to_rank(&self, row: usize, target: &Target, extent: &Extent) -> u32 {
        let mut class = target.class;
        if comptime!(self.weighed.entries) {
            #[comptime]
            if let ComptimeOption::Some(indices) = &self.indices {
                class = u32::cast_from(indices[extent.rows + row]);
            }
        }
        #[comptime]
        if let ComptimeOption::Some(labels) = &self.labels {
            class = u32::cast_from(labels[row]);
        }
        class
    }

    /// Weight of a class; 1 without weights.
    pub(crate) fn weight(&self, class: usize) -> A {
        let mut weight = A::new(1.0);
        if comptime!(self.weighed.classes) {
            #[comptime]
            if let ComptimeOption::Some(weights) = &self.weights {
                weight = weights[class];
            }
        }
        weight
    }

    /// Weight of a row; 1 without weights.
    pub(crate) fn row_weight(&self, row: usize, classes: usize) -> A {
        let mut weight = A::new(1.0);
        if comptime!(self.weighed.rows) {
            #[comptime]
            if let ComptimeOption::Some(weights) = &self.weights {
                let first = match comptime!(self.weighed.classes) {
                    true => classes,
                    false => 0usize.runtime(),
                };
                weight = weights[first + row];
            }
        }
        weight
    }

    /// Numbers of the rows of a slot in one of the [`lines`], in each lane.
    fn numbers_of_slot(
        &self,
        slot: usize,
        #[comptime] line: usize,
        extent: &Extent,
        #[comptime] along: Along,
    ) -> Vector<A, N> {
        let mut numbers = Vector::<A, N>::new(A::new(0.0));
        match comptime!(along) {
            Along::Classes => numbers = Vector::new(self.number_of_row(slot, line, extent)),
            Along::Positions =>
            {
                #[unroll]
                for lane in 0..N::value().comptime() {
                    let row = slot * N::value().comptime() + lane;
                    numbers.insert(lane, self.number_of_row(row, line, extent));
                }
            }
        }
        numbers
    }

    /// Number of a row in one of the [`lines`], which stand behind the weights of classes and rows.
    pub(crate) fn number_of_row(&self, row: usize, #[comptime] line: usize, extent: &Extent) -> A {
        let at = line * extent.rows + row;
        let mut first = 0usize.runtime();
        if comptime!(self.weighed.classes) {
            first += extent.classes;
        }
        if comptime!(self.weighed.rows) {
            first += extent.rows;
        }
        #[comptime]
        match &self.weights {
            ComptimeOption::Some(weights) => weights[first + at],
            ComptimeOption::None => A::new(0.0),
        }
    }

    /// Even shares of a step with the scores `x`, of which masked classes have none where the rows have shares of
    /// their own.
    pub(crate) fn even_shares(
        &self,
        x: Vector<A, N>,
        rows: &RowShares<A, N>,
        numbers: &Numbers,
        #[comptime] are_probabilities: bool,
    ) -> Vector<A, N> {
        match comptime!(self.weighed.evens) {
            false => Vector::new(numbers.even.get::<A>()),
            true => {
                let masked = masked_number::<A, N>(numbers.lowest.get::<A>(), are_probabilities);
                select_many(x.equal(&masked), Vector::new(A::new(0.0)), rows.even)
            }
        }
    }

    /// Number of a class without a share in the distributions: a masked logit of a teacher, or 0.
    pub(crate) fn masked_share(&self, lowest: A) -> P {
        match comptime!(self.weighed.teacher) {
            true => P::cast_from(lowest),
            false => P::new(0.0),
        }
    }

    /// Vector of the distributions at a place; zeros without distributions.
    pub(crate) fn distribution(&self, place: usize) -> Vector<P, N> {
        #[comptime]
        match &self.distributions {
            ComptimeOption::Some(distributions) => distributions[place],
            ComptimeOption::None => Vector::new(P::new(0.0)),
        }
    }

    /// Spread shares of a step, `w[c] ((1 - e) p[c] + even[c])`: shares that distributions (whose [own
    /// shares](Self::own_shares) are `own`) and label smoothing give to every class of the row.
    pub(crate) fn shares(
        &self,
        own: Vector<A, N>,
        even: Vector<A, N>,
        classes: Classes,
        numbers: &Numbers,
        #[comptime] tile: Tile,
    ) -> Vector<A, N> {
        let mut shares = even;
        #[comptime]
        if let ComptimeOption::Some(_) = &self.distributions {
            shares += Vector::new(numbers.remaining.get::<A>()) * own;
        }
        let shares = shares * self.weights(classes, tile);
        classes.masked::<A, N>(shares, A::new(0.0), tile)
    }

    /// Shares of a step in the distributions alone, without smoothing and weights. Of a teacher they are the
    /// probabilities `exp((t - maximum) scale) / sum`.
    pub(crate) fn own_shares(
        &self,
        distribution: Vector<P, N>,
        rows: &RowShares<A, N>,
        numbers: &Numbers,
    ) -> Vector<A, N> {
        let mut shares = zeros::<A, N>();
        #[comptime]
        if let ComptimeOption::Some(_) = &self.distributions {
            shares = Vector::cast_from(distribution);
            if comptime!(self.weighed.teacher) {
                let before = Vector::new(numbers.before_of_teacher.get::<A>());
                let after = Vector::new(numbers.after_of_teacher.get::<A>());
                let below = (shares * before - rows.maximum * before) * after;
                shares = below.exp() * rows.probability;
            }
        }
        shares
    }

    /// Weights of the classes of a step; any for those of other rows.
    pub(crate) fn weights(&self, classes: Classes, #[comptime] tile: Tile) -> Vector<A, N> {
        let mut weights = Vector::<A, N>::new(A::new(1.0));
        if comptime!(self.weighed.classes) {
            #[comptime]
            if let ComptimeOption::Some(given) = &self.weights {
                match comptime!(tile.along) {
                    Along::Positions => weights = Vector::new(given[classes.first]),
                    Along::Classes =>
                    {
                        #[unroll]
                        for lane in 0..N::value().comptime() {
                            let mut class = classes.first + lane;
                            if comptime!(tile.masks_others()) {
                                class = class.min(classes.of_row - 1);
                            }
                            weights.insert(lane, given[class]);
                        }
                    }
                }
            }
        }
        weights
    }
}

#[cube]
impl<A: Float, N: Size> RowShares<A, N> {
    pub(crate) fn new() -> RowShares<A, N> {
        RowShares::<A, N> {
            even: zeros(),
            maximum: zeros(),
            probability: zeros(),
        }
    }

    /// Reads the numbers of the rows of a slot.
    pub(crate) fn read<P: Float, I: Int>(
        &mut self,
        inputs: &Inputs<A, P, I, N>,
        slot: usize,
        extent: &Extent,
        #[comptime] along: Along,
    ) {
        let weighed = comptime!(inputs.weighed);
        if comptime!(weighed.teacher) {
            self.maximum = inputs.numbers_of_slot(slot, lines::TEACHER, extent, along);
            let others = inputs.numbers_of_slot(slot, lines::OTHERS, extent, along);
            self.probability = ones::<A, N>() / (ones::<A, N>() + others);
        }
        if comptime!(weighed.evens) {
            let line = comptime!(weighed.lines_before_evens());
            self.even = inputs.numbers_of_slot(slot, line, extent, along);
        }
    }
}

/// Number of a masked class: a logit of minus infinity, a probability of 0.
#[cube]
pub(crate) fn masked_number<A: Float, N: Size>(
    lowest: A,
    #[comptime] are_probabilities: bool,
) -> Vector<A, N> {
    match comptime!(are_probabilities) {
        true => zeros(),
        false => Vector::new(lowest),
    }
}
