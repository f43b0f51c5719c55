//! Verified load over a verbs rail with a TCP rail beside it, while the faults of the laboratory strike: one
//! boot for all of them. Two hosts of `netdisk lab run`; elsewhere it says that it was skipped.
//!
//! The driver (host 1, node 2) sends numbered messages, the peer (host 2, node 1) checks each and echoes its
//! number. Nothing may be lost, repeated, out of order or changed; after each repair the verbs rail must
//! carry the data again, which its provider's count of bytes tells; how its pace compares with the one before
//! is printed, and judged by nobody, since others use the machine too.

// proves: T6 T8 T10 T11
fn main() {
    #[cfg(feature = "verbs")]
    course::run();
    #[cfg(not(feature = "verbs"))]
    eprintln!("SKIPPED: built without verbs");
}

#[cfg(feature = "verbs")]
mod course {
    use std::error::Error;
    use std::net::SocketAddr;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};
    use transport_endpoint::{
        Clients, Completion, Core, Data, Delivery, Endpoint, EndpointConfig, Outcome, PeerEvent, PeerPlan,
        ProviderKind, RailAddress, RailPlan, Tag,
    };
    use transport_proto::cluster_key::ClusterKey;
    use transport_proto::identity::{ClientId, Incarnation, LinkId, NodeId, Path, RailId};
    use transport_proto::rail::RailState;
    use transport_proto::route::Spread;

    /// Gives up on a condition after this; never waited for when all is well.
    const PATIENCE: Duration = Duration::from_secs(60);
    /// Messages that must come through while a fault lasts, and after it.
    const PROGRESS: u64 = 300;
    /// Bytes of a small message's data.
    const SMALL: u64 = 48;
    /// The part of the large messages' bytes that the verbs rail carries at least when it carries them all: a
    /// window of messages may have been posted before or echoed after.
    const WHOLE_SHARE_MIN: f64 = 0.5;
    const PEER: NodeId = NodeId(1);
    const DRIVER: NodeId = NodeId(2);

    /// Bytes of data of this message. All but the small ones are written into the peer's memory.
    fn length(number: u64) -> u64 {
        match number % 10 {
            0 => 60_000,
            1..5 => 4096,
            _ => SMALL,
        }
    }

    /// What a message of this number carries.
    fn content(number: u64) -> Vec<u8> {
        (0..length(number)).map(|at| (at * 31 + number * 17) as u8).collect()
    }

    #[derive(Default)]
    struct Ear {
        /// Peer: numbers to be echoed. Driver: echoes that came.
        numbers: Vec<u64>,
        last: Option<u64>,
        unknown: u64,
        delivered: u64,
        restarts: u64,
    }

    impl Clients for Ear {
        fn deliver(&mut self, _core: &mut Core, delivery: Delivery<'_>) {
            let number = u64::from_le_bytes(delivery.control.try_into().expect("a number"));
            // A peer that began anew takes up wherever its first message is.
            assert!(self.last.is_none_or(|last| last + 1 == number), "{number} after {:?}", self.last);
            self.last = Some(number);
            if !delivery.data().is_empty() {
                assert!(delivery.data() == content(number), "message {number} arrived changed");
            }
            self.numbers.push(number);
        }

        fn complete(&mut self, _core: &mut Core, completion: Completion) {
            match completion.outcome {
                Outcome::Delivered => self.delivered += 1,
                _ => self.unknown += 1,
            }
        }

        fn peer(&mut self, _core: &mut Core, event: PeerEvent) {
            if matches!(event, PeerEvent::Restarted { .. }) {
                self.restarts += 1;
                self.last = None;
            }
        }

        fn writable(&mut self, _core: &mut Core, _node: NodeId, _client: ClientId) {}
    }

    fn variable(name: &str) -> String {
        std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
    }

    /// A verbs rail by the first interfaces, a TCP rail by the second ones.
    fn plan(node: NodeId) -> PeerPlan {
        let host = |node: NodeId| if node == PEER { 2 } else { 1 };
        let address = |node: NodeId, rail: u8| -> SocketAddr {
            let ip = variable(&format!("LAB_H{}_RAIL{rail}_ADDR", host(node)));
            SocketAddr::new(ip.parse().expect("an address"), 7400 + u16::from(rail))
        };
        let other = NodeId(3 - node.0);
        let rail = |number: u8, kind: fn(SocketAddr) -> RailAddress| RailPlan {
            path: Path { link: LinkId(0), rail: RailId(number) },
            local: kind(address(node, number + 1)),
            remote: kind(address(other, number + 1)),
            monitored: false,
        };
        let rails = vec![rail(0, RailAddress::Verbs), rail(1, RailAddress::Tcp)];
        PeerPlan { node: other, spread: Spread::Single, rails }
    }

    fn endpoint(node: NodeId) -> Endpoint<Ear> {
        let life = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
        let key = ClusterKey::derive("faults", b"a secret of sixteen bytes or more");
        let config = EndpointConfig::new(node, Incarnation(life.as_nanos() as u64), key);
        Endpoint::new(config, Ear::default()).expect("an endpoint can be made")
    }

    pub(super) fn run() {
        match std::env::args().nth(1).as_deref() {
            Some("peer") => peer(),
            Some("limited") => limited(),
            _ if std::env::var_os("LAB_WAY").is_some() => drive(),
            _ => eprintln!("SKIPPED: not in the laboratory (`netdisk lab run`)"),
        }
    }

    /// Checks and echoes until it is killed.
    fn peer() {
        let mut endpoint = endpoint(PEER);
        endpoint.core().set_peer(&plan(PEER)).expect("the addresses are free");
        let mut echoes = std::collections::VecDeque::new();
        loop {
            endpoint.run_once(Duration::from_millis(20)).expect("the loop runs");
            echoes.extend(endpoint.clients().numbers.drain(..));
            while let Some(number) = echoes.front() {
                let number: [u8; 8] = u64::to_le_bytes(*number);
                match endpoint.core().send(DRIVER, ClientId::USER, &number, Data::Copy(&[]), Tag::SILENT) {
                    Ok(()) => drop(echoes.pop_front()),
                    Err(_) => break,
                }
            }
        }
    }

    /// Run with too small a limit of locked memory: says what is wrong.
    fn limited() {
        let refusal = endpoint(PEER).core().set_peer(&plan(PEER)).expect_err("the limit is too small");
        let source = refusal.source().map(ToString::to_string).unwrap_or_default();
        assert!(source.contains("may lock only 64 KiB: raise the limit (`ulimit -l unlimited`"), "{source}");
        println!("  {source}");
    }

    fn start_peer() -> Child {
        let program = std::env::current_exe().expect("this program");
        Command::new("on").arg("h2").arg(program).arg("peer").spawn().expect("the peer starts")
    }

    /// How fast messages come through.
    struct Pace {
        per_second: f64,
        /// Bytes that the verbs rail carried for each byte of the large messages.
        share: f64,
    }

    struct Driver {
        endpoint: Endpoint<Ear>,
        sent: u64,
        echoed: u64,
    }

    impl Driver {
        fn turn(&mut self) {
            while self.sent < self.echoed + 2000 {
                let number = self.sent + 1;
                let bytes = content(number);
                let control = number.to_le_bytes();
                let core = self.endpoint.core();
                if core.send(PEER, ClientId::USER, &control, Data::Copy(&bytes), Tag(number)).is_err() {
                    break;
                }
                self.sent = number;
            }
            self.endpoint.run_once(Duration::from_millis(5)).expect("the loop runs");
            for number in self.endpoint.clients().numbers.drain(..) {
                assert!(number > self.echoed, "echo {number} after {}", self.echoed);
                self.echoed = number;
            }
        }

        fn until(&mut self, what: &str, mut done: impl FnMut(&mut Driver) -> bool) {
            let deadline = Instant::now() + PATIENCE;
            while !done(self) {
                self.turn();
                assert!(Instant::now() < deadline, "waited in vain: {what}; {:?}", self.rails());
            }
        }

        fn goes_on(&mut self, what: &str) {
            let goal = self.echoed + PROGRESS;
            self.until(what, |driver| driver.echoed >= goal);
        }

        /// Data bytes that the verbs rail carried so far.
        fn carried(&mut self) -> u64 {
            let counted = self.endpoint.core().status().verbs.unwrap_or_default();
            counted.bytes_without_copy + counted.bytes_copied
        }

        /// Load as it is now, over as many messages as a window cannot hide.
        fn pace(&mut self, what: &str) -> Pace {
            let (begun, first, carried) = (Instant::now(), self.echoed + 1, self.carried());
            let goal = self.echoed + 8 * PROGRESS;
            self.until(what, |driver| driver.echoed >= goal);
            let large = (first..=self.echoed).map(length).filter(|length| *length > SMALL);
            Pace {
                per_second: (self.echoed + 1 - first) as f64 / begun.elapsed().as_secs_f64(),
                share: (self.carried() - carried) as f64 / large.sum::<u64>() as f64,
            }
        }

        fn rails(&mut self) -> Vec<(ProviderKind, RailState, bool)> {
            let status = self.endpoint.core().status();
            let rails = status.peers.iter().flat_map(|peer| &peer.links).flat_map(|link| &link.rails);
            rails.map(|rail| (rail.kind, rail.state, rail.active)).collect()
        }

        fn is_up(&mut self, kind: ProviderKind) -> bool {
            self.rails().contains(&(kind, RailState::Up, true))
                || self.rails().contains(&(kind, RailState::Up, false))
        }

        /// The verbs rail is up and carries data: what it lacks after a repair is traffic to be moved back,
        /// which the other rail's end brings about.
        fn verbs_carries(&mut self) -> Pace {
            self.until("the verbs rail comes back", |driver| driver.is_up(ProviderKind::Verbs));
            if !self.rails().contains(&(ProviderKind::Verbs, RailState::Up, true)) {
                self.endpoint.core().cut_rail(PEER, Path { link: LinkId(0), rail: RailId(1) });
            }
            self.until("the verbs rail carries data", |driver| {
                driver.rails().contains(&(ProviderKind::Verbs, RailState::Up, true))
            });
            let pace = self.pace("load on the verbs rail");
            assert!(pace.share > WHOLE_SHARE_MIN, "the verbs rail carries {:.2} of the data", pace.share);
            self.until("the tcp rail is there too", |driver| driver.is_up(ProviderKind::Tcp));
            pace
        }

        /// A fault under load, and its repair. `fails_over`: the verbs rail cannot outlive it.
        fn strike(&mut self, words: &[&str], fails_over: bool, repair: &[&str]) {
            let before = self.pace("load before the fault");
            let begun = Instant::now();
            // In the background: a device may go only once its users have let go of it.
            let mut fault = Command::new("rail").args(words).spawn().expect("`rail` is the laboratory's");
            if fails_over {
                self.until("tcp carries on", |driver| {
                    driver.rails().contains(&(ProviderKind::Tcp, RailState::Up, true))
                });
            }
            self.goes_on("load while the fault lasts");
            self.until("the fault is through", |_| fault.try_wait().is_ok_and(|ended| ended.is_some()));
            rail(repair);
            let after = self.verbs_carries();
            println!(
                "  {}: {:.1} s; then {:.2} of the data by verbs, {:.2} times the pace before",
                words.join(" "),
                begun.elapsed().as_secs_f64(),
                after.share,
                after.per_second / before.per_second
            );
        }
    }

    fn rail(words: &[&str]) {
        let status =
            Command::new("rail").args(words).status().expect("`rail` is a program of the laboratory");
        assert!(status.success(), "rail {words:?}");
    }

    fn drive() {
        let mut peer = start_peer();
        let mut driver = Driver { endpoint: endpoint(DRIVER), sent: 0, echoed: 0 };
        driver.endpoint.core().set_peer(&plan(DRIVER)).expect("the plan is sound");
        driver.until("both rails are up", |driver| {
            driver.is_up(ProviderKind::Verbs) && driver.is_up(ProviderKind::Tcp)
        });
        driver.verbs_carries();
        let mend = ["mend", "h1", "1"];
        driver.strike(&["cut", "h1", "1"], true, &mend);
        driver.strike(&["loss", "h1", "1", "1"], false, &mend);
        driver.strike(&["loss", "h1", "1", "20"], false, &mend);
        driver.strike(&["delay", "h1", "1", "50ms"], false, &mend);
        assert_eq!(driver.endpoint.clients().unknown, 0, "one life of the peer: every outcome is known");

        peer.kill().expect("it runs");
        peer.wait().expect("it ends");
        let mut peer = start_peer();
        driver.until("the peer's new life is met", |driver| driver.endpoint.clients().restarts == 1);
        driver.verbs_carries();
        println!("  peer killed and started again, {} outcomes unknown", driver.endpoint.clients().unknown);
        driver.strike(&["delete", "h1", "1"], true, &["add", "h1", "1"]);
        peer.kill().expect("it runs");
        peer.wait().expect("it ends");

        // Root may lock what it likes unless it gave that right up.
        let program = std::env::current_exe().expect("this program");
        let words = ["h2", "setpriv", "--bounding-set=-ipc_lock", "prlimit", "--memlock=65536:65536"];
        let status = Command::new("on").args(words).arg(program).arg("limited").status();
        assert!(status.expect("setpriv and prlimit are there").success());
        println!("ok: {} messages, {} delivered", driver.sent, driver.endpoint.clients().delivered);
    }
}
