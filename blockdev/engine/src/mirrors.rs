//! Mirrors among the volumes served here: their layouts, and what they want done.

use crate::data::WriteData;
use crate::engine::{BlockEngine, EngineEvent};
use crate::hosted::{Hosted, Machine, token_of};
use blockdev_proto::driver::{Submission, Tag};
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::mirror::{Layout, Mirror, MirrorAction, MirrorLimits, MirrorStatus, Payload};
use transport_endpoint::Core;

impl BlockEngine {
    /// Takes the newest row of a mirror that this node may serve.
    pub fn set_mirror(&mut self, core: &mut Core, layout: &Layout) {
        let volume = layout.volume;
        match self.hosted.find(volume) {
            Some(Hosted { machine: Machine::Mirror(_), .. }) => {
                let now = core.now();
                self.hosted.tell_mirror(volume, |mirror, actions| mirror.layout(now, layout, actions));
            }
            other => {
                if other.is_some() {
                    self.remove_hosted(core, volume);
                }
                let mirror = Mirror::new(layout, MirrorLimits::default());
                self.hosted.enter(volume, Machine::Mirror(Box::new(mirror)));
            }
        }
        self.map_parts(core, layout.legs().map(|leg| leg.volume));
        self.act(core);
    }

    /// How a mirror stands here; `None` if it is none of this node's.
    pub fn mirror_status(&self, volume: VolumeId) -> Option<MirrorStatus> {
        match &self.hosted.find(volume)?.machine {
            Machine::Mirror(mirror) => Some(mirror.status()),
            Machine::Assembly(_) => None,
        }
    }

    pub(crate) fn do_mirror(&mut self, core: &mut Core, volume: VolumeId, action: MirrorAction) {
        let now = core.now();
        match action {
            MirrorAction::Io { io, leg, operation, flags, range, payload } => {
                let data = match payload {
                    Payload::None => None,
                    Payload::Record(bytes) => Some(WriteData::Caller(bytes)),
                    Payload::Request(token) => self.payload_of(token_of(token)),
                    Payload::Read(read) => self.hosted.find_mut(volume).and_then(|hosted| hosted.share(read)),
                };
                let submission = Submission { volume: leg, operation, flags, range, tag: Tag(0) };
                self.send_to_leg(core, volume, io, submission, data);
            }
            MirrorAction::Answer { token, result, read } => {
                let data = read.and_then(|io| self.hosted.take_read(volume, io));
                self.answer_for_hosted(core, volume, token_of(token), result, data);
            }
            MirrorAction::Withdraw { token } => self.withdraw(core, token_of(token)),
            MirrorAction::Forget { io } => drop(self.hosted.take_read(volume, io)),
            MirrorAction::Drop { leg } => self.drop_part(now, leg),
            MirrorAction::Retake { leg } => self.retake_part(leg),
            MirrorAction::Propose { generation, proposal } => {
                self.events.push_back(EngineEvent::Mirror { volume, generation, proposal });
            }
            MirrorAction::Opened { persisted } => {
                self.master.ownership_taken(now, volume, persisted, &mut self.master_actions);
            }
            MirrorAction::OpenFailed { errno } => {
                tracing::error!(volume = volume.0, "no copy of the mirror that is in sync can be read");
                self.master.store_failed(now, volume, errno, &mut self.master_actions);
            }
            MirrorAction::Persisted { epoch } => {
                self.master.epoch_persisted(now, volume, epoch, &mut self.master_actions);
            }
        }
    }
}
