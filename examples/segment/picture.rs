//! Draws held-out scenes with their labels and the network's predictions, side by side.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::canvas::{Area, Drawn, FONT, RAISED, draw_picture};
use crate::evaluate::Segmentation;
use crate::shapes::{CLASSES, NAMES, SIDE, Scene};

const ROWS: usize = 3;
/// Scenes side by side, each with its three views.
const GROUPS: usize = 2;
const VIEWS: [&str; 3] = ["image", "truth", "prediction"];
/// Edge of an image's pixel, in pixels of the picture.
const SCALE: i32 = 4;
const VIEW: i32 = SCALE * SIDE as i32;
const GAP: i32 = 12;
/// Pixels between the groups, in addition to the gap.
const GROUP_GAP: i32 = 24;
const TOP: i32 = 56;
const LEGEND: i32 = 56;

const COLOURS: [RGBColor; CLASSES] = [
    RGBColor(235, 235, 235),
    RGBColor(31, 119, 180),
    RGBColor(230, 110, 0),
    RGBColor(44, 160, 44),
];
const IGNORED_COLOUR: RGBColor = RGBColor(60, 60, 60);

/// Draws the first scenes; `result` has the predictions for all of them.
pub fn draw(scenes: &[Scene], result: &Segmentation, path: &Path) -> Result<(), String> {
    let group = VIEWS.len() as i32 * (VIEW + GAP) + GROUP_GAP;
    let size = (
        (GROUPS as i32 * group - GROUP_GAP + GAP) as u32,
        (TOP + ROWS as i32 * (VIEW + GAP) + LEGEND) as u32,
    );
    draw_picture(path, size, |area| {
        for (index, (scene, predicted)) in scenes
            .iter()
            .zip(&result.predicted)
            .take(ROWS * GROUPS)
            .enumerate()
        {
            let x = GAP + (index % GROUPS) as i32 * group;
            let y = TOP + (index / GROUPS) as i32 * (VIEW + GAP);
            let views: [&dyn Fn(usize) -> RGBColor; 3] = [
                &|pixel| grey(scene.pixels[pixel]),
                &|pixel| class_colour(scene.labels[pixel]),
                &|pixel| class_colour(predicted[pixel]),
            ];
            for ((view, name), x) in views
                .iter()
                .zip(VIEWS)
                .zip((x..).step_by((VIEW + GAP) as usize))
            {
                draw_view(area, (x, y), view)?;
                if index < GROUPS {
                    let middle = (x + VIEW / 2, TOP / 2 + RAISED);
                    let style = (FONT, 26)
                        .into_text_style(area)
                        .pos(Pos::new(HPos::Center, VPos::Center));
                    area.draw(&Text::new(name, middle, style))?;
                }
            }
        }
        draw_legend(area, size)
    })
}

fn draw_view(area: &Area, (left, top): (i32, i32), colour: &dyn Fn(usize) -> RGBColor) -> Drawn {
    for pixel in 0..SIDE * SIDE {
        let x = left + SCALE * (pixel % SIDE) as i32;
        let y = top + SCALE * (pixel / SIDE) as i32;
        let corners = [(x, y), (x + SCALE, y + SCALE)];
        area.draw(&Rectangle::new(corners, colour(pixel).filled()))?;
    }
    Ok(())
}

fn draw_legend(area: &Area, (width, height): (u32, u32)) -> Drawn {
    let entries = NAMES
        .into_iter()
        .zip(COLOURS)
        .chain([("ignored", IGNORED_COLOUR)]);
    let step = width as i32 / (CLASSES as i32 + 1);
    let y = height as i32 - LEGEND / 2 - GAP / 2;
    for ((name, colour), x) in entries.zip((GAP + 30..).step_by(step as usize)) {
        area.draw(&Rectangle::new(
            [(x, y - 12), (x + 24, y + 12)],
            colour.filled(),
        ))?;
        let style = (FONT, 24)
            .into_text_style(area)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name, (x + 36, y + RAISED), style))?;
    }
    Ok(())
}

fn grey(brightness: f32) -> RGBColor {
    let level = (255.0 * brightness.clamp(0.0, 1.0)) as u8;
    RGBColor(level, level, level)
}

fn class_colour(label: u8) -> RGBColor {
    COLOURS
        .get(usize::from(label))
        .copied()
        .unwrap_or(IGNORED_COLOUR)
}
