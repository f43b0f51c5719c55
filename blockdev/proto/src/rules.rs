//! The safety rules that a master obeys, as a type, so that tests can build a master that breaks one of them
//! and see whether their checkers notice. A rule is settled when a program is compiled: a master of
//! [`Strict`] rules carries no switch that a fault or a flag could turn, and costs nothing more.

/// Which safety rules a master obeys. Every product runs [`Strict`], which a plain `Master` names.
pub trait Rules {
    /// A request enters only at the number that the gate is open at, and the gate drains before it is raised.
    const EPOCH_GATE: bool = true;
    /// A copy of a request that runs or ran is answered from the duplicate table and not run again.
    const DUPLICATE_TABLE: bool = true;
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

/// A mutant for tests: copies of requests run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDuplicateTable {}

impl Rules for NoDuplicateTable {
    const DUPLICATE_TABLE: bool = false;
}
