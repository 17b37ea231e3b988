//! The comparison with PyTorch, on the CPU.

mod floor;
mod linear;
mod process;
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
use process::{PyTorch, Theirs};
use table::{Times, columns};
use tolerance::{overflows, tolerance};

/// The request of the command line.
pub struct Request<'a> {
    pub python: &'a str,
    pub threads: Option<usize>,
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

        let mut pytorch = PyTorch::start(self.python, threads)?;
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
            self.row(entry, &mut pytorch, threads)
                .map_err(|error| format!("{entry} is not timed, because {error}"))
        })?;
        report.table(&linear::head(), &chosen.projections, |projection| {
            linear::row(projection, &mut pytorch, self.plan, self.quartiles)
                .map_err(|error| format!("{projection} is not timed, because {error}"))
        })?;
        report.close()
    }

    fn row(&self, entry: &Entry, pytorch: &mut PyTorch, threads: usize) -> Result<Row, String> {
        let ways = match entry.phase {
            Phase::ForwardBackward => &[Way::Owned, Way::Shared][..],
            Phase::Forward => &[Way::Untracked],
        };
        let workload = workload(entry);
        let probes = entry.probes();
        let mut theirs = pytorch.outcome(entry, &probes)?;
        for &way in ways {
            let here = workload.outcome(way, &probes)?;
            if overflows(entry, here.loss) && theirs.loss == f64::INFINITY {
                theirs.loss = here.loss;
            }
            let tolerance = tolerance(entry, &theirs);
            let agree = tolerance.check(("this crate", &here), ("PyTorch", &theirs));
            agree.map_err(|error| format!("with logits {way}, {error}"))?;
        }

        let mut theirs = Theirs { pytorch, entry };
        let workload = &*workload;
        let mut here: Vec<Calls> = ways.iter().map(|&way| Calls { workload, way }).collect();
        let mut copy = Copy::new(entry.bytes(), threads);
        let mut contenders: Vec<&mut dyn Contender> = vec![&mut theirs];
        contenders.extend(here.iter_mut().map(|calls| calls as &mut dyn Contender));
        contenders.push(&mut copy);

        let spreads = self.plan.measure(&mut contenders)?;
        let times = Times {
            pytorch: spreads[0],
            here: spreads[1..=ways.len()].to_vec(),
            copy: spreads[ways.len() + 1],
        };
        Ok(times.row(entry, self.quartiles))
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
