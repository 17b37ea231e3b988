//! Writes files so that a reader finds the old content or the new, never a part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Makes the folder if it does not exist.
///
/// Shows that a file can be written there, which otherwise only the end of a long run would tell.
pub fn make_folder(path: &Path) -> Result<(), String> {
    let folder = path.display();
    if path.is_file() {
        return Err(format!(
            "{folder} is a file, not a folder; name another --output"
        ));
    }
    fs::create_dir_all(path)
        .map_err(|error| format!("the folder {folder} cannot be made: {error}"))?;
    let trial = path.join("unfinished-trial");
    fs::write(&trial, "")
        .and_then(|()| fs::remove_file(&trial))
        .map_err(|error| format!("cannot write into the folder {folder}: {error}"))
}

/// Lets `write` fill a temporary file next to `path`, then puts it in the place of `path`.
pub fn replace_file(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let temporary = sibling(path, "unfinished");
    write(&temporary)?;
    keep_through_power_loss(&temporary)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

/// Adds a prefix and keeps the extension: `curves.png` becomes `unfinished-curves.png`.
pub fn sibling(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}-{name}"))
}

pub fn keep_through_power_loss(path: &Path) -> std::io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

/// An empty folder that is removed when the test ends.
#[cfg(test)]
pub struct TestFolder(pub PathBuf);

#[cfg(test)]
impl TestFolder {
    pub fn new(name: &str) -> Self {
        let folder = format!("{}-{name}-{}", env!("CARGO_CRATE_NAME"), std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

#[cfg(test)]
impl Drop for TestFolder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = TestFolder::new("failed-write");
        let path = folder.0.join("numbers.csv");
        let write = |text: &'static str| {
            move |path: &Path| fs::write(path, text).map_err(|e| e.to_string())
        };
        replace_file(&path, write("old")).unwrap();
        replace_file(&path, |path| write("ne")(path).and(Err("disk full".into()))).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        replace_file(&path, write("new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
