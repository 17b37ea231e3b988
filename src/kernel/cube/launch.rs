//! Launches of the kernels of a call, from its buffers.

use burn_cubecl::cubecl;
use cubecl::client::Client;
use cubecl::features::Plane;
use cubecl::ir::{ElemType, FloatKind, IntKind, UIntKind};
use cubecl::prelude::*;
use cubecl::server::Handle;

use super::backward::{GradientsLaunch, gradients_of_rows};
use super::finish::ResultsLaunch;
use super::forward::losses_of_rows;
use super::from_forward::FromForwardLaunch;
use super::layout::{Layout, strides_in_vectors};
use super::plan::{Hardware, Plan, Problem};
use super::spec::{ExtentLaunch, Factor, NumbersLaunch, Spec, UniformsLaunch, Values, ZLoss};
use super::targets::{InputsLaunch, Weighed};
use crate::operation::{
    Geometry, InputValues, Options, Outputs, ScaleSteps, Slack, TargetValues, Ties, Wanted, bend_of,
};

/// Numbers in the memory of a device.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub(crate) handle: Handle,
    pub(crate) dtype: ElemType,
    /// Number of elements.
    pub(crate) length: usize,
}

/// Tensor with one number per logit.
#[derive(Clone, Debug)]
pub(crate) struct Full {
    pub(crate) buffer: Buffer,
    pub(crate) layout: Layout,
}

/// Targets of all rows.
#[derive(Clone, Debug)]
pub(crate) enum Targets {
    /// One class per row.
    Indices(Buffer),
    /// One number per logit.
    Distributions(Full),
}

/// Buffers that the backward gets from the forward, and the upstream gradient.
#[derive(Clone, Debug)]
pub(crate) struct FromForwardBuffers {
    /// Absent over probabilities.
    pub(crate) statistics: Option<Buffer>,
    /// Absent where the losses were not added up.
    pub(crate) divisors: Option<Buffer>,
    /// The gradient of the loss: one number, or without divisors one per row; absent where it is 1.
    pub(crate) upstream: Option<Buffer>,
}

impl FromForwardBuffers {
    fn lengths(&self) -> [usize; 2] {
        let statistics = self.statistics.as_ref();
        [
            statistics.map_or(0, |statistics| statistics.length),
            self.upstream.as_ref().map_or(0, |upstream| upstream.length),
        ]
    }

    pub(super) fn arguments<A: Float>(&self) -> FromForwardLaunch<A> {
        FromForwardLaunch::new(
            self.statistics.as_ref().map(Buffer::argument).into(),
            self.divisors.as_ref().map(Buffer::argument).into(),
            self.upstream.as_ref().map(Buffer::argument).into(),
        )
    }

    /// Number of buffers that are present.
    fn count(&self) -> usize {
        [&self.statistics, &self.divisors, &self.upstream]
            .into_iter()
            .flatten()
            .count()
    }
}

/// Place of a gradient.
#[derive(Clone, Debug)]
pub(crate) enum GradientBuffer {
    /// The gradient replaces its own tensor, whose buffer nobody else reads.
    InPlace,
    New(Full),
}

/// One call of the operation over at least one row.
pub(crate) struct Call<'a> {
    pub(crate) client: Client,
    pub(crate) geometry: Geometry,
    pub(crate) options: &'a Options,
    pub(crate) wanted: Wanted,
    pub(crate) logits: Full,
    pub(crate) targets: Targets,
    /// See [`Inputs`](super::targets::Inputs), in the dtype of the arithmetic.
    pub(crate) weights: Option<Buffer>,
    pub(crate) weighed: Weighed,
    /// One class per row of distributions, i32; present where outputs are wanted.
    pub(crate) labels: Option<Buffer>,
    pub(crate) reduction: Reduction,
}

/// Way from the losses of the rows to the result.
#[derive(Clone, Debug)]
pub(crate) enum Reduction {
    /// One loss per row.
    PerRow,
    /// The sum, divided by the weight of the counted rows.
    Mean,
    /// The sum, divided by a number.
    Over(f64),
    /// The sums, divided by the divisors of the losses and of the z-losses, in the dtype of the arithmetic.
    OverBuffer(Buffer),
}

/// Results of the forward for the rows.
#[derive(Default)]
pub(crate) struct RowResults {
    /// `[rows]`; with a z-loss and a reduction `[2, rows]`.
    pub(crate) losses: Option<Buffer>,
    /// `[statistics, rows]`; absent where no backward follows, and over probabilities.
    pub(crate) statistics: Option<Buffer>,
    /// `[numbers, rows]`; absent where outputs are not wanted.
    pub(crate) numbers: Option<Buffer>,
    /// `[3, rows]`, i32; absent where outputs are not wanted.
    pub(crate) classes: Option<Buffer>,
}

impl Buffer {
    pub(super) fn argument(&self) -> BufferArg {
        // SAFETY: `length` is the number of elements that the buffer holds, from its tensor's shape
        // and strides, or from its own allocation below.
        unsafe { BufferArg::from_raw_parts(self.handle.clone(), self.length) }
    }

    pub(super) fn new(client: &Client, dtype: ElemType, length: usize) -> Self {
        Self {
            handle: client.empty(length * dtype.size()),
            dtype,
            length,
        }
    }
}

impl Call<'_> {
    pub(crate) fn rows(&self) -> RowResults {
        let plan = self.plan([]);
        let spec = self.spec(&plan);
        let keeps = self.wanted.gradients.any() && spec.values != Values::Probabilities;
        let results = self.new_results(&spec, keeps);
        if plan.parts == 1 {
            self.launch_forward(&plan, None, &results);
        } else {
            let parts = RowResults {
                losses: self.new_lines(spec.fields_of_part() * plan.parts),
                ..RowResults::default()
            };
            self.launch_forward(&plan, None, &parts);
            let of_merge = plan.of_merge(&self.problem([]), &hardware(&self.client));
            self.launch_forward(&of_merge, parts.losses.as_ref(), &results);
        }
        results
    }

    /// Buffers for the results of the rows, with statistics where these are kept.
    pub(super) fn new_results(&self, spec: &Spec, keeps: bool) -> RowResults {
        let statistics = self.options.statistics_per_row(self.has_distributions());
        let classes = self.wanted.outputs.classes();
        let of_classes = classes * self.geometry.rows();
        RowResults {
            losses: self.new_lines(if spec.z_loss == ZLoss::Apart { 2 } else { 1 }),
            statistics: self.new_lines(if keeps { statistics } else { 0 }),
            numbers: self.new_lines(self.wanted.outputs.numbers()),
            classes: (classes > 0)
                .then(|| Buffer::new(&self.client, IntKind::I32.into(), of_classes)),
        }
    }

    /// Buffer of so many lines, each with a number per row; none for no line.
    fn new_lines(&self, lines: usize) -> Option<Buffer> {
        let length = lines * self.geometry.rows();
        (lines > 0).then(|| Buffer::new(&self.client, self.arithmetic(), length))
    }

    /// Number of buffers that a kernel can take.
    pub(super) fn bindings(&self) -> usize {
        self.client.properties().hardware.max_bindings as usize
    }

    fn launch_forward(&self, plan: &Plan, parts: Option<&Buffer>, results: &RowResults) {
        let argument = |buffer: &Option<Buffer>| buffer.as_ref().map(Buffer::argument);
        let RowResults {
            losses,
            statistics,
            numbers,
            classes,
        } = results;
        let losses = losses
            .as_ref()
            .expect("every launch has a place for its losses");
        let others = [
            statistics.as_ref(),
            numbers.as_ref(),
            classes.as_ref(),
            parts,
        ];
        let lengths = others.into_iter().flatten().map(|buffer| buffer.length);
        // SAFETY: no kernel reads or writes outside its buffers. Rows are clamped to the rows of the
        // call, classes to the classes of a row, whatever the targets hold.
        unsafe {
            losses_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(plan.cubes()),
                CubeDim::new_1d(plan.units_per_cube()),
                self.address_type(lengths.chain([losses.length])),
                plan.vector_size,
                plan.rows_of_a_vector(),
                self.logits.buffer.argument(),
                // The sums of the parts include the distributions. Without them the launch needs one
                // buffer less; WebGPU guarantees 8.
                self.inputs(parts.is_none()),
                parts.map(Buffer::argument).into(),
                ResultsLaunch::new(
                    losses.argument(),
                    argument(statistics).into(),
                    argument(numbers).into(),
                    argument(classes).into(),
                ),
                UniformsLaunch::new(self.numbers(), self.extent(plan, [None, None])),
                self.spec(plan),
                self.dtypes(),
            );
        }
    }

    /// Writes the gradients of the logits and of the distributions, where they have a place.
    pub(crate) fn gradients(
        &self,
        from_forward: &FromForwardBuffers,
        places: [Option<GradientBuffer>; 2],
    ) {
        let is_new = |place: &Option<GradientBuffer>| matches!(place, Some(GradientBuffer::New(_)));
        let buffers = 2 + usize::from(self.weights.is_some()) + from_forward.count() + 2;
        let bindings = self.bindings();
        let few_buffers = super::plan::forced().is_some_and(|forced| forced.few_buffers);
        if places.iter().all(is_new) && (buffers > bindings || few_buffers) {
            // WebGPU guarantees 8 buffers only. A second launch reads everything again.
            let [logits, targets] = places;
            self.launch_gradients(from_forward, [logits, None]);
            return self.launch_gradients(from_forward, [None, targets]);
        }
        self.launch_gradients(from_forward, places);
    }

    fn launch_gradients(
        &self,
        from_forward: &FromForwardBuffers,
        places: [Option<GradientBuffer>; 2],
    ) {
        let plan = self.plan(self.gradients_in(&places).into_iter().flatten());
        self.launch_gradients_by(&plan, from_forward, &places);
        self.gradients_in_shared_vectors(&plan, from_forward, &places);
    }

    /// Writes the gradients of the classes in vectors of several rows, which a kernel of this plan has left out.
    pub(super) fn gradients_in_shared_vectors(
        &self,
        plan: &Plan,
        from_forward: &FromForwardBuffers,
        places: &[Option<GradientBuffer>; 2],
    ) {
        let problem = self.problem([]);
        if let Some(plan) = plan.of_shared_vectors(&problem, &hardware(&self.client)) {
            self.launch_gradients_by(&plan, from_forward, places);
        }
    }

    /// The tensors of the gradients, or of what they are the gradients of.
    fn gradients_in<'a>(
        &'a self,
        places: &'a [Option<GradientBuffer>; 2],
    ) -> [Option<&'a Full>; 2] {
        let inputs = [Some(&self.logits), self.distributions()];
        [0, 1].map(|at| match &places[at] {
            Some(GradientBuffer::New(full)) => Some(full),
            Some(GradientBuffer::InPlace) | None => inputs[at],
        })
    }

    fn launch_gradients_by(
        &self,
        plan: &Plan,
        from_forward: &FromForwardBuffers,
        places: &[Option<GradientBuffer>; 2],
    ) {
        let inputs = [Some(&self.logits), self.distributions()];
        let argument = |at: usize| match &places[at] {
            None => None,
            Some(GradientBuffer::New(full)) => Some(full.buffer.argument()),
            Some(GradientBuffer::InPlace) => {
                inputs[at].map(|full| BufferArg::alias(at, full.buffer.length))
            }
        };
        let length = |place: &Option<GradientBuffer>| match place {
            Some(GradientBuffer::New(full)) => full.buffer.length,
            Some(GradientBuffer::InPlace) | None => 0,
        };
        let lengths = places.iter().map(length).chain(from_forward.lengths());
        let layouts = self.gradients_in(places).map(|full| Some(full?.layout));
        // SAFETY: rows and classes are clamped, as in the launch of the losses. A gradient replaces its
        // own tensor only where nobody else holds that tensor. Each element is written by the unit that
        // read it, after the read.
        unsafe {
            gradients_of_rows::launch_unchecked(
                &self.client,
                self.cube_count(plan.cubes()),
                CubeDim::new_1d(plan.units_per_cube()),
                self.address_type(lengths),
                plan.vector_size,
                self.logits.buffer.argument(),
                self.inputs(true),
                GradientsLaunch::new(argument(0).into(), argument(1).into()),
                from_forward.arguments(),
                UniformsLaunch::new(self.numbers(), self.extent(plan, layouts)),
                self.spec(plan),
                self.dtypes(),
            );
        }
    }

    pub(super) fn plan<'a>(&self, gradients: impl IntoIterator<Item = &'a Full>) -> Plan {
        let problem = self.problem(gradients);
        Plan::new(&problem, &hardware(&self.client), super::plan::forced())
    }

    /// Plan of a kernel that takes whole rows, and cannot mask what else a vector holds.
    pub(super) fn plan_of_whole_vectors(&self) -> Plan {
        let problem = Problem {
            masks_others: false,
            ..self.problem([])
        };
        Plan::new(&problem, &hardware(&self.client), super::plan::forced()).without_parts()
    }

    pub(super) fn problem<'a>(&self, gradients: impl IntoIterator<Item = &'a Full>) -> Problem {
        let of_full = |full: &Full| (full.layout, full.buffer.length);
        let mut layouts = vec![of_full(&self.logits)];
        let mut widest = self.logits.buffer.dtype.size();
        if let Some(targets) = self.distributions() {
            layouts.push(of_full(targets));
            widest = widest.max(targets.buffer.dtype.size());
        }
        layouts.extend(gradients.into_iter().map(of_full));
        Problem {
            rows: self.geometry.rows(),
            classes: self.geometry.classes,
            inner: self.geometry.inner,
            layouts,
            vector_sizes: self.client.io_optimized_vector_sizes(widest).collect(),
            is_double: self.arithmetic() == FloatKind::F64.into(),
            is_half: self.logits.buffer.dtype.size() == 2,
            has_distributions: self.has_distributions(),
            has_outputs: self.wanted.outputs != Outputs::None,
            // A probability of 0 is a class like any other for the outputs.
            masks_others: self.options.values != InputValues::Probabilities,
        }
    }

    pub(super) fn spec(&self, plan: &Plan) -> Spec {
        Spec {
            tile: plan.tile,
            values: match self.options.values {
                InputValues::Logits {
                    softcap: Some(_), ..
                } => Values::Capped,
                InputValues::Logits { scale: 1.0, .. } => Values::Logits,
                InputValues::Logits { .. } => Values::Scaled,
                InputValues::Probabilities => Values::Probabilities,
            },
            value: self.options.value,
            is_spread: self.options.is_spread(self.has_distributions()),
            has_distributions: self.has_distributions(),
            has_row_weights: self.weighed.rows,
            has_entries: self.weighed.entries,
            has_tail: self.weighed.tail,
            outputs: self.options.computed_outputs(self.wanted.outputs),
            target_loses: self.wanted.outputs != Outputs::None
                && self.options.ties != Ties::ByClass,
            z_loss: match (self.options.z_loss == 0.0, &self.reduction) {
                (true, _) => ZLoss::Off,
                (false, Reduction::PerRow) => ZLoss::Added,
                (false, _) => ZLoss::Apart,
            },
            factor: Factor::of(self.options.row_factor).0,
        }
    }

    pub(super) fn extent(&self, plan: &Plan, gradients: [Option<Layout>; 2]) -> ExtentLaunch {
        let logits = self.logits.layout;
        let targets = self.distributions().map_or(logits, |full| full.layout);
        let [gradient, targets_gradient] = gradients;
        let size = match plan.tile.shares_vectors() {
            true => 1,
            false => plan.vector_size,
        };
        let strides = |layout: Layout| strides_in_vectors(&layout, size);
        let rows_of_a_slot = self.geometry.rows() / plan.slots;
        ExtentLaunch::new(
            self.geometry.rows(),
            self.geometry.classes,
            plan.slots,
            self.geometry.inner / rows_of_a_slot,
            plan.steps,
            plan.parts,
            strides(logits),
            strides(targets),
            strides(gradient.unwrap_or(logits)),
            strides(targets_gradient.unwrap_or(targets)),
        )
    }

    pub(super) fn inputs<A: Float, P: Float, I: Int, N: Size>(
        &self,
        distributions: bool,
    ) -> InputsLaunch<A, P, I, N> {
        InputsLaunch::new(
            self.indices().map(Buffer::argument).into(),
            self.distributions()
                .filter(|_| distributions)
                .map(|targets| targets.buffer.argument())
                .into(),
            self.weights.as_ref().map(Buffer::argument).into(),
            self.weighed,
            self.labels.as_ref().map(Buffer::argument).into(),
            self.ignored(),
        )
    }

    pub(super) fn numbers(&self) -> NumbersLaunch {
        let (scale, cap) = match self.options.values {
            InputValues::Logits { scale, softcap } => (scale, softcap.unwrap_or(1.0)),
            InputValues::Probabilities => (1.0, 1.0),
        };
        let ScaleSteps { before, after } = ScaleSteps::of(scale);
        let of_teacher = ScaleSteps::of(match self.options.targets {
            TargetValues::Logits { scale } => scale,
            TargetValues::Shares => 1.0,
        });
        let [least_finite, epsilon, smallest] = match self.arithmetic() {
            ElemType::Float(FloatKind::F64) => [f64::MIN, f64::EPSILON, f64::MIN_POSITIVE],
            _ => [f32::MIN, f32::EPSILON, f32::MIN_POSITIVE].map(f64::from),
        };
        let magnitude = match self.options.ties {
            Ties::ByClass => 0.0,
            Ties::TargetLoses { magnitude } => magnitude,
        };
        // Burn's products of f32 may be of TF32 where the device has it: autotune takes the fastest.
        let tf32 = ElemType::Float(FloatKind::TF32);
        let has_tf32 = self.client.properties().supports_type(tf32);
        let slack = match self.arithmetic() {
            ElemType::Float(FloatKind::F32) if has_tf32 => Slack::of_tf32(magnitude),
            _ => Slack::new(magnitude, epsilon, smallest),
        };
        let smoothing = self.options.label_smoothing;
        let (_, [factor, rest_of_factor]) = Factor::of(self.options.row_factor);
        NumbersLaunch::new(
            self.number(1.0 - smoothing),
            self.number(self.options.even(self.geometry.classes)),
            self.number(scale),
            self.number(before),
            self.number(after),
            self.number(of_teacher.before),
            self.number(of_teacher.after),
            self.number(cap),
            self.number(bend_of(scale, cap)),
            self.number(self.options.z_loss),
            self.number(factor),
            self.number(rest_of_factor),
            self.number(least_finite),
            self.number(f64::NEG_INFINITY),
            self.number(slack.share),
            self.number(slack.least),
            self.number(f64::NAN),
        )
    }

    pub(super) fn number(&self, number: f64) -> InputScalar {
        InputScalar::new(number, self.arithmetic())
    }

    pub(crate) fn has_distributions(&self) -> bool {
        self.distributions().is_some()
    }

    fn distributions(&self) -> Option<&Full> {
        match &self.targets {
            Targets::Distributions(targets) => Some(targets),
            Targets::Indices(_) => None,
        }
    }

    pub(super) fn indices(&self) -> Option<&Buffer> {
        match &self.targets {
            Targets::Indices(indices) => Some(indices),
            Targets::Distributions(_) => None,
        }
    }

    pub(super) fn arithmetic(&self) -> ElemType {
        arithmetic_of(self.logits.buffer.dtype)
    }

    /// Dtype of the index targets; i32 without index targets.
    pub(super) fn index(&self) -> ElemType {
        self.indices()
            .map_or(IntKind::I32.into(), |indices| indices.dtype)
    }

    /// Dtype that holds every index and the number of classes.
    pub(super) fn comparison(&self) -> ElemType {
        match self.index() {
            ElemType::Int(IntKind::I64) => IntKind::I64.into(),
            ElemType::UInt(UIntKind::U64) => UIntKind::U64.into(),
            ElemType::UInt(UIntKind::U32) => UIntKind::U32.into(),
            _ => IntKind::I32.into(),
        }
    }

    /// The ignored indices that the targets can hold.
    pub(super) fn ignored(&self) -> SequenceArg<InputScalar> {
        let ElemRange { least, most } = range_of(self.index());
        let ignored = self.options.ignore_indices.iter().copied();
        ignored
            .filter(|_| !self.has_distributions())
            .filter(|index| (least..=most).contains(&i128::from(*index)))
            .map(|index| InputScalar::new(index, self.comparison()))
            .collect()
    }

    pub(super) fn dtypes(&self) -> [ElemType; 5] {
        let targets = self.distributions().unwrap_or(&self.logits).buffer.dtype;
        [
            self.logits.buffer.dtype,
            self.arithmetic(),
            targets,
            self.index(),
            self.comparison(),
        ]
    }

    /// Address type that is wide enough for every buffer of a launch.
    pub(super) fn address_type(&self, others: impl IntoIterator<Item = usize>) -> AddressType {
        let targets = match &self.targets {
            Targets::Indices(indices) => indices.length,
            Targets::Distributions(targets) => targets.buffer.length,
        };
        let weights = self.weights.as_ref().map_or(0, |weights| weights.length);
        let largest = others.into_iter().chain([targets, weights]);
        AddressType::from_len(largest.fold(self.logits.buffer.length, usize::max))
    }

    /// Dimensions of a launch of at least `cubes` cubes.
    pub(super) fn cube_count(&self, cubes: usize) -> CubeCount {
        cubecl::calculate_cube_count_elemwise(&self.client, cubes, CubeDim::new_1d(1))
    }
}

/// The dtype that numbers of this dtype are computed in.
pub(crate) fn arithmetic_of(dtype: ElemType) -> ElemType {
    match dtype {
        ElemType::Float(FloatKind::F64) => FloatKind::F64.into(),
        _ => FloatKind::F32.into(),
    }
}

struct ElemRange {
    least: i128,
    most: i128,
}

fn range_of(dtype: ElemType) -> ElemRange {
    let (least, most) = match dtype {
        ElemType::Int(IntKind::I8) => (i8::MIN.into(), i8::MAX.into()),
        ElemType::Int(IntKind::I16) => (i16::MIN.into(), i16::MAX.into()),
        ElemType::Int(IntKind::I32) => (i32::MIN.into(), i32::MAX.into()),
        ElemType::UInt(UIntKind::U8) => (0, u8::MAX.into()),
        ElemType::UInt(UIntKind::U16) => (0, u16::MAX.into()),
        ElemType::UInt(UIntKind::U32) => (0, u32::MAX.into()),
        ElemType::UInt(UIntKind::U64) => (0, u64::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    };
    ElemRange { least, most }
}

pub(super) fn hardware(client: &Client) -> Hardware {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let same_size = hardware.plane_size_min == hardware.plane_size_max;
    let plane_operations = same_size
        && hardware.plane_size_max.is_power_of_two()
        && properties.features.plane.contains(Plane::Ops);
    // A software adapter does not report that it is one. Its planes are the processor's vectors, and
    // CubeCL has no plane operations for it.
    let is_narrow = (2..=16).contains(&hardware.plane_size_max);
    let is_software = same_size && !plane_operations && is_narrow;
    Hardware {
        plane_size: hardware.plane_size_max,
        plane_operations,
        units_per_cube: hardware.max_units_per_cube.min(hardware.max_cube_dim.0),
        multiprocessors: hardware.num_streaming_multiprocessors,
        shared_memory: hardware.max_shared_memory_size,
        is_cpu: hardware.num_cpu_cores.is_some() || is_software,
    }
}
