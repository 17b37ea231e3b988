//! The launches that the driver has noted.

use std::env;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;

use serde::Serialize;

/// A launch, as read from a line of the driver's file.
#[derive(Serialize)]
pub struct Launch {
    /// The number of the PTX file.
    module: usize,
    kernel: String,
    cubes: u64,
    units_per_cube: u64,
    shared_bytes: u64,
}

impl Launch {
    fn of_line(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let launch = Self {
            module: fields.next()?.parse().ok()?,
            kernel: fields.next()?.to_string(),
            cubes: fields.next()?.parse().ok()?,
            units_per_cube: fields.next()?.parse().ok()?,
            shared_bytes: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(launch)
    }
}

/// The driver's file, and how much of it has been read.
pub struct Log {
    path: PathBuf,
    read: u64,
}

impl Log {
    pub fn of_driver() -> Result<Self, String> {
        let folder = env::var_os("KERNELS_FOLDER").ok_or(
            "KERNELS_FOLDER names no folder in which the driver notes the launches: start \
             scripts/kernel-table, which sets it",
        )?;
        Ok(Self {
            path: PathBuf::from(folder).join("launches"),
            read: 0,
        })
    }

    /// The launches since the last call.
    pub fn launches(&mut self) -> Result<Vec<Launch>, String> {
        let text = self.unread()?;
        self.read += text.len() as u64;
        let launches = text.lines().map(|line| {
            Launch::of_line(line).ok_or_else(|| {
                format!(
                    "{} has a line that is no launch: {line}",
                    self.path.display()
                )
            })
        });
        launches.collect()
    }

    fn unread(&self) -> Result<String, String> {
        let failed = |error| format!("{} cannot be read: {error}", self.path.display());
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            // The file does not exist before the first launch.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        file.seek(SeekFrom::Start(self.read)).map_err(failed)?;
        file.read_to_string(&mut text).map_err(failed)?;
        Ok(text)
    }
}
