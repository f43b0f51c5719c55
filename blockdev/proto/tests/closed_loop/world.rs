//! The world of the closed loop: four nodes, of which two reach the disk; a net; a disk; clients; and
//! somebody who numbers configurations. Everything that happens is drawn from one seed.

use crate::history::{Access, fault_of, stale_fault_of};
use blockdev_proto::driver::{
    AnswerUse, DataHandle, Driver, DriverAction, DriverLimits, Submission, SubmitRefusal, Tag,
};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{BlockBytes, ByteRange, DiskId, VolumeId};
use blockdev_proto::mapping::{Candidate, Mapping};
use blockdev_proto::master::{Admission, Master, MasterAction, MasterLimits, Token};
use blockdev_proto::rules::Rules;
use blockdev_proto::wire::{Message, Operation, Request, RequestFlags, Slot};
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, NodeId};
use transport_proto::time::Time;

const VOLUME: VolumeId = VolumeId(3);
const DISK: DiskId = DiskId(9);
const BLOCKS: usize = 5;
const BLOCK: u64 = 4096;
const NODES: usize = 4;
const MASTERS: usize = 2;
const PENDING_PER_CLIENT: usize = 6;

/// Chance, as numbers of places.
struct Dice(fixtures_faults::Dice);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.0.percent(chance)
    }
}

/// What a run met; sums over runs show that the storm was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) reissued: u64,
    pub(crate) limbo: u64,
    pub(crate) duplicates: u64,
    pub(crate) stale: u64,
    pub(crate) path_broken: u64,
    pub(crate) kills: u64,
    pub(crate) client_kills: u64,
}

impl Score {
    pub(crate) fn add(&mut self, other: &Score) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.reissued += other.reissued;
        self.limbo += other.limbo;
        self.duplicates += other.duplicates;
        self.stale += other.stale;
        self.path_broken += other.path_broken;
        self.kills += other.kills;
        self.client_kills += other.client_kills;
    }
}

/// A life of a node.
struct Node<R: Rules> {
    life: Incarnation,
    alive: bool,
    driver: Driver,
    master: Master<R>,
}

/// Something on its way.
#[derive(Clone)]
enum Parcel {
    /// Bytes of a message, with the values of its data part.
    Message { from: NodeId, to: NodeId, bytes: Vec<u8>, values: Vec<u64> },
    /// A mapping for a node.
    Mapping { to: NodeId, mapping: Mapping },
    /// The transport tells a node that another is gone (and whether it lives again).
    PeerLost { at: NodeId, peer: NodeId, restarted: bool },
    /// The store of a node's life owes it a word.
    Store { node: NodeId, life: Incarnation, word: StoreWord },
    /// The one who numbers configurations learns of something.
    Control(Notice),
}

#[derive(Clone)]
enum StoreWord {
    Persist(Epoch),
    Take,
    Release,
}

#[derive(Clone)]
enum Notice {
    Changed,
    PathBroken(NodeId, Epoch),
    Spent(Epoch),
}

/// An I/O that the disk has and has not finished. Its submitter's death does not call it back.
struct DiskIo {
    node: NodeId,
    life: Incarnation,
    token: Token,
    request: Request,
    values: Vec<u64>,
    /// Not finished before this time.
    not_before: Time,
}

/// A client's request.
struct Asked {
    node: NodeId,
    life: Incarnation,
    operation: Operation,
    first: usize,
    count: usize,
    value: u64,
    begin: u64,
    end: u64,
    values: Vec<u64>,
    is_open: bool,
    /// It did happen, as far as the client knows.
    certain: bool,
    /// It keeps its lock on its blocks: until it is answered or, if its client died, until a gate opens at
    /// the number that came after.
    locks: bool,
    /// That number, once its client is dead.
    fence: Option<Epoch>,
}

impl Asked {
    fn meets(&self, first: usize, count: usize) -> bool {
        self.first < first + count && first < self.first + self.count
    }
}

pub(crate) struct World<R: Rules> {
    dice: Dice,
    now: Time,
    tick: u64,
    nodes: Vec<Node<R>>,
    parcels: Vec<Parcel>,
    /// Messages that took a long way, and when they come out of it.
    detours: Vec<(Time, Parcel)>,
    /// The disk that nodes 1 and 2 reach.
    blocks: [u64; BLOCKS],
    persisted: Epoch,
    owner: Option<(NodeId, Incarnation)>,
    waiting: Vec<(NodeId, Incarnation)>,
    ios: Vec<DiskIo>,
    path_works: [bool; MASTERS],
    mapping: Mapping,
    asked: Vec<Asked>,
    /// Data parts of answers, by handle.
    data: Vec<Vec<u64>>,
    score: Score,
    is_calm: bool,
    /// Clients of different nodes lock what they touch, as users of a shared disk do.
    has_locks: bool,
}

fn limits() -> DriverLimits {
    DriverLimits {
        pending_max: 16,
        first_slot: Slot(0),
        busy_wait_min: Duration::from_micros(100),
        busy_wait_max: Duration::from_millis(1),
        attach_again_after: Duration::from_millis(2),
        send_again_after: Duration::from_millis(5),
    }
}

fn node<R: Rules>(number: usize, life: Incarnation) -> Node<R> {
    let id = NodeId(number as u16 + 1);
    let store_again_after = Duration::from_millis(3);
    Node {
        life,
        alive: true,
        driver: Driver::new(id, life, limits()),
        master: Master::with_rules(
            id,
            MasterLimits { executing_max: 12, store_again_after, ..MasterLimits::default() },
        ),
    }
}

impl<R: Rules> World<R> {
    pub(crate) fn new(seed: u64) -> World<R> {
        let candidate = |number| Some(Candidate { node: NodeId(number), disk: DISK, path_broken: false });
        let mapping = Mapping {
            volume: VOLUME,
            epoch: Epoch(1),
            candidates: [candidate(1), candidate(2), None, None],
            serving: Some(NodeId(1)),
            size_bytes: BLOCKS as u64 * BLOCK,
            block_bytes: BlockBytes::USUAL,
            read_only: false,
            suspended: false,
        };
        let mut world = World {
            dice: Dice(fixtures_faults::Dice::new(seed)),
            now: Time(0),
            tick: 0,
            nodes: (0..NODES).map(|number| node(number, Incarnation(1))).collect(),
            parcels: Vec::new(),
            detours: Vec::new(),
            blocks: [0; BLOCKS],
            persisted: Epoch(0),
            owner: None,
            waiting: Vec::new(),
            ios: Vec::new(),
            path_works: [true; MASTERS],
            mapping,
            asked: Vec::new(),
            data: Vec::new(),
            score: Score::default(),
            is_calm: false,
            has_locks: seed.is_multiple_of(2),
        };
        world.announce();
        world
    }

    /// Lets chance rule for this many steps.
    pub(crate) fn storm(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.step()?;
            let node = self.dice.below(NODES);
            match self.dice.below(1000) {
                0..=3 => self.kill(node % MASTERS),
                4 => self.kill(node),
                5..=14 => self.revive(node),
                15..=18 => self.parcels.push(Parcel::Control(Notice::Changed)),
                19..=21 => self.path_works[node % MASTERS] = false,
                22..=29 => self.repair(),
                30..=33 => self.lose_sight(node),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends all faults, and waits until nothing is pending any more.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.is_calm = true;
        for number in 0..NODES {
            self.revive(number);
        }
        self.path_works = [true; MASTERS];
        self.repair();
        self.parcels.push(Parcel::Control(Notice::Changed));
        for _ in 0..60_000 {
            if self.asked.iter().all(|asked| !asked.is_open) {
                return Ok(());
            }
            self.step()?;
        }
        let stuck = self.asked.iter().filter(|asked| asked.is_open).count();
        let gates: Vec<_> = self.nodes[..MASTERS].iter().map(|node| node.master.gate(VOLUME)).collect();
        Err(format!("{stuck} requests are stuck at {:?}; gates {gates:?}", self.mapping.epoch))
    }

    /// Reads the disk back and judges what clients saw.
    pub(crate) fn judge(mut self) -> Result<Score, String> {
        for number in 0..NODES {
            self.retire(number);
        }
        self.tick += 2;
        let end = self.tick;
        for block in 0..BLOCKS {
            let mut accesses =
                vec![Access { value: self.blocks[block], begin: end - 1, end, certain: true, writes: false }];
            for asked in &self.asked {
                if !(asked.first..asked.first + asked.count).contains(&block) {
                    continue;
                }
                let writes = asked.operation.modifies();
                let value = if writes {
                    asked.value
                } else if let Some(value) = asked.values.get(block - asked.first) {
                    *value
                } else {
                    continue;
                };
                let (begin, end, certain) = (asked.begin, asked.end, asked.certain);
                accesses.push(Access { value, begin, end, certain, writes });
            }
            // Without locks, a write that was seen and not answered may take effect again at the next master.
            let fault = if self.has_locks { fault_of(&accesses) } else { stale_fault_of(&accesses) };
            if let Some(fault) = fault {
                return Err(format!("block {block}: {fault}"));
            }
        }
        Ok(self.score)
    }

    fn step(&mut self) -> Result<(), String> {
        self.now = self.now + Duration::from_nanos(20_000 + self.dice.0.draw() % 100_000);
        match self.dice.below(10) {
            0..=4 => self.deliver()?,
            5..=6 => self.finish_io()?,
            7..=8 if !self.is_calm => self.ask()?,
            _ => self.timers()?,
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(), String> {
        let number = self.dice.below(NODES);
        let id = NodeId(number as u16 + 1);
        let open = self.asked.iter().filter(|asked| asked.is_open && asked.node == id).count();
        if !self.nodes[number].alive || open >= PENDING_PER_CLIENT {
            return Ok(());
        }
        let operation = match self.dice.below(10) {
            0..=4 => Operation::Write,
            5..=8 => Operation::Read,
            _ => Operation::Flush,
        };
        let first = self.dice.below(BLOCKS);
        let count = 1 + self.dice.below((BLOCKS - first).min(2));
        let (first, count) = if operation == Operation::Flush { (0, 0) } else { (first, count) };
        let is_locked = |asked: &Asked| {
            let conflicts = asked.operation.modifies() || operation.modifies();
            asked.locks && asked.node != id && conflicts && asked.meets(first, count)
        };
        if self.has_locks && self.asked.iter().any(is_locked) {
            return Ok(());
        }
        let range = ByteRange::new(first as u64 * BLOCK, count as u32 * BLOCK as u32);
        self.tick += 1;
        let tag = Tag(self.asked.len() as u64);
        let life = self.nodes[number].life;
        let (begin, value) = (self.tick, tag.0 + 1);
        let submission = Submission { volume: VOLUME, operation, flags: RequestFlags::NONE, range, tag };
        let mut actions = Vec::new();
        match self.nodes[number].driver.submit(self.now, &submission, &mut actions) {
            Ok(_) => {}
            Err(SubmitRefusal::NoMapping) => return Ok(()),
            Err(refusal) => return Err(format!("a sound request was refused: {refusal:?}")),
        }
        let (end, values) = (u64::MAX, Vec::new());
        self.asked.push(Asked {
            node: id,
            life,
            operation,
            first,
            count,
            value,
            begin,
            end,
            values,
            is_open: true,
            certain: false,
            locks: true,
            fence: None,
        });
        self.obey_driver(number, &actions)
    }

    /// Carries out what a driver wants.
    fn obey_driver(&mut self, number: usize, actions: &[DriverAction]) -> Result<(), String> {
        let from = NodeId(number as u16 + 1);
        for action in actions {
            match action {
                DriverAction::Send { request, .. } if !self.is_calm && self.dice.percent(4) => {
                    self.nodes[number].driver.refused(request.id.slot);
                }
                DriverAction::Send { to, tag, request } => {
                    let asked = &self.asked[tag.0 as usize];
                    if !asked.is_open {
                        return Err(format!("request {} is sent after its end", tag.0));
                    }
                    let writes = request.operation == Operation::Write;
                    let values = if writes { vec![asked.value; asked.count] } else { Vec::new() };
                    self.post(from, *to, &Message::Request(*request), values);
                }
                DriverAction::Attach { to, attach } => {
                    self.post(from, *to, &Message::Attach(*attach), Vec::new());
                }
                DriverAction::Complete { tag, result, data, .. } => self.conclude(*tag, *result, *data)?,
                DriverAction::ReportPathBroken(report) => {
                    let notice = Notice::PathBroken(report.node, report.epoch);
                    self.parcels.push(Parcel::Control(notice));
                }
                DriverAction::FetchMapping { .. } => {
                    self.parcels.push(Parcel::Mapping { to: from, mapping: self.mapping });
                }
                DriverAction::Drained { .. } => {}
            }
        }
        Ok(())
    }

    fn conclude(
        &mut self,
        tag: Tag,
        result: Result<(), BlockErrno>,
        data: Option<DataHandle>,
    ) -> Result<(), String> {
        self.tick += 1;
        self.score.completed += 1;
        let asked = &mut self.asked[tag.0 as usize];
        if !asked.is_open {
            return Err(format!("request {} was completed twice", tag.0));
        }
        asked.is_open = false;
        asked.locks = false;
        asked.end = self.tick;
        match result {
            Ok(()) => {
                asked.certain = true;
                if asked.operation == Operation::Read {
                    let handle = data.ok_or("a read came back without data")?;
                    asked.values = self.data[handle.0 as usize].clone();
                }
            }
            // A write that failed for want of any path may be on the disk now, or never.
            Err(BlockErrno::Eio) => self.score.failed += 1,
            Err(errno) => return Err(format!("request {} failed: {errno}", tag.0)),
        }
        Ok(())
    }

    /// Carries out what a master wants.
    fn obey_master(&mut self, number: usize, actions: &[MasterAction]) {
        let (from, life) = (NodeId(number as u16 + 1), self.nodes[number].life);
        for action in actions {
            let word = match action {
                MasterAction::TakeOwnership { .. } => StoreWord::Take,
                MasterAction::ReleaseOwnership { .. } => StoreWord::Release,
                MasterAction::PersistEpoch { epoch, .. } => StoreWord::Persist(*epoch),
                MasterAction::AnswerAttached { to, attached } => {
                    self.post(from, *to, &Message::Attached(*attached), Vec::new());
                    continue;
                }
                MasterAction::ReportPathBroken(report) => {
                    let notice = Notice::PathBroken(report.node, report.epoch);
                    self.parcels.push(Parcel::Control(notice));
                    continue;
                }
                MasterAction::EpochSpent { persisted, .. } => {
                    self.parcels.push(Parcel::Control(Notice::Spent(*persisted)));
                    continue;
                }
                MasterAction::GateOpened { epoch, .. } => {
                    self.unlock_fenced(*epoch);
                    continue;
                }
                MasterAction::GateClosed { .. } | MasterAction::AnswerSettled { .. } => continue,
            };
            self.parcels.push(Parcel::Store { node: from, life, word });
        }
    }

    /// A gate is open at this number: nothing of clients that died before runs any more.
    fn unlock_fenced(&mut self, epoch: Epoch) {
        self.tick += 1;
        for asked in &mut self.asked {
            if asked.locks && asked.fence.is_some_and(|fence| fence <= epoch) {
                asked.locks = false;
                asked.end = self.tick;
            }
        }
    }

    /// Gives a message to the net, which may lose or repeat it.
    fn post(&mut self, from: NodeId, to: NodeId, message: &Message, values: Vec<u64>) {
        let parcel = Parcel::Message { from, to, bytes: message.encode().as_bytes().to_vec(), values };
        if !self.is_calm && from != to && self.dice.percent(5) {
            return;
        }
        let repeats = usize::from(!self.is_calm && self.dice.percent(8));
        for copy in core::iter::repeat_n(parcel, 1 + repeats) {
            if !self.is_calm && self.dice.percent(6) {
                let delay = Duration::from_micros(self.dice.0.draw() % 60_000);
                self.detours.push((self.now + delay, copy));
            } else {
                self.parcels.push(copy);
            }
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        let now = self.now;
        self.parcels.extend(self.detours.extract_if(.., |(when, _)| *when <= now).map(|(_, parcel)| parcel));
        if self.parcels.is_empty() {
            return Ok(());
        }
        let choice = self.dice.below(self.parcels.len());
        match self.parcels.swap_remove(choice) {
            Parcel::Message { from, to, bytes, values } => self.receive(from, to, &bytes, values),
            Parcel::Mapping { to, mapping } => self.learn(to, &mapping),
            Parcel::PeerLost { at, peer, restarted } => self.mourn(at, peer, restarted),
            Parcel::Store { node, life, word } => {
                self.store(node, life, word);
                Ok(())
            }
            Parcel::Control(notice) => {
                self.number_anew(&notice);
                Ok(())
            }
        }
    }

    fn receive(&mut self, from: NodeId, to: NodeId, bytes: &[u8], values: Vec<u64>) -> Result<(), String> {
        let number = usize::from(to.0) - 1;
        if !self.nodes[number].alive {
            return Ok(());
        }
        let now = self.now;
        let message = Message::parse(bytes).map_err(|fault| format!("{fault:?}"))?;
        match message {
            Message::Request(request) => {
                let life = self.nodes[number].life;
                match self.nodes[number].master.admit(now, from, &request) {
                    Admission::Execute(token) => {
                        let slow = if self.dice.percent(5) { 30_000 } else { 100 };
                        let not_before = now + Duration::from_micros(self.dice.0.draw() % slow);
                        self.ios.push(DiskIo { node: to, life, token, request, values, not_before });
                    }
                    Admission::Answer(answer) => {
                        self.post(to, from, &Message::Answer(answer), Vec::new());
                    }
                    Admission::Drop => {}
                }
                Ok(())
            }
            Message::Attach(attach) => {
                let mut actions = Vec::new();
                self.nodes[number].master.attach(from, &attach, &mut actions);
                self.obey_master(number, &actions);
                Ok(())
            }
            Message::Answer(answer) => {
                let mut actions = Vec::new();
                self.data.push(values);
                let handle = Some(DataHandle(self.data.len() as u64 - 1));
                let used = self.nodes[number].driver.answer(now, from, &answer, handle, &mut actions);
                let completes = actions.iter().any(|action| matches!(action, DriverAction::Complete { .. }));
                if completes != (used == AnswerUse::Completed) {
                    return Err(format!("an answer was {used:?} with {actions:?}"));
                }
                self.obey_driver(number, &actions)
            }
            Message::Attached(attached) => {
                let mut actions = Vec::new();
                self.nodes[number].driver.attached(now, from, &attached, &mut actions);
                self.obey_driver(number, &actions)
            }
            Message::PathBroken(_) | Message::Settle(_) | Message::Settled(_) => {
                Err("nobody sends reports over this net".into())
            }
        }
    }

    fn learn(&mut self, to: NodeId, mapping: &Mapping) -> Result<(), String> {
        let number = usize::from(to.0) - 1;
        if !self.nodes[number].alive {
            return Ok(());
        }
        let (mut wants, mut orders) = (Vec::new(), Vec::new());
        let node = &mut self.nodes[number];
        node.driver.mapping(self.now, mapping, &mut wants).map_err(|fault| format!("{fault:?}"))?;
        node.master.mapping(self.now, mapping, &mut orders).map_err(|fault| format!("{fault:?}"))?;
        self.obey_master(number, &orders);
        self.obey_driver(number, &wants)
    }

    fn mourn(&mut self, at: NodeId, peer: NodeId, restarted: bool) -> Result<(), String> {
        let number = usize::from(at.0) - 1;
        if !self.nodes[number].alive {
            return Ok(());
        }
        let mut actions = Vec::new();
        let driver = &mut self.nodes[number].driver;
        match restarted {
            true => driver.peer_restarted(self.now, peer, &mut actions),
            false => driver.peer_gone(self.now, peer, &mut actions),
        }
        self.obey_driver(number, &actions)
    }

    /// A node loses sight of a peer that lives on.
    fn lose_sight(&mut self, number: usize) {
        let peer = NodeId(self.dice.below(MASTERS) as u16 + 1);
        let restarted = self.dice.percent(50);
        self.parcels.push(Parcel::PeerLost { at: NodeId(number as u16 + 1), peer, restarted });
    }

    fn store(&mut self, node: NodeId, life: Incarnation, word: StoreWord) {
        let number = usize::from(node.0) - 1;
        let me = (node, life);
        let is_this_life = self.nodes[number].alive && self.nodes[number].life == life;
        let mut actions = Vec::new();
        let path_works = self.path_works[number];
        let master = &mut self.nodes[number].master;
        match word {
            // What was under way when the life ended may still reach the disk, as long as it owns it.
            StoreWord::Persist(epoch) if self.owner == Some(me) => {
                if path_works {
                    self.persisted = self.persisted.max(epoch);
                }
                if is_this_life && path_works {
                    master.epoch_persisted(self.now, VOLUME, epoch, &mut actions);
                } else if is_this_life {
                    master.store_failed(self.now, VOLUME, BlockErrno::Eio, &mut actions);
                }
            }
            StoreWord::Take if is_this_life && !path_works => {
                master.store_failed(self.now, VOLUME, BlockErrno::Enodev, &mut actions);
            }
            StoreWord::Take if is_this_life && self.owner.is_none() => {
                self.owner = Some(me);
                master.ownership_taken(self.now, VOLUME, self.persisted, &mut actions);
            }
            StoreWord::Take if is_this_life => self.waiting.push(me),
            StoreWord::Release if is_this_life => {
                self.waiting.retain(|waiting| *waiting != me);
                self.parcels.retain(|parcel| {
                    !matches!(parcel, Parcel::Store { node: at, life: of, word: StoreWord::Take }
                        if (*at, *of) == me)
                });
                if self.owner == Some(me) {
                    self.owner = None;
                }
                master.ownership_released(self.now, VOLUME, &mut actions);
            }
            _ => {}
        }
        self.obey_master(number, &actions);
        self.hand_over();
    }

    /// Gives the ownership of a dead life up once its last I/O is done, and hands a free one to who waits.
    fn hand_over(&mut self) {
        if let Some(owner) = self.owner {
            let at = &self.nodes[usize::from(owner.0.0) - 1];
            let is_dead = !at.alive || at.life != owner.1;
            let owes = |parcel: &Parcel| {
                matches!(parcel, Parcel::Store { node, life, word: StoreWord::Persist(_) }
                    if (*node, *life) == owner)
            };
            let has_io = self.ios.iter().any(|io| (io.node, io.life) == owner);
            if is_dead && !has_io && !self.parcels.iter().any(owes) {
                self.owner = None;
            }
        }
        if self.owner.is_none()
            && let Some((node, life)) = self.waiting.pop()
        {
            self.parcels.push(Parcel::Store { node, life, word: StoreWord::Take });
        }
    }

    fn finish_io(&mut self) -> Result<(), String> {
        let choice = if self.ios.is_empty() { 0 } else { self.dice.below(self.ios.len()) };
        if self.ios.get(choice).is_none_or(|io| io.not_before > self.now) {
            self.hand_over();
            return Ok(());
        }
        let io = self.ios.swap_remove(choice);
        let number = usize::from(io.node.0) - 1;
        let works = self.path_works[number];
        let blocks = (io.request.range.offset / BLOCK) as usize;
        let count = (u64::from(io.request.range.length) / BLOCK) as usize;
        let mut values = Vec::new();
        // An I/O that fails may have reached the disk all the same.
        if works || self.dice.percent(30) {
            match io.request.operation {
                Operation::Write => self.blocks[blocks..blocks + count].copy_from_slice(&io.values),
                _ => values = self.blocks[blocks..blocks + count].to_vec(),
            }
        }
        let is_this_life = self.nodes[number].alive && self.nodes[number].life == io.life;
        if is_this_life {
            let mut actions = Vec::new();
            let result = if works { Ok(()) } else { Err(BlockErrno::Eio) };
            let master = &mut self.nodes[number].master;
            let reply = master.executed(self.now, io.token, result, &mut actions);
            if let Some(reply) = reply {
                self.post(io.node, reply.to, &Message::Answer(reply.answer), values);
            }
            self.obey_master(number, &actions);
        }
        self.hand_over();
        Ok(())
    }

    fn timers(&mut self) -> Result<(), String> {
        for number in 0..NODES {
            if !self.nodes[number].alive {
                continue;
            }
            let (mut wants, mut orders) = (Vec::new(), Vec::new());
            let node = &mut self.nodes[number];
            node.driver.timer(self.now, &mut wants);
            node.master.timer(self.now, &mut orders);
            if node.driver.next_deadline() <= self.now || node.master.next_deadline() <= self.now {
                return Err("a machine wants to be called again at once, for ever".into());
            }
            let to = NodeId(self.dice.below(NODES) as u16 + 1);
            let room = if self.is_calm || self.dice.percent(30) { u32::MAX } else { 2 };
            node.driver.writable(self.now, to, room, &mut wants);
            self.obey_master(number, &orders);
            self.obey_driver(number, &wants)?;
        }
        Ok(())
    }

    fn kill(&mut self, number: usize) {
        if !self.nodes[number].alive {
            return;
        }
        self.retire(number);
        self.nodes[number].alive = false;
        let fence = Some(Epoch(self.mapping.epoch.0 + 1));
        let (id, life) = (NodeId(number as u16 + 1), self.nodes[number].life);
        for asked in
            self.asked.iter_mut().filter(|asked| asked.is_open && (asked.node, asked.life) == (id, life))
        {
            asked.is_open = false;
            asked.fence = fence;
        }
        self.score.kills += u64::from(number < MASTERS);
        self.score.client_kills += u64::from(number >= MASTERS);
        self.waiting.retain(|(node, _)| usize::from(node.0) != number + 1);
        for other in 0..NODES {
            let (at, peer) = (NodeId(other as u16 + 1), NodeId(number as u16 + 1));
            self.parcels.push(Parcel::PeerLost { at, peer, restarted: false });
        }
        self.parcels.push(Parcel::Control(Notice::Changed));
        self.hand_over();
    }

    /// Sums up a life that ends.
    fn retire(&mut self, number: usize) {
        let node = &self.nodes[number];
        if !node.alive {
            return;
        }
        let (driver, master) = (node.driver.counts(), node.master.counts());
        self.score.reissued += driver.reissued;
        self.score.limbo += driver.limbo;
        self.score.stale += driver.stale;
        self.score.path_broken += driver.path_broken;
        self.score.duplicates += master.duplicates;
    }

    fn revive(&mut self, number: usize) {
        if self.nodes[number].alive {
            return;
        }
        let life = Incarnation(self.nodes[number].life.0 + 1);
        self.nodes[number] = node(number, life);
        let id = NodeId(number as u16 + 1);
        for other in 0..NODES {
            let at = NodeId(other as u16 + 1);
            self.parcels.push(Parcel::PeerLost { at, peer: id, restarted: true });
        }
        self.parcels.push(Parcel::Mapping { to: id, mapping: self.mapping });
        self.parcels.push(Parcel::Control(Notice::Changed));
    }

    /// Paths that work again are candidates again.
    fn repair(&mut self) {
        self.path_works = [true; MASTERS];
        for candidate in self.mapping.candidates.iter_mut().flatten() {
            candidate.path_broken = false;
        }
    }

    /// A new configuration number for what has changed.
    fn number_anew(&mut self, notice: &Notice) {
        match notice {
            Notice::Changed => {}
            Notice::Spent(persisted) if *persisted >= self.mapping.epoch => {}
            Notice::PathBroken(node, epoch) if *epoch == self.mapping.epoch => {
                let mut candidates = self.mapping.candidates.iter_mut().flatten();
                if let Some(candidate) = candidates.find(|candidate| candidate.node == *node) {
                    candidate.path_broken = true;
                }
            }
            Notice::Spent(_) | Notice::PathBroken(..) => return,
        }
        let nodes = &self.nodes;
        let mut serving = self.mapping.choose_serving(|node| nodes[usize::from(node.0) - 1].alive);
        if self.dice.percent(20) {
            // For no reason at all: an administrator's whim.
            let whim = NodeId(self.dice.below(MASTERS) as u16 + 1);
            if self.nodes[usize::from(whim.0) - 1].alive {
                serving = Some(whim);
            }
        }
        if serving.is_none() && self.mapping.usable_candidates() == 0 {
            self.repair();
            self.parcels.push(Parcel::Control(Notice::Changed));
        }
        self.mapping.serving = serving;
        self.mapping.epoch = Epoch(self.mapping.epoch.0 + 1);
        self.announce();
    }

    fn announce(&mut self) {
        for number in 0..NODES {
            let to = NodeId(number as u16 + 1);
            self.parcels.push(Parcel::Mapping { to, mapping: self.mapping });
        }
    }
}
