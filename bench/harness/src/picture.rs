//! Latency curves as an SVG picture: percentiles to the right, spread out towards 100 %, latency upwards.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::Recorder;

const WIDTH_PX: u32 = 900;
const HEIGHT_PX: u32 = 500;
/// Nines shown at most: the axis ends at 99.999 %.
const NINES_MAX: f64 = 5.0;
/// Told apart also by those who see fewer colours; a ninth curve begins again.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(90, 90, 90),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
];

/// Draws one curve per recorder into an SVG file. Both axes are logarithmic, as tails need.
///
/// # Errors
/// The file cannot be written, or no recorder holds a sample.
pub fn draw_percentiles(path: &Path, title: &str, curves: &[(String, &Recorder)]) -> Result<()> {
    let filled: Vec<_> = curves.iter().filter(|(_, recorder)| recorder.samples() > 0).collect();
    let low_ns = filled.iter().map(|(_, recorder)| recorder.summary().min_ns).min();
    let high_ns = filled.iter().map(|(_, recorder)| recorder.summary().max_ns).max();
    let (Some(low_ns), Some(high_ns)) = (low_ns, high_ns) else {
        return Err(anyhow!("there is no latency to draw in {}", path.display()));
    };
    let unable = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", path.display());
    let root = SVGBackend::new(path, (WIDTH_PX, HEIGHT_PX)).into_drawing_area();
    root.fill(&WHITE).map_err(|error| unable(&error))?;
    let latency_us = (low_ns as f64 / 1e3 * 0.9..high_ns as f64 / 1e3 * 1.1).log_scale();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES_MAX, latency_us)
        .map_err(|error| unable(&error))?;
    chart
        .configure_mesh()
        .x_labels(6)
        .x_label_formatter(&|nines| percentile_label(*nines))
        .x_desc("percentile")
        .y_desc("latency, µs")
        .draw()
        .map_err(|error| unable(&error))?;
    for ((name, recorder), colour) in filled.iter().zip(COLOURS.iter().cycle()) {
        let points = recorder.curve().into_iter().filter(|(quantile, _)| *quantile < 1.0);
        let line = LineSeries::new(
            points.map(|(quantile, ns)| (-(1.0 - quantile).log10(), ns as f64 / 1e3)),
            colour.stroke_width(2),
        );
        chart
            .draw_series(line)
            .map_err(|error| unable(&error))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        // Curves rise to the right, so this corner is free.
        .position(SeriesLabelPosition::LowerRight)
        .draw()
        .map_err(|error| unable(&error))?;
    root.present().map_err(|error| unable(&error))
}

/// 0 → `0 %`, 1 → `90 %`, 3 → `99.9 %`.
fn percentile_label(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    let decimals = (nines - 2.0).max(0.0) as usize;
    format!("{percent:.decimals$} %")
}

#[cfg(test)]
mod tests {
    use super::{draw_percentiles, percentile_label};
    use crate::Recorder;

    // proves: F4
    #[test]
    fn a_picture_names_its_curves() {
        let mut recorder = Recorder::new(1);
        (1..=2_000).for_each(|us| recorder.record_ns(us * 1_000));
        let path = std::env::temp_dir().join(format!("netdisk-bench-{}.svg", std::process::id()));
        draw_percentiles(&path, "round trip", &[("ours".to_owned(), &recorder)]).unwrap();
        let picture = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(
            picture.contains("<svg") && picture.contains("ours") && picture.contains("polyline"),
            "{picture}"
        );
    }

    #[test]
    fn nothing_recorded_is_an_error_not_an_empty_picture() {
        let path = std::env::temp_dir().join("netdisk-bench-empty.svg");
        assert!(draw_percentiles(&path, "none", &[("none".to_owned(), &Recorder::new(1))]).is_err());
    }

    #[test]
    fn labels_are_percentiles() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(percentile_label), ["0 %", "90 %", "99 %", "99.9 %"]);
    }
}
