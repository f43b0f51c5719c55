//! The distress signal: what is believed of it, and what is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use control_proto::distress::{
    DistressFault, DistressWatch, Ending, Level, Reason, SIGNAL_BYTES, Signal, SignalFault, Speaker, Standing,
};
use control_proto::view::Member;
use proptest::prelude::*;
use transport_proto::cluster_key::ClusterKey;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

const ME: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(1);
const LIFE: u64 = 100;

fn key() -> ClusterKey {
    ClusterKey::derive("north", b"a secret of sufficient length")
}

fn member(node: u16, life: u64) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(life) }
}

fn speaker(life: u64, epoch: u64, sequence: u64) -> Speaker {
    Speaker { member: member(1, life), epoch: Epoch(epoch), sequence }
}

/// A receiver at configuration 7, where node 1 is a member in [`LIFE`].
fn watch() -> DistressWatch {
    let mut watch = DistressWatch::new(key(), ME, &[NodeId(1), ME, NodeId(3)]);
    assert!(watch.view(Epoch(7), &[member(1, LIFE), member(2, 5), member(3, 6)]).is_empty());
    watch
}

fn dying(life: u64, epoch: u64) -> [u8; SIGNAL_BYTES] {
    Signal::form(&key(), speaker(life, epoch, 1), Level::Dying, Reason::Panic)
}

fn ending(level: Level, reason: Reason, at_once: bool) -> Result<Ending, DistressFault> {
    let text = format!("node 1: {reason}");
    Ok(Ending { member: member(1, LIFE), level, reason, text, at_once })
}

// proves: D1
#[test]
fn every_reason_at_every_level_fits_one_datagram_and_is_read_as_it_was_formed() {
    for reason in Reason::all() {
        for level in Level::ALL {
            let bytes = Signal::form(&key(), speaker(LIFE, 7, 3), level, reason);
            let signal = Signal::open(&key(), &bytes).unwrap();
            assert_eq!((signal.speaker, signal.level, signal.reason), (speaker(LIFE, 7, 3), level, reason));
            assert_eq!(signal.text, format!("node 1: {reason}"), "the whole reason has room");
        }
    }
}

// proves: D4
#[test]
fn a_failed_node_is_told_from_one_that_is_cut_off() {
    let mut watch = watch();
    assert_eq!(watch.standing(OTHER, true), Standing::Present);
    assert_eq!(watch.standing(OTHER, false), Standing::Silent);
    assert_eq!(watch.hear(&dying(LIFE, 7)), ending(Level::Dying, Reason::Panic, true));
    // Heard or not: its word counts, not its silence.
    for is_heard in [true, false] {
        assert_eq!(watch.standing(OTHER, is_heard), Standing::Failed(Reason::Panic, Level::Dying));
    }
    // Its next life has said nothing.
    watch.view(Epoch(9), &[member(1, LIFE + 1), member(2, 5)]);
    assert_eq!(watch.standing(OTHER, false), Standing::Silent);
}

// proves: D4
#[test]
fn a_node_that_stops_in_order_serves_until_it_is_fenced_and_is_missed_at_once_afterwards() {
    let mut watch = watch();
    let say = |level, reason| Signal::form(&key(), speaker(LIFE, 7, 1), level, reason);
    let planned = Reason::PlannedStop;
    assert_eq!(watch.hear(&say(Level::Dying, planned)), ending(Level::Dying, planned, false));
    assert_eq!(watch.standing(OTHER, true), Standing::Ending(planned));
    assert_eq!(watch.standing(OTHER, false), Standing::Failed(planned, Level::Dying));
    // It crashes in the middle: that is news, and moves its duties.
    let crash = say(Level::Dying, Reason::SegmentationFault);
    assert_eq!(watch.hear(&crash), ending(Level::Dying, Reason::SegmentationFault, true));
    let fenced = say(Level::Fenced, planned);
    assert_eq!(watch.hear(&fenced), ending(Level::Fenced, planned, true));
    assert_eq!(watch.hear(&crash), Err(DistressFault::Repeated), "less than what is known");
}

// proves: D6
#[test]
fn copies_and_recordings_have_no_effect() {
    let mut watch = watch();
    let first = dying(LIFE, 7);
    assert!(watch.hear(&first).is_ok());
    for _ in 0..8 {
        assert_eq!(watch.hear(&first), Err(DistressFault::Repeated));
    }
    assert_eq!(watch.dropped(), 8);
    // The node comes back in a new life, and somebody plays the recording of the old one.
    watch.view(Epoch(8), &[member(2, 5), member(3, 6)]);
    let over = Err(DistressFault::LifeOver { member: member(1, LIFE) });
    assert_eq!(watch.hear(&first), over, "out of the cluster");
    watch.view(Epoch(9), &[member(1, LIFE + 1), member(2, 5), member(3, 6)]);
    assert_eq!(watch.hear(&first), over, "in again, in another life");
    assert_eq!(
        watch.hear(&dying(LIFE - 1, 99)),
        Err(DistressFault::LifeOver { member: member(1, LIFE - 1) })
    );
    assert_eq!(watch.standing(OTHER, true), Standing::Present);
}

// proves: D6
#[test]
fn a_signal_of_a_later_configuration_waits_for_it_and_is_judged_there() {
    let mut watch = watch();
    let ahead = Err(DistressFault::Ahead { epoch: Epoch(9) });
    assert_eq!(watch.hear(&dying(LIFE + 1, 9)), ahead);
    assert_eq!(watch.standing(OTHER, true), Standing::Present);
    let mut other_way = watch.clone();
    // The life it names joined there: its word counts now.
    let endings = watch.view(Epoch(9), &[member(1, LIFE + 1), member(2, 5)]);
    assert_eq!(endings.len(), 1);
    assert_eq!(endings[0].member, member(1, LIFE + 1));
    // Or did not: nothing.
    assert!(other_way.view(Epoch(9), &[member(1, LIFE), member(2, 5)]).is_empty());
    assert_eq!(
        other_way.hear(&dying(LIFE + 1, 9)),
        Err(DistressFault::LifeOver { member: member(1, LIFE + 1) })
    );
}

// proves: D6
#[test]
fn only_peers_of_this_cluster_are_believed() {
    let mut watch = watch();
    let form = |key: &ClusterKey, node| {
        let speaker = Speaker { member: member(node, LIFE), epoch: Epoch(7), sequence: 1 };
        Signal::form(key, speaker, Level::Fenced, Reason::Panic)
    };
    let stranger = Err(DistressFault::Stranger { node: NodeId(9) });
    assert_eq!(watch.hear(&form(&key(), 9)), stranger);
    // This node's own words, sent back to it.
    assert_eq!(watch.hear(&form(&key(), 2)), Err(DistressFault::Stranger { node: ME }));
    assert_eq!(watch.hear(&form(&key(), 0)), Err(DistressFault::Signal(SignalFault::Malformed)));
    let south = ClusterKey::derive("south", b"a secret of sufficient length");
    assert_eq!(watch.hear(&form(&south, 1)), Err(DistressFault::Signal(SignalFault::OtherCluster)));
    let guessed = ClusterKey::derive("north", b"another secret of some length");
    assert_eq!(watch.hear(&form(&guessed, 1)), Err(DistressFault::Signal(SignalFault::Forged)));
    assert_eq!(watch.standing(OTHER, true), Standing::Present);
}

proptest! {
    // proves: D6
    #[test]
    fn one_flipped_bit_makes_a_signal_worthless(bit in 0..SIGNAL_BYTES * 8) {
        let mut watch = watch();
        let mut bytes = dying(LIFE, 7);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(watch.hear(&bytes).is_err());
        prop_assert_eq!(watch.standing(OTHER, true), Standing::Present);
    }

    // proves: D6
    #[test]
    fn a_cut_or_lengthened_signal_is_worthless(length in 0..300usize) {
        prop_assume!(length != SIGNAL_BYTES);
        let mut watch = watch();
        let mut bytes = dying(LIFE, 7).to_vec();
        bytes.resize(length, 0);
        prop_assert_eq!(watch.hear(&bytes), Err(DistressFault::Signal(SignalFault::Malformed)));
    }

    // proves: D6
    #[test]
    fn random_bytes_have_no_effect(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut watch = watch();
        prop_assert!(watch.hear(&bytes).is_err());
        prop_assert_eq!(watch.standing(OTHER, true), Standing::Present);
    }

    /// Whatever is played in whatever order, each life moves its duties at most once per level, and only a
    /// life that is a member at that moment moves any.
    // proves: D6
    #[test]
    fn any_mix_of_recordings_ends_each_life_once(
        plays in proptest::collection::vec((0..4u64, 5..12u64, 0..3u64, any::<bool>(), 0..11usize), 1..60),
        joins in proptest::collection::vec(0..4u64, 1..6),
    ) {
        let mut watch = watch();
        let mut life = LIFE;
        let mut done: Vec<(Member, Level, bool)> = Vec::new();
        let mut epoch = 7;
        for (index, (step, at, sequence, fenced, reason)) in plays.iter().enumerate() {
            let level = if *fenced { Level::Fenced } else { Level::Dying };
            let reason = Reason::all().nth(*reason).unwrap();
            let bytes = Signal::form(&key(), speaker(LIFE + step, *at, *sequence), level, reason);
            let mut endings: Vec<Ending> = watch.hear(&bytes).into_iter().collect();
            if index % 10 == 9 {
                (life, epoch) = (life.max(LIFE + joins[index / 10 % joins.len()]), epoch + 1);
                endings.retain(|ending| ending.member == member(1, life));
                endings.extend(watch.view(Epoch(epoch), &[member(1, life), member(2, 5)]));
            }
            for ending in endings {
                prop_assert_eq!(ending.member, member(1, life));
                let word = (ending.member, ending.level, ending.at_once);
                prop_assert!(!done.contains(&word), "{:?} twice", word);
                done.push(word);
            }
        }
    }
}
