//! What the whole stack costs in software alone: two endpoints on one thread, one shared-memory rail, 64-byte
//! messages there and back. No cache line travels between cores, nobody sleeps; so the figure is
//! instructions, not distance. `cargo run --release -p transport-endpoint --example software_path`, or under
//! callgrind.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;
use transport_endpoint::{
    Clients, Completion, Core, Data, Delivery, Endpoint, EndpointConfig, PeerEvent, PeerPlan, RailAddress,
    RailPlan, SpinSettings, StartError, Tag,
};
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{ClientId, Incarnation, LinkId, NodeId, Path, RailId};
use transport_proto::route::Spread;

/// Sends back what it hears, or counts it.
struct Echo {
    answers: bool,
    heard: u64,
}

impl Clients for Echo {
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        self.heard += 1;
        if self.answers {
            let data = Data::Copy(delivery.data());
            // Ping-pong: one message is under way, so there is always credit.
            let _ = core.send(delivery.from, delivery.client, delivery.control, data, Tag::SILENT);
        }
    }
    fn complete(&mut self, _: &mut Core, _: Completion) {}
    fn peer(&mut self, _: &mut Core, _: PeerEvent) {}
    fn writable(&mut self, _: &mut Core, _: NodeId, _: ClientId) {}
}

fn endpoint(node: u16, answers: bool) -> Result<Endpoint<Echo>, StartError> {
    let key = ClusterKey::derive("example", b"a secret of sixteen bytes or more");
    let mut config = EndpointConfig::new(NodeId(node), Incarnation(u64::from(node)), key);
    config.spin = SpinSettings { forever: true, yielding: false, ..SpinSettings::default() };
    let mut endpoint = Endpoint::new(config, Echo { answers, heard: 0 })?;
    let address =
        |node: u16| RailAddress::Shm(format!("netdisk-software-path-{}-{node}", std::process::id()));
    let path = Path { link: LinkId(0), rail: RailId(0) };
    let rail = RailPlan { path, local: address(node), remote: address(3 - node), monitored: false };
    let plan = PeerPlan { node: NodeId(3 - node), spread: Spread::Single, rails: vec![rail] };
    if let Err(refusal) = endpoint.core().set_peer(&plan) {
        eprintln!("{refusal}");
    }
    Ok(endpoint)
}

fn main() -> ExitCode {
    let count: u64 = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let (Ok(mut one), Ok(mut two)) = (endpoint(1, false), endpoint(2, true)) else {
        eprintln!("no endpoint: is there shared memory to be had?");
        return ExitCode::FAILURE;
    };
    while !(one.core().is_reachable(NodeId(2)) && two.core().is_reachable(NodeId(1))) {
        for side in [&mut one, &mut two] {
            side.poll();
            if side.sleep(std::time::Duration::ZERO, |_, _, _| ()).is_err() {
                return ExitCode::FAILURE;
            }
        }
    }
    let started = Instant::now();
    for number in 1..=count {
        let _ = one.core().send(NodeId(2), ClientId::USER, &[], Data::Copy(&[7; 64]), Tag::SILENT);
        while one.clients().heard < number {
            two.poll();
            one.poll();
        }
    }
    let nanos = started.elapsed().as_nanos() as f64 / count as f64;
    println!("64 B there and back, both sides on one thread: {nanos:.0} ns");
    ExitCode::SUCCESS
}
