//! Tests of the driver alone: what it sends, to whom, and when, for each thing that can happen to a request.

use super::*;
use crate::geometry::{BlockBytes, DiskId};
use crate::mapping::Candidate;
use alloc::vec;
use transport_proto::identity::Sequence;

const VOLUME: VolumeId = VolumeId(4);
const HERE: NodeId = NodeId(3);
const FIRST: NodeId = NodeId(1);
const SECOND: NodeId = NodeId(2);
const LIFE: Incarnation = Incarnation(77);

fn row(epoch: u64, serving: Option<NodeId>) -> Mapping {
    let candidate = |node| Some(Candidate { node, disk: DiskId(9), path_broken: false });
    Mapping {
        volume: VOLUME,
        epoch: Epoch(epoch),
        candidates: [candidate(FIRST), candidate(SECOND), candidate(HERE), None],
        serving,
        size_bytes: 1 << 24,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        suspended: false,
    }
}

/// A driver, and what it wanted since the last look.
struct Rig {
    driver: Driver,
    now: Time,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(DriverLimits { pending_max: 8, ..DriverLimits::default() })
    }

    fn with(limits: DriverLimits) -> Rig {
        Rig { driver: Driver::new(HERE, LIFE, limits), now: Time(1_000) }
    }

    /// A driver whose master at the first node has its gate open at number 5.
    fn open() -> Rig {
        let mut rig = Rig::new();
        rig.mapping(row(5, Some(FIRST)));
        rig.submit(Operation::Flush, 0, 0, 99);
        let sent = rig.attached(FIRST, 5, 5);
        rig.answer(FIRST, &sole_send(&sent).1, Verdict::Done);
        rig
    }

    fn mapping(&mut self, mapping: Mapping) -> Vec<DriverAction> {
        let mut actions = Vec::new();
        self.driver.mapping(self.now, &mapping, &mut actions).expect("a sound row");
        actions
    }

    fn try_submit(
        &mut self,
        operation: Operation,
        block: u64,
        blocks: u32,
        tag: u64,
    ) -> (Result<Slot, SubmitRefusal>, Vec<DriverAction>) {
        let mut actions = Vec::new();
        let range = ByteRange::new(block * 4096, blocks * 4096);
        let (flags, tag) = (RequestFlags::NONE, Tag(tag));
        let submission = Submission { volume: VOLUME, operation, flags, range, tag };
        (self.driver.submit(self.now, &submission, &mut actions), actions)
    }

    fn submit(&mut self, operation: Operation, block: u64, blocks: u32, tag: u64) -> Vec<DriverAction> {
        let (result, actions) = self.try_submit(operation, block, blocks, tag);
        result.expect("there is room");
        actions
    }

    fn write(&mut self, block: u64, tag: u64) -> Vec<DriverAction> {
        self.submit(Operation::Write, block, 1, tag)
    }

    fn answer(&mut self, from: NodeId, request: &Request, verdict: Verdict) -> Vec<DriverAction> {
        self.answer_used(from, &request.answered(verdict)).1
    }

    fn answer_used(&mut self, from: NodeId, answer: &Answer) -> (AnswerUse, Vec<DriverAction>) {
        let mut actions = Vec::new();
        let used = self.driver.answer(self.now, from, answer, Some(DataHandle(7)), &mut actions);
        (used, actions)
    }

    /// `from` says that its gate is open at `gate`, to one who asked at `epoch`.
    fn attached(&mut self, from: NodeId, epoch: u64, gate: u64) -> Vec<DriverAction> {
        let mut actions = Vec::new();
        let verdict = AttachVerdict::Open { gate_epoch: Epoch(gate) };
        let attached = Attached { volume: VOLUME, epoch: Epoch(epoch), incarnation: LIFE, verdict };
        self.driver.attached(self.now, from, &attached, &mut actions);
        actions
    }

    fn later(&mut self, span: Duration) -> Vec<DriverAction> {
        self.now = self.now + span;
        let mut actions = Vec::new();
        self.driver.timer(self.now, &mut actions);
        actions
    }
}

fn sends(actions: &[DriverAction]) -> Vec<(NodeId, Request)> {
    let send = |action: &DriverAction| match action {
        DriverAction::Send { to, request, .. } => Some((*to, *request)),
        _ => None,
    };
    actions.iter().filter_map(send).collect()
}

fn sole_send(actions: &[DriverAction]) -> (NodeId, Request) {
    assert_eq!(sends(actions).len(), 1, "{actions:?}");
    sends(actions)[0]
}

fn asks(actions: &[DriverAction]) -> Vec<(NodeId, Epoch)> {
    let ask = |action: &DriverAction| match action {
        DriverAction::Attach { to, attach } => Some((*to, attach.epoch)),
        _ => None,
    };
    actions.iter().filter_map(ask).collect()
}

fn completions(actions: &[DriverAction]) -> Vec<(u64, Result<(), BlockErrno>)> {
    let completion = |action: &DriverAction| match action {
        DriverAction::Complete { tag, result, .. } => Some((tag.0, *result)),
        _ => None,
    };
    actions.iter().filter_map(completion).collect()
}

// proves: B1 B2
#[test]
fn a_request_goes_once_the_gate_is_open_and_completes_with_its_answer_local_or_remote() {
    for serving in [FIRST, HERE] {
        let mut rig = Rig::new();
        rig.mapping(row(5, Some(serving)));
        let asked = rig.submit(Operation::Read, 3, 2, 42);
        assert_eq!((asks(&asked), sends(&asked)), (vec![(serving, Epoch(5))], vec![]));
        let (to, request) = sole_send(&rig.attached(serving, 5, 5));
        assert_eq!((to, request.epoch, request.client, request.incarnation), (serving, Epoch(5), HERE, LIFE));
        assert_eq!((request.operation, request.range), (Operation::Read, ByteRange::new(3 * 4096, 2 * 4096)));
        let (used, actions) = rig.answer_used(serving, &request.answered(Verdict::Done));
        let (slot, tag, data) = (request.id.slot, Tag(42), Some(DataHandle(7)));
        assert_eq!(actions, [DriverAction::Complete { slot, tag, result: Ok(()), data }]);
        assert_eq!((used, rig.driver.pending()), (AnswerUse::Completed, 0));
        assert_eq!(sends(&rig.write(1, 43)).len(), 1, "once attached, a request goes at once");
    }
}

// proves: B2 B4 B5
#[test]
fn driver_reissues_under_the_same_id_when_the_master_changes_and_not_before_the_new_gate_is_open() {
    let mut rig = Rig::open();
    let (_, first) = sole_send(&rig.write(1, 1));
    let moved = rig.mapping(row(6, Some(SECOND)));
    assert_eq!((asks(&moved), sends(&moved)), (vec![(SECOND, Epoch(6))], vec![]));
    assert_eq!(sends(&rig.attached(FIRST, 6, 6)), [], "the word of one who does not serve");
    assert_eq!(sends(&rig.attached(SECOND, 5, 5)), [], "the word on an older number");
    let (to, again) = sole_send(&rig.attached(SECOND, 6, 6));
    assert_eq!((to, again.epoch, again.id), (SECOND, Epoch(6), first.id));
    assert_eq!((again.operation, again.range), (first.operation, first.range));
    assert_eq!(completions(&rig.answer(SECOND, &again, Verdict::Done)), [(1, Ok(()))]);
    let counts = rig.driver.counts();
    assert_eq!((counts.reissued, counts.limbo, counts.failovers, counts.failed), (1, 1, 1, 0));
}

// proves: B5
#[test]
fn the_old_masters_answer_counts_in_limbo_and_no_longer_after_the_reissue() {
    let mut rig = Rig::open();
    let (_, early) = sole_send(&rig.write(1, 1));
    let (_, late) = sole_send(&rig.write(2, 2));
    rig.mapping(row(6, Some(SECOND)));
    assert_eq!(completions(&rig.answer(FIRST, &early, Verdict::Done)), [(1, Ok(()))]);
    let (_, again) = sole_send(&rig.attached(SECOND, 6, 6));
    assert_eq!(again.id, late.id);
    let (used, actions) = rig.answer_used(FIRST, &late.answered(Verdict::Done));
    assert_eq!((used, actions), (AnswerUse::Stray, vec![]), "its second copy may still be running");
    assert_eq!(completions(&rig.answer(SECOND, &again, Verdict::Done)), [(2, Ok(()))]);
}

// proves: B4
#[test]
fn an_io_error_of_a_dying_master_is_not_the_clients_but_a_lasting_error_is() {
    let mut rig = Rig::open();
    let (_, one) = sole_send(&rig.write(1, 1));
    let (_, two) = sole_send(&rig.write(2, 2));
    rig.mapping(row(6, Some(SECOND)));
    assert_eq!(rig.answer(FIRST, &one, Verdict::Errno(BlockErrno::Eio)), []);
    let full = rig.answer(FIRST, &two, Verdict::Errno(BlockErrno::Enospc));
    assert_eq!(completions(&full), [(2, Err(BlockErrno::Enospc))]);
    assert_eq!(sole_send(&rig.attached(SECOND, 6, 6)).1.id, one.id);
}

// proves: B3
#[test]
fn a_broken_path_is_reported_and_everything_goes_through_the_other_node() {
    let mut rig = Rig::open();
    let (_, one) = sole_send(&rig.write(1, 1));
    let (_, two) = sole_send(&rig.write(2, 2));
    let told = rig.answer(FIRST, &one, Verdict::NackPath { execution: Execution::Unknown });
    let report = PathBroken { volume: VOLUME, epoch: Epoch(5), node: FIRST, disk: DiskId(9) };
    assert_eq!(told, [DriverAction::ReportPathBroken(report)]);
    let more = rig.answer(FIRST, &two, Verdict::NackPath { execution: Execution::NotExecuted });
    assert_eq!(more, [], "said once");
    assert_eq!(rig.write(3, 3), [], "nothing goes to a node that cannot reach the disk");
    let again = rig.later(Duration::from_millis(200));
    assert_eq!(again, [DriverAction::ReportPathBroken(report)], "said again while nothing changes");
    rig.mapping(row(6, Some(SECOND)));
    let sent = sends(&rig.attached(SECOND, 6, 6));
    let blocks: Vec<u64> = sent.iter().map(|(_, request)| request.range.offset / 4096).collect();
    assert_eq!(blocks, [1, 2, 3]);
    assert!(sent.iter().all(|(to, _)| *to == SECOND));
    assert_eq!((sent[0].1.id, sent[1].1.id), (one.id, two.id));
    assert_eq!(rig.driver.counts().path_broken, 2);
}

// proves: B5
#[test]
fn a_later_overlapping_request_waits_behind_an_earlier_one_in_limbo_too() {
    let mut rig = Rig::open();
    let (_, first) = sole_send(&rig.submit(Operation::Write, 1, 2, 1));
    assert_eq!(rig.write(2, 2), [], "write behind write");
    assert_eq!(rig.submit(Operation::Read, 1, 1, 3), [], "read behind write");
    assert_eq!(sends(&rig.write(3, 4)).len(), 1, "others pass");
    rig.mapping(row(6, Some(SECOND)));
    let sent = sends(&rig.attached(SECOND, 6, 6));
    assert_eq!(sent.iter().map(|(_, request)| request.range.offset / 4096).collect::<Vec<_>>(), [1, 3]);
    let done = rig.answer(SECOND, &sent[0].1, Verdict::Done);
    assert_eq!(sent[0].1.id, first.id);
    assert_eq!(completions(&done), [(1, Ok(()))]);
    assert_eq!(sends(&done).len(), 2, "both waiters go: they do not touch each other");
    assert_eq!(rig.driver.counts().overlapped, 2);
}

// proves: B6
#[test]
fn a_stale_view_is_noticed_by_comparing_numbers_and_the_newer_row_is_fetched() {
    let mut rig = Rig::open();
    let (_, request) = sole_send(&rig.write(1, 1));
    let fetch = DriverAction::FetchMapping { volume: VOLUME, seen: Epoch(8) };
    assert_eq!(rig.answer(FIRST, &request, Verdict::NackStale { gate_epoch: Epoch(8) }), [fetch]);
    assert_eq!(rig.later(Duration::from_millis(200)), [fetch], "asked again while none comes");
    assert_eq!(rig.mapping(row(5, Some(SECOND))), [], "an equal number is no news");
    assert_eq!(asks(&rig.mapping(row(8, Some(FIRST)))), [(FIRST, Epoch(8))]);
    assert_eq!(sole_send(&rig.attached(FIRST, 8, 8)).1.id, request.id);
}

#[test]
fn a_request_at_the_node_that_still_serves_stays_until_that_node_says_stale() {
    let mut rig = Rig::open();
    let (_, one) = sole_send(&rig.write(1, 1));
    let (_, two) = sole_send(&rig.write(2, 2));
    assert_eq!(rig.mapping(row(6, Some(FIRST))), []);
    assert_eq!(completions(&rig.answer(FIRST, &one, Verdict::Done)), [(1, Ok(()))]);
    let nack = rig.answer(FIRST, &two, Verdict::NackStale { gate_epoch: Epoch(6) });
    assert_eq!(asks(&nack), [(FIRST, Epoch(6))]);
    let (_, again) = sole_send(&rig.attached(FIRST, 6, 6));
    assert_eq!((again.id, again.epoch), (two.id, Epoch(6)));
}

#[test]
fn a_busy_master_gets_longer_and_longer_pauses() {
    let mut rig = Rig::open();
    let (_, mut request) = sole_send(&rig.write(1, 1));
    for pause in [200, 400, 800, 1600] {
        assert_eq!(rig.answer(FIRST, &request, Verdict::NackBusy), []);
        assert_eq!(rig.driver.next_deadline(), rig.now + Duration::from_micros(pause));
        assert_eq!(sends(&rig.later(Duration::from_micros(pause - 1))), []);
        request = sole_send(&rig.later(Duration::from_micros(1))).1;
    }
    rig.answer(FIRST, &request, Verdict::Done);
    let (_, request) = sole_send(&rig.write(1, 2));
    rig.answer(FIRST, &request, Verdict::NackBusy);
    assert_eq!(sends(&rig.later(Duration::from_micros(200))).len(), 1, "a good answer ends the doubling");
}

// proves: T12
#[test]
fn what_the_transport_refuses_waits_in_order_until_there_is_room() {
    let mut rig = Rig::open();
    let (_, one) = sole_send(&rig.write(1, 1));
    let (_, two) = sole_send(&rig.write(2, 2));
    rig.driver.refused(one.id.slot);
    rig.driver.refused(two.id.slot);
    assert_eq!(rig.write(3, 3), []);
    let mut actions = Vec::new();
    rig.driver.writable(rig.now, FIRST, 2, &mut actions);
    let ids: Vec<RequestId> = sends(&actions).iter().map(|(_, request)| request.id).collect();
    assert_eq!(ids, [one.id, two.id]);
    assert_eq!(rig.driver.counts().reissued, 0, "what was refused was never sent");
    actions.clear();
    rig.driver.writable(rig.now, FIRST, u32::MAX, &mut actions);
    assert_eq!(sole_send(&actions).1.range.offset, 3 * 4096);
}

// proves: B2 T12
#[test]
fn a_full_pending_list_refuses_and_takes_again_after_a_completion() {
    let mut rig = Rig::open();
    let mut sent = Vec::new();
    for block in 0..8 {
        sent.push(sole_send(&rig.write(block, block)).1);
    }
    let (refused, actions) = rig.try_submit(Operation::Write, 9, 1, 9);
    assert_eq!((refused, actions), (Err(SubmitRefusal::Full { pending_max: 8 }), vec![]));
    rig.answer(FIRST, &sent[3], Verdict::Done);
    let (_, request) = sole_send(&rig.write(9, 9));
    assert_eq!(request.id.slot, sent[3].id.slot);
    assert!(request.id.sequence > sent[7].id.sequence);
}

// proves: B11
#[test]
fn a_request_that_makes_no_sense_is_refused_and_never_travels() {
    let mut rig = Rig::open();
    let past_end = (1 << 24) / 4096;
    let (refused, actions) = rig.try_submit(Operation::Write, past_end, 1, 1);
    assert_eq!((refused, actions), (Err(SubmitRefusal::Invalid(BlockErrno::Enospc)), vec![]));
    let unknown = Submission {
        volume: VolumeId(5),
        operation: Operation::Flush,
        flags: RequestFlags::NONE,
        range: ByteRange::EMPTY,
        tag: Tag(0),
    };
    let mut actions = Vec::new();
    assert_eq!(rig.driver.submit(rig.now, &unknown, &mut actions), Err(SubmitRefusal::NoMapping));
    assert_eq!(rig.driver.pending(), 0);
}

#[test]
fn a_suspended_volume_holds_new_requests_finishes_old_ones_and_says_when_drained() {
    let mut rig = Rig::open();
    let (_, old) = sole_send(&rig.write(1, 1));
    let mut actions = Vec::new();
    rig.driver.suspend(VOLUME, &mut actions);
    assert_eq!(actions, []);
    assert_eq!(rig.write(2, 2), []);
    let done = rig.answer(FIRST, &old, Verdict::Done);
    assert_eq!(completions(&done), [(1, Ok(()))]);
    assert_eq!(done.last(), Some(&DriverAction::Drained { volume: VOLUME, epoch: Epoch(5) }));
    assert_eq!(sends(&done), []);
    rig.driver.resume(rig.now, VOLUME, &mut actions);
    assert_eq!(sends(&actions).len(), 1);
}

#[test]
fn a_suspended_volume_drains_what_is_in_limbo_through_the_new_master() {
    let mut rig = Rig::open();
    let (_, old) = sole_send(&rig.write(1, 1));
    rig.mapping(Mapping { suspended: true, ..row(6, Some(SECOND)) });
    assert_eq!(rig.write(2, 2), []);
    let (_, again) = sole_send(&rig.attached(SECOND, 6, 6));
    assert_eq!(again.id, old.id);
    let done = rig.answer(SECOND, &again, Verdict::Done);
    assert_eq!(done.last(), Some(&DriverAction::Drained { volume: VOLUME, epoch: Epoch(6) }));
    assert_eq!(asks(&rig.mapping(row(7, Some(SECOND)))), [(SECOND, Epoch(7))]);
    assert_eq!(sends(&rig.attached(SECOND, 7, 7)).len(), 1);
}

// proves: B2 T10
#[test]
fn an_unknown_outcome_or_a_lost_peer_means_attach_and_issue_again_under_the_same_id() {
    for lost in [0, 1, 2] {
        let mut rig = Rig::open();
        let (_, request) = sole_send(&rig.write(1, 1));
        let mut actions = Vec::new();
        match lost {
            0 => rig.driver.outcome_unknown(rig.now, request.id, &mut actions),
            1 => rig.driver.peer_gone(rig.now, FIRST, &mut actions),
            _ => rig.driver.peer_restarted(rig.now, FIRST, &mut actions),
        }
        assert_eq!(asks(&actions).last(), Some(&(FIRST, Epoch(5))), "case {lost}");
        assert_eq!(sends(&actions), []);
        let (to, again) = sole_send(&rig.attached(FIRST, 5, 5));
        assert_eq!((to, again.id), (FIRST, request.id), "case {lost}");
    }
}

// proves: B2
#[test]
fn a_request_without_an_answer_is_sent_again_under_the_same_id() {
    let mut rig = Rig::open();
    let (_, request) = sole_send(&rig.write(1, 1));
    let early = rig.later(Duration::from_millis(1_999));
    assert_eq!(sends(&early), []);
    let mut again = Vec::new();
    for _ in 0..3 {
        again.extend(sends(&rig.later(Duration::from_millis(1_000))));
    }
    assert_eq!(again.first().map(|(to, copy)| (*to, *copy)), Some((FIRST, request)));
    assert_eq!(completions(&rig.answer(FIRST, &request, Verdict::Done)), [(1, Ok(()))]);
    rig.later(Duration::from_secs(10));
    assert_eq!(rig.later(Duration::from_secs(10)), []);
    assert_eq!(rig.driver.next_deadline(), Time::NEVER, "an idle driver asks for no timer");
}

// proves: T10
#[test]
fn answers_of_another_life_slot_use_or_volume_are_strays() {
    let mut rig = Rig::open();
    let (_, request) = sole_send(&rig.write(1, 1));
    let answer = request.answered(Verdict::Done);
    let earlier = RequestId { sequence: Sequence(request.id.sequence.0 - 1), ..request.id };
    let far = RequestId { slot: Slot(4000), ..request.id };
    for stray in [
        Answer { incarnation: Incarnation(76), ..answer },
        Answer { volume: VolumeId(5), ..answer },
        Answer { epoch: Epoch(4), ..answer },
        Answer { id: earlier, ..answer },
        Answer { id: far, ..answer },
    ] {
        assert_eq!(rig.answer_used(FIRST, &stray), (AnswerUse::Stray, vec![]));
    }
    assert_eq!(rig.answer_used(SECOND, &answer).0, AnswerUse::Stray);
    assert_eq!(rig.answer_used(FIRST, &answer).0, AnswerUse::Completed);
    assert_eq!(rig.answer_used(FIRST, &answer).0, AnswerUse::Stray, "a second copy");
    assert_eq!(rig.driver.counts().strays, 7);
}

// proves: B4
#[test]
fn requests_wait_while_nobody_serves() {
    let mut rig = Rig::open();
    let (_, request) = sole_send(&rig.write(1, 1));
    assert_eq!(rig.mapping(row(6, None)), []);
    assert_eq!(rig.write(2, 2), []);
    assert_eq!(sends(&rig.later(Duration::from_secs(60))), []);
    rig.mapping(row(7, Some(SECOND)));
    let sent = sends(&rig.attached(SECOND, 7, 7));
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].1.id, request.id);
}

// proves: B7
#[test]
fn a_volume_that_goes_ends_what_is_pending_and_leaves_nothing_that_is_sent_later() {
    let mut rig = Rig::open();
    let (_, sent) = sole_send(&rig.write(1, 1));
    assert_eq!(rig.write(1, 2), [], "waits for the one before");
    let mut actions = Vec::new();
    rig.driver.forget(rig.now, VOLUME, BlockErrno::Enodev, &mut actions);
    let gone = Err(BlockErrno::Enodev);
    assert_eq!((completions(&actions), sends(&actions)), (vec![(1, gone), (2, gone)], vec![]));
    assert_eq!(rig.try_submit(Operation::Flush, 0, 0, 3).0, Err(SubmitRefusal::NoMapping));
    assert_eq!(rig.answer_used(FIRST, &sent.answered(Verdict::Done)).0, AnswerUse::Stray);
    assert_eq!(rig.later(Duration::from_secs(10)), []);
    // Opened again, it starts from nothing.
    rig.mapping(row(9, Some(SECOND)));
    assert_eq!(asks(&rig.write(1, 4)), [(SECOND, Epoch(9))]);
    assert_eq!(rig.driver.volumes.len(), 1, "its place is used again");
}

// proves: B5 C6
#[test]
fn a_volume_that_fails_answers_at_once_and_keeps_later_writes_behind_what_may_have_run() {
    let mut rig = Rig::open();
    let (_, sent) = sole_send(&rig.write(1, 1));
    assert_eq!(rig.write(1, 2), [], "waits for the one before");
    let mut actions = Vec::new();
    rig.driver.fail(rig.now, VOLUME, BlockErrno::Eio, &mut actions);
    let failed = |tag| (tag, Err(BlockErrno::Eio));
    assert_eq!((completions(&actions), sends(&actions)), (vec![failed(2), failed(1)], vec![]));
    assert_eq!(rig.try_submit(Operation::Flush, 0, 0, 3).0, Err(SubmitRefusal::Invalid(BlockErrno::Eio)));
    rig.driver.stop_failing(VOLUME);
    assert_eq!(rig.write(1, 4), [], "the first write may still run at its master");
    assert_eq!(sends(&rig.later(Duration::from_secs(5))), [], "its payload is gone, it is not sent again");
    // A newer gate is open: the old one is closed and drained.
    rig.mapping(row(6, Some(SECOND)));
    let (to, later) = sole_send(&rig.attached(SECOND, 6, 6));
    assert_eq!((to, later.id == sent.id), (SECOND, false));
    assert_eq!(completions(&rig.answer(SECOND, &later, Verdict::Done)), [(4, Ok(()))]);
    assert_eq!(rig.driver.pending(), 0);
    assert_eq!(rig.answer_used(FIRST, &sent.answered(Verdict::Done)).0, AnswerUse::Stray);
}

// proves: C6
#[test]
fn a_late_answer_settles_a_request_whose_client_was_told_that_it_failed() {
    let mut rig = Rig::open();
    let (_, sent) = sole_send(&rig.write(1, 1));
    let mut actions = Vec::new();
    rig.driver.fail(rig.now, VOLUME, BlockErrno::Eio, &mut actions);
    assert_eq!(rig.answer(FIRST, &sent, Verdict::Done), [], "its client has its answer");
    assert_eq!(rig.driver.pending(), 0);
    rig.driver.stop_failing(VOLUME);
    assert_eq!(sends(&rig.write(1, 2)).len(), 1);
}
