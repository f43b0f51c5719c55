//! The rules of rows, one by one: a sound cluster, one thing made wrong, and what is said about it.

use super::*;
use crate::ccd::Table;
use crate::rows::{
    DiskKind, DiskPort, DiskRow, LinkNumber, LinkRow, LostQuorum, RailAddress, RailEnd, RailRow,
    VirtualDiskRow,
};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use core::net::{IpAddr, SocketAddr};
use transport_proto::identity::{LinkId, RailId};

fn sound() -> ClusterRows {
    let node = |id: u16| NodeRow {
        id: NodeId(id),
        name: format!("node{id}"),
        host: IpAddr::from([10, 0, 0, id as u8]),
        voter: true,
    };
    let end = |id: u16| {
        let at = |port| SocketAddr::from(([10, 0, 0, id as u8], port));
        RailEnd { node: NodeId(id), address: RailAddress::Tcp(at(7000)), heartbeat: at(7001) }
    };
    let rail = RailRow { id: RailId(0), ends: vec![end(1), end(2)] };
    let nodes = vec![NodeId(1), NodeId(2)];
    let port = |id: u16| DiskPort { node: NodeId(id), path: "/dev/sdb".into() };
    let listen = NbdAddress::Tcp(SocketAddr::from(([10, 0, 0, 1], 10809)));
    ClusterRows {
        nodes: vec![node(1), node(2)],
        links: vec![LinkRow {
            number: LinkNumber(4),
            id: LinkId(0),
            nodes: nodes.clone(),
            rails: vec![rail],
        }],
        disks: vec![DiskRow {
            id: DiskId(1),
            name: "disk1".into(),
            kind: DiskKind::Raw,
            ports: vec![port(1), port(2)],
        }],
        virtual_disks: vec![VirtualDiskRow {
            id: VolumeId(0),
            name: "vd0".into(),
            candidates: vec![(NodeId(1), DiskId(1)), (NodeId(2), DiskId(1))],
            size_bytes: 1 << 20,
            block_bytes: BlockBytes::USUAL,
            read_only: false,
            on_lost_quorum: LostQuorum::Suspend,
        }],
        permissions: vec![PermissionRow { volume: VolumeId(0), owner: 1, group: 1, mode: 0o600, nodes }],
        nbd: vec![NbdRow { node: NodeId(1), listen, exports: vec![VolumeId(0)] }],
        regions: Vec::new(),
        loans: Vec::new(),
        ..ClusterRows::empty("north")
    }
}

/// What is said when this is made wrong in a sound cluster.
fn said(change: impl FnOnce(&mut ClusterRows)) -> Vec<String> {
    let mut rows = sound();
    assert_eq!(check_all(&rows), vec![]);
    change(&mut rows);
    rows.sort();
    check_all(&rows).into_iter().map(|(key, fault)| format!("{key}: {fault}")).collect()
}

type Wrong = fn(&mut ClusterRows);

fn expect(cases: &[(Wrong, &str)]) {
    for (change, text) in cases {
        let found = said(*change);
        assert!(found.iter().any(|found| found.starts_with(text)), "expected {text}\nfound    {found:#?}");
    }
}

#[test]
fn nodes_and_settings_have_rules() {
    expect(&[
        (|r| r.nodes[0].name = "node2".into(), "node 1: node \"node2\" is already node 2: give"),
        (|r| r.nodes[0].name = "no rth".into(), "node 1: \"no rth\" is no name"),
        (|r| r.nodes[0].name = "17".into(), "node 1: \"17\" is no name"),
        (|r| r.nodes.iter_mut().for_each(|n| n.voter = false), "the settings: no node votes"),
        (|r| r.nodes[0].id = NodeId(0), "node 0: 0 is no node id"),
        (|r| r.name = String::new(), "the settings: \"\" is no name"),
        (|r| r.memory_budget_bytes = 4096, "the settings: a memory budget of 4096 bytes cannot work"),
        (|r| r.connectivity.period = Duration::ZERO, "the settings: period_ms must be 1 to 10000"),
        (|r| r.connectivity.missed_down = 0, "the settings: missed must be 1 to 100"),
        (|r| r.connectivity.heard_up = 101, "the settings: heard must be 1 to 100"),
        (|r| r.membership.suspect = r.membership.lease, "the settings: suspect_ms must be below lease_ms"),
        (|r| r.membership.hung_disk = Duration::ZERO, "the settings: hung_disk_ms must be 100 to 3600000"),
    ]);
    let many = said(|rows| {
        for id in 3..=9 {
            rows.nodes.push(NodeRow { id: NodeId(id), name: format!("node{id}"), ..rows.nodes[0].clone() });
        }
    });
    assert!(many.iter().any(|text| text.starts_with("the settings: 9 nodes vote, 7 may")), "{many:#?}");
    assert!(many.iter().any(|text| text.contains("no link joins node1 and node3")), "{many:#?}");
}

#[test]
fn links_and_addresses_have_rules() {
    expect(&[
        (|r| r.links[0].id = LinkId(8), "link 4: link id 8 is over the limit: choose one up to 7"),
        (|r| r.links[0].nodes.truncate(1), "link 4: a link joins two nodes or more"),
        (|r| r.links[0].nodes[1] = NodeId(9), "link 4: there is no node 9"),
        (|r| r.links[0].nodes[1] = NodeId(1), "link 4: node1 is named twice"),
        (|r| r.links[0].rails.clear(), "link 4: there is no rail: add one"),
        (|r| r.links[0].rails[0].id = RailId(4), "link 4: rail id 4 is over the limit"),
        (|r| r.links[0].rails[0].ends.reverse(), "link 4: rail 0 needs one end for each node"),
        (
            |r| r.links[0].rails[0].ends[0].address = RailAddress::Shm("a".into()),
            "link 4: rail 0 has ends of",
        ),
        (
            |r| r.links[0].rails[0].ends.iter_mut().for_each(|e| e.address = RailAddress::Shm("a".into())),
            "link 4: a shm rail joins node1 and node2, whose hosts differ",
        ),
        (
            |r| r.links[0].rails[0].ends[1].heartbeat = r.links[0].rails[0].ends[0].heartbeat,
            "link 4: UDP 10.0.0.1:7001 is used already by the heartbeats of node1, link 0 rail 0",
        ),
        (
            |r| r.nbd[0].listen = NbdAddress::Tcp(SocketAddr::from(([0, 0, 0, 0], 7000))),
            "the nbd server of node 1 at tcp:0.0.0.0:7000: TCP 0.0.0.0:7000 is used already by node1, link 0",
        ),
        (
            |r| r.links.push(LinkRow { number: LinkNumber(5), ..r.links[0].clone() }),
            "link 4: link 0 joins node1 and node2, and so does the link of the same id in row 5",
        ),
        (
            |r| {
                let rail = r.links[0].rails[0].clone();
                r.links[0].rails.push(rail);
            },
            "link 4: rail 0 is there twice",
        ),
    ]);
}

#[test]
fn disks_permissions_and_servers_have_rules() {
    expect(&[
        (|r| r.disks[0].ports.clear(), "disk 1: no node reaches the disk"),
        (|r| r.disks[0].ports[0].path = "sdb".into(), "disk 1: the disk has no absolute path"),
        (|r| r.disks[0].kind = DiskKind::Memory, "disk 1: a memory disk has no path"),
        (|r| r.disks[0].kind = DiskKind::Memory, "disk 1: memory belongs to one node"),
        (|r| r.disks[0].ports[1].node = NodeId(1), "disk 1: node1 is named twice"),
        (
            |r| r.disks.push(DiskRow { id: DiskId(2), name: "b".into(), ..r.disks[0].clone() }),
            "disk 1: /dev/sdb is also disk 2",
        ),
        (|r| r.virtual_disks[0].size_bytes = 0, "virtual disk 0: a disk of no bytes"),
        (
            |r| r.virtual_disks[0].size_bytes = 10_000,
            "virtual disk 0: 10000 bytes are not a multiple of the block of 4096 bytes: 8192 would be",
        ),
        (|r| r.virtual_disks[0].candidates.clear(), "virtual disk 0: nobody could serve the virtual disk"),
        (|r| r.virtual_disks[0].candidates[1].0 = NodeId(1), "virtual disk 0: node1 is named twice"),
        (|r| r.virtual_disks[0].candidates[0].1 = DiskId(7), "virtual disk 0: there is no disk 7"),
        (|r| r.disks[0].ports.truncate(1), "virtual disk 0: node2 does not reach disk disk1"),
        (|r| r.virtual_disks[0].id = VolumeId(1 << 16), "virtual disk 65536: virtual disk id 65536 is over"),
        (
            |r| {
                let row = VirtualDiskRow { id: VolumeId(3), name: "b".into(), ..r.virtual_disks[0].clone() };
                r.virtual_disks.push(row);
            },
            "virtual disk 0: disk disk1 is already behind virtual disk b",
        ),
        (|r| r.permissions[0].mode = 0o1777, "the permission of virtual disk 0: 0o1777 is no file mode"),
        (|r| r.permissions[0].volume = VolumeId(5), "the permission of virtual disk 5: there is no virtual"),
        (|r| r.permissions[0].nodes.push(NodeId(8)), "the permission of virtual disk 0: there is no node 8"),
        (
            |r| r.nbd[0].exports.push(VolumeId(7)),
            "the nbd server of node 1 at tcp:10.0.0.1:10809: there is no",
        ),
        (
            |r| r.nbd[0].listen = NbdAddress::Unix("s".into()),
            "the nbd server of node 1 at unix:s: \"s\" is no",
        ),
    ]);
}

#[test]
fn a_change_of_one_row_finds_those_that_it_makes_wrong() {
    let mut rows = sound();
    rows.remove(&RowKey::Node(NodeId(2)));
    let touched: Vec<Table> =
        touched_by(&rows, &RowKey::Node(NodeId(2))).iter().map(|row| row.key().table()).collect();
    assert_eq!(touched, [Table::Links, Table::Disks, Table::VirtualDisks, Table::Permissions]);
    let rows = sound();
    let touched = |key| touched_by(&rows, &key).iter().map(Row::key).collect::<Vec<_>>();
    assert_eq!(touched(RowKey::Disk(DiskId(1))), [RowKey::VirtualDisk(VolumeId(0))]);
    assert_eq!(touched(RowKey::VirtualDisk(VolumeId(0))).len(), 2);
}
