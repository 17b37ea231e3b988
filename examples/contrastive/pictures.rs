//! The pictures of a run: the curves of the training, the map of the embeddings, the nearest neighbours, and
//! the logits.

mod curves;
mod logits;
mod map;
mod neighbours;

use std::path::Path;

use crate::canvas::draw_picture;
use crate::files::replace_file;
use crate::report::Report;

const TITLE: u32 = 34;
const LABEL: u32 = 24;

/// The files of the pictures and what they show.
pub const PICTURES: [(&str, &str); 4] = [
    ("curves.png", "loss and accuracy over the epochs"),
    (
        "embeddings.png",
        "the held-out images as the encoder places them",
    ),
    (
        "neighbours.png",
        "held-out images and the training images nearest to them",
    ),
    (
        "logits.png",
        "the logits before and after, the positive at index 0",
    ),
];

/// Draws all pictures into the folder.
pub fn draw(report: &Report, folder: &Path) -> Result<(), String> {
    let sizes = [
        (1200, 1000),
        (1200, 1000),
        neighbours::size(report),
        logits::size(report),
    ];
    let draws = [curves::draw, map::draw, neighbours::draw, logits::draw];
    for (((name, _), size), draw) in PICTURES.iter().zip(sizes).zip(draws) {
        replace_file(&folder.join(name), |path| {
            draw_picture(path, size, |area| draw(report, area))
        })?;
    }
    Ok(())
}

/// The smallest and the largest value, with a margin.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * 0.06).max(1e-3);
    (low - margin, high + margin)
}
