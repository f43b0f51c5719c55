//! The simulated network: devices, queues, and what is on its way between them.

use super::queue::{Outstanding, Queue, State};
use crate::fabric::{
    Completed, Completion, CompletionFault, DeviceEvent, DeviceId, FabricFault, Gid, Memory, Mtu, Operation,
    Part, Port, QueueDepth, QueueEnd, QueueId, ReceiveRequest, SendRequest,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use transport_buf::Region;

/// How rough it is.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Steps that a packet, an answer or a completion takes at the most.
    pub delay_steps_max: u64,
    /// Steps for which packets of a dead sender may still land.
    pub late_steps_max: u64,
    /// Bytes that a device copies when a send is posted.
    pub inline_bytes_max: usize,
}

impl Weather {
    /// Everything arrives within a few steps.
    pub const FAIR: Weather = Weather { delay_steps_max: 2, late_steps_max: 50, inline_bytes_max: 256 };
    /// Long delays, late packets, and no inline sends.
    pub const ROUGH: Weather = Weather { delay_steps_max: 40, late_steps_max: 2000, inline_bytes_max: 0 };
}

/// What the network has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sends that found no receive.
    pub receiver_not_ready: u64,
    /// Requests for memory that was not theirs.
    pub access_faults: u64,
    /// Posts on a queue that was full.
    pub overruns: u64,
    /// Packets of dead senders that landed in a queue that still was.
    pub late_landings: u64,
    /// Packets of dead senders that found no queue, or one that did not expect them.
    pub late_refusals: u64,
    /// Queues that were connected with larger packets than both ports carry.
    pub packets_too_large: u64,
    /// Queues that began with the packet number of an earlier one.
    pub packet_numbers_reused: u64,
    /// Queues that were made on a place of an address that is not its place any more.
    pub stale_places: u64,
    /// Bytes carried by writes.
    pub bytes_written: u64,
}

/// A process on the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner(u32);

struct Opened {
    owner: Owner,
    completions: OwnedFd,
    events: OwnedFd,
    said: VecDeque<DeviceEvent>,
}

struct Device {
    id: DeviceId,
    gid: Gid,
    up: bool,
    present: bool,
    gid_index: u8,
    opened: Vec<Opened>,
}

/// A device as [`Network::find`] found it.
pub(super) struct Found {
    pub(super) id: DeviceId,
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) up: bool,
    pub(super) gid_index: u8,
    pub(super) mtu: u8,
}

struct Registered {
    region: Arc<Region>,
    device: DeviceId,
    address: u64,
    remote_write: bool,
}

/// A packet whose sender is dead.
struct Late {
    from: u32,
    from_gid: Gid,
    to: QueueEnd,
    sequence: u32,
    operation: Operation,
    bytes: Vec<u8>,
    /// From when on it may land, and when it is lost for good.
    due: u64,
    until: u64,
}

pub(super) struct Network {
    pub(super) weather: Weather,
    pub(super) lockable: Option<u64>,
    pub(super) counters: Counters,
    random: u64,
    now: u64,
    identities: u32,
    owners: HashMap<Owner, OwnedFd>,
    devices: Vec<Device>,
    memories: HashMap<u32, Registered>,
    keys: u32,
    queues: Vec<Queue>,
    cuts: HashSet<(Gid, Gid)>,
    late: Vec<Late>,
    packet_numbers: HashSet<u32>,
}

/// Odd and even devices differ, so that the smaller size must be agreed on.
fn mtu_at(place: usize) -> u8 {
    if place.is_multiple_of(2) { 5 } else { 4 }
}

fn ring(bell: &OwnedFd) {
    // A counter at its limit is a bell that rings already.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

impl Network {
    pub(super) fn new(seed: u64, weather: Weather) -> Network {
        Network {
            weather,
            lockable: None,
            counters: Counters::default(),
            random: seed | 1,
            now: 0,
            identities: 0,
            owners: HashMap::new(),
            devices: Vec::new(),
            memories: HashMap::new(),
            keys: 0,
            queues: Vec::new(),
            cuts: HashSet::new(),
            late: Vec::new(),
            packet_numbers: HashSet::new(),
        }
    }

    /// A number below `end`.
    fn draw(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if end == 0 { 0 } else { (self.random >> 11) % end }
    }

    fn delay(&mut self) -> u64 {
        let steps = self.weather.delay_steps_max + 1;
        self.now + self.draw(steps)
    }

    fn identity(&mut self) -> u32 {
        self.identities += 1;
        self.identities
    }

    // --- processes and devices ---

    pub(super) fn join(&mut self, transitions: OwnedFd) -> Owner {
        let owner = Owner(self.identity());
        self.owners.insert(owner, transitions);
        owner
    }

    /// A process died: its queues are gone, what it sent is still on its way.
    pub(super) fn leave(&mut self, owner: Owner) {
        for place in 0..self.queues.len() {
            if self.queues[place].owner == owner && self.queues[place].state != State::Destroyed {
                self.destroy(QueueId(place as u32));
            }
        }
        for device in &mut self.devices {
            device.opened.retain(|opened| opened.owner != owner);
        }
        self.owners.remove(&owner);
    }

    fn place_of(&mut self, gid: Gid) -> usize {
        match self.devices.iter().position(|device| device.gid == gid) {
            Some(place) => place,
            None => {
                let id = DeviceId(self.identity());
                let opened = Vec::new();
                self.devices.push(Device { id, gid, up: true, present: true, gid_index: 1, opened });
                self.devices.len() - 1
            }
        }
    }

    pub(super) fn find(&mut self, gid: Gid) -> Option<Found> {
        let place = self.place_of(gid);
        let device = &self.devices[place];
        let mtu = mtu_at(place);
        device.present.then(|| Found {
            id: device.id,
            place,
            name: format!("double{place}"),
            up: device.up,
            gid_index: device.gid_index,
            mtu,
        })
    }

    pub(super) fn names(&self) -> Vec<String> {
        let present = self.devices.iter().enumerate().filter(|(_, device)| device.present);
        present.map(|(place, _)| format!("double{place}")).collect()
    }

    pub(super) fn open(&mut self, owner: Owner, place: usize, completions: OwnedFd, events: OwnedFd) {
        let opened = Opened { owner, completions, events, said: VecDeque::new() };
        self.devices[place].opened.push(opened);
    }

    pub(super) fn close(&mut self, owner: Owner, device: DeviceId) {
        for known in self.devices.iter_mut().filter(|known| known.id == device) {
            known.opened.retain(|opened| opened.owner != owner);
        }
    }

    fn say(&mut self, place: usize, event: DeviceEvent) {
        for opened in &mut self.devices[place].opened {
            opened.said.push_back(event);
            ring(&opened.events);
        }
    }

    pub(super) fn next_event(&mut self, owner: Owner, device: DeviceId) -> Option<DeviceEvent> {
        let opened = self.devices.iter_mut().flat_map(|known| {
            let here = known.id == device;
            known.opened.iter_mut().filter(move |opened| here && opened.owner == owner)
        });
        opened.into_iter().find_map(|opened| opened.said.pop_front())
    }

    pub(super) fn set_cut(&mut self, one: Gid, other: Gid, cut: bool) {
        for path in [(one, other), (other, one)] {
            if cut {
                self.cuts.insert(path);
            } else {
                self.cuts.remove(&path);
            }
        }
    }

    pub(super) fn set_port(&mut self, gid: Gid, up: bool) {
        let place = self.place_of(gid);
        self.devices[place].up = up;
        self.say(place, if up { DeviceEvent::PortUp } else { DeviceEvent::PortDown });
    }

    pub(super) fn move_address(&mut self, gid: Gid) {
        let place = self.place_of(gid);
        self.devices[place].gid_index += 1;
        self.say(place, DeviceEvent::AddressesChanged);
    }

    pub(super) fn set_present(&mut self, gid: Gid, present: bool) {
        let place = self.place_of(gid);
        if self.devices[place].present == present {
            return;
        }
        self.devices[place].present = present;
        if present {
            // It is not the device that was opened before.
            self.devices[place].id = DeviceId(self.identity());
            self.devices[place].opened.clear();
            return;
        }
        // Some drivers say so, others leave it to their users to find out.
        if self.draw(2) == 0 {
            self.say(place, DeviceEvent::Gone);
        }
        let id = self.devices[place].id;
        for queue in 0..self.queues.len() {
            if self.queues[queue].device == id && self.queues[queue].state != State::Destroyed {
                // Nothing comes back from a device that is not there.
                self.orphan(queue);
                self.queues[queue].receives.clear();
                self.queues[queue].state = State::Error;
            }
        }
    }

    pub(super) fn is_present(&self, device: DeviceId) -> bool {
        self.devices.iter().any(|known| known.id == device && known.present)
    }

    // --- memory ---

    pub(super) fn register(
        &mut self,
        _owner: Owner,
        device: DeviceId,
        region: &Arc<Region>,
        remote_write: bool,
    ) -> Result<Memory, FabricFault> {
        if !self.is_present(device) {
            return Err(FabricFault::Device);
        }
        self.keys += 1;
        let key = self.keys;
        // Addresses of one region differ from each other's, whatever lies at them.
        let address = u64::from(key) << 40;
        let region = region.clone();
        self.memories.insert(key, Registered { region, device, address, remote_write });
        Ok(Memory { id: key, local_key: key, remote_key: key, address })
    }

    pub(super) fn deregister(&mut self, memory: Memory) {
        self.memories.remove(&memory.id);
    }

    /// The region and offset that a request names, if it may.
    fn resolve(
        &self,
        device: DeviceId,
        key: u32,
        address: u64,
        length: usize,
    ) -> Option<(&Registered, usize)> {
        let registered = self.memories.get(&key).filter(|registered| registered.device == device)?;
        let offset = usize::try_from(address.checked_sub(registered.address)?).ok()?;
        (offset.checked_add(length)? <= registered.region.len()).then_some((registered, offset))
    }

    fn load(&self, device: DeviceId, parts: &[Part]) -> Option<Vec<u8>> {
        let mut bytes = vec![0; parts.iter().map(|part| part.length as usize).sum()];
        let mut at = 0;
        for part in parts.iter().filter(|part| part.length > 0) {
            let length = part.length as usize;
            let (registered, offset) = self.resolve(device, part.key, part.address, length)?;
            registered.region.load(offset, &mut bytes[at..at + length]);
            at += length;
        }
        Some(bytes)
    }

    // --- queues ---

    pub(super) fn create(
        &mut self,
        owner: Owner,
        port: &Port,
        depth: QueueDepth,
    ) -> Result<QueueId, FabricFault> {
        if !self.is_present(port.device) {
            return Err(FabricFault::Device);
        }
        let place = self.devices.iter().find(|known| known.id == port.device);
        if place.is_some_and(|known| known.gid_index != port.gid_index) {
            self.counters.stale_places += 1;
            return Err(FabricFault::Device);
        }
        // Numbers are used again at once, as some devices do.
        let free = self.queues.iter().position(|queue| queue.state == State::Destroyed);
        let place = free.unwrap_or(self.queues.len());
        let end = QueueEnd { number: place as u32 + 17, packet_sequence: 0, gid: port.gid };
        let queue = Queue::new(owner, port.device, end, depth);
        if free.is_some() {
            self.queues[place] = queue;
        } else {
            self.queues.push(queue);
        }
        Ok(QueueId(place as u32))
    }

    fn queue(&mut self, id: QueueId) -> &mut Queue {
        &mut self.queues[id.0 as usize]
    }

    pub(super) fn number(&self, id: QueueId) -> u32 {
        self.queues[id.0 as usize].end.number
    }

    pub(super) fn connect(&mut self, id: QueueId, packet_sequence: u32, peer: &QueueEnd, mtu: Mtu) {
        let due = self.delay();
        let own = self.queue(id).end.gid;
        self.counters.packets_too_large += u64::from(mtu > self.mtu_between(own, peer.gid));
        self.counters.packet_numbers_reused += u64::from(!self.packet_numbers.insert(packet_sequence));
        let queue = self.queue(id);
        queue.end.packet_sequence = packet_sequence;
        queue.send_sequence = packet_sequence;
        queue.receive_sequence = peer.packet_sequence;
        queue.peer = Some(*peer);
        if queue.state == State::Init {
            queue.state = State::Connecting { due };
        }
    }

    fn mtu_between(&self, one: Gid, other: Gid) -> Mtu {
        let ports = self.devices.iter().enumerate().filter(|(_, known)| [one, other].contains(&known.gid));
        let number = ports.map(|(place, _)| mtu_at(place)).min().unwrap_or(5);
        Mtu::from_number(number).expect("the network has only sizes that there are")
    }

    pub(super) fn connected(&mut self, id: QueueId) -> Option<Result<(), FabricFault>> {
        match self.queue(id).state {
            State::Init | State::Connecting { .. } => None,
            State::Ready => Some(Ok(())),
            State::Error | State::Destroyed => Some(Err(FabricFault::Device)),
        }
    }

    pub(super) fn post_receives(
        &mut self,
        id: QueueId,
        requests: &[ReceiveRequest],
    ) -> Result<(), FabricFault> {
        let (now, device) = (self.now, self.queue(id).device);
        if !self.is_present(device) {
            return Err(FabricFault::Device);
        }
        requests.iter().try_for_each(|request| self.queue(id).push_receive(*request, now))
    }

    pub(super) fn post_sends(&mut self, id: QueueId, requests: &[SendRequest]) -> Result<(), FabricFault> {
        let (now, device) = (self.now, self.queue(id).device);
        if !self.is_present(device) {
            return Err(FabricFault::Device);
        }
        for request in requests {
            let due = self.delay();
            let inline = if request.inline { self.load(device, &request.parts) } else { None };
            if let Err(fault) = self.queue(id).push_send(*request, inline, now, due) {
                self.counters.overruns += u64::from(fault == FabricFault::Exhausted);
                return Err(fault);
            }
        }
        Ok(())
    }

    pub(super) fn take_completions(&mut self, id: QueueId, out: &mut [Completion]) -> usize {
        let now = self.now;
        self.queue(id).take(now, out)
    }

    pub(super) fn arm(&mut self, id: QueueId) -> Result<(), FabricFault> {
        let device = self.queue(id).device;
        if !self.is_present(device) {
            return Err(FabricFault::Device);
        }
        self.queue(id).armed = true;
        Ok(())
    }

    pub(super) fn fail(&mut self, id: QueueId) {
        if matches!(self.queue(id).state, State::Error | State::Destroyed) {
            return;
        }
        self.orphan_copies(id.0 as usize);
        let now = self.now;
        self.queue(id).fail(now, CompletionFault::Flushed);
    }

    pub(super) fn destroy(&mut self, id: QueueId) {
        if self.queue(id).state == State::Ready {
            self.orphan(id.0 as usize);
        }
        let queue = self.queue(id);
        queue.state = State::Destroyed;
        queue.sends.clear();
        queue.receives.clear();
        queue.armed = false;
    }

    /// What is on its way from `queue` goes on alone.
    fn orphan(&mut self, queue: usize) {
        self.orphan_copies(queue);
        self.queues[queue].sends.clear();
    }

    fn orphan_copies(&mut self, queue: usize) {
        if self.queues[queue].state != State::Ready {
            return;
        }
        let Some(to) = self.queues[queue].peer else { return };
        let (from, device) = (self.queues[queue].end, self.queues[queue].device);
        let sends = self.queues[queue].sends.clone();
        for (number, send) in (0u32..).zip(sends.iter().filter(|send| send.answer.is_none())) {
            let Some(bytes) = self.bytes_of(device, send) else { continue };
            let due = self.now + 1 + self.draw(self.weather.late_steps_max / 2 + 1);
            let until = self.now + self.weather.late_steps_max;
            let sequence = self.queues[queue].send_sequence.wrapping_add(number) & 0xff_ffff;
            let operation = send.request.operation;
            let (from, from_gid) = (from.number, from.gid);
            self.late.push(Late { from, from_gid, to, sequence, operation, bytes, due, until });
        }
        // They left in order and arrive in order, or not at all.
        let mut due = 0;
        for late in self.late.iter_mut().filter(|late| late.from == from.number) {
            due = late.due.max(due);
            late.due = due;
        }
    }

    fn bytes_of(&self, device: DeviceId, send: &Outstanding) -> Option<Vec<u8>> {
        match &send.inline {
            Some(bytes) => Some(bytes.clone()),
            None => self.load(device, &send.request.parts),
        }
    }

    // --- time ---

    /// One step: connects, carries, answers, tells.
    pub(super) fn step(&mut self) {
        self.now += 1;
        for place in 0..self.queues.len() {
            match self.queues[place].state {
                State::Connecting { due } if due <= self.now => {
                    self.queues[place].state = State::Ready;
                    if let Some(transitions) = self.owners.get(&self.queues[place].owner) {
                        ring(transitions);
                    }
                }
                State::Ready => self.serve(place),
                _ => (),
            }
        }
        self.land();
        self.wake();
    }

    /// Steps until nothing is under way any more.
    pub(super) fn settle(&mut self) {
        for place in 0..self.queues.len() {
            if let State::Connecting { .. } = self.queues[place].state {
                self.queues[place].state = State::Connecting { due: self.now };
            }
        }
        while self.is_busy() {
            self.step();
        }
    }

    fn is_busy(&self) -> bool {
        let now = self.now;
        self.queues.iter().any(|queue| {
            let carries = queue.state == State::Ready && !queue.sends.is_empty();
            let lags = queue.next_visible().is_some_and(|visible| visible > now);
            carries
                || matches!(queue.state, State::Connecting { .. })
                || (lags && queue.state != State::Destroyed)
        })
    }

    fn wake(&mut self) {
        for place in 0..self.queues.len() {
            let queue = &mut self.queues[place];
            if queue.armed && queue.has_visible(self.now) {
                queue.armed = false;
                let (owner, device) = (queue.owner, queue.device);
                let opened = self.devices.iter().filter(|known| known.id == device);
                for opened in opened.flat_map(|known| &known.opened).filter(|opened| opened.owner == owner) {
                    ring(&opened.completions);
                }
            }
        }
    }

    /// Whether packets pass between two ports.
    fn passes(&self, from: Gid, to: Gid) -> bool {
        let up = |gid: Gid| self.devices.iter().any(|known| known.gid == gid && known.up && known.present);
        !self.cuts.contains(&(from, to)) && up(from) && up(to)
    }

    /// Carries what is due on one queue, and takes its answers.
    fn serve(&mut self, place: usize) {
        let Some(peer) = self.queues[place].peer else { return };
        let from = self.queues[place].end.gid;
        while let Some(send) = self.queues[place].sends.front() {
            if !self.passes(from, peer.gid) {
                // Also when it was carried out already: without the answer nobody knows.
                return self.queue_fails(place, CompletionFault::RetryExceeded);
            }
            match send.answer {
                Some(answer) if answer <= self.now => {
                    let visible = self.delay();
                    let send = self.queues[place].sends.pop_front();
                    if let Some(send) = send.filter(|send| send.request.signalled) {
                        self.queues[place].complete(visible, send.request.id, Ok(Completed::Sent));
                    }
                }
                _ => break,
            }
        }
        while let Some(number) = self.queues[place].sends.iter().position(|send| send.answer.is_none()) {
            if self.queues[place].sends[number].due > self.now {
                return;
            }
            let send = self.queues[place].sends[number].clone();
            let Some(bytes) = self.bytes_of(self.queues[place].device, &send) else {
                self.counters.access_faults += 1;
                return self.queue_fails(place, CompletionFault::LocalProtection);
            };
            let (own, sequence) = (self.queues[place].end, self.queues[place].send_sequence);
            if let Err(fault) = self.deliver(own, peer, sequence, send.request.operation, &bytes) {
                return self.queue_fails(place, fault);
            }
            self.queues[place].send_sequence = (sequence + 1) & 0xff_ffff;
            self.queues[place].sends[number].answer = Some(self.delay());
        }
    }

    fn queue_fails(&mut self, place: usize, fault: CompletionFault) {
        self.orphan_copies(place);
        let now = self.now;
        self.queues[place].fail(now, fault);
    }

    /// The queue at which this packet would be the next.
    fn expecting(&self, from: QueueEnd, to: QueueEnd, sequence: u32) -> Option<usize> {
        self.queues.iter().position(|queue| {
            queue.state == State::Ready
                && (queue.end.number, queue.end.gid) == (to.number, to.gid)
                && queue.peer.is_some_and(|peer| (peer.number, peer.gid) == (from.number, from.gid))
                && queue.receive_sequence == sequence
        })
    }

    /// One packet at the peer's queue.
    fn deliver(
        &mut self,
        from: QueueEnd,
        to: QueueEnd,
        sequence: u32,
        operation: Operation,
        bytes: &[u8],
    ) -> Result<(), CompletionFault> {
        let Some(place) = self.expecting(from, to, sequence) else {
            return Err(CompletionFault::RetryExceeded);
        };
        let device = self.queues[place].device;
        if let Operation::Write { address, key, .. } = operation {
            match self.resolve(device, key, address, bytes.len()) {
                Some((registered, offset)) if registered.remote_write => {
                    registered.region.store(offset, bytes);
                }
                _ => {
                    self.counters.access_faults += 1;
                    self.queue_fails(place, CompletionFault::RemoteAccess);
                    return Err(CompletionFault::RemoteAccess);
                }
            }
            self.counters.bytes_written += bytes.len() as u64;
        }
        let Some(receive) = self.queues[place].receives.pop_front() else {
            self.counters.receiver_not_ready += 1;
            return Err(CompletionFault::ReceiverNotReady);
        };
        let length = bytes.len() as u32;
        let completed = match operation {
            Operation::Write { immediate, .. } => Completed::Written { bytes: length, immediate },
            Operation::Send => {
                let part = receive.part;
                let room = self.resolve(device, part.key, part.address, part.length as usize);
                let Some((registered, offset)) = room.filter(|_| length <= part.length) else {
                    self.counters.access_faults += 1;
                    self.queue_fails(place, CompletionFault::LocalProtection);
                    return Err(CompletionFault::RemoteAccess);
                };
                registered.region.store(offset, bytes);
                Completed::Received { bytes: length }
            }
        };
        let visible = self.delay();
        self.queues[place].receive_sequence = (sequence + 1) & 0xff_ffff;
        self.queues[place].complete(visible, receive.id, Ok(completed));
        Ok(())
    }

    /// Packets of dead senders arrive, where a queue expects just them; else they are lost in the end.
    fn land(&mut self) {
        let now = self.now;
        for number in 0..self.late.len() {
            let late = &self.late[number];
            if late.due > now || !self.passes(late.from_gid, late.to.gid) {
                continue;
            }
            let from = QueueEnd { number: late.from, packet_sequence: 0, gid: late.from_gid };
            if self.expecting(from, late.to, late.sequence).is_some() {
                let (to, sequence, operation) = (late.to, late.sequence, late.operation);
                let bytes = core::mem::take(&mut self.late[number].bytes);
                self.late[number].until = 0;
                // Nobody is left to be told how it went.
                let _ = self.deliver(from, to, sequence, operation, &bytes);
                self.counters.late_landings += 1;
            }
        }
        let before = self.late.len();
        self.late.retain(|late| late.until > now);
        self.counters.late_refusals += (before - self.late.len()) as u64;
    }
}
