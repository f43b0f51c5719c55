//! The database as bytes: what comes back, what is refused, and that equal logs make equal databases.

use super::super::snapshot::{NodeRowV1, VirtualDiskRowV1};
use super::*;
use crate::codec::{Coded, Writer};
use crate::pool::{Extent, Form, LoanId, LoanRow, RegionId, RegionRow, RegionState};
use crate::protocol_rules::Strict;
use blockdev_proto::checksum::crc32c;
use proptest::prelude::*;

fn restore(bytes: &[u8]) -> Result<Database, SnapshotFault> {
    Database::<Strict>::restore(bytes)
}

/// Node 1 lends a disk, and node 2 borrows a volume on it.
fn lend(bench: &mut Bench) {
    let region = RegionRow {
        id: RegionId(4),
        name: "spare".into(),
        lender: NodeId(1),
        extents: vec![Extent { disk: DiskId(13), size_bytes: 1 << 20 }],
        form: Form::Single,
        drained: false,
        state: RegionState::Erasing,
    };
    let rows = vec![RowChange::Put(Row::Disk(disk(13, &[1]))), RowChange::Put(Row::Region(region.clone()))];
    bench.give(Change::Rows(rows)).result.expect("a region");
    bench.give(Change::Erased { region: RegionId(4), by: member(1) }).result.expect("it is erased");
    let loan = LoanRow {
        id: LoanId(7),
        name: "lent".into(),
        borrower: NodeId(2),
        form: Form::Single,
        size_bytes: 1 << 20,
        copies: 1,
        regions: vec![RegionId(4)],
        mounted: None,
        kept: None,
    };
    let lent = RegionRow { state: RegionState::Lent(LoanId(7)), ..region };
    let rows = vec![RowChange::Put(Row::Region(lent)), RowChange::Put(Row::Loan(loan))];
    bench.give(Change::Rows(rows)).result.expect("a loan");
}

/// Every table has rows.
fn full() -> Bench {
    let mut bench = Bench::formed();
    let permission =
        PermissionRow { volume: VolumeId(1), owner: 7, group: 8, mode: 0o640, nodes: vec![NodeId(1)] };
    let listen = NbdAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 10809)));
    let server = NbdRow { node: NodeId(2), listen, exports: vec![VolumeId(1), VolumeId(2)] };
    let rows = vec![RowChange::Put(Row::Permission(permission)), RowChange::Put(Row::Nbd(server))];
    bench.give(Change::Rows(rows)).result.expect("rows");
    let used = Some(TokenUse { node: NodeId(3), nonce: [4; 16] });
    let token =
        TokenRow { hash: TokenHash::of(b"x"), expires_unix_ms: 9, expires_index: 0, node: None, used };
    bench.give(Change::CreateToken(token)).result.expect("an invitation");
    lend(&mut bench);
    let swap = vec![RowChange::Put(Row::VirtualDisk(virtual_disk(1, 11, &[2, 1])))];
    bench.give(Change::Prepare { changes: swap, deadline_ms: 900, hold: true }).result.expect("it begins");
    let (member, level) = (member(3), DistressLevel::Fenced);
    bench.give(Change::Distress { member, level, reason: "fire".to_string() }).result.expect("distress");
    bench.give(Change::RaiseEpoch { above: Epoch(1000) }).result.expect("a number");
    bench
}

// proves: C2
#[test]
fn a_snapshot_brings_everything_back_and_the_log_goes_on_from_it() {
    let mut bench = full();
    let bytes = bench.database.snapshot();
    let restored = restore(&bytes).expect("a snapshot");
    assert_eq!(restored.snapshot(), bytes);
    assert_eq!(restored.view(), bench.database.view());
    // The same commands bring both to the same place, answers to old ones included.
    let again = bench.command(Change::Clear { node: NodeId(3) });
    let mut other = Bench { database: restored, index: bench.index, sequence: 0 };
    for command in [&again, &again] {
        assert_eq!(bench.apply(command), other.apply(command));
    }
    assert_eq!(other.database.snapshot(), bench.database.snapshot());
}

#[test]
fn damaged_cut_and_foreign_bytes_are_refused_and_nothing_panics() {
    let bytes = full().database.snapshot();
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        assert!(restore(&damaged).is_err(), "a flipped bit at {place}");
        assert!(restore(&bytes[..place]).is_err(), "cut at {place}");
    }
    assert_eq!(restore(b"something else").unwrap_err(), SnapshotFault::Foreign);
    assert!(restore(&[&bytes[..], b"x"].concat()).is_err());
}

/// Bytes with another checksum, as another release would write them.
fn sealed(mut bytes: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    change(&mut bytes);
    let sum = crc32c(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// Where a section begins, and its length with the head.
fn section(bytes: &[u8], wanted: u16) -> (usize, usize) {
    let mut place = 10;
    loop {
        let number = u16::from_le_bytes([bytes[place], bytes[place + 1]]);
        let length: [u8; 4] = bytes[place + 4..place + 8].try_into().expect("four");
        let length = 8 + u32::from_le_bytes(length) as usize;
        if number == wanted {
            return (place, length);
        }
        place += length;
    }
}

fn replace_section(bytes: &mut Vec<u8>, number: u16, version: u16, content: &[u8]) {
    let (place, length) = section(bytes, number);
    let mut head = Writer::default();
    (number, version).put(&mut head);
    (content.len() as u32).put(&mut head);
    bytes.splice(place..place + length, [&head.0, content].concat());
}

// proves: C2
#[test]
fn tables_of_an_older_version_are_read() {
    let bench = Bench::formed();
    let rows = rows();
    let nodes: Vec<NodeRowV1> =
        rows.nodes.iter().map(|r| NodeRowV1 { id: r.id, name: r.name.clone(), host: r.host }).collect();
    let old = |r: &VirtualDiskRow| VirtualDiskRowV1 {
        id: r.id,
        name: r.name.clone(),
        candidates: r.candidates.clone(),
        size_bytes: r.size_bytes,
        block_bytes: r.block_bytes,
        read_only: r.read_only,
    };
    let disks: Vec<VirtualDiskRowV1> = rows.virtual_disks.iter().map(old).collect();
    let bytes = sealed(bench.database.snapshot(), |bytes| {
        replace_section(bytes, 1, 1, &nodes.to_bytes());
        replace_section(bytes, 4, 1, &disks.to_bytes());
    });
    let read = restore(&bytes).expect("an older snapshot");
    assert_eq!(read.rows(), bench.database.rows(), "three nodes vote, requests wait without quorum");
    assert_eq!(read.snapshot(), bench.database.snapshot());
}

#[test]
fn what_a_newer_release_wrote_is_refused_by_its_name() {
    let bytes = Bench::formed().database.snapshot();
    let newer = sealed(bytes.clone(), |bytes| replace_section(bytes, 5, 9, &[]));
    assert_eq!(restore(&newer).unwrap_err(), SnapshotFault::Version { section: 5, found: 9 });
    let stranger = sealed(bytes.clone(), |bytes| bytes.extend([77, 0, 1, 0, 0, 0, 0, 0]));
    assert_eq!(restore(&stranger).unwrap_err(), SnapshotFault::Section { found: 77 });
    let format = sealed(bytes.clone(), |bytes| bytes[8] = 2);
    assert_eq!(restore(&format).unwrap_err(), SnapshotFault::Format { found: 2 });
    // A table that an older release did not have is empty.
    let older = sealed(bytes, |bytes| {
        let (place, length) = section(bytes, 12);
        bytes.drain(place..place + length);
    });
    assert_eq!(restore(&older).expect("an older snapshot").tokens().count(), 0);
}

#[test]
fn every_refusal_survives_its_bytes_and_says_what_to_do() {
    let fault = crate::rules::RowFault::AddressTaken {
        address: "TCP 10.0.0.1:7000".to_string(),
        by: "node2, link 0 rail 0".to_string(),
        other: RowKey::Link(LinkNumber(3)),
    };
    let key = RowKey::Nbd { node: NodeId(2), listen: NbdAddress::Unix("/s".to_string()) };
    let id = ReconfigurationId(9);
    let refusals = [
        Refusal::Row { key: key.clone(), fault: fault.into() },
        Refusal::Busy { key: key.clone(), by: id },
        Refusal::InUse { key: key.clone(), by: RowKey::Format(Table::Tokens) },
        Refusal::Decided { id, phase: Phase::Cancelled { at: 4, why: CancelCause::HeldTooLong } },
        Refusal::NotAsked { id, member: member(3) },
        Refusal::TokenTaken { token: TokenHash([7; 32]) },
        Refusal::RowChanged { key, expected: 3, found: 4 },
        Refusal::Malformed,
        Refusal::NoToken,
        Refusal::TokenUsed { node: NodeId(3) },
    ];
    for refusal in refusals {
        assert_eq!(Refusal::of_bytes(&refusal.to_bytes()), Ok(refusal.clone()));
        assert!(refusal.to_string().contains(": "), "{refusal}");
    }
}

fn any_change() -> impl Strategy<Value = Change> {
    let life = || {
        (1u16..5, 99u64..103)
            .prop_map(|(node, life)| Member { node: NodeId(node), incarnation: Incarnation(life) })
    };
    let row = prop_oneof![
        (1u32..4, 10u32..14, proptest::sample::subsequence(vec![1u16, 2, 3], 1..3))
            .prop_map(|(id, disk, nodes)| Row::VirtualDisk(virtual_disk(id, disk, &nodes))),
        (10u32..14, proptest::sample::subsequence(vec![1u16, 2, 3], 1..4))
            .prop_map(|(id, nodes)| Row::Disk(disk(id, &nodes))),
        Just(Row::Node(node(4))),
        Just(Row::Link(link(&[1, 2, 3, 4]))),
    ];
    let change = prop_oneof![
        3 => row.prop_map(RowChange::Put),
        1 => (1u32..4).prop_map(|id| RowChange::Remove(RowKey::VirtualDisk(VolumeId(id)))),
        1 => (10u32..14).prop_map(|id| RowChange::Remove(RowKey::Disk(DiskId(id)))),
    ];
    let changes = || proptest::collection::vec(change.clone(), 1..3);
    let id = || (1u64..60).prop_map(ReconfigurationId);
    prop_oneof![
        3 => changes().prop_map(Change::Rows),
        3 => (changes(), any::<bool>())
            .prop_map(|(changes, hold)| Change::Prepare { changes, deadline_ms: 50, hold }),
        6 => (id(), life()).prop_map(|(reconfiguration, member)| Change::Ack { reconfiguration, member }),
        1 => id().prop_map(|reconfiguration| Change::Proceed { reconfiguration }),
        1 => id().prop_map(|reconfiguration| Change::Cancel {
            reconfiguration,
            why: CancelCause::Operator
        }),
        2 => proptest::collection::vec(life(), 1..4).prop_map(|mut members| {
            members.sort();
            members.dedup_by_key(|member| member.node);
            // The number is filled in when it is applied.
            Change::Membership { by: STEWARD, expect: Epoch(0), members, broken: vec![], causes: vec![] }
        }),
        1 => (1u64..200).prop_map(|above| Change::RaiseEpoch { above: Epoch(above) }),
        1 => life().prop_map(|member| Change::Distress {
            member,
            level: DistressLevel::Dying,
            reason: String::new()
        }),
        1 => (1u16..5).prop_map(|node| Change::Clear { node: NodeId(node) }),
    ]
}

proptest! {
    // proves: C1 C2 C3
    #[test]
    fn equal_logs_make_equal_databases_whenever_they_were_snapshots(
        changes in proptest::collection::vec(any_change(), 1..60),
        at in 0usize..60,
    ) {
        let mut bench = Bench::formed();
        let mut other: Option<Database> = None;
        for (place, mut change) in changes.into_iter().enumerate() {
            if place == at {
                other = Some(restore(&bench.database.snapshot()).expect("a snapshot"));
            }
            if let Change::Membership { expect, .. } = &mut change {
                *expect = bench.database.membership().number;
            }
            let number = bench.database.number();
            let command = bench.command(change);
            let applied = bench.apply(&command);
            if let Some(other) = &mut other {
                prop_assert_eq!(&other.apply(bench.index, &command), &applied);
                prop_assert_eq!(other.snapshot(), bench.database.snapshot());
            }
            let now = bench.database.number();
            prop_assert!(now >= number);
            let view = bench.database.view();
            prop_assert!(view.mappings().all(|mapping| mapping.epoch <= now && mapping.check().is_ok()));
            prop_assert_eq!(crate::rules::check_all(bench.database.rows()), vec![]);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), tag in 1u8..13) {
        let _ = Command::decode(&bytes);
        let _ = Answer::decode(&bytes);
        let mut wild = vec![1, 0];
        wild.extend([1, 0, 100, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, tag]);
        wild.append(&mut bytes);
        let _ = Command::decode(&wild);
        let _ = restore(&sealed([b"ndccdsnp\x01\x00", &wild[..], &[0; 4]].concat(), |_| ()));
    }
}
