//! The perplexity over the steps, with the counts that the model must beat.

use std::path::Path;

use plotters::prelude::*;

use crate::canvas::{FONT, draw_picture};
use crate::report::Guess;
use crate::train::Measured;

const LABEL: u32 = 24;
const TRAINING: RGBColor = RGBColor(31, 119, 180);
const HELD_OUT: RGBColor = RGBColor(230, 110, 0);
/// Colours of the counts, from the weakest on.
const COUNTS: [RGBColor; 3] = [
    RGBColor(170, 170, 170),
    RGBColor(110, 110, 110),
    RGBColor(40, 40, 40),
];

/// Draws the measured curves, and a dashed line for each of the `counts`. The scale is in bits, the logarithm
/// of the perplexity.
pub fn draw(history: &[Measured], counts: &[Guess], path: &Path) -> Result<(), String> {
    let curve = |bits: fn(&Measured) -> f64| -> Vec<(f64, f64)> {
        let points = history.iter().map(|one| (one.step as f64, bits(one)));
        points.collect()
    };
    let (training, held_out) = (curve(|one| one.training), curve(|one| one.held_out));
    let levels = counts.iter().map(|(_, bits)| *bits);
    let measured = training.iter().chain(&held_out).map(|point| point.1);
    let (low, high) = measured.chain(levels).fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(low, high): (f64, f64), bits| (low.min(bits), high.max(bits)),
    );
    let end = history.last().map_or(1.0, |last| last.step as f64);

    draw_picture(path, (1200, 800), |area| {
        let mut chart = ChartBuilder::on(area)
            .caption("Perplexity of the next character", (FONT, 34))
            .margin(16)
            .margin_right(40)
            .x_label_area_size(60)
            .y_label_area_size(90)
            .build_cartesian_2d(0.0..end, low - 0.2..high + 0.2)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style((FONT, LABEL))
            .x_desc("step")
            .y_desc("perplexity")
            .y_labels(6)
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|bits| format!("{:.1}", bits.exp2()))
            .draw()?;
        for ((by, bits), colour) in counts.iter().zip(COUNTS) {
            let line = [(0.0, *bits), (end, *bits)];
            chart
                .draw_series(DashedLineSeries::new(line, 12, 8, colour.stroke_width(3)))?
                .label(format!("{by}  {:.2}", bits.exp2()))
                .legend(move |place| key(place, colour));
        }
        for (name, points, colour) in [
            ("model, training text", &training, TRAINING),
            ("model, held-out text", &held_out, HELD_OUT),
        ] {
            let last = points.last().map_or(f64::NAN, |point| point.1);
            let dots = points
                .iter()
                .map(|point| Circle::new(*point, 5, colour.filled()));
            chart.draw_series(dots)?;
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(4)))?
                .label(format!("{name}  {:.2}", last.exp2()))
                .legend(move |place| key(place, colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(24)
            .legend_area_size(56)
            .label_font((FONT, LABEL))
            .background_style(WHITE)
            .draw()?;
        Ok(())
    })
}

fn key((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 44, y)], colour.stroke_width(4))
}
