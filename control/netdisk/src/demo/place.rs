//! Where the demo's nodes run: all on this machine, or in the laboratory, each on a host of its own with
//! RDMA devices.

use super::cluster::{NODES, NodeNumber};
use anyhow::{Context, bail};
use fixtures_lab::vm::{Lab, LabOptions, Streams, Topology, Way};
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Set only in the laboratory.
const WAY: &str = "LAB_WAY";
/// Rails between two hosts of the laboratory.
const RAILS: u8 = 2;

/// What carries the demo's rails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Provider {
    /// Shared memory and TCP, on this machine.
    Usual,
    /// RDMA verbs, with TCP beside: on soft-RoCE in the laboratory.
    Verbs,
}

/// Where nodes run.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// On this machine.
    Here,
    /// Each on a host of the laboratory: addresses by node and rail.
    Laboratory(Vec<Vec<IpAddr>>),
}

impl Place {
    /// The place for a provider; an error says what to do.
    pub(super) fn find(provider: Provider) -> anyhow::Result<Place> {
        if provider == Provider::Usual {
            return Ok(Place::Here);
        }
        let addresses = NODES.map(|node| (1..=RAILS).map(|rail| address(node, rail)).collect());
        let addresses: anyhow::Result<Vec<Vec<IpAddr>>> = addresses.into_iter().collect();
        Ok(Place::Laboratory(addresses?))
    }

    /// The program, as this node runs it.
    pub(super) fn command(&self, node: NodeNumber) -> anyhow::Result<Command> {
        match self {
            // It names this very program even while a build replaces its file.
            Place::Here => {
                let mut command = Command::new("/proc/self/exe");
                command.arg0("netdisk");
                Ok(command)
            }
            Place::Laboratory(_) => {
                let mut command = Command::new("on");
                command.arg(format!("h{}", node.0)).arg(std::env::current_exe()?);
                Ok(command)
            }
        }
    }

    /// Nodes and links, as a configuration has them.
    pub(super) fn rows(&self) -> String {
        let node = |node: NodeNumber, host: &str| {
            format!("[[node]]\nid = {}\nname = \"{}\"\n{host}", node.0, node.letter())
        };
        match self {
            Place::Here => {
                let nodes: String = NODES.map(|number| node(number, "")).concat();
                let rails =
                    ["{ kind = \"shm\" }, { kind = \"tcp\" }", "{ kind = \"tcp\" }, { kind = \"shm\" }"];
                nodes + &rails.map(|rails| format!("[[link]]\nrails = [{rails}]\n")).concat()
            }
            Place::Laboratory(addresses) => {
                let host = |number: NodeNumber| format!("host = \"{}\"\n", addresses[number.index()][0]);
                let nodes: String = NODES.map(|number| node(number, &host(number))).concat();
                let links = (0..usize::from(RAILS)).map(|rail| link(addresses, rail));
                nodes + &links.collect::<String>()
            }
        }
    }
}

/// A link of one verbs rail and one TCP rail, both by the interfaces of one rail of the laboratory.
fn link(addresses: &[Vec<IpAddr>], rail: usize) -> String {
    let ends = NODES.map(|node| format!("{} = \"{}\"", node.letter(), addresses[node.index()][rail]));
    let ends = ends.join(", ");
    format!(
        "[[link]]\nrails = [{{ kind = \"verbs\", addresses = {{ {ends} }} }},\n         \
         {{ kind = \"tcp\", addresses = {{ {ends} }} }}]\n"
    )
}

fn address(node: NodeNumber, rail: u8) -> anyhow::Result<IpAddr> {
    let name = format!("LAB_H{}_RAIL{rail}_ADDR", node.0);
    let text = std::env::var(&name);
    let text =
        text.with_context(|| format!("{name} is not set: a laboratory of 3 hosts and 2 rails is needed"))?;
    text.parse().with_context(|| format!("{name} is no address"))
}

/// Enters the laboratory and runs the same command there, unless this is the laboratory. `None`: it is.
pub(super) fn enter(provider: Provider) -> anyhow::Result<Option<ExitCode>> {
    if provider == Provider::Usual || std::env::var_os(WAY).is_some() {
        return Ok(None);
    }
    if !control_node::HAS_VERBS {
        bail!("this netdisk was built without verbs: run `cargo run --release --features verbs -- demo …`");
    }
    let topology = Topology::new(NODES.len() as u8, RAILS)?;
    let lab = Lab::new(LabOptions { topology, ..LabOptions::default() })?;
    let (kernel, way) = (lab.kernel(), lab.way());
    eprintln!("netdisk demo: in the soft-RoCE laboratory, kernel {kernel}");
    if way == Way::Tcg {
        eprintln!("netdisk demo: processor and network are emulated: its times are not those of a device");
    }
    let mut words: Vec<OsString> = vec![std::env::current_exe()?.into()];
    words.extend(std::env::args_os().skip(1));
    let code = lab.start(&words, Streams::inherited())?.wait()?;
    Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_in_the_laboratory_have_a_verbs_and_a_tcp_rail_by_each_interface() {
        let addresses = (1..=3).map(|host| {
            (1..=2).map(|rail| format!("10.77.{rail}.{host}").parse().expect("an address")).collect()
        });
        let rows = Place::Laboratory(addresses.collect()).rows();
        assert!(rows.contains("host = \"10.77.1.3\""));
        assert_eq!(rows.matches("kind = \"verbs\"").count(), 2);
        assert!(rows.contains("C = \"10.77.2.3\""));
    }
}
