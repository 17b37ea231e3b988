//! A white canvas and a font for every picture. The font is part of the program.

use std::fmt::Display;
use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;

pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

pub const FONT: &str = "sans-serif";
/// Plotters sets vertically centred text this many pixels too high.
#[allow(dead_code)] // Not every example centres text.
pub const RAISED: i32 = 4;

/// Lets `draw` fill a white area and writes it to `path` as a picture.
pub fn draw_picture(
    path: &Path,
    size: (u32, u32),
    draw: impl FnOnce(&Area) -> Drawn,
) -> Result<(), String> {
    register_font();
    let area = BitMapBackend::new(path, size).into_drawing_area();
    let drawn = || -> Drawn {
        area.fill(&WHITE)?;
        draw(&area)?;
        Ok(area.present()?)
    };
    drawn().map_err(|error| not_drawn(path, error))
}

/// Registers the font. It is part of the program, so that the pictures look the same everywhere.
fn register_font() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let registered = plotters::style::register_font(
            FONT,
            FontStyle::Normal,
            epaint_default_fonts::UBUNTU_LIGHT,
        );
        if registered.is_err() {
            eprintln!("The font of the pictures cannot be read; they will lack their text.");
        }
    });
}

fn not_drawn(path: &Path, error: impl Display) -> String {
    format!("{} cannot be drawn: {error}", path.display())
}
