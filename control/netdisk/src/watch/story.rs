//! From what a node tells to lines that a person reads: pure, so that every sentence can be tested.

use control_node::report::{Failover, Peer, Rail, Status};
use serde_json::Value;

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The replicated log: it is so on every node.
    Log,
    /// The watched node.
    Node,
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Source::Log => "log",
            Source::Node => "node",
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was told; `None` for what happened before one began to watch.
    pub(super) unix_ms: Option<u64>,
    pub(super) source: Source,
    /// Where the log has it.
    pub(super) index: Option<u64>,
    /// The configuration number after it.
    pub(super) number: Option<u64>,
    /// The row that changed, if one did.
    pub(super) row: Option<String>,
    /// In words.
    pub(super) what: String,
}

impl Line {
    fn node(unix_ms: u64, what: String) -> Line {
        Line { unix_ms: Some(unix_ms), source: Source::Node, index: None, number: None, row: None, what }
    }

    pub(super) fn text(&self) -> String {
        let time = self.unix_ms.map_or_else(|| "earlier     ".into(), clock);
        let indent = if self.row.is_some() { "    " } else { "" };
        match (self.source, self.index) {
            (Source::Log, Some(index)) if self.row.is_none() => format!("{time}  [{index}] {}", self.what),
            _ => format!("{time}  {indent}{}", self.what),
        }
    }
}

/// The time of the day, UTC.
fn clock(unix_ms: u64) -> String {
    let (seconds, ms) = (unix_ms / 1000, unix_ms % 1000);
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{ms:03}", seconds % 60)
}

/// What the log decided: the cause, then row by row what changed.
pub(super) fn decided(value: &Value, now_ms: u64) -> Vec<Line> {
    let number = value.get("number").and_then(Value::as_u64);
    let index = value.get("index").and_then(Value::as_u64);
    let line = |unix_ms, row: Option<String>, what: String| Line {
        unix_ms,
        source: Source::Log,
        index,
        number,
        row,
        what,
    };
    if value.get("gap").is_some() {
        let what = "changes before this are not kept any more: look at the rows (netdisk cluster export)";
        return vec![line(Some(now_ms), None, what.into())];
    }
    let Some(cause) = value.get("cause").and_then(Value::as_str) else { return Vec::new() };
    let unix_ms = value.get("unix_ms").and_then(Value::as_u64);
    let what = match number {
        Some(number) => format!("{cause} (configuration {number})"),
        None => cause.to_owned(),
    };
    let mut lines = vec![line(unix_ms, None, what)];
    for change in value.get("changes").and_then(Value::as_array).into_iter().flatten() {
        let word = |key: &str| change.get(key).and_then(Value::as_str).unwrap_or_default();
        let (row, kind, text) = (word("row"), word("kind"), word("text"));
        let colon = if text.is_empty() { "" } else { ": " };
        lines.push(line(unix_ms, Some(row.to_owned()), format!("{row} {kind}{colon}{text}")));
    }
    lines
}

/// How things stand when one begins to watch.
pub(super) fn first(status: &Status, now_ms: u64) -> Vec<Line> {
    let members: Vec<String> = status.members.iter().map(u16::to_string).collect();
    let what = format!(
        "watching node {} of {}: configuration {}, members {}, {}",
        status.node,
        status.cluster,
        status.epoch,
        if members.is_empty() { "none".into() } else { members.join(" ") },
        leader(status),
    );
    vec![Line::node(now_ms, what)]
}

fn leader(status: &Status) -> String {
    match status.log.leader {
        Some(node) => format!("node {node} leads in term {}", status.log.term),
        None => "nobody leads".into(),
    }
}

/// What the node saw between two looks.
pub(super) fn seen(before: &Status, after: &Status, now_ms: u64) -> Vec<Line> {
    let mut what = Vec::new();
    if before.incarnation != after.incarnation {
        what.push(format!("node {} begins a new life", after.node));
    }
    for peer in &after.peers {
        rails(before.peers.iter().find(|other| other.node == peer.node), peer, &mut what);
    }
    if before.log.leader != after.log.leader {
        what.push(leader(after));
    }
    match (before.quorum, after.quorum) {
        (true, false) => what.push(format!("node {} has no majority and serves nothing", after.node)),
        (false, true) => what.push(format!("node {} reaches a majority again", after.node)),
        _ => {}
    }
    for disk in &after.virtual_disks {
        let then = before.virtual_disks.iter().find(|other| other.name == disk.name);
        let (from, to) = (then.and_then(|then| then.serving), disk.serving);
        if then.is_some() && from != to {
            what.push(serving(&disk.name, from, to));
        }
    }
    what.extend(failovers(&before.failovers, &after.failovers));
    if after.handshakes_refused > before.handshakes_refused && before.handshakes_refused == 0 {
        what.push("a connection was refused: its other end is no member, or has another key".into());
    }
    what.into_iter().map(|what| Line::node(now_ms, what)).collect()
}

fn serving(name: &str, from: Option<u16>, to: Option<u16>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!("node {to} serves {name} now, instead of node {from}"),
        (None, Some(to)) => format!("node {to} serves {name} now"),
        (_, None) => format!("nobody serves {name}: its clients wait"),
    }
}

fn rails(before: Option<&Peer>, after: &Peer, out: &mut Vec<String>) {
    let Some(before) = before else { return };
    let old = |link: u8, rail: u8| -> Option<&Rail> {
        let link = before.links.iter().find(|other| other.link == link)?;
        link.rails.iter().find(|other| other.rail == rail)
    };
    let node = after.node;
    for link in &after.links {
        for rail in &link.rails {
            let Some(then) = old(link.link, rail.rail) else { continue };
            let name = format!("rail {} of link {} to node {node} ({})", rail.rail, link.link, rail.kind);
            match (then.state == "up", rail.state == "up") {
                (true, false) => out.push(format!("{name} is down")),
                (false, true) => out.push(format!("{name} is up")),
                _ => {}
            }
            if !then.active && rail.active {
                out.push(format!("{name} carries the data now"));
            }
        }
    }
    match (before.reachable, after.reachable) {
        (true, false) => out.push(format!("node {node} is suspect: no rail reaches it")),
        (false, true) => out.push(format!("node {node} is reached again")),
        _ => {}
    }
}

/// Failovers that are new, and those whose clients go on since.
fn failovers(before: &[Failover], after: &[Failover]) -> Vec<String> {
    let mut out = Vec::new();
    for failover in after {
        let same =
            |other: &&Failover| other.virtual_disk == failover.virtual_disk && other.epoch == failover.epoch;
        let known = before.iter().find(same).and_then(|other| other.gap_us);
        if let (None, Some(gap)) = (known, failover.gap_us) {
            out.push(format!(
                "requests for {} go on at node {} after {} ms",
                failover.virtual_disk,
                failover.to,
                gap.div_ceil(1000)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::doctor::sample::status;
    use serde_json::json;

    fn said(before: &Status, after: &Status) -> Vec<String> {
        seen(before, after, 0).into_iter().map(|line| line.what).collect()
    }

    // proves: C3 C6
    #[test]
    fn a_failover_is_told_from_the_first_rail_to_the_last_waiting_client() {
        let calm = status();
        assert_eq!(said(&calm, &calm), Vec::<String>::new());
        let mut down = calm.clone();
        down.peers[0].links[0].rails[0].state = "down".into();
        down.peers[0].links[0].rails[0].active = false;
        down.peers[0].links[0].rails[1].active = true;
        assert_eq!(
            said(&calm, &down),
            [
                "rail 0 of link 0 to node 1 (shm) is down",
                "rail 1 of link 0 to node 1 (tcp) carries the data now"
            ]
        );
        let mut alone = down.clone();
        alone.peers[0].links[0].rails[1].state = "down".into();
        alone.peers[0].reachable = false;
        alone.log.leader = None;
        let told = said(&down, &alone);
        assert!(told.contains(&"node 1 is suspect: no rail reaches it".to_owned()), "{told:?}");
        assert!(told.contains(&"nobody leads".to_owned()));
        let mut moved = alone.clone();
        moved.log.leader = Some(2);
        moved.virtual_disks[0].serving = Some(2);
        let failover = Failover { virtual_disk: "vd0".into(), epoch: 9, from: Some(1), to: 2, gap_us: None };
        moved.failovers.push(failover);
        let told = said(&alone, &moved);
        assert!(told.contains(&"node 2 serves vd0 now, instead of node 1".to_owned()), "{told:?}");
        let mut goes_on = moved.clone();
        goes_on.failovers[0].gap_us = Some(612_345);
        assert_eq!(said(&moved, &goes_on), ["requests for vd0 go on at node 2 after 613 ms"]);
        let mut lost = goes_on.clone();
        lost.quorum = false;
        assert_eq!(said(&goes_on, &lost), ["node 3 has no majority and serves nothing"]);
    }

    #[test]
    fn what_the_log_decided_is_told_with_cause_rows_and_number() {
        let value = json!({
            "index": 17, "number": 17, "unix_ms": 3_723_004, "cause": "node 1 cannot be reached by any rail",
            "changes": [{ "row": "the membership", "kind": "changed", "text": "members 1 2 3 → 2 3" }],
        });
        let lines: Vec<String> = decided(&value, 0).iter().map(Line::text).collect();
        assert_eq!(
            lines,
            [
                "01:02:03.004  [17] node 1 cannot be reached by any rail (configuration 17)",
                "01:02:03.004      the membership changed: members 1 2 3 → 2 3",
            ]
        );
        assert!(decided(&json!({ "watching": 3, "number": 3 }), 0).is_empty());
        assert!(decided(&json!({ "gap": true, "index": 3 }), 0)[0].what.contains("netdisk cluster export"));
        assert!(decided(&json!("noise"), 0).is_empty());
    }
}
