//! What the driver wants done, and what comes back to it.

use crate::data::{ReadData, WriteData};
use crate::engine::{BlockCompletion, BlockEngine, EngineEvent};
use crate::master_side::Asker;
use blockdev_proto::driver::{AnswerUse, DataHandle, DriverAction, Tag};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::lanes::Lane;
use blockdev_proto::wire::{Answer, Message, Operation, Request, Verdict};
use transport_endpoint::{Core, Data, Delivery};
use transport_proto::identity::NodeId;

impl BlockEngine {
    pub(crate) fn do_driver(&mut self, core: &mut Core, action: DriverAction) {
        match action {
            DriverAction::Send { to, tag, request } => self.send_driver_request(core, to, tag, request),
            DriverAction::Attach { to, attach } if to == self.node => {
                self.master.attach(to, &attach, &mut self.master_actions);
            }
            DriverAction::Attach { to, attach } => {
                self.send_control(core, to, &Message::Attach(attach));
            }
            DriverAction::Complete { tag, result, data, .. } => {
                self.complete_request(core, tag, result, data)
            }
            DriverAction::ReportPathBroken(report) => self.events.push_back(EngineEvent::PathBroken(report)),
            DriverAction::FetchMapping { volume, seen } => {
                self.events.push_back(EngineEvent::FetchMapping { volume, seen });
            }
            DriverAction::Drained { volume, epoch } => {
                self.events.push_back(EngineEvent::Drained { volume, epoch });
            }
        }
    }

    /// The payload of a request that one of the drivers has pending.
    fn payload(&self, tag: Tag, lane: Lane) -> Option<&WriteData> {
        if lane != Lane::Clients {
            return self.hosted.traffic.data_of(tag);
        }
        self.requests.get(tag.0 as u32).and_then(|kept| kept.data.as_ref())
    }

    fn send_driver_request(&mut self, core: &mut Core, to: NodeId, tag: Tag, request: Request) {
        let lane = Lane::of(request.id.slot);
        if to == self.node {
            return self.execute_here(core, tag, request, lane);
        }
        let data = self.payload(tag, lane).map_or(Data::Empty, WriteData::to_transport);
        let control = Message::Request(request).encode();
        let sent = core.send(to, lane.client(), control.as_bytes(), data, transport_endpoint::Tag::SILENT);
        if sent.is_err() {
            self.driver_of(lane).0.refused(request.id.slot);
        }
    }

    fn complete_request(
        &mut self,
        core: &mut Core,
        tag: Tag,
        result: Result<(), BlockErrno>,
        data: Option<DataHandle>,
    ) {
        let data = data.and_then(|handle| self.arrived.remove(handle.0 as u32));
        let Some(request) = self.requests.remove(tag.0 as u32) else { return };
        let brought = data.as_ref().map_or(0, |data| data.as_ref().len());
        // Not the answer to the question: the peer's word cannot be trusted.
        let result = if brought == request.brings { result } else { result.and(Err(BlockErrno::Eio)) };
        let now = core.now();
        self.note_done(now, request.volume);
        let nanos = now.since(request.since).as_nanos() as u64;
        self.completions.push_back(BlockCompletion {
            tag: request.tag,
            result: result.map(|()| data),
            nanos,
        });
    }

    pub(crate) fn on_answer(
        &mut self,
        core: &mut Core,
        from: NodeId,
        answer: Answer,
        delivery: Delivery<'_>,
    ) {
        let carries = answer.verdict == Verdict::Done && !delivery.data().is_empty();
        let data = carries.then(|| ReadData::Lease(delivery.lease(core)));
        self.answered(core, from, answer, data);
    }

    /// Hands an answer, of this node's master or another's, to the driver.
    pub(crate) fn answered(&mut self, core: &mut Core, from: NodeId, answer: Answer, data: Option<ReadData>) {
        let handle = data.map(|data| DataHandle(u64::from(self.arrived.insert(data))));
        let takes =
            |action: &DriverAction| matches!(action, DriverAction::Complete { data, .. } if *data == handle);
        let (driver, actions) = self.driver_of(Lane::of(answer.id.slot));
        match driver.answer(core.now(), from, &answer, handle, actions) {
            // The completion among the actions takes the data; that of a write wants none.
            AnswerUse::Completed if handle.is_none() || actions.iter().any(takes) => {}
            AnswerUse::Completed | AnswerUse::Absorbed | AnswerUse::Stray => {
                if let Some(handle) = handle {
                    self.arrived.remove(handle.0 as u32);
                }
            }
        }
    }

    /// The short way: the master of this node runs the driver's request without the transport (SPEC B1).
    fn execute_here(&mut self, core: &mut Core, tag: Tag, request: Request, lane: Lane) {
        let source = match request.operation {
            Operation::Write => self.payload(tag, lane).map(WriteData::to_store),
            _ => None,
        };
        self.admit(core, Asker { node: self.node, client: lane.client() }, request, source, None);
    }
}
