//! How netdisk is measured: recorders, loops, pinned worker processes, alternating comparisons and their
//! report.
//!
//! The order of use is the order of the modules. A [`Contender`] runs one measurement with [`closed_loop`],
//! [`closed_loop_at_depth`] or [`open_loop`] into a [`Recorder`]; [`alternate`] runs two contenders in turn
//! and keeps only the pairs whose core [`Placement`] stayed the same; a [`Goal`] turns the [`Comparison`]
//! into a [`Verdict`]; a [`Report`] prints it as a table and as JSON. Nothing here knows what netdisk is.
#![forbid(unsafe_code)]

mod allocation;
mod bars;
mod compare;
mod core_usage;
mod foreign_load;
mod goal;
mod machine;
mod pace;
mod picture;
mod pin;
mod pixels;
mod placement;
mod recorder;
mod report;
mod saved;
mod spoilers;
mod table;
mod timeline;
mod unit;
mod worker;

pub use allocation::{AllocationMeter, INSTRUMENTED_SYSTEM, StatsAlloc, allocations_are_counted};
pub use bars::draw_report;
pub use compare::{Alternation, Comparison, Contender, Measured, Pair, Witness, alternate};
pub use core_usage::CoreUsage;
pub use foreign_load::ForeignLoad;
pub use goal::{Goal, Verdict};
pub use machine::Machine;
pub use pace::{
    Budget, Clock, MonotonicClock, Pipeline, Run, closed_loop, closed_loop_at_depth, open_loop, spin_or_yield,
};
pub use picture::{Across, Line, Panel, Picture, bytes_label, wrapped};
pub use pin::{CoreId, CorePair, Pinned};
pub use placement::Placement;
pub use recorder::{Recorder, Summary};
pub use report::{REPORT_FORMAT, REPORT_VERSION, Report, Row};
pub use saved::{Change, Difference, SavedReport, SavedRow, differences, show_differences};
pub use spoilers::{Spoiler, spoilers};
pub use table::Table;
pub use timeline::{Moment, Timeline};
pub use unit::Unit;
pub use worker::{Worker, die_with_parent, hear_from_parent, tell_parent};
