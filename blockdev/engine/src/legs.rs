//! What volumes served here ask of the virtual disks that they lie on: a driver for each lane, requests that
//! wait for room, and their ends.

use crate::data::{ReadData, WriteData};
use crate::engine::BlockEngine;
use blockdev_proto::driver::{DataHandle, Driver, DriverAction, Submission, SubmitRefusal, Tag};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::lanes::{Lane, STOREYS_MAX};
use blockdev_proto::mapping::Mapping;
use blockdev_proto::mirror::IoId;
use blockdev_proto::wire::Operation;
use std::collections::VecDeque;
use transport_endpoint::Core;
use transport_proto::identity::{Incarnation, NodeId};
use transport_proto::time::Time;

use crate::slots::Slots;

/// A request to a part.
struct LegRequest {
    whole: VolumeId,
    io: IoId,
    data: Option<WriteData>,
    brings: usize,
}

/// A request to a part that its driver had no room for.
struct Waiting {
    number: u32,
    submission: Submission,
}

/// The end of a request to a part, before its volume has heard of it.
pub(crate) struct LegEnd {
    pub(crate) whole: VolumeId,
    pub(crate) io: IoId,
    pub(crate) result: Result<(), BlockErrno>,
    pub(crate) data: Option<ReadData>,
}

/// Requests to parts and their ends.
#[derive(Default)]
pub(crate) struct LegTraffic {
    requests: Slots<LegRequest>,
    waiting: [VecDeque<Waiting>; STOREYS_MAX],
    ends: VecDeque<LegEnd>,
}

impl LegTraffic {
    pub(crate) fn is_idle(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn next_end(&mut self) -> Option<LegEnd> {
        self.ends.pop_front()
    }

    /// The data of a request to a part.
    pub(crate) fn data_of(&self, tag: Tag) -> Option<&WriteData> {
        self.requests.get(tag.0 as u32).and_then(|request| request.data.as_ref())
    }

    fn ended(&mut self, number: u32, result: Result<(), BlockErrno>, data: Option<ReadData>) {
        let Some(LegRequest { whole, io, brings, .. }) = self.requests.remove(number) else { return };
        let brought = data.as_ref().map_or(0, |data| data.as_ref().len());
        // Not the answer to the question: the peer's word cannot be trusted.
        let result = if brought == brings { result } else { result.and(Err(BlockErrno::Eio)) };
        self.ends.push_back(LegEnd { whole, io, result, data });
    }
}

/// The drivers of the lanes of volumes.
pub(crate) fn drivers(node: NodeId, incarnation: Incarnation) -> [Driver; STOREYS_MAX] {
    Lane::OF_VOLUMES.map(|lane| Driver::new(node, incarnation, lane.limits()))
}

fn index_of(lane: Lane) -> usize {
    usize::from(lane == Lane::VolumeLegs)
}

impl BlockEngine {
    /// The driver that sends a request of this lane.
    pub(crate) fn driver_of(&mut self, lane: Lane) -> (&mut Driver, &mut Vec<DriverAction>) {
        match lane {
            Lane::Clients => (&mut self.driver, &mut self.driver_actions),
            Lane::Legs | Lane::VolumeLegs => (&mut self.legs[index_of(lane)], &mut self.leg_actions),
        }
    }

    /// The lane to a part of a volume here.
    fn lane_to(&self, part: VolumeId) -> Lane {
        Lane::to_part(self.master.mapping_of(part).is_some_and(Mapping::has_parts))
    }

    pub(crate) fn map_leg(&mut self, now: Time, mapping: &Mapping) {
        let (driver, actions) = self.driver_of(Lane::to_part(mapping.has_parts()));
        // The master has checked the row.
        let taken = driver.mapping(now, mapping, actions);
        debug_assert!(taken.is_ok());
    }

    pub(crate) fn send_to_leg(
        &mut self,
        core: &mut Core,
        whole: VolumeId,
        io: IoId,
        submission: Submission,
        data: Option<WriteData>,
    ) {
        let brings =
            if submission.operation == Operation::Read { submission.range.length as usize } else { 0 };
        let expected =
            if submission.operation == Operation::Write { submission.range.length as usize } else { 0 };
        let lacks_data = data.as_ref().map_or(0, WriteData::len) != expected;
        let traffic = &mut self.hosted.traffic;
        let number = traffic.requests.insert(LegRequest { whole, io, data, brings });
        if lacks_data {
            return traffic.ended(number, Err(BlockErrno::Einval), None);
        }
        let lane = self.lane_to(submission.volume);
        let submission = Submission { tag: Tag(u64::from(number)), ..submission };
        if self.hosted.traffic.waiting[index_of(lane)].is_empty() {
            self.submit_to_leg(core, lane, Waiting { number, submission });
        } else {
            self.hosted.traffic.waiting[index_of(lane)].push_back(Waiting { number, submission });
        }
    }

    /// `false`: there was no room, and it waits.
    fn submit_to_leg(&mut self, core: &mut Core, lane: Lane, request: Waiting) -> bool {
        let (driver, actions) = self.driver_of(lane);
        let taken = driver.submit(core.now(), &request.submission, actions);
        let traffic = &mut self.hosted.traffic;
        match taken {
            Ok(_) => {}
            Err(SubmitRefusal::Full { .. }) => {
                traffic.waiting[index_of(lane)].push_front(request);
                return false;
            }
            Err(SubmitRefusal::NoMapping) => traffic.ended(request.number, Err(BlockErrno::Enodev), None),
            Err(SubmitRefusal::Invalid(errno)) => traffic.ended(request.number, Err(errno), None),
        }
        true
    }

    /// Everything for a part fails until it is retaken, what waits for room too.
    pub(crate) fn drop_part(&mut self, now: Time, part: VolumeId) {
        let lane = self.lane_to(part);
        let traffic = &mut self.hosted.traffic;
        for waiting in core::mem::take(&mut traffic.waiting[index_of(lane)]) {
            if waiting.submission.volume == part {
                traffic.ended(waiting.number, Err(BlockErrno::Eio), None);
            } else {
                traffic.waiting[index_of(lane)].push_back(waiting);
            }
        }
        let (driver, actions) = self.driver_of(lane);
        driver.fail(now, part, BlockErrno::Eio, actions);
    }

    /// The part's requests are taken again.
    pub(crate) fn retake_part(&mut self, part: VolumeId) {
        let lane = self.lane_to(part);
        self.driver_of(lane).0.stop_failing(part);
    }

    /// A driver of parts has an answer, and room.
    fn complete_leg(
        &mut self,
        core: &mut Core,
        tag: Tag,
        result: Result<(), BlockErrno>,
        data: Option<DataHandle>,
    ) {
        let data = data.and_then(|handle| self.arrived.remove(handle.0 as u32));
        self.hosted.traffic.ended(tag.0 as u32, result, data);
        for lane in Lane::OF_VOLUMES {
            while let Some(request) = self.hosted.traffic.waiting[index_of(lane)].pop_front() {
                if !self.submit_to_leg(core, lane, request) {
                    break;
                }
            }
        }
    }

    /// What the drivers of parts want done.
    pub(crate) fn do_legs(&mut self, core: &mut Core, action: DriverAction) {
        match action {
            DriverAction::Complete { tag, result, data, .. } => self.complete_leg(core, tag, result, data),
            // A volume cannot do more about a broken path than meet the error; the master tells of it too.
            other => self.do_driver(core, other),
        }
    }

    pub(crate) fn legs_of_peer(&mut self, core: &mut Core, node: NodeId, is_up: bool) {
        let now = core.now();
        for driver in &mut self.legs {
            if is_up {
                driver.peer_up(now, node, &mut self.leg_actions);
                driver.writable(now, node, u32::MAX, &mut self.leg_actions);
            } else {
                driver.peer_gone(now, node, &mut self.leg_actions);
            }
        }
    }
}
