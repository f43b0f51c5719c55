//! What the verbs rails of a node have counted.

use serde::{Deserialize, Serialize};
use std::fmt::Write;
use transport_endpoint::VerbsStatistics;

/// Counters of all verbs rails together, since the node started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Verbs {
    /// Times that a peer had no receive posted: a bug if not 0.
    pub receiver_not_ready: u64,
    /// Requests that a device refused for their memory: a bug if not 0.
    pub access_faults: u64,
    /// Posts that a queue had no room for: a bug if not 0.
    pub queue_overruns: u64,
    /// Breaches of protocol by peers.
    pub protocol_faults: u64,
    /// Requests that came back undone because their queue had failed.
    pub flushed: u64,
    /// Connections whose peer or path did not answer any more.
    pub retries_exceeded: u64,
    /// Connections lost with a port, an address or a device.
    pub device_losses: u64,
    /// Devices that vanished.
    pub devices_gone: u64,
    /// Connections that could not be set up.
    pub setups_failed: u64,
    /// Queues destroyed before all their requests came back.
    pub drains_cut_short: u64,
    /// Peers turned away for want of a place.
    pub turned_away: u64,
    /// Sends posted, and doorbells rung for them.
    pub sends: u64,
    /// Doorbells.
    pub doorbells: u64,
    /// Data bytes sent from where they lay.
    pub bytes_without_copy: u64,
    /// Data bytes copied into registered memory first.
    pub bytes_copied: u64,
}

impl From<VerbsStatistics> for Verbs {
    fn from(counted: VerbsStatistics) -> Verbs {
        Verbs {
            receiver_not_ready: counted.receiver_not_ready,
            access_faults: counted.access_faults,
            queue_overruns: counted.queue_overruns,
            protocol_faults: counted.protocol_faults,
            flushed: counted.flushed,
            retries_exceeded: counted.retries_exceeded,
            device_losses: counted.device_losses,
            devices_gone: counted.devices_gone,
            setups_failed: counted.setups_failed,
            drains_cut_short: counted.drains_cut_short,
            turned_away: counted.turned_away,
            sends: counted.sends,
            doorbells: counted.doorbells,
            bytes_without_copy: counted.bytes_without_copy,
            bytes_copied: counted.bytes_copied,
        }
    }
}

impl Verbs {
    /// Two lines for a person; a third if something happened that never should.
    pub(super) fn render(&self, out: &mut String) -> std::fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        writeln!(
            out,
            "verbs: {} sends by {} doorbells, {} MiB from where they lay, {} MiB copied",
            self.sends,
            self.doorbells,
            mib(self.bytes_without_copy),
            mib(self.bytes_copied)
        )?;
        writeln!(
            out,
            "  flushed {} retries exceeded {} device losses {} devices gone {} setups failed {} drains cut \
             short {} turned away {}",
            self.flushed,
            self.retries_exceeded,
            self.device_losses,
            self.devices_gone,
            self.setups_failed,
            self.drains_cut_short,
            self.turned_away
        )?;
        let (unready, refused) = (self.receiver_not_ready, self.access_faults);
        let (overrun, broken) = (self.queue_overruns, self.protocol_faults);
        if unready + refused + overrun + broken > 0 {
            writeln!(
                out,
                "  NEVER TO HAPPEN: receiver not ready {unready} memory refused {refused} queue overrun \
                 {overrun} protocol broken {broken}: please report it with this node's log"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: T10
    #[test]
    fn what_never_should_happen_is_told_only_when_it_has() {
        let mut counted = VerbsStatistics { sends: 7, flushed: 3, ..VerbsStatistics::default() };
        let text = |counted: VerbsStatistics| {
            let mut out = String::new();
            Verbs::from(counted).render(&mut out).expect("a string takes all");
            out
        };
        assert!(text(counted).contains("7 sends") && text(counted).contains("flushed 3"));
        assert!(!text(counted).contains("NEVER"));
        counted.receiver_not_ready = 1;
        assert!(text(counted).contains("receiver not ready 1"));
    }
}
