//! The comparison with PyTorch, on the CPU.

mod floor;
mod linear;
mod process;
#[cfg(target_arch = "x86_64")]
mod row_floor;
mod sigmoid;
mod table;
mod tolerance;

use std::env;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyTarget;

use crate::agreement::Outcome;
use crate::calls::{Call, Calls, Way, Workload, here};
use crate::entries::{Chosen, Entry, Kind, Phase};
use crate::machine::{cores, processor};
use crate::phases::tables;
use crate::report::{Files, Report, Row};
use crate::rounds::{Contender, Plan};
use floor::Copy;
use process::{Mode, PyTorch, Theirs};
#[cfg(target_arch = "x86_64")]
use row_floor::RowFloor;
use table::{Times, columns};
use tolerance::{overflows, tolerance};

/// The request of the command line.
pub struct Request<'a> {
    pub python: &'a str,
    pub threads: Option<usize>,
    /// Whether `torch.compile` is timed too.
    pub compiles: bool,
    pub plan: Plan,
    pub quartiles: bool,
    /// The command that repeats this run.
    pub command: String,
}

impl Request<'_> {
    pub fn run(&self, chosen: &Chosen, files: &Files) -> Result<(), String> {
        let threads = self.threads.unwrap_or_else(cores);
        // SAFETY: no other thread has been started.
        unsafe { env::set_var("RAYON_NUM_THREADS", threads.to_string()) };

        let start = |mode| PyTorch::start(self.python, threads, mode);
        let mut pytorch = start(Mode::Eager)?;
        let mut others = vec![start(Mode::HugePages)?];
        if self.compiles {
            others.push(start(Mode::Compiled)?);
        }
        let introduction = format!(
            "{}, threads: {threads}. PyTorch {}, {} {}. Medians of `{}`.",
            processor(),
            pytorch.version,
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            self.command,
        );
        let mut report = Report::new(&introduction, files)?;
        tables(&mut report, &chosen.entries, columns, |entry| {
            self.row(entry, &mut pytorch, &mut others, threads)
                .map_err(|error| format!("{entry} is not timed, because {error}"))
        })?;
        report.table(&linear::head(), &chosen.projections, |projection| {
            linear::row(projection, &mut pytorch, self.plan, self.quartiles)
                .map_err(|error| format!("{projection} is not timed, because {error}"))
        })?;
        report.table(&sigmoid::head(), &chosen.pairs, |pairs| {
            sigmoid::row(pairs, &mut pytorch, self.plan, self.quartiles)
                .map_err(|error| format!("{pairs} is not timed, because {error}"))
        })?;
        report.close()
    }

    /// Times an entry. `others` are PyTorch with huge pages, and compiled if that is timed.
    fn row(
        &self,
        entry: &Entry,
        pytorch: &mut PyTorch,
        others: &mut [PyTorch],
        threads: usize,
    ) -> Result<Row, String> {
        let ways = match entry.phase {
            Phase::ForwardBackward => &[Way::Owned, Way::Shared][..],
            Phase::Forward => &[Way::Untracked],
        };
        let workload = &*workload(entry);
        let mut floor = RowFloor::new(entry, threads);
        let mut others: Vec<&mut PyTorch> = (others.iter_mut())
            .filter(|other| is_shown(other.mode, entry.phase))
            .collect();

        let probes = entry.probes();
        let mut sides = Vec::new();
        for &way in ways {
            let outcome = workload.outcome(way, &probes)?;
            sides.push((format!("this crate with logits {way}"), outcome));
        }
        for other in &mut others {
            let outcome = other.outcome(entry, &probes)?;
            sides.push((format!("PyTorch ({:?})", other.mode), outcome));
        }
        if let Some(floor) = &mut floor {
            sides.push(("the floor program".to_string(), floor.outcome(&probes)));
        }
        agree(entry, pytorch.outcome(entry, &probes)?, sides)?;

        let modes: Vec<Mode> = others.iter().map(|other| other.mode).collect();
        let mut theirs = Theirs { pytorch, entry };
        let others = others.into_iter().map(|pytorch| Theirs { pytorch, entry });
        let mut others: Vec<Theirs> = others.collect();
        let mut here: Vec<Calls> = ways.iter().map(|&way| Calls { workload, way }).collect();
        let mut copy = Copy::new(entry.bytes(), threads);
        let mut contenders: Vec<&mut dyn Contender> = vec![&mut theirs, &mut copy];
        contenders.extend(here.iter_mut().map(|calls| calls as &mut dyn Contender));
        contenders.extend(others.iter_mut().map(|theirs| theirs as &mut dyn Contender));
        contenders.extend(floor.iter_mut().map(|floor| floor as &mut dyn Contender));

        let spreads = self.plan.measure(&mut contenders)?;
        let (here, rest) = spreads[2..].split_at(ways.len());
        let of_mode = |mode| {
            modes
                .iter()
                .position(|other| *other == mode)
                .map(|at| rest[at])
        };
        let times = Times {
            pytorch: spreads[0],
            copy: spreads[1],
            here: here.to_vec(),
            huge_pages: of_mode(Mode::HugePages),
            compiled: of_mode(Mode::Compiled),
            floor: rest.get(modes.len()).copied(),
        };
        Ok(times.row(entry, self.quartiles))
    }
}

/// Whether the table of a phase has a column for a way in which PyTorch computes. Huge pages are for gradients.
fn is_shown(mode: Mode, phase: Phase) -> bool {
    mode != Mode::HugePages || phase == Phase::ForwardBackward
}

/// Checks that every side gives what PyTorch gives.
fn agree(entry: &Entry, mut eager: Outcome, sides: Vec<(String, Outcome)>) -> Result<(), String> {
    // The first side is this crate, whose mean does not overflow.
    let here = sides[0].1.loss;
    if overflows(entry, here) && eager.loss == f64::INFINITY {
        eager.loss = here;
    }
    let tolerance = tolerance(entry, &eager);
    for (name, mut side) in sides {
        if overflows(entry, here) && side.loss == f64::INFINITY {
            side.loss = here;
        }
        tolerance.check((&name, &side), ("PyTorch", &eager))?;
    }
    Ok(())
}

/// Other processors have no floor program.
#[cfg(not(target_arch = "x86_64"))]
struct RowFloor;

#[cfg(not(target_arch = "x86_64"))]
impl RowFloor {
    fn new(_entry: &Entry, _threads: usize) -> Option<Self> {
        None
    }

    fn outcome(&mut self, _probes: &[usize]) -> Outcome {
        unreachable!("there is none")
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Contender for RowFloor {
    fn turn(&mut self, _repetitions: usize) -> Result<Vec<f64>, String> {
        unreachable!("there is none")
    }
}

fn workload(entry: &Entry) -> Box<dyn Workload> {
    let device = match entry.phase {
        Phase::Forward => Device::flex(),
        Phase::ForwardBackward => Device::flex().autodiff(),
    };
    let indices = || entry.class_indices();
    match (entry.kind, entry.shape.len()) {
        (Kind::Index, 2) => {
            let targets = Tensor::<1, Int>::from_data(indices(), &device);
            Box::new(call::<2, _>(entry.logits(), targets, device))
        }
        (Kind::Index, 4) => {
            let targets = Tensor::<3, Int>::from_data(indices(), &device);
            Box::new(call::<4, _>(entry.logits(), targets, device))
        }
        (Kind::Soft, 2) => {
            let targets = Tensor::<2>::from_data(entry.shares(), &device);
            Box::new(call::<2, _>(entry.logits(), targets, device))
        }
        (_, rank) => unreachable!("no entry has {} targets of rank {rank}", entry.kind),
    }
}

fn call<const D: usize, T>(data: TensorData, targets: T, device: Device) -> Call<D, T>
where
    T: CrossEntropyTarget<D> + Clone,
{
    let loss = here(&device);
    let logits = {
        let device = device.clone();
        move || Tensor::from_data(data.clone(), (&device, data.dtype()))
    };
    Call {
        device,
        logits: logits(),
        fresh: Box::new(logits),
        targets,
        loss,
        queued: 1,
    }
}
