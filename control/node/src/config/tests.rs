//! The configuration file: a short one, the documented one, and one test row for each mistake.

use super::*;
use control_proto::rows::{NbdAddress, RailAddress};
use std::net::SocketAddr;

const KEY: &str = "key = \"a secret of sufficient length\"";

/// Three nodes on one machine, two links of two rails, one dual-ported disk.
const SHORT: &str = r#"[cluster]
name = "north"
key = "a secret of sufficient length"

[[node]]
id = 1
[[node]]
id = 2
[[node]]
id = 3

[[link]]
rails = [{ kind = "shm" }, { kind = "tcp" }]
[[link]]
rails = [{ kind = "tcp" }, { kind = "tcp" }]

[[disk]]
nodes = [1, 2]
path = "shelf.img"

[[virtual_disk]]
name = "vd0"
size = "64MiB"
disk = "disk1"

[[permission]]
virtual_disk = "vd0"
mode = 0o600

[[nbd]]
node = 3
listen = "unix:gamma.sock"
"#;

fn parse(text: &str) -> Result<Config, ConfigFaults> {
    Config::parse(Path::new("/etc/netdisk/north.toml"), text)
}

fn parsed(text: &str) -> Config {
    parse(text).unwrap_or_else(|faults| panic!("{faults}"))
}

// proves: B6 T7
#[test]
fn a_short_file_gives_three_nodes_with_derived_addresses() {
    let rows = parsed(SHORT).rows;
    assert_eq!(
        rows.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(),
        ["node1", "node2", "node3"]
    );
    let rails: Vec<_> = rows.rails_of(NodeId(2)).filter(|rail| rail.peer == NodeId(3)).collect();
    assert_eq!(rails.len(), 4);
    assert_eq!(rails[0].local.address, RailAddress::Shm("netdisk/north/2/0.0".into()));
    assert_eq!(rails[0].remote.address, RailAddress::Shm("netdisk/north/3/0.0".into()));
    let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
    // Node 2 begins at 7400 + 64; link 1 rail 1 is path 5, data at 10 and heartbeats at 11.
    assert_eq!(rails[3].local.address, RailAddress::Tcp(address(7474)));
    assert_eq!(rails[3].local.heartbeat, address(7475));
    assert_eq!(rails[3].remote.address, RailAddress::Tcp(address(7538)));
    let virtual_disk = rows.virtual_disk_named("vd0").expect("configured");
    assert_eq!(virtual_disk.candidates.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(virtual_disk.size_bytes, 64 << 20);
    assert_eq!(rows.disks[0].ports[1].path, "/etc/netdisk/shelf.img");
    assert_eq!(rows.nbd[0].listen, NbdAddress::Unix("/etc/netdisk/gamma.sock".into()));
    assert_eq!(rows.nbd[0].exports, [virtual_disk.id]);
    assert_eq!(rows.permissions[0].mode, 0o600);
    assert_eq!(rows.permissions[0].nodes.len(), 3);
}

#[test]
fn the_documented_example_is_valid_and_says_the_defaults() {
    let folder = std::env::temp_dir().join(format!("netdisk-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the key");
    std::fs::write(folder.join("example.key"), "0123456789abcdef0123456789abcdef\n").expect("a key");
    std::fs::write(folder.join("three.toml"), include_str!("../../examples/three-nodes.toml"))
        .expect("a copy");
    let config = Config::load(&folder.join("three.toml"));
    std::fs::remove_dir_all(&folder).expect("the folder goes");
    let config = config.unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.rows.connectivity, transport_proto::connectivity::Settings::default());
    assert_eq!(config.rows.membership, control_proto::rows::MembershipTimes::default());
    assert_eq!(config.rows.memory_budget_bytes, parsed(SHORT).rows.memory_budget_bytes);
    assert_eq!(config.rows.spread, parsed(SHORT).rows.spread);
    let rails: Vec<_> = config.rows.rails_of(NodeId(3)).filter(|rail| rail.peer == NodeId(2)).collect();
    assert_eq!(rails[1].remote.address, RailAddress::Tcp(SocketAddr::from(([10, 1, 0, 2], 7001))));
    // Gamma has a port base of its own: link 0 rail 1 is its second pair of ports.
    assert_eq!(rails[1].local.address, RailAddress::Tcp(SocketAddr::from(([10, 1, 0, 3], 9002))));
    assert_eq!(config.node(NodeId(3)).expect("configured").name, "gamma");
}

#[test]
fn the_key_belongs_to_the_name_and_the_secret() {
    let tag = parsed(SHORT).key.tag();
    assert_ne!(tag, parsed(&SHORT.replace("north", "south")).key.tag());
}

/// Replaces `from` in [`SHORT`] by `to` and expects the message, which begins with the line.
fn expect_mistake(from: &str, to: &str, message: &str) {
    assert!(SHORT.contains(from), "the short file has no {from:?}");
    let faults = match parse(&SHORT.replacen(from, to, 1)) {
        Ok(_) => panic!("accepted: {from:?} → {to:?}"),
        Err(faults) => faults.to_string(),
    };
    let expected = format!("/etc/netdisk/north.toml:{message}");
    let found = faults.lines().any(|line| line.starts_with(&expected));
    assert!(found, "{from:?} → {to:?}\nexpected {expected}\nfound    {faults}");
}

#[test]
fn mistakes_about_the_cluster_and_its_nodes_are_told_with_line_and_remedy() {
    let cases = [
        ("[cluster]\n", "[clusterr]\n", "1:2: unknown field `clusterr`"),
        ("id = 3", "id = 3\ncolour = 1", "11:1: unknown field `colour`"),
        ("id = 3", "id = = 3", "10:6: "),
        ("id = 3", "id = -3", "10:6: "),
        (KEY, "", "1:1: the cluster has no key: add key_file"),
        (KEY, &format!("{KEY}\nkey_file = \"k\""), "4:12: both key and key_file are given: keep one"),
        (
            KEY,
            "key_file = \"none\"",
            "3:12: cannot read key file /etc/netdisk/none (entity not found): copy it",
        ),
        (KEY, "key = \"short\"", "3:7: a key of 5 bytes can be guessed: use 16 bytes or more"),
        ("\"north\"", "\"no rth\"", "2:8: \"no rth\" is no name: use 1 to 40 letters"),
        ("\"north\"", "\"\"", "2:8: \"\" is no name"),
        ("id = 3", "id = 0", "10:6: 0 is no node id: number nodes from 1"),
        ("id = 3", "id = 2", "10:6: node 2 is already in line 7: give this one another id"),
        ("id = 3", "id = 3\nname = \"node2\"", "11:8: node \"node2\" is already in line 7: give"),
        ("id = 3", "id = 3\nname = \"17\"", "11:8: \"17\" is no name"),
        ("id = 3", "id = 3\nhost = \"gamma.example\"", "11:8: \"gamma.example\" is no address: write an IP"),
        (
            "id = 3",
            "id = 3\nport_base = 65530",
            "16:10: the derived port 65538 of node node3 is over 65535: give that node a port_base",
        ),
    ];
    for (from, to, message) in cases {
        expect_mistake(from, to, message);
    }
}

#[test]
fn mistakes_about_links_are_told_with_line_and_remedy() {
    let rails = "rails = [{ kind = \"shm\" }, { kind = \"tcp\" }]";
    let with = |extra: &str| format!("{rails}\n{extra}");
    let rail = |rail: &str| format!("rails = [{rail}]");
    let many = rail(&["{ kind = \"tcp\" }"; 5].join(", "));
    let cases: Vec<(&str, String, &str)> = vec![
        (rails, with("id = 8"), "14:6: link id 8 is over the limit: choose one up to 7"),
        (
            rails,
            with("id = 1"),
            "15:1: link 1 joins node1 and node2, and so does the link of the same id in line 14",
        ),
        (rails, with("nodes = [1]"), "12:1: a link joins two nodes or more"),
        (rails, with("nodes = [1, 9]"), "14:13: there is no node 9: add it, or correct the reference"),
        (rails, with("nodes = [1, 2, 2]"), "14:16: node2 is named twice"),
        (rails, with("nodes = \"some\""), "14:9: invalid value: string \"some\", expected \"all\" or a list"),
        (rails, "rails = []".into(), "13:9: there is no rail: add one"),
        (rails, many, "13:9: 5 rows of rail are over the limit of 4"),
        (
            rails,
            rail("{ kind = \"smoke\" }"),
            "13:19: unknown variant `smoke`, expected one of `shm`, `tcp`, `verbs`",
        ),
        (
            rails,
            rail("{ kind = \"shm\", addresses = { 1 = \"10.0.0.1\" } }"),
            "13:10: a shm rail takes no addresses",
        ),
        (
            rails,
            rail("{ kind = \"tcp\", addresses = { 1 = \"ten\" } }"),
            "13:44: \"ten\" is no address: write an IP address, or IP:port",
        ),
        (
            rails,
            rail("{ kind = \"tcp\", addresses = { 7 = \"10.0.0.1\" } }"),
            "13:44: an address is given for 7, which is not in this link",
        ),
        (
            rails,
            rail("{ kind = \"tcp\", addresses = { 1 = \"127.0.0.1:7408\" } }"),
            "15:10: TCP 127.0.0.1:7408 is used already by node1, link 0 rail 0 in line 13: choose",
        ),
        (
            rails,
            rail("{ kind = \"shm\", heartbeats = { 2 = \"127.0.0.1:7401\" } }"),
            "13:10: UDP 127.0.0.1:7401 is used already by the heartbeats of node1, link 0 rail 0 in line 13",
        ),
    ];
    for (from, to, message) in cases {
        expect_mistake(from, &to, message);
    }
    expect_mistake(
        "id = 3",
        "id = 3\nhost = \"10.0.0.3\"",
        "14:10: a shm rail joins node1 and node3, whose hosts differ: shared memory stays on one machine",
    );
    let first_link = "[[link]]\nrails = [{ kind = \"shm\" }, { kind = \"tcp\" }]\n";
    let both = format!("{first_link}[[link]]\nrails = [{{ kind = \"tcp\" }}, {{ kind = \"tcp\" }}]\n");
    let pair = "[[link]]\nnodes = [1, 2]\nrails = [{ kind = \"tcp\" }]\n";
    expect_mistake(&both, pair, "9:1: no link joins node1 and node3: every two nodes need one");
}

#[test]
fn mistakes_about_disks_are_told_with_line_and_remedy() {
    let path = "path = \"shelf.img\"";
    let disk2 = |lines: &str| format!("{path}\n[[disk]]\nnodes = [2]\n{lines}");
    let vd = "disk = \"disk1\"";
    let vd2 = |lines: &str| format!("{vd}\n[[virtual_disk]]\nsize = \"1MiB\"\n{lines}");
    let cases: Vec<(&str, String, &str)> = vec![
        (path, String::new(), "17:1: the disk has no path: add path"),
        (path, "kind = \"memory\"".into(), "18:9: memory belongs to one node: name one"),
        (path, format!("{path}\nkind = \"memory\""), "17:1: a memory disk has no path: remove it"),
        (path, "paths = [\"a\"]".into(), "19:9: 1 paths for 2 nodes: give one for each node"),
        (
            path,
            disk2("path = \"other/../shelf.img\""),
            "20:1: /etc/netdisk/shelf.img is also the disk in line 17",
        ),
        (path, disk2("path = \"b\"\nid = 1"), "20:1: disk 1 is already in line 17: give this one another id"),
        (path, disk2("path = \"b\"\nname = \"disk1\""), "23:8: disk \"disk1\" is already in line 17"),
        (vd, "disk = \"disk9\"".into(), "24:8: there is no disk \"disk9\": add it"),
        (vd, "disk = 4".into(), "24:8: there is no disk 4: add it"),
        (vd, String::new(), "22:8: the virtual disk has no disk: add disk"),
        (vd, format!("{vd}\nprimary = {{ node = 1, disk = 1 }}"), "24:8: disk, primary, mirror"),
        (vd, "primary = { node = 3, disk = 1 }".into(), "24:20: node3 does not reach disk disk1: add it to"),
        (
            vd,
            "primary = { node = 1, disk = 1 }\nsecondary = { node = 1, disk = 1 }".into(),
            "25:22: node1 is named twice: name each node once",
        ),
        (vd, vd2("name = \"vd0\"\ndisk = 1"), "27:8: virtual disk \"vd0\" is already in line 22"),
        (vd, vd2("name = \"vd1\"\ndisk = 1\nid = 0"), "27:8: virtual disk 0 is already in line 22"),
        (
            vd,
            vd2("name = \"vd1\"\ndisk = 1"),
            "27:8: disk disk1 is already behind virtual disk vd0 in line 22",
        ),
        (
            vd,
            format!("{vd}\nid = 65536"),
            "22:8: virtual disk id 65536 is over the limit: choose one up to 65535",
        ),
        ("\"64MiB\"", "0".into(), "23:8: a disk of no bytes: give a size"),
        (
            "\"64MiB\"",
            "10000".into(),
            "23:8: 10000 bytes are not a multiple of the block of 4096 bytes: 8192 would be",
        ),
        (
            "\"64MiB\"",
            "\"64MB\"".into(),
            "23:8: invalid value: string \"64MB\", expected a number of bytes, or",
        ),
        ("\"64MiB\"", "\"99999999TiB\"".into(), "23:8: invalid value"),
        (vd, format!("{vd}\nblock_size = 3000"), "25:14: a block of 3000 bytes: use a power of two from 512"),
    ];
    for (from, to, message) in cases {
        expect_mistake(from, &to, message);
    }
    let disk = "[[disk]]\nnodes = [1, 2]\npath = \"shelf.img\"\n";
    let other = format!("{disk}[[disk]]\nnodes = [2]\npath = \"b\"\n");
    let candidates = "primary = { node = 1, disk = 1 }\nsecondary = { node = 2, disk = 2 }";
    let text = SHORT.replacen(disk, &other, 1).replacen(vd, candidates, 1);
    let faults = parse(&text).expect_err("two media").to_string();
    assert!(faults.contains(":28:32: primary has disk disk1, but disk disk2 is named too"), "{faults}");
}

#[test]
fn mistakes_about_servers_permissions_and_times_are_told_with_line_and_remedy() {
    let listen = "listen = \"unix:gamma.sock\"";
    let tail = |lines: &str| format!("{listen}\n{lines}");
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "mode = 0o600",
            "mode = 600".into(),
            "28:8: 0o1130 is no file mode: use 0o000 to 0o777, with 0o in front",
        ),
        ("mode = 0o600", "mode = 0o600\nnodes = [8]".into(), "29:10: there is no node 8"),
        (
            "virtual_disk = \"vd0\"",
            "virtual_disk = \"vd1\"".into(),
            "27:16: there is no virtual disk \"vd1\"",
        ),
        (
            "mode = 0o600",
            "mode = 0o600\n[[permission]]\nvirtual_disk = 0\nmode = 0".into(),
            "30:16: permission 0 is already in line 27",
        ),
        (
            listen,
            "listen = \"gamma.sock\"".into(),
            "32:10: \"gamma.sock\" is no place to listen: write unix:/path",
        ),
        (listen, "listen = \"tcp:localhost\"".into(), "32:10: \"tcp:localhost\" is no place to listen"),
        (listen, "listen = \"unix:\"".into(), "32:10: \"unix:\" is no place to listen"),
        (
            listen,
            "listen = \"tcp:0.0.0.0:7402\"".into(),
            "32:10: TCP 0.0.0.0:7402 is used already by node1, link 0 rail 1 in line 13",
        ),
        (
            listen,
            tail("[[nbd]]\nnode = 3\nlisten = \"unix:/etc/netdisk/gamma.sock\""),
            "35:10: /etc/netdisk/gamma.sock is used already by the nbd server of node3 in line 32",
        ),
        (listen, tail("exports = [\"vd7\"]"), "33:12: there is no virtual disk \"vd7\""),
        (
            listen,
            tail("[memory]\nbudget = 4096"),
            "34:10: a memory budget of 4096 bytes cannot work: give 16777216",
        ),
        (listen, tail("[heartbeat]\nperiod_ms = 0"), "34:13: period_ms must be 1 to 10000"),
        (listen, tail("[heartbeat]\nmissed = 0"), "34:10: missed must be 1 to 100"),
        (listen, tail("[membership]\nsuspect_ms = 1500"), "34:14: suspect_ms must be below lease_ms"),
    ];
    for (from, to, message) in cases {
        expect_mistake(from, &to, message);
    }
}

#[test]
fn a_missing_file_and_a_missing_node_are_told() {
    let faults = Config::load(Path::new("/nonexistent/north.toml")).expect_err("no such file").to_string();
    assert_eq!(
        faults,
        "/nonexistent/north.toml: cannot read the configuration (entity not found): check the path"
    );
    let faults = parsed(SHORT).node(NodeId(9)).expect_err("no such node").to_string();
    assert!(faults.contains("node 9 is not in this configuration (it has 1, 2, 3)"), "{faults}");
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_in_the_order_of_their_lines() {
    let text =
        SHORT.replacen("id = 3", "id = 2", 1).replacen("\"64MiB\"", "1", 1).replacen("0o600", "0o7777", 1);
    let faults = parse(&text).expect_err("three mistakes");
    let lines: Vec<usize> = faults.faults.iter().map(|fault| fault.place.line).collect();
    assert!(lines.is_sorted() && [10, 23, 28].iter().all(|line| lines.contains(line)), "{faults}");
}

#[test]
fn a_cluster_over_the_limits_is_refused() {
    let nodes: String = (4..=140).map(|id| format!("[[node]]\nid = {id}\n")).collect();
    let text = SHORT.replacen("[[link]]", &format!("{nodes}[[link]]"), 1);
    let faults = parse(&text).expect_err("too many nodes").to_string();
    assert!(faults.contains(":1:1: 140 rows of node are over the limit of 128"), "{faults}");
}

/// What the reading itself does not look at, the rules of the database do.
#[test]
fn a_file_keeps_the_rules_that_the_database_keeps() {
    let long = format!("path = \"/{}\"", "a".repeat(2000));
    let faults = parse(&SHORT.replacen("path = \"shelf.img\"", &long, 1)).expect_err("too long").to_string();
    assert_eq!(
        faults,
        "/etc/netdisk/north.toml: disk 1: the disk has no absolute path of 1024 bytes or less: add one, or \
         let it be memory (kind = \"memory\")"
    );
}

// proves: B9
#[test]
fn a_mirror_in_a_file_lies_on_virtual_disks_that_nobody_else_gets() {
    let mirror = r#"
        [cluster]
        name = "one"
        key = "a secret of sufficient length"
        [[node]]
        id = 1
        [[node]]
        id = 2
        [[link]]
        rails = [{ kind = "tcp" }]
        [[disk]]
        id = 1
        nodes = [1]
        kind = "memory"
        [[disk]]
        id = 2
        nodes = [2]
        kind = "memory"
        [[virtual_disk]]
        name = "left"
        size = "2MiB"
        disk = 1
        [[virtual_disk]]
        name = "right"
        size = "2MiB"
        disk = 2
        [[virtual_disk]]
        name = "m"
        size = "1MiB"
        mirror = ["left", "right"]
        nodes = [2, 1]
        [[nbd]]
        node = 1
        listen = "unix:/run/m.sock"
        exports = "all"
    "#;
    let read = |text: &str| Config::parse(std::path::Path::new("m.toml"), text);
    let rows = read(mirror).unwrap_or_else(|faults| panic!("{faults}")).rows;
    let whole = rows.virtual_disk_named("m").expect("configured");
    assert_eq!(whole.candidates.iter().map(|(node, _)| node.0).collect::<Vec<_>>(), [2, 1]);
    let parts: Vec<u32> =
        rows.volume(whole.id).expect("it lies on others").parts().map(|part| part.0).collect();
    assert_eq!(parts, [0, 1]);
    assert_eq!(rows.nbd[0].exports, [whole.id]);
    let refused = |from: &str, to: &str| match read(&mirror.replace(from, to)) {
        Ok(_) => panic!("{to} was taken"),
        Err(faults) => faults.to_string(),
    };
    assert!(refused("nodes = [2, 1]", "").contains("add nodes"));
    assert!(refused("size = \"1MiB\"", "size = \"2MiB\"").contains("grow it"));
    assert!(refused("exports = \"all\"", "exports = [\"left\"]").contains("export the volume"));
    assert!(refused("[\"left\", \"right\"]", "[\"left\", \"gone\"]").contains("gone"));
    assert!(
        refused("disk = 2\n        [[virtual_disk]]", "disk = 2\n nodes = [2]\n[[virtual_disk]]")
            .contains("for a mirror")
    );
}

// proves: B9 C2
#[test]
fn a_stripe_of_mirrors_and_a_concatenation_in_a_file_are_written_as_they_were_read() {
    let mut text = String::from(
        r#"
        [cluster]
        name = "one"
        [[node]]
        id = 1
        [[virtual_disk]]
        name = "s"
        size = "3MiB"
        stripe = ["m", "plain"]
        chunk = "128KiB"
        nodes = [1]
        [[virtual_disk]]
        name = "m"
        size = "2MiB"
        mirror = ["d1", "d2"]
        nodes = [1]
        [[virtual_disk]]
        name = "c"
        size = "5MiB"
        concat = ["d3", "d4"]
        nodes = [1]
        "#,
    );
    for (number, name) in ["d1", "d2", "d3", "d4", "plain"].iter().enumerate() {
        let id = number + 1;
        text += &format!("[[disk]]\nid = {id}\nnodes = [1]\nkind = \"memory\"\n");
        text += &format!("[[virtual_disk]]\nname = \"{name}\"\nsize = \"3MiB\"\ndisk = {id}\n");
    }
    let read = |text: &str| Config::parse_rows(std::path::Path::new("s.toml"), text);
    let rows = read(&text).unwrap_or_else(|faults| panic!("{faults}"));
    let storeys = |name: &str| rows.storeys(rows.virtual_disk_named(name).expect("configured").id);
    assert_eq!([storeys("s"), storeys("m"), storeys("c"), storeys("d1")], [2, 1, 1, 0]);
    let written = crate::config::to_toml(&rows);
    assert!(written.contains("chunk = \"128KiB\""), "{written}");
    assert_eq!(read(&written).unwrap_or_else(|faults| panic!("{faults}")), rows);
    let refused = |from: &str, to: &str| match read(&text.replace(from, to)) {
        Ok(_) => panic!("{to} was taken"),
        Err(faults) => faults.to_string(),
    };
    assert!(refused("\"128KiB\"", "\"100KiB\"").contains("power of two"));
    assert!(refused("size = \"5MiB\"", "size = \"7MiB\"").contains("do not fit"));
    assert!(refused("[\"d3\", \"d4\"]", "[\"s\", \"d4\"]").contains("3 volumes would lie on one another"));
    assert!(refused("[\"d1\", \"d2\"]", "[\"s\", \"d2\"]").contains("lie on itself"));
    assert!(refused("concat =", "chunk = \"64KiB\"\nconcat =").contains("chunk is for a stripe"));
    assert!(refused("concat =", "stripe = [\"d3\"]\nconcat =").contains("keep one way"));
}
