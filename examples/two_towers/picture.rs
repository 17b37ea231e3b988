//! Draws the similarities of images to words.

use std::path::Path;

use plotters::prelude::*;

use crate::canvas::{FONT, draw_picture};
use crate::digits::{Image, SIDE};
use crate::towers::WORDS;

/// Width and height of a similarity.
const CELL: (i32, i32) = (16, 26);
const LEFT: i32 = 40;
/// The words above the rows.
const TOP: i32 = 120;
const PANEL: i32 = TOP + 10 * CELL.1 + 16;

/// A loss by name, and for each image its similarity to each word.
pub type Panel = (&'static str, Vec<Vec<f32>>);

/// Draws a row for each image and a column for each word, in a panel for each loss.
pub fn draw(images: &[Image], panels: &[Panel], path: &Path) -> Result<(), String> {
    let words = WORDS.concat();
    let width = LEFT + CELL.0 * words.len() as i32 + 24;
    let size = (width as u32, PANEL as u32 * panels.len() as u32);
    draw_picture(path, size, |area| {
        let fill = |(x, y), (wide, high), value: f32| {
            let part = |dark: f32| (255.0 - value.clamp(0.0, 1.0) * (255.0 - dark)) as u8;
            let colour = RGBColor(part(8.0), part(48.0), part(120.0)).filled();
            area.draw(&Rectangle::new([(x, y), (x + wide, y + high)], colour))
        };
        for ((name, similarities), top) in panels.iter().zip((TOP..).step_by(PANEL as usize)) {
            let title = format!("{name}: similarity of images and words, white 0 or less, dark 1");
            area.draw(&Text::new(
                title,
                (8, top - TOP + 8),
                (FONT, 22).into_font(),
            ))?;
            for (word, x) in words.iter().zip((LEFT..).step_by(CELL.0 as usize)) {
                let style = (FONT, 16).into_font().transform(FontTransform::Rotate270);
                area.draw(&Text::new(*word, (x, top - 4), style))?;
            }
            let rows = images.iter().zip(similarities);
            for ((image, row), y) in rows.zip((top..).step_by(CELL.1 as usize)) {
                for (value, pixel) in image.iter().zip(0..) {
                    let (right, down) = (pixel % SIDE as i32, pixel / SIDE as i32);
                    fill((8 + 3 * right, y + 3 * down), (3, 3), *value)?;
                }
                for (value, x) in row.iter().zip((LEFT..).step_by(CELL.0 as usize)) {
                    fill((x, y), (CELL.0 - 2, CELL.1 - 2), *value)?;
                }
            }
        }
        Ok(())
    })
}
