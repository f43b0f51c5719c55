//! The safety rules that a master or a mirror obeys, as a type, so that tests can build one that breaks one
//! of them and see whether their checkers notice. A rule is settled when a program is compiled: a master of
//! [`Strict`] rules carries no switch that a fault or a flag could turn, and costs nothing more.

/// Which safety rules a master or a mirror obeys. Every product runs [`Strict`], which a plain `Master` or
/// `Mirror` names.
pub trait Rules {
    /// A request enters only at the number that the gate is open at, and the gate drains before it is raised.
    const EPOCH_GATE: bool = true;
    /// A copy of a request that runs or ran is answered from the duplicate table and not run again.
    const DUPLICATE_TABLE: bool = true;
    /// A preemption that aborts is done when what its victims asked before has ended.
    const ABORT_WAITS: bool = true;
    /// A write that a leg in sync missed is answered after the configuration calls that leg stale.
    const STALE_BEFORE_ANSWER: bool = true;
    /// A region's bit is on stable storage before the region is written.
    const MAP_BEFORE_DATA: bool = true;
    /// A region's bit is cleared after the legs were flushed.
    const FLUSH_BEFORE_CLEAR: bool = true;
    /// A region is locked against writes while it is copied.
    const LOCK_WHILE_COPYING: bool = true;
    /// The halves of a pair change roles only while it is suspended.
    const SWAP_ONLY_SUSPENDED: bool = true;
    /// The primary half of a pair tells of a decision after it is durable.
    const DECISION_BEFORE_WORD: bool = true;
    /// A pair is won after the other half said that it followed.
    const GRANT_AFTER_BOTH: bool = true;
    /// A half that gives up its role has fenced whoever won by it before.
    const YIELD_BEFORE_SWAP: bool = true;
}

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strict {}

impl Rules for Strict {}

/// A mutant for tests: any number may enter, and nothing is drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoEpochGate {}

impl Rules for NoEpochGate {
    const EPOCH_GATE: bool = false;
}

/// A mutant for tests: a preemption is done while its victims' requests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreemptWithoutWaiting {}

impl Rules for PreemptWithoutWaiting {
    const ABORT_WAITS: bool = false;
}

/// A mutant for tests: a write is answered while a leg that missed it is still called in sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerBeforeStale {}

impl Rules for AnswerBeforeStale {
    const STALE_BEFORE_ANSWER: bool = false;
}

/// A mutant for tests: regions are written before their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataBeforeMap {}

impl Rules for DataBeforeMap {
    const MAP_BEFORE_DATA: bool = false;
}

/// A mutant for tests: bits are cleared while what was written may still be in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClearBeforeFlush {}

impl Rules for ClearBeforeFlush {
    const FLUSH_BEFORE_CLEAR: bool = false;
}

/// A mutant for tests: writes go on in a region that is being copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyUnlocked {}

impl Rules for CopyUnlocked {
    const LOCK_WHILE_COPYING: bool = false;
}

/// A mutant for tests: copies of requests run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDuplicateTable {}

impl Rules for NoDuplicateTable {
    const DUPLICATE_TABLE: bool = false;
}

/// A mutant for tests: a secondary half becomes the primary while the pair is copied or in the pair state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapWhilePaired {}

impl Rules for SwapWhilePaired {
    const SWAP_ONLY_SUSPENDED: bool = false;
}

/// A mutant for tests: the other half hears of a decision that a crash can undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordBeforeDecision {}

impl Rules for WordBeforeDecision {
    const DECISION_BEFORE_WORD: bool = false;
}

/// A mutant for tests: the primary half grants what the other half has not heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantAlone {}

impl Rules for GrantAlone {
    const GRANT_AFTER_BOTH: bool = false;
}

/// A mutant for tests: roles are swapped while the former winner goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapWithoutYielding {}

impl Rules for SwapWithoutYielding {
    const YIELD_BEFORE_SWAP: bool = false;
}
