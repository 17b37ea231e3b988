//! The images of a run: the digits that are part of the program, or the images of a folder.

mod folder;
mod idx;

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::digits;
use crate::numbers::{MILLION, whole};

/// The seed of the split. It does not depend on `--seed`, so that the accuracies of runs can be compared.
const SPLIT_SEED: u64 = 0;
/// One image in this many is held out, where the data does not say which.
const HELD_OUT_OF: usize = 4;
/// Fewest held-out images. With one image the picture of the logits would have no negatives.
const HELD_OUT_AT_LEAST: usize = 2;
/// Most held-out images. More of them make measuring slow, and the figures hardly better.
const HELD_OUT_AT_MOST: usize = 2000;
/// Heights and widths that the encoder takes.
const SIDES: std::ops::RangeInclusive<usize> = 4..=256;

/// The source of the images.
#[derive(clap::Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Folder of images to use instead of the digits: with MNIST's files (train-images-idx3-ubyte,
    /// train-labels-idx1-ubyte, packed by gzip or not), or with a sub-folder of PNG or JPEG images for each
    /// class.
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<PathBuf>,

    /// Height and width to which the PNG and JPEG images of --data are resized.
    #[arg(long, value_name = "PIXELS", default_value_t = 28)]
    #[arg(value_parser = whole(SIDES), allow_negative_numbers = true)]
    pub size: usize,

    /// Train on at most this many of the images.
    #[arg(long, value_name = "N")]
    #[arg(value_parser = whole(1..=MILLION), allow_negative_numbers = true)]
    pub limit: Option<usize>,
}

impl Source {
    /// Why `--size` has no effect on these images, if it has none.
    pub fn ignores_size(&self) -> Option<&'static str> {
        match &self.data {
            None => Some("the digits keep their 8 x 8 pixels; it goes with --data"),
            Some(folder) if idx::is_in(folder) => {
                Some("the images of MNIST's files keep their size; leave it away")
            }
            Some(_) => None,
        }
    }
}

/// Height and width of the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

/// The brightness of each pixel, row by row, from 0 to 1.
pub type Image = Vec<f32>;

/// Images, and the number of the class of each.
#[derive(Clone, Default)]
pub struct Part {
    pub images: Vec<Image>,
    pub labels: Vec<usize>,
}

impl Part {
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// The images with these numbers.
    pub fn of(&self, numbers: &[usize]) -> Self {
        Self {
            images: numbers.iter().map(|&at| self.images[at].clone()).collect(),
            labels: numbers.iter().map(|&at| self.labels[at]).collect(),
        }
    }
}

/// The images of a run. The training does not use the held-out images, even without their labels.
pub struct Dataset {
    pub size: Size,
    /// Names of the classes.
    pub classes: Vec<String>,
    pub training: Part,
    pub held_out: Part,
}

/// Loads the images that the command line asks for.
pub fn load(source: &Source) -> Result<Dataset, String> {
    let mut dataset = match &source.data {
        None => shipped()?,
        Some(folder) => of_folder(folder, source.size)?,
    };
    let held_out = dataset.held_out.len();
    if held_out < HELD_OUT_AT_LEAST {
        return Err(format!(
            "{held_out} of {} images are held out to measure the accuracy with, and {HELD_OUT_AT_LEAST} are \
             needed; where nothing says which, one in {HELD_OUT_OF} is held out, so that {} images are enough",
            held_out + dataset.training.len(),
            HELD_OUT_AT_LEAST * HELD_OUT_OF,
        ));
    }
    if held_out > HELD_OUT_AT_MOST {
        dataset.held_out = dataset
            .held_out
            .of(&shuffled(dataset.held_out.len())[..HELD_OUT_AT_MOST]);
    }
    if let Some(limit) = source.limit.filter(|limit| *limit < dataset.training.len()) {
        dataset.training = dataset
            .training
            .of(&shuffled(dataset.training.len())[..limit]);
    }
    let Size { height, width } = dataset.size;
    if !SIDES.contains(&height) || !SIDES.contains(&width) {
        return Err(format!(
            "the images are {height} x {width} pixels; height and width must be from {} to {}",
            SIDES.start(),
            SIDES.end()
        ));
    }
    Ok(dataset)
}

fn shipped() -> Result<Dataset, String> {
    let digits::Split { training, held_out } = digits::load()?;
    let part = |digits: digits::Digits| Part {
        images: digits.images.iter().map(|image| image.to_vec()).collect(),
        labels: digits.labels,
    };
    Ok(Dataset {
        size: Size {
            height: digits::SIDE,
            width: digits::SIDE,
        },
        classes: (0..digits::CLASSES)
            .map(|digit| digit.to_string())
            .collect(),
        training: part(training),
        held_out: part(held_out),
    })
}

fn of_folder(folder: &Path, size: usize) -> Result<Dataset, String> {
    if !folder.is_dir() {
        return Err(format!("--data: there is no folder {}", folder.display()));
    }
    if idx::is_in(folder) {
        return idx::read(folder);
    }
    folder::read(folder, size)
}

/// Divides images into a training part and a held-out part.
fn split(all: &Part) -> (Part, Part) {
    let order = shuffled(all.len());
    let (held_out, training) = order.split_at(all.len() / HELD_OUT_OF);
    (all.of(training), all.of(held_out))
}

fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut StdRng::seed_from_u64(SPLIT_SEED));
    order
}

/// The images as one tensor of [images, 1, height, width].
pub fn to_tensor(images: &[Image], size: Size, device: &Device) -> Tensor<4> {
    let shape = [images.len(), 1, size.height, size.width];
    Tensor::from_data(TensorData::new(images.concat(), shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(folder: &Path) -> Source {
        Source {
            data: Some(folder.to_path_buf()),
            size: 28,
            limit: None,
        }
    }

    #[test]
    fn the_digits_can_be_limited_and_keep_their_held_out_images() {
        let all = load(&Source::default()).unwrap();
        assert_eq!((all.training.len(), all.held_out.len()), (1297, 500));
        let some = load(&Source {
            limit: Some(100),
            ..Source::default()
        })
        .unwrap();
        assert_eq!(some.training.len(), 100);
        assert_eq!(some.held_out.images, all.held_out.images);
    }

    #[test]
    fn images_that_are_too_few_to_hold_some_out_are_refused() {
        let folder = crate::files::TestFolder::new("few-images");
        let class = |class: usize| folder.0.join(["one", "two"][class]);
        for number in [0, 1] {
            std::fs::create_dir(class(number)).unwrap();
        }
        let with_images = |images: usize| {
            for number in 0..images {
                let path = class(number % 2).join(format!("{number}.png"));
                image::GrayImage::new(4, 4).save(path).unwrap();
            }
            load(&source(&folder.0))
        };
        let error = with_images(7).err().unwrap();
        assert!(
            error.contains("1 of 7 images") && error.contains("8 images are enough"),
            "{error}"
        );
        assert_eq!(with_images(8).unwrap().held_out.len(), 2);
    }

    #[test]
    fn a_folder_without_images_is_refused_in_a_sentence() {
        let around = crate::files::TestFolder::new("no-images");
        let error = |folder: &Path| load(&source(folder)).err().unwrap();
        assert!(error(&around.0.join("missing")).contains("there is no folder"));
        let nothing = error(&around.0);
        assert!(
            nothing.contains("train-images-idx3-ubyte") && nothing.contains("sub-folder"),
            "{nothing}"
        );
    }
}
