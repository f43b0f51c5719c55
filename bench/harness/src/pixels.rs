//! Pixels in memory, with letters of a fixed size, written out as PNG. No font file is needed, so a picture
//! looks the same on every machine.

use std::convert::Infallible;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_10X20};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use plotters_backend::text_anchor::{HPos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind};

/// Texts of at least this many points get the large letters.
const LARGE_FROM: f64 = 18.0;

/// A white picture to draw on.
pub(crate) struct Pixels {
    size: Size,
    rgb: Vec<u8>,
}

impl Pixels {
    pub(crate) fn new(width: u32, height: u32) -> Self {
        Self { size: Size::new(width, height), rgb: vec![255; (width * height * 3) as usize] }
    }

    pub(crate) fn bar(&mut self, x: i32, y: i32, width: u32, height: u32, colour: Rgb888) {
        let area = Rectangle::new(Point::new(x, y), Size::new(width, height));
        let Ok(()) = area.into_styled(PrimitiveStyle::with_fill(colour)).draw(self);
    }

    pub(crate) fn text(&mut self, x: i32, y: i32, font: &MonoFont<'_>, colour: Rgb888, text: &str) {
        let style = MonoTextStyle::new(font, colour);
        let Ok(_) = Text::with_baseline(&plain(text), Point::new(x, y), style, Baseline::Top).draw(self);
    }

    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let unable = || format!("{} cannot be drawn", path.display());
        let file = BufWriter::new(File::create(path).with_context(unable)?);
        let mut encoder = png::Encoder::new(file, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().with_context(unable)?;
        writer.write_image_data(&self.rgb).with_context(unable)?;
        writer.finish().with_context(unable)
    }

    fn place(&self, x: i32, y: i32) -> Option<usize> {
        let inside = Rectangle::new(Point::zero(), self.size).contains(Point::new(x, y));
        inside.then(|| (y as usize * self.size.width as usize + x as usize) * 3)
    }
}

/// What the fonts do not have, in letters that they have.
fn plain(text: &str) -> String {
    text.replace('≤', "<=").replace('≥', ">=").replace('→', "->").replace('–', "-")
}

impl OriginDimensions for Pixels {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Pixels {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(point, colour) in pixels {
            if let Some(at) = self.place(point.x, point.y) {
                self.rgb[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

/// Charts draw here as they draw into SVG.
impl DrawingBackend for &mut Pixels {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.size.width, self.size.height)
    }

    fn ensure_prepared(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn present(&mut self) -> Result<(), DrawingErrorKind<Infallible>> {
        Ok(())
    }

    fn draw_pixel(
        &mut self,
        (x, y): BackendCoord,
        colour: BackendColor,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        if let Some(at) = self.place(x, y) {
            let (red, green, blue) = colour.rgb;
            for (below, above) in self.rgb[at..at + 3].iter_mut().zip([red, green, blue]) {
                let mixed = f64::from(*below) * (1.0 - colour.alpha) + f64::from(above) * colour.alpha;
                *below = mixed.round() as u8;
            }
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): BackendCoord,
    ) -> Result<(), DrawingErrorKind<Infallible>> {
        let text = plain(text);
        let (width, height) = self.estimate_text_size(&text, style)?;
        let mut letters = Pixels::new(width.max(1), height.max(1));
        letters.text(0, 0, font(style.size()), Rgb888::BLACK, &text);
        let left = match style.anchor().h_pos {
            HPos::Left => 0,
            HPos::Center => -(width as i32) / 2,
            HPos::Right => -(width as i32),
        };
        let top = match style.anchor().v_pos {
            VPos::Top => 0,
            VPos::Center => -(height as i32) / 2,
            VPos::Bottom => -(height as i32),
        };
        for row in 0..height as i32 {
            for column in 0..width as i32 {
                if letters.place(column, row).is_some_and(|at| letters.rgb[at] == 0) {
                    let (dx, dy) = style.transform().transform(column + left, row + top);
                    self.draw_pixel((x + dx, y + dy), style.color())?;
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let letter = font(style.size()).character_size;
        Ok((plain(text).chars().count() as u32 * letter.width, letter.height))
    }
}

fn font(points: f64) -> &'static MonoFont<'static> {
    if points >= LARGE_FROM { &FONT_10X20 } else { &FONT_8X13 }
}
