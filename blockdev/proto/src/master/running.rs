//! The requests that run on the store now.

use super::Token;
use crate::wire::{Operation, RequestId};
use alloc::vec::Vec;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

/// A request that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) client: NodeId,
    pub(super) incarnation: Incarnation,
    pub(super) id: RequestId,
    /// Number that it was admitted at.
    pub(super) epoch: Epoch,
    /// Index of the volume in the master.
    pub(super) volume: u32,
    pub(super) operation: Operation,
    /// Revision of the volume's reservations that let it in.
    pub(super) reservations: u64,
    /// Its volume lies on other virtual disks.
    pub(super) has_parts: bool,
    /// When it was admitted.
    pub(super) since: Time,
}

struct Entry {
    generation: u32,
    running: Option<Running>,
}

/// All of them; a slab of fixed size.
pub(super) struct RunningList {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

impl RunningList {
    pub(super) fn new(entries_max: usize) -> RunningList {
        let entries = (0..entries_max).map(|_| Entry { generation: 0, running: None }).collect();
        RunningList { entries, free: (0..entries_max as u32).rev().collect() }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// When the oldest was admitted.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.entries.iter().filter_map(|entry| entry.running).map(|running| running.since).min()
    }

    /// Whether one of this volume runs that reservations older than this revision let in.
    pub(super) fn has_older(&self, volume: u32, revision: u64) -> bool {
        let mut running = self.entries.iter().filter_map(|entry| entry.running);
        running.any(|running| running.volume == volume && running.reservations < revision)
    }

    /// Enters a request; the list is not full.
    #[inline]
    pub(super) fn begin(&mut self, running: Running) -> Token {
        let index = self.free.pop().expect("admission looks for room first");
        let entry = &mut self.entries[index as usize];
        entry.running = Some(running);
        Token { index, generation: entry.generation }
    }

    /// Takes a request out. A token that names none is a bug of the caller.
    #[inline]
    pub(super) fn end(&mut self, token: Token) -> Running {
        let entry = &mut self.entries[token.index as usize];
        let running = entry.running.take().filter(|_| entry.generation == token.generation);
        let running = running.expect("a token is given back once");
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(token.index);
        running
    }
}
