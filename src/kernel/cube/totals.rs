//! Reduction of the losses to one number: by one cube, or for many rows in two stages. The order is always
//! the same, so that the same inputs give the same bits.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

use super::group::{Group, GroupSize};
use super::launch::{Buffer, Call, Reduction, hardware};
use super::sum::{Sum, zeros};
use super::targets::{Inputs, InputsLaunch};

/// Source of the divisors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DivisorSource {
    /// The weight of the counted rows; for the z-loss the number of counted rows.
    Weight,
    /// A number that the host knows, or divisors that were given.
    Given,
}

/// Constants that are compiled into the kernels over the sums.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TotalsSpec {
    /// Group of units; a cube has one group.
    pub(crate) group: GroupSize,
    pub(crate) has_z_loss: bool,
    pub(crate) divisor: DivisorSource,
}

/// Number of sums of a cube: losses, z-losses, weight and number of counted rows.
pub(crate) const SUMS: usize = 4;

/// Terms that one run of a unit's sums adds up, see [`Sum`]. On a CPU a cube has one unit per core, so
/// that a unit has hundreds of terms.
const TERMS_OF_A_RUN: usize = 32;
/// Rows whose numbers a unit loads before it adds them up: each waits for the memory, and together they wait
/// once.
const ROWS_IN_FLIGHT: usize = 8;

/// Sizes and numbers of a reduction.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Mean {
    pub(crate) rows: usize,
    pub(crate) classes: usize,
    /// Number of cubes that share the rows.
    pub(crate) cubes: usize,
    /// Result of a mean whose divisor is 0.
    pub(crate) empty: InputScalar,
    /// Divisor, where the host gives it.
    pub(crate) divisor: InputScalar,
}

#[derive(CubeType)]
struct Sums<A: Float> {
    loss: Sum<A, Const<1>>,
    penalty: Sum<A, Const<1>>,
    weight: Sum<A, Const<1>>,
    counted: Sum<A, Const<1>>,
}

/// Sums of a cube.
#[derive(CubeType)]
struct CubeSums<A: Float> {
    loss: A,
    penalty: A,
    weight: A,
    counted: A,
}

/// Buffers that the kernels write.
#[derive(CubeType, CubeLaunch)]
pub(crate) struct Outcome<A: Float> {
    /// `SUMS` numbers per cube, where another kernel adds them up.
    pub(crate) partials: ComptimeOption<Box<[A]>>,
    /// One number, if the losses are added up.
    pub(crate) loss: ComptimeOption<Box<[A]>>,
    /// Divisors of the losses and of the z-losses.
    pub(crate) divisors: ComptimeOption<Box<[A]>>,
}

/// Adds up the rows: each cube its own rows, or a single cube all of them.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn totals_of_rows<A: Float, P: Float, I: Int, K: Int>(
    losses: ComptimeOption<&[A]>,
    inputs: Inputs<A, P, I, Const<1>>,
    mut outcome: Outcome<A>,
    given_divisors: ComptimeOption<&[A]>,
    mean: Mean,
    #[comptime] spec: TotalsSpec,
    #[define(A, P, I, K)] _dtypes: [ElemType; 4],
) {
    let rows = mean.rows;
    let length = rows.div_ceil(mean.cubes);
    let first = (CUBE_POS * length).min(rows);
    let end = (first + length).min(rows);
    let mut sums = Sums::<A>::nothing();
    // Every unit loops equally often, see `Span::begin`.
    let units = comptime!(spec.group.units as usize);
    let mut base = first;
    while base < end {
        let end_of_run = end.min(base + TERMS_OF_A_RUN * units);
        while base < end_of_run {
            #[unroll]
            for nth in 0..ROWS_IN_FLIGHT {
                let row = base + nth * units + UNIT_POS as usize;
                let exists = row < end;
                // A load behind a branch would wait for the load before it.
                let row = row.min(end - 1);
                #[comptime]
                if let ComptimeOption::Some(losses) = losses {
                    sums.loss.add(or_nothing(exists, losses[row]));
                    if comptime!(spec.has_z_loss) {
                        sums.penalty.add(or_nothing(exists, losses[rows + row]));
                    }
                }
                if comptime!(spec.divisor == DivisorSource::Weight) {
                    let target = inputs.target::<K>(row, mean.classes);
                    let counts = exists && target.counts;
                    let of_row = inputs.row_weight(row, mean.classes);
                    let mut weight = of_row;
                    #[comptime]
                    if let ComptimeOption::Some(_) = &inputs.indices {
                        // Entries have the weights of their classes in their shares.
                        if comptime!(!inputs.weighed.entries) {
                            weight = of_row * inputs.weight(target.class as usize);
                        }
                    }
                    sums.weight.add(or_nothing(counts, weight));
                    sums.counted.add(or_nothing(counts, of_row));
                }
            }
            base += comptime!(ROWS_IN_FLIGHT * units);
        }
        sums.end_run();
    }
    let sums = sums.of_cube(comptime!(spec.group));
    if UNIT_POS == 0 && CUBE_POS < mean.cubes {
        #[comptime]
        match &mut outcome.partials {
            ComptimeOption::Some(partials) => sums.write(partials),
            ComptimeOption::None => {
                sums.conclude(&mut outcome, given_divisors, &mean, spec.clone())
            }
        }
    }
}

/// Adds up the sums of the cubes.
#[cube(launch_unchecked, address_type = "dynamic")]
pub(crate) fn totals_of_cubes<A: Float>(
    partials: &[A],
    mut outcome: Outcome<A>,
    given_divisors: ComptimeOption<&[A]>,
    mean: Mean,
    #[comptime] spec: TotalsSpec,
    #[define(A)] _dtype: ElemType,
) {
    let mut sums = Sums::<A>::nothing();
    let units = comptime!(spec.group.units as usize);
    let mut base = 0usize;
    while base < mean.cubes {
        let end_of_run = mean.cubes.min(base + TERMS_OF_A_RUN * units);
        while base < end_of_run {
            let cube = base + UNIT_POS as usize;
            if cube < mean.cubes {
                let at = cube * SUMS;
                sums.loss.add(Vector::new(partials[at]));
                sums.penalty.add(Vector::new(partials[at + 1]));
                sums.weight.add(Vector::new(partials[at + 2]));
                sums.counted.add(Vector::new(partials[at + 3]));
            }
            base += units;
        }
        sums.end_run();
    }
    let sums = sums.of_cube(comptime!(spec.group));
    if UNIT_POS == 0 && CUBE_POS == 0 {
        sums.conclude(&mut outcome, given_divisors, &mean, spec.clone());
    }
}

/// The term of a sum, or 0 where there is none.
#[cube]
fn or_nothing<A: Float>(exists: bool, term: A) -> Vector<A, Const<1>> {
    Vector::new(select(exists, term, A::new(0.0)))
}

/// Mean of the losses, or `empty` where the divisor is 0. A sum of NaN stays NaN: it comes from a bad target.
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
            loss: Sum::of(zeros()),
            penalty: Sum::of(zeros()),
            weight: Sum::of(zeros()),
            counted: Sum::of(zeros()),
        }
    }

    fn end_run(&mut self) {
        self.loss.end_run();
        self.penalty.end_run();
        self.weight.end_run();
        self.counted.end_run();
    }

    /// Sums of all units.
    fn of_cube(&self, #[comptime] size: GroupSize) -> CubeSums<A> {
        let mut group = Group::<A>::new(size);
        let mut sums = Sequence::<A>::new();
        sums.push(self.loss.value().extract(0usize));
        sums.push(self.penalty.value().extract(0usize));
        sums.push(self.weight.value().extract(0usize));
        sums.push(self.counted.value().extract(0usize));
        let sums = group.sums(sums);
        CubeSums::<A> {
            loss: sums[0],
            penalty: sums[1],
            weight: sums[2],
            counted: sums[3],
        }
    }
}

#[cube]
impl<A: Float> CubeSums<A> {
    fn write(&self, partials: &mut [A]) {
        let at = CUBE_POS * SUMS;
        partials[at] = self.loss;
        partials[at + 1] = self.penalty;
        partials[at + 2] = self.weight;
        partials[at + 3] = self.counted;
    }

    /// Writes the loss, and the divisors of its two terms.
    fn conclude(
        &self,
        outcome: &mut Outcome<A>,
        given_divisors: ComptimeOption<&[A]>,
        mean: &Mean,
        #[comptime] spec: TotalsSpec,
    ) {
        let given = mean.divisor.get::<A>();
        let mut weight = given;
        let mut counted = given;
        if comptime!(spec.divisor == DivisorSource::Weight) {
            weight = self.weight;
            counted = self.counted;
        }
        #[comptime]
        if let ComptimeOption::Some(given_divisors) = given_divisors {
            weight = given_divisors[0];
            counted = given_divisors[1];
        }
        #[comptime]
        if let ComptimeOption::Some(divisors) = &mut outcome.divisors {
            divisors[0] = weight;
            divisors[1] = counted;
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
}

/// Reduction of the losses: its results, and its distribution over cubes.
struct Totals {
    loss: Option<Buffer>,
    divisors: Buffer,
    cubes: usize,
    spec: TotalsSpec,
}

impl Totals {
    /// Buffers that the last kernel writes.
    fn outcome<A: Float>(&self) -> OutcomeLaunch<A> {
        OutcomeLaunch::new(
            ComptimeOptionArgs::None,
            self.loss.as_ref().map(Buffer::argument).into(),
            Some(self.divisors.argument()).into(),
        )
    }
}

impl Call<'_> {
    /// Reduced loss, if losses are given, and the divisors of the losses and of the z-losses.
    pub(crate) fn totals(&self, losses: Option<&Buffer>) -> (Option<Buffer>, Buffer) {
        const ROWS_OF_ONE_CUBE: usize = 4096;
        const ROWS_OF_A_UNIT: usize = 8;
        const MOST_CUBES: usize = 1024;
        let spec = self.totals_spec(losses);
        let rows = self.geometry.rows();
        let cubes = match rows {
            // For so few rows, starting a second kernel takes longer than one cube.
            ..=ROWS_OF_ONE_CUBE => 1,
            _ => {
                let rows_of_a_cube = spec.group.units as usize * ROWS_OF_A_UNIT;
                rows.div_ceil(rows_of_a_cube).min(MOST_CUBES)
            }
        };
        let new = |length| Buffer::new(&self.client, self.arithmetic(), length);
        let totals = Totals {
            loss: losses.map(|_| new(1)),
            divisors: new(2),
            cubes,
            spec,
        };
        let partials = (cubes > 1).then(|| new(cubes * SUMS));
        self.launch_totals(&totals, losses, partials.as_ref());
        if let Some(partials) = partials {
            self.launch_totals_of_cubes(&totals, &partials);
        }
        (totals.loss, totals.divisors)
    }

    fn launch_totals(&self, totals: &Totals, losses: Option<&Buffer>, partials: Option<&Buffer>) {
        let arithmetic = self.arithmetic();
        // SAFETY: rows and classes are clamped, as in the launch of the losses. Cubes without rows
        // read nothing and write nothing.
        unsafe {
            totals_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(totals.cubes),
                CubeDim::new_1d(totals.spec.group.units),
                self.address_type([losses.map_or(0, |losses| losses.length)]),
                losses.map(Buffer::argument).into(),
                InputsLaunch::new(
                    self.indices().map(Buffer::argument).into(),
                    ComptimeOptionArgs::None,
                    self.weights.as_ref().map(Buffer::argument).into(),
                    self.weighed,
                    ComptimeOptionArgs::None,
                    self.ignored(),
                ),
                match partials {
                    None => totals.outcome(),
                    Some(partials) => OutcomeLaunch::new(
                        Some(partials.argument()).into(),
                        ComptimeOptionArgs::None,
                        ComptimeOptionArgs::None,
                    ),
                },
                self.given_divisors().map(Buffer::argument).into(),
                self.mean(totals.cubes),
                totals.spec.clone(),
                [arithmetic, arithmetic, self.index(), self.comparison()],
            );
        }
    }

    fn launch_totals_of_cubes(&self, totals: &Totals, partials: &Buffer) {
        // SAFETY: the only cube reads the sums that every cube has written, and writes one loss and two
        // divisors.
        unsafe {
            totals_of_cubes::launch_unchecked(
                &self.client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(totals.spec.group.units),
                self.address_type([partials.length]),
                partials.argument(),
                totals.outcome(),
                self.given_divisors().map(Buffer::argument).into(),
                self.mean(totals.cubes),
                totals.spec.clone(),
                self.arithmetic(),
            );
        }
    }

    fn given_divisors(&self) -> Option<&Buffer> {
        match &self.reduction {
            Reduction::OverBuffer(divisors) => Some(divisors),
            _ => None,
        }
    }

    fn totals_spec(&self, losses: Option<&Buffer>) -> TotalsSpec {
        let hardware = hardware(&self.client);
        let units = 1 << hardware.units_per_cube.clamp(1, 256).ilog2();
        let has_planes = hardware.plane_operations && hardware.plane_size <= units;
        let may_drop_rows = !self.has_distributions() || self.weighed.rows;
        let is_weighed = matches!(self.reduction, Reduction::Mean) && may_drop_rows;
        TotalsSpec {
            group: GroupSize {
                units,
                rows: 1,
                planes: has_planes.then_some(hardware.plane_size),
            },
            has_z_loss: losses.is_some() && self.options.z_loss != 0.0,
            divisor: if is_weighed {
                DivisorSource::Weight
            } else {
                DivisorSource::Given
            },
        }
    }

    fn mean(&self, cubes: usize) -> MeanLaunch {
        MeanLaunch::new(
            self.geometry.rows(),
            self.geometry.classes,
            cubes,
            self.number(self.options.empty.value()),
            self.number(match self.reduction {
                Reduction::Over(divisor) => divisor,
                Reduction::Mean => self.geometry.rows() as f64,
                Reduction::PerRow | Reduction::OverBuffer(_) => 1.0,
            }),
        )
    }
}
