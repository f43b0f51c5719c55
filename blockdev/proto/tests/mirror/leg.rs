//! A leg: a disk with a cache that loses what was not flushed when the power goes, and tears what was under
//! way.

use crate::world::{BLOCK, BLOCKS, Dice};
use blockdev_proto::wire::Operation;
use std::collections::BTreeMap;

/// What one 4 KiB block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A client's value.
    Value(u64),
    /// A record of the mirror.
    Record(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Content::Value(_) => vec![0; BLOCK as usize],
            Content::Record(bytes) => bytes.clone(),
        }
    }
}

/// One leg.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leg {
    /// What reads show.
    cache: BTreeMap<u64, Content>,
    /// What a power cut leaves.
    durable: BTreeMap<u64, Content>,
}

impl Leg {
    pub(crate) fn value(&self, block: u64) -> u64 {
        match self.cache.get(&block) {
            Some(Content::Value(value)) => *value,
            _ => 0,
        }
    }

    pub(crate) fn contents(&self, first: u64, count: u64) -> Vec<Content> {
        let of = |block: u64| self.cache.get(&block).cloned().unwrap_or(Content::Value(0));
        (first..first + count).map(of).collect()
    }

    pub(crate) fn bytes(&self, first: u64, count: u64) -> Vec<u8> {
        self.contents(first, count).iter().flat_map(Content::bytes).collect()
    }

    pub(crate) fn write(&mut self, first: u64, contents: &[Content], durable: bool) {
        for (block, content) in (first..).zip(contents) {
            self.cache.insert(block, content.clone());
            if durable {
                self.durable.insert(block, content.clone());
            }
        }
    }

    pub(crate) fn flush(&mut self) {
        self.durable = self.cache.clone();
    }

    /// The power goes: of what was not flushed, some blocks are there and some are not.
    pub(crate) fn cut(&mut self, dice: &mut Dice) {
        let cache = std::mem::take(&mut self.cache);
        for (block, content) in cache {
            if self.durable.get(&block) != Some(&content) && dice.percent(50) {
                self.durable.insert(block, content);
            }
        }
        self.cache = self.durable.clone();
    }

    /// One of its records is damaged.
    pub(crate) fn damage_map(&mut self) {
        if let Some(Content::Record(bytes)) = self.cache.get_mut(&(BLOCKS + 1)) {
            bytes[100] ^= 1;
            self.durable = self.cache.clone();
        }
    }

    /// A new medium.
    pub(crate) fn blank(&mut self) {
        *self = Leg::default();
    }
}

/// Whether two requests to one leg must keep their order.
pub(crate) fn clash(one: (Operation, u64, u64), two: (Operation, u64, u64)) -> bool {
    let (a, b) = (one.1..one.1 + one.2, two.1..two.1 + two.2);
    (one.0.modifies() || two.0.modifies()) && a.start < b.end && b.start < a.end
}
