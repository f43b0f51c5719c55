//! What a node's status and the database tell about what is wrong: pure.

use control_node::report::{Peer, Status};
use control_proto::ccd::{Database, Phase};
use control_proto::rows::voters_usual;
use transport_proto::identity::NodeId;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// Clients wait or fail, or one more fault would make them.
    Wrong,
    /// It works, but not as it should.
    Warning,
}

impl Severity {
    pub(super) fn name(self) -> &'static str {
        match self {
            Severity::Wrong => "WRONG",
            Severity::Warning => "warning",
        }
    }
}

/// One thing, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) what: String,
    pub(super) help: String,
}

fn wrong(what: impl Into<String>, help: impl Into<String>) -> Finding {
    Finding { severity: Severity::Wrong, what: what.into(), help: help.into() }
}

fn warning(what: impl Into<String>, help: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, what: what.into(), help: help.into() }
}

/// Everything that these two tell.
pub(super) fn check(status: &Status, database: &Database) -> Vec<Finding> {
    let mut found = Vec::new();
    quorum(status, database, &mut found);
    nodes(status, database, &mut found);
    rails(status, database, &mut found);
    disks(status, database, &mut found);
    changes(database, &mut found);
    found
}

fn quorum(status: &Status, database: &Database, found: &mut Vec<Finding>) {
    let rows = database.rows();
    let name = |id: &u16| rows.node_name(NodeId(*id));
    let silent: Vec<String> = status
        .log
        .voters
        .iter()
        .filter(|voter| **voter != status.node && !reachable(status, **voter))
        .map(name)
        .collect();
    if !status.quorum {
        let who = if silent.is_empty() {
            "none of the voters grants it a lease".to_owned()
        } else {
            format!("the voters {} cannot be reached", silent.join(", "))
        };
        let help = "netdisk node run on the machines of the missing voters, or mend the network";
        found.push(wrong(format!("there is no majority and nothing is served here: {who}"), help));
    } else if status.log.leader.is_none() {
        found
            .push(wrong("nobody leads the replicated log now", "netdisk watch (an election takes a second)"));
    }
    if status.log.applied < status.log.last {
        let behind = status.log.last - status.log.applied;
        if behind > 1000 {
            found.push(warning(format!("this node is {behind} entries of the log behind"), "netdisk watch"));
        }
    }
}

fn reachable(status: &Status, node: u16) -> bool {
    status.peers.iter().any(|peer| peer.node == node && peer.reachable)
}

fn nodes(status: &Status, database: &Database, found: &mut Vec<Finding>) {
    let rows = database.rows();
    let members = &database.membership().members;
    for row in &rows.nodes {
        if let Some(stone) = database.tombstone(row.id) {
            let what =
                format!("{} cried for help and stays out ({}: {})", row.name, stone.level, stone.reason);
            found.push(wrong(what, format!("mend it, then netdisk node clear {}", row.name)));
        } else if members.iter().all(|member| member.node != row.id) {
            let reached = row.id.0 == status.node || reachable(status, row.id.0);
            let what = match reached {
                true => format!("{} is reached but is no member", row.name),
                false => format!("{} is no member and cannot be reached", row.name),
            };
            let help = format!(
                "netdisk node run on its machine; or, if it is gone for good, netdisk node remove {}",
                row.name
            );
            found.push(wrong(what, help));
        }
    }
    let all: Vec<NodeId> = rows.nodes.iter().map(|row| row.id).collect();
    let voters = rows.nodes.iter().filter(|row| row.voter).count();
    let usual = voters_usual(&all).len();
    if voters != usual {
        let next = rows.nodes.iter().find(|row| row.voter != (voters < usual));
        let name = next.map_or_else(|| "NODE".into(), |row| row.name.clone());
        let what = format!("{voters} of {} nodes vote, {usual} are usual", all.len());
        found.push(warning(what, format!("netdisk node set {name} --voter {}", voters < usual)));
    }
}

fn rails(status: &Status, database: &Database, found: &mut Vec<Finding>) {
    let rows = database.rows();
    let members = &database.membership().members;
    let is_member = |peer: &&Peer| members.iter().any(|member| member.node.0 == peer.node);
    for peer in status.peers.iter().filter(is_member).filter(|peer| peer.reachable) {
        for link in &peer.links {
            let down = link.rails.iter().filter(|rail| rail.state != "up");
            let left = link.rails.iter().filter(|rail| rail.state == "up").count();
            for rail in down {
                let what = format!(
                    "rail {} of link {} to {} is {}, {left} of {} are left",
                    rail.rail,
                    link.link,
                    rows.node_name(NodeId(peer.node)),
                    rail.state,
                    link.rails.len()
                );
                let help = format!(
                    "netdisk rail list, then mend the cable; if it was cut by order, netdisk rail mend \
                     --link {} --rail {}",
                    link.link, rail.rail
                );
                let bad = if left == 0 { wrong(what, help) } else { warning(what, help) };
                found.push(bad);
            }
        }
    }
}

fn disks(status: &Status, database: &Database, found: &mut Vec<Finding>) {
    let rows = database.rows();
    let view = database.view();
    for path in &database.membership().broken {
        let (node, disk) = (rows.node_name(path.node), rows.disk(path.disk).map(|row| row.name.clone()));
        let disk = disk.unwrap_or_else(|| path.disk.0.to_string());
        let help = format!("look at the log of {node}; it is tried again by itself once the disk answers");
        found.push(wrong(format!("{node} does not reach disk {disk}"), help));
    }
    for row in &rows.virtual_disks {
        if view.serving(row.id).is_none() {
            let nodes: Vec<String> = row.candidates.iter().map(|(node, _)| rows.node_name(*node)).collect();
            let what = format!("nobody serves {}: its clients wait for {}", row.name, nodes.join(" or "));
            found.push(wrong(what, "netdisk node run on one of these machines"));
        }
    }
    for disk in &status.disks {
        let limit = rows.membership.hung_disk.as_micros() as u64 / 3;
        if let Some(age) = disk.oldest_us.filter(|age| *age > limit) {
            let what = format!("disk {} has not answered for {} ms", disk.name, age / 1000);
            found.push(wrong(what, "dmesg on this machine, and look at the device"));
        }
    }
}

fn changes(database: &Database, found: &mut Vec<Finding>) {
    for row in database.live_reconfigurations() {
        let id = row.id.0;
        let (what, help) = match row.phase {
            Phase::Held { .. } => (
                format!("change {id} is held, and its clients wait"),
                format!("netdisk change proceed {id}, or netdisk change cancel {id}"),
            ),
            _ => {
                let missing: Vec<String> =
                    row.missing.iter().map(|member| database.rows().node_name(member.node)).collect();
                (
                    format!("change {id} waits for {}", missing.join(", ")),
                    format!("netdisk change list; if it stays so, netdisk change cancel {id}"),
                )
            }
        };
        found.push(warning(what, help));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::super::sample::status;
    use super::*;
    use crate::change::sample::{STEWARD, database, member};
    use blockdev_proto::geometry::DiskId;
    use control_proto::ccd::{Change, Command, DistressLevel, OperationId, Row, RowChange};
    use control_proto::view::BrokenPath;
    use transport_proto::identity::Incarnation;

    fn found(status: &Status, database: &Database) -> Vec<String> {
        let line = |finding: Finding| format!("{} | {}", finding.what, finding.help);
        check(status, database).into_iter().map(line).collect()
    }

    fn with(mut database: Database, change: Change) -> Database {
        let index = database.index() + 1;
        let operation = OperationId { node: NodeId(2), life: Incarnation(1), sequence: index };
        let command = Command { operation, expect: Vec::new(), change };
        database.apply(index, &command).answer().result.clone().unwrap();
        database
    }

    #[track_caller]
    fn only(lines: &[String], parts: &[&str]) {
        assert_eq!(lines.len(), 1, "{lines:?}");
        for part in parts {
            assert!(lines[0].contains(part), "{part:?} is missing in {lines:?}");
        }
    }

    #[test]
    fn a_sound_cluster_has_nothing_to_say() {
        assert_eq!(found(&status(), &database()), Vec::<String>::new());
    }

    // proves: C6
    #[test]
    fn a_lost_majority_names_the_voters_that_are_missing() {
        let mut alone = status();
        alone.quorum = false;
        alone.peers.iter_mut().for_each(|peer| peer.reachable = false);
        only(
            &found(&alone, &database()),
            &["no majority", "alpha, beta cannot be reached", "netdisk node run"],
        );
    }

    #[test]
    fn a_node_that_is_out_is_told_with_its_reason_and_the_way_back() {
        let expect = database().membership().number;
        let causes = Vec::new();
        let members = vec![member(2), member(3)];
        let out =
            with(database(), Change::Membership { by: STEWARD, expect, members, broken: vec![], causes });
        let mut seen = status();
        seen.peers[0].reachable = false;
        only(&found(&seen, &out), &["alpha is no member and cannot be reached", "netdisk node remove alpha"]);
        let distress =
            Change::Distress { member: member(1), level: DistressLevel::Fenced, reason: "SIGTERM".into() };
        let cried = with(database(), distress);
        only(&found(&status(), &cried), &["alpha cried for help", "SIGTERM", "netdisk node clear alpha"]);
    }

    #[test]
    fn rails_paths_and_unserved_disks_are_told() {
        let mut seen = status();
        seen.peers[0].links[0].rails[1].state = "down".into();
        only(&found(&seen, &database()), &["rail 1 of link 0 to alpha is down", "1 of 2 are left"]);
        let expect = database().membership().number;
        let path = |node| BrokenPath { node: NodeId(node), disk: DiskId(1) };
        let (members, causes) = (vec![member(1), member(2), member(3)], Vec::new());
        let broken = vec![path(1)];
        let half = with(database(), Change::Membership { by: STEWARD, expect, members, broken, causes });
        only(&found(&status(), &half), &["alpha does not reach disk shelf"]);
        let expect = database().membership().number;
        let (members, causes) = (vec![member(3)], Vec::new());
        let none =
            with(database(), Change::Membership { by: STEWARD, expect, members, broken: vec![], causes });
        let lines = found(&status(), &none);
        assert!(lines.iter().any(|line| line.contains("nobody serves vd0")), "{lines:?}");
        let mut hung = status();
        hung.disks[0].oldest_us = Some(60_000_000);
        only(&found(&hung, &database()), &["disk shelf has not answered for 60000 ms"]);
    }

    #[test]
    fn a_held_change_is_told_with_both_ways_out() {
        let mut row = database().rows().virtual_disks[0].clone();
        row.candidates.swap(0, 1);
        let changes = vec![RowChange::Put(Row::VirtualDisk(row))];
        let held = with(database(), Change::Prepare { changes, deadline_ms: 100, hold: true });
        only(&found(&status(), &held), &["waits for alpha, beta, gamma", "netdisk change cancel 3"]);
    }

    #[test]
    fn an_unusual_number_of_voters_is_told() {
        let mut row = database().rows().nodes[1].clone();
        row.voter = false;
        let less = with(database(), Change::Rows(vec![RowChange::Put(Row::Node(row))]));
        only(&found(&status(), &less), &["2 of 3 nodes vote", "netdisk node set beta --voter true"]);
    }
}
