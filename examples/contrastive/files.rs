//! Writing so that whoever reads sees the old content or the new, never a part.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Makes the folder if it does not exist.
pub fn make_folder(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path)
        .map_err(|error| format!("the folder {} cannot be made: {error}", path.display()))
}

/// Lets `write` fill a temporary file beside `path` and then puts it in the place of `path`.
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

/// Lets `fill` fill a temporary folder beside `path` and then puts it in the place of `path`.
/// Where this is cut off between the two renames, `readable_folder` still finds the old folder.
pub fn replace_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<(), String> {
    let explain = |error| format!("{} cannot be written: {error}", path.display());
    let temporary = sibling(path, "unfinished");
    let previous = sibling(path, "previous");
    remove_folder(&temporary).map_err(explain)?;
    fs::create_dir_all(&temporary).map_err(explain)?;
    fill(&temporary)?;
    for entry in fs::read_dir(&temporary).map_err(explain)? {
        entry
            .and_then(|entry| keep_through_power_loss(&entry.path()))
            .map_err(explain)?;
    }
    if path.exists() {
        remove_folder(&previous).map_err(explain)?;
        fs::rename(path, &previous).map_err(explain)?;
    }
    fs::rename(&temporary, path).map_err(explain)?;
    remove_folder(&previous).map_err(explain)
}

/// Where a folder that `replace_folder` wrote can be read, if there is one.
pub fn readable_folder(path: &Path) -> Option<PathBuf> {
    [path.to_path_buf(), sibling(path, "previous")]
        .into_iter()
        .find(|folder| folder.is_dir())
}

/// `curves.png` becomes `unfinished-curves.png`, which keeps the extension.
fn sibling(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{prefix}-{name}"))
}

fn keep_through_power_loss(path: &Path) -> std::io::Result<()> {
    File::options().write(true).open(path)?.sync_all()
}

fn remove_folder(path: &Path) -> std::io::Result<()> {
    if path.exists() {
        fs::remove_dir_all(path)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = crate::TestFolder::new("failed-write");
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

    #[test]
    fn a_folder_is_readable_between_the_two_renames() {
        let around = crate::TestFolder::new("between-renames");
        let folder = around.0.join("checkpoint");
        let fill = |text: &'static str| {
            move |folder: &Path| fs::write(folder.join("part"), text).map_err(|e| e.to_string())
        };
        assert_eq!(readable_folder(&folder), None);
        replace_folder(&folder, fill("one")).unwrap();
        fs::rename(&folder, sibling(&folder, "previous")).unwrap();
        let part = || fs::read_to_string(readable_folder(&folder).unwrap().join("part")).unwrap();
        assert_eq!(part(), "one");
        replace_folder(&folder, fill("two")).unwrap();
        assert_eq!(part(), "two");
        assert!(!sibling(&folder, "previous").exists());
    }
}
