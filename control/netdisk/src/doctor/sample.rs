//! The status of a sound node for tests: node 3 of the cluster in `change/sample.rs`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_node::report::Status;
use serde_json::{Value, json};

pub(crate) fn status() -> Status {
    let rail = |rail: u8, kind: &str, active: bool| {
        json!({ "rail": rail, "kind": kind, "state": "up", "active": active, "connections": 1,
                "round_trip_us": 80 })
    };
    let peer = |node: u16| {
        json!({
            "node": node, "member": true, "reachable": true, "incarnation": 1,
            "links": [
                { "link": 0, "rails": [rail(0, "shm", true), rail(1, "tcp", false)] },
                { "link": 1, "rails": [rail(0, "tcp", true)] },
            ],
            "messages_sent": 0, "messages_delivered": 0, "messages_replayed": 0, "duplicates_dropped": 0,
            "frames_fenced": 0, "frames_dropped": 0, "rails_lost": 0, "leases_held": 0, "lease_age_us": null,
        })
    };
    let value: Value = json!({
        "format": 1, "cluster": "north", "node": 3, "incarnation": 1, "uptime_s": 9, "epoch": 1,
        "members": [1, 2, 3], "quorum": true,
        "log": { "role": "follower", "leader": 1, "term": 1, "voters": [1, 2, 3], "learners": [],
                 "applied": 1, "last": 1, "snapshot": 0 },
        "memory": { "resident_bytes": 1, "transport_bytes": 1, "budget_bytes": 1 },
        "peers": [peer(1), peer(2)],
        "disks": [{ "name": "shelf", "virtual_disk": "vd0", "access": "x", "epoch": 1, "in_flight": 0,
                    "oldest_us": null }],
        "virtual_disks": [{ "name": "vd0", "size_bytes": 67_108_864, "serving": 1, "gate": "Closed",
                            "open": 0, "pending": 0 }],
        "driver": { "pending": 0, "completed": 0, "failed": 0, "reissued": 0, "limbo": 0 },
        "master": { "executing": 0, "executed": 0, "duplicates": 0, "stale": 0 },
        "failovers": [], "nbd": [],
    });
    serde_json::from_value(value).unwrap()
}
