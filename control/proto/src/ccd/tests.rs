//! The database by itself: what commands do, what is refused, what survives as bytes. Whole clusters are in
//! the simulator.

mod bytes;
mod commands;
mod reconfigure;

use super::*;
use crate::rows::{
    ClusterRows, DiskKind, DiskPort, DiskRow, LinkNumber, LinkRow, LostQuorum, NbdAddress, NbdRow, NodeRow,
    PermissionRow, RailAddress, RailEnd, RailRow, VirtualDiskRow,
};
use crate::view::Member;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, RailId};

pub(super) fn node(id: u16) -> NodeRow {
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    NodeRow { id: NodeId(id), name: format!("node{id}"), host, voter: id <= 3 }
}

pub(super) fn link(nodes: &[u16]) -> LinkRow {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let end = |&id: &u16| RailEnd {
        node: NodeId(id),
        address: RailAddress::Tcp(at(7000 + 2 * id)),
        heartbeat: at(7001 + 2 * id),
    };
    let rail = RailRow { id: RailId(0), ends: nodes.iter().map(end).collect() };
    let nodes = nodes.iter().copied().map(NodeId).collect();
    LinkRow { number: LinkNumber(0), id: LinkId(0), nodes, rails: vec![rail] }
}

pub(super) fn disk(id: u32, nodes: &[u16]) -> DiskRow {
    let port = |&node: &u16| DiskPort { node: NodeId(node), path: format!("/dev/disk{id}") };
    let ports = nodes.iter().map(port).collect();
    DiskRow { id: DiskId(id), name: format!("disk{id}"), kind: DiskKind::Raw, ports }
}

pub(super) fn virtual_disk(id: u32, disk: u32, nodes: &[u16]) -> VirtualDiskRow {
    VirtualDiskRow {
        id: VolumeId(id),
        name: format!("vd{id}"),
        candidates: nodes.iter().map(|node| (NodeId(*node), DiskId(disk))).collect(),
        size_bytes: 1 << 30,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        on_lost_quorum: LostQuorum::Suspend,
    }
}

/// Three nodes; virtual disk 1 on disk 11 of nodes 1 and 2, virtual disk 2 on disk 12 of nodes 2 and 3.
pub(super) fn rows() -> ClusterRows {
    ClusterRows {
        nodes: vec![node(1), node(2), node(3)],
        links: vec![link(&[1, 2, 3])],
        disks: vec![disk(11, &[1, 2]), disk(12, &[2, 3])],
        virtual_disks: vec![virtual_disk(1, 11, &[1, 2]), virtual_disk(2, 12, &[2, 3])],
        ..ClusterRows::empty("north")
    }
}

pub(super) fn member(node: u16) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(100) }
}

pub(super) const STEWARD: Steward =
    Steward { member: Member { node: NodeId(1), incarnation: Incarnation(100) }, term: 1 };

/// A database that is given commands of node 1, one by one.
pub(super) struct Bench {
    pub(super) database: Database,
    pub(super) index: u64,
    sequence: u64,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench { database: Database::found(rows()).expect("sound rows"), index: 0, sequence: 0 }
    }

    /// With all three nodes in.
    pub(super) fn formed() -> Bench {
        let mut bench = Bench::new();
        bench.give(Change::Steward(STEWARD)).result.expect("it leads");
        bench.members(&[member(1), member(2), member(3)]).result.expect("they join");
        bench
    }

    pub(super) fn command(&mut self, change: Change) -> Command {
        self.sequence += 1;
        let operation = OperationId { node: NodeId(1), life: Incarnation(100), sequence: self.sequence };
        Command { operation, expect: vec![], change }
    }

    pub(super) fn apply(&mut self, command: &Command) -> Applied {
        self.index += 1;
        // What is applied is what the log makes of it.
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        let applied = self.database.apply_bytes(self.index, &bytes);
        let answer = applied.answer();
        assert_eq!(Answer::decode(&answer.encode()).as_ref(), Ok(answer));
        applied
    }

    pub(super) fn give(&mut self, change: Change) -> Answer {
        let command = self.command(change);
        self.apply(&command).answer().clone()
    }

    pub(super) fn put(&mut self, row: Row) -> Answer {
        self.give(Change::Rows(vec![RowChange::Put(row)]))
    }

    pub(super) fn members(&mut self, members: &[Member]) -> Answer {
        let expect = self.database.membership().number;
        let members = members.to_vec();
        self.give(Change::Membership { by: STEWARD, expect, members, broken: vec![], causes: vec![] })
    }

    pub(super) fn refusal(&mut self, change: Change) -> String {
        let before = self.database.rows().clone();
        let number = self.database.number();
        let refusal = self.give(change).result.expect_err("it should be refused");
        assert_eq!((self.database.rows(), self.database.number()), (&before, number), "{refusal}");
        refusal.to_string()
    }

    pub(super) fn mapping_number(&self, volume: u32) -> u64 {
        self.database.view().mapping(VolumeId(volume)).expect("it is there").epoch.0
    }
}
