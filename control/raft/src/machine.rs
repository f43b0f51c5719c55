//! What is replicated: a machine that commands are applied to, in the same order on every node.

/// The state that commands change. The same commands at the same indexes give the same state and the same
/// answers on every node; that is the implementor's part of the bargain.
///
/// It lives in memory. After a restart it begins empty, is restored from the last snapshot, and the commands
/// since then are applied again.
pub trait Machine: Send + 'static {
    /// Carries a committed command out and answers its proposer. `index` rises with each call, with gaps: the
    /// log has entries of its own. Bytes that make no sense are answered with a refusal, the same on every
    /// node.
    fn apply(&mut self, index: u64, command: &[u8]) -> Vec<u8>;

    /// The whole state, as bytes that [`Machine::restore`] takes, perhaps on another node with a later
    /// version.
    fn snapshot(&self) -> Vec<u8>;

    /// Becomes the state that `bytes` describe, as of `index`. On a fault nothing has changed.
    fn restore(&mut self, index: u64, bytes: &[u8]) -> Result<(), RestoreFault>;
}

/// A snapshot that the machine cannot take. The node stops rather than go on without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot cannot be restored: {why}")]
pub struct RestoreFault {
    /// What is wrong with it and what to do, for a person.
    pub why: String,
}
