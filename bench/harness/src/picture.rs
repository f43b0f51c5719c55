//! Charts as SVG, PNG or a page: percentile curves, latency over time, figures by size. Lines are told apart
//! by colour, by their marks and by their dashes, so a print in black and white still says which is whose.

use std::fmt::Display;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters_backend::DrawingErrorKind;

use crate::pixels::Pixels;
use crate::{Moment, Recorder, Timeline, Unit};

const WIDTH_PX: u32 = 1000;
const PANEL_HEIGHT_PX: u32 = 480;
const HEAD_PX: u32 = 34;
const NOTE_PX: u32 = 18;
/// Letters of a note that fit beside each other.
const NOTE_LETTERS_MAX: usize = 118;
/// Nines shown at most: the axis ends at 99.999 %.
const NINES_MAX: f64 = 5.0;
/// Length of the piece of a line in the legend.
const SWATCH_PX: i32 = 36;
/// Points of a line over time: more would be a smear.
const MOMENTS_MAX: usize = 240;
/// Marks along a line.
const MARKS: usize = 9;
/// Told apart also by those who see fewer colours; a ninth line begins again.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(90, 90, 90),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// One or more charts below each other.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Stands above all.
    pub title: String,
    /// Lines below the title: machine, command.
    pub notes: Vec<String>,
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

/// One chart. Its upward axis is logarithmic, as latencies and sizes need.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Stands above the chart.
    pub caption: String,
    /// What goes to the right.
    pub across: Across,
    /// What goes upwards.
    pub up: Unit,
    /// In the order of the legend; ours first.
    pub lines: Vec<Line>,
    /// Upright lines with a word: a place on the axis to the right, and what happened there.
    pub marks: Vec<(f64, String)>,
}

/// The axis to the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Across {
    /// Percentiles, spread out towards 100 %; a point's place is its quantile, `0..1`.
    Percentile,
    /// Seconds since the start.
    Seconds,
    /// Bytes of a message, by powers of two.
    Bytes,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// Ascending by the first, which is in the unit of the axis to the right; the second is above zero.
    pub points: Vec<(f64, f64)>,
}

impl Line {
    /// The percentile curve of what a recorder holds.
    pub fn percentiles(name: &str, recorder: &Recorder) -> Self {
        let last = 1.0 - 10_f64.powf(-NINES_MAX);
        let points = recorder.curve().into_iter().filter(|(quantile, _)| *quantile <= last);
        Self { name: name.to_owned(), points: points.map(|(quantile, ns)| (quantile, ns as f64)).collect() }
    }

    /// The longest latency of every moment.
    pub fn longest_over_time(name: &str, timeline: &Timeline) -> Self {
        let moments = timeline.moments();
        let longest = |few: &[Moment]| few.iter().max_by_key(|moment| moment.max_ns).copied();
        let points = moments
            .chunks(moments.len().div_ceil(MOMENTS_MAX).max(1))
            .filter_map(longest)
            .map(|moment| (moment.at_s, moment.max_ns.max(1) as f64));
        // While nothing ended the line stays where it was; what waited stands at the time of its end.
        let mut held: Vec<(f64, f64)> = Vec::new();
        for (at_s, longest_ns) in points {
            held.extend(held.last().map(|(_, before_ns)| (at_s, *before_ns)));
            held.push((at_s, longest_ns));
        }
        Self { name: name.to_owned(), points: held }
    }
}

impl Across {
    /// Where a value stands on the axis.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Percentile => (-(1.0 - value).log10()).clamp(0.0, NINES_MAX),
            Self::Seconds => value,
            Self::Bytes => value.max(1.0).log2(),
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Self::Percentile => percentile_label(place),
            Self::Seconds if place.fract().abs() < 1e-9 => format!("{place:.0} s"),
            Self::Seconds => format!("{place:.2} s"),
            Self::Bytes if place.fract().abs() < 1e-9 => bytes_label(place.exp2()),
            Self::Bytes => String::new(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Percentile => "percentile",
            Self::Seconds => "time",
            Self::Bytes => "bytes of a message",
        }
    }
}

impl Picture {
    /// Draws it into a file: SVG, PNG or a page, by the file's ending.
    ///
    /// # Errors
    /// The ending is another, there is nothing to draw, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let nothing = || format!("there is nothing to draw in {}", path.display());
        ensure!(self.panels.iter().any(|panel| !panel.is_empty()), nothing());
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => std::fs::write(path, self.svg()?)
                .with_context(|| format!("{} cannot be drawn", path.display())),
            Some("html") => std::fs::write(path, self.page(&self.svg()?))
                .with_context(|| format!("{} cannot be drawn", path.display())),
            Some("png") => {
                let mut pixels = Pixels::new(WIDTH_PX, self.height());
                self.draw(&(&mut pixels).into_drawing_area())?;
                pixels.write(path)
            }
            _ => bail!("{} ends in none of .svg, .png and .html, so no picture is drawn", path.display()),
        }
    }

    fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, (WIDTH_PX, self.height())).into_drawing_area())?;
        Ok(text)
    }

    fn page(&self, svg: &str) -> String {
        let title = self.title.replace('&', "&amp;").replace('<', "&lt;");
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>body{{margin:2rem auto;max-width:{WIDTH_PX}px}}svg{{width:100%;height:auto}}</style>\n\
             {svg}\n</html>\n"
        )
    }

    fn height(&self) -> u32 {
        HEAD_PX
            + NOTE_PX * self.notes.len() as u32
            + PANEL_HEIGHT_PX * self.panels.iter().filter(|panel| !panel.is_empty()).count() as u32
    }

    fn draw<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Result<()> {
        root.fill(&WHITE).map_err(unable)?;
        let large = TextStyle::from(("sans-serif", 20).into_font());
        root.draw_text(&self.title, &large, (12, 10)).map_err(unable)?;
        let small = TextStyle::from(("sans-serif", 13).into_font()).color(&RGBColor(110, 110, 110));
        for (line, note) in self.notes.iter().enumerate() {
            let y = (HEAD_PX + NOTE_PX * line as u32) as i32;
            root.draw_text(note, &small, (12, y)).map_err(unable)?;
        }
        let mut top = HEAD_PX + NOTE_PX * self.notes.len() as u32;
        for panel in self.panels.iter().filter(|panel| !panel.is_empty()) {
            let (x, y) = ((0, WIDTH_PX as i32), (top as i32, (top + PANEL_HEIGHT_PX) as i32));
            panel.draw(&root.clone().shrink((x.0, y.0), (WIDTH_PX, PANEL_HEIGHT_PX)))?;
            top += PANEL_HEIGHT_PX;
        }
        root.present().map_err(unable)
    }
}

type Chart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;

impl Panel {
    fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.is_empty())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let across = || points().map(|(value, _)| self.across.place(*value));
        let (left, right) = match self.across {
            Across::Percentile => (0.0, NINES_MAX),
            Across::Seconds => (0.0, across().fold(0.1, f64::max) * 1.02),
            Across::Bytes => (across().fold(64.0, f64::min), across().fold(0.0, f64::max)),
        };
        let right = if right > left { right } else { left + 1.0 };
        // Words at the top, the legend below them, then the lines.
        let headroom = if self.marks.is_empty() { 1.25 } else { 12.0 };
        let low = points().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
        let high = points().map(|(_, value)| *value).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.caption, ("sans-serif", 15))
            .margin(12)
            .margin_right(44)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d(left..right, (low * 0.8..high * headroom).log_scale())
            .map_err(unable)?;
        let ticks = match self.across {
            Across::Bytes => ((right - left) as usize + 1).min(12),
            Across::Percentile => NINES_MAX as usize + 1,
            Across::Seconds => 10,
        };
        chart
            .configure_mesh()
            .light_line_style(RGBColor(240, 240, 240))
            .bold_line_style(RGBColor(205, 205, 205))
            .label_style(("sans-serif", 13))
            .axis_desc_style(("sans-serif", 14))
            .x_labels(ticks)
            .x_label_formatter(&|place| self.across.label(*place))
            .x_desc(self.across.word())
            .y_label_formatter(&|figure| self.up.show(*figure))
            .y_desc(self.up.what())
            .draw()
            .map_err(unable)?;
        for (place, word) in &self.marks {
            let upright =
                [(self.across.place(*place), low * 0.8), (self.across.place(*place), high * headroom)];
            chart.draw_series(DashedLineSeries::new(upright, 2, 4, BLACK.stroke_width(1))).map_err(unable)?;
            let label = Text::new(word.clone(), upright[1], ("sans-serif", 13));
            chart.draw_series([label]).map_err(unable)?;
        }
        for (index, line) in self.lines.iter().enumerate().rev() {
            self.draw_line(&mut chart, index, line)?;
        }
        let corner = match self.across {
            _ if !self.marks.is_empty() => SeriesLabelPosition::Coordinate(12, 26),
            Across::Percentile => SeriesLabelPosition::LowerRight,
            Across::Bytes => SeriesLabelPosition::UpperLeft,
            Across::Seconds => SeriesLabelPosition::UpperRight,
        };
        chart
            .configure_series_labels()
            .label_font(("sans-serif", 13))
            .border_style(RGBColor(150, 150, 150))
            .background_style(WHITE.mix(0.85))
            .legend_area_size(44)
            .position(corner)
            .draw()
            .map_err(unable)
    }

    /// A line, its marks, and its entry in the legend.
    fn draw_line<B: DrawingBackend>(
        &self,
        chart: &mut Chart<'_, B>,
        index: usize,
        line: &Line,
    ) -> Result<()> {
        let colour = COLOURS[index % COLOURS.len()];
        // Wide lines grow spikes at the sharp corners of times.
        let width = match self.across {
            Across::Seconds => 1,
            Across::Percentile | Across::Bytes => 2 + u32::from(index == 0),
        };
        let style = colour.stroke_width(width);
        let points: Vec<_> = line.points.iter().map(|(x, y)| (self.across.place(*x), *y)).collect();
        let mut shown = points.clone();
        // A line needs two points.
        if let [(x, y)] = points[..] {
            shown.push((x + 1e-6, y));
        }
        let (length, gap) = dash(index);
        let series = DashedLineSeries::new(shown, length as u32, gap as u32, style);
        chart
            .draw_series(series)
            .map_err(unable)?
            .label(format!("{}{}", line.name, " ".repeat(line.name.chars().count() / 3)))
            .legend(move |at| Sign { at, index, swatch: true });
        let every = (points.len() / MARKS).max(1);
        // Each line has its marks at places of its own, so that of equal lines both show.
        let first = if points.len() > MARKS { index * every / 4 % every } else { 0 };
        let marks = points.iter().skip(first).step_by(every);
        chart.draw_series(marks.map(|at| Sign { at: *at, index, swatch: false })).map_err(unable)?;
        Ok(())
    }
}

/// The mark of a line; in the legend with a piece of the line behind it.
struct Sign<C> {
    at: C,
    index: usize,
    swatch: bool,
}

impl<'a, C> PointCollection<'a, C> for &'a Sign<C> {
    type Point = &'a C;
    type IntoIter = std::iter::Once<&'a C>;

    fn point_iter(self) -> Self::IntoIter {
        std::iter::once(&self.at)
    }
}

impl<C, B: DrawingBackend> Drawable<B> for Sign<C> {
    fn draw<I: Iterator<Item = (i32, i32)>>(
        &self,
        mut points: I,
        backend: &mut B,
        _: (u32, u32),
    ) -> Result<(), DrawingErrorKind<B::ErrorType>> {
        let Some((mut x, y)) = points.next() else { return Ok(()) };
        let style = COLOURS[self.index % COLOURS.len()].stroke_width(2);
        if self.swatch {
            let (length, gap) = dash(self.index);
            for from in (0..SWATCH_PX).step_by((length + gap) as usize) {
                let end = (from + length).min(SWATCH_PX);
                backend.draw_path([(x + from, y), (x + end, y)], &style)?;
            }
            x += SWATCH_PX / 2;
        }
        let corners = |offsets: &[(i32, i32)]| offsets.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        let closed: Vec<_> = match self.index % 4 {
            0 => return backend.draw_circle((x, y), 4, &style, true),
            1 => corners(&[(-4, -4), (4, -4), (4, 4), (-4, 4), (-4, -4)]),
            2 => corners(&[(0, -6), (5, 4), (-5, 4), (0, -6)]),
            _ => {
                backend.draw_path([(x - 5, y - 5), (x + 5, y + 5)], &style)?;
                return backend.draw_path([(x - 5, y + 5), (x + 5, y - 5)], &style);
            }
        };
        backend.draw_path(closed, &style)
    }
}

/// Length of a line's dashes and of the gaps between, pixels. Our line, the first, is whole.
fn dash(index: usize) -> (i32, i32) {
    [(100, 0), (9, 4), (3, 3), (14, 5), (6, 6)][index % 5]
}

/// Lines that fit below a picture's title, broken between words.
pub fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        lines.push(String::new());
        for word in line.split(' ') {
            let last = lines.last_mut().expect("a line was begun");
            if !last.is_empty() && last.chars().count() + word.chars().count() >= NOTE_LETTERS_MAX {
                lines.push(format!("    {word}"));
            } else {
                let space = if last.is_empty() { "" } else { " " };
                last.push_str(&format!("{space}{word}"));
            }
        }
    }
    lines
}

/// 0 → `0 %`, 1 → `90 %`, 3 → `99.9 %`.
fn percentile_label(nines: f64) -> String {
    let percent = 100.0 * (1.0 - 10_f64.powf(-nines));
    let decimals = (nines - 2.0).max(0.0) as usize;
    format!("{percent:.decimals$} %")
}

/// A power of two, for example `64 B`, `4 KiB`.
pub fn bytes_label(bytes: f64) -> String {
    match bytes {
        mib if mib >= 1_048_576.0 => format!("{} MiB", mib / 1_048_576.0),
        kib if kib >= 1024.0 => format!("{} KiB", kib / 1024.0),
        few => format!("{few} B"),
    }
}

fn unable(error: impl Display) -> anyhow::Error {
    anyhow!("the picture cannot be drawn: {error}")
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Across, COLOURS, Line, Panel, Picture, bytes_label, percentile_label, wrapped};
    use crate::{Recorder, Timeline, Unit};

    fn picture() -> Picture {
        let (mut recorder, mut timeline) = (Recorder::new(1), Timeline::default());
        for us in 1..=2_000 {
            recorder.record_ns(us * 1_000);
            timeline.record(us * 1_000_000, us * 1_000);
        }
        let panel = |across, lines| Panel {
            caption: "one way".to_owned(),
            across,
            up: Unit::Nanoseconds,
            lines,
            marks: vec![(1.0, "killed".to_owned())],
        };
        let sizes = |name: &str, factor: f64| Line {
            name: name.to_owned(),
            points: [64.0, 4096.0, 1_048_576.0].map(|bytes| (bytes, bytes * factor)).to_vec(),
        };
        let curves = vec![Line::percentiles("netdisk shm", &recorder), Line::percentiles("ucx", &recorder)];
        Picture {
            title: "netdisk beside its peers".to_owned(),
            notes: vec!["2 cores, Linux".to_owned()],
            panels: vec![
                Panel { marks: Vec::new(), ..panel(Across::Percentile, curves) },
                panel(Across::Seconds, vec![Line::longest_over_time("netdisk", &timeline)]),
                Panel {
                    marks: Vec::new(),
                    ..panel(Across::Bytes, vec![sizes("netdisk", 1.0), sizes("ucx", 2.0)])
                },
            ],
        }
    }

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("netdisk-picture-{}-{name}", std::process::id()))
    }

    fn drawn(path: &Path) -> Vec<u8> {
        picture().write(path).unwrap();
        let bytes = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        bytes
    }

    // proves: F4
    #[test]
    fn a_picture_names_its_lines_and_its_axes_as_svg_and_as_a_page() {
        for name in ["all.svg", "all.html"] {
            let text = String::from_utf8(drawn(&file(name))).unwrap();
            for word in ["<svg", "netdisk shm", "ucx", "99.9 %", "4 KiB", "killed", "polyline"] {
                assert!(text.contains(word), "{name} lacks {word}");
            }
        }
    }

    // proves: F4
    #[test]
    fn a_png_shows_each_line_in_its_colour() {
        let bytes = drawn(&file("all.png"));
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        for colour in &COLOURS[..2] {
            let same = |pixel: &&[u8]| **pixel == [colour.0, colour.1, colour.2];
            assert!(rgb.chunks_exact(3).filter(same).count() > 300, "{colour:?}");
        }
    }

    #[test]
    fn nothing_recorded_or_an_unknown_ending_is_an_error_not_an_empty_picture() {
        assert!(picture().write(&file("all.gif")).is_err());
        let mut nothing = picture();
        nothing.panels.clear();
        assert!(nothing.write(&file("nothing.svg")).is_err());
    }

    #[test]
    fn long_notes_are_broken_between_words() {
        let lines = wrapped(&format!("short\n{}", "word ".repeat(40)));
        assert_eq!(lines[0], "short");
        assert!(lines.len() == 3 && lines.iter().all(|line| line.len() <= 118), "{lines:?}");
    }

    #[test]
    fn labels_are_percentiles_and_powers_of_two() {
        assert_eq!([0.0, 1.0, 2.0, 3.0].map(percentile_label), ["0 %", "90 %", "99 %", "99.9 %"]);
        assert_eq!([64.0, 4096.0, 1_048_576.0].map(bytes_label), ["64 B", "4 KiB", "1 MiB"]);
    }
}
