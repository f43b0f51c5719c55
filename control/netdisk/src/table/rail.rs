//! `netdisk rail`: rails of links, by row; and cables pulled and put back by order.

use super::link::{RailWanted, rail_row};
use super::{change, list};
use crate::change::{Flags, Look, Plan, find};
use crate::cut::{self, Cable};
use anyhow::{Context, ensure};
use control_node::config::key_text;
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::rows::{LinkRow, RailAddress, RailEnd};
use std::process::ExitCode;
use transport_proto::identity::{Path, RAILS_MAX, RailId};

/// See, add and remove rails; cut or mend one of a running node.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List them with their addresses.
    List(Look),
    /// Give a link one more rail.
    Add(Add),
    /// Take a rail away; its traffic moves to another.
    Remove(Remove),
    /// Drop the rail's heartbeats: its traffic moves to another rail.
    Cut(Cable),
    /// Undo a cut.
    Mend(Cable),
}

#[derive(clap::Args)]
struct Add {
    /// Row number of its link, as `netdisk link list` tells it.
    #[arg(long)]
    link: u32,
    /// tcp, shm or verbs, with addresses that differ from the scheme, such as tcp,alpha=10.1.0.1.
    #[arg(long = "rail", value_name = "RAIL", default_value = "tcp")]
    rail: RailWanted,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Remove {
    /// Row number of its link.
    #[arg(long)]
    link: u32,
    /// Its number in the link.
    #[arg(long)]
    rail: u8,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look, "link", &HEAD, listed),
        Action::Add(add) => change(&add.flags, false, &|database| plan_add(database, add.link, &add.rail)),
        Action::Remove(it) => change(&it.flags, false, &|database| plan_remove(database, it.link, it.rail)),
        Action::Cut(cable) => cut::cut(cable),
        Action::Mend(cable) => cut::mend(cable),
    }
}

const HEAD: [&str; 6] = ["ROW", "LINK", "RAIL", "NODE", "ADDRESS", "HEARTBEATS"];

fn listed(database: &Database) -> Vec<Vec<String>> {
    let rows = database.rows();
    let mut out = Vec::new();
    for link in &rows.links {
        for rail in &link.rails {
            for RailEnd { node, address, heartbeat } in &rail.ends {
                let address = match address {
                    RailAddress::Shm(name) => format!("shm {name}"),
                    RailAddress::Tcp(address) => format!("tcp {address}"),
                    RailAddress::Verbs(address) => format!("verbs {address}"),
                };
                let numbers = [link.number.0, u32::from(link.id.0), u32::from(rail.id.0)];
                let mut words: Vec<String> = numbers.iter().map(u32::to_string).collect();
                words.extend([rows.node_name(*node), address, heartbeat.to_string()]);
                out.push(words);
            }
        }
    }
    out
}

fn plan_add(database: &Database, link: u32, wanted: &RailWanted) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row: LinkRow = find::link(rows, link)?.clone();
    let free = (0..RAILS_MAX as u8).map(RailId).find(|id| row.rails.iter().all(|rail| rail.id != *id));
    let id = free.with_context(|| {
        format!("link {} has {RAILS_MAX} rails, more it cannot have: add another link", row.id.0)
    })?;
    let rail = rail_row(rows, &row.nodes, Path { link: row.id, rail: id }, wanted)?;
    row.rails.push(rail);
    row.rails.sort_by_key(|rail| rail.id);
    let done = format!("link {} has rail {}", row.id.0, id.0);
    Ok(Plan::new(done, vec![RowChange::Put(Row::Link(row))]))
}

fn plan_remove(database: &Database, link: u32, rail: u8) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let mut row: LinkRow = find::link(rows, link)?.clone();
    let name = key_text(rows, &RowKey::Link(row.number));
    let before = row.rails.len();
    row.rails.retain(|other| other.id.0 != rail);
    ensure!(row.rails.len() < before, "{name} has no rail {rail}: see `netdisk rail list`");
    ensure!(
        !row.rails.is_empty(),
        "rail {rail} is the last one of {name}: add another first, or remove the link (netdisk link \
         remove {})",
        row.number.0
    );
    Ok(Plan::new(format!("{name} has no rail {rail} any more"), vec![RowChange::Put(Row::Link(row))]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};

    // proves: C5
    #[test]
    fn a_rail_is_added_in_the_first_free_place_and_taken_away() {
        let tcp: RailWanted = "tcp".parse().unwrap();
        let less = after(&database(), &|db| plan_remove(db, 0, 0)).unwrap();
        assert_eq!(less.rows().links[0].rails.len(), 1);
        let more = after(&less, &|db| plan_add(db, 0, &tcp)).unwrap();
        let ids: Vec<u8> = more.rows().links[0].rails.iter().map(|rail| rail.id.0).collect();
        assert_eq!(ids, [0, 1]);
        assert!(listed(&more).iter().any(|words| words[4] == "tcp 127.0.0.1:7400"));
    }

    #[test]
    fn the_last_rail_of_a_link_stays() {
        let text = refused(&database(), &|db| plan_remove(db, 1, 0));
        assert!(text.contains("netdisk link remove 1"), "{text}");
        assert!(refused(&database(), &|db| plan_remove(db, 1, 5)).contains("netdisk rail list"));
    }
}
