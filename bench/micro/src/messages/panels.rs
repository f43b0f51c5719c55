//! The picture of a bench of messages: figures by size, percentiles and time, ours and the peers' together.

use bench_harness::{Across, Comparison, Line, Panel, Report, Row};

use super::{Kind, Point};
use crate::output::latency_panels;

/// What stands above the picture.
pub(super) fn title(kind: Kind, round_trip: bool) -> String {
    match (kind, round_trip) {
        (Kind::Latency, false) => "latency of a message: half of there and back".to_owned(),
        (Kind::Latency, true) => "latency of a message: there and back".to_owned(),
        (Kind::Bandwidth, _) => "bandwidth of messages, one way".to_owned(),
        (Kind::Rate, _) => "messages per second, one way".to_owned(),
    }
}

/// By size if there are several sizes; then, for latencies, the curves of the smallest.
pub(super) fn panels(kind: Kind, points: &[Point], report: &Report) -> Vec<Panel> {
    let mut panels = Vec::new();
    let measured: Vec<(&Point, &Row, &Comparison)> = report
        .rows
        .iter()
        .filter_map(|row| {
            let point = points.iter().find(|point| {
                row.scenario == point.id || row.scenario.strip_prefix(&point.id).is_some_and(is_rival)
            })?;
            Some((point, row, row.comparison.as_ref()?))
        })
        .collect();
    let mut sizes: Vec<usize> = measured.iter().map(|(point, ..)| point.trial.bytes).collect();
    sizes.sort_unstable();
    sizes.dedup();
    if sizes.len() > 1 || kind != Kind::Latency {
        let mut lines: Vec<Line> = Vec::new();
        for (point, row, comparison) in &measured {
            for (name, figure) in [(&row.ours, comparison.ours(None)), (&row.limit, comparison.limit(None))] {
                let Some(figure) = figure.filter(|figure| *figure > 0.0) else { continue };
                let place = (point.trial.bytes as f64, figure);
                match lines.iter_mut().find(|line| line.name == *name) {
                    // Ours is measured beside each peer; its first figure stands for it.
                    Some(line) if line.points.iter().any(|(bytes, _)| *bytes == place.0) => {}
                    Some(line) => line.points.push(place),
                    None => lines.push(Line { name: name.clone(), points: vec![place] }),
                }
            }
        }
        lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        let caption = "median by size".to_owned();
        panels.push(Panel { caption, across: Across::Bytes, up: kind.unit(), lines, marks: Vec::new() });
    }
    if let (Kind::Latency, Some(smallest)) = (kind, sizes.first()) {
        let rows: Vec<&Row> = measured
            .iter()
            .filter(|(point, ..)| point.trial.bytes == *smallest)
            .map(|(_, row, _)| *row)
            .collect();
        let size = bench_harness::bytes_label(*smallest as f64);
        panels.extend(latency_panels(&size, &rows));
    }
    panels
}

/// What is left of a row's name after its point's: a peer's name.
fn is_rival(rest: &str) -> bool {
    rest.starts_with('/') && !rest[1..].contains('/')
}
