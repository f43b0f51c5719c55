//! The safety rules that the machines of control obey, as a type, so that tests can build a machine that
//! breaks one of them and see whether their checkers notice. A rule is settled when a program is compiled:
//! machines of [`Strict`] rules carry no switch, and cost nothing more.

/// Which rules are obeyed. Every product runs [`Strict`], which plain names stand for.
pub trait ProtocolRules: Clone + core::fmt::Debug + Eq + core::hash::Hash + 'static {
    /// A reconfiguration counts an acknowledgement only of the very life that it waits for.
    const ACK_OF_THIS_LIFE: bool = true;
    /// A node lets a suspended virtual disk go on only when the log says so.
    const RESUME_ON_LOG_ONLY: bool = true;
    /// The holder of a lease counts it from when it asked, not from when the grant arrived; the leader its
    /// own from when it asked for its confirmation.
    const LEASE_FROM_SEND: bool = true;
}

/// All of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strict {}

impl ProtocolRules for Strict {}

/// A mutant for tests: an acknowledgement of any life of the node counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AckOfAnyLife {}

impl ProtocolRules for AckOfAnyLife {
    const ACK_OF_THIS_LIFE: bool = false;
}

/// A mutant for tests: a node resumes when it has waited for longer than the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResumeOnTimer {}

impl ProtocolRules for ResumeOnTimer {
    const RESUME_ON_LOG_ONLY: bool = false;
}

/// A mutant for tests: a lease counts from when the grant arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseFromReceipt {}

impl ProtocolRules for LeaseFromReceipt {
    const LEASE_FROM_SEND: bool = false;
}
