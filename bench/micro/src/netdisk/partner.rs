//! The worker's endpoint: answers messages, or takes them in, and counts what it allocates.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use bench_harness::{AllocationMeter, CoreId, Pinned, tell_parent};
use serde::{Deserialize, Serialize};
use transport_endpoint::{Clients, Completion, Core, Data, Delivery, Lease, PeerEvent, Tag};
use transport_proto::identity::{ClientId, NodeId};

use super::wiring::{PARTNER, Wiring};
use crate::limits::memory_copy::{Reading, look_at};

/// Longest sleep of the partner's loop; only the parent's death ends it.
const SLEEP_MAX: Duration = Duration::from_millis(100);
/// Answers that may wait for credit; more than any depth that is measured.
const OWED_MAX: usize = 1024;

/// What a message asks of the partner; the only byte of its control part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Send the data back.
    Echo,
    /// Read the data in place, say nothing.
    TakeIn,
    /// Count allocations from now on; answer.
    CountAllocations,
    /// Answer with the number of allocations since, as eight bytes, little-endian.
    TellAllocations,
}

impl Ask {
    const ALL: [Self; 4] = [Self::Echo, Self::TakeIn, Self::CountAllocations, Self::TellAllocations];

    /// The control part that says so.
    pub(crate) fn control(self) -> [u8; 1] {
        [self as u8]
    }

    fn of(control: &[u8]) -> Option<Self> {
        let byte = *control.first()?;
        Self::ALL.into_iter().find(|ask| *ask as u8 == byte)
    }
}

/// The worker's end.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Partner {
    /// Where both endpoints meet.
    pub(crate) wiring: Wiring,
    /// Where this one runs.
    pub(crate) core: CoreId,
}

impl Partner {
    /// Serves until the parent ends it.
    ///
    /// # Errors
    /// The endpoint cannot start, or its event queue fails.
    pub(crate) fn serve(self) -> Result<()> {
        let answering = Answering { meter: None, owed: VecDeque::with_capacity(OWED_MAX) };
        let mut endpoint = self.wiring.endpoint(PARTNER, answering)?;
        let _pinned = Pinned::to(self.core)?;
        tell_parent(&"ready")?;
        loop {
            endpoint.run_once(SLEEP_MAX)?;
        }
    }
}

/// The partner's call-backs.
#[derive(Default)]
pub(crate) struct Answering {
    meter: Option<AllocationMeter>,
    /// Answers that found no credit, oldest first.
    owed: VecDeque<(NodeId, ClientId, Lease)>,
}

impl Answering {
    /// Sends what is owed as far as credit goes.
    fn pay(&mut self, core: &mut Core) {
        while let Some((to, client, lease)) = self.owed.front() {
            if core.send(*to, *client, &[], Data::Copy(lease.as_ref()), Tag::SILENT).is_err() {
                return;
            }
            self.owed.pop_front();
        }
    }
}

impl Clients for Answering {
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        let (from, client) = (delivery.from, delivery.client);
        match Ask::of(delivery.control) {
            Some(Ask::Echo) if self.owed.is_empty() => {
                let answer = core.send(from, client, &[], Data::Copy(delivery.data()), Tag::SILENT);
                if answer.is_err() {
                    self.owed.push_back((from, client, delivery.lease(core)));
                }
            }
            Some(Ask::Echo) => self.owed.push_back((from, client, delivery.lease(core))),
            Some(Ask::TakeIn) => {
                std::hint::black_box(look_at(delivery.data(), Reading::EveryLine));
            }
            Some(Ask::CountAllocations) => {
                self.meter = Some(AllocationMeter::start());
                let _ = core.send(from, client, &[], Data::Empty, Tag::SILENT);
            }
            Some(Ask::TellAllocations) => {
                let count = self.meter.as_ref().map_or(u64::MAX, AllocationMeter::allocations);
                let _ = core.send(from, client, &[], Data::Copy(&count.to_le_bytes()), Tag::SILENT);
            }
            // The station says nothing else; a lost answer shows there as silence.
            None => {}
        }
    }

    fn complete(&mut self, _core: &mut Core, _completion: Completion) {}

    fn peer(&mut self, _core: &mut Core, _event: PeerEvent) {}

    fn writable(&mut self, core: &mut Core, _node: NodeId, _client: ClientId) {
        self.pay(core);
    }
}
