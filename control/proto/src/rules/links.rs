//! Rules of links and rails: who is joined by what.

use super::{RowFault, addresses, check_limit, check_nodes};
use crate::ccd::Table;
use crate::rows::{CLUSTER_LINKS_MAX, ClusterRows, LinkRow, RailAddress, RailEnd, RailRow};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::IpAddr;
use transport_proto::identity::{LINKS_MAX, NodeId, RAILS_MAX};

pub(super) fn check(rows: &ClusterRows, row: &LinkRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Links, rows.links.len(), CLUSTER_LINKS_MAX, out);
    if usize::from(row.id.0) >= LINKS_MAX {
        out.push(RowFault::LinkIdTooLarge { id: row.id.0 });
    }
    check_nodes(rows, row.nodes.iter().copied(), out);
    // The links of a cluster's first node wait for the second.
    if row.nodes.is_empty() || (row.nodes.len() < 2 && rows.nodes.len() > 1) {
        out.push(RowFault::LinkOfOne);
    }
    check_pairs(rows, row, out);
    check_rails(rows, row, out);
    addresses::check_link(rows, row, out);
}

/// No two links of one number join the same two nodes.
fn check_pairs(rows: &ClusterRows, row: &LinkRow, out: &mut Vec<RowFault>) {
    let others = rows.links.iter().filter(|other| other.number != row.number && other.id == row.id);
    for other in others {
        let mut common = row.nodes.iter().filter(|node| other.nodes.contains(node));
        if let (Some(a), Some(b)) = (common.next(), common.next()) {
            let (a, b) = (rows.node_name(*a), rows.node_name(*b));
            out.push(RowFault::PairTwice { link: row.id.0, a, b, other: other.number });
        }
    }
}

fn check_rails(rows: &ClusterRows, row: &LinkRow, out: &mut Vec<RowFault>) {
    if row.rails.is_empty() {
        out.push(RowFault::NoRail);
    }
    if row.rails.len() > RAILS_MAX {
        out.push(RowFault::TooManyRails { found: row.rails.len() });
    }
    for (place, rail) in row.rails.iter().enumerate() {
        if usize::from(rail.id.0) >= RAILS_MAX {
            out.push(RowFault::RailIdTooLarge { rail: rail.id.0 });
        }
        if row.rails[..place].iter().any(|other| other.id == rail.id) {
            out.push(RowFault::RailTwice { rail: rail.id.0 });
        }
        if !rail.ends.iter().map(|end| end.node).eq(row.nodes.iter().copied()) {
            out.push(RowFault::RailEnds { rail: rail.id.0 });
        }
        check_kind(rows, rail, out);
    }
}

fn check_kind(rows: &ClusterRows, rail: &RailRow, out: &mut Vec<RowFault>) {
    let kind = |end: &RailEnd| core::mem::discriminant(&end.address);
    if rail.ends.windows(2).any(|pair| kind(&pair[0]) != kind(&pair[1])) {
        return out.push(RowFault::RailKinds { rail: rail.id.0 });
    }
    let Some(RailEnd { node: first, address: RailAddress::Shm(_), .. }) = rail.ends.first() else { return };
    let first = *first;
    let other = rail.ends.iter().map(|end| end.node).find(|node| !on_one_machine(rows, first, *node));
    if let Some(other) = other {
        out.push(RowFault::ShmAcrossHosts { a: rows.node_name(first), b: rows.node_name(other) });
    }
}

/// Whether two nodes are on one machine, as far as their addresses tell.
pub(super) fn on_one_machine(rows: &ClusterRows, a: NodeId, b: NodeId) -> bool {
    let host = |node: NodeId| rows.node(node).map(|row| row.host);
    let (a, b) = (host(a), host(b));
    let loopback = |host: Option<IpAddr>| host.is_some_and(|host| host.is_loopback());
    a == b || (loopback(a) && loopback(b))
}

/// Every two nodes are joined.
pub(super) fn check_joined(rows: &ClusterRows, out: &mut Vec<RowFault>) {
    let all = |link: &LinkRow| rows.nodes.iter().all(|node| link.nodes.contains(&node.id));
    if rows.links.iter().any(all) {
        return;
    }
    let mut joined: BTreeSet<(NodeId, NodeId)> = BTreeSet::new();
    for link in &rows.links {
        for &a in &link.nodes {
            joined.extend(link.nodes.iter().filter(|b| a < **b).map(|b| (a, *b)));
        }
    }
    for (place, a) in rows.nodes.iter().enumerate() {
        for b in &rows.nodes[place + 1..] {
            if !joined.contains(&(a.id, b.id)) {
                out.push(RowFault::NotJoined { a: a.name.clone(), b: b.name.clone() });
            }
        }
    }
}
