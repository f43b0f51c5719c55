//! The harness without netdisk: two ways to sort, in turn, as a table, as JSON and as a picture.
//!
//! `cargo run --release -p bench-harness --example two_sorts`
#![allow(clippy::print_stdout, reason = "an example shows what it found")]

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use bench_harness::{
    Across, Alternation, Budget, Comparison, Contender, Goal, Line, Machine, Measured, MonotonicClock, Panel,
    Picture, Placement, Report, Row, Unit, Witness, alternate, closed_loop,
};

/// Sorts the same numbers again and again.
struct Sort {
    name: &'static str,
    sort: fn(&mut [u32]),
}

impl Contender for Sort {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let numbers: Vec<u32> = (0..1000_u32).map(|number| number.wrapping_mul(2_654_435_761)).collect();
        let ms = Duration::from_millis;
        let budget = Budget { warm_up: ms(20), measure: ms(100), operations_max: u64::MAX };
        let run = closed_loop(&mut MonotonicClock::start(), &budget, 1, || -> Result<()> {
            let mut numbers = std::hint::black_box(numbers.clone());
            (self.sort)(&mut numbers);
            std::hint::black_box(numbers);
            Ok(())
        })?;
        Ok(Measured::latency_of(run))
    }
}

/// One thread is measured, so the distance of two cores is no question.
struct Nobody;

impl Witness for Nobody {
    fn placement(&mut self) -> Result<Option<Placement>> {
        Ok(None)
    }

    fn turn_begins(&mut self) -> Result<()> {
        Ok(())
    }

    fn turn_was_disturbed(&mut self) -> Result<bool> {
        Ok(false)
    }

    fn pair_ended(&mut self, so_far: &Comparison) {
        eprintln!("{} pairs", so_far.pairs.len());
    }
}

fn main() -> Result<()> {
    let mut unstable = Sort { name: "unstable", sort: |numbers| numbers.sort_unstable() };
    let mut stable = Sort { name: "stable", sort: |numbers| numbers.sort() };
    let alternation = Alternation { pairs: 5, tries_max: 10, keep_disturbed: false };
    let comparison = alternate(alternation, Some(&mut unstable), Some(&mut stable), &mut Nobody)?;
    let names = (unstable.name(), stable.name());
    let mut report = Report::begin(Machine::describe(Path::new(env!("CARGO_MANIFEST_DIR"))));
    let goal = Goal::RatioAtMost { ratio: 1.0 };
    report.rows.push(Row::measured("sort/1000", "sort of 1000 numbers", goal, names, comparison));
    println!("{}", report.show());

    let lines = report.rows[0].comparison.iter().flat_map(|comparison| {
        let named = ["unstable", "stable"].into_iter().zip(&comparison.recorders);
        named.filter_map(|(name, recorder)| Some(Line::percentiles(name, recorder.as_ref()?)))
    });
    let panel = Panel {
        caption: "1000 numbers".to_owned(),
        across: Across::Percentile,
        up: Unit::Nanoseconds,
        lines: lines.collect(),
        marks: Vec::new(),
    };
    let picture = Picture { title: "two sorts".to_owned(), notes: Vec::new(), panels: vec![panel] };
    let file = std::env::temp_dir().join("two_sorts.svg");
    picture.write(&file)?;
    println!("drawn: {}", file.display());
    Ok(())
}
