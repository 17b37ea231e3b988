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

fn of_status(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}
