//! The perplexity over the steps, with the counts that the model must beat.

use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use crate::canvas::{FONT, draw_picture};
use crate::report::Guess;
use crate::train::Measured;

const LABEL: u32 = 24;
/// Lengths of a dash and of the gap behind it, in pixels.
const DASH: (i32, i32) = (12, 8);
const ENOUGH_TICKS: usize = 4;
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
            .build_cartesian_2d(0.0..end, PerplexityAxis((low - 0.2..high + 0.2).into()))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .label_style((FONT, LABEL))
            .x_desc("step")
            .y_desc("perplexity")
            .x_label_formatter(&whole_step)
            .draw()?;
        for ((by, bits), colour) in counts.iter().zip(COUNTS) {
            let line = [(0.0, *bits), (end, *bits)];
            chart
                .draw_series(DashedLineSeries::new(
                    line,
                    DASH.0,
                    DASH.1,
                    colour.stroke_width(3),
                ))?
                .label(format!("{by}  {:.2}", bits.exp2()))
                .legend(move |place| {
                    DashedPathElement::new(key(place), DASH.0, DASH.1, colour.stroke_width(3))
                });
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
                .legend(move |place| PathElement::new(key(place), colour.stroke_width(4)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .margin(24)
            .legend_area_size(64)
            .label_font((FONT, LABEL))
            .background_style(WHITE)
            .draw()?;
        Ok(())
    })
}

/// An axis of bits, with marks at round perplexities.
struct PerplexityAxis(RangedCoordf64);

impl Ranged for PerplexityAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, bits: &f64, limit: (i32, i32)) -> i32 {
        self.0.map(bits, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        ticks(&self.0.range())
    }

    fn range(&self) -> Range<f64> {
        self.0.range()
    }
}

impl ValueFormatter<f64> for PerplexityAxis {
    fn format(bits: &f64) -> String {
        ((10.0 * bits.exp2()).round() / 10.0).to_string()
    }
}

/// The ends of a line in the legend, as long as three dashes and the gaps between them.
fn key((x, y): (i32, i32)) -> [(i32, i32); 2] {
    [(x, y), (x + 52, y)]
}

/// The label of a mark. Marks between steps, which short runs have, are not labelled.
fn whole_step(step: &f64) -> String {
    if (step - step.round()).abs() < 1e-6 {
        format!("{step:.0}")
    } else {
        String::new()
    }
}

/// Marks at round perplexities in a range of bits: the roundest of which there are enough.
fn ticks(range: &Range<f64>) -> Vec<f64> {
    let tenths = |step| (10..100).step_by(step).collect();
    // Ten times the marks from 1 to 10, which are repeated ten times as large, and so on.
    let choices: [Vec<u32>; 4] = [
        vec![10, 20, 50],
        vec![10, 15, 20, 30, 40, 50, 60, 80],
        tenths(5),
        tenths(1),
    ];
    let marks = |choice: &Vec<u32>| -> Vec<f64> {
        let decades = (0..6).map(|decade| 10f64.powi(decade) / 10.0);
        let all = decades.flat_map(|unit| choice.iter().map(move |at| f64::from(*at) * unit));
        all.map(f64::log2)
            .filter(|bits| range.contains(bits))
            .collect()
    };
    let mut all = choices.iter().map(marks);
    let roundest = all.find(|ticks| ticks.len() >= ENOUGH_TICKS);
    roundest.unwrap_or_else(|| marks(&choices[3]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_at_round_perplexities() {
        let of = |low: f64, high: f64| -> Vec<f64> {
            let ticks = ticks(&(low.log2()..high.log2())).into_iter();
            ticks
                .map(|bits| (bits.exp2() * 10.0).round() / 10.0)
                .collect()
        };
        assert_eq!(of(1.5, 130.0), [2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(of(2.2, 24.0), [3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0]);
        assert_eq!(of(3.4, 5.1), [3.5, 4.0, 4.5, 5.0]);
        assert_eq!(of(10.1, 13.2), [11.0, 12.0, 13.0]);
    }
}
