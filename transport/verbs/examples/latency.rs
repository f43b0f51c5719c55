//! Half a round trip of the bare provider, to stand beside `ib_send_lat` of the same run:
//! `netdisk lab run -- sh -c 'pair target/release/examples/latency; pair ib_send_lat -s 64'`.

#[cfg(feature = "rdma")]
mod play {
    use std::net::{IpAddr, SocketAddr};
    use std::time::Instant;
    use transport_provider::conformance::{Side, rail};
    use transport_provider::{ConnectionId, PayloadSlice, Provider};
    use transport_verbs::fabric::rdma::RdmaFabric;
    use transport_verbs::{VerbsOptions, VerbsProvider};

    type RdmaSide = Side<VerbsProvider<RdmaFabric>>;

    const ROUNDS: usize = 4000;
    const PORT: u16 = 7399;

    fn address(host: u8) -> IpAddr {
        let text = std::env::var(format!("LAB_H{host}_RAIL1_ADDR")).expect("run in `netdisk lab run`");
        text.parse().expect("an address")
    }

    fn until(side: &mut RdmaSide, mut done: impl FnMut(&mut RdmaSide) -> bool) {
        while !done(side) {
            side.turn();
        }
    }

    fn hear(side: &mut RdmaSide) {
        while side.heard.frames.is_empty() {
            side.poll_once();
        }
        side.heard.frames.clear();
    }

    fn say(side: &mut RdmaSide, connection: ConnectionId, number: u64, length: usize) {
        let sent = if length <= 128 {
            side.post(connection, number, &[], &vec![7; length], PayloadSlice::EMPTY)
        } else {
            side.post_pattern(connection, number, length)
        };
        sent.expect("there is room for one");
        side.provider.flush();
    }

    pub(super) fn run() {
        let provider = VerbsProvider::new(RdmaFabric::new().expect("libibverbs"), VerbsOptions::default());
        let mut side = Side::new(provider.expect("memory"));
        let serves = std::env::var("LAB_ROLE").is_ok_and(|role| role == "server");
        let there = SocketAddr::new(address(2), PORT);
        let connection = if serves {
            side.provider.listen(rail(0), &there).expect("the address is free");
            until(&mut side, |side| !side.heard.accepted.is_empty());
            side.heard.accepted[0].1
        } else {
            let mut dialed = side.dial(rail(0), &SocketAddr::new(address(1), 0), &there);
            while side.heard.connected.is_empty() {
                side.turn();
                if side.heard.lost.pop_front().is_some() {
                    dialed = side.dial(rail(0), &SocketAddr::new(address(1), 0), &there);
                }
            }
            dialed
        };
        side.establish(connection);
        until(&mut side, |side| !side.heard.established.is_empty());
        for length in [64, 4096] {
            let mut times = Vec::with_capacity(ROUNDS);
            for round in 0..ROUNDS {
                let begun = Instant::now();
                if serves {
                    hear(&mut side);
                    say(&mut side, connection, round as u64 + 1, length);
                } else {
                    say(&mut side, connection, round as u64 + 1, length);
                    hear(&mut side);
                    times.push(begun.elapsed().as_nanos() as f64 / 2000.0);
                }
            }
            times.sort_by(f64::total_cmp);
            if let (Some(median), Some(late)) = (times.get(ROUNDS / 2), times.get(ROUNDS * 99 / 100)) {
                println!(
                    "netdisk verbs provider {length} B: half round trip p50 {median:.1} µs, p99 {late:.1} µs"
                );
            }
        }
        if !serves {
            side.provider.close(connection);
        }
        until(&mut side, |side| !side.heard.lost.is_empty());
    }
}

fn main() {
    #[cfg(feature = "rdma")]
    play::run();
    #[cfg(not(feature = "rdma"))]
    eprintln!("built without the feature rdma");
}
