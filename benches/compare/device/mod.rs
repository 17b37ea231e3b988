//! The comparison with `burn::nn` and with a copy, on one device.

mod exact;
mod hardware;
mod panics;
mod projection;
mod runtimes;
mod sides;
#[path = "../../../examples/common/start.rs"]
mod start;
mod table;

use std::time::Instant;

use burn::tensor::Device;
use clap::ValueEnum;

use crate::calls::{Calls, Way};
use crate::entries::{self, Chosen, Entry, Phase};
use crate::phases::tables;
use crate::projections::{self, Projection};
use crate::report::{Files, Report, Row};
use crate::rounds::{Contender, Plan, Spread};
use crate::table::duration;
use hardware::{Hardware, megabytes};
use panics::{guarded, listen};
pub use runtimes::Runtime;
use sides::{Copies, Sides};
use start::started;
use table::{Times, columns, without_times};

const IDLE_SYNCS: usize = 100;
/// Bytes of the logits of calls that are queued before the device is waited for, as in gpu.py: a training loop
/// does not wait for its losses, and a wait takes as long as a call of a small loss.
const QUEUED_BYTES: usize = 2 << 30;
const MOST_QUEUED: usize = 16;

/// The rows of the comparison.
#[derive(Clone, Copy, ValueEnum)]
pub enum Set {
    /// 256x1000, 4096x10, 512x32000 and 512x50257 in f32, and a projection to 32000 classes.
    Small,
    /// 4096x32000, 4096x50257, 8192x128256, 65536x1000 and 8x21x512x512 in f32 and bf16, and projections to 50257 and
    /// 128256 classes: up to 4.2 GB of logits. The device needs about five times as much memory, the host twice as
    /// much.
    Large,
}

impl Set {
    pub fn entries(self) -> Vec<Entry> {
        match self {
            Set::Small => entries::small(),
            Set::Large => entries::large(),
        }
    }

    pub fn projections(self) -> Vec<Projection> {
        match self {
            Set::Small => projections::small(),
            Set::Large => projections::large(),
        }
    }
}

/// The request of the command line.
pub struct Request {
    pub runtime: Runtime,
    pub plan: Plan,
    pub quartiles: bool,
    /// The command that repeats this run.
    pub command: String,
}

impl Request {
    pub fn run(&self, chosen: &Chosen, files: &Files) -> Result<(), String> {
        listen();
        let Opened {
            device,
            hardware,
            idle,
        } = self.runtime.opened()?;
        let introduction = format!(
            "{hardware}. Up to {MOST_QUEUED} calls are queued before the device is waited for; to wait for the \
             idle device takes {}. {} {}. Medians of `{}`.",
            duration(idle.median),
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            self.command,
        );
        let mut report = Report::new(&introduction, files)?;
        let mut notes = Vec::new();
        tables(&mut report, &chosen.entries, columns, |entry| {
            let row = guarded(|| {
                free(&device)?;
                possible(entry, &device, &hardware)?;
                self.row(entry, &device, &mut notes)
            });
            Ok(row.unwrap_or_else(|reason| {
                if reason.contains('\n') {
                    notes.push(format!("{entry} is not timed: {reason}"));
                }
                without_times(entry, &reason)
            }))
        })?;
        report.table(&projection::head(), &chosen.projections, |given| {
            let row = guarded(|| {
                free(&device)?;
                projection::possible(given, &device, &hardware)?;
                let how = (self.plan, self.quartiles);
                projection::row(given, &device, how, &mut notes)
            });
            Ok(row.unwrap_or_else(|reason| {
                if reason.contains('\n') {
                    notes.push(format!("{given} is not timed: {reason}"));
                }
                projection::without_times(given, &reason)
            }))
        })?;
        for note in notes {
            report.note(note)?;
        }
        report.close()
    }

    fn row(&self, entry: &Entry, device: &Device, notes: &mut Vec<String>) -> Result<Row, String> {
        let logits = entry.logits();
        let exact = exact::outcome(entry, &logits, &entry.probes());
        let queued = (QUEUED_BYTES / entry.bytes()).clamp(1, MOST_QUEUED);
        let sides = Sides::new(entry, logits, device, queued);
        let (ways, burn_way) = match entry.phase {
            Phase::ForwardBackward => (&[Way::Owned, Way::Shared][..], Way::Shared),
            Phase::Forward => (&[Way::Untracked][..], Way::Untracked),
        };
        for &way in ways {
            let agree = sides.check_here(entry, way, &exact);
            agree.map_err(|error| format!("with logits {way}, {error}"))?;
        }
        let burn_is_right = guarded(|| sides.check_burn_nn(entry, burn_way, &exact));

        let mut copies = Copies(&*sides.here);
        let calls = |workload, way| Calls { workload, way };
        let mut here = Vec::from_iter(ways.iter().map(|&way| calls(&*sides.here, way)));
        let mut burn_nn = calls(&*sides.burn_nn, burn_way);
        let mut contenders: Vec<&mut dyn Contender> = vec![&mut copies];
        contenders.extend(here.iter_mut().map(|calls| calls as &mut dyn Contender));
        match burn_is_right {
            Ok(()) => contenders.push(&mut burn_nn),
            Err(reason) => notes.push(format!("{entry} without burn::nn: {reason}")),
        }
        let spreads = self.plan.measure(&mut contenders)?;
        let times = Times {
            copy: spreads[0],
            here: spreads[1..=ways.len()].to_vec(),
            burn_nn: spreads.get(ways.len() + 1).copied(),
        };
        Ok(times.row(entry, self.quartiles))
    }
}

/// Prints which device the runtime finds, and times nothing.
pub fn identify(runtime: Runtime) -> Result<(), String> {
    listen();
    println!("{}.", runtime.opened()?.hardware);
    Ok(())
}

/// A device that has answered.
struct Opened {
    device: Device,
    hardware: Hardware,
    /// The time of waiting for the device while it has nothing to do.
    idle: Spread,
}

impl Runtime {
    fn opened(self) -> Result<Opened, String> {
        let opened = started(|| {
            let device = (self.open)();
            Ok(Opened {
                hardware: Hardware::of(&device),
                idle: idle_sync(&device)?,
                device,
            })
        });
        opened.map_err(|reason| {
            let Self { name, needs, .. } = self;
            format!(
                "{name} finds no device that it can use here. It needs {needs}. It says: {reason}."
            )
        })
    }
}

/// Frees the memory of the previous row.
fn free(device: &Device) -> Result<(), String> {
    // Operations that are still queued hold what was dropped.
    let done = device.sync();
    done.map_err(|error| format!("the device failed: {error}"))?;
    device.memory_cleanup();
    Ok(())
}

/// Checks that the device has the dtype, and buffers as large as the logits.
fn possible(entry: &Entry, device: &Device, hardware: &Hardware) -> Result<(), String> {
    if !device.supports_dtype(entry.dtype()) {
        return Err(format!("the device does not compute {}", entry.precision));
    }
    let bytes = entry.bytes() as u64;
    if bytes > hardware.largest_buffer {
        return Err(format!(
            "the logits take {}, a buffer of the device at most {}",
            megabytes(bytes),
            megabytes(hardware.largest_buffer)
        ));
    }
    Ok(())
}

/// Times the wait for an idle device. Every time in the tables contains its share of one.
fn idle_sync(device: &Device) -> Result<Spread, String> {
    let sync = |_| {
        let start = Instant::now();
        let done = device.sync().map(|()| start.elapsed().as_secs_f64());
        done.map_err(|error| format!("{error}"))
    };
    let seconds = (0..IDLE_SYNCS).map(sync).collect::<Result<_, _>>()?;
    Ok(Spread::of(seconds))
}
