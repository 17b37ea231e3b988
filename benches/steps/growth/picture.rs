//! The peak of each step, a line for each side, over what training takes with any loss.

use std::path::Path;

use plotters::prelude::*;

use super::process::Curve;
use crate::canvas::{FONT, draw_picture};
use crate::models::Large;
use crate::side::Side;

const SIZE: (u32, u32) = (800, 470);
const LABEL: u32 = 18;
const KEPT: RGBColor = RGBColor(110, 110, 110);

/// Draws the curves so far.
pub fn draw(curves: &[Curve], path: &Path) -> Result<(), String> {
    let steps = curves.iter().flat_map(|curve| &curve.steps);
    let highest = steps.map(|step| mebibytes(step.peak)).fold(1.0, f64::max);
    let last = curves.first().map_or(2, |curve| curve.steps.len()) as f64;
    let title = format!(
        "Peak memory of each step, texts of {} to {} tokens",
        Large::LENGTH / 2,
        Large::LENGTH
    );
    draw_picture(path, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, (FONT, 25))
            .margin(16)
            .margin_right(40)
            .x_label_area_size(60)
            .y_label_area_size(80)
            .build_cartesian_2d(1.0..last, 0.0..highest * 1.05)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .label_style((FONT, LABEL))
            .x_desc("step")
            .y_desc("MiB")
            .x_labels(curves.first().map_or(2, |curve| curve.steps.len().min(11)))
            .y_labels(6)
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|mebibytes| format!("{mebibytes:.0}"))
            .draw()?;
        for curve in curves {
            let (name, colour) = shown(curve.side);
            let points = (1..).zip(&curve.steps);
            let points = points.map(|(at, step)| (f64::from(at), mebibytes(step.peak)));
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(3)))?
                .label(name)
                .legend(move |place| key(place, colour));
        }
        if let Some(kept) = curves.first().map(|curve| mebibytes(curve.kept())) {
            let line = [(1.0, kept), (last, kept)];
            let whole = kept.floor();
            let name = format!("weights, gradients, Adam's moments: {whole} MiB by arithmetic");
            chart
                .draw_series(DashedLineSeries::new(line, 12, 8, KEPT.stroke_width(3)))?
                .label(name)
                .legend(move |place| key(place, KEPT));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .margin(2)
            .legend_area_size(54)
            .label_font((FONT, LABEL))
            .background_style(WHITE)
            .draw()?;
        Ok(())
    })
}

/// The name and the colour of a side.
fn shown(side: Side) -> (&'static str, RGBColor) {
    match side {
        Side::BurnNn => ("burn::nn's loss", RGBColor(230, 110, 0)),
        Side::Here => ("this crate's loss, over logits", RGBColor(31, 119, 180)),
        Side::HereWithOutput => (
            "this crate's loss, over the projection",
            RGBColor(44, 140, 60),
        ),
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn key((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 44, y)], colour.stroke_width(4))
}
