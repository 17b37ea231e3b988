//! The entries of the comparison: shapes, kinds of targets, dtypes and phases, and the data. The data is a
//! function of the index, so that all sides make the same data without exchanging it.

use std::fmt::{self, Display};

use burn::tensor::{DType, TensorData};
use serde::Serialize;

use crate::machine::{part_of, together};
use crate::pairs::Pairs;
use crate::projections::Projection;

// `pytorch/pytorch.py` has the same numbers.
const LOGITS: u32 = 0x1000_0001;
pub const TARGETS: u32 = 0x2000_0002;
const SHARES: u32 = 0x3000_0003;

const SHAPES: [&[usize]; 7] = [
    &[64, 10],
    &[256, 1000],
    &[4096, 10],
    &[8192, 1000],
    &[512, 32000],
    &[8, 21, 128, 128],
    &[2, 19, 512, 512],
];
const WIDE: &[usize] = &[512, 32000];
const LONG: &[usize] = &[8192, 1000];
/// Vocabulary of GPT-2, which no vector width divides.
const ODD: &[usize] = &[512, 50257];
const SMALL: [&[usize]; 4] = [&[256, 1000], &[4096, 10], WIDE, ODD];
// `gpu.py` has the same shapes.
const LARGE: [&[usize]; 5] = [
    &[4096, 32000],
    &[4096, 50257],
    &[8192, 128_256],
    &[65536, 1000],
    &[8, 21, 512, 512],
];

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Index,
    Soft,
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    Bf16,
    F16,
}

impl Precision {
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
            Precision::F16 => DType::F16,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Forward,
    ForwardBackward,
}

/// Logits of `shape` with the classes in dimension 1.
#[derive(Clone, Copy, Serialize)]
pub struct Entry {
    pub shape: &'static [usize],
    pub kind: Kind,
    #[serde(rename = "dtype")]
    pub precision: Precision,
    pub phase: Phase,
}

/// The entries of the comparison with PyTorch, in the order of the tables.
pub fn beside_pytorch() -> Vec<Entry> {
    let rest = [
        (WIDE, Kind::Soft, Precision::F32),
        (WIDE, Kind::Index, Precision::Bf16),
        (LONG, Kind::Index, Precision::Bf16),
        (WIDE, Kind::Index, Precision::F16),
        (LONG, Kind::Index, Precision::F16),
    ]
    .map(|(shape, kind, precision)| Entry {
        shape,
        kind,
        precision,
        phase: Phase::ForwardBackward,
    });
    let with_indices = |phase| indices(&SHAPES, &[Precision::F32], phase);
    [
        with_indices(Phase::ForwardBackward),
        rest.to_vec(),
        with_indices(Phase::Forward),
    ]
    .concat()
}

/// Entries with sizes that fit into every device.
pub fn small() -> Vec<Entry> {
    in_both_phases(&SMALL, &[Precision::F32])
}

/// Entries with sizes that keep a large device busy.
pub fn large() -> Vec<Entry> {
    in_both_phases(&LARGE, &[Precision::F32, Precision::Bf16])
}

fn in_both_phases(shapes: &[&'static [usize]], precisions: &[Precision]) -> Vec<Entry> {
    let phases = [Phase::ForwardBackward, Phase::Forward];
    let entries = phases.map(|phase| indices(shapes, precisions, phase));
    entries.concat()
}

fn indices(shapes: &[&'static [usize]], precisions: &[Precision], phase: Phase) -> Vec<Entry> {
    let of_precision = |&precision| {
        shapes.iter().map(move |&shape| Entry {
            shape,
            kind: Kind::Index,
            precision,
            phase,
        })
    };
    precisions.iter().flat_map(of_precision).collect()
}

/// The rows that a part of a name chooses.
pub struct Chosen {
    pub entries: Vec<Entry>,
    pub projections: Vec<Projection>,
    pub pairs: Vec<Pairs>,
}

/// Chooses the rows whose name contains `part`.
pub fn named(
    entries: Vec<Entry>,
    projections: Vec<Projection>,
    pairs: Vec<Pairs>,
    part: &str,
) -> Result<Chosen, String> {
    let names = entries.iter().map(Entry::to_string);
    let names: Vec<String> = names
        .chain(projections.iter().map(Projection::to_string))
        .chain(pairs.iter().map(Pairs::to_string))
        .collect();
    if !names.iter().any(|name| name.contains(part)) {
        return Err(format!(
            "no row's name contains {part:?}; the rows are\n{}",
            names.join("\n")
        ));
    }
    Ok(Chosen {
        entries: with_name(entries, part),
        projections: with_name(projections, part),
        pairs: with_name(pairs, part),
    })
}

fn with_name<T: Display>(entries: Vec<T>, part: &str) -> Vec<T> {
    let is_chosen = |entry: &T| entry.to_string().contains(part);
    entries.into_iter().filter(is_chosen).collect()
}

impl Entry {
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn bytes(&self) -> usize {
        self.size() * self.dtype().size()
    }

    pub fn dtype(&self) -> DType {
        self.precision.dtype()
    }

    /// Logits, uniform in [-6, 6).
    pub fn logits(&self) -> TensorData {
        let logit = |index| (hash(index ^ LOGITS) >> 8) as f32 / 16_777_216.0 * 12.0 - 6.0;
        let mut values = vec![0.0; self.size()];
        let part = part_of(values.len());
        together(values.chunks_mut(part).enumerate(), |(index, values)| {
            for (value, index) in values.iter_mut().zip((index * part) as u32..) {
                *value = logit(index);
            }
        });
        TensorData::new(values, self.shape.to_vec()).convert_dtype(self.dtype())
    }

    /// The class of each row, in the shape of the logits without dimension 1.
    pub fn class_indices(&self) -> TensorData {
        let rows = [&self.shape[..1], &self.shape[2..]].concat();
        let count = rows.iter().product();
        TensorData::new((0..count).map(|row| self.class_of(row)).collect(), rows)
    }

    /// Positive shares that add up to 1 over dimension 1.
    pub fn shares(&self) -> TensorData {
        let bits: Vec<u32> = (0..self.size() as u32)
            .map(|index| (hash(index ^ SHARES) >> 8) + 1)
            .collect();
        let mut sums = vec![0u64; self.rows()];
        for (index, &bits) in bits.iter().enumerate() {
            sums[self.row_of(index)] += u64::from(bits);
        }
        let share = |(index, &bits): (usize, &u32)| {
            (f64::from(bits) / sums[self.row_of(index)] as f64) as f32
        };
        let values = bits.iter().enumerate().map(share).collect();
        TensorData::new(values, self.shape.to_vec())
    }

    /// Places at which gradients are compared one by one: entries spread over the tensor, and the target
    /// entries of the first, the middle and the last row, which are the large ones.
    pub fn probes(&self) -> Vec<usize> {
        if self.phase == Phase::Forward {
            return Vec::new();
        }
        let spread = (0..=6).map(|step| step * (self.size() - 1) / 6);
        let rows = [0, self.rows() / 2, self.rows() - 1];
        let at_targets = rows.map(|row| self.position(row, self.class_of(row) as usize));
        spread.chain(at_targets).collect()
    }

    pub fn classes(&self) -> usize {
        self.shape[1]
    }

    pub fn rows(&self) -> usize {
        self.size() / self.classes()
    }

    /// Elements between one class and the next.
    fn stride(&self) -> usize {
        self.shape[2..].iter().product()
    }

    pub fn position(&self, row: usize, class: usize) -> usize {
        let (outer, inner) = (row / self.stride(), row % self.stride());
        (outer * self.classes() + class) * self.stride() + inner
    }

    pub fn row_of(&self, position: usize) -> usize {
        let outer = position / (self.classes() * self.stride());
        outer * self.stride() + position % self.stride()
    }

    pub fn class_of(&self, row: usize) -> i64 {
        i64::from(hash(row as u32 ^ TARGETS)) % self.classes() as i64
    }
}

/// 32 well-mixed bits per index.
pub fn hash(index: u32) -> u32 {
    let step = |x: u32| (x ^ (x >> 16)).wrapping_mul(0x045d_9f3b);
    let mixed = step(step(index));
    mixed ^ (mixed >> 16)
}

/// The name that `--only` looks at.
impl Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let shape: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        let (kind, precision, phase) = (self.kind, self.precision, self.phase);
        write!(formatter, "{} {kind} {precision} {phase}", shape.join("x"))
    }
}

impl Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Kind::Index => "index",
            Kind::Soft => "soft",
        })
    }
}

impl Display for Precision {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        })
    }
}

impl Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Phase::Forward => "forward alone",
            Phase::ForwardBackward => "forward+backward",
        })
    }
}
