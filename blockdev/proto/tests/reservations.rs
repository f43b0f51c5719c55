//! Reservations at a master under random orders of commands, requests, late rows and rising numbers: what a
//! reservation keeps a host from never runs, and a preemption that aborts is never told done while something
//! of its victims runs.

use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{BlockBytes, ByteRange, DiskId, VolumeId};
use blockdev_proto::mapping::{CANDIDATES_MAX, Candidate, Mapping};
use blockdev_proto::master::{Admission, Master, MasterAction, MasterLimits, Token};
use blockdev_proto::reservation::{Command, Key, Kind, Reservations};
use blockdev_proto::rules::{PreemptWithoutWaiting, Rules, Strict};
use blockdev_proto::wire::{Operation, Request, RequestFlags, RequestId, Settle, Slot, Verdict};
use fixtures_faults::Dice;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use transport_proto::identity::{Epoch, Incarnation, NodeId, Sequence};
use transport_proto::time::Time;

const VOLUME: VolumeId = VolumeId(4);
const HERE: NodeId = NodeId(1);
const HOSTS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const STEPS: usize = 400;

fn any_host(dice: &mut Dice) -> NodeId {
    HOSTS[dice.below(3) as usize]
}

fn any_kind(dice: &mut Dice) -> Kind {
    Kind::ALL[dice.below(6) as usize].0
}

/// A request that runs, and the row that let it in.
struct Running {
    token: Token,
    host: NodeId,
    revision: u64,
}

/// A command that waits to be told done.
struct Waiting {
    settle: Settle,
    victims: Vec<NodeId>,
}

/// A log of rows, a master that gets them late, and what the hosts know.
struct World<R: Rules> {
    dice: Dice,
    master: Master<R>,
    actions: Vec<MasterAction>,
    /// As the log has it, and its revision.
    newest: (u64, Reservations),
    /// On their way to the master.
    coming: VecDeque<(u64, Reservations)>,
    /// As the master has it.
    known: (u64, Reservations),
    running: Vec<Running>,
    waiting: Vec<Waiting>,
    epoch: u64,
    sequence: u64,
    settled: u64,
    refused: u64,
}

fn mapping(epoch: u64) -> Mapping {
    let mut candidates = [None; CANDIDATES_MAX];
    candidates[0] = Some(Candidate { node: HERE, disk: DiskId(9), path_broken: false });
    Mapping {
        volume: VOLUME,
        epoch: Epoch(epoch),
        candidates,
        serving: Some(HERE),
        size_bytes: 1 << 20,
        block_bytes: BlockBytes::USUAL,
        read_only: false,
        suspended: false,
    }
}

impl<R: Rules> World<R> {
    fn new(seed: u64) -> World<R> {
        let mut world = World {
            dice: Dice::new(seed),
            master: Master::with_rules(HERE, MasterLimits::default()),
            actions: Vec::new(),
            newest: (0, Reservations::default()),
            coming: VecDeque::new(),
            known: (0, Reservations::default()),
            running: Vec::new(),
            waiting: Vec::new(),
            epoch: 1,
            sequence: 0,
            settled: 0,
            refused: 0,
        };
        world.raise();
        world
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            match self.dice.below(12) {
                0..=2 => self.command(),
                3..=6 => self.request(),
                7 | 8 => self.end_one(),
                9 => self.raise(),
                _ => self.hear(),
            }
        }
        // All is told in the end.
        while !self.coming.is_empty() {
            self.hear();
        }
        while !self.running.is_empty() {
            self.end_one();
        }
        self.raise();
        assert!(self.waiting.is_empty(), "a command was never told done");
    }

    /// A host's command, as the log applies it, and its question when it is done.
    fn command(&mut self) {
        let (host, kind) = (any_host(&mut self.dice), any_kind(&mut self.dice));
        let key = Key(u64::from(host.0));
        let command = match self.dice.below(6) {
            0 | 1 => Command::Register { existing: None, new: key },
            2 => Command::Reserve { key, kind },
            3 => Command::Release { key, kind: self.newest.1.held.map_or(kind, |held| held.kind) },
            _ => {
                let victim = Key(self.dice.below(4));
                Command::Preempt { key, victim, kind, abort: self.dice.below(3) > 0 }
            }
        };
        let mut after = self.newest.1.clone();
        if after.apply(host, command).is_err() {
            return;
        }
        if after != self.newest.1 {
            self.newest = (self.newest.0 + 1, after.clone());
            self.coming.push_back(self.newest.clone());
        }
        let is_victim = |node: &NodeId| *node != host && !after.permits(*node, Operation::Write);
        let victims = HOSTS.into_iter().filter(is_victim).collect();
        let settle = Settle { volume: VOLUME, revision: self.newest.0, aborts: command.aborts() };
        self.waiting.push(Waiting { settle, victims });
        self.master.settle(host, &settle, &mut self.actions);
        self.act();
    }

    /// The next row reaches the master.
    fn hear(&mut self) {
        let Some((revision, row)) = self.coming.pop_front() else { return };
        self.known = (revision, row.clone());
        self.master.reservations(VOLUME, Some((revision, &row)), &mut self.actions);
        self.act();
    }

    fn request(&mut self) {
        let host = any_host(&mut self.dice);
        self.sequence += 1;
        let operation = if self.dice.below(3) == 0 { Operation::Read } else { Operation::Write };
        let request = Request {
            volume: VOLUME,
            epoch: Epoch(self.epoch),
            client: host,
            incarnation: Incarnation(7),
            id: RequestId { slot: Slot((self.sequence % 1000) as u32), sequence: Sequence(self.sequence) },
            operation,
            flags: RequestFlags::NONE,
            range: ByteRange::new(0, 4096),
        };
        let may = self.known.1.permits(host, operation);
        match self.master.admit(Time(1), host, &request) {
            Admission::Execute(token) => {
                assert!(may, "{host:?} was let in against {:?}", self.known.1);
                self.running.push(Running { token, host, revision: self.known.0 });
            }
            Admission::Answer(answer) if answer.verdict == Verdict::Errno(BlockErrno::Eperm) => {
                assert!(!may, "{host:?} was kept from {operation:?} by {:?}", self.known.1);
                self.refused += 1;
                // A copy that comes late, after whatever release, is refused too.
                let copy = self.master.admit(Time(1), host, &request);
                assert!(matches!(copy, Admission::Answer(again) if again.verdict == answer.verdict));
            }
            // The gate is being raised.
            Admission::Answer(_) => {}
            Admission::Drop => panic!("nothing of it was known"),
        }
    }

    fn end_one(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let place = self.dice.below(self.running.len() as u64) as usize;
        let Running { token, .. } = self.running.swap_remove(place);
        let _ = self.master.executed(Time(1), token, Ok(()), &mut self.actions);
        self.act();
    }

    fn raise(&mut self) {
        self.epoch += 1;
        self.master.mapping(Time(1), &mapping(self.epoch), &mut self.actions).expect("a sound row");
        self.act();
    }

    fn act(&mut self) {
        while !self.actions.is_empty() {
            for action in std::mem::take(&mut self.actions) {
                match action {
                    MasterAction::TakeOwnership { volume, .. } => {
                        self.master.ownership_taken(Time(1), volume, Epoch(0), &mut self.actions);
                    }
                    MasterAction::PersistEpoch { volume, epoch, .. } => {
                        self.master.epoch_persisted(Time(1), volume, epoch, &mut self.actions);
                    }
                    MasterAction::AnswerSettled { settled, .. } => self.told(&settled),
                    _ => {}
                }
            }
        }
    }

    /// Commands are told done: nothing that they rule out may run.
    fn told(&mut self, settled: &Settle) {
        assert!(
            self.known.0 >= settled.revision,
            "the master does not know the row that it says is in force"
        );
        for Waiting { settle, victims } in self.waiting.iter().filter(|one| one.settle == *settled) {
            let late =
                self.running.iter().find(|one| victims.contains(&one.host) && one.revision < settle.revision);
            if let Some(late) = late.filter(|_| settle.aborts) {
                panic!("done, but a request of {:?} still runs", late.host);
            }
        }
        self.waiting.retain(|one| one.settle != *settled);
        self.settled += 1;
    }
}

// proves: B12
#[test]
fn no_order_lets_in_what_is_kept_out_or_ends_a_preemption_too_early() {
    let (mut settled, mut refused) = (0, 0);
    for seed in 0..600 {
        let mut world = World::<Strict>::new(seed);
        world.run();
        settled += world.settled;
        refused += world.refused;
    }
    assert!(settled > 5_000 && refused > 5_000, "{settled} commands, {refused} refusals are too few to tell");
}

// proves: B12
#[test]
fn a_preemption_that_does_not_wait_is_noticed() {
    let is_noticed = |seed| {
        let run = || World::<PreemptWithoutWaiting>::new(seed).run();
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    assert!((0..300).any(is_noticed), "300 seeds have not shown it");
}
