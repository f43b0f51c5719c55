//! The assembly: one virtual disk put together from the bytes of several others, its parts, by the node that
//! serves it (SPEC B9). A concatenation or a stripe, see [`Arrangement`].
//!
//! It keeps nothing of its own on the parts: a byte of the volume is a byte of one part. What fences the
//! parts against a former server is what fences every virtual disk, the numbers in their gates. So it can be
//! open as soon as it is to be, and a request waits for as long as a part waits that it touches.
//!
//! Calling order: [`Assembly::open`], then [`Assembly::submit`]; carry out the actions; tell
//! [`Assembly::done`] of each request to a part, once. [`Assembly::renew`] at each new number at which this
//! node serves, [`Assembly::abandon`] when it does not any more.

mod arrangement;

pub use self::arrangement::{
    Arrangement, ArrangementFault, CHUNK_BYTES_MAX, CHUNK_BYTES_MIN, CHUNK_BYTES_USUAL, Fragment, PARTS_MAX,
    Share, combined,
};
pub use crate::table::IoId;

use crate::errno::BlockErrno;
use crate::geometry::{ByteRange, VolumeId};
use crate::table::Table;
use crate::wire::{Operation, RequestFlags};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Requests of clients that are under way to parts at one time; the others wait. So a part that does not
/// answer holds no more than so many buffers and slots, and leaves the rest to other volumes.
pub const OPS_MAX: usize = 64;

/// An assembly as the configuration sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssemblyLayout {
    /// The virtual disk that clients see.
    pub volume: VolumeId,
    /// Where its bytes lie.
    pub arrangement: Arrangement,
    /// The virtual disks that it lies on, as many as the arrangement has parts.
    pub parts: Vec<VolumeId>,
}

/// Where the payload of a write to a part comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartPayload {
    /// There is none.
    None,
    /// The client's, as it is.
    Whole,
    /// The part's share of the client's, see [`Arrangement::gather`].
    Gathered,
}

/// What the assembly wants its caller to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssemblyAction {
    /// Send this request to a part; when it has ended, tell [`Assembly::done`].
    Io {
        /// Names it.
        io: IoId,
        /// The client's request that it is for.
        token: u64,
        /// The part's place.
        place: usize,
        /// The part's virtual disk.
        part: VolumeId,
        /// What to do.
        operation: Operation,
        /// Wishes.
        flags: RequestFlags,
        /// Which bytes of the part.
        range: ByteRange,
        /// Which bytes of the volume the client's request is about.
        whole: ByteRange,
        /// Of a write.
        payload: PartPayload,
    },
    /// The bytes that this read of a part brought are some of those that a client wants: put them where they
    /// belong ([`Arrangement::scatter`]) and let go of what they came in.
    Collect {
        /// The read.
        io: IoId,
        /// The client's request.
        token: u64,
        /// The part's place.
        place: usize,
        /// The bytes of the volume that the client wants.
        whole: ByteRange,
    },
    /// A client's request has ended.
    Answer {
        /// The client's request.
        token: u64,
        /// What the client gets to know.
        result: Result<(), BlockErrno>,
        /// The read whose bytes are the answer; without one it is what was collected.
        read: Option<IoId>,
    },
    /// A client's request will not be carried out here: it must be asked again, of whoever serves then.
    Withdraw {
        /// The client's request.
        token: u64,
    },
    /// The bytes that this request to a part brought, if any, are not needed.
    Forget {
        /// The request.
        io: IoId,
    },
    /// Fail what is under way to this part, and everything that is sent there before `Retake`. What may have
    /// reached it goes on holding back what comes later to the same bytes.
    Drop {
        /// The part.
        part: VolumeId,
    },
    /// The part is used again.
    Retake {
        /// The part.
        part: VolumeId,
    },
}

#[derive(Debug)]
struct Op {
    token: u64,
    operation: Operation,
    flags: RequestFlags,
    range: ByteRange,
    /// It lies on one part only.
    is_single: bool,
    /// Parts that have not answered.
    left: u32,
    errno: Option<BlockErrno>,
    /// Of one part: the read whose bytes are the answer.
    read: Option<IoId>,
}

#[derive(Debug)]
struct PartIo {
    op: u32,
    place: usize,
}

/// A part for `status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartStatus {
    /// The virtual disk.
    pub volume: VolumeId,
    /// Requests that it has not answered.
    pub under_way: u32,
    /// How it failed the last of those that it did answer.
    pub failed: Option<BlockErrno>,
}

/// What is known of an assembly at one moment.
#[derive(Clone, Debug)]
pub struct AssemblyStatus {
    /// It is open here.
    pub is_open: bool,
    /// Requests of clients that have not ended.
    pub running: usize,
    /// Each part, in the order of the row.
    pub parts: Vec<PartStatus>,
}

/// One assembly, at a node that serves it or may come to.
#[derive(Debug)]
pub struct Assembly {
    layout: AssemblyLayout,
    is_open: bool,
    ops: Table<Op>,
    /// Of those, the ones that were sent to parts.
    started: usize,
    waiting: VecDeque<u32>,
    ios: Table<PartIo>,
    parts: Vec<PartStatus>,
}

impl Assembly {
    /// An assembly that is not open.
    pub fn new(layout: AssemblyLayout) -> Assembly {
        let parts = status_of(&layout);
        Assembly {
            layout,
            is_open: false,
            ops: Table::default(),
            started: 0,
            waiting: VecDeque::new(),
            ios: Table::default(),
            parts,
        }
    }

    /// The layout in force here.
    pub fn current_layout(&self) -> &AssemblyLayout {
        &self.layout
    }

    /// Takes another layout. It may have parts more and be larger, and leaves every byte where it is: any
    /// other is a volume of its own.
    pub fn layout(&mut self, layout: &AssemblyLayout, actions: &mut Vec<AssemblyAction>) {
        if self.layout == *layout {
            return;
        }
        let known = self.layout.parts.len();
        self.layout = layout.clone();
        self.parts.extend(status_of(layout).into_iter().skip(known));
        if self.is_open {
            let new = self.layout.parts.iter().skip(known);
            actions.extend(new.map(|part| AssemblyAction::Retake { part: *part }));
        }
    }

    /// This node serves it from now on.
    pub fn open(&mut self, actions: &mut Vec<AssemblyAction>) {
        self.is_open = true;
        actions.extend(self.layout.parts.iter().map(|part| AssemblyAction::Retake { part: *part }));
    }

    /// This node serves it at a newer number. What is under way is asked for again at that number: it may
    /// wait for a part that nobody serves, and then the number could never be opened.
    pub fn renew(&mut self, actions: &mut Vec<AssemblyAction>) {
        if self.is_open {
            self.abandon(actions);
            self.open(actions);
        }
    }

    /// Gives everything up at once: this node does not serve it any more, or may not. To be told before a
    /// number at which it does not serve is acted on in any other way.
    pub fn abandon(&mut self, actions: &mut Vec<AssemblyAction>) {
        for (_, op) in self.ops.iter() {
            actions.push(AssemblyAction::Withdraw { token: op.token });
        }
        self.ops.clear();
        self.ios.clear();
        self.waiting.clear();
        self.started = 0;
        if core::mem::take(&mut self.is_open) {
            actions.extend(self.layout.parts.iter().map(|part| AssemblyAction::Drop { part: *part }));
        }
        self.parts.iter_mut().for_each(|part| part.under_way = 0);
    }

    /// A request of a client that the master let in. It ends with `Answer` or `Withdraw`.
    pub fn submit(
        &mut self,
        token: u64,
        operation: Operation,
        flags: RequestFlags,
        range: ByteRange,
        actions: &mut Vec<AssemblyAction>,
    ) {
        let refusal = if flags.contains(RequestFlags::FAST_ZERO) {
            // Some parts could be fast and others not.
            Some(BlockErrno::Enotsup)
        } else if !self.is_open {
            return actions.push(AssemblyAction::Withdraw { token });
        } else {
            (!self.layout.arrangement.covers(range)).then_some(BlockErrno::Einval)
        };
        if let Some(errno) = refusal {
            return actions.push(AssemblyAction::Answer { token, result: Err(errno), read: None });
        }
        let op = Op { token, operation, flags, range, is_single: false, left: 0, errno: None, read: None };
        let index = self.ops.insert(op).index;
        self.waiting.push_back(index);
        self.start_waiting(actions);
    }

    fn start_waiting(&mut self, actions: &mut Vec<AssemblyAction>) {
        while self.started < OPS_MAX {
            let Some(index) = self.waiting.pop_front() else { return };
            self.started += 1;
            self.start(index, actions);
        }
    }

    fn start(&mut self, index: u32, actions: &mut Vec<AssemblyAction>) {
        let Some(op) = self.ops.get_mut(index) else { return };
        let (operation, whole) = (op.operation, op.range);
        let arrangement = &self.layout.arrangement;
        op.left = match operation {
            Operation::Flush => arrangement.parts() as u32,
            _ => arrangement.shares(whole).count() as u32,
        };
        op.is_single = op.left == 1;
        let (token, flags, is_single, left) = (op.token, op.flags, op.is_single, op.left);
        for place in 0..self.layout.parts.len() {
            let range = match operation {
                Operation::Flush => ByteRange::EMPTY,
                _ => match self.layout.arrangement.share(place, whole) {
                    Some(share) => share.range,
                    None => continue,
                },
            };
            let payload = match (operation, is_single) {
                (Operation::Write, true) => PartPayload::Whole,
                (Operation::Write, false) => PartPayload::Gathered,
                _ => PartPayload::None,
            };
            let part = self.layout.parts[place];
            self.parts[place].under_way += 1;
            let io = self.ios.insert(PartIo { op: index, place });
            let io = AssemblyAction::Io { io, token, place, part, operation, flags, range, whole, payload };
            actions.push(io);
        }
        if left == 0 {
            self.end(index, actions);
        }
    }

    /// A request to a part has ended.
    pub fn done(&mut self, io: IoId, result: Result<(), BlockErrno>, actions: &mut Vec<AssemblyAction>) {
        let Some(PartIo { op: index, place }) = self.ios.remove(io) else {
            // Of what was given up.
            return actions.push(AssemblyAction::Forget { io });
        };
        if let Some(part) = self.parts.get_mut(place) {
            part.under_way = part.under_way.saturating_sub(1);
            part.failed = result.err();
        }
        let Some(op) = self.ops.get_mut(index) else { return };
        op.left -= 1;
        match (result, op.operation) {
            (Ok(()), Operation::Read) if op.is_single => op.read = Some(io),
            (Ok(()), Operation::Read) => {
                actions.push(AssemblyAction::Collect { io, token: op.token, place, whole: op.range });
            }
            (Ok(()), _) => actions.push(AssemblyAction::Forget { io }),
            (Err(errno), _) => {
                op.errno = Some(combined(op.errno, errno));
                actions.push(AssemblyAction::Forget { io });
            }
        }
        if op.left == 0 {
            self.end(index, actions);
        }
    }

    fn end(&mut self, index: u32, actions: &mut Vec<AssemblyAction>) {
        let Some(op) = self.ops.take(index) else { return };
        self.started -= 1;
        let result = op.errno.map_or(Ok(()), Err);
        actions.push(AssemblyAction::Answer { token: op.token, result, read: op.read });
        self.start_waiting(actions);
    }

    /// How it stands.
    pub fn status(&self) -> AssemblyStatus {
        AssemblyStatus { is_open: self.is_open, running: self.ops.len(), parts: self.parts.clone() }
    }
}

fn status_of(layout: &AssemblyLayout) -> Vec<PartStatus> {
    let status = |volume: &VolumeId| PartStatus { volume: *volume, under_way: 0, failed: None };
    layout.parts.iter().map(status).collect()
}

#[cfg(test)]
mod tests;
