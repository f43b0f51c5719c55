//! Concatenations and stripes among the volumes served here: their layouts, what they want done, and the
//! bytes of requests that lie on several parts.

use crate::data::{ReadData, WriteData};
use crate::engine::BlockEngine;
use crate::hosted::{Hosted, Machine, token_of};
use blockdev_proto::assembly::{
    Arrangement, Assembly, AssemblyAction, AssemblyLayout, AssemblyStatus, PartPayload,
};
use blockdev_proto::driver::{Submission, Tag};
use blockdev_proto::geometry::{ByteRange, VolumeId};
use blockdev_proto::master::Token;
use blockdev_store::ReadTarget;
use std::sync::Arc;
use transport_endpoint::Core;

impl BlockEngine {
    /// Takes the newest row of a concatenation or stripe that this node may serve.
    pub fn set_assembly(&mut self, core: &mut Core, layout: &AssemblyLayout) {
        let volume = layout.volume;
        match self.hosted.find(volume) {
            Some(Hosted { machine: Machine::Assembly(known), .. })
                if layout.parts.starts_with(&known.current_layout().parts) =>
            {
                self.hosted.tell_assembly(volume, |assembly, actions| assembly.layout(layout, actions));
            }
            other => {
                if other.is_some() {
                    self.remove_hosted(core, volume);
                }
                let assembly = Assembly::new(layout.clone());
                self.hosted.enter(volume, Machine::Assembly(Box::new(assembly)));
            }
        }
        self.map_parts(core, layout.parts.iter().copied());
        self.act(core);
    }

    /// How a concatenation or stripe stands here; `None` if it is none of this node's.
    pub fn assembly_status(&self, volume: VolumeId) -> Option<AssemblyStatus> {
        match &self.hosted.find(volume)?.machine {
            Machine::Assembly(assembly) => Some(assembly.status()),
            Machine::Mirror(_) => None,
        }
    }

    fn arrangement(&self, volume: VolumeId) -> Option<&Arrangement> {
        match &self.hosted.find(volume)?.machine {
            Machine::Assembly(assembly) => Some(&assembly.current_layout().arrangement),
            Machine::Mirror(_) => None,
        }
    }

    pub(crate) fn do_assembly(&mut self, core: &mut Core, volume: VolumeId, action: AssemblyAction) {
        let now = core.now();
        match action {
            AssemblyAction::Io { io, token, place, part, operation, flags, range, whole, payload } => {
                let data = match payload {
                    PartPayload::None => None,
                    PartPayload::Whole => self.payload_of(token_of(token)),
                    PartPayload::Gathered => self.gathered(volume, token_of(token), place, whole),
                };
                let submission = Submission { volume: part, operation, flags, range, tag: Tag(0) };
                self.send_to_leg(core, volume, io, submission, data);
            }
            AssemblyAction::Collect { io, token, place, whole } => {
                // What it came in is given back here: another part may be long in coming.
                let Some(data) = self.hosted.take_read(volume, io) else { return };
                self.collect(volume, token_of(token), place, whole, data.as_ref());
            }
            AssemblyAction::Answer { token, result, read } => {
                let token = token_of(token);
                let data = match read {
                    Some(io) => self.hosted.take_read(volume, io),
                    None => {
                        let collected = self.take_collected(token);
                        collected.map(|bytes| ReadData::Local(ReadTarget::Bytes(bytes)))
                    }
                };
                self.answer_for_hosted(core, volume, token, result, data.filter(|_| result.is_ok()));
            }
            AssemblyAction::Withdraw { token } => self.withdraw(core, token_of(token)),
            AssemblyAction::Forget { io } => drop(self.hosted.take_read(volume, io)),
            AssemblyAction::Drop { part } => self.drop_part(now, part),
            AssemblyAction::Retake { part } => self.retake_part(part),
        }
    }

    /// A part's share of the payload of a write.
    fn gathered(&self, volume: VolumeId, token: Token, place: usize, whole: ByteRange) -> Option<WriteData> {
        let payload = self.payload_of(token)?;
        let share = self.arrangement(volume)?.gather(place, whole, payload.as_ref());
        Some(WriteData::Caller(Arc::new(share)))
    }

    fn collect(&mut self, volume: VolumeId, token: Token, place: usize, whole: ByteRange, share: &[u8]) {
        let mut bytes = self.take_collected(token).unwrap_or_else(|| vec![0; whole.length as usize]);
        let fits = self
            .arrangement(volume)
            .is_some_and(|arrangement| arrangement.scatter(place, whole, share, &mut bytes));
        // Its length was looked at when it came.
        debug_assert!(fits);
        self.put_collected(token, bytes);
    }
}
