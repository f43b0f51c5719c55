//! A cluster of real processes that is begun, joined, changed, watched and left by commands, as a person
//! does.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use fixtures_lab::{Folder, NbdClient, PortRange, Program, Ran, Running, until};
use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

const NETDISK: &str = env!("CARGO_BIN_EXE_netdisk");
/// Nodes that a test may have.
const PLACES: u16 = 5;

/// Nodes of one cluster, by their names.
struct Hand {
    nodes: Vec<(String, Running)>,
    ports: PortRange,
    folder: Folder,
}

impl Hand {
    /// A cluster of one running node, alpha.
    fn begin() -> Hand {
        let (folder, ports) = (Folder::new(), PortRange::find(PLACES));
        let mut hand = Hand { nodes: Vec::new(), ports, folder };
        let base = hand.ports.base().to_string();
        let state = hand.state("alpha");
        let init = ["cluster", "init", "north", "--node", "alpha", "--host", "127.0.0.1", "--port-base"];
        let said = hand.netdisk(&[&init[..], &[&base, "--state", &state]].concat()).expect_success().out;
        assert!(said.contains("netdisk node run --state"), "no next step: {said}");
        hand.start("alpha");
        hand
    }

    /// With beta and gamma, all voters.
    fn of_three() -> Hand {
        let mut hand = Hand::begin();
        hand.join("beta");
        hand.join("gamma");
        hand.until_nodes("all vote and are members", |nodes| {
            nodes.len() == 3 && nodes.iter().all(|node| node[3] == "yes" && node[4] == "yes")
        });
        hand
    }

    fn state(&self, node: &str) -> String {
        self.folder.join(node).display().to_string()
    }

    fn netdisk(&self, words: &[&str]) -> Ran {
        Program::at(NETDISK).run(words)
    }

    /// A command at a node.
    fn at(&self, node: &str, words: &[&str]) -> Ran {
        let state = self.state(node);
        self.netdisk(&[words, &["--state", &state]].concat())
    }

    #[track_caller]
    fn done(&self, node: &str, words: &[&str]) -> String {
        self.at(node, words).expect_success().out
    }

    fn start(&mut self, node: &str) {
        let state = self.state(node);
        let running = Program::at(NETDISK).start(&["node", "run", "--state", &state]);
        self.nodes.push((node.to_owned(), running));
        let socket = PathBuf::from(state).join("admin.sock");
        until("the node answers", || socket.exists().then_some(()));
    }

    fn token(&self) -> String {
        self.done("alpha", &["cluster", "token"]).trim().to_owned()
    }

    fn ask_to_join(&self, token: &str, node: &str) -> Ran {
        let state = self.state(node);
        self.netdisk(&["join", token, "--node", node, "--host", "127.0.0.1", "--state", &state])
    }

    fn join(&mut self, node: &str) {
        let token = self.token();
        self.ask_to_join(&token, node).expect_success();
        self.start(node);
        self.until_nodes("it is a member", |nodes| nodes.iter().any(|row| row[1] == node && row[4] == "yes"));
    }

    /// Rows of `netdisk node list` at alpha.
    fn nodes_of(&self, at: &str) -> Vec<Vec<String>> {
        let listed = self.at(at, &["node", "list"]);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        if listed.status.success() { listed.out.lines().skip(1).map(words).collect() } else { Vec::new() }
    }

    #[track_caller]
    fn until_nodes(&self, what: &str, wished: impl Fn(&[Vec<String>]) -> bool) {
        until(what, || wished(&self.nodes_of("alpha")).then_some(()));
    }
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

// proves: C1 C3 C5
#[test]
fn a_cluster_grows_from_one_node_to_three_by_tokens_and_its_voters_with_it() {
    let hand = Hand::of_three();
    let exported = ["alpha", "beta", "gamma"].map(|node| {
        // What one node was told is done, the others know a moment later.
        until("all know the same", || {
            let text = hand.done(node, &["cluster", "export"]);
            (text.matches("voter = true").count() == 3).then_some(text)
        })
    });
    assert!(exported.iter().all(|text| *text == exported[0]));
    let file = hand.folder.join("export.toml").display().to_string();
    std::fs::write(&file, &exported[0]).unwrap();
    says(&hand.done("beta", &["cluster", "import", &file, "--dry-run"]), &["nothing would change"]);
    std::fs::write(
        &file,
        exported[0]
            .replace("name = \"gamma\"", "name = \"delta\"")
            .replace("\"gamma\"", "\"delta\"")
            .replace("gamma = ", "delta = "),
    )
    .unwrap();
    says(&hand.done("beta", &["cluster", "import", &file, "--dry-run"]), &["name: \"gamma\" -> \"delta\""]);
    hand.done("beta", &["cluster", "import", &file]);
    says(&hand.done("beta", &["node", "list"]), &["delta"]);
}

// proves: C3
#[test]
fn a_token_is_good_once_and_in_time_and_says_so() {
    let mut hand = Hand::begin();
    let token = hand.token();
    let state = hand.state("beta");
    let would = ["join", &token, "--node", "beta", "--host", "127.0.0.1", "--state", &state, "--dry-run"];
    says(&hand.netdisk(&would).expect_success().out, &["+ node beta", "~ link 0", "nothing was changed"]);
    assert!(!std::path::Path::new(&state).exists(), "nothing is to be remembered of it");
    assert_eq!(hand.nodes_of("alpha").len(), 1);
    hand.ask_to_join(&token, "beta").expect_success();
    says(&hand.ask_to_join(&token, "gamma").expect_refusal(), &["was used already", "netdisk cluster token"]);
    says(&hand.ask_to_join(&token, "beta").expect_refusal(), &["already", "netdisk node run"]);
    let short = hand.done("alpha", &["cluster", "token", "--expires", "1s"]).trim().to_owned();
    let late = until("it has expired", || {
        let state = hand.folder.join("probe");
        let _ = std::fs::remove_dir_all(&state);
        // With a name that is taken: before it expires it is refused for that.
        let state = state.display().to_string();
        let words = ["join", &short, "--node", "alpha", "--host", "127.0.0.1", "--state", &state];
        let said = hand.netdisk(&words).expect_refusal();
        said.contains("expired").then_some(said)
    });
    says(&late, &["netdisk cluster token"]);
    let (token, state) = (hand.token(), hand.state("other"));
    let twin = ["join", &token, "--node", "alpha", "--host", "127.0.0.1", "--state", &state];
    says(&hand.netdisk(&twin).expect_refusal(), &["there is a node alpha already", "--node"]);
    says(&hand.ask_to_join("netdisk-join-abc", "x").expect_refusal(), &["copy it again"]);
    says(&hand.ask_to_join("hello", "x").expect_refusal(), &["netdisk cluster token"]);
    hand.start("beta");
    hand.until_nodes("beta is in", |nodes| nodes.iter().any(|row| row[1] == "beta" && row[4] == "yes"));
}

// proves: C3
#[test]
fn a_machine_whose_answer_was_lost_gets_it_again_and_no_second_node() {
    let mut hand = Hand::begin();
    let token = hand.token();
    // The cluster's answer comes, and cannot be written down.
    let hindrance = PathBuf::from(hand.state("beta")).join("genesis.next");
    std::fs::create_dir_all(&hindrance).unwrap();
    says(&hand.ask_to_join(&token, "beta").expect_refusal(), &["--state"]);
    assert_eq!(hand.nodes_of("alpha").len(), 2, "the cluster let it in");
    std::fs::remove_dir(&hindrance).unwrap();
    hand.ask_to_join(&token, "beta").expect_success();
    assert_eq!(hand.nodes_of("alpha").len(), 2);
    hand.start("beta");
    hand.until_nodes("beta is in", |nodes| nodes.iter().any(|row| row[1] == "beta" && row[4] == "yes"));
}

// proves: C4 C5
#[test]
fn virtual_disks_are_made_moved_and_taken_away_by_commands_and_watched() {
    let hand = Hand::of_three();
    let image = hand.folder.join("shelf.img").display().to_string();
    hand.netdisk(&["disk", "create", "--sparse", "--size", "64MiB", &image]).expect_success();
    let port = |node: &str| format!("{node}:{image}");
    hand.done("gamma", &["disk", "add", "shelf", "--node", &port("alpha"), "--node", &port("beta")]);
    let create = ["vdisk", "create", "vd0", "--disk", "shelf", "--size", "32MiB"];
    says(
        &hand.done("gamma", &[&create[..], &["--dry-run"]].concat()),
        &["+ virtual disk vd0", "nothing was changed"],
    );
    says(&hand.done("gamma", &["vdisk", "list"]), &["NAME"]);
    hand.done("gamma", &create);
    let nbd = hand.folder.join("nbd.sock");
    hand.done("gamma", &["nbd", "set", "--node", "gamma", "--listen", &format!("unix:{}", nbd.display())]);
    until("it is served", || nbd.exists().then_some(()));
    until("alpha serves", || hand.done("gamma", &["vdisk", "list"]).contains("beta  alpha").then_some(()));
    let moved = hand.done("gamma", &["vdisk", "move", "vd0", "--node", "beta", "--json"]);
    let moved: serde_json::Value = serde_json::from_str(&moved).unwrap();
    assert!(moved["reconfiguration"].is_number(), "clients were not waited for: {moved}");
    until("beta serves", || hand.done("alpha", &["vdisk", "list"]).contains("alpha  beta").then_some(()));
    let client = NbdClient::open(&nbd, "vd0").unwrap();
    drop(client);
    says(
        &hand.done("gamma", &["watch", "--since", "0", "--seconds", "1"]),
        &["virtual disk 0 changed", "is done"],
    );
    let again = hand.done("gamma", &["vdisk", "move", "vd0", "--node", "beta"]);
    says(&again, &["it was so already"]);
    let refused = hand.at("gamma", &["vdisk", "move", "vd0", "--node", "gamma"]).expect_refusal();
    says(&refused, &["gamma does not reach disk shelf"]);
    says(&hand.at("gamma", &["vdisk", "grow", "vd0", "1MiB"]).expect_refusal(), &["only grows"]);
    says(&hand.at("gamma", &["vdisk", "remove", "vd7"]).expect_refusal(), &["there is vd0"]);
    hand.done("gamma", &["vdisk", "remove", "vd0"]);
}

// proves: C5
#[test]
fn a_node_leaves_for_good_and_the_last_port_may_not() {
    let mut hand = Hand::of_three();
    hand.done("alpha", &["disk", "add", "quick", "--kind", "memory", "--node", "beta"]);
    hand.done("alpha", &["vdisk", "create", "fast", "--disk", "quick", "--size", "1MiB"]);
    says(
        &hand.at("beta", &["leave"]).expect_refusal(),
        &["only beta serves fast", "netdisk vdisk remove fast"],
    );
    hand.done("alpha", &["vdisk", "remove", "fast"]);
    says(&hand.done("beta", &["leave", "--dry-run"]), &["- node beta", "nothing was changed"]);
    says(&hand.done("beta", &["leave"]), &["node beta has left north"]);
    let position = hand.nodes.iter().position(|(name, _)| name == "beta").unwrap();
    assert!(hand.nodes.remove(position).1.wait().status.success());
    hand.until_nodes("it is gone", |nodes| nodes.len() == 2);
    let state = hand.state("beta");
    says(
        &hand.netdisk(&["node", "run", "--state", &state]).expect_refusal(),
        &["left the cluster for good", "--state"],
    );
    says(
        &hand.at("alpha", &["node", "remove", "gamma"]).expect_refusal(),
        &["gamma is a member", "netdisk leave"],
    );
}

// proves: T12
#[test]
fn noise_at_the_join_port_gets_no_answer_and_harms_nothing() {
    let hand = Hand::begin();
    let port = hand.ports.base() + 1;
    for text in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 300],
        b"ndjoin\0\x01 and then nonsense, long enough to be one of those messages ........",
    ] {
        let mut stranger = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stranger.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = std::io::Write::write_all(&mut stranger, text);
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        assert!(answer.is_empty(), "a stranger got {answer:?}");
    }
    hand.token();
}

#[test]
fn mistakes_name_the_remedy_and_end_with_the_code_that_the_readme_tells() {
    let folder = Folder::new();
    let nowhere = folder.join("nowhere").display().to_string();
    let ran = Program::at(NETDISK).run(&["status", "--state", &nowhere]);
    assert_eq!(ran.status.code(), Some(4));
    says(&ran.err, &["no node answers", &nowhere]);
    let ran = Program::at(NETDISK).run(&["doctor", "--state", &nowhere]);
    assert_eq!(ran.status.code(), Some(4));
    says(&ran.out, &["WRONG", "netdisk node run --state"]);
    let ran = Program::at(NETDISK).run(&["vdisk", "create", "x"]);
    assert_eq!(ran.status.code(), Some(2));
    let init = ["cluster", "init", "north", "--host", "127.0.0.1", "--state", &nowhere];
    Program::at(NETDISK).run(&init).expect_success();
    says(&Program::at(NETDISK).run(&init).expect_refusal(), &["is there already", "another"]);
    let bad = ["cluster", "init", "no name", "--host", "127.0.0.1", "--state", &nowhere];
    says(&Program::at(NETDISK).run(&bad).expect_refusal(), &["is no name"]);
}

// proves: C5 B4
#[test]
fn the_quick_start_of_the_readme_runs_as_it_is_written() {
    let (folder, ports) = (Folder::new(), PortRange::find(PLACES));
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/quickstart.sh");
    let env = Program::find("env").unwrap();
    let base = format!("PORTS={}", ports.base());
    let words =
        [&base, script.to_str().unwrap(), NETDISK, folder.path().to_str().unwrap()].map(str::to_owned);
    let said = env.run(&words).expect_success().out;
    says(&said, &["vd0", "a fourth machine joins", "is killed by SIGKILL", "done; state and logs"]);
}
