//! The confusion matrix: which digits are taken for which.

use std::path::Path;

use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::canvas::{Area, Drawn, FONT, RAISED, draw_picture};
use crate::digits::{CLASSES, Digits};
use crate::model::{Classifier, DigitBatcher};

/// Width and height of a cell, and the margins around the cells, in pixels.
const CELL: i32 = 56;
const LEFT: i32 = 90;
const TOP: i32 = 130;
const BORDER: i32 = 30;

const RIGHT_COLOUR: RGBColor = RGBColor(31, 119, 180);
const WRONG_COLOUR: RGBColor = RGBColor(214, 39, 40);

/// Numbers of images of each digit (row) that were taken for each digit (column).
#[derive(Debug, PartialEq)]
pub struct Confusion([[usize; CLASSES]; CLASSES]);

impl Confusion {
    pub fn of(model: &Classifier, digits: &Digits, device: &Device) -> Result<Self, String> {
        let items = digits.images.iter().copied();
        let items = items.zip(digits.labels.iter().copied()).collect();
        let output = model.classify(DigitBatcher.batch(items, device));
        let predicted: Vec<u32> = output
            .predicted
            .try_into_vec_as()
            .map_err(|error| format!("the predictions cannot be read from the device: {error}"))?;
        Ok(Self::count(&digits.labels, &predicted))
    }

    fn count(labels: &[usize], predicted: &[u32]) -> Self {
        let mut counts = [[0; CLASSES]; CLASSES];
        for (label, predicted) in labels.iter().zip(predicted) {
            counts[*label][*predicted as usize] += 1;
        }
        Self(counts)
    }

    /// The share of images on the diagonal.
    pub fn accuracy(&self) -> f64 {
        let right: usize = (0..CLASSES).map(|digit| self.0[digit][digit]).sum();
        let all: usize = self.0.iter().flatten().sum();
        right as f64 / all as f64
    }

    pub fn draw(&self, path: &Path) -> Result<(), String> {
        let cells = CELL * CLASSES as i32;
        let size = (
            (LEFT + cells + BORDER) as u32,
            (TOP + cells + BORDER) as u32,
        );
        draw_picture(path, size, |area| self.draw_on(area))
    }

    fn draw_on(&self, area: &Area) -> Drawn {
        let cells = CELL * CLASSES as i32;
        let centre = Pos::new(HPos::Center, VPos::Center);
        let style =
            |size: u32, colour: &RGBColor| (FONT, size).into_font().color(colour).pos(centre);
        let title = format!("Held-out digits, {:.1} % right", 100.0 * self.accuracy());
        area.draw(&Text::new(title, (LEFT + cells / 2, 32), style(30, &BLACK)))?;
        area.draw(&Text::new(
            "taken for",
            (LEFT + cells / 2, 76),
            style(22, &BLACK),
        ))?;
        let shown = style(22, &BLACK).transform(FontTransform::Rotate270);
        area.draw(&Text::new("shown", (26, TOP + cells / 2), shown))?;
        for digit in 0..CLASSES {
            let place = CELL * digit as i32 + CELL / 2;
            let name = digit.to_string();
            area.draw(&Text::new(
                name.clone(),
                (LEFT + place, TOP - 20),
                style(24, &BLACK),
            ))?;
            area.draw(&Text::new(
                name,
                (LEFT - 24, TOP + place + RAISED),
                style(24, &BLACK),
            ))?;
        }
        for (row, counts) in self.0.iter().enumerate() {
            let shown: usize = counts.iter().sum();
            for (column, &count) in counts.iter().enumerate() {
                let (x, y) = (LEFT + CELL * column as i32, TOP + CELL * row as i32);
                let colour = if row == column {
                    RIGHT_COLOUR
                } else {
                    WRONG_COLOUR
                };
                let share = count as f64 / shown.max(1) as f64;
                // A single mistake among many images must still be visible.
                let depth = if count == 0 {
                    0.03
                } else {
                    0.25 + 0.75 * share
                };
                let cell = [(x + 1, y + 1), (x + CELL - 1, y + CELL - 1)];
                area.draw(&Rectangle::new(cell, colour.mix(depth).filled()))?;
                if count > 0 {
                    let ink = if depth > 0.6 { WHITE } else { BLACK };
                    let middle = (x + CELL / 2, y + CELL / 2 + RAISED);
                    area.draw(&Text::new(count.to_string(), middle, style(22, &ink)))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_is_shown_and_columns_what_it_is_taken_for() {
        let confusion = Confusion::count(&[3, 3, 9, 0], &[3, 5, 9, 0]);
        assert_eq!(confusion.0[3][5], 1);
        assert_eq!(confusion.0[5][3], 0);
        assert_eq!(confusion.accuracy(), 0.75);
    }
}
