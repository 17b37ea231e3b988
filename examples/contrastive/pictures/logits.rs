//! The logits of momentum contrast before and after the training: the positive is at index 0.

use plotters::prelude::*;

use super::{LABEL, TITLE};
use crate::canvas::{Area, Drawn, FONT};
use crate::method::Method;
use crate::report::Report;

/// Height and width of a logit.
const CELL: i32 = 24;
const LEFT: i32 = 40;
const TOP: i32 = 130;
/// Pixels between the positive and the negatives.
const GAP: i32 = 14;
/// Pixels between the two matrices.
const BETWEEN: i32 = 70;
const BELOW: i32 = 100;
const SIMILAR: RGBColor = RGBColor(8, 64, 150);
const OPPOSITE: RGBColor = RGBColor(220, 110, 0);

pub fn size(report: &Report) -> (u32, u32) {
    let (rows, width) = extent(&report.similarities);
    let height = TOP + CELL * rows + BELOW;
    ((2 * (LEFT + width) + BETWEEN) as u32, height as u32)
}

/// The number of rows, and the width of a matrix in the picture.
fn extent(similarities: &[Vec<f32>]) -> (i32, i32) {
    let columns = similarities.first().map_or(0, Vec::len);
    (similarities.len() as i32, CELL * columns as i32 + GAP)
}

/// Draws both matrices: blue where query and key are similar, orange where they are opposite.
pub fn draw(report: &Report, area: &Area) -> Drawn {
    let title = match report.method {
        Method::Moco => {
            "Similarity of each query (row) to the keys (columns): the label of every row is 0"
        }
        _ => "Similarity of each view (row) to its other view (column 0) and to other images",
    };
    area.draw(&Text::new(title, (LEFT, 24), (FONT, TITLE).into_font()))?;
    // With labels some of the other images are positives, too.
    let columns = match report.method.sees_labels() {
        true => ["the other view", "other images"],
        false => ["the positive", "the negatives"],
    };
    let (_, width) = extent(&report.similarities);
    let before = &report.baselines.similarities;
    draw_matrix(area, before, columns, (LEFT, "before the training"))?;
    let left = LEFT + width + BETWEEN;
    let key = "blue: alike (1), white: 0, orange: opposite (-1)";
    let below = TOP + CELL * report.similarities.len() as i32 + 54;
    area.draw(&Text::new(key, (LEFT, below), (FONT, LABEL).into_font()))?;
    let after = &report.similarities;
    draw_matrix(area, after, columns, (left, "after the training"))
}

fn draw_matrix(
    area: &Area,
    similarities: &[Vec<f32>],
    [first, others]: [&str; 2],
    (left, name): (i32, &str),
) -> Drawn {
    let text = |text: &str, place: (i32, i32)| {
        area.draw(&Text::new(
            text.to_string(),
            place,
            (FONT, LABEL).into_font(),
        ))
    };
    text(name, (left, TOP - 40))?;
    for (row, values) in similarities.iter().enumerate() {
        for (column, value) in values.iter().enumerate() {
            let place = (at_column(left, column), TOP + CELL * row as i32);
            let corners = [place, (place.0 + CELL - 2, place.1 + CELL - 2)];
            area.draw(&Rectangle::new(corners, colour(*value).filled()))?;
        }
    }
    let (rows, width) = extent(similarities);
    let bottom = TOP + CELL * rows;
    let frame = [(left - 3, TOP - 3), (left + CELL, bottom)];
    area.draw(&Rectangle::new(frame, BLACK.stroke_width(2)))?;
    text(&format!("0: {first}"), (left, bottom + 14))?;
    let others = format!("1 to {}: {others}", (width - GAP) / CELL - 1);
    text(&others, (at_column(left, 1) + 6 * CELL, bottom + 14))?;
    Ok(())
}

fn at_column(left: i32, column: usize) -> i32 {
    let gap = if column == 0 { 0 } else { GAP };
    left + gap + CELL * column as i32
}

/// The colour of a similarity; 0 is white.
fn colour(similarity: f32) -> RGBColor {
    let RGBColor(red, green, blue) = if similarity < 0.0 { OPPOSITE } else { SIMILAR };
    let share = similarity.abs().min(1.0);
    let mix = |part: u8| (255.0 + share * (f32::from(part) - 255.0)) as u8;
    RGBColor(mix(red), mix(green), mix(blue))
}
