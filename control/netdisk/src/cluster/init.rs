//! `netdisk cluster init`: a cluster of one node, in a state folder. Others join it by tokens.

use crate::change::show;
use crate::node::default_folder;
use crate::random::random;
use crate::table::link::place;
use anyhow::Context;
use control_node::genesis::Genesis;
use control_node::scheme::{PORT_BASE_USUAL, RailKind, move_end, rail_end};
use control_proto::rows::{ClusterRows, LinkNumber, LinkRow, NodeRow, RailRow};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{LinkId, NodeId, Path, RailId};

/// The first node's number.
const FIRST: NodeId = NodeId(1);

/// Begin a cluster with one node, on this machine.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The cluster's name: letters, digits, - _ .
    name: String,
    /// The first node's name.
    #[arg(long, default_value = "node1")]
    node: String,
    /// This machine's address, as the other nodes reach it.
    #[arg(long)]
    host: IpAddr,
    /// A rail of every two nodes, `[LINK:]KIND[=ADDRESS[:PORT]]` with KIND tcp, shm or verbs; once for each.
    /// By default link 0 with two of tcp, or with shm and tcp where the host is this machine's loopback.
    #[arg(long = "rail", value_name = "RAIL")]
    rails: Vec<FirstRail>,
    /// First of the 64 ports of this node; node n has those from 64 (n - 1) further on.
    #[arg(long, default_value_t = PORT_BASE_USUAL)]
    port_base: u16,
    /// Folder for what must survive a restart.
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Only print the rows that it would begin with.
    #[arg(long)]
    dry_run: bool,
    /// What was made, as JSON.
    #[arg(long)]
    json: bool,
}

/// A rail as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FirstRail {
    link: u8,
    kind: RailKind,
    address: Option<(IpAddr, Option<u16>)>,
}

impl FirstRail {
    fn usual(kind: RailKind) -> FirstRail {
        FirstRail { link: 0, kind, address: None }
    }
}

impl FromStr for FirstRail {
    type Err = String;

    fn from_str(text: &str) -> Result<FirstRail, String> {
        let (link, rest) = match text.split_once(':') {
            Some((link, rest)) if link.bytes().all(|byte| byte.is_ascii_digit()) => {
                (link.parse().map_err(|_| format!("{link:?} is no link number"))?, rest)
            }
            _ => (0, text),
        };
        let (kind, address) = rest.split_once('=').map_or((rest, None), |(kind, at)| (kind, Some(at)));
        let kind: RailKind = kind.parse()?;
        let address = match address {
            None => None,
            Some(_) if kind == RailKind::Shm => {
                return Err("shared memory has no address: write shm alone".into());
            }
            Some(at) => Some(place(at).ok_or_else(|| format!("{at:?} is no address"))?),
        };
        Ok(FirstRail { link, kind, address })
    }
}

/// The rows of a cluster that has one node so far.
fn first_rows(arguments: &Arguments) -> anyhow::Result<ClusterRows> {
    let host = arguments.host;
    let usual = match host.is_loopback() {
        true => [RailKind::Shm, RailKind::Tcp].map(FirstRail::usual),
        false => [RailKind::Tcp, RailKind::Tcp].map(FirstRail::usual),
    };
    let wanted = if arguments.rails.is_empty() { &usual[..] } else { &arguments.rails };
    let mut rows = ClusterRows::empty(&arguments.name);
    rows.nodes.push(NodeRow { id: FIRST, name: arguments.node.clone(), host, voter: true });
    for rail in wanted {
        let id = LinkId(rail.link);
        let row = match rows.links.iter_mut().find(|row| row.id == id) {
            Some(row) => row,
            None => {
                let number = LinkNumber(rows.links.len() as u32);
                rows.links.push(LinkRow { number, id, nodes: vec![FIRST], rails: Vec::new() });
                rows.links.last_mut().context("a link that was just put there")?
            }
        };
        let path = Path { link: id, rail: RailId(row.rails.len() as u8) };
        let end = rail_end(&arguments.name, FIRST, host, arguments.port_base, path, rail.kind);
        let mut end = end.with_context(|| format!("the ports from {} are too few", arguments.port_base))?;
        if let Some((ip, port)) = rail.address {
            move_end(&mut end, ip, port, None);
        }
        row.rails.push(RailRow { id: path.rail, ends: vec![end] });
    }
    Ok(rows)
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let rows = first_rows(arguments)?;
    let folder = arguments.state.clone().unwrap_or_else(|| default_folder(&arguments.name, FIRST.0));
    let key = ClusterKey::derive(&arguments.name, &random::<32>()?);
    // With all that can be wrong with the rows.
    let genesis = Genesis::of_rows(rows.clone(), key, FIRST)?.with_number(u64::from_le_bytes(random()?));
    if arguments.dry_run {
        let shown = show::additions(&rows);
        match arguments.json {
            true => println!("{}", serde_json::json!({ "dry_run": true, "changes": show::json(&shown) })),
            false => println!("{}nothing was made", show::text(&shown)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    genesis.store(&folder)?;
    let folder = folder.display().to_string();
    if arguments.json {
        let made = serde_json::json!({ "cluster": arguments.name, "node": FIRST.0, "state": folder });
        println!("{made}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("cluster {} has its first node, {}, in {folder}. Next:", arguments.name, arguments.node);
    println!("  netdisk node run --state {folder}             # start it");
    println!("  netdisk cluster token --state {folder}        # once for each machine that is to join");
    println!("  netdisk join TOKEN --node NAME --host ADDRESS --state FOLDER   # on that machine");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use clap::Parser;
    use control_proto::rows::RailAddress;
    use control_proto::rules::check_all;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        init: Arguments,
    }

    fn rows(words: &[&str]) -> Result<ClusterRows, String> {
        let words = [&["x", "north"], words].concat();
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        first_rows(&line.init).map_err(|error| error.to_string())
    }

    fn kinds(rows: &ClusterRows) -> Vec<Vec<bool>> {
        let shm = |rail: &RailRow| matches!(rail.ends[0].address, RailAddress::Shm(_));
        rows.links.iter().map(|link| link.rails.iter().map(shm).collect()).collect()
    }

    #[test]
    fn rails_are_usual_or_as_written_and_keep_the_rules() {
        let near = rows(&["--host", "127.0.0.1"]).unwrap();
        assert_eq!(kinds(&near), [[true, false]]);
        let far = rows(&["--host", "10.0.0.1", "--port-base", "9000"]).unwrap();
        assert_eq!(kinds(&far), [[false, false]]);
        assert_eq!(far.links[0].rails[1].ends[0].address, RailAddress::Tcp("10.0.0.1:9002".parse().unwrap()));
        let own = ["shm", "tcp", "1:tcp=127.0.0.2", "1:tcp=127.0.0.3:7001"];
        let mut words = vec!["--host", "127.0.0.1"];
        own.iter().for_each(|rail| words.extend(["--rail", rail]));
        let written = rows(&words).unwrap();
        assert_eq!(kinds(&written), [vec![true, false], vec![false, false]]);
        assert_eq!(written.links[1].rails[1].ends[0].heartbeat, "127.0.0.3:7002".parse().unwrap());
        for rows in [near, far, written] {
            assert_eq!(check_all(&rows), []);
        }
    }

    #[test]
    fn slips_are_told() {
        for (rail, why) in [
            ("udp", "tcp, shm or verbs"),
            ("900:tcp", "no link number"),
            ("shm=10.0.0.1", "shm alone"),
            ("tcp=here", "no address"),
        ] {
            assert!(rows(&["--host", "10.0.0.1", "--rail", rail]).unwrap_err().contains(why), "{rail}");
        }
        assert!(rows(&["--host", "here"]).unwrap_err().contains("--host"));
    }
}
