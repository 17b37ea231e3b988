//! Writes folders so that a reader finds the old one or the new, never a part.

use std::fs;
use std::path::{Path, PathBuf};

use crate::files::{keep_through_power_loss, sibling};

/// Lets `fill` fill a temporary folder next to `path`, then puts it in the place of `path`. If the program
/// ends between the two renames, `readable_folder` still finds the old folder.
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

/// The place of a folder that `replace_folder` wrote, if there is one.
pub fn readable_folder(path: &Path) -> Option<PathBuf> {
    [path.to_path_buf(), sibling(path, "previous")]
        .into_iter()
        .find(|folder| folder.is_dir())
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
    fn a_folder_is_readable_between_the_two_renames() {
        let around = crate::files::TestFolder::new("between-renames");
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
