//! One request of a client becomes requests to parts, and their ends become its end.

use super::*;
use alloc::vec;

const A: VolumeId = VolumeId(1);
const B: VolumeId = VolumeId(2);
const CHUNK: u32 = 64 << 10;

struct Rig {
    assembly: Assembly,
    actions: Vec<AssemblyAction>,
}

impl Rig {
    fn striped() -> Rig {
        let arrangement = Arrangement::stripe(&[1 << 20; 2], CHUNK, crate::geometry::BlockBytes::USUAL);
        let arrangement = arrangement.expect("two parts");
        let layout = AssemblyLayout { volume: VolumeId(9), arrangement, parts: vec![A, B] };
        let mut rig = Rig { assembly: Assembly::new(layout), actions: Vec::new() };
        rig.assembly.open(&mut rig.actions);
        assert_eq!(rig.take(), [AssemblyAction::Retake { part: A }, AssemblyAction::Retake { part: B }]);
        rig
    }

    fn take(&mut self) -> Vec<AssemblyAction> {
        core::mem::take(&mut self.actions)
    }

    fn submit(&mut self, token: u64, operation: Operation, range: ByteRange) {
        self.assembly.submit(token, operation, RequestFlags::NONE, range, &mut self.actions);
    }

    /// What was asked of parts: name, part, range and payload of each.
    fn asked(&mut self) -> Vec<(IoId, VolumeId, ByteRange, PartPayload)> {
        let asked = self.take().into_iter().map(|action| match action {
            AssemblyAction::Io { io, part, range, payload, .. } => (io, part, range, payload),
            other => panic!("{other:?}"),
        });
        asked.collect()
    }

    fn done(&mut self, io: IoId, result: Result<(), BlockErrno>) -> Vec<AssemblyAction> {
        self.assembly.done(io, result, &mut self.actions);
        self.take()
    }
}

// proves: B9
#[test]
fn a_write_on_two_parts_is_answered_when_both_have_it() {
    let mut rig = Rig::striped();
    rig.submit(7, Operation::Write, ByteRange::new(u64::from(CHUNK) - 4096, 8192));
    let asked = rig.asked();
    assert_eq!(asked[0].1, A);
    assert_eq!(asked[0].2, ByteRange::new(u64::from(CHUNK) - 4096, 4096));
    assert_eq!((asked[1].1, asked[1].2, asked[1].3), (B, ByteRange::new(0, 4096), PartPayload::Gathered));
    assert_eq!(rig.done(asked[1].0, Ok(())), [AssemblyAction::Forget { io: asked[1].0 }]);
    let answer = AssemblyAction::Answer { token: 7, result: Ok(()), read: None };
    assert_eq!(rig.done(asked[0].0, Ok(())), [AssemblyAction::Forget { io: asked[0].0 }, answer]);
}

// proves: B9
#[test]
fn what_lies_on_one_part_is_handed_through_and_nothing_is_copied() {
    let mut rig = Rig::striped();
    rig.submit(1, Operation::Write, ByteRange::new(u64::from(CHUNK), CHUNK));
    let asked = rig.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].3, PartPayload::Whole);
    rig.submit(2, Operation::Read, ByteRange::new(0, 4096));
    let read = rig.asked()[0].0;
    let answer = AssemblyAction::Answer { token: 2, result: Ok(()), read: Some(read) };
    assert_eq!(rig.done(read, Ok(())), [answer]);
}

// proves: B9
#[test]
fn a_read_of_two_parts_collects_as_they_come() {
    let mut rig = Rig::striped();
    let whole = ByteRange::new(0, 2 * CHUNK);
    rig.submit(2, Operation::Read, whole);
    let asked = rig.asked();
    let collect = |place: usize| AssemblyAction::Collect { io: asked[place].0, token: 2, place, whole };
    assert_eq!(rig.done(asked[1].0, Ok(())), [collect(1)]);
    let answer = AssemblyAction::Answer { token: 2, result: Ok(()), read: None };
    assert_eq!(rig.done(asked[0].0, Ok(())), [collect(0), answer]);
}

// proves: B9 B11
#[test]
fn a_flush_goes_to_all_parts_and_the_error_of_one_is_the_clients() {
    let mut rig = Rig::striped();
    rig.submit(3, Operation::Flush, ByteRange::EMPTY);
    let asked = rig.asked();
    assert_eq!(asked.len(), 2);
    rig.done(asked[0].0, Err(BlockErrno::Eio));
    let answer = AssemblyAction::Answer { token: 3, result: Err(BlockErrno::Eio), read: None };
    assert_eq!(rig.done(asked[1].0, Ok(())), [AssemblyAction::Forget { io: asked[1].0 }, answer]);
    let failed: Vec<_> = rig.assembly.status().parts.iter().map(|part| part.failed).collect();
    assert_eq!(failed, [Some(BlockErrno::Eio), None]);
}

// proves: B9
#[test]
fn a_part_that_does_not_answer_holds_so_many_requests_and_no_more() {
    let mut rig = Rig::striped();
    for token in 0..OPS_MAX as u64 {
        rig.submit(token, Operation::Write, ByteRange::new(token * 4096 % u64::from(CHUNK), 4096));
    }
    let asked = rig.asked();
    assert_eq!(asked.len(), OPS_MAX);
    rig.submit(100, Operation::Write, ByteRange::new(u64::from(CHUNK), 4096));
    assert_eq!(rig.take(), []);
    let more = rig.done(asked[5].0, Ok(()));
    assert!(matches!(more[2], AssemblyAction::Io { token: 100, part: B, .. }), "{more:?}");
}

// proves: B5 B9
#[test]
fn a_newer_number_withdraws_what_is_under_way_and_late_ends_mean_nothing() {
    let mut rig = Rig::striped();
    rig.submit(4, Operation::Write, ByteRange::new(0, 2 * CHUNK));
    let asked = rig.asked();
    rig.done(asked[0].0, Ok(()));
    rig.assembly.renew(&mut rig.actions);
    let [withdrawn, ..] = rig.take()[..] else { panic!("it withdraws") };
    assert_eq!(withdrawn, AssemblyAction::Withdraw { token: 4 });
    assert_eq!(rig.done(asked[1].0, Ok(())), [AssemblyAction::Forget { io: asked[1].0 }]);
    rig.submit(4, Operation::Write, ByteRange::new(0, 2 * CHUNK));
    assert_eq!(rig.asked().len(), 2);
    rig.assembly.abandon(&mut rig.actions);
    let drops = [AssemblyAction::Drop { part: A }, AssemblyAction::Drop { part: B }];
    assert_eq!(rig.take()[1..], drops);
    rig.submit(5, Operation::Read, ByteRange::new(0, 4096));
    assert_eq!(rig.take(), [AssemblyAction::Withdraw { token: 5 }]);
}

// proves: B9 B11
#[test]
fn what_lies_beyond_the_parts_is_refused() {
    let mut rig = Rig::striped();
    rig.submit(1, Operation::Read, ByteRange::new((2 << 20) - 4096, 8192));
    let answer = AssemblyAction::Answer { token: 1, result: Err(BlockErrno::Einval), read: None };
    assert_eq!(rig.take(), [answer]);
}
