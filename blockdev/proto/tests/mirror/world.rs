//! The world of the storm: legs, a server, a configuration, clients, all from one seed.
//!
//! What the driver and the gates below a mirror promise is modelled here: requests of one server to one leg
//! that touch the same bytes keep their order, also behind one that was dropped; nothing of a server runs any
//! more once its successor was let in; a number rises with each change, and no client's request runs while it
//! does.

use crate::history::History;
use crate::leg::{Content, Leg as Disk, clash};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{BlockBytes, ByteRange, VolumeId};
use blockdev_proto::mirror::{
    IoId, LEGS_MAX, Layout, Leg, LegState, Mirror, MirrorAction, MirrorLimits, Payload, Proposal, Standing,
    leg_bytes,
};
use blockdev_proto::rules::Rules;
use blockdev_proto::wire::{Operation, RequestFlags};
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use transport_proto::identity::{Epoch, Incarnation};
use transport_proto::time::Time;

pub(crate) const BLOCK: u64 = 4096;
/// Six regions of 64 KiB and a piece.
pub(crate) const BLOCKS: u64 = 100;
const CLIENTS: usize = 5;
/// Blocks that clients use: few, so that they meet, in every region.
const HOT: [u64; 10] = [0, 1, 15, 16, 17, 40, 63, 64, 90, 99];

/// Chance, as numbers of places.
pub(crate) struct Dice(fixtures_faults::Dice);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.0.percent(chance)
    }

    fn permille(&mut self, chance: u64) -> bool {
        self.0.below(1000) < chance
    }
}

/// What a run met; sums over runs show that the storm was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score {
    pub(crate) answered: u64,
    pub(crate) takeovers: u64,
    pub(crate) stale: u64,
    pub(crate) in_sync: u64,
    pub(crate) withdrawn: u64,
    pub(crate) lost_contents: u64,
    pub(crate) power_cuts: u64,
    pub(crate) copied: u64,
}

impl Score {
    pub(crate) fn add(&mut self, other: &Score) {
        self.answered += other.answered;
        self.takeovers += other.takeovers;
        self.stale += other.stale;
        self.in_sync += other.in_sync;
        self.withdrawn += other.withdrawn;
        self.lost_contents += other.lost_contents;
        self.power_cuts += other.power_cuts;
        self.copied += other.copied;
    }
}

/// A request of the server that is on its way to a leg, or on it.
struct LegIo {
    io: IoId,
    leg: usize,
    operation: Operation,
    flags: RequestFlags,
    first: u64,
    count: u64,
    contents: Vec<Content>,
    /// The mirror was told that it failed.
    dropped: bool,
}

impl LegIo {
    fn span(&self) -> (Operation, u64, u64) {
        (self.operation, self.first, self.count)
    }
}

/// A client's request.
#[derive(Clone)]
struct Request {
    operation: Operation,
    flags: RequestFlags,
    first: u64,
    count: u64,
    value: u64,
    begun: u64,
}

pub(crate) struct World<R: Rules> {
    dice: Dice,
    now: u64,
    layout: Layout,
    /// A row that the server has not heard of yet.
    news: VecDeque<Layout>,
    proposals: Vec<(u64, Proposal, u64)>,
    has_quorum: bool,
    disks: Vec<Disk>,
    reachable: Vec<bool>,
    /// Which life the node of each leg lives.
    lives: Vec<u64>,
    dropped: Vec<bool>,
    mirror: Option<Mirror<R>>,
    life: u64,
    epoch: u64,
    is_open: bool,
    wants_number: bool,
    /// The mirror is putting a number on its legs.
    raising: bool,
    ios: Vec<LegIo>,
    read: BTreeMap<(u32, u32), Vec<Content>>,
    clients: Vec<Option<Request>>,
    /// Of the clients' requests, those that the server has.
    submitted: Vec<bool>,
    history: BTreeMap<u64, History>,
    next_value: u64,
    /// Every write is durable when it is answered, so that all may lose power at once.
    durable: bool,
    /// Of a thousand requests to legs, so many fail.
    fails: u64,
    /// Clients are of one driver, which lets overlapping requests wait for each other; else they overlap, and
    /// the server lives: a request that was seen and overwritten must not be issued again.
    one_driver: bool,
    /// Nothing goes wrong any more.
    calm: bool,
    score: Score,
    fault: Option<String>,
}

fn volume(leg: usize) -> VolumeId {
    VolumeId(10 + leg as u32)
}

impl<R: Rules> World<R> {
    pub(crate) fn new(seed: u64) -> World<R> {
        let mut dice = Dice(fixtures_faults::Dice::new(seed));
        let count = 2 + dice.below(2);
        let mut legs = [None; LEGS_MAX];
        for (leg, place) in legs.iter_mut().enumerate().take(count) {
            let state = if leg == 0 { LegState::InSync } else { LegState::Stale };
            *place = Some(Leg { volume: volume(leg), identity: leg as u64 + 1, state });
        }
        let size_bytes = BLOCKS * BLOCK;
        assert!(leg_bytes(size_bytes).is_some());
        let layout = Layout {
            volume: VolumeId(1),
            size_bytes,
            block_bytes: BlockBytes::USUAL,
            instance: seed + 1,
            generation: 1,
            fresh: true,
            legs,
        };
        World {
            durable: dice.percent(50),
            one_driver: dice.percent(75),
            fails: [0, 4, 4, 25][dice.below(4)],
            dice,
            now: 1,
            layout,
            news: VecDeque::new(),
            proposals: Vec::new(),
            has_quorum: true,
            disks: vec![Disk::default(); count],
            reachable: vec![true; count],
            lives: vec![1; count],
            dropped: vec![false; count],
            mirror: None,
            life: 0,
            epoch: 1,
            is_open: false,
            wants_number: false,
            raising: false,
            ios: Vec::new(),
            read: BTreeMap::new(),
            clients: vec![None; CLIENTS],
            submitted: vec![false; CLIENTS],
            history: HOT.iter().map(|block| (*block, History::default())).collect(),
            next_value: 1,
            calm: false,
            score: Score::default(),
            fault: None,
        }
    }

    pub(crate) fn storm(&mut self, steps: usize) -> Result<(), String> {
        for _ in 0..steps {
            self.step();
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Everything works from now on; all must come to rest.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.calm = true;
        self.has_quorum = true;
        for leg in 0..self.disks.len() {
            self.set_reachable(leg, true);
        }
        for _ in 0..200_000 {
            self.step();
            if let Some(fault) = self.fault.take() {
                return Err(fault);
            }
            let sound = self.layout.legs().all(|leg| leg.state == LegState::InSync);
            let status = self.mirror.as_ref().map(Mirror::status);
            let clean = status.as_ref().is_some_and(|status| {
                let all_sound = status.legs.iter().all(|leg| leg.standing == Standing::Sound);
                status.marked == 0 && status.to_copy == 0 && all_sound
            });
            let idle = self.clients.iter().all(Option::is_none);
            if sound && clean && idle && self.ios.is_empty() && self.news.is_empty() {
                return Ok(());
            }
        }
        let status = self.mirror.as_ref().map(Mirror::status);
        Err(format!("does not come to rest: {:?}, {status:?}, ios {}", self.layout, self.ios.len()))
    }

    /// The copies are equal, and show what was written.
    pub(crate) fn judge(&mut self) -> Result<Score, String> {
        for block in 0..BLOCKS {
            let values: Vec<u64> = self.disks.iter().map(|disk| disk.value(block)).collect();
            if values.iter().any(|value| *value != values[0]) {
                return Err(format!("block {block} differs at the end: {values:?}"));
            }
            if let Some(history) = self.history.get_mut(&block) {
                let checked = history.read(values[0], self.now, self.now + 1);
                checked.map_err(|fault| format!("block {block} at the end {fault}"))?;
            }
        }
        self.score.copied = self.mirror.as_ref().map_or(0, |mirror| mirror.status().copied_bytes >> 12);
        Ok(self.score)
    }

    fn time(&self) -> Time {
        Time(self.now * 1_000_000)
    }

    fn step(&mut self) {
        self.now += 1 + self.dice.0.draw() % 3;
        match self.dice.below(12) {
            0..=1 => self.client(),
            2..=6 => self.run_leg_io(),
            7 => self.decide(),
            8 => self.tell_news(),
            9 if !self.calm => self.disturb(),
            _ => self.tick(),
        }
    }

    fn tick(&mut self) {
        if self.mirror.is_none() {
            return self.take_over();
        }
        let time = self.time();
        self.tell(|mirror, actions| mirror.timer(time, actions));
        self.raise();
    }

    fn tell(&mut self, what: impl FnOnce(&mut Mirror<R>, &mut Vec<MirrorAction>)) {
        let Some(mirror) = self.mirror.as_mut() else { return };
        let mut actions = Vec::new();
        what(mirror, &mut actions);
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<MirrorAction>) {
        for action in actions {
            match action {
                MirrorAction::Io { io, leg, operation, flags, range, payload } => {
                    self.send(io, leg, operation, flags, range, payload);
                }
                MirrorAction::Answer { token, result, read } => self.answer(token as usize, result, read),
                MirrorAction::Withdraw { token } => {
                    self.score.withdrawn += 1;
                    self.submitted[token as usize] = false;
                }
                MirrorAction::Forget { io } => {
                    self.read.remove(&(io.index, io.generation));
                }
                MirrorAction::Drop { leg } => self.drop_leg((leg.0 - 10) as usize),
                MirrorAction::Retake { leg } => self.dropped[(leg.0 - 10) as usize] = false,
                MirrorAction::Propose { generation, proposal } => {
                    self.proposals.push((generation, proposal, self.life));
                }
                MirrorAction::Opened { persisted } => {
                    if persisted.0 > self.epoch {
                        self.fault = Some(format!("opened at {persisted:?}, which is to come"));
                    }
                    self.wants_number = true;
                }
                MirrorAction::OpenFailed { .. } => self.mirror = None,
                MirrorAction::Persisted { epoch } => {
                    self.raising = false;
                    self.is_open = epoch.0 == self.epoch;
                }
            }
        }
    }

    fn send(
        &mut self,
        io: IoId,
        leg: VolumeId,
        operation: Operation,
        flags: RequestFlags,
        range: ByteRange,
        payload: Payload,
    ) {
        let (first, count) = (range.offset / BLOCK, u64::from(range.length) / BLOCK);
        let contents = match (operation, payload) {
            (Operation::WriteZeroes, _) => vec![Content::Value(0); count as usize],
            (_, Payload::Record(bytes)) => vec![Content::Record(bytes.to_vec())],
            (_, Payload::Read(read)) => self.read[&(read.index, read.generation)].clone(),
            (_, Payload::Request(token)) => {
                let value = self.clients[token as usize].as_ref().map_or(0, |request| request.value);
                vec![Content::Value(value); count as usize]
            }
            (_, Payload::None) => Vec::new(),
        };
        let leg = (leg.0 - 10) as usize;
        self.ios.push(LegIo { io, leg, operation, flags, first, count, contents, dropped: false });
        if self.dropped[leg] {
            self.drop_leg(leg);
        }
    }

    /// What is under way to a leg fails at once; it may still take effect.
    fn drop_leg(&mut self, leg: usize) {
        self.dropped[leg] = true;
        let mut failed = Vec::new();
        for io in self.ios.iter_mut().filter(|io| io.leg == leg && !io.dropped) {
            io.dropped = true;
            failed.push(io.io);
        }
        let time = self.time();
        for io in failed {
            self.tell(|mirror, actions| mirror.done(time, io, Err(BlockErrno::Eio), &[], actions));
        }
    }

    /// Some request to a leg is carried out.
    fn run_leg_io(&mut self) {
        if self.ios.is_empty() {
            return;
        }
        let chosen = self.dice.below(self.ios.len());
        let (leg, span) = (self.ios[chosen].leg, self.ios[chosen].span());
        let held_back =
            self.ios[..chosen].iter().any(|earlier| earlier.leg == leg && clash(earlier.span(), span));
        if held_back || !self.reachable[leg] {
            return;
        }
        let io = self.ios.remove(chosen);
        let fails = !self.calm && self.dice.permille(self.fails);
        if fails && self.dice.percent(50) {
            return self.finish(&io, Err(BlockErrno::Eio), &[]);
        }
        let bytes = self.apply(&io);
        let result = if fails { Err(BlockErrno::Eio) } else { Ok(()) };
        self.finish(&io, result, &bytes);
    }

    fn apply(&mut self, io: &LegIo) -> Vec<u8> {
        let disk = &mut self.disks[io.leg];
        match io.operation {
            Operation::Flush => disk.flush(),
            Operation::Read => {
                let key = (io.io.index, io.io.generation);
                if !io.dropped {
                    self.read.insert(key, disk.contents(io.first, io.count));
                }
                return disk.bytes(io.first, io.count);
            }
            _ => disk.write(io.first, &io.contents, io.flags.contains(RequestFlags::FUA)),
        }
        Vec::new()
    }

    fn finish(&mut self, io: &LegIo, result: Result<(), BlockErrno>, bytes: &[u8]) {
        if !io.dropped {
            let (time, io) = (self.time(), io.io);
            self.tell(|mirror, actions| mirror.done(time, io, result, bytes, actions));
        }
    }

    // --- clients ---

    fn client(&mut self) {
        let client = self.dice.below(CLIENTS);
        if self.clients[client].is_none() && !self.calm {
            self.clients[client] = self.request();
        }
        if self.clients[client].is_some() && !self.submitted[client] && self.is_open && !self.wants_number {
            self.submit(client);
        }
    }

    fn request(&mut self) -> Option<Request> {
        let flags = if self.durable { RequestFlags::FUA } else { RequestFlags::NONE };
        let first = HOT[self.dice.below(HOT.len())];
        let count = if self.dice.percent(20) { 1 + self.dice.0.draw() % (BLOCKS - first) } else { 1 };
        let (operation, flags) = match self.dice.below(20) {
            0..=8 => (Operation::Read, RequestFlags::NONE),
            9 => (Operation::Flush, RequestFlags::NONE),
            _ => (Operation::Write, flags),
        };
        let span = (operation, first, count);
        let clashes = |other: &Request| clash(span, (other.operation, other.first, other.count));
        if self.one_driver && self.clients.iter().flatten().any(clashes) {
            return None;
        }
        let value = self.next_value;
        self.next_value += 1;
        if operation == Operation::Write {
            for (_, history) in self.history.range_mut(first..first + count) {
                history.begin(value, self.now);
            }
        }
        Some(Request { operation, flags, first, count, value, begun: self.now })
    }

    fn submit(&mut self, client: usize) {
        let Some(request) = self.clients[client].clone() else { return };
        self.submitted[client] = true;
        let Request { operation, flags, first, count, .. } = request;
        let range = match operation {
            Operation::Flush => ByteRange::EMPTY,
            _ => ByteRange::new(first * BLOCK, (count * BLOCK) as u32),
        };
        let time = self.time();
        self.tell(|mirror, actions| mirror.submit(time, client as u64, operation, flags, range, actions));
    }

    fn answer(&mut self, client: usize, result: Result<(), BlockErrno>, read: Option<IoId>) {
        let shown = read.and_then(|io| self.read.remove(&(io.index, io.generation)));
        if self.wants_number && shown.is_some() {
            // A read that ends while the number rises is asked again.
            self.submitted[client] = false;
            return;
        }
        self.submitted[client] = false;
        let Some(request) = self.clients[client].take() else { return };
        self.score.answered += 1;
        if result.is_err() {
            return;
        }
        let (first, count) = (request.first, request.count);
        for (block, history) in self.history.range_mut(first..first + count) {
            match (request.operation, &shown) {
                (Operation::Write, _) => history.end(request.value, self.now),
                (Operation::Read, Some(contents)) => {
                    let value = match &contents[(block - first) as usize] {
                        Content::Value(value) => *value,
                        Content::Record(_) => u64::MAX,
                    };
                    if let Err(fault) = history.read(value, request.begun, self.now) {
                        self.fault = Some(format!("block {block} {fault}"));
                    }
                }
                _ => {}
            }
        }
    }

    // --- configuration ---

    fn decide(&mut self) {
        if !self.has_quorum || self.proposals.is_empty() {
            return;
        }
        let chosen = self.dice.below(self.proposals.len());
        let (generation, proposal, life) = self.proposals.swap_remove(chosen);
        if generation != self.layout.generation || life != self.life {
            return;
        }
        let in_sync = self.layout.legs().filter(|leg| leg.state == LegState::InSync).count();
        let mut layout = self.layout;
        match proposal {
            Proposal::Stale { leg, .. } => {
                if in_sync == 1 && layout.state_of(leg) == Some(LegState::InSync) {
                    self.fault = Some("the last leg in sync was to be called stale".to_owned());
                }
                self.score.stale += 1;
                set_state(&mut layout, leg, LegState::Stale);
            }
            Proposal::InSync { leg } => {
                self.score.in_sync += 1;
                set_state(&mut layout, leg, LegState::InSync);
            }
            Proposal::Formatted => layout.fresh = false,
        }
        layout.generation += 1;
        self.layout = layout;
        self.news.push_back(layout);
    }

    fn tell_news(&mut self) {
        let Some(layout) = self.news.pop_front() else { return };
        let time = self.time();
        self.tell(|mirror, actions| mirror.layout(time, &layout, actions));
    }

    // --- what goes wrong ---

    fn disturb(&mut self) {
        match self.dice.below(100) {
            0..=3 if self.one_driver => self.kill_server(),
            4..=6 => {
                let leg = self.dice.below(self.disks.len());
                let is = !self.reachable[leg];
                self.set_reachable(leg, is);
            }
            7..=18 => {
                for leg in 0..self.disks.len() {
                    self.set_reachable(leg, true);
                }
                self.has_quorum = true;
            }
            19 => self.has_quorum = self.dice.percent(50),
            20..=21 => self.lose_power_of_one(),
            22 => self.lose_content_of_one(),
            23 if self.durable && self.one_driver => self.lose_all_power(),
            24 => {
                if let Some(mirror) = self.mirror.as_mut() {
                    let leg = self.dice.below(self.disks.len());
                    mirror.prefer(Some(volume(leg)));
                }
            }
            _ => {}
        }
    }

    /// A change of the configuration: what was dropped and still on its way is over.
    fn next_number(&mut self) {
        self.epoch += 1;
        self.ios.retain(|io| !io.dropped);
        if self.is_open || self.mirror.is_some() {
            self.wants_number = true;
        }
    }

    fn set_reachable(&mut self, leg: usize, is: bool) {
        if self.reachable[leg] == is {
            return;
        }
        self.reachable[leg] = is;
        self.next_number();
        self.tell_reachable(leg);
    }

    fn tell_reachable(&mut self, leg: usize) {
        let time = self.time();
        let life = self.reachable[leg].then_some(Incarnation(self.lives[leg]));
        self.tell(|mirror, actions| mirror.reachable(time, volume(leg), life, actions));
    }

    /// A node of a leg begins a new life; nobody notices that it was away.
    fn begin_anew(&mut self, leg: usize) {
        self.lives[leg] += 1;
        self.next_number();
        self.tell_reachable(leg);
    }

    /// The number goes up when no client's request runs.
    fn raise(&mut self) {
        let is_ready = |mirror: &Mirror<R>| mirror.running() == 0 && mirror.status().is_open;
        let drained = self.mirror.as_ref().is_some_and(is_ready);
        if !self.wants_number || !drained || self.raising {
            return;
        }
        self.raising = true;
        self.wants_number = false;
        self.is_open = false;
        let (time, epoch) = (self.time(), Epoch(self.epoch));
        self.tell(|mirror, actions| mirror.persist(time, epoch, actions));
    }

    fn kill_server(&mut self) {
        if self.dice.percent(30) {
            // It is not killed but told to give up.
            self.tell(|mirror, actions| mirror.abandon(actions));
        }
        self.mirror = None;
        self.is_open = false;
        self.submitted.fill(false);
        // Whatever is on its way to a leg lands now or never.
        for _ in 0..self.ios.len() {
            let io = self.ios.remove(0);
            if self.dice.percent(50) {
                self.apply(&io);
            }
        }
        self.read.clear();
        self.dropped.fill(false);
        self.next_number();
    }

    fn take_over(&mut self) {
        self.score.takeovers += 1;
        self.life += 1;
        self.ios.clear();
        self.news.clear();
        self.raising = false;
        self.wants_number = false;
        self.is_open = false;
        self.epoch += 1;
        let limits = MirrorLimits {
            open_grace: Duration::from_millis(50),
            propose_again_after: Duration::from_millis(20),
            retry_after: Duration::from_millis(100),
            clean_every: Duration::from_millis([12, 60][self.dice.below(2)]),
            copies_max: 3,
            client_is_about: Duration::from_millis(5),
        };
        self.mirror = Some(Mirror::with_rules(&self.layout, limits));
        let time = self.time();
        for leg in 0..self.disks.len() {
            self.tell_reachable(leg);
        }
        self.tell(|mirror, actions| mirror.open(time, actions));
    }

    fn is_redundant(&self) -> bool {
        self.layout.legs().all(|leg| leg.state == LegState::InSync)
            && self.reachable.iter().all(|is| *is)
            && self
                .mirror
                .as_ref()
                .is_some_and(|mirror| mirror.status().legs.iter().all(|leg| leg.standing == Standing::Sound))
            && self.is_open
            && self.news.is_empty()
    }

    /// One leg's node loses power, and is back later: nothing may be lost.
    fn lose_power_of_one(&mut self) {
        if self.is_redundant() {
            self.score.power_cuts += 1;
            let leg = self.dice.below(self.disks.len());
            let is_noticed = self.dice.percent(60);
            if is_noticed {
                self.set_reachable(leg, false);
            } else if self.one_driver && self.dice.percent(50) {
                self.kill_server();
            }
            self.disks[leg].cut(&mut self.dice);
            if self.dice.percent(30) {
                self.disks[leg].damage_map();
            }
            self.lives[leg] += u64::from(is_noticed);
            if !is_noticed {
                self.begin_anew(leg);
            }
        }
    }

    /// One leg comes back with another medium.
    fn lose_content_of_one(&mut self) {
        if self.is_redundant() {
            self.score.lost_contents += 1;
            let leg = self.dice.below(self.disks.len());
            self.set_reachable(leg, false);
            self.disks[leg].blank();
            self.lives[leg] += 1;
            if self.dice.percent(50) {
                self.set_reachable(leg, true);
            }
        }
    }

    fn lose_all_power(&mut self) {
        self.score.power_cuts += 1;
        self.kill_server();
        for (disk, life) in self.disks.iter_mut().zip(&mut self.lives) {
            disk.cut(&mut self.dice);
            *life += 1;
        }
    }
}

fn set_state(layout: &mut Layout, volume: VolumeId, state: LegState) {
    for leg in layout.legs.iter_mut().flatten().filter(|leg| leg.volume == volume) {
        leg.state = state;
    }
}
