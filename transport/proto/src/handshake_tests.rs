//! The handshake: who gets through, who does not, and what he is told.

use super::exercise;
use super::*;
use alloc::format;
use alloc::string::ToString;
use proptest::prelude::*;

const SECRET: &[u8] = b"sixteen bytes or more";

fn key() -> ClusterKey {
    ClusterKey::derive("north", SECRET)
}

fn path() -> Path {
    Path { link: crate::identity::LinkId(1), rail: crate::identity::RailId(2) }
}

fn introduction(node: u16) -> Introduction {
    Introduction {
        node: NodeId(node),
        incarnation: Incarnation(1000 + u64::from(node)),
        epoch: Epoch(u64::from(node)),
        highest_epoch: Epoch(7),
        features: FEATURE_DATA_CRC | u32::from(node) << 8,
        data_bytes_max: 1000 * u32::from(node),
        window: 64 / u32::from(node),
    }
}

fn knows(node: u16, last_generation: u16) -> Acquaintance {
    Acquaintance {
        node: NodeId(node),
        incarnation: Incarnation(0),
        last_generation: RailGeneration(last_generation),
    }
}

/// Node 1 dials node 2 with one nonce each.
fn pair(seed: u8) -> (Handshake, HelloFrame, Handshake) {
    let (dialer, hello) = Handshake::dial(&key(), introduction(1), path(), knows(2, 4), Nonce([seed; 16]));
    let listener = Handshake::accept(
        &key(),
        introduction(2),
        path(),
        &[knows(3, 0), knows(1, 9)],
        Nonce([seed + 1; 16]),
    );
    (dialer, hello, listener)
}

fn give(machine: &mut Handshake, frame: &HelloFrame) -> Result<Step, HandshakeFault> {
    machine.handle(&frame.header, frame.control())
}

fn sent(step: Result<Step, HandshakeFault>) -> HelloFrame {
    match step {
        Ok(Step::Send(frame) | Step::SendAndEstablish(frame, _)) => frame,
        other => panic!("no frame to send: {other:?}"),
    }
}

fn fault(step: Result<Step, HandshakeFault>) -> HandshakeFault {
    step.expect_err("the frame should be refused")
}

#[test]
fn two_nodes_with_one_key_agree_on_everything() {
    let (mut dialer, hello, mut listener) = pair(10);
    let ack = sent(give(&mut listener, &hello));
    let Ok(Step::SendAndEstablish(done, at_dialer)) = give(&mut dialer, &ack) else {
        panic!("no establishment")
    };
    let Ok(Step::Establish(at_listener)) = give(&mut listener, &done) else { panic!("no establishment") };
    assert_eq!((at_dialer.peer, at_listener.peer), (NodeId(2), NodeId(1)));
    assert_eq!(at_dialer.incarnation, Incarnation(1002));
    assert_eq!(at_listener.incarnation, Incarnation(1001));
    assert_eq!((at_dialer.epoch, at_listener.epoch), (Epoch(2), Epoch(1)));
    for agreed in [at_dialer, at_listener] {
        // The listener knew generation 9 and proposed 10, the dialer only 5.
        assert_eq!(agreed.generation, RailGeneration(10));
        assert_eq!(agreed.highest_epoch, Epoch(7));
        assert_eq!((agreed.features, agreed.data_bytes_max, agreed.window), (FEATURE_DATA_CRC, 1000, 32));
    }
}

#[test]
fn the_words_that_a_provider_fills_in_do_not_matter() {
    let (_, mut hello, mut listener) = pair(10);
    hello.header.rail_stamp = U64::new(77);
    hello.header.crc32c = U32::new(78);
    assert!(give(&mut listener, &hello).is_ok());
}

#[test]
fn a_generation_differs_from_all_that_either_side_remembers() {
    let cases = [(0, 0, 1), (65_535, 65_535, 1), (65_535, 3, 4), (40_000, 0, 1), (7, 20_000, 20_001)];
    for (a, b, agreed) in cases {
        let (ours, theirs) = (next_generation(RailGeneration(a)), next_generation(RailGeneration(b)));
        assert_eq!(later_generation(ours, theirs).0, agreed);
        assert_eq!(later_generation(theirs, ours).0, agreed);
        assert!(agreed != a && agreed != b && agreed != 0);
    }
}

#[test]
fn a_node_with_another_key_or_cluster_is_told_so() {
    let other_key = ClusterKey::derive("north", b"another secret altogether");
    let (_, hello) = Handshake::dial(&other_key, introduction(1), path(), knows(2, 0), Nonce([1; 16]));
    let (_, _, mut listener) = pair(10);
    assert_eq!(fault(give(&mut listener, &hello)), HandshakeFault::WrongKey { claimed: NodeId(1) });

    let other_cluster = ClusterKey::derive("south", SECRET);
    let (_, hello) = Handshake::dial(&other_cluster, introduction(1), path(), knows(2, 0), Nonce([1; 16]));
    let (_, _, mut listener) = pair(10);
    assert!(matches!(fault(give(&mut listener, &hello)), HandshakeFault::WrongCluster { .. }));
}

#[test]
fn a_listener_without_the_key_gets_nothing_from_the_dialer() {
    let (mut dialer, hello, _) = pair(10);
    let other_key = ClusterKey::derive("north", b"another secret altogether");
    let mut liar = Handshake::accept(&other_key, introduction(2), path(), &[knows(1, 0)], Nonce([9; 16]));
    // The liar cannot check HELLO, so he makes up an answer.
    liar.transcript.add(&hello);
    liar.peer_nonce = hello.part.nonce;
    let ack = liar.frame(FrameType::HelloAck, Purpose::HelloAck, NodeId(1), RailGeneration(5));
    assert_eq!(fault(give(&mut dialer, &ack)), HandshakeFault::WrongKey { claimed: NodeId(2) });
}

#[test]
fn a_recorded_handshake_played_again_goes_no_further_than_hello() {
    let (mut dialer, hello, mut listener) = pair(10);
    let ack = sent(give(&mut listener, &hello));
    let done = sent(give(&mut dialer, &ack));

    let (_, _, mut second_listener) = pair(40);
    sent(give(&mut second_listener, &hello));
    assert_eq!(fault(give(&mut second_listener, &done)), HandshakeFault::Replayed);

    let (mut second_dialer, _, _) = pair(70);
    assert_eq!(fault(give(&mut second_dialer, &ack)), HandshakeFault::Replayed);
}

#[test]
fn a_recorded_frame_with_its_echo_mended_does_not_fit_its_hash() {
    let (mut dialer, hello, mut listener) = pair(10);
    let ack = sent(give(&mut listener, &hello));
    let mut done = sent(give(&mut dialer, &ack));
    let (_, _, mut second) = pair(40);
    sent(give(&mut second, &hello));
    done.part.echo = [41; 16];
    assert_eq!(fault(give(&mut second, &done)), HandshakeFault::WrongKey { claimed: NodeId(1) });
}

#[test]
fn a_frame_sent_back_to_its_sender_is_refused() {
    let (mut dialer, mut hello, mut listener) = pair(10);
    hello.header.frame_type = FrameType::HelloAck as u8;
    assert_eq!(fault(give(&mut dialer, &hello)), HandshakeFault::Reflected);

    // Even with names and echo turned round, the purpose inside the hash does not fit.
    let (mut dialer, hello, _) = pair(10);
    let mut ack = sent(give(&mut listener, &hello));
    ack.header.frame_type = FrameType::HelloDone as u8;
    ack.header.source = U16::new(1);
    ack.header.destination = U16::new(2);
    ack.part.echo = [11; 16];
    ack.part.nonce = [10; 16];
    assert_eq!(fault(give(&mut listener, &ack)), HandshakeFault::WrongKey { claimed: NodeId(1) });
    assert!(give(&mut dialer, &ack).is_err());
}

#[test]
fn what_is_meant_for_another_node_or_rail_is_told_apart() {
    let (_, hello, _) = pair(10);
    let mut third = Handshake::accept(&key(), introduction(3), path(), &[knows(1, 0)], Nonce([9; 16]));
    assert_eq!(
        fault(give(&mut third, &hello)),
        HandshakeFault::Misdirected { meant: NodeId(2), ours: NodeId(3) }
    );
    let elsewhere = Path { rail: crate::identity::RailId(0), ..path() };
    let mut crossed = Handshake::accept(&key(), introduction(2), elsewhere, &[knows(1, 0)], Nonce([9; 16]));
    assert!(matches!(fault(give(&mut crossed, &hello)), HandshakeFault::WrongPath { .. }));
    let mut stranger = Handshake::accept(&key(), introduction(2), path(), &[knows(5, 0)], Nonce([9; 16]));
    assert_eq!(fault(give(&mut stranger, &hello)), HandshakeFault::NotAMember { found: NodeId(1) });
}

#[test]
fn another_node_answering_is_named() {
    let (mut dialer, _, _) = pair(10);
    let (_, hello) = Handshake::dial(&key(), introduction(1), path(), knows(3, 0), Nonce([10; 16]));
    let mut third = Handshake::accept(&key(), introduction(3), path(), &[knows(1, 0)], Nonce([9; 16]));
    let ack = sent(give(&mut third, &hello));
    assert_eq!(
        fault(give(&mut dialer, &ack)),
        HandshakeFault::UnexpectedNode { found: NodeId(3), dialed: NodeId(2) }
    );
}

#[test]
fn an_earlier_life_than_the_known_one_is_refused() {
    let (_, hello, _) = pair(10);
    let newer = Acquaintance { incarnation: Incarnation(1002), ..knows(1, 0) };
    let mut listener = Handshake::accept(&key(), introduction(2), path(), &[newer], Nonce([9; 16]));
    assert_eq!(
        fault(give(&mut listener, &hello)),
        HandshakeFault::StaleIncarnation { found: Incarnation(1001), known: Incarnation(1002) }
    );
}

#[test]
fn another_layout_version_is_named() {
    let (_, mut hello, mut listener) = pair(10);
    hello.header.version = VERSION + 1;
    assert_eq!(fault(give(&mut listener, &hello)), HandshakeFault::WrongVersion { found: VERSION + 1 });
}

#[test]
fn frames_out_of_order_and_frames_after_a_fault_are_refused() {
    let (mut dialer, hello, mut listener) = pair(10);
    assert!(matches!(fault(give(&mut dialer, &hello)), HandshakeFault::OutOfOrder { .. }));
    let ack = sent(give(&mut listener, &hello));
    assert!(matches!(fault(give(&mut listener, &hello)), HandshakeFault::OutOfOrder { .. }));
    // The dialer above saw a fault; the right frame no longer helps.
    assert!(matches!(fault(give(&mut dialer, &ack)), HandshakeFault::OutOfOrder { .. }));
}

#[test]
fn a_peer_that_offers_no_room_is_refused() {
    let cramped = Introduction { window: 0, ..introduction(1) };
    let (_, hello) = Handshake::dial(&key(), cramped, path(), knows(2, 0), Nonce([1; 16]));
    let (_, _, mut listener) = pair(10);
    assert_eq!(fault(give(&mut listener, &hello)), HandshakeFault::Disagreement);
}

#[test]
fn every_fault_says_what_to_do() {
    let faults = [
        HandshakeFault::WrongVersion { found: 9 },
        HandshakeFault::WrongKey { claimed: NodeId(1) },
        HandshakeFault::Misdirected { meant: NodeId(1), ours: NodeId(2) },
        HandshakeFault::NotAMember { found: NodeId(1) },
    ];
    for fault in faults {
        assert!(fault.to_string().contains(": "), "no remedy in {fault}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        exercise(&bytes);
    }

    #[test]
    fn no_changed_bit_gets_through(frame in 0usize..3, bit in 0usize..(HEADER_BYTES + HELLO_BYTES) * 8) {
        let (mut dialer, hello, mut listener) = pair(10);
        let ack = sent(give(&mut listener.clone(), &hello));
        let done = sent(give(&mut dialer.clone(), &ack));
        let original = [hello, ack, done][frame];
        let mut bytes = [original.header.as_bytes(), original.control()].concat();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let header = FrameHeader::read_from_bytes(&bytes[..HEADER_BYTES]).expect("whole header");
        let said = original.header;
        let filled_in = header.rail_stamp != said.rail_stamp || header.crc32c != said.crc32c;
        let step = match frame {
            0 => listener.handle(&header, &bytes[HEADER_BYTES..]),
            1 => dialer.handle(&header, &bytes[HEADER_BYTES..]),
            _ => {
                sent(give(&mut listener, &hello));
                listener.handle(&header, &bytes[HEADER_BYTES..])
            }
        };
        prop_assert!(step.is_err() || filled_in, "{}", format!("{step:?}"));
    }
}
