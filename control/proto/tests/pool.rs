//! The pool under whatever happens: orders of administrators in any sequence, planned from what they saw
//! perhaps long ago, sent twice; lenders that erase, crash in the midst of it, say late what they did for an
//! earlier state of a region. After each step no region is lent twice, none is free or lent whose bytes are
//! not zero or the borrower's own, and in the end everything converges.

use blockdev_proto::geometry::DiskId;
use control_proto::ccd::{Answer, Change, Command, Database, Expect, OperationId, Steward};
use control_proto::ccd::{Row, RowChange, RowKey};
use control_proto::pool::{
    Extent, Form, LoanId, LoanRow, RegionId, RegionRow, RegionState, Wanted, mount, narrow, place, unmount,
    widen,
};
use control_proto::rows::{
    ClusterRows, DiskKind, DiskPort, DiskRow, LinkNumber, LinkRow, NodeRow, RailAddress, RailEnd, RailRow,
};
use control_proto::view::Member;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, RailId};

const NODES: u16 = 3;
const REGIONS: u32 = 5;
const NAMES: [&str; 3] = ["x", "y", "z"];

fn member(node: u16) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(9) }
}

fn lender(region: u32) -> u16 {
    (region % u32::from(NODES)) as u16 + 1
}

fn rows() -> ClusterRows {
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let node = |id| NodeRow { id: NodeId(id), name: format!("node{id}"), host, voter: true };
    let end = |id| RailEnd {
        node: NodeId(id),
        address: RailAddress::Tcp(at(7000 + 2 * id)),
        heartbeat: at(7001 + 2 * id),
    };
    let rail = RailRow { id: RailId(0), ends: (1..=NODES).map(end).collect() };
    let nodes = (1..=NODES).map(NodeId).collect();
    let disk = |id: u32| DiskRow {
        id: DiskId(id),
        name: format!("r{id}"),
        kind: DiskKind::File,
        ports: vec![DiskPort { node: NodeId(lender(id)), path: format!("/r{id}") }],
    };
    let region = |id: u32| RegionRow {
        id: RegionId(id),
        name: format!("r{id}"),
        lender: NodeId(lender(id)),
        extents: vec![Extent { disk: DiskId(id), size_bytes: 8 << 20 }],
        form: if id.is_multiple_of(2) { Form::Single } else { Form::Mirrored },
        drained: false,
        state: RegionState::Erasing,
    };
    ClusterRows {
        nodes: (1..=NODES).map(node).collect(),
        links: vec![LinkRow { number: LinkNumber(0), id: LinkId(0), nodes, rails: vec![rail] }],
        disks: (1..=REGIONS).map(disk).collect(),
        regions: (1..=REGIONS).map(region).collect(),
        ..ClusterRows::empty("c")
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// An administrator looks, and plans from what was seen from then on.
    Look,
    Allocate {
        name: usize,
        borrower: u16,
        form: Form,
    },
    Mount {
        name: usize,
    },
    Unmount {
        name: usize,
    },
    /// Somebody gives a volume back by hand, as if its regions were erased.
    Hurry {
        name: usize,
    },
    /// Somebody hands a volume on to another node by hand, as it is.
    HandOn {
        name: usize,
    },
    /// A copy comes.
    Widen {
        name: usize,
    },
    /// A copy goes.
    Narrow {
        name: usize,
    },
    Release {
        name: usize,
    },
    /// Somebody writes a row by hand that frees a region, or lends one that is not free.
    ByHand {
        region: u32,
        state: RegionState,
    },
    /// A lender begins to erase what it sees.
    Erase {
        region: u32,
    },
    /// It is done, and says so; perhaps late.
    Say {
        region: u32,
    },
    /// It crashes: what it was doing is begun anew.
    Crash {
        node: u16,
    },
    /// The last command arrives once more.
    Again,
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let region = 1..=REGIONS;
    let form = prop_oneof![Just(Form::Single), Just(Form::Mirrored)];
    prop_oneof![
        2 => Just(Step::Look),
        4 => (name.clone(), 1..=NODES, form)
            .prop_map(|(name, borrower, form)| Step::Allocate { name, borrower, form }),
        3 => name.clone().prop_map(|name| Step::Mount { name }),
        3 => name.clone().prop_map(|name| Step::Unmount { name }),
        1 => name.clone().prop_map(|name| Step::Hurry { name }),
        1 => name.clone().prop_map(|name| Step::HandOn { name }),
        1 => name.clone().prop_map(|name| Step::Widen { name }),
        1 => name.clone().prop_map(|name| Step::Narrow { name }),
        3 => name.prop_map(|name| Step::Release { name }),
        1 => (region.clone(), prop_oneof![Just(RegionState::Free), Just(RegionState::Lent(LoanId(1)))])
            .prop_map(|(region, state)| Step::ByHand { region, state }),
        5 => region.clone().prop_map(|region| Step::Erase { region }),
        5 => region.prop_map(|region| Step::Say { region }),
        1 => (1..=NODES).prop_map(|node| Step::Crash { node }),
        1 => Just(Step::Again),
    ]
}

struct World {
    database: Database,
    seen: Database,
    sequence: u64,
    last: Option<Command>,
    /// What lies on a region: nothing, or bytes of this loan's borrower.
    bytes: BTreeMap<u32, Option<(LoanId, NodeId)>>,
    /// Erases under way or done, by the revision for which they began.
    erasing: BTreeMap<u32, u64>,
}

impl World {
    fn new() -> World {
        let database = Database::found(rows()).expect("sound rows");
        // Nobody knows what was on the disks before.
        let foreign = Some((LoanId(u32::MAX), NodeId(u16::MAX)));
        let bytes = (1..=REGIONS).map(|region| (region, foreign)).collect();
        let seen = database.clone();
        let mut world = World { database, seen, sequence: 0, last: None, bytes, erasing: BTreeMap::new() };
        let by = Steward { member: member(1), term: 1 };
        world.give(Vec::new(), Change::Steward(by));
        let members = (1..=NODES).map(member).collect();
        let expect = Epoch(0);
        let change = Change::Membership { by, expect, members, broken: Vec::new(), causes: Vec::new() };
        world.give(Vec::new(), change);
        world.seen = world.database.clone();
        world
    }

    fn give(&mut self, expect: Vec<Expect>, change: Change) -> Answer {
        self.sequence += 1;
        let operation = OperationId { node: NodeId(1), life: Incarnation(9), sequence: self.sequence };
        let command = Command { operation, expect, change };
        self.last = Some(command.clone());
        self.apply(&command)
    }

    fn apply(&mut self, command: &Command) -> Answer {
        let index = self.database.index() + 1;
        self.database.apply(index, command).answer().clone()
    }

    /// As a command does it: the changes, for the revisions that were looked at.
    fn propose(&mut self, changes: Vec<RowChange>) {
        let expect = |change: &RowChange| {
            let key = change.key();
            let revision = self.seen.revision(&key);
            Expect::Row { key, revision }
        };
        let expect = changes.iter().map(expect).collect::<Vec<_>>();
        let at_once = self.give(expect.clone(), Change::Rows(changes.clone()));
        if at_once.result.is_ok() {
            return;
        }
        let together = Change::Prepare { changes, deadline_ms: 900, hold: false };
        let Ok(outcome) = self.give(expect, together).result else { return };
        if let Some(reconfiguration) = outcome.reconfiguration {
            for node in 1..=NODES {
                self.give(Vec::new(), Change::Ack { reconfiguration, member: member(node) });
            }
        }
    }

    fn allocate(&mut self, name: &str, borrower: u16, form: Form) {
        let rows = self.seen.rows().clone();
        let wanted = Wanted { form, size_bytes: 4 << 20, count: 2, avoid: Vec::new() };
        let Ok(regions) = place(&rows, &wanted) else { return };
        let id = LoanId(rows.loans.iter().map(|row| row.id.0).max().unwrap_or(0) + 1);
        let lent = regions.iter().filter_map(|id| rows.region(*id));
        let lend = |row: &RegionRow| RegionRow { state: RegionState::Lent(id), ..row.clone() };
        let mut changes: Vec<RowChange> = lent.map(|row| RowChange::Put(Row::Region(lend(row)))).collect();
        changes.push(RowChange::Put(Row::Loan(LoanRow {
            id,
            name: name.into(),
            borrower: NodeId(borrower),
            form,
            size_bytes: wanted.size_bytes,
            copies: if form == Form::Mirrored { 2 } else { 1 },
            regions,
            mounted: None,
            kept: None,
        })));
        self.propose(changes);
    }

    fn hand_on(&mut self, name: &str) {
        let rows = self.seen.rows().clone();
        let Some(loan) = rows.loan_named(name) else { return };
        let id = LoanId(rows.loans.iter().map(|row| row.id.0).max().unwrap_or(0) + 1);
        let mut changes = vec![RowChange::Remove(RowKey::Loan(loan.id))];
        for row in loan.regions.iter().filter_map(|id| rows.region(*id)) {
            let row = RegionRow { state: RegionState::Lent(id), ..row.clone() };
            changes.push(RowChange::Put(Row::Region(row)));
        }
        let borrower = NodeId(loan.borrower.0 % NODES + 1);
        let row = LoanRow { id, borrower, kept: None, ..loan.clone() };
        changes.push(RowChange::Put(Row::Loan(row)));
        self.propose(changes);
    }

    fn widen(&mut self, name: &str) {
        let rows = self.seen.rows().clone();
        let Some(loan) = rows.loan_named(name) else { return };
        let lenders = loan.regions.iter().filter_map(|id| rows.region(*id)).map(|row| row.lender);
        let avoid = lenders.collect();
        let wanted = Wanted { form: Form::Mirrored, size_bytes: loan.size_bytes, count: 1, avoid };
        let Ok(regions) = place(&rows, &wanted) else { return };
        let changes = regions.first().and_then(|region| widen(&rows, loan, *region, 77).ok());
        changes.into_iter().for_each(|changes| self.propose(changes));
    }

    fn release(&mut self, name: &str) {
        self.give_back(name, RegionState::Erasing);
    }

    fn give_back(&mut self, name: &str, state: RegionState) {
        let rows = self.seen.rows().clone();
        let Some(loan) = rows.loan_named(name) else { return };
        let mut changes = vec![RowChange::Remove(RowKey::Loan(loan.id))];
        for row in loan.regions.iter().filter_map(|id| rows.region(*id)) {
            let row = RegionRow { state, ..row.clone() };
            changes.push(RowChange::Put(Row::Region(row)));
        }
        self.propose(changes);
    }

    fn take(&mut self, step: &Step) {
        let rows = self.seen.rows().clone();
        match step {
            Step::Look => self.seen = self.database.clone(),
            Step::Allocate { name, borrower, form } => self.allocate(NAMES[*name], *borrower, *form),
            Step::Mount { name } => {
                let loan = rows.loan_named(NAMES[*name]);
                let changes = loan.and_then(|loan| mount(&rows, loan, (0, 0), 5).ok());
                changes.into_iter().for_each(|changes| self.propose(changes));
            }
            Step::Unmount { name } => {
                let loan = rows.loan_named(NAMES[*name]);
                let changes = loan.and_then(|loan| unmount(&rows, loan).ok());
                changes.into_iter().for_each(|changes| self.propose(changes));
            }
            Step::Hurry { name } => self.give_back(NAMES[*name], RegionState::Free),
            Step::HandOn { name } => self.hand_on(NAMES[*name]),
            Step::Widen { name } => self.widen(NAMES[*name]),
            Step::Narrow { name } => {
                let loan = rows.loan_named(NAMES[*name]);
                let last = loan.and_then(|loan| loan.regions.last().map(|region| (loan, *region)));
                let changes = last.and_then(|(loan, region)| narrow(&rows, loan, region).ok());
                changes.into_iter().for_each(|changes| self.propose(changes));
            }
            Step::Release { name } => self.release(NAMES[*name]),
            Step::ByHand { region, state } => {
                if let Some(row) = rows.region(RegionId(*region)) {
                    let row = RegionRow { state: *state, ..row.clone() };
                    self.propose(vec![RowChange::Put(Row::Region(row))]);
                }
            }
            Step::Erase { region } => self.erase(*region),
            Step::Say { region } => self.say(*region),
            Step::Crash { node } => self.erasing.retain(|region, _| lender(*region) != *node),
            Step::Again => {
                if let Some(command) = self.last.clone() {
                    self.apply(&command);
                }
            }
        }
        self.write();
    }

    /// A lender erases what its own, up-to-date rows say; the lock of the disk keeps it out while it is
    /// mounted.
    fn erase(&mut self, region: u32) {
        let key = RowKey::Region(RegionId(region));
        let row = self.database.rows().region(RegionId(region)).cloned();
        if row.is_some_and(|row| row.state == RegionState::Erasing) {
            self.bytes.insert(region, None);
            self.erasing.insert(region, self.database.revision(&key));
        }
    }

    fn say(&mut self, region: u32) {
        let Some(revision) = self.erasing.get(&region).copied() else { return };
        let expect = vec![Expect::Row { key: RowKey::Region(RegionId(region)), revision }];
        let by = member(lender(region));
        self.give(expect, Change::Erased { region: RegionId(region), by });
    }

    /// Whoever has a volume mounted writes all of it; what it finds first must be nobody else's.
    fn write(&mut self) {
        let rows = self.database.rows().clone();
        for loan in rows.loans.iter().filter(|loan| loan.mounted.is_some()) {
            for region in &loan.regions {
                let found = self.bytes.insert(region.0, Some((loan.id, loan.borrower))).flatten();
                assert!(
                    found.is_none_or(|(_, writer)| writer == loan.borrower),
                    "node {} reads what node {} wrote on region {}",
                    loan.borrower.0,
                    found.map_or(0, |(_, writer)| writer.0),
                    region.0
                );
            }
        }
    }

    fn check(&self) {
        let rows = self.database.rows();
        assert_eq!(control_proto::rules::check_all(rows), []);
        for region in &rows.regions {
            let borrowers = rows.loans.iter().filter(|loan| loan.regions.contains(&region.id));
            let borrowers: Vec<LoanId> = borrowers.map(|loan| loan.id).collect();
            let lent: Vec<LoanId> = region.loan().into_iter().collect();
            assert_eq!(borrowers, lent, "region {} is lent once or not at all", region.id.0);
            let on_it = rows.virtual_disks.iter().flat_map(|row| &row.candidates);
            let reached = on_it.filter(|(_, disk)| *disk == region.extents[0].disk).count();
            let mounted = region.loan().and_then(|loan| rows.loan(loan)?.mounted).is_some();
            assert_eq!(reached > 0, mounted, "a path to region {} without a mount", region.id.0);
            if region.state == RegionState::Free {
                assert_eq!(self.bytes[&region.id.0], None, "region {} is free and not zero", region.id.0);
            }
        }
        let snapshot = self.database.snapshot();
        let restored: Database = Database::restore(&snapshot).expect("a snapshot");
        assert_eq!(restored.rows(), self.database.rows());
    }

    /// All stop, lenders come back, everything is given back.
    fn settle(&mut self) {
        for name in NAMES {
            for step in [Step::Look, Step::Unmount { name: index(name) }, Step::Look] {
                self.take(&step);
            }
            self.release(name);
        }
        for region in 1..=REGIONS {
            self.erase(region);
            self.say(region);
        }
        self.check();
        let rows = self.database.rows();
        assert!(rows.loans.is_empty() && rows.virtual_disks.is_empty() && rows.volumes.is_empty());
        assert!(rows.permissions.is_empty());
        assert!(rows.regions.iter().all(|row| row.state == RegionState::Free), "{:?}", rows.regions);
    }
}

fn index(name: &str) -> usize {
    NAMES.iter().position(|other| *other == name).unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    // proves: M4 M5 M8 C1
    #[test]
    fn no_order_of_events_lends_a_region_twice_or_frees_one_that_is_not_zero(
        is_erased in any::<bool>(),
        steps in proptest::collection::vec((proptest::bool::weighted(0.8), step()), 1..120)
    ) {
        let mut world = if is_erased { erased_world() } else { World::new() };
        for (looks, step) in &steps {
            if *looks {
                world.take(&Step::Look);
            }
            world.take(step);
            world.check();
        }
        world.settle();
    }
}

/// A free pool, and two administrators who have both seen it.
fn erased_world() -> World {
    let mut world = World::new();
    for region in 1..=REGIONS {
        world.erase(region);
        world.say(region);
    }
    world.take(&Step::Look);
    world
}

// proves: M5
#[test]
fn of_two_allocations_that_were_planned_for_the_same_region_one_is_made() {
    let mut world = erased_world();
    world.allocate("x", 1, Form::Single);
    world.allocate("y", 2, Form::Single);
    let names: Vec<&str> = world.database.rows().loans.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["x"], "the second was planned for a region that is lent");
    world.check();
}

// proves: M5
#[test]
fn an_allocation_that_arrives_twice_is_made_once_and_answered_alike() {
    let mut world = erased_world();
    world.allocate("x", 1, Form::Single);
    let command = world.last.clone().expect("it was given");
    let before = world.database.rows().clone();
    let answer = world.apply(&command);
    assert!(answer.result.is_ok());
    assert_eq!(*world.database.rows(), before);
}

// proves: M5 M8
#[test]
fn a_region_is_neither_freed_nor_lent_to_another_with_the_bytes_of_its_borrower() {
    let mut world = erased_world();
    world.allocate("x", 1, Form::Single);
    for step in [Step::Look, Step::Mount { name: 0 }, Step::Look, Step::Unmount { name: 0 }, Step::Look] {
        world.take(&step);
    }
    let before = world.database.rows().clone();
    for step in [Step::Hurry { name: 0 }, Step::HandOn { name: 0 }] {
        world.take(&step);
        assert_eq!(*world.database.rows(), before, "{step:?} did something");
    }
    world.check();
}

// proves: M8
#[test]
fn only_erasing_leads_to_free_whoever_says_so_and_however_a_region_comes() {
    let mut world = erased_world();
    world.allocate("x", 1, Form::Single);
    let lent = world.database.rows().regions.iter().find(|row| row.loan().is_some()).cloned().expect("one");
    let by = Member { node: lent.lender, ..member(1) };
    let before = world.database.rows().clone();
    // Without a revision that would make it late.
    let said = world.give(vec![], Change::Erased { region: lent.id, by }).result.expect_err("it is lent");
    assert!(said.to_string().contains("not being erased"), "{said}");
    assert_eq!(*world.database.rows(), before);

    let free = before.regions.iter().find(|row| row.is_free()).cloned().expect("one");
    let removed = vec![RowChange::Remove(RowKey::Region(free.id))];
    world.give(vec![], Change::Rows(removed)).result.expect("nobody uses it");
    let put = |row: RegionRow| Change::Rows(vec![RowChange::Put(Row::Region(row))]);
    let said = world.give(vec![], put(free.clone())).result.expect_err("nobody has erased it");
    assert!(said.to_string().contains("not erased yet"), "{said}");
    let erasing = RegionRow { state: RegionState::Erasing, ..free };
    world.give(vec![], put(erasing)).result.expect("as new ones come");
}

// proves: M8
#[test]
fn a_late_word_about_an_earlier_erase_frees_nothing() {
    let mut world = erased_world();
    world.allocate("x", 1, Form::Single);
    for step in [Step::Look, Step::Mount { name: 0 }, Step::Look, Step::Unmount { name: 0 }, Step::Look] {
        world.take(&step);
    }
    let lent = world.database.rows().loans[0].regions[0];
    world.release("x");
    world.say(lent.0);
    let state = world.database.rows().region(lent).expect("it is there").state;
    assert_eq!(state, RegionState::Erasing, "it was said for the erase before the loan");
    let by_other = Change::Erased { region: lent, by: member(lender(lent.0) % NODES + 1) };
    assert!(
        world.give(Vec::new(), by_other).result.expect_err("not its lender").to_string().contains("lend")
    );
}

// proves: M8 M4
#[test]
fn the_medium_of_a_region_is_not_exchanged_and_nothing_else_lies_on_it() {
    let mut world = erased_world();
    let mut disk = world.database.rows().disks[0].clone();
    disk.ports[0].path = "/other".into();
    let exchanged = world.give(Vec::new(), Change::Rows(vec![RowChange::Put(Row::Disk(disk))])).result;
    assert!(exchanged.expect_err("nobody erased it").to_string().contains("add it anew"));
    world.allocate("x", 1, Form::Single);
    world.take(&Step::Look);
    world.take(&Step::Mount { name: 0 });
    let volume = world.database.rows().loans[0].mounted.expect("it is mounted");
    let mut permission = world.database.rows().permission(volume).expect("it has one").clone();
    permission.nodes.push(NodeId(2));
    let shared = world.give(Vec::new(), Change::Rows(vec![RowChange::Put(Row::Permission(permission))]));
    assert!(shared.result.expect_err("one borrower").to_string().contains("lent to one node"));
}
