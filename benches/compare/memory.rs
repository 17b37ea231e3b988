//! The most memory that this process had at one time: resident pages, as the system counts them.

use std::fs;

/// The memory before the measurement; the peak is measured from there.
pub struct Memory {
    before: u64,
}

impl Memory {
    /// Forgets the peak so far. Returns `None` where the system does not report memory: only Linux does.
    pub fn watch() -> Option<Self> {
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self {
            before: of_status("VmRSS:")?,
        })
    }

    /// The most bytes at one time beyond those at the beginning.
    pub fn peak(&self) -> Option<u64> {
        Some(of_status("VmHWM:")?.saturating_sub(self.before))
    }
}

#[allow(dead_code)] // benches/steps watches memory over many steps.
impl Memory {
    /// Forgets the peak so far. The next one is measured from the same beginning.
    pub fn forget_peak(&self) -> Option<()> {
        fs::write("/proc/self/clear_refs", "5").ok()
    }

    /// The bytes now, beyond those at the beginning.
    pub fn now(&self) -> Option<u64> {
        Some(of_status("VmRSS:")?.saturating_sub(self.before))
    }

    /// The bytes among those now that nobody needs: the system takes them once it has no others.
    pub fn free(&self) -> Option<u64> {
        of_file("/proc/self/smaps_rollup", "LazyFree:")
    }
}

fn of_status(name: &str) -> Option<u64> {
    of_file("/proc/self/status", name)
}

fn of_file(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
