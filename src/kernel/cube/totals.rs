//! The losses of the rows as one number: by one cube, or where the rows are many in two stages; always
//! in the same order, so that the same inputs give the same bits.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::group::{Group, GroupSize};
use super::targets::{Inputs, target_of_row};

/// What the mean over nothing, or the sum, is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Denominator {
    /// What the rows weigh; the z-loss over the number of counted rows.
    Weight,
    /// A number that is known beforehand, or the numbers of a normalizer.
    Given,
}

/// What is compiled into the kernels over the sums.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TotalsSpec {
    /// One to a cube.
    pub(crate) group: GroupSize,
    pub(crate) has_z_loss: bool,
    pub(crate) denominator: Denominator,
    pub(crate) ignored: Vec<i64>,
}

/// Losses, z-losses, weight and number of rows.
pub(crate) const SUMS: usize = 4;

/// Numbers of a reduction besides those of every call.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Mean {
    /// What the mean over nothing is.
    pub(crate) empty: InputScalar,
    /// Where the denominator is given.
    pub(crate) denominator: InputScalar,
}

#[derive(CubeType)]
struct Sums<A: Float> {
    loss: A,
    penalty: A,
    weight: A,
    counted: A,
}

/// How many there are.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Counts {
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// That share the rows.
    pub(crate) cubes: usize,
}

/// What the kernels write.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Outcome<A: Float> {
    /// `SUMS` numbers per cube, where another kernel adds them up.
    pub(crate) partials: ComptimeOption<Box<[A]>>,
    /// One number, if the losses are added up.
    pub(crate) loss: ComptimeOption<Box<[A]>>,
    /// What the losses and the z-losses are divided by.
    pub(crate) denominators: ComptimeOption<Box<[A]>>,
}

/// Adds up the rows: each cube its own, or the only one all.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn totals_of_rows<A: Float, P: Float, I: Int, K: Int>(
    losses: ComptimeOption<&[A]>,
    inputs: Inputs<A, P, I, Const<1>>,
    mut outcome: Outcome<A>,
    normalizer: ComptimeOption<&[A]>,
    mean: Mean,
    counts: Counts,
    #[comptime] spec: TotalsSpec,
    #[define(A, P, I, K)] _dtypes: [ElemType; 4],
) {
    let rows = counts.rows;
    let length = rows.div_ceil(counts.cubes);
    let first = (CUBE_POS * length).min(rows);
    let end = (first + length).min(rows);
    let mut sums = Sums::<A>::nothing();
    // As often in every unit, see `Span::begin`.
    let mut base = first;
    while base < end {
        let row = base + UNIT_POS as usize;
        if row < end {
            #[comptime]
            if let ComptimeOption::Some(losses) = losses {
                sums.loss += losses[row];
                if comptime!(spec.has_z_loss) {
                    sums.penalty += losses[rows + row];
                }
            }
            if comptime!(spec.denominator == Denominator::Weight) {
                #[comptime]
                if let ComptimeOption::Some(indices) = &inputs.indices {
                    let ignored = comptime!(spec.ignored.clone());
                    let target = target_of_row::<I, K>(indices, row, counts.classes, ignored);
                    let weight = inputs.weight(target.class as usize);
                    sums.weight += select(target.counts, weight, A::new(0.0));
                    sums.counted += select(target.counts, A::new(1.0), A::new(0.0));
                }
            }
        }
        base += comptime!(spec.group.units as usize);
    }
    sums.add_up(spec.clone());
    if UNIT_POS == 0 && CUBE_POS < counts.cubes {
        #[comptime]
        match &mut outcome.partials {
            ComptimeOption::Some(partials) => sums.write(partials),
            ComptimeOption::None => sums.conclude(&mut outcome, normalizer, &mean, spec.clone()),
        }
    }
}

/// Adds up what the cubes have added up.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn totals_of_cubes<A: Float>(
    partials: &[A],
    mut outcome: Outcome<A>,
    normalizer: ComptimeOption<&[A]>,
    mean: Mean,
    counts: Counts,
    #[comptime] spec: TotalsSpec,
    #[define(A)] _dtype: ElemType,
) {
    let mut sums = Sums::<A>::nothing();
    let mut base = 0usize;
    while base < counts.cubes {
        let cube = base + UNIT_POS as usize;
        if cube < counts.cubes {
            let at = cube * SUMS;
            sums.loss += partials[at];
            sums.penalty += partials[at + 1];
            sums.weight += partials[at + 2];
            sums.counted += partials[at + 3];
        }
        base += comptime!(spec.group.units as usize);
    }
    sums.add_up(spec.clone());
    if UNIT_POS == 0 && CUBE_POS == 0 {
        sums.conclude(&mut outcome, normalizer, &mean, spec.clone());
    }
}

/// The mean, or what `empty` says where there is nothing to share the sum among. NaN stays: a bad
/// target is no empty mean.
#[cube]
fn mean_of<A: Float>(sum: A, total: A, empty: A) -> A {
    let is_number = sum >= A::new(0.0) || sum < A::new(0.0);
    let is_empty = total == A::new(0.0) && is_number;
    let mut mean = empty;
    if !is_empty {
        mean = sum / total;
    }
    mean
}

#[cube]
impl<A: Float> Sums<A> {
    fn nothing() -> Sums<A> {
        Sums::<A> {
            loss: A::new(0.0),
            penalty: A::new(0.0),
            weight: A::new(0.0),
            counted: A::new(0.0),
        }
    }

    fn write(&self, partials: &mut [A]) {
        let at = CUBE_POS * SUMS;
        partials[at] = self.loss;
        partials[at + 1] = self.penalty;
        partials[at + 2] = self.weight;
        partials[at + 3] = self.counted;
    }

    /// The loss, and the denominators of its two terms.
    fn conclude(
        &self,
        outcome: &mut Outcome<A>,
        normalizer: ComptimeOption<&[A]>,
        mean: &Mean,
        #[comptime] spec: TotalsSpec,
    ) {
        let given = mean.denominator.get::<A>();
        let mut weight = given;
        let mut counted = given;
        if comptime!(spec.denominator == Denominator::Weight) {
            weight = self.weight;
            counted = self.counted;
        }
        #[comptime]
        if let ComptimeOption::Some(normalizer) = normalizer {
            weight = normalizer[0];
            counted = normalizer[1];
        }
        #[comptime]
        if let ComptimeOption::Some(denominators) = &mut outcome.denominators {
            denominators[0] = weight;
            denominators[1] = counted;
        }
        #[comptime]
        if let ComptimeOption::Some(loss) = &mut outcome.loss {
            let empty = mean.empty.get::<A>();
            let mut result = mean_of::<A>(self.loss, weight, empty);
            if comptime!(spec.has_z_loss) {
                result += mean_of::<A>(self.penalty, counted, empty);
            }
            loss[0] = result;
        }
    }

    fn add_up(&mut self, #[comptime] spec: TotalsSpec) {
        let mut group = Group::<A>::new(comptime!(spec.group));
        let mut sums = Sequence::<A>::new();
        sums.push(self.loss);
        sums.push(self.penalty);
        sums.push(self.weight);
        sums.push(self.counted);
        let sums = group.sums(sums);
        self.loss = sums[0];
        self.penalty = sums[1];
        self.weight = sums[2];
        self.counted = sums[3];
    }
}
