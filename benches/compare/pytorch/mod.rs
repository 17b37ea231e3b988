//! The comparison with PyTorch, on the CPU.

mod floor;
mod linear;
mod process;
#[cfg(target_arch = "x86_64")]
mod row_floor;
mod table;
mod tolerance;

use std::env;

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_cross_entropy::CrossEntropyTarget;

use crate::calls::{Call, Calls, Way, Workload, here};
use crate::entries::{Chosen, Entry, Kind, Phase};
use crate::machine::{cores, processor};
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
        report.tables(&chosen.entries, columns, |entry| {
            self.row(entry, &mut pytorch, &mut others, threads)
                .map_err(|error| format!("{entry} is not timed, because {error}"))
        })?;
        report.table(&linear::head(), &chosen.projections, |projection| {
            linear::row(projection, &mut pytorch, self.plan, self.quartiles)
                .map_err(|error| format!("{projection} is not timed, because {error}"))
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
        let probes = entry.probes();
        let mut theirs = pytorch.outcome(entry, &probes)?;
        let mut sides = Vec::new();
        for &way in ways {
            sides.push((
                format!("this crate with logits {way}"),
                workload.outcome(way, &probes)?,
            ));
        }
        for other in others.iter_mut() {
            let name = "PyTorch compiled or with huge pages".to_string();
            sides.push((name, other.outcome(entry, &probes)?));
        }
        if let Some(floor) = &mut floor {
            sides.push(("the floor program".to_string(), floor.outcome(&probes)));
        }
        if overflows(entry, sides[0].1.loss) && theirs.loss == f64::INFINITY {
            theirs.loss = sides[0].1.loss;
        }
        let tolerance = tolerance(entry, &theirs);
        for (name, side) in &mut sides {
            if overflows(entry, theirs.loss) && side.loss == f64::INFINITY {
                side.loss = theirs.loss;
            }
            tolerance.check((name, side), ("PyTorch", &theirs))?;
        }

        let mut theirs = Theirs { pytorch, entry };
        let theirs_too = others.iter_mut().map(|pytorch| Theirs { pytorch, entry });
        let mut theirs_too: Vec<Theirs> = theirs_too.collect();
        let mut here: Vec<Calls> = ways.iter().map(|&way| Calls { workload, way }).collect();
        let mut copy = Copy::new(entry.bytes(), threads);
        let mut contenders: Vec<&mut dyn Contender> = vec![&mut theirs, &mut copy];
        contenders.extend(here.iter_mut().map(|calls| calls as &mut dyn Contender));
        contenders.extend(
            theirs_too
                .iter_mut()
                .map(|theirs| theirs as &mut dyn Contender),
        );
        contenders.extend(floor.iter_mut().map(|floor| floor as &mut dyn Contender));

        let mut spreads = self.plan.measure(&mut contenders)?.into_iter();
        let mut next = || spreads.next();
        let times = Times {
            pytorch: next().expect("it was timed"),
            copy: next().expect("it was timed"),
            here: ways.iter().filter_map(|_| next()).collect(),
            huge_pages: next(),
            compiled: if self.compiles { next() } else { None },
            floor: next(),
        };
        Ok(times.row(entry, self.quartiles))
    }
}

/// Other processors have no floor program.
#[cfg(not(target_arch = "x86_64"))]
struct RowFloor;

#[cfg(not(target_arch = "x86_64"))]
impl RowFloor {
    fn new(_entry: &Entry, _threads: usize) -> Option<Self> {
        None
    }

    fn outcome(&mut self, _probes: &[usize]) -> crate::agreement::Outcome {
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
