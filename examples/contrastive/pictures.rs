//! The two pictures: the curves of the training and the map of the embeddings.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::canvas::{Area, Drawn, FONT, RAISED, draw_picture};
use crate::digits::CLASSES;
use crate::evaluate::{LABELLED_PER_CLASS, NEIGHBOURS};
use crate::pca;
use crate::report::Report;

const TITLE: u32 = 34;
const LABEL: u32 = 24;
const LOSS: RGBColor = RGBColor(31, 119, 180);
const ACCURACY: RGBColor = RGBColor(44, 140, 44);
const PIXELS: RGBColor = RGBColor(214, 39, 40);
const UNTRAINED: RGBColor = RGBColor(120, 120, 120);

/// Ten colours that are told apart on white, one for each digit.
const DIGITS: [RGBColor; CLASSES] = [
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

/// The loss above, the accuracy below, over the epochs.
pub fn draw_curves(report: &Report, path: &Path) -> Result<(), String> {
    draw_picture(path, (1200, 1000), |area| {
        let (above, below) = area.split_vertically(480);
        draw_loss(report, &above)?;
        draw_accuracy(report, &below)
    })
}

/// The held-out images along the two principal components of their embeddings.
pub fn draw_embeddings(report: &Report, path: &Path) -> Result<(), String> {
    draw_picture(path, (1200, 1000), |area| draw_map(report, area))
}

fn draw_loss(report: &Report, area: &Area) -> Drawn {
    let losses: Vec<(f64, f64)> = report
        .history
        .iter()
        .zip(1..)
        .map(|(epoch, number)| (f64::from(number), epoch.loss))
        .collect();
    let (low, high) = range(losses.iter().map(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .caption("Contrastive loss of the training images", (FONT, TITLE))
        .margin(16)
        .margin_right(40)
        .x_label_area_size(60)
        .y_label_area_size(100)
        .build_cartesian_2d(0.0..last_epoch(report), low..high)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style((FONT, LABEL))
        .x_desc("epoch")
        .y_desc("mean loss of the epoch")
        .x_label_formatter(&whole_epoch)
        .y_label_formatter(&|loss| format!("{loss:.1}"))
        .draw()?;
    chart.draw_series(LineSeries::new(losses, LOSS.stroke_width(3)))?;
    Ok(())
}

fn draw_accuracy(report: &Report, area: &Area) -> Drawn {
    let baselines = report.baselines;
    let (pixels, untrained) = (baselines.raw_pixels.mean, baselines.untrained_features.mean);
    let mut measured = vec![(0.0, baselines.untrained.mean)];
    measured.extend(
        report
            .history
            .iter()
            .zip(1..)
            .filter_map(|(epoch, number)| {
                epoch.accuracy.map(|accuracy| (f64::from(number), accuracy))
            }),
    );
    let title = format!(
        "Accuracy on held-out images, {NEIGHBOURS} nearest neighbours, {LABELLED_PER_CLASS} labels per class"
    );
    let area = area.titled(&title, (FONT, TITLE))?;
    let (legend, area) = area.split_vertically(44);
    let (low, high) =
        range(
            measured
                .iter()
                .map(|point| point.1)
                .chain([pixels, untrained, report.trained.mean]),
        );
    let end = last_epoch(report);
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .margin_right(40)
        .x_label_area_size(60)
        .y_label_area_size(100)
        .build_cartesian_2d(0.0..end, low..high.min(1.0))?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .label_style((FONT, LABEL))
        .x_desc("epoch")
        .y_desc("accuracy")
        .x_label_formatter(&whole_epoch)
        .y_label_formatter(&|accuracy| format!("{accuracy:.2}"))
        .draw()?;
    for (level, colour) in [(pixels, PIXELS), (untrained, UNTRAINED)] {
        let line = [(0.0, level), (end, level)];
        chart.draw_series(DashedLineSeries::new(line, 12, 8, colour.stroke_width(3)))?;
    }
    chart.draw_series(
        measured
            .iter()
            .map(|point| Circle::new(*point, 5, ACCURACY.filled())),
    )?;
    chart.draw_series(LineSeries::new(measured, ACCURACY.stroke_width(3)))?;
    let entries = [
        ("raw pixels", pixels, PIXELS),
        ("untrained encoder, features", untrained, UNTRAINED),
        ("trained encoder", report.trained.mean, ACCURACY),
    ];
    for ((name, level, colour), left) in entries.into_iter().zip([118, 400, 820]) {
        legend.draw(&PathElement::new(
            [(left, 22), (left + 40, 22)],
            colour.stroke_width(4),
        ))?;
        let text = format!("{name}  {level:.3}");
        legend.draw(&Text::new(text, (left + 52, 13), (FONT, LABEL).into_font()))?;
    }
    Ok(())
}

fn draw_map(report: &Report, area: &Area) -> Drawn {
    let projection = pca::project(&report.embeddings);
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
                "Embeddings of the {} held-out images, by digit",
                report.labels.len()
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
    chart.draw_series(
        projection
            .points
            .iter()
            .zip(report.labels)
            .map(|(point, digit)| {
                EmptyElement::at((point[0], point[1]))
                    + Circle::new((0, 0), 13, DIGITS[*digit].mix(0.2).filled())
                    + Text::new(digit.to_string(), (0, RAISED), digit_style(*digit, LABEL))
            }),
    )?;
    for (row, digit) in (0..CLASSES as i32).zip(0..) {
        let place = (1110, 160 + 64 * row);
        area.draw(&Circle::new(place, 12, DIGITS[digit].filled()))?;
        area.draw(&Text::new(
            digit.to_string(),
            (place.0 + 40, place.1 + RAISED),
            digit_style(digit, TITLE),
        ))?;
    }
    Ok(())
}

fn digit_style(digit: usize, size: u32) -> TextStyle<'static> {
    (FONT, size)
        .into_font()
        .color(&DIGITS[digit])
        .pos(Pos::new(HPos::Center, VPos::Center))
}

/// From the smallest to the largest value, with a margin.
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

/// Short runs have marks between the epochs, which stay without a number.
fn whole_epoch(epoch: &f64) -> String {
    if (epoch - epoch.round()).abs() < 1e-6 {
        format!("{epoch:.0}")
    } else {
        String::new()
    }
}

fn last_epoch(report: &Report) -> f64 {
    report.history.len().max(1) as f64
}
