//! The control plane's replicated log beside etcd: three nodes each, as processes, on loopback.

mod client;
mod command;
mod contenders;
mod etcd;
mod grpc;
mod log_cluster;
pub(crate) mod log_node;

use bench_harness::{Contender, Goal, Unit};

pub use command::{ControlArguments, run_control};
pub(crate) use contenders::Place;
use contenders::{Failover, IdleLog, Puts, Rival, Who};

use crate::peers::Tool;
use crate::scenario::Scenario;
use crate::settings::Settings;

/// The scenarios of the control plane.
pub(crate) fn scenarios(settings: &Settings) -> Vec<Scenario> {
    let against =
        |id: &'static str, title: &'static str, unit, goal, make: &dyn Fn(Who) -> Box<dyn Contender>| {
            Scenario {
                id: id.into(),
                title: title.into(),
                unit,
                goal,
                needs: vec![Tool::Etcd],
                unfit: None,
                ours: Some(make(Who::Ours)),
                limit: Some(make(Who::Rival(Rival::Etcd))),
            }
        };
    let puts = |place, open| {
        let (warm_up, measure) = (settings.control_warm_up, settings.control_measure);
        move |who| -> Box<dyn Contender> { Box::new(Puts { who, place, open, warm_up, measure }) }
    };
    let (time, rate) = (Unit::Nanoseconds, Unit::OperationsPerSecond);
    let (not_slower, not_fewer) = (Goal::RatioAtMost { ratio: 1.0 }, Goal::RatioAtLeast { ratio: 1.0 });
    let (one, many) = ("a write of 256 B, one at a time", "writes of 256 B, 64 at a time");
    vec![
        against("control/write/1/disk", one, time, not_slower, &puts(Place::Disk, 1)),
        against("control/write/1/tmpfs", one, time, not_slower, &puts(Place::Memory, 1)),
        against("control/write/64/disk", many, rate, not_fewer, &puts(Place::Disk, 64)),
        against("control/write/64/tmpfs", many, rate, not_fewer, &puts(Place::Memory, 64)),
        against(
            "control/failover",
            "kill -9 of the leader, to the next write",
            time,
            not_slower,
            &|who| -> Box<dyn Contender> { Box::new(Failover { who }) },
        ),
        Scenario {
            id: "control/idle".into(),
            title: "the busiest of three idle nodes of the log".into(),
            unit: Unit::PercentOfCore,
            goal: Goal::FigureBelow { figure: 1.0 },
            needs: Vec::new(),
            unfit: None,
            ours: Some(Box::new(IdleLog { watch: settings.idle_watch })),
            limit: None,
        },
    ]
}
