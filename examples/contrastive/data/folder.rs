//! Reads a folder with one sub-folder of PNG or JPEG images for each class.

use std::fs;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;

use super::{Dataset, Image, Part, Size, split};

const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Reads all images in grey and in one size, and holds some of them out.
pub fn read(folder: &Path, side: usize) -> Result<Dataset, String> {
    let classes: Vec<PathBuf> = sorted(folder)?
        .into_iter()
        .filter(|path| path.is_dir() && !is_of_a_tool(path))
        .collect();
    if classes.len() < 2 {
        return Err(format!(
            "--data: {} has {} sub-folders; expected one of PNG or JPEG images for each of two or more classes, \
             or MNIST's files train-images-idx3-ubyte and train-labels-idx1-ubyte",
            folder.display(),
            classes.len()
        ));
    }
    let mut all = Part::default();
    for (class, path) in classes.iter().enumerate() {
        let before = all.len();
        for file in sorted(path)?.iter().filter(|file| is_image(file)) {
            all.images.push(grey(file, side)?);
            all.labels.push(class);
        }
        if all.len() == before {
            return Err(format!(
                "--data: {} has no PNG or JPEG images",
                path.display()
            ));
        }
    }
    let (training, held_out) = split(&all);
    Ok(Dataset {
        size: Size {
            height: side,
            width: side,
        },
        classes: classes.iter().map(|path| name(path)).collect(),
        training,
        held_out,
    })
}

/// The paths in a folder, in the order of their names: each machine lists a folder in another order.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let explain = |error| format!("{} cannot be read: {error}", folder.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(explain)? {
        paths.push(entry.map_err(explain)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether a folder belongs to a tool. Version control, notebooks and archives leave folders such as `.git`,
/// `.ipynb_checkpoints` and `__MACOSX` next to the classes.
fn is_of_a_tool(folder: &Path) -> bool {
    let name = name(folder);
    name.starts_with('.') || name.starts_with("__")
}

/// Whether a file is an image. Archives of macOS add a file `._1.png`, which is not an image, to `1.png`.
fn is_image(path: &Path) -> bool {
    path.is_file()
        && !name(path).starts_with('.')
        && path.extension().is_some_and(|ending| {
            ENDINGS
                .iter()
                .any(|known| ending.eq_ignore_ascii_case(known))
        })
}

fn grey(path: &Path, side: usize) -> Result<Image, String> {
    let picture =
        image::open(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let side = side as u32;
    let picture = match (picture.width(), picture.height()) == (side, side) {
        true => picture,
        false => picture.resize_exact(side, side, FilterType::Triangle),
    };
    Ok(picture.to_luma32f().into_raw())
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbImage};

    use super::*;
    use crate::files::TestFolder;

    #[test]
    fn each_sub_folder_is_a_class() {
        let folder = TestFolder::new("classes");
        for class in ["bright", "dark", ".git", "__MACOSX"] {
            fs::create_dir(folder.0.join(class)).unwrap();
        }
        for number in 0..6 {
            let grey = GrayImage::from_pixel(9, 9, Luma([255]));
            grey.save(folder.0.join(format!("bright/{number}.png")))
                .unwrap();
            let colour = RgbImage::new(5, 7);
            colour
                .save(folder.0.join(format!("dark/{number}.PNG")))
                .unwrap();
        }
        for file in ["dark/notes.txt", "dark/._1.PNG"] {
            fs::write(folder.0.join(file), "no image").unwrap();
        }
        let dataset = read(&folder.0, 9).unwrap();
        assert_eq!(dataset.classes, ["bright", "dark"]);
        assert_eq!((dataset.training.len(), dataset.held_out.len()), (9, 3));
        for part in [&dataset.training, &dataset.held_out] {
            for (image, label) in part.images.iter().zip(&part.labels) {
                assert_eq!(*image, vec![if *label == 0 { 1.0 } else { 0.0 }; 81]);
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_said() {
        let folder = TestFolder::new("classes-wrong");
        let says = |part: &str| {
            let error = read(&folder.0, 8).err().unwrap();
            assert!(error.contains(part), "{error}");
        };
        fs::create_dir(folder.0.join("one")).unwrap();
        says("has 1 sub-folders");
        fs::create_dir(folder.0.join("two")).unwrap();
        says("one has no PNG or JPEG images");
        fs::write(folder.0.join("one/broken.png"), "no image").unwrap();
        says("broken.png cannot be read");
    }
}
