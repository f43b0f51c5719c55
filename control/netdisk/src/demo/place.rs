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

    /// The first node's own words of `netdisk cluster init`: its address, and the rails of every two nodes.
    pub(super) fn first(&self, node: NodeNumber) -> Vec<String> {
        let rail = |text: String| ["--rail".to_owned(), text];
        let rails: Vec<String> = match self {
            Place::Here => {
                ["0:shm", "0:tcp", "1:tcp", "1:shm"].into_iter().flat_map(|text| rail(text.into())).collect()
            }
            // A link of one verbs rail and one TCP rail, both by the interfaces of one rail of the
            // laboratory.
            Place::Laboratory(addresses) => {
                let own = addresses[node.index()].iter().enumerate();
                let both =
                    own.flat_map(|(link, ip)| ["verbs", "tcp"].map(|kind| format!("{link}:{kind}={ip}")));
                both.flat_map(rail).collect()
            }
        };
        [vec!["--host".to_owned(), self.host(node)], rails].concat()
    }

    /// Another node's words of `netdisk join`: its address, and where rails end there.
    pub(super) fn joining(&self, node: NodeNumber) -> Vec<String> {
        let mut words = vec!["--host".to_owned(), self.host(node)];
        if let Place::Laboratory(addresses) = self {
            for (link, ip) in addresses[node.index()].iter().enumerate() {
                for rail in 0..2 {
                    words.extend(["--rail".to_owned(), format!("{link}.{rail}={ip}")]);
                }
            }
        }
        words
    }

    fn host(&self, node: NodeNumber) -> String {
        match self {
            Place::Here => "127.0.0.1".to_owned(),
            Place::Laboratory(addresses) => addresses[node.index()][0].to_string(),
        }
    }
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
        let place = Place::Laboratory(addresses.collect());
        let [a, _, c] = NODES;
        assert_eq!(
            place.first(a).join(" "),
            "--host 10.77.1.1 --rail 0:verbs=10.77.1.1 --rail 0:tcp=10.77.1.1 \
             --rail 1:verbs=10.77.2.1 --rail 1:tcp=10.77.2.1"
        );
        assert_eq!(
            place.joining(c).join(" "),
            "--host 10.77.1.3 --rail 0.0=10.77.1.3 --rail 0.1=10.77.1.3 \
             --rail 1.0=10.77.2.3 --rail 1.1=10.77.2.3"
        );
    }
}
