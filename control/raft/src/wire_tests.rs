//! Messages come back as they were, and no bytes make the decoder panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::raft::{AppendEntriesRequest, VoteRequest, VoteResponse};
use openraft::testing::log_id;
use openraft::{EmptyNode, EntryPayload, StoredMembership, Vote};
use proptest::prelude::*;

use crate::flavour::{Command, Entry, Membership, SnapshotMeta};
use crate::options::ClusterStamp;
use crate::wire::{AppendAnswer, BarrierAnswer, Chunk, ChunkAnswer, Dropped, ForwardAnswer, Message};

const STAMP: ClusterStamp = ClusterStamp { cluster: 1, genesis: [2; 32] };

fn membership() -> Membership {
    let nodes: BTreeMap<u64, EmptyNode> = (1..6).map(|node| (node, EmptyNode::new())).collect();
    Membership::new(vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])], nodes)
}

fn samples() -> Vec<Message> {
    let entries = vec![
        Entry { log_id: log_id(2, 1, 8), payload: EntryPayload::Blank },
        Entry { log_id: log_id(3, 2, 9), payload: EntryPayload::Normal(Command(Arc::from(&b"go"[..]))) },
        Entry { log_id: log_id(3, 2, 10), payload: EntryPayload::Membership(membership()) },
    ];
    let vote = Vote::new_committed(3, 2);
    let last_membership = StoredMembership::new(Some(log_id(1, 1, 1)), membership());
    let meta =
        SnapshotMeta { last_log_id: Some(log_id(3, 2, 9)), last_membership, snapshot_id: "s-1".into() };
    let request = AppendEntriesRequest {
        vote,
        prev_log_id: Some(log_id(1, 1, 7)),
        entries,
        leader_commit: Some(log_id(1, 1, 6)),
    };
    vec![
        Message::Append(request),
        Message::Appended(AppendAnswer::Success),
        Message::Appended(AppendAnswer::Conflict),
        Message::Appended(AppendAnswer::HigherVote(vote)),
        Message::Appended(AppendAnswer::Stopped),
        Message::Vote(VoteRequest::new(Vote::new(4, 3), Some(log_id(3, 2, 9)))),
        Message::Voted(VoteResponse::new(Vote::new(4, 3), None, true)),
        Message::Chunk(Chunk { vote, meta, total: 9, offset: 4, bytes: b"state".to_vec() }),
        Message::Chunked(ChunkAnswer::Next(4)),
        Message::Chunked(ChunkAnswer::Installed(vote)),
        Message::Chunked(ChunkAnswer::HigherVote(vote)),
        Message::Chunked(ChunkAnswer::TooLarge),
        Message::Chunked(ChunkAnswer::Stopped),
        Message::Forward(b"command".to_vec()),
        Message::Forwarded(ForwardAnswer::Done { index: 5, answer: b"yes".to_vec() }),
        Message::Forwarded(ForwardAnswer::Unknown),
        Message::Forwarded(ForwardAnswer::NotLeader),
        Message::Forwarded(ForwardAnswer::Backlog),
        Message::Barrier,
        Message::BarrierAt(BarrierAnswer::At(Some(log_id(3, 2, 9)))),
        Message::BarrierAt(BarrierAnswer::NotLeader),
    ]
}

#[test]
fn every_message_comes_back_as_it_was() {
    for message in samples() {
        let parts = message.encode(STAMP, 77);
        assert_eq!(parts.control.len(), crate::CONTROL_BYTES);
        let (call, back) = Message::decode(STAMP, &parts.control, &parts.data).unwrap();
        assert_eq!(call, 77);
        assert_eq!(back.encode(STAMP, 77), parts, "{message:?}");
    }
}

#[test]
fn a_strangers_messages_are_told_from_torn_ones() {
    let other_genesis = ClusterStamp { genesis: [3; 32], ..STAMP };
    let other_cluster = ClusterStamp { cluster: 2, ..STAMP };
    let mut parts = Message::Barrier.encode(STAMP, 1);
    for stamp in [other_genesis, other_cluster] {
        assert_eq!(Message::decode(stamp, &parts.control, &parts.data).unwrap_err(), Dropped::Stranger);
    }
    parts.control[4] += 1;
    assert_eq!(Message::decode(STAMP, &parts.control, &parts.data).unwrap_err(), Dropped::OtherVersion);
    assert_eq!(Message::decode(STAMP, b"", b"").unwrap_err(), Dropped::Torn);
}

#[test]
fn entries_that_do_not_follow_each_other_are_torn() {
    let request = |indexes: [u64; 2], terms: [u64; 2]| {
        let entry = |place: usize| Entry {
            log_id: log_id(terms[place], 1, indexes[place]),
            payload: EntryPayload::Blank,
        };
        let entries = vec![entry(0), entry(1)];
        let (vote, prev_log_id) = (Vote::new_committed(9, 1), Some(log_id(1, 1, 4)));
        let message =
            Message::Append(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit: None });
        let parts = message.encode(STAMP, 1);
        Message::decode(STAMP, &parts.control, &parts.data).is_ok()
    };
    assert!(request([5, 6], [1, 2]));
    assert!(!request([5, 7], [1, 2]), "a gap");
    assert!(!request([6, 7], [1, 2]), "a gap at the start");
    assert!(!request([5, 6], [2, 1]), "a term that falls");
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(
        kind in 0_u8..12,
        data in proptest::collection::vec(any::<u8>(), 0..512),
    ) {
        let mut control = Message::Barrier.encode(STAMP, 1).control;
        control[5] = kind;
        let _ = Message::decode(STAMP, &control, &data);
        let _ = Message::decode(STAMP, &data, &control);
    }

    #[test]
    fn a_changed_message_is_dropped_or_read_never_a_panic(
        which in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        change in 1_u8..,
        cut in any::<prop::sample::Index>(),
    ) {
        let samples = samples();
        let parts = samples[which.index(samples.len())].encode(STAMP, 1);
        let mut data = parts.data.clone();
        if !data.is_empty() {
            let place = place.index(data.len());
            data[place] ^= change;
            let _ = Message::decode(STAMP, &parts.control, &data);
            data.truncate(cut.index(data.len()));
            let _ = Message::decode(STAMP, &parts.control, &data);
        }
        let mut control = parts.control.clone();
        let place = place.index(control.len());
        control[place] ^= change;
        let _ = Message::decode(STAMP, &control, &parts.data);
    }
}
