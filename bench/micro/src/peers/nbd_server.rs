//! Anything that serves a disk over NBD, so that one fio job can be pointed at each in turn.

use anyhow::Result;

/// A server that can be started for one turn and stopped after it.
pub(crate) trait NbdServer {
    /// What the table calls it.
    fn name(&self) -> String;
    /// Starts it with an empty disk and returns when clients can connect.
    ///
    /// # Errors
    /// What kept it from serving.
    fn start(&self) -> Result<Box<dyn RunningNbdServer>>;
}

/// A serving process. Dropping it stops it and leaves nothing behind.
pub(crate) trait RunningNbdServer {
    /// Where clients connect, as an NBD URI.
    fn uri(&self) -> String;
}
