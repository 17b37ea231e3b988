//! Draws tables of similarities: blue where they are large, white where they are 0 or less.

use std::path::Path;

use plotters::prelude::*;

use crate::canvas::{FONT, draw_picture};

/// Width and height of a similarity.
const CELL: (i32, i32) = (16, 24);
/// What is left of the similarities, and above them.
const CORNER: (i32, i32) = (32, 120);
const PANEL: i32 = CORNER.1 + 10 * CELL.1 + 16;

/// Draws a panel for each table, of a title and ten rows with a number for each of the named columns.
pub fn draw(columns: &[&str], tables: &[(String, Vec<f32>)], path: &Path) -> Result<(), String> {
    let width = columns.len() as i32;
    let size = (CORNER.0 + CELL.0 * width + 16, PANEL * tables.len() as i32);
    draw_picture(path, (size.0 as u32, size.1 as u32), |area| {
        for ((title, numbers), panel) in tables.iter().zip(0..) {
            let top = PANEL * panel + CORNER.1;
            let style = |size| (FONT, size).into_font();
            area.draw(&Text::new(
                title.as_str(),
                (8, top - CORNER.1 + 8),
                style(22),
            ))?;
            for (name, column) in columns.iter().zip(0..) {
                let style = style(16).transform(FontTransform::Rotate270);
                area.draw(&Text::new(
                    *name,
                    (CORNER.0 + column * CELL.0, top - 4),
                    style,
                ))?;
            }
            for (value, at) in numbers.iter().zip(0..) {
                let (row, column) = (at / width, at % width);
                let (x, y) = (CORNER.0 + column * CELL.0, top + row * CELL.1);
                if column == 0 {
                    area.draw(&Text::new(row.to_string(), (10, y + 2), style(20)))?;
                }
                let part = |dark: f32| (255.0 - value.clamp(0.0, 1.0) * (255.0 - dark)) as u8;
                let colour = RGBColor(part(8.0), part(48.0), part(120.0)).filled();
                let corners = [(x, y), (x + CELL.0 - 2, y + CELL.1 - 2)];
                area.draw(&Rectangle::new(corners, colour))?;
            }
        }
        Ok(())
    })
}
