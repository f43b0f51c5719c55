//! A report as a PNG picture: per row our bar above the peer's, and a mark where the goal lies.

use std::path::Path;

use anyhow::{Result, ensure};
use embedded_graphics::mono_font::iso_8859_1::{FONT_8X13, FONT_10X20};
use embedded_graphics::pixelcolor::Rgb888;

use crate::pixels::Pixels;
use crate::{Goal, Report, Row, Verdict};

const WIDTH_PX: u32 = 1240;
const MARGIN_PX: i32 = 16;
const HEAD_PX: i32 = 84;
const ROW_PX: i32 = 54;
const BAR_PX: u32 = 16;
/// Where bars begin, and the length of a row's longest.
const BARS_X: i32 = 270;
const BARS_PX: f64 = 330.0;
/// Where the verdict stands.
const VERDICT_X: i32 = 960;

const INK: Rgb888 = Rgb888::new(30, 30, 30);
const FAINT: Rgb888 = Rgb888::new(110, 110, 110);
const OURS: Rgb888 = Rgb888::new(0, 114, 178);
const PEER: Rgb888 = Rgb888::new(170, 170, 170);
const GOAL: Rgb888 = Rgb888::new(230, 159, 0);
const GOOD: Rgb888 = Rgb888::new(0, 128, 96);
const BAD: Rgb888 = Rgb888::new(200, 70, 0);

/// Draws all rows of a report. `notes` stand below the title, one line.
///
/// # Errors
/// The report is empty, or the file cannot be written.
pub fn draw_report(path: &Path, title: &str, notes: &str, report: &Report) -> Result<()> {
    ensure!(!report.rows.is_empty(), "there is nothing to draw in {}", path.display());
    let height = HEAD_PX + ROW_PX * report.rows.len() as i32 + MARGIN_PX;
    let mut canvas = Pixels::new(WIDTH_PX, height as u32);
    canvas.text(MARGIN_PX, MARGIN_PX, &FONT_10X20, INK, title);
    canvas.text(MARGIN_PX, MARGIN_PX + 26, &FONT_8X13, FAINT, notes);
    let legend = [(OURS, "netdisk"), (PEER, "limit or peer"), (GOAL, "goal")];
    for (index, (colour, word)) in legend.into_iter().enumerate() {
        let x = BARS_X + 140 * index as i32;
        canvas.bar(x, MARGIN_PX + 48, 12, 10, colour);
        canvas.text(x + 18, MARGIN_PX + 46, &FONT_8X13, FAINT, word);
    }
    for (index, row) in report.rows.iter().enumerate() {
        draw_row(&mut canvas, HEAD_PX + ROW_PX * index as i32, row);
    }
    canvas.write(path)
}

fn draw_row(canvas: &mut Pixels, y: i32, row: &Row) {
    canvas.text(MARGIN_PX, y + 10, &FONT_8X13, INK, &row.scenario);
    let longest = row.ours_figure.into_iter().chain(row.limit_figure).fold(0.0, f64::max);
    let sides =
        [(row.ours_figure, &row.ours, OURS, y), (row.limit_figure, &row.limit, PEER, y + BAR_PX as i32 + 2)];
    let mark = match (row.limit_figure, row.goal) {
        (Some(limit), Goal::RatioAtMost { ratio } | Goal::RatioAtLeast { ratio }) => {
            Some((limit * ratio / longest * BARS_PX).min(BARS_PX * 1.2))
        }
        _ => None,
    };
    for (figure, name, colour, y) in sides {
        let Some(figure) = figure.filter(|figure| *figure > 0.0) else { continue };
        let length = (figure / longest * BARS_PX).max(1.0);
        canvas.bar(BARS_X, y, length as u32, BAR_PX, colour);
        let label = format!("{} {name}", row.unit.show(figure));
        // Behind the goal's mark too, which would cross it.
        let end = mark.map_or(length, |mark| length.max(mark));
        canvas.text(BARS_X + end as i32 + 8, y + 2, &FONT_8X13, INK, &label);
    }
    if let Some(at) = mark {
        canvas.bar(BARS_X + at as i32 - 1, y - 4, 3, 2 * BAR_PX + 10, GOAL);
    }
    let (word, colour) = match &row.verdict {
        Verdict::Reached => ("reached", GOOD),
        Verdict::NotReached { .. } => ("not reached", BAD),
        Verdict::NotDecided { .. } => ("not decided", FAINT),
        Verdict::Skipped { .. } => ("SKIPPED", BAD),
        Verdict::Failed { .. } => ("FAILED", BAD),
        Verdict::Shown => ("", FAINT),
    };
    let ratio = row.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}×, goal "));
    let verdict = format!("{ratio}{}: {word}", row.goal.show(row.unit));
    canvas.text(VERDICT_X, y + 10, &FONT_8X13, colour, &verdict);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{GOAL, OURS, PEER, draw_report};
    use crate::{Comparison, Goal, Machine, Pair, Report, Row, Unit};
    use embedded_graphics::prelude::RgbColor;

    fn report() -> Report {
        let pair = Pair { ours: Some(80.0), limit: Some(40.0), ratio: Some(2.0), placement: None };
        let comparison = Comparison {
            unit: Unit::Nanoseconds,
            pairs: vec![pair],
            pairs_dropped: 0,
            ours_latency: None,
            limit_latency: None,
            recorders: [None, None],
            timelines: [None, None],
        };
        let names = ("netdisk".to_owned(), "ib_send_lat".to_owned());
        let mut report = Report::begin(Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR"))));
        report.rows.push(Row::measured("a", "b", Goal::RatioAtMost { ratio: 1.3 }, names, comparison));
        report
    }

    /// Pixels of a colour in a picture.
    fn count(path: &Path, colour: impl RgbColor) -> usize {
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        rgb.chunks_exact(3).filter(|pixel| **pixel == [colour.r(), colour.g(), colour.b()]).count()
    }

    // proves: F4
    #[test]
    fn bars_are_as_long_as_their_figures_and_the_goal_is_marked() {
        let path = std::env::temp_dir().join(format!("netdisk-bars-{}.png", std::process::id()));
        draw_report(&path, "title", "notes", &report()).unwrap();
        let [ours, peer, goal] = [OURS, PEER, GOAL].map(|colour| count(&path, colour));
        std::fs::remove_file(&path).unwrap();
        let ratio = ours as f64 / peer as f64;
        assert!((1.8..2.2).contains(&ratio) && goal > 100, "{ours} {peer} {goal}");
    }

    #[test]
    fn an_empty_report_is_an_error_not_an_empty_picture() {
        let mut report = report();
        report.rows.clear();
        assert!(draw_report(&std::env::temp_dir().join("netdisk-bars.png"), "", "", &report).is_err());
    }
}
