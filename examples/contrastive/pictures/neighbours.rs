//! The grid of neighbours: held-out images, each with the training images nearest to it.

use plotters::prelude::*;

use super::{LABEL, TITLE};
use crate::canvas::{Area, Drawn, FONT};
use crate::data::{Image, Size};
use crate::evaluate::nearest;
use crate::report::{Report, SHOWN_NEIGHBOURS};

/// Rows of the grid.
const QUERIES: usize = 10;
/// Height and width of an image.
const CELL: i32 = 84;
/// Pixels from one image to the next.
const STEP: i32 = CELL + 16;
const LEFT: i32 = 40;
const TOP: i32 = 136;
/// Pixels between the queries and their neighbours.
const GAP: i32 = 40;
const FRAME: i32 = 5;
const SAME: RGBColor = RGBColor(44, 140, 44);
const OTHER: RGBColor = RGBColor(214, 39, 40);

pub fn size(report: &Report) -> (u32, u32) {
    let width = 2 * LEFT + GAP + STEP * (1 + SHOWN_NEIGHBOURS as i32);
    let height = TOP + STEP * queries(report).len() as i32 + 24;
    (width as u32, height as u32)
}

/// Draws a row for each class: its first held-out image, and framed the images nearest by the embeddings.
pub fn draw(report: &Report, area: &Area) -> Drawn {
    let title = format!(
        "{:.1} % of the {SHOWN_NEIGHBOURS} nearest neighbours are of the class of the query",
        100.0 * report.same_class
    );
    let text = |text: &str, place: (i32, i32), size: u32| {
        area.draw(&Text::new(
            text.to_string(),
            place,
            (FONT, size).into_font(),
        ))
    };
    text(&title, (LEFT, 24), TITLE)?;
    text("query", (LEFT, 92), LABEL)?;
    let keys = "training images, the nearest first; green: the same class, red: another";
    text(keys, (LEFT + STEP + GAP, 92), LABEL)?;

    let size = report.size;
    for (row, query) in queries(report).into_iter().enumerate() {
        let top = TOP + STEP * row as i32;
        draw_image(area, &report.held_out.images[query], size, (LEFT, top))?;
        let embedding = &report.embeddings.held_out[query];
        let keys = nearest(&report.embeddings.labelled, embedding, SHOWN_NEIGHBOURS);
        for (column, key) in keys.into_iter().enumerate() {
            let left = LEFT + GAP + STEP * (1 + column as i32);
            let is_same = report.labelled.labels[key] == report.held_out.labels[query];
            let frame = Rectangle::new(
                [
                    (left - FRAME, top - FRAME),
                    (left + CELL + FRAME, top + CELL + FRAME),
                ],
                if is_same { SAME } else { OTHER }.filled(),
            );
            area.draw(&frame)?;
            draw_image(area, &report.labelled.images[key], size, (left, top))?;
        }
    }
    Ok(())
}

/// The first held-out image of each class.
fn queries(report: &Report) -> Vec<usize> {
    let labels = &report.held_out.labels;
    (0..report.classes.len())
        .filter_map(|class| labels.iter().position(|label| *label == class))
        .take(QUERIES)
        .collect()
}

/// Draws an image pixel by pixel of the picture, so that there are no seams between the image's larger
/// pixels.
fn draw_image(area: &Area, image: &Image, size: Size, (left, top): (i32, i32)) -> Drawn {
    for y in 0..CELL {
        for x in 0..CELL {
            let at = |place: i32, pixels: usize| place as usize * pixels / CELL as usize;
            let pixel = image[at(y, size.height) * size.width + at(x, size.width)];
            let grey = (255.0 * pixel.clamp(0.0, 1.0)) as u8;
            area.draw_pixel((left + x, top + y), &RGBColor(grey, grey, grey))?;
        }
    }
    Ok(())
}
