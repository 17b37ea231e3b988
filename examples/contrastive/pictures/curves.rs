//! The curves of the training: the loss above, the accuracy below.

use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::{LABEL, TITLE, range};
use crate::canvas::{Area, Drawn, FONT};
use crate::evaluate::{LABELLED_PER_CLASS, NEIGHBOURS};
use crate::report::Report;

/// Lengths of a dash and of the gap behind it, in pixels.
const DASH: (i32, i32) = (12, 8);
/// The length of a line in the legend, in pixels: three dashes and the gaps between them.
const KEY: i32 = 52;
const LOSS: RGBColor = RGBColor(31, 119, 180);
const ACCURACY: RGBColor = RGBColor(44, 140, 44);
const PIXELS: RGBColor = RGBColor(214, 39, 40);
const UNTRAINED: RGBColor = RGBColor(120, 120, 120);

/// Draws both curves over the epochs.
pub fn draw(report: &Report, area: &Area) -> Drawn {
    let (above, below) = area.split_vertically(480);
    draw_loss(report, &above)?;
    draw_accuracy(report, &below)
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
    let pixels = baselines.raw_pixels.neighbours.mean;
    let untrained = baselines.untrained_features.neighbours.mean;
    let trained = report.trained.neighbours.mean;
    let mut measured = vec![(0.0, baselines.untrained.neighbours.mean)];
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
    let (low, high) = range(
        measured
            .iter()
            .map(|point| point.1)
            .chain([pixels, untrained, trained]),
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
        let (dash, gap) = DASH;
        chart.draw_series(DashedLineSeries::new(
            line,
            dash,
            gap,
            colour.stroke_width(3),
        ))?;
    }
    chart.draw_series(
        measured
            .iter()
            .map(|point| Circle::new(*point, 5, ACCURACY.filled())),
    )?;
    chart.draw_series(LineSeries::new(measured, ACCURACY.stroke_width(3)))?;
    draw_legend(
        &legend,
        [
            ("raw pixels", pixels, PIXELS, DASH),
            ("untrained encoder, features", untrained, UNTRAINED, DASH),
            ("trained encoder", trained, ACCURACY, (KEY, 0)),
        ],
    )
}

/// Draws the names and values beside pieces of their lines, with the lengths of dash and gap.
fn draw_legend(legend: &Area, entries: [(&str, f64, RGBColor, (i32, i32)); 3]) -> Drawn {
    for ((name, level, colour, (dash, gap)), left) in entries.into_iter().zip([118, 400, 820]) {
        let line = [(left, 22), (left + KEY, 22)];
        let style = colour.stroke_width(4);
        legend.draw(&DashedPathElement::new(line, dash, gap, style))?;
        let text = format!("{name}  {level:.3}");
        legend.draw(&Text::new(
            text,
            (left + KEY + 12, 13),
            (FONT, LABEL).into_font(),
        ))?;
    }
    Ok(())
}

/// The label of a mark. Marks between epochs, which short runs have, are not labelled.
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
