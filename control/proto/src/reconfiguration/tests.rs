//! A participant and the deadline watch, told step by step. Every interleaving is in
//! `tests/interleavings.rs`.

use super::*;
use alloc::vec;
use transport_proto::identity::{Incarnation, NodeId};

const MS: u64 = 1_000_000;
const ID: ReconfigurationId = ReconfigurationId(7);

fn me(life: u64) -> Member {
    Member { node: NodeId(2), incarnation: Incarnation(life) }
}

fn live(preparing: bool, waits_for_me: bool, volumes: &[u32]) -> Live {
    let volumes = volumes.iter().copied().map(VolumeId).collect();
    Live { id: ID, preparing, waits_for_me, volumes, deadline: Duration::from_millis(100) }
}

struct Rig<R: ProtocolRules = Strict>(Participant<R>);

impl<R: ProtocolRules> Rig<R> {
    fn new() -> Rig<R> {
        Rig(Participant::with_rules(me(1)))
    }

    fn tell(&mut self, ms: u64, input: Input) -> Vec<Output> {
        let mut out = vec![];
        self.0.handle(Time(ms * MS), input, &mut out);
        out
    }

    fn applied(&mut self, ms: u64, life: u64, live: Vec<Live>) -> Vec<Output> {
        self.tell(ms, Input::Applied { me: me(life), live })
    }
}

fn ack(life: u64) -> Output {
    Output::Propose(Change::Ack { reconfiguration: ID, member: me(life) })
}

// proves: C4
#[test]
fn a_node_suspends_drains_drops_acknowledges_and_goes_on_when_the_log_says_so() {
    let mut rig = Rig::<Strict>::new();
    let (one, two) = (VolumeId(1), VolumeId(2));
    assert_eq!(rig.applied(1, 1, vec![live(true, true, &[1, 2])]), [one, two].map(Output::Suspend));
    assert_eq!(rig.tell(2, Input::Drained(one)), []);
    let done = rig.tell(3, Input::Drained(two));
    assert_eq!(done, [Output::Invalidate(one), Output::Invalidate(two), ack(1)]);
    // The log shows that it is not waited for any more; others are. No time lets it go on.
    assert_eq!(rig.applied(4, 1, vec![live(true, false, &[1, 2])]), []);
    assert_eq!(rig.tell(60_000, Input::Tick), []);
    assert_eq!(rig.applied(60_001, 1, vec![live(false, false, &[1, 2])]), []);
    assert!(rig.0.is_suspended(one));
    assert_eq!(rig.applied(60_002, 1, vec![]), [one, two].map(Output::Resume));
    assert_eq!(rig.0.next_deadline(), Time::NEVER);
}

// proves: C4
#[test]
fn a_lost_acknowledgement_is_given_again_and_a_new_life_gives_its_own() {
    let mut rig = Rig::<Strict>::new();
    rig.applied(1, 1, vec![live(true, true, &[1])]);
    assert_eq!(rig.tell(2, Input::Drained(VolumeId(1))).last(), Some(&ack(1)));
    assert_eq!(rig.0.next_deadline(), Time(502 * MS));
    assert_eq!(rig.tell(502, Input::Tick), [ack(1)]);
    assert_eq!(rig.tell(510, Input::AckAnswered(ID)), []);
    assert_eq!(rig.tell(530, Input::Tick), [ack(1)], "the log does not show it");
    // Still drained: the driver lives on in the new life.
    assert_eq!(rig.applied(540, 9, vec![live(true, true, &[1])]), [ack(9)]);
}

// proves: C4
#[test]
fn one_that_begins_to_read_in_the_middle_stands_still_as_well() {
    let mut rig = Rig::<Strict>::new();
    assert_eq!(rig.applied(1, 1, vec![live(false, false, &[1])]), [Output::Suspend(VolumeId(1))]);
    assert_eq!(rig.tell(2, Input::Drained(VolumeId(1))), [Output::Invalidate(VolumeId(1))]);
    // Nothing to suspend, and yet to be acknowledged.
    let mut rig = Rig::<Strict>::new();
    assert_eq!(rig.applied(1, 1, vec![live(true, true, &[])]), [ack(1)]);
}

#[test]
fn the_mutant_goes_on_by_its_own_timer() {
    let mut rig = Rig::<crate::protocol_rules::ResumeOnTimer>::new();
    rig.applied(1, 1, vec![live(true, true, &[1])]);
    assert_eq!(rig.0.next_deadline(), Time(101 * MS));
    assert_eq!(rig.tell(101, Input::Tick)[0], Output::Resume(VolumeId(1)));
}

// proves: C4
#[test]
fn the_leader_cancels_what_takes_longer_than_it_may_in_each_phase() {
    let mut watch = DeadlineWatch::new();
    let mut out = vec![];
    let cancel = |why| Change::Cancel { reconfiguration: ID, why };
    watch.watch(Time(MS), &[live(true, false, &[1])], &mut out);
    watch.watch(Time(100 * MS), &[live(true, false, &[1])], &mut out);
    assert_eq!((out.len(), watch.next_deadline()), (0, Time(101 * MS)));
    watch.watch(Time(101 * MS), &[live(true, false, &[1])], &mut out);
    assert_eq!(out, [cancel(CancelCause::Deadline)]);
    out.clear();
    watch.watch(Time(150 * MS), &[live(false, false, &[1])], &mut out);
    watch.watch(Time(249 * MS), &[live(false, false, &[1])], &mut out);
    assert_eq!(out, []);
    watch.watch(Time(250 * MS), &[live(false, false, &[1])], &mut out);
    assert_eq!(out, [cancel(CancelCause::HeldTooLong)]);
    watch.watch(Time(260 * MS), &[], &mut out);
    assert_eq!(watch.next_deadline(), Time::NEVER);
}
