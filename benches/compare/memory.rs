//! The most memory that this process had at one time, as the system counts it: pages in use.

use std::fs;

/// What the peak is measured from.
pub struct Memory {
    before: u64,
}

impl Memory {
    /// Forgets the peak so far. `None` where the system does not tell, as only Linux does.
    pub fn watch() -> Option<Self> {
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self {
            before: of_status("VmRSS:")?,
        })
    }

    /// Bytes that there were at one time beyond those at the beginning.
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
