//! Reads MNIST's files, and other data sets in the same format (IDX), packed by gzip or not.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::{Dataset, Image, Part, Size, split};

/// Names of the files of one part, images first; some sources write a dot for the second hyphen.
type Names = [[&'static str; 2]; 2];
const TRAINING: Names = [
    ["train-images-idx3-ubyte", "train-images.idx3-ubyte"],
    ["train-labels-idx1-ubyte", "train-labels.idx1-ubyte"],
];
const HELD_OUT: Names = [
    ["t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"],
    ["t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"],
];
/// First numbers of the files with unsigned bytes: in three dimensions, and in one.
const MAGIC: [u32; 2] = [0x0803, 0x0801];

/// Whether the folder has training images in this format.
pub fn is_in(folder: &Path) -> bool {
    find(folder, TRAINING[0]).is_some()
}

/// Reads the training images. If one of the `t10k` files is there, these are the held-out images.
pub fn read(folder: &Path) -> Result<Dataset, String> {
    let (size, training) = part(folder, TRAINING)?;
    let (training, held_out) = match HELD_OUT.into_iter().find_map(|names| find(folder, names)) {
        None => split(&training),
        Some(_) => {
            let (other, held_out) = part(folder, HELD_OUT)?;
            if other != size {
                return Err(format!(
                    "{}: the images of t10k are {} x {} pixels, the training images {} x {}",
                    folder.display(),
                    other.height,
                    other.width,
                    size.height,
                    size.width
                ));
            }
            (training, held_out)
        }
    };
    let labels = training.labels.iter().chain(&held_out.labels);
    let classes = labels.max().map_or(0, |largest| largest + 1);
    Ok(Dataset {
        size,
        classes: (0..classes).map(|class| class.to_string()).collect(),
        training,
        held_out,
    })
}

fn find(folder: &Path, names: [&str; 2]) -> Option<PathBuf> {
    names
        .iter()
        .flat_map(|name| [name.to_string(), format!("{name}.gz")])
        .map(|name| folder.join(name))
        .find(|path| path.is_file())
}

fn part(folder: &Path, [images, labels]: Names) -> Result<(Size, Part), String> {
    let found = |names: [&str; 2]| {
        find(folder, names).ok_or_else(|| {
            format!(
                "{} has no {} (nor {}.gz)",
                folder.display(),
                names[0],
                names[0]
            )
        })
    };
    let (images, labels) = (found(images)?, found(labels)?);
    let explain = |path: &Path, reason| format!("{} cannot be read: {reason}", path.display());
    let ([count, height, width], pixels) =
        content::<3>(&images, MAGIC[0]).map_err(|reason| explain(&images, reason))?;
    let ([labelled], classes) =
        content::<1>(&labels, MAGIC[1]).map_err(|reason| explain(&labels, reason))?;
    if pixels.is_empty() {
        return Err(format!(
            "{} holds no images: its header says {count} of {height} x {width} pixels",
            images.display()
        ));
    }
    if count != labelled {
        return Err(format!(
            "{} holds {count} images, but {} {labelled} labels",
            images.display(),
            labels.display()
        ));
    }
    let image =
        |bytes: &[u8]| -> Image { bytes.iter().map(|byte| f32::from(*byte) / 255.0).collect() };
    let part = Part {
        images: pixels.chunks_exact(height * width).map(image).collect(),
        labels: classes.iter().map(|class| usize::from(*class)).collect(),
    };
    Ok((Size { height, width }, part))
}

/// The dimensions in a file, and its bytes.
fn content<const D: usize>(path: &Path, magic: u32) -> Result<([usize; D], Vec<u8>), String> {
    let mut bytes = fs::read(path).map_err(|error| error.to_string())?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        GzDecoder::new(bytes.as_slice())
            .read_to_end(&mut unpacked)
            .map_err(|error| error.to_string())?;
        bytes = unpacked;
    }
    let header = 4 + 4 * D;
    if bytes.len() < header {
        return Err(format!(
            "it has {} bytes, fewer than its header",
            bytes.len()
        ));
    }
    let number =
        |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if number(0) != magic {
        return Err(format!(
            "it starts with {:#06x}, expected {magic:#06x}, of bytes in {D} dimensions",
            number(0)
        ));
    }
    let dims: [usize; D] = std::array::from_fn(|dim| number(4 + 4 * dim) as usize);
    let expected = dims
        .iter()
        .try_fold(1, |product: usize, dim| product.checked_mul(*dim));
    if expected != Some(bytes.len() - header) {
        return Err(format!(
            "its header says {dims:?}, but {} bytes follow",
            bytes.len() - header
        ));
    }
    bytes.drain(..header);
    Ok((dims, bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::files::TestFolder;

    fn file(magic: u32, dims: &[u32], values: &[u8]) -> Vec<u8> {
        let numbers = [magic].into_iter().chain(dims.iter().copied());
        let mut bytes: Vec<u8> = numbers.flat_map(u32::to_be_bytes).collect();
        bytes.extend_from_slice(values);
        bytes
    }

    fn images(count: u32) -> Vec<u8> {
        let values: Vec<u8> = (0..count * 20).map(|value| value as u8).collect();
        file(MAGIC[0], &[count, 4, 5], &values)
    }

    #[test]
    fn packed_and_plain_files_are_read() {
        let folder = TestFolder::new("idx");
        let write = |name: &str, bytes: &[u8]| fs::write(folder.0.join(name), bytes).unwrap();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&images(3)).unwrap();
        write("train-images-idx3-ubyte.gz", &packed.finish().unwrap());
        write("train-labels-idx1-ubyte", &file(MAGIC[1], &[3], &[2, 0, 1]));
        write("t10k-images.idx3-ubyte", &images(2));
        write("t10k-labels.idx1-ubyte", &file(MAGIC[1], &[2], &[1, 6]));
        assert!(is_in(&folder.0));
        let dataset = read(&folder.0).unwrap();
        assert_eq!((dataset.size.height, dataset.size.width), (4, 5));
        assert_eq!(dataset.training.labels, [2, 0, 1]);
        assert_eq!(dataset.training.images[1][0], 20.0 / 255.0);
        assert_eq!(dataset.held_out.labels, [1, 6]);
        assert_eq!(dataset.classes.len(), 7);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let folder = TestFolder::new("idx-wrong");
        let write = |name: &str, bytes: &[u8]| fs::write(folder.0.join(name), bytes).unwrap();
        let says = |part: &str| {
            let error = read(&folder.0).err().unwrap();
            assert!(error.contains(part), "{error}");
        };
        write("train-images-idx3-ubyte", &images(3));
        says("has no train-labels-idx1-ubyte");
        write("train-labels-idx1-ubyte", &file(MAGIC[1], &[2], &[2, 0]));
        says("holds 3 images");
        write("train-labels-idx1-ubyte", &images(3));
        says("it starts with 0x0803, expected 0x0801");
        write("train-labels-idx1-ubyte", &file(MAGIC[1], &[3], &[2, 0]));
        says("its header says [3], but 2 bytes follow");
        write("train-labels-idx1-ubyte", &file(MAGIC[1], &[3], &[2, 0, 1]));
        write("t10k-labels-idx1-ubyte", &file(MAGIC[1], &[1], &[0]));
        says("has no t10k-images-idx3-ubyte");
        write("t10k-images-idx3-ubyte", &images(0));
        says("t10k-images-idx3-ubyte holds no images: its header says 0 of 4 x 5 pixels");
        write("t10k-images-idx3-ubyte", &file(MAGIC[0], &[1, 1, 1], &[9]));
        says("t10k are 1 x 1 pixels, the training images 4 x 5");
        write("train-images-idx3-ubyte", &file(MAGIC[0], &[3, 0, 5], &[]));
        says("train-images-idx3-ubyte holds no images");
        write("train-images-idx3-ubyte", &[0, 0]);
        says("fewer than its header");
    }
}
