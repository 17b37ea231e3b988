//! Loss and gradient of every row in one kernel, for an upstream gradient of 1. The units that have read a row for its loss
//! hold it for its gradient, or read it again at once, from the device's caches. The memory sees one read and one write,
//! where a backward of its own reads every row a second time.
//!
//! The divisor of a mean is not known before all rows are counted, so it is counted from the targets before. What the
//! backward has still to do is in [`upstream`](super::upstream).
//!
//! No unit waits for another between the sums of a row and its gradients, which may replace the logits. So a unit reads
//! no logits but its own after the sums: the one that holds the target's logit concludes the row. Vectors of two rows keep
//! their logits until a kernel of their own writes their gradients.

use burn_cubecl::cubecl;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::backward::{Gradients, GradientsLaunch, Lanes};
use super::finish::{Results, ResultsLaunch};
use super::forward::{RowOfUnit, conclude, sums_below, sums_of_group};
use super::from_forward::{FromForward, Statistics};
use super::group::Group;
use super::launch::{
    Buffer, Call, FromForwardBuffers, Full, GradientBuffer, Reduction, RowResults, hardware,
};
use super::outputs::RankedClass;
use super::parked::Parked;
use super::plan::{self, Along, Plan};
use super::scan::{begin, scan};
use super::spec::{Span, Spec, Uniforms, UniformsLaunch, Values, span};
use super::state::{Row, State, others_of};
use super::targets::{Inputs, target_of};
use super::walk::{RowPlace, Walk};
use crate::operation::{RowFactor, RowValue, WantedGradients};

/// Computes losses and gradients from logits.
#[cube(launch_unchecked, address_type = "dynamic")]
fn losses_and_gradients<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: Inputs<A, P, I, N>,
    mut results: Results<A>,
    mut gradients: Gradients<F, P, N>,
    from_forward: FromForward<A>,
    uniforms: Uniforms,
    #[comptime] spec: Spec,
    #[define(F, A, P, I, K)] _dtypes: [ElemType; 5],
) {
    let span = span(&uniforms.extent, spec.tile);
    if comptime!(spec.tile.holds_row()) {
        of_held_row::<F, A, P, I, K, N, M>(
            logits,
            &inputs,
            (&mut results, &mut gradients),
            &from_forward,
            &span,
            &uniforms,
            spec,
        );
    } else {
        let mut state = State::<A, N, M>::new(&uniforms.numbers);
        scan::<F, A, P, I, K, N, M>(logits, &inputs, &mut state, &span, &uniforms, spec.clone());
        let mut lanes = concluded::<F, A, P, I, K, N, M>(
            logits,
            &inputs,
            &from_forward,
            state,
            &mut results,
            &uniforms,
            spec.clone(),
        );
        if span.exists {
            lanes.write_row(logits, &inputs, &mut gradients, &span, &uniforms, spec);
        }
    }
}

/// Computes loss and gradient of a row that its units hold, in registers and in shared memory. A row that does not count is
/// read for nothing.
#[cube]
fn of_held_row<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    written: (&mut Results<A>, &mut Gradients<F, P, N>),
    from_forward: &FromForward<A>,
    span: &Span,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) {
    let (results, gradients) = written;
    let (tile, numbers) = (comptime!(spec.tile), &uniforms.numbers);
    let mut walk = Walk::new::<N>(span, true, &uniforms.extent, tile);
    let mut state = State::<A, N, M>::new(numbers);
    let first = walk.load(
        logits,
        inputs,
        uniforms,
        comptime!(tile.certain_of_first()),
        tile,
    );
    let ranked =
        begin::<F, A, P, I, K, N, M>(logits, inputs, &mut state, span, uniforms, spec.clone());
    // All units of the row have its maximum first, so that an exponential is that of the gradient too.
    state.rise_to_block(&first, numbers, comptime!(&spec));
    let mut parked = Parked::<F, N>::new(tile);
    if comptime!(tile.parked > 0) {
        rise_to_parked(
            &mut state,
            &mut parked,
            logits,
            inputs,
            &mut walk,
            uniforms,
            comptime!(&spec),
        );
    }
    if comptime!(tile.along == Along::Classes) {
        let mut group = Group::<A>::new(comptime!(tile.group()));
        let maximum = group.maximum(state.maximum.extract(0usize));
        state.maximum = Vector::new(maximum);
    }
    state.take_below(&first, &walk, &ranked, inputs, numbers, comptime!(&spec));
    if comptime!(tile.parked > 0) {
        let read = (&ranked, inputs);
        take_parked(&mut state, &parked, read, &walk, uniforms, comptime!(&spec));
    }
    let mut lanes = concluded::<F, A, P, I, K, N, M>(
        logits,
        inputs,
        from_forward,
        state,
        results,
        uniforms,
        spec.clone(),
    );
    if span.exists {
        let counts = lanes.begin_row(inputs, gradients, span, uniforms, comptime!(&spec));
        if counts {
            lanes.write_block(&first, &walk, inputs, gradients, numbers, comptime!(&spec));
            if comptime!(tile.parked > 0) {
                let written = (&lanes, gradients);
                write_parked(written, &parked, inputs, &walk, uniforms, comptime!(&spec));
            }
        }
    }
}

/// Loads the blocks of a row that wait in shared memory, for its maximum.
#[cube]
fn rise_to_parked<F: Float, A: Float, P: Float, I: Int, N: Size, M: Size>(
    state: &mut State<A, N, M>,
    parked: &mut Parked<F, N>,
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    walk: &mut Walk,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) {
    let tile = comptime!(spec.tile);
    for nth in 1..tile.parked as usize {
        let block = parked.load(nth, tile.unroll, logits, inputs, walk, uniforms);
        state.rise_to_block(&block, &uniforms.numbers, spec);
    }
    let (last, certain) = (tile.parked as usize, comptime!(tile.certain_of_last));
    let block = parked.load(last, certain, logits, inputs, walk, uniforms);
    state.rise_to_block(&block, &uniforms.numbers, spec);
}

/// Adds them up, under the maximum of the row.
#[cube]
fn take_parked<F: Float, A: Float, P: Float, I: Int, N: Size, M: Size>(
    state: &mut State<A, N, M>,
    parked: &Parked<F, N>,
    read: (&RankedClass<A, N>, &Inputs<A, P, I, N>),
    walk: &Walk,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) {
    let (tile, numbers) = (comptime!(spec.tile), &uniforms.numbers);
    let (ranked, inputs) = read;
    for nth in 1..tile.parked as usize {
        let block = parked.block::<P>(nth, tile.unroll, walk, uniforms);
        state.take_below(&block, walk, ranked, inputs, numbers, spec);
    }
    let (last, certain) = (tile.parked as usize, comptime!(tile.certain_of_last));
    let block = parked.block::<P>(last, certain, walk, uniforms);
    state.take_below(&block, walk, ranked, inputs, numbers, spec);
}

/// Writes their gradients.
#[cube]
fn write_parked<F: Float, A: Float, P: Float, I: Int, N: Size>(
    written: (&Lanes<A, N>, &mut Gradients<F, P, N>),
    parked: &Parked<F, N>,
    inputs: &Inputs<A, P, I, N>,
    walk: &Walk,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) {
    let (tile, numbers) = (comptime!(spec.tile), &uniforms.numbers);
    let (lanes, gradients) = written;
    for nth in 1..tile.parked as usize {
        let block = parked.block::<P>(nth, tile.unroll, walk, uniforms);
        lanes.write_block(&block, walk, inputs, gradients, numbers, spec);
    }
    let (last, certain) = (tile.parked as usize, comptime!(tile.certain_of_last));
    let block = parked.block::<P>(last, certain, walk, uniforms);
    lanes.write_block(&block, walk, inputs, gradients, numbers, spec);
}

/// Concludes the rows of the unit, and tells what their gradients share.
#[cube]
fn concluded<F: Float, A: Float, P: Float, I: Int, K: Int, N: Size, M: Size>(
    logits: &[Vector<F, N>],
    inputs: &Inputs<A, P, I, N>,
    from_forward: &FromForward<A>,
    state: State<A, N, M>,
    results: &mut Results<A>,
    uniforms: &Uniforms,
    #[comptime] spec: Spec,
) -> Lanes<A, N> {
    let tile = comptime!(spec.tile);
    let (numbers, extent) = (&uniforms.numbers, &uniforms.extent);
    let span = span(extent, tile);
    let mut lanes = Lanes::<A, N>::new(span.slot, extent, tile);
    match comptime!(tile.along) {
        Along::Positions =>
        {
            #[unroll]
            for lane in 0..N::value().comptime() {
                let place = RowOfUnit::new(&span, N::value().comptime(), lane);
                let sums = state.row(lane);
                if span.exists {
                    conclude::<F, A, P, I, K, N>(
                        logits,
                        inputs,
                        results,
                        sums,
                        &place,
                        uniforms,
                        spec.clone(),
                    );
                }
                set_row::<A, P, I, K, N>(
                    &mut lanes,
                    sums,
                    &place,
                    inputs,
                    from_forward,
                    uniforms,
                    comptime!(&spec),
                );
            }
        }
        Along::Classes => {
            let sums = match comptime!(tile.holds_row()) {
                true => {
                    let group = Group::<A>::new(comptime!(tile.group()));
                    sums_below::<A, N, M>(state, group, comptime!(&spec))
                }
                false => sums_of_group(state, numbers, spec.clone()),
            };
            let place = RowOfUnit::new(&span, 1usize, 0usize);
            let target = target_of::<A, P, I, K, N>(inputs, span.slot, extent);
            let of_row = RowPlace::new::<N>(span.slot, extent.logits, extent, tile);
            let step_of_target = of_row.step_of_class::<N>(target.class as usize, tile);
            let holder = step_of_target % comptime!(tile.units as usize);
            if span.unit == holder && span.exists {
                conclude::<F, A, P, I, K, N>(
                    logits,
                    inputs,
                    results,
                    sums,
                    &place,
                    uniforms,
                    spec.clone(),
                );
            }
            set_row::<A, P, I, K, N>(
                &mut lanes,
                sums,
                &place,
                inputs,
                from_forward,
                uniforms,
                comptime!(&spec),
            );
        }
    }
    lanes
}

/// Sets the numbers of the gradients of a lane's row, along classes of the row of all lanes, from its sums.
#[cube]
fn set_row<A: Float, P: Float, I: Int, K: Int, N: Size>(
    lanes: &mut Lanes<A, N>,
    sums: Row<A>,
    place: &RowOfUnit,
    inputs: &Inputs<A, P, I, N>,
    from_forward: &FromForward<A>,
    uniforms: &Uniforms,
    #[comptime] spec: &Spec,
) {
    let zero = A::new(0.0);
    let (lane, slot) = (comptime!(place.lane), place.slot);
    let row = lanes.set_target::<P, I, K>(lane, slot, inputs, from_forward, uniforms, spec);
    let given = Statistics::<A> {
        maximum: sums.maximum,
        others: others_of(&sums, &uniforms.numbers),
        at_maximum: sums.at_maximum,
        elsewhere: sums.elsewhere,
        factor: zero,
        at_target: zero,
        entropy: zero,
    };
    lanes.set_statistics(given, &row, uniforms, spec);
    if comptime!(spec.has_tail) {
        lanes.set_rest(inputs, &row, uniforms, spec);
    }
}

impl Call<'_> {
    /// Whether loss and gradient of the logits are computed by one kernel, for an upstream gradient of 1.
    pub(crate) fn takes_one_pass(&self) -> bool {
        // Gradients of f16 are too coarse to be multiplied afterwards, and losses of rows have a factor each. With even
        // shares of the rows' own the registers would spill.
        let is_f16 = self.logits.buffer.dtype == FloatKind::F16.into();
        let options = self.options;
        let is_known = options.value == RowValue::Loss && options.row_factor == RowFactor::None;
        let is_reduced = !matches!(self.reduction, Reduction::PerRow);
        let plan = self.plan([]);
        let has_logits = self.spec(&plan).values != Values::Probabilities;
        is_known
            && is_reduced
            && has_logits
            && !is_f16
            && !self.weighed.evens
            && self.wanted.gradients == WantedGradients::LOGITS
            && self.buffers_of_one_pass() <= self.bindings()
            && plan.takes_one_pass(&self.problem([]), &hardware(&self.client), plan::forced())
    }

    fn plan_of_one_pass(&self, gradient: &Full) -> Plan {
        let problem = self.problem([gradient]);
        Plan::of_one_pass(&problem, &hardware(&self.client), plan::forced())
    }

    /// Number of buffers of the kernel, at most.
    fn buffers_of_one_pass(&self) -> usize {
        let outputs = [self.wanted.outputs.numbers(), self.wanted.outputs.classes()];
        let outputs = outputs.into_iter().filter(|count| *count > 0).count();
        let weights = usize::from(self.weights.is_some());
        let labels = usize::from(self.labels.is_some());
        let statistics = usize::from(self.weighed.entries || self.plan([]).tile.shares_vectors());
        // Logits, targets, losses, divisors, gradient.
        5 + outputs + weights + labels + statistics
    }

    /// Losses of the rows, and the gradient of the logits, for the divisors and an upstream gradient of 1.
    pub(crate) fn rows_with_gradient(
        &self,
        place: &GradientBuffer,
        from_forward: &FromForwardBuffers,
    ) -> RowResults {
        let gradient = match place {
            GradientBuffer::InPlace => &self.logits,
            GradientBuffer::New(full) => full,
        };
        let (argument, length) = match place {
            GradientBuffer::InPlace => (BufferArg::alias(0, self.logits.buffer.length), 0),
            GradientBuffer::New(full) => (full.buffer.argument(), full.buffer.length),
        };
        let plan = self.plan_of_one_pass(gradient);
        let spec = self.spec(&plan);
        let keeps = self.weighed.entries || plan.tile.shares_vectors();
        let results = self.new_results(&spec, keeps);
        let optional = |buffer: &Option<Buffer>| buffer.as_ref().map(Buffer::argument);
        let losses = results.losses.as_ref().expect("the kernel writes losses");
        let all = [
            &results.losses,
            &results.statistics,
            &results.numbers,
            &results.classes,
        ];
        let lengths = all.into_iter().flatten().map(|buffer| buffer.length);
        // SAFETY: rows and classes are clamped, as in the launches of the losses and of the gradients. The gradient
        // replaces the logits only where nobody else holds them. Each element is written by the unit that read it,
        // after its last read.
        unsafe {
            losses_and_gradients::launch_unchecked(
                &self.client,
                self.cube_count(plan.cubes()),
                CubeDim::new_1d(plan.units_per_cube()),
                self.address_type(lengths.chain([length])),
                plan.vector_size,
                plan.rows_of_a_vector(),
                self.logits.buffer.argument(),
                self.inputs(true),
                ResultsLaunch::new(
                    losses.argument(),
                    optional(&results.statistics).into(),
                    optional(&results.numbers).into(),
                    optional(&results.classes).into(),
                ),
                GradientsLaunch::new(Some(argument).into(), ComptimeOptionArgs::None),
                from_forward.arguments(),
                UniformsLaunch::new(
                    self.numbers(),
                    self.extent(&plan, [Some(gradient.layout), None]),
                ),
                spec,
                self.dtypes(),
            );
        }
        let from_forward = FromForwardBuffers {
            statistics: results.statistics.clone(),
            ..from_forward.clone()
        };
        self.gradients_in_shared_vectors(&plan, &from_forward, &[Some(place.clone()), None]);
        results
    }
}
