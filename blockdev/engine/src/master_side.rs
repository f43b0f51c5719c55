//! What the master wants done: requests on disks, answers to drivers, gates and ownership.

use crate::data::{ReadData, WriteData};
use crate::disks::OwnershipWish;
use crate::engine::{BlockEngine, EngineEvent, passes};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{DiskId, VolumeId};
use blockdev_proto::master::{Admission, MasterAction, Token};
use blockdev_proto::wire::{Answer, Message, Operation, Request, RequestFlags, Verdict};
use blockdev_store::{DriveEnd, DriveIo, DriveOperation, ReadTarget, Returned, SubmitRefusal, WriteSource};
use std::sync::Arc;
use transport_endpoint::{BufferHome, Core, Data, Delivery, LeaseTicket, PostRefusal, SendBuffer};
use transport_proto::identity::{ClientId, NodeId};

/// Who asked, and is to be answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub(crate) node: NodeId,
    /// Which of its drivers.
    pub(crate) client: ClientId,
}

/// A request that runs on a disk, or on a volume that lies on others, of this node.
#[derive(Debug)]
pub(crate) struct Running {
    token: Token,
    to: Asker,
    /// Payload of a write to a volume that lies on others.
    data: Option<WriteData>,
    /// Of a read of such a volume: what has come of it, from several parts.
    collected: Option<Vec<u8>>,
    /// Where a read's memory lies.
    home: Option<BufferHome>,
    /// Credit of the lease whose memory a write is taken from; given back when it ends.
    ticket: Option<LeaseTicket>,
}

/// An answer that the transport has not taken yet.
#[derive(Debug)]
pub(crate) struct Answering {
    to: Asker,
    answer: Answer,
    data: Data<'static>,
}

impl BlockEngine {
    pub(crate) fn on_request(&mut self, core: &mut Core, request: Request, delivery: Delivery<'_>) {
        let from = Asker { node: delivery.from, client: delivery.client };
        if let Err(fault) = request.check_data_length(delivery.data().len()) {
            self.wire_fault(from.node, fault);
            let answer = request.answered(Verdict::Errno(BlockErrno::Einval));
            return self.reply(core, from, answer, None);
        }
        if request.operation != Operation::Write {
            return self.admit(core, from, request, None, None);
        }
        let (source, ticket) = match delivery.lease(core).into_shared() {
            Ok((chunk, ticket)) => (WriteSource::whole(chunk), Some(ticket)),
            // A write so small that it travelled in the frame.
            Err(lease) => {
                let bytes = Arc::new(lease.as_ref().to_vec());
                let length = bytes.len();
                (WriteSource::Caller(bytes, 0..length), None)
            }
        };
        self.admit(core, from, request, Some(source), ticket);
    }

    /// Asks the master about a request, and runs it or answers it.
    pub(crate) fn admit(
        &mut self,
        core: &mut Core,
        from: Asker,
        request: Request,
        source: Option<WriteSource>,
        ticket: Option<LeaseTicket>,
    ) {
        if self.is_shut() {
            let answer = request.answered(Verdict::NackBusy);
            return self.reply(core, from, answer, None);
        }
        match self.master.admit(core.now(), from.node, &request) {
            Admission::Execute(token) => self.execute(core, from, token, request, source, ticket),
            Admission::Answer(answer) => self.reply(core, from, answer, None),
            Admission::Drop => {}
        }
    }

    fn execute(
        &mut self,
        core: &mut Core,
        to: Asker,
        token: Token,
        request: Request,
        source: Option<WriteSource>,
        ticket: Option<LeaseTicket>,
    ) {
        if self.hosted.has(request.volume) {
            let data = source.map(WriteData::of_store);
            self.note_running(Running { token, to, data, collected: None, home: None, ticket });
            return self.run_on_hosted(core, token, &request);
        }
        let (operation, home) = match self.operation(core, to, &request, source) {
            Ok(prepared) => prepared,
            Err(errno) => return self.executed(core, token, to, Err(errno), None),
        };
        self.note_running(Running { token, to, data: None, collected: None, home, ticket });
        let io = DriveIo { tag: u64::from(token.index), offset_bytes: request.range.offset, operation };
        self.run(core, request.volume, io);
    }

    fn note_running(&mut self, running: Running) {
        let index = running.token.index as usize;
        if self.running.len() <= index {
            self.running.resize_with(index + 1, || None);
        }
        self.running[index] = Some(running);
    }

    /// Takes out a request that runs, if it is that one.
    pub(crate) fn take_running(&mut self, token: Token) -> Option<Running> {
        self.running.get_mut(token.index as usize)?.take_if(|running| running.token == token)
    }

    /// The payload of a write that runs.
    pub(crate) fn payload_of(&self, token: Token) -> Option<WriteData> {
        let running = self.running.get(token.index as usize)?.as_ref();
        running.filter(|running| running.token == token)?.data.clone()
    }

    /// What has come of a read, to be added to.
    pub(crate) fn take_collected(&mut self, token: Token) -> Option<Vec<u8>> {
        let running = self.running.get_mut(token.index as usize)?.as_mut();
        running.filter(|running| running.token == token)?.collected.take()
    }

    pub(crate) fn put_collected(&mut self, token: Token, bytes: Vec<u8>) {
        let running = self.running.get_mut(token.index as usize).and_then(Option::as_mut);
        if let Some(running) = running.filter(|running| running.token == token) {
            running.collected = Some(bytes);
        }
    }

    /// The request as the store knows it. Memory for a read is taken where the reader will find the bytes.
    fn operation(
        &mut self,
        core: &mut Core,
        to: Asker,
        request: &Request,
        source: Option<WriteSource>,
    ) -> Result<(DriveOperation, Option<BufferHome>), BlockErrno> {
        let length_bytes = u64::from(request.range.length);
        let fua = request.flags.contains(RequestFlags::FUA);
        let may_unmap = !request.flags.contains(RequestFlags::NO_UNMAP);
        Ok(match request.operation {
            Operation::Read => {
                let length = request.range.length as usize;
                let reserved = if to.node == self.node {
                    core.allocate(length)
                } else {
                    core.reserve(to.node, to.client, length)
                };
                match reserved {
                    Ok(buffer) => {
                        let (chunk, home) = buffer.into_parts();
                        (DriveOperation::Read(ReadTarget::Chunk(chunk)), Some(home))
                    }
                    // The reader holds all of its memory; the heap bridges the gap, bounded by the window.
                    Err(PostRefusal::NoMemory | PostRefusal::Full | PostRefusal::NotConnected) => {
                        (DriveOperation::Read(ReadTarget::Bytes(vec![0; length])), None)
                    }
                    Err(PostRefusal::TooLarge) => return Err(BlockErrno::Eoverflow),
                }
            }
            Operation::Write => match source {
                Some(source) => (DriveOperation::Write { source, fua }, None),
                None => return Err(BlockErrno::Einval),
            },
            Operation::Flush => (DriveOperation::Flush, None),
            Operation::Discard => (DriveOperation::Discard { length_bytes }, None),
            Operation::WriteZeroes => (DriveOperation::WriteZeroes { length_bytes, may_unmap, fua }, None),
        })
    }

    /// Gives a request to the disk that serves the volume here.
    fn run(&mut self, core: &mut Core, volume: VolumeId, io: DriveIo) {
        let index = io.tag as usize;
        let id = self.master.disk_in_hand(volume);
        let Some(disk) = self.disks.iter_mut().find(|disk| disk.id == id) else {
            return self.fail(core, index, BlockErrno::Enodev);
        };
        match disk.drive.submit(io) {
            Ok(Some(end)) => self.ended(core, end),
            Ok(None) => {}
            Err((SubmitRefusal::Full { .. }, io)) => disk.waiting.push_back(io),
            Err((SubmitRefusal::ReadOnly, _)) => self.fail(core, index, BlockErrno::Erofs),
            Err((SubmitRefusal::NotOwned, _)) => self.fail(core, index, BlockErrno::Enodev),
            Err((_, _)) => self.fail(core, index, BlockErrno::Einval),
        }
    }

    fn fail(&mut self, core: &mut Core, index: usize, errno: BlockErrno) {
        if let Some(running) = self.running.get_mut(index).and_then(Option::take) {
            self.executed(core, running.token, running.to, Err(errno), None);
        }
    }

    /// A disk is done with a request.
    pub(crate) fn ended(&mut self, core: &mut Core, end: DriveEnd) {
        let Some(running) = self.running.get_mut(end.tag as usize).and_then(Option::take) else { return };
        let result = end.result.map_err(|fault| BlockErrno::from_linux(fault.errno()));
        let data = match (result.is_ok(), end.memory) {
            (true, Returned::Read(target)) => Some((target, running.home)),
            _ => None,
        };
        drop(running.ticket);
        self.executed(core, running.token, running.to, result, data);
    }

    fn executed(
        &mut self,
        core: &mut Core,
        token: Token,
        to: Asker,
        result: Result<(), BlockErrno>,
        data: Option<(ReadTarget, Option<BufferHome>)>,
    ) {
        let reply = self.master.executed(core.now(), token, result, &mut self.master_actions);
        debug_assert!(reply.is_none_or(|reply| reply.to == to.node));
        if let Some(reply) = reply {
            let data = if reply.answer.verdict == Verdict::Done { data } else { None };
            self.reply(core, to, reply.answer, data);
        }
    }

    /// A volume that lies on others is done with a request.
    pub(crate) fn executed_for(
        &mut self,
        core: &mut Core,
        running: Running,
        result: Result<(), BlockErrno>,
        data: Option<ReadData>,
    ) {
        let Running { token, to, .. } = running;
        let Some(reply) = self.master.executed(core.now(), token, result, &mut self.master_actions) else {
            return;
        };
        let data = data.filter(|_| reply.answer.verdict == Verdict::Done);
        if to.node == self.node {
            return self.answered(core, to.node, reply.answer, data);
        }
        let (data, ticket) = match data.map(ReadData::into_shared) {
            Some((shared, ReadData::Shared(_, ticket))) => (shared.to_transport(), ticket),
            Some((shared, _)) => (shared.to_transport(), None),
            None => (Data::Empty, None),
        };
        self.send_answer(core, to, reply.answer, data);
        // The transport holds the memory; the credit for more of it goes back.
        drop(ticket);
    }

    /// A request will not be carried out by the volume here: whoever asked asks again.
    pub(crate) fn withdraw(&mut self, core: &mut Core, token: Token) {
        let Some(Running { to, .. }) = self.take_running(token) else { return };
        if let Some(reply) = self.master.withdrawn(core.now(), token, &mut self.master_actions) {
            self.reply(core, to, reply.answer, None);
        }
    }

    fn reply(
        &mut self,
        core: &mut Core,
        to: Asker,
        answer: Answer,
        data: Option<(ReadTarget, Option<BufferHome>)>,
    ) {
        if to.node == self.node {
            let data = data.map(|(target, _)| ReadData::Local(target));
            self.answered(core, to.node, answer, data);
            return self.act(core);
        }
        let data = match data {
            Some((ReadTarget::Chunk(chunk), Some(home))) => {
                Some(Data::Reserved(SendBuffer::from_parts(chunk, home)))
            }
            Some((ReadTarget::Chunk(chunk), None)) => Some(Data::Shared(chunk.share())),
            Some((ReadTarget::Bytes(bytes), _)) => Some(Data::Caller(Arc::new(bytes))),
            None => None,
        };
        self.send_answer(core, to, answer, data.unwrap_or(Data::Empty));
    }

    /// Sends an answer, or keeps it until the transport takes it. Bounded by the requests that may run and by
    /// the window of each peer: a peer without credit has that many answers outstanding and sends no more
    /// requests.
    fn send_answer(&mut self, core: &mut Core, to: Asker, answer: Answer, data: Data<'static>) {
        let control = Message::Answer(answer).encode();
        let tag = transport_endpoint::Tag::SILENT;
        match core.send(to.node, to.client, control.as_bytes(), data, tag) {
            Ok(()) => {}
            Err((refusal, data)) if passes(refusal) => {
                self.answering.push_back(Answering { to, answer, data });
            }
            // The peer is gone for good; its driver asks another master, or this one in another life.
            Err(_) => {}
        }
    }

    /// Sends answers that were kept, each peer's in order.
    pub(crate) fn send_answers(&mut self, core: &mut Core) {
        for _ in 0..self.answering.len() {
            let Some(Answering { to, answer, data }) = self.answering.pop_front() else { return };
            self.send_answer(core, to, answer, data);
        }
    }

    /// A peer's old life is gone, and with it whoever waited for these.
    pub(crate) fn forget_answers(&mut self, node: NodeId) {
        self.answering.retain(|answering| answering.to.node != node);
    }

    // --- gates and ownership ---

    pub(crate) fn do_master(&mut self, core: &mut Core, action: MasterAction) {
        match action {
            MasterAction::TakeOwnership { volume, disk: DiskId::PARTS } => self.open_hosted(core, volume),
            MasterAction::ReleaseOwnership { volume, disk: DiskId::PARTS } => {
                self.abandon_hosted(volume);
                self.master.ownership_released(core.now(), volume, &mut self.master_actions);
            }
            MasterAction::PersistEpoch { volume, disk: DiskId::PARTS, epoch } => {
                self.persist_on_hosted(core, volume, epoch);
            }
            MasterAction::TakeOwnership { volume, disk } => self.wish(OwnershipWish::Take { volume, disk }),
            MasterAction::ReleaseOwnership { volume, disk } => {
                self.wish(OwnershipWish::Release { volume, disk })
            }
            MasterAction::PersistEpoch { volume, disk, epoch } => {
                self.persist_epoch(core, volume, disk, epoch)
            }
            MasterAction::GateOpened { volume, epoch } => {
                self.events.push_back(EngineEvent::GateOpened { volume, epoch });
            }
            MasterAction::GateClosed { volume, epoch } => {
                self.events.push_back(EngineEvent::GateClosed { volume, epoch });
            }
            MasterAction::AnswerAttached { to, attached } if to == self.node => {
                self.attached(core, to, &attached);
            }
            MasterAction::AnswerAttached { to, attached } => {
                // Lost for want of credit, it is asked for again.
                self.send_control(core, to, &Message::Attached(attached));
            }
            MasterAction::AnswerSettled { to, settled } if to == self.node => {
                self.events.push_back(EngineEvent::Settled(settled));
            }
            MasterAction::AnswerSettled { to, settled } => {
                // Lost for want of credit, it is asked for again.
                self.send_control(core, to, &Message::Settled(settled));
            }
            MasterAction::ReportPathBroken(report) => self.events.push_back(EngineEvent::PathBroken(report)),
            MasterAction::EpochSpent { volume, persisted } => {
                self.events.push_back(EngineEvent::EpochSpent { volume, persisted });
            }
        }
    }

    /// A newer wish about a disk replaces an older one that was not fulfilled yet.
    fn wish(&mut self, wish: OwnershipWish) {
        let disk = wish.disk();
        self.wishes.retain(|known| known.disk() != disk);
        self.wishes.push(wish);
    }

    fn persist_epoch(
        &mut self,
        core: &mut Core,
        volume: VolumeId,
        disk: DiskId,
        epoch: transport_proto::identity::Epoch,
    ) {
        let now = core.now();
        let persisted = match self.disk(disk) {
            Some(disk) => disk.drive.persist_epoch(epoch.0).map_err(|refusal| {
                tracing::error!(volume = volume.0, "cannot persist the fencing number: {refusal}");
            }),
            None => Err(()),
        };
        match persisted {
            Ok(()) => self.master.epoch_persisted(now, volume, epoch, &mut self.master_actions),
            Err(()) => self.master.store_failed(now, volume, BlockErrno::Eio, &mut self.master_actions),
        }
    }
}
