//! Distribution of the rows over the units of a device: a pure function of the problem and of the
//! limits of the hardware.
//!
//! | strategy | where | a row's sums come together |
//! |---|---|---|
//! | a unit per row | few classes, or strided ones with rows side by side | in the unit |
//! | a plane per row | up to some thousand classes | by plane operations, or in shared memory |
//! | a cube per row | more classes | the same, then across planes in shared memory |
//!
//! Where the rows are few and the classes very many, each of these takes only a part of a row, and a
//! second kernel merges the parts.

use super::group::{GroupSize, bytes_of_group};

mod forced;
mod problem;

pub(crate) use forced::forced;
pub use forced::{Forced, forcing};
pub(crate) use problem::Problem;

/// Direction of the elements of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Along {
    /// Consecutive classes of one row.
    Classes,
    /// One class of consecutive rows.
    Positions,
}

/// Vectors of a row that also hold numbers that are not the row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SharedVectors {
    /// There are none.
    None,
    /// The last vector of a row ends in a gap before the next, which nobody reads.
    Gaps,
    /// Rows begin anywhere in a vector. The first and the last of a row are read by its neighbours too, each of which masks
    /// the classes of the other, and not written: two units may not write one vector.
    Rows,
    /// Only the classes in such vectors of this size are visited, one by one.
    Alone(u32),
}

/// Units that compute a row together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// One unit.
    Unit,
    /// The number of units that a plane has.
    Plane,
    /// All units of a cube.
    Cube,
}

/// Limits of a device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hardware {
    pub(crate) plane_size: u32,
    /// Whether all planes have this size and can add up.
    pub(crate) plane_operations: bool,
    pub(crate) units_per_cube: u32,
    /// Number of multiprocessors, where known.
    pub(crate) multiprocessors: Option<u32>,
    /// Bytes of shared memory that a cube can have.
    pub(crate) shared_memory: usize,
    /// Whether the device is a CPU, which reads a row fastest from one end to the other.
    pub(crate) is_cpu: bool,
}

/// Part of a plan that is compiled into the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tile {
    pub(crate) along: Along,
    /// Units that share a row, a power of two.
    pub(crate) units: u32,
    /// Rows (or vectors of rows) of a cube.
    pub(crate) rows: u32,
    /// Vectors that a unit loads before it computes.
    pub(crate) unroll: u32,
    /// Whether a unit takes one block of vectors only. Then all vectors of the block but the last are within
    /// the row for every unit.
    pub(crate) is_single_block: bool,
    /// Size of a plane, where planes add up.
    pub(crate) planes: Option<u32>,
    /// Whether rows lie side by side behind the class dimension. Without them, and without parts, one
    /// multiplication finds a row.
    pub(crate) has_positions: bool,
    /// Whether a cube takes one of several parts of a row.
    pub(crate) in_parts: bool,
    pub(crate) shared: SharedVectors,
    /// Blocks of a row that wait in shared memory for its gradient, behind the first, which waits in registers; 0 where the
    /// row has no other or is read twice.
    pub(crate) parked: u32,
    /// Vectors of the last parked block that exist for every unit.
    pub(crate) certain_of_last: u32,
}

impl Tile {
    /// Whether the units of a row hold it from its sums to its gradient, and have its maximum before its sums.
    pub(crate) fn holds_row(&self) -> bool {
        self.is_single_block || self.parked > 0
    }

    /// Whether vectors hold numbers that are not the row's, and are masked.
    pub(crate) fn masks_others(&self) -> bool {
        matches!(self.shared, SharedVectors::Gaps | SharedVectors::Rows)
    }

    /// Whether rows have vectors in common, and begin anywhere in one.
    pub(crate) fn shares_vectors(&self) -> bool {
        self.shared == SharedVectors::Rows
    }

    /// Vectors of the first block that exist for every unit, where the units hold a row.
    pub(crate) fn certain_of_first(&self) -> u32 {
        match self.parked {
            0 => self.unroll - 1,
            _ => self.unroll,
        }
    }

    /// Groups of units that share a row.
    pub(crate) fn group(&self) -> GroupSize {
        GroupSize {
            units: self.units,
            rows: self.rows,
            planes: self.planes,
        }
    }
}

/// Distribution of the rows of a call over cubes and units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) tile: Tile,
    /// Number of elements of a vector.
    pub(crate) vector_size: usize,
    /// Vectors (or rows) from the first to the last class; where rows share vectors, of the row that has the most.
    pub(crate) steps: usize,
    /// Number of parts of a row.
    pub(crate) parts: usize,
    /// Number of rows, or of vectors of rows.
    pub(crate) slots: usize,
}

/// Most classes of a row that one unit computes: a shorter row is not worth sharing.
const CLASSES_OF_A_UNIT: usize = 32;
/// Most vectors in flight in a unit: enough to hide the memory's latency, few enough for its registers.
const UNROLL: usize = 8;
/// Most classes for each unit of a plane: a longer row is worth a cube.
const CLASSES_OF_A_LANE: usize = 32;
/// A processor's vectors have up to 16 lanes, whose sums are joined at the end of each block. Its caches hold what its
/// registers do not. Kernels of f64, which seldom matter there, would take longer to compile.
const MORE_ON_A_CPU: usize = 4;
const UNITS_PER_CUBE: u32 = 256;
/// Most units of a cube that computes losses and gradient.
const UNITS_OF_ONE_PASS: u32 = 512;
/// Least units of a group: fewer are not worth the exchange of their sums.
const LEAST_GROUP: u32 = 32;
/// Rows that keep a multiprocessor busy with one unit per row.
const ROWS_OF_A_MULTIPROCESSOR: usize = 64;
/// Units of a multiprocessor that hide the memory's latency.
const UNITS_OF_A_MULTIPROCESSOR: usize = 512;
/// Least blocks of a unit that make parts worthwhile: with fewer, it ends before a second kernel starts.
const BLOCKS_WORTH_PARTS: usize = 8;
const MOST_PARTS: usize = 256;
/// Least logits of a vector in shared memory: smaller ones take as many instructions as the second read of the row.
const LEAST_VECTOR_TO_PARK: usize = 4;
/// Least logits whose second read takes longer than two launches: some 10 microseconds at 3 TB/s.
const LOGITS_WORTH_ONE_PASS: usize = 8_000_000;
/// Number of multiprocessors where the device does not report it.
const MULTIPROCESSORS: usize = 32;

impl Plan {
    pub(crate) fn new(problem: &Problem, hardware: &Hardware, forced: Option<Forced>) -> Self {
        let choice = Choice::new(problem, hardware, forced);
        choice.plan(choice.strategy(problem))
    }

    /// Plan of the kernel that computes losses and gradient. A row of a cube is one block of its units, which hold it
    /// from the sums to the gradient, as long as it fits into their registers. A longer one they read twice: with more
    /// units for each, fewer rows are between both reads at once, and the caches hold more of them. For half precision the
    /// H100 was faster with 256 units (docs/performance.md, the prototype).
    pub(crate) fn of_one_pass(
        problem: &Problem,
        hardware: &Hardware,
        forced: Option<Forced>,
    ) -> Self {
        let whole_rows = forced.map(|forced| Forced {
            in_parts: false,
            ..forced
        });
        let choice = Choice {
            most_units: match problem.is_half {
                true => UNITS_PER_CUBE,
                false => UNITS_OF_ONE_PASS,
            },
            ..Choice::new(problem, hardware, whole_rows)
        };
        let strategy = choice.strategy(problem);
        let plain = choice.plan(strategy).without_parts();
        if choice.along == Along::Positions && !plain.tile.is_single_block {
            return choice.holding_positions(problem).unwrap_or(plain);
        }
        let is_forced = forced.is_some_and(|forced| forced.parked);
        if strategy != Strategy::Cube || plain.tile.is_single_block && !is_forced {
            return plain;
        }
        let held = problem.elements_held();
        let holding = Choice {
            elements_in_flight: held,
            unroll: held.div_ceil(choice.vector_size),
            ..choice
        };
        let holding = holding.plan(strategy).without_parts();
        match holding.tile.is_single_block && !is_forced {
            true => holding,
            false => choice.parking(problem).unwrap_or(plain),
        }
    }

    /// Plan of the kernel that merges the parts of rows.
    pub(crate) fn of_merge(&self, problem: &Problem, hardware: &Hardware) -> Self {
        let choice = Choice {
            along: Along::Classes,
            vector_size: 1,
            steps: self.parts,
            shared: SharedVectors::None,
            slots: problem.rows,
            inner: problem.inner,
            ..Choice::new(problem, hardware, None)
        };
        let strategy = match self.parts {
            ..=8 => Strategy::Unit,
            _ => Strategy::Plane,
        };
        let mut plan = choice.plan(strategy);
        // The tile is made for steps that are parts, with one cube per row. The kernel also needs the
        // classes, to look up the target, and the number of parts.
        plan.tile.in_parts = false;
        Self {
            steps: problem.classes,
            parts: self.parts,
            ..plan
        }
    }

    /// Whether one kernel computes the losses and the gradient of the logits.
    ///
    /// It saves a read of the logits, and costs two launches more: of the kernel that counts the divisors first, and of the
    /// one that looks at the upstream gradient. A processor's caches hold small problems from the forward to the
    /// backward, and large ones cost it arithmetic and not memory.
    pub(crate) fn takes_one_pass(
        &self,
        problem: &Problem,
        hardware: &Hardware,
        forced: Option<Forced>,
    ) -> bool {
        let is_worth = forced.map_or(
            // Kernels of f64 are bound by arithmetic, and of both in one the registers would spill.
            !hardware.is_cpu
                && !problem.is_double
                && problem.rows * problem.classes >= LOGITS_WORTH_ONE_PASS,
            |forced| forced.one_pass,
        );
        is_worth && self.parts == 1
    }

    /// Plan of the kernel that writes the gradients in the vectors that rows share; none where there are no such vectors.
    pub(crate) fn of_shared_vectors(&self, problem: &Problem, hardware: &Hardware) -> Option<Self> {
        let size = self.vector_size as u32;
        let choice = Choice {
            vector_size: 1,
            steps: problem.classes,
            shared: SharedVectors::Alone(size),
            ..Choice::new(problem, hardware, None)
        };
        let mut plan = choice.plan(Strategy::Unit).without_parts();
        // A row has fewer classes than a vector on either side.
        plan.tile.unroll = size - 1;
        plan.tile.is_single_block = false;
        self.tile.shares_vectors().then_some(plan)
    }

    /// Plan in which one group of units computes a whole row.
    pub(crate) fn without_parts(mut self) -> Self {
        self.tile.in_parts = false;
        Self { parts: 1, ..self }
    }

    /// Number of cubes to launch.
    pub(crate) fn cubes(&self) -> usize {
        let cubes_of_a_part = self.slots.div_ceil(self.tile.rows as usize);
        cubes_of_a_part * if self.tile.in_parts { self.parts } else { 1 }
    }

    /// Number of rows that the elements of a vector belong to.
    pub(crate) fn rows_of_a_vector(&self) -> usize {
        match self.tile.along {
            Along::Classes => 1,
            Along::Positions => self.vector_size,
        }
    }

    /// Number of units of a cube.
    pub(crate) fn units_per_cube(&self) -> u32 {
        self.tile.units * self.tile.rows
    }
}

struct Choice {
    hardware: Hardware,
    forced: Option<Forced>,
    along: Along,
    vector_size: usize,
    steps: usize,
    slots: usize,
    /// Number of slots side by side behind the class dimension.
    inner: usize,
    elements_in_flight: usize,
    /// Most units of a cube.
    most_units: u32,
    /// Most vectors in flight in a unit.
    unroll: usize,
    shared: SharedVectors,
}

impl Choice {
    fn new(problem: &Problem, hardware: &Hardware, forced: Option<Forced>) -> Self {
        let along = problem.along();
        let (vector_size, shared) = problem.vectors(along, forced);
        let (steps, slots) = match (along, shared) {
            (Along::Positions, _) => (problem.classes, problem.rows / vector_size),
            // The first class may be the last of a vector.
            (Along::Classes, SharedVectors::Rows) => (
                1 + (problem.classes + vector_size - 2) / vector_size,
                problem.rows,
            ),
            (Along::Classes, _) => (problem.classes.div_ceil(vector_size), problem.rows),
        };
        Self {
            hardware: *hardware,
            forced,
            along,
            vector_size,
            steps,
            slots,
            inner: problem.inner / (problem.rows / slots),
            elements_in_flight: match hardware.is_cpu && !problem.is_double {
                true => MORE_ON_A_CPU * problem.elements_in_flight(),
                false => problem.elements_in_flight(),
            },
            most_units: UNITS_PER_CUBE,
            unroll: UNROLL,
            shared,
        }
    }

    fn strategy(&self, problem: &Problem) -> Strategy {
        let enough_rows = self.slots >= ROWS_OF_A_MULTIPROCESSOR * self.multiprocessors();
        let is_strided = problem.layouts.iter().any(|(layout, _)| layout.class != 1);
        // Neighbouring units read neighbouring positions.
        let is_along = self.along == Along::Positions;
        if let Some(forced) = self.forced
            && !is_along
        {
            forced.strategy
        } else if self.hardware.is_cpu
            || is_along
            || (is_strided && enough_rows)
            || problem.classes <= CLASSES_OF_A_UNIT
        {
            Strategy::Unit
        } else if problem.classes
            <= CLASSES_OF_A_LANE.min(UNROLL * self.vector_size)
                * self.plane().max(LEAST_GROUP) as usize
        {
            Strategy::Plane
        } else {
            Strategy::Cube
        }
    }

    fn plan(&self, strategy: Strategy) -> Plan {
        let planes = self
            .forced
            .map_or(self.hardware.plane_operations, |forced| forced.planes);
        let plane = self.plane();
        let units = self.units(strategy, planes);
        let rows = match strategy {
            Strategy::Unit | Strategy::Plane => self.rows_of_a_cube(units),
            Strategy::Cube => 1,
        };
        let parts = self.parts(units);
        let steps_of_a_unit = self.steps.div_ceil(units as usize * parts);
        // The steps of a unit are divided into blocks of equal size.
        let blocks = steps_of_a_unit.div_ceil(self.unroll()).max(1);
        let unroll = steps_of_a_unit.div_ceil(blocks).max(1);
        Plan {
            tile: Tile {
                along: self.along,
                units,
                rows,
                unroll: unroll as u32,
                is_single_block: blocks == 1 && parts == 1,
                planes: (planes && plane > 1 && units >= plane).then_some(plane),
                has_positions: self.inner > 1,
                in_parts: parts > 1,
                shared: self.shared,
                parked: 0,
                certain_of_last: 0,
            },
            vector_size: self.vector_size,
            steps: self.steps,
            parts,
            slots: self.slots,
        }
    }

    /// Plan in which a unit holds all classes of positions side by side, of fewer positions than the largest vectors have.
    /// The rows of all units together are tens of megabytes, which may have left a GPU's caches before a second read.
    fn holding_positions(&self, problem: &Problem) -> Option<Plan> {
        // Each position has numbers of its own beside its logits, and a multiprocessor is to have room for several cubes.
        let held = problem.elements_held() * 3 / 4;
        let fits = |size: &usize| *size <= self.vector_size && size * problem.classes <= held;
        let vector_sizes = Vec::from_iter(problem.vector_sizes.iter().copied().filter(fits));
        if vector_sizes.is_empty() {
            return None;
        }
        let narrow = Problem {
            vector_sizes,
            ..problem.clone()
        };
        let choice = Choice {
            elements_in_flight: held,
            most_units: self.most_units,
            unroll: problem.classes,
            ..Choice::new(&narrow, &self.hardware, self.forced)
        };
        Some(choice.plan(Strategy::Unit).without_parts())
    }

    /// Plan in which the units of a cube hold a row of several blocks, the first in registers and the others in shared memory.
    ///
    /// On an H100 that took 0.92 of the time of a second read out of the caches in half precision, and in f32 0.97
    /// (docs/performance.md, the prototype), so that only half precision has it. Two small cubes of a multiprocessor are
    /// faster than a large one: while the units of one add up, those of the other read.
    fn parking(&self, problem: &Problem) -> Option<Plan> {
        let is_worth = match self.forced {
            Some(forced) => forced.parked,
            None => problem.is_half,
        };
        let is_taken = !problem.has_distributions && !problem.has_outputs && !problem.is_double;
        if !is_worth || !is_taken || self.vector_size < LEAST_VECTOR_TO_PARK {
            return None;
        }
        let memory = self.hardware.shared_memory;
        let cubes = [(UNITS_PER_CUBE, memory / 2), (UNITS_OF_ONE_PASS, memory)];
        cubes
            .into_iter()
            .find_map(|(most_units, memory)| self.parking_in(most_units, memory, problem))
    }

    fn parking_in(&self, most_units: u32, memory: usize, problem: &Problem) -> Option<Plan> {
        let unroll = match self.forced {
            // Short rows of tests have several blocks too.
            Some(_) => 2,
            // The masks take registers.
            None if self.shared != SharedVectors::None => UNROLL - 2,
            None => UNROLL,
        };
        let choice = Choice {
            elements_in_flight: unroll * self.vector_size,
            most_units,
            unroll,
            ..*self
        };
        let mut plan = choice.plan(Strategy::Cube).without_parts();
        let tile = &mut plan.tile;
        let vectors = self.steps.div_ceil(tile.units as usize) as u32;
        let parked = vectors.div_ceil(tile.unroll) - 1;
        let size_of_vector = self.vector_size * if problem.is_half { 2 } else { 4 };
        let bytes = (parked * tile.unroll * tile.units) as usize * size_of_vector;
        // The maximum and the sums of the units have a place each.
        let fits = bytes + 2 * bytes_of_group::<f32>(tile.group()) <= memory;
        // All vectors but the last of each unit exist, and lie in the last block or before it.
        let certain_of_last = (vectors - 1).checked_sub(parked * tile.unroll)?;
        tile.parked = parked;
        tile.certain_of_last = certain_of_last;
        (fits && parked > 0).then_some(plan)
    }

    fn multiprocessors(&self) -> usize {
        let count = self.hardware.multiprocessors;
        count.map_or(MULTIPROCESSORS, |count| count as usize)
    }

    fn max_units(&self) -> u32 {
        let units = self.hardware.units_per_cube.clamp(1, self.most_units);
        1 << units.ilog2()
    }

    /// Size of a plane, if whole planes can make groups of units.
    fn plane(&self) -> u32 {
        match self.hardware.plane_size {
            size if size.is_power_of_two() => size,
            _ => 1,
        }
    }

    fn unroll(&self) -> usize {
        (self.unroll).min(self.elements_in_flight.div_ceil(self.vector_size))
    }

    /// Number of units that share a row.
    fn units(&self, strategy: Strategy, planes: bool) -> u32 {
        let plane = self.plane();
        let units = match strategy {
            Strategy::Unit => 1,
            Strategy::Plane if planes => plane,
            Strategy::Plane => LEAST_GROUP,
            Strategy::Cube => {
                let wanted = self.steps.div_ceil(self.unroll()).next_power_of_two();
                let wanted = u32::try_from(wanted).unwrap_or(UNITS_PER_CUBE);
                wanted.clamp(2 * plane.max(LEAST_GROUP), 2 * plane.max(UNITS_PER_CUBE))
            }
        };
        units.min(self.max_units())
    }

    /// Number of rows of a cube: all that it has room for, but fewer where cubes would not be enough for
    /// all multiprocessors.
    fn rows_of_a_cube(&self, units: u32) -> u32 {
        let most = self.max_units() / units;
        let least = (self.plane() / units).clamp(1, most);
        let spread = self.slots.div_ceil(2 * self.multiprocessors());
        let spread = u32::try_from(spread.next_power_of_two()).unwrap_or(most);
        spread.clamp(least, most)
    }

    /// Number of parts that keeps the units of every multiprocessor busy, as far as the classes last.
    fn parts(&self, units: u32) -> usize {
        let units = units as usize;
        let wanted = (UNITS_OF_A_MULTIPROCESSOR * self.multiprocessors())
            .div_ceil(self.slots.max(1) * units)
            .min(MOST_PARTS);
        let blocks = self.steps / (units * self.unroll());
        match self.forced {
            Some(forced) if forced.in_parts => wanted.min(blocks).max(2).min(self.steps).max(1),
            Some(_) => 1,
            None if self.hardware.is_cpu || blocks < BLOCKS_WORTH_PARTS => 1,
            None => wanted.min(blocks).max(1),
        }
    }
}

#[cfg(test)]
mod tests;
