//! Plans for recorded hardware, and what holds for every plan.

use super::*;
use crate::kernel::cube::Layout;

/// Limits of devices: of NVIDIA's as CUDA reports them, of the others as wgpu does, where a plane whose size may vary
/// has no operations, and multiprocessors are not known.
const H200: Hardware = cuda(132);
const A100: Hardware = cuda(108);
const RTX_4090: Hardware = cuda(128);
/// Planes of 32 or 64 units.
const RX_7900: Hardware = wgpu(64);
/// Metal through wgpu tells planes of 4 to 64 units.
const M2: Hardware = wgpu(64);
/// Planes of 8 to 32 units.
const INTEL: Hardware = wgpu(32);
/// A software adapter with AVX2.
const LLVMPIPE: Hardware = Hardware {
    is_cpu: true,
    ..wgpu(8)
};
/// CubeCL's processor runtime on eight cores.
const PROCESSOR: Hardware = Hardware {
    units_per_cube: 8,
    is_cpu: true,
    ..wgpu(1)
};
/// A device without plane operations that is no processor.
const PLANELESS: Hardware = wgpu(8);

const fn cuda(multiprocessors: u32) -> Hardware {
    Hardware {
        plane_size: 32,
        plane_operations: true,
        units_per_cube: 1024,
        shared_memory: 227 << 10,
        multiprocessors: Some(multiprocessors),
        is_cpu: false,
    }
}

const fn wgpu(plane_size: u32) -> Hardware {
    Hardware {
        plane_size,
        plane_operations: false,
        units_per_cube: 1024,
        shared_memory: 32 << 10,
        multiprocessors: None,
        is_cpu: false,
    }
}

/// Rows as `[outer, inner]`, and classes.
const SHAPES: [([usize; 2], usize); 12] = [
    ([64, 1], 10),
    ([65_536, 1], 10),
    ([1 << 20, 1], 10),
    ([256, 1], 1000),
    ([65_536, 1], 1000),
    ([4096, 1], 32_000),
    ([8192, 1], 128_256),
    ([2048, 1], 50_257),
    ([4, 1], 128_256),
    ([1, 1], 262_144),
    ([16, 256 * 256], 21),
    ([8, 32 * 32], 150),
];

/// Problem of contiguous logits of 4 bytes.
fn problem(outer: usize, classes: usize, inner: usize) -> Problem {
    Problem {
        rows: outer * inner,
        classes,
        inner,
        layouts: vec![(
            Layout {
                outer: classes * inner,
                class: inner,
                inner: 1,
                offset: 0,
            },
            outer * classes * inner,
        )],
        vector_sizes: vec![4, 2, 1],
        is_double: false,
        is_half: false,
        has_distributions: false,
        has_outputs: false,
        masks_others: true,
    }
}

fn plan(problem: &Problem, hardware: &Hardware) -> Plan {
    Plan::new(problem, hardware, None)
}

/// Units per row, rows per cube, parts.
fn shape(plan: &Plan) -> (u32, u32, usize) {
    (plan.tile.units, plan.tile.rows, plan.parts)
}

#[test]
fn few_classes_take_a_unit_per_row() {
    let plan = plan(&problem(1 << 20, 10, 1), &H200);
    assert_eq!(shape(&plan), (1, 256, 1));
    assert_eq!((plan.vector_size, plan.tile.along), (2, Along::Classes));
    assert_eq!(plan.tile.planes, None);
    assert_eq!(plan.cubes(), 4096);
}

#[test]
fn strided_classes_take_vectors_of_rows() {
    let plan = plan(&problem(8, 21, 512 * 512), &H200);
    assert_eq!((plan.vector_size, plan.tile.along), (4, Along::Positions));
    assert_eq!(shape(&plan), (1, 256, 1));
    assert_eq!(plan.slots, 8 * 512 * 512 / 4);
    // Few positions, so the classes are shared.
    let few = Plan::new(&problem(1, 50_257, 64), &H200, None);
    assert_eq!(few.tile.along, Along::Positions);
    assert!(few.parts > 100, "{few:?}");
    // 21 positions do not divide into vectors.
    let odd = Plan::new(&problem(64, 19, 21), &H200, None);
    assert_eq!((odd.vector_size, odd.tile.along), (1, Along::Positions));
}

#[test]
fn a_thousand_classes_take_a_plane() {
    let plan = plan(&problem(65536, 1000, 1), &H200);
    assert_eq!(shape(&plan), (32, 8, 1));
    assert_eq!(plan.tile.planes, Some(32));
    assert_eq!((plan.vector_size, plan.tile.unroll), (4, 8));
    // 997 classes do not divide into vectors, but 65536 rows of them do.
    let shared = Plan::new(&problem(65536, 997, 1), &H200, None);
    assert_eq!((shared.vector_size, shape(&shared)), (4, (32, 8, 1)));
    let odd = Plan::new(&problem(65535, 997, 1), &H200, None);
    assert_eq!((odd.vector_size, odd.tile.units), (1, 128));
}

#[test]
fn rows_with_gaps_end_in_a_vector_of_their_own() {
    // Rows as CUDA allocates them.
    let mut pitched = problem(2048, 50_257, 1);
    pitched.layouts = vec![(
        Layout {
            outer: 50_304,
            ..pitched.layouts[0].0
        },
        2048 * 50_304,
    )];
    let gaps = plan(&pitched, &H200);
    assert_eq!(gaps.tile.shared, SharedVectors::Gaps);
    assert_eq!((gaps.vector_size, gaps.steps), (4, 12_565));
    assert!(gaps.of_shared_vectors(&pitched, &H200).is_none());
    // The last gap is not in the buffer.
    pitched.layouts[0].1 -= 47;
    assert_eq!(plan(&pitched, &H200).vector_size, 1);
    // A gradient without gaps.
    pitched.layouts[0].1 += 47;
    let gradient = problem(2048, 50_257, 1).layouts[0];
    pitched.layouts.push(gradient);
    assert_eq!(plan(&pitched, &H200).vector_size, 1);
    pitched.layouts.pop();
    // A kernel that counts every number of a vector.
    pitched.masks_others = false;
    assert_eq!(plan(&pitched, &H200).vector_size, 1);
}

#[test]
fn rows_share_vectors_where_these_hold_the_same_classes_of_every_tensor() {
    let rows = problem(2048, 50_257, 1);
    let shared = plan(&rows, &H200);
    assert!(shared.tile.shares_vectors());
    // A row of 50257 classes that begins with the last lane of a vector has 12565 vectors.
    assert_eq!((shared.vector_size, shared.steps), (4, 12_565));
    let of_edges = shared.of_shared_vectors(&rows, &H200);
    let of_edges = of_edges.expect("the gradients are written by themselves");
    assert_eq!(of_edges.tile.shared, SharedVectors::Alone(4));
    assert_eq!((of_edges.vector_size, of_edges.steps), (1, 50_257));
    assert_eq!((of_edges.tile.units, of_edges.tile.unroll), (1, 3));
    assert!(of_edges.cubes() * of_edges.tile.rows as usize >= 2048);

    let is_shared = |change: &dyn Fn(&mut Problem)| {
        let mut rows = rows.clone();
        change(&mut rows);
        plan(&rows, &H200).tile.shares_vectors()
    };
    // Rows of a wider tensor, and a gradient whose rows lie as those do, or at other places of the vectors.
    let wider = |by: usize| {
        let (layout, length) = rows.layouts[0];
        let outer = 50_257 + by;
        (Layout { outer, ..layout }, length + 2048 * by)
    };
    assert!(is_shared(&|rows| rows.layouts.push(wider(0))));
    assert!(is_shared(&|rows| rows.layouts.push(wider(4))));
    assert!(!is_shared(&|rows| rows.layouts.push(wider(1))));
    assert!(!is_shared(&|rows| rows.layouts[0].0.offset = 1));
    // The last vector would reach beyond the tensor.
    assert!(!is_shared(&|rows| rows.layouts[0].1 -= 1));
    let odd = problem(2047, 50_257, 1);
    assert_eq!(plan(&odd, &H200).vector_size, 1);
    assert!(!is_shared(&|rows| rows.masks_others = false));
    // Rows that begin with vectors share none.
    assert!(!plan(&problem(2048, 50_256, 1), &H200).tile.masks_others());
    // A launch more is not worth it for few logits, nor for a few vectors.
    assert!(!plan(&problem(16, 50_257, 1), &H200).tile.masks_others());
    assert!(!plan(&problem(1 << 20, 33, 1), &H200).tile.masks_others());
}

#[test]
fn many_classes_take_a_cube_or_several() {
    let tall = plan(&problem(4096, 32000, 1), &H200);
    assert_eq!(shape(&tall), (256, 1, 1));
    let wide = plan(&problem(2, 262_144, 1), &H200);
    assert_eq!((wide.tile.units, wide.tile.rows), (256, 1));
    assert_eq!((wide.parts, wide.cubes()), (32, 64));
    let of_merge = wide.of_merge(&problem(2, 262_144, 1), &H200);
    assert_eq!((of_merge.slots, of_merge.parts), (2, 32));
    assert!(of_merge.cubes() <= 2 && !of_merge.tile.in_parts);
    assert_eq!(of_merge.tile.units, 32);
}

#[test]
fn without_plane_operations_the_sums_meet_in_shared_memory() {
    for classes in [1000, 32000] {
        let plan = plan(&problem(512, classes, 1), &PLANELESS);
        assert_eq!(plan.tile.planes, None);
        assert!(plan.tile.units.is_power_of_two() && plan.tile.units > 1);
    }
    let forced = Forced {
        strategy: Strategy::Cube,
        in_parts: false,
        planes: true,
        few_buffers: false,
        one_pass: false,
        shared_vectors: false,
        parked: false,
    };
    let plan = Plan::new(&problem(512, 1000, 1), &PLANELESS, Some(forced));
    assert_eq!(plan.tile.planes, Some(8));
    assert!(plan.tile.units > 8);
}

#[test]
fn a_processor_takes_a_unit_per_row() {
    let cpu = Hardware {
        plane_size: 1,
        plane_operations: false,
        units_per_cube: 6,
        multiprocessors: None,
        shared_memory: 32 << 10,
        is_cpu: true,
    };
    let of_rows = plan(&problem(512, 32000, 1), &cpu);
    assert_eq!((of_rows.tile.units, of_rows.parts), (1, 1));
    assert!(of_rows.units_per_cube() <= 6);
    // Lanes are joined after 128 logits, not after two vectors.
    let wide = Problem {
        vector_sizes: vec![16, 8, 4, 2, 1],
        ..problem(512, 32000, 1)
    };
    let of_wide = plan(&wide, &cpu);
    assert_eq!((of_wide.vector_size, of_wide.tile.unroll), (16, 8));
    // The kernels of f64 keep their short blocks.
    let double = Problem {
        vector_sizes: vec![8, 4, 2, 1],
        is_double: true,
        ..problem(512, 32000, 1)
    };
    assert_eq!(plan(&double, &cpu).tile.unroll, 1);
}

#[test]
fn vectors_stay_inside_rows_and_on_their_boundaries() {
    let mut cut = problem(16, 64, 1);
    assert_eq!(plan(&cut, &H200).vector_size, 4);
    cut.layouts[0].0.outer = 66;
    assert_eq!(plan(&cut, &H200).vector_size, 2);
    cut.layouts[0].0.offset = 1;
    assert_eq!(plan(&cut, &H200).vector_size, 1);
    // The distributions have another order in memory.
    let mut mixed = problem(16, 64, 4);
    let moved = Layout {
        outer: 256,
        class: 1,
        inner: 64,
        offset: 0,
    };
    mixed.layouts.push((moved, 16 * 256));
    let plan = plan(&mixed, &H200);
    assert_eq!((plan.vector_size, plan.tile.along), (1, Along::Classes));
}

#[test]
fn every_plan_covers_every_row_within_the_limits() {
    for outer in [1, 2, 3, 100, 65_536, 70_001] {
        for classes in [1, 2, 10, 33, 999, 50_257, 262_144] {
            for inner in [1, 7, 64] {
                for hardware in [H200, PLANELESS] {
                    let problem = problem(outer, classes, inner);
                    let plan = plan(&problem, &hardware);
                    let rows_of_a_slot = problem.rows / plan.slots;
                    assert_eq!(plan.slots * rows_of_a_slot, problem.rows);
                    assert!(plan.units_per_cube() <= hardware.units_per_cube);
                    assert!(plan.units_per_cube().is_power_of_two());
                    let rows = plan.cubes() / plan.parts * plan.tile.rows as usize;
                    assert!(rows >= plan.slots, "{plan:?}");
                    assert!(plan.parts <= plan.steps.max(1), "{plan:?}");
                }
            }
        }
    }
}

/// Of each shape the units that share a row, rows of a cube, vectors that a unit loads at once, their size, parts of a
/// row, and whether one kernel computes loss and gradient.
type Planned = [PlanOfShape; 12];
type PlanOfShape = (u32, u32, u32, usize, usize, bool);

/// What is planned for an H200; the others differ in the shapes that are named.
const OF_H200: Planned = [
    (1, 32, 5, 2, 1, false),
    (1, 256, 5, 2, 1, false),
    (1, 256, 5, 2, 1, true),
    (32, 1, 8, 4, 1, false),
    (32, 8, 8, 4, 1, true),
    (256, 1, 8, 4, 1, true),
    (256, 1, 8, 4, 1, true),
    (256, 1, 8, 4, 1, true),
    (256, 1, 5, 4, 15, false),
    (256, 1, 8, 4, 32, false),
    (1, 256, 7, 4, 1, true),
    (1, 32, 5, 4, 18, false),
];
const OF_A100: Planned = but(OF_H200, 3, (32, 2, 8, 4, 1, false));
const OF_INTEL: Planned = {
    let planned = but(OF_H200, 3, (32, 4, 8, 4, 1, false));
    but(planned, 11, (1, 32, 7, 4, 8, false))
};
const OF_WIDE_PLANES: Planned = {
    let planned = but(OF_INTEL, 0, (1, 64, 5, 2, 1, false));
    but(planned, 11, (1, 64, 7, 4, 8, false))
};
const OF_LLVMPIPE: Planned = [
    (1, 8, 5, 2, 1, false),
    (1, 256, 5, 2, 1, false),
    (1, 256, 5, 2, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 256, 8, 4, 1, false),
    (1, 64, 8, 4, 1, false),
    (1, 128, 8, 4, 1, false),
    (1, 32, 8, 4, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 256, 7, 4, 1, false),
    (1, 32, 8, 4, 1, false),
];
const OF_PROCESSOR: Planned = [
    (1, 1, 5, 2, 1, false),
    (1, 8, 5, 2, 1, false),
    (1, 8, 5, 2, 1, false),
    (1, 4, 8, 4, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 8, 8, 4, 1, false),
    (1, 1, 8, 4, 1, false),
    (1, 1, 8, 4, 1, false),
    (1, 8, 7, 4, 1, false),
    (1, 8, 8, 4, 1, false),
];

const RECORDED: [(&str, Hardware, Planned); 8] = [
    ("H200", H200, OF_H200),
    ("A100", A100, OF_A100),
    ("RTX 4090", RTX_4090, OF_H200),
    ("RX 7900", RX_7900, OF_WIDE_PLANES),
    ("M2", M2, OF_WIDE_PLANES),
    ("Intel", INTEL, OF_INTEL),
    ("llvmpipe", LLVMPIPE, OF_LLVMPIPE),
    ("processor", PROCESSOR, OF_PROCESSOR),
];

/// The same plans but for one shape.
const fn but(mut planned: Planned, at: usize, plan: PlanOfShape) -> Planned {
    planned[at] = plan;
    planned
}

#[test]
fn recorded_hardware_has_the_recorded_plans() {
    for (name, hardware, expected) in RECORDED {
        for (([outer, inner], classes), expected) in SHAPES.into_iter().zip(expected) {
            let problem = problem(outer, classes, inner);
            let plan = plan(&problem, &hardware);
            let Tile {
                units,
                rows,
                unroll,
                ..
            } = plan.tile;
            let one_pass = plan.takes_one_pass(&problem, &hardware, None);
            let found = (units, rows, unroll, plan.vector_size, plan.parts, one_pass);
            assert_eq!(
                found, expected,
                "{name}: {outer} x {inner} rows of {classes} classes"
            );
        }
    }
}

/// Positions of a vector, and classes of each, where a unit has room for them.
#[test]
fn strided_rows_are_held_as_long_as_they_fit() {
    for (classes, is_half, expected) in [
        (8, false, Some((4, 8))),
        (12, false, Some((4, 12))),
        (21, false, Some((2, 21))),
        (48, false, Some((1, 48))),
        (49, false, None),
        (21, true, Some((2, 21))),
    ] {
        let mut problem = problem(8, classes, 512 * 512);
        problem.is_half = is_half;
        if is_half {
            problem.vector_sizes.insert(0, 8);
        }
        let plan = Plan::of_one_pass(&problem, &H200, None);
        let found = (plan.tile.holds_row()).then_some((plan.vector_size, plan.tile.unroll));
        assert_eq!(found, expected, "{classes} strided classes");
        assert_eq!(plan.slots * plan.vector_size, 8 * 512 * 512);
    }
}

/// Units, vectors of each in registers and blocks of as many in shared memory that hold a row from its sums to its gradient;
/// none where it is read twice.
#[test]
fn rows_are_held_as_long_as_they_fit() {
    for (classes, is_half, expected) in [
        (1000, false, Some((32, 8, 0))),
        (4096, false, Some((128, 8, 0))),
        (8192, false, Some((256, 8, 0))),
        (16_384, false, Some((512, 8, 0))),
        (32_000, false, Some((512, 16, 0))),
        (128_256, false, None),
        (1000, true, Some((32, 4, 0))),
        (8192, true, Some((256, 4, 0))),
        (16_384, true, Some((256, 8, 0))),
        (32_000, true, Some((256, 8, 1))),
        (50_257, true, Some((256, 5, 4))),
        (128_256, true, Some((512, 8, 3))),
        (262_144, true, None),
    ] {
        let mut problem = problem(8192, classes, 1);
        problem.is_half = is_half;
        if is_half {
            problem.vector_sizes.insert(0, 8);
        }
        let tile = Plan::of_one_pass(&problem, &H200, None).tile;
        let found = tile
            .holds_row()
            .then_some((tile.units, tile.unroll, tile.parked));
        assert_eq!(
            found, expected,
            "{classes} classes, half precision {is_half}"
        );
    }
    // What is left in the last block: 126 of 128 vectors, of which all but the last of each unit exist.
    let mut wide = problem(8192, 128_256, 1);
    wide.is_half = true;
    wide.vector_sizes.insert(0, 8);
    let tile = Plan::of_one_pass(&wide, &H200, None).tile;
    assert_eq!((tile.certain_of_last, tile.certain_of_first()), (7, 8));
    // An A100 has less shared memory, and distributions have no place there.
    let less = Hardware {
        shared_memory: 163 << 10,
        ..A100
    };
    assert!(!Plan::of_one_pass(&wide, &less, None).tile.holds_row());
    wide.has_distributions = true;
    assert!(!Plan::of_one_pass(&wide, &H200, None).tile.holds_row());
    // The tests of a software adapter have such rows where planes add up, and room beside the numbers of their units.
    let forced = Forced {
        strategy: Strategy::Cube,
        in_parts: false,
        planes: true,
        few_buffers: false,
        one_pass: true,
        shared_vectors: true,
        parked: true,
    };
    let tile = Plan::of_one_pass(&problem(5, 5004, 1), &LLVMPIPE, Some(forced)).tile;
    assert_eq!((tile.units, tile.unroll, tile.parked), (512, 2, 1));
    // Where a device has few units for a cube, longer rows are read twice.
    let small = Hardware {
        units_per_cube: 128,
        ..PLANELESS
    };
    let plan = Plan::of_one_pass(&problem(8192, 16_384, 1), &small, None);
    assert!(
        !plan.tile.is_single_block && plan.tile.units == 128,
        "{plan:?}"
    );
}
