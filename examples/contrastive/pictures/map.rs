//! The map of the held-out images, by the two principal components of their embeddings.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{LABEL, TITLE, range};
use crate::canvas::{Area, Drawn, FONT, RAISED};
use crate::pca;
use crate::report::Report;

/// Colours that can be told apart on white; with more classes they repeat.
const COLOURS: [RGBColor; 10] = [
    RGBColor(31, 119, 180),
    RGBColor(230, 110, 0),
    RGBColor(44, 160, 44),
    RGBColor(214, 39, 40),
    RGBColor(120, 80, 190),
    RGBColor(140, 86, 75),
    RGBColor(220, 90, 180),
    RGBColor(90, 90, 90),
    RGBColor(150, 150, 20),
    RGBColor(0, 170, 190),
];
/// Characters of a name that fit beside the map.
const SHOWN_OF_NAME: usize = 5;

/// Draws each image as the mark of its class.
pub fn draw(report: &Report, area: &Area) -> Drawn {
    let projection = pca::project(&report.embeddings.held_out);
    let (left, right) = range(projection.points.iter().map(|point| point[0]));
    let (low, high) = range(projection.points.iter().map(|point| point[1]));
    let axis = |which: usize| {
        format!(
            "principal component {} ({:.0} % of the variance)",
            which + 1,
            100.0 * projection.shares[which]
        )
    };
    let mut chart = ChartBuilder::on(area)
        .caption(
            format!(
                "Embeddings of the {} held-out images, by class",
                report.held_out.len()
            ),
            (FONT, TITLE),
        )
        .margin(16)
        .margin_right(130)
        .x_label_area_size(60)
        .y_label_area_size(100)
        .build_cartesian_2d(left..right, low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.08))
        .label_style((FONT, LABEL))
        .x_desc(axis(0))
        .y_desc(axis(1))
        .x_label_formatter(&|place| format!("{place:.1}"))
        .y_label_formatter(&|place| format!("{place:.1}"))
        .draw()?;
    chart.draw_series(projection.points.iter().zip(&report.held_out.labels).map(
        |(point, class)| {
            EmptyElement::at((point[0], point[1]))
                + Circle::new((0, 0), 13, colour(*class).mix(0.2).filled())
                + Text::new(mark(report, *class), (0, RAISED), style(*class, LABEL))
        },
    ))?;
    // Classes that do not fit into the list beside the map have their marks only in the map.
    for (class, name) in report.classes.iter().enumerate().take(COLOURS.len()) {
        let place = (1110, 160 + 64 * class as i32);
        area.draw(&Circle::new(place, 12, colour(class).filled()))?;
        let name: String = name.chars().take(SHOWN_OF_NAME).collect();
        let left = (place.0 + 22, place.1 + RAISED);
        let start = style(class, LABEL).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(name, left, start))?;
    }
    Ok(())
}

/// The mark of a class in the map: its name if the name is one character, otherwise its number.
fn mark(report: &Report, class: usize) -> String {
    let name = &report.classes[class];
    match name.chars().count() {
        1 => name.clone(),
        _ => class.to_string(),
    }
}

fn colour(class: usize) -> RGBColor {
    COLOURS[class % COLOURS.len()]
}

fn style(class: usize, size: u32) -> TextStyle<'static> {
    (FONT, size)
        .into_font()
        .color(&colour(class))
        .pos(Pos::new(HPos::Center, VPos::Center))
}
