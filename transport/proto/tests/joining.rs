//! A node that joins knows of its membership before some of its peers do.

use transport_proto::identity::{ClientId, Epoch, Incarnation, LinkId, NodeId, Path, RailId, Sequence};
use transport_proto::route::Spread;
use transport_proto::session::Session;
use transport_proto::time::Time;
use transport_proto::wire::{FLAG_REPLAY, FrameHeader};

const PATH: Path = Path { link: LinkId(0), rail: RailId(0) };
const USER: ClientId = ClientId::USER;

fn session(local: u16, peer: u16) -> Session<u32, u32> {
    let mut session = Session::new(NodeId(local), Incarnation(9), NodeId(peer), Spread::Single);
    session.open(USER);
    assert!(session.meet(Incarnation(9)));
    session.path_up(Time(1), PATH);
    session
}

/// Posts everything that waits; gives the frames as they arrive.
fn post(session: &mut Session<u32, u32>) -> Vec<FrameHeader> {
    let mut frames = Vec::new();
    while let Some((sequence, fragment)) = session.next_unposted(USER, (Sequence(0), 0)) {
        let posted = session.transmit(
            USER,
            (sequence, fragment),
            |_| None,
            |frame| {
                frames.push(*frame.header);
                true
            },
        );
        assert_eq!(posted, Some(true), "a path is up");
    }
    frames
}

fn send(session: &mut Session<u32, u32>, message: u32) -> Vec<FrameHeader> {
    session.may_send(USER).expect("there is credit");
    session.send(USER, message, 0, 0);
    post(session)
}

// proves: T10 T11
#[test]
fn what_a_joining_node_sent_before_its_peer_knew_of_the_membership_is_not_lost() {
    let (mut joiner, mut member) = (session(1, 2), session(2, 1));
    member.configure(Epoch(3), false);
    for header in send(&mut joiner, 1).into_iter().chain(send(&mut joiner, 2)) {
        assert!(member.receive(Time(1), &header, |_| ()).is_err(), "node 1 is no member yet");
    }
    assert!(!member.configure(Epoch(4), true), "node 2 itself has nothing to send again");
    let (_, _, question) = member.due_acks(Time(1)).expect("the joiner must be asked at once");
    assert_ne!(question.flags & FLAG_REPLAY, 0);
    member.told(USER);
    assert_eq!(member.due_acks(Time(1)).map(|due| due.0), None, "asked once, while its path lives");

    assert_eq!(joiner.replay(question.client()), 2);
    let again = post(&mut joiner);
    assert_eq!(again.len(), 2);
    for header in again.iter().chain(&send(&mut joiner, 3)) {
        let receipt = member.receive(Time(2), header, |_| ()).expect("its sender is a member");
        assert!(receipt.next, "in order, without a gap");
    }
}

// proves: T10
#[test]
fn a_question_that_died_with_its_path_is_asked_again() {
    let mut member = session(2, 1);
    let mut joiner = session(1, 2);
    member.configure(Epoch(3), false);
    for header in send(&mut joiner, 1) {
        assert!(member.receive(Time(1), &header, |_| ()).is_err());
    }
    member.configure(Epoch(4), true);
    member.told(USER);
    member.path_down(Time(5), PATH);
    member.path_up(Time(6), PATH);
    let (_, _, question) = member.due_acks(Time(6)).expect("the path is new");
    assert_ne!(question.flags & FLAG_REPLAY, 0);
}

// proves: T10
#[test]
fn a_member_that_dropped_what_the_other_said_sends_its_own_again_too() {
    let (mut one, mut other) = (session(1, 2), session(2, 1));
    send(&mut one, 1);
    one.configure(Epoch(3), false);
    let header = send(&mut other, 1).remove(0);
    assert!(one.receive(Time(1), &header, |_| ()).is_err(), "it may have carried a question");
    assert!(one.configure(Epoch(4), true));
    assert_eq!(post(&mut one).len(), 1);
}
