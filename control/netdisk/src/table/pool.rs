//! `netdisk pool`: spare storage that nodes lend, and the volumes that are borrowed on it.

mod evacuate;

use super::nbd::address;
use super::{bytes, change, next_number};
use crate::change::show::columns;
use crate::change::{Flags, Look, Plan, find, flow};
use crate::daemon::{Daemon, request};
use crate::random::random;
use anyhow::{Context, ensure};
use blockdev_proto::geometry::DiskId;
use control_node::admin::Request;
use control_node::config::size_text;
use control_node::report::{Region as Seen, Status};
use control_proto::ccd::{Database, Row, RowChange, RowKey};
use control_proto::pool::{
    self, Extent, Form, LOAN_BLOCK, LoanId, LoanRow, REGIONS_MAX, RegionId, RegionRow, RegionState, Wanted,
};
use control_proto::rows::{ClusterRows, DISKS_MAX, DiskKind, DiskPort, DiskRow, NbdRow};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Lend spare storage, borrow volumes of it.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// The whole pool: who lends what to whom, in which form, mounted or not.
    Table(Table),
    /// Lend a formatted disk of a node, as much of it as --size says, or several as one region.
    Add(Add),
    /// Take a region that is not lent out of the pool; its disks stay where they are.
    Remove(Named),
    /// Set what a region may be used for, while it is not lent.
    Form(SetForm),
    /// Let regions not be lent again once they are free; or let them be lent again.
    Drain(Drain),
    /// Move the copy that a region holds to another region, while its borrower goes on; then it is erased.
    Evacuate(Evacuate),
    /// Borrow a volume: free regions of the form become lent, all of them or none.
    Allocate(Allocate),
    /// Make the path to a borrowed volume; says how it is opened.
    Mount(Mount),
    /// Take the path away; the bytes stay.
    Unmount(Named),
    /// Give a borrowed volume back; its regions are erased, then they are free.
    Release(Named),
}

#[derive(clap::Args)]
struct Table {
    /// Wait up to so many seconds until nothing is being erased.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    #[command(flatten)]
    look: Look,
}

#[derive(clap::Args)]
struct Named {
    /// Its name.
    name: String,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Add {
    /// The region's name.
    name: String,
    /// The node that lends it.
    #[arg(long)]
    node: String,
    /// Where the disk is on that node, absolute; several times for several disks as one region.
    #[arg(long = "path", required = true)]
    paths: Vec<String>,
    /// Bytes to lend, with KiB, MiB, GiB or TiB; once for all disks, or once for each.
    #[arg(long = "size", required = true)]
    sizes: Vec<String>,
    /// What it may be used for.
    #[arg(long, value_enum, default_value_t = FormName::Single)]
    form: FormName,
    /// The paths are block devices.
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum FormName {
    /// A volume of its own.
    Single,
    /// Some of a volume, one region after the other.
    Concatenated,
    /// A copy of a volume, each on another node.
    Mirrored,
    /// Some of a volume, the regions in turns.
    Split,
}

impl FormName {
    fn form(self) -> Form {
        match self {
            FormName::Single => Form::Single,
            FormName::Concatenated => Form::Concatenated,
            FormName::Mirrored => Form::Mirrored,
            FormName::Split => Form::Split,
        }
    }
}

#[derive(clap::Args)]
struct SetForm {
    /// The region.
    name: String,
    /// What it may be used for.
    #[arg(value_enum)]
    form: FormName,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Drain {
    /// The region.
    #[arg(required_unless_present = "node")]
    name: Option<String>,
    /// All regions of this node, in place of one.
    #[arg(long, conflicts_with = "name")]
    node: Option<String>,
    /// They may be lent again.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Evacuate {
    /// The region.
    name: String,
    /// Seconds that the copying may take; the same command again goes on.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    wait: u64,
    /// Nodes that the copy is not to move to.
    #[arg(long, value_delimiter = ',', value_name = "NODES")]
    avoid: Vec<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Allocate {
    /// The volume's name.
    name: String,
    /// The node that borrows it; no other may open it.
    #[arg(long)]
    borrower: String,
    /// Bytes, with KiB, MiB, GiB or TiB.
    #[arg(long)]
    size: String,
    /// How it lies on regions.
    #[arg(long, value_enum, default_value_t = FormName::Single)]
    form: FormName,
    /// Copies of a mirrored volume, or regions that a split one takes turns on.
    #[arg(long, default_value_t = 2)]
    count: usize,
    /// Nodes that it is not to lie on.
    #[arg(long, value_delimiter = ',', value_name = "NODES")]
    avoid: Vec<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Mount {
    /// The volume.
    name: String,
    /// Let the borrower's node serve it by NBD too: unix:/absolute/path or tcp:ADDRESS:PORT.
    #[arg(long)]
    listen: Option<String>,
    /// User on the borrower's node that may open it, as a number; by default whoever runs this.
    #[arg(long)]
    owner: Option<u32>,
    /// Group, as a number.
    #[arg(long)]
    group: Option<u32>,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::Table(it) => table(&it.look, it.wait),
        Action::Add(it) => change(&it.flags, false, &|db| plan_add(db, it)),
        Action::Remove(it) => change(&it.flags, false, &|db| plan_remove(db, &it.name)),
        Action::Form(it) => change(&it.flags, false, &|db| plan_form(db, &it.name, it.form.form())),
        Action::Drain(it) => change(&it.flags, false, &|db| plan_drain(db, it)),
        Action::Evacuate(it) => evacuate::run(it),
        Action::Allocate(it) => change(&it.flags, false, &|db| plan_allocate(db, it)),
        Action::Mount(it) => {
            let seed = u64::from_le_bytes(random()?);
            let me = std::fs::metadata("/proc/self").context("this user is not known: say --owner");
            let owner = match (it.owner, it.group) {
                (Some(owner), group) => (owner, group.unwrap_or(0)),
                (None, group) => me.map(|me| (me.uid(), group.unwrap_or(me.gid())))?,
            };
            change(&it.flags, false, &|db| plan_mount(db, it, owner, seed))
        }
        Action::Unmount(it) => change(&it.flags, false, &|db| plan_unmount(db, &it.name)),
        Action::Release(it) => change(&it.flags, false, &|db| plan_release(db, &it.name)),
    }
}

// --- looking ---

/// How often one looks whether regions are erased.
const LOOK_EVERY: Duration = Duration::from_millis(100);

const HEAD: [&str; 9] =
    ["REGION", "LENDER", "SIZE", "FORM", "STATE", "VOLUME", "BORROWER", "MOUNTED", "NOTES"];

fn table(look: &Look, wait: Option<u64>) -> anyhow::Result<ExitCode> {
    let mut daemon = Daemon::of(&look.which)?;
    let is_erasing =
        |database: &Database| database.rows().regions.iter().any(|row| row.state == RegionState::Erasing);
    let begun = Instant::now();
    let mut database = flow::Cluster::database(&mut daemon)?;
    while is_erasing(&database) && begun.elapsed().as_secs() < wait.unwrap_or(0) {
        std::thread::sleep(LOOK_EVERY);
        database = flow::Cluster::database(&mut daemon)?;
    }
    let answer = request(&look.which.socket()?, &Request::Status)?;
    let seen: Status = serde_json::from_value(answer).context("the node is of another release")?;
    let lines = lines(database.rows(), &seen.regions);
    if look.json {
        println!("{}", serde_json::to_string_pretty(&lines.iter().map(Line::json).collect::<Vec<_>>())?);
    } else if lines.is_empty() {
        println!("the pool is empty: lend a disk with netdisk pool add");
    } else {
        print!("{}", columns(&HEAD, &lines.iter().map(Line::words).collect::<Vec<_>>()));
    }
    ensure!(
        wait.is_none() || !is_erasing(&database),
        "some regions are still being erased: is their lender running, and is the disk formatted (netdisk \
         disk create)? Ask it why: netdisk pool table, there"
    );
    Ok(ExitCode::SUCCESS)
}

/// One region of the table.
struct Line {
    region: String,
    lender: String,
    size_bytes: u64,
    form: Form,
    state: &'static str,
    volume: Option<String>,
    borrower: Option<String>,
    mounted: bool,
    drained: bool,
    note: Option<String>,
}

impl Line {
    fn json(&self) -> Value {
        json!({
            "region": self.region, "lender": self.lender, "size_bytes": self.size_bytes,
            "form": self.form.name(), "state": self.state, "volume": self.volume,
            "borrower": self.borrower, "mounted": self.mounted, "drained": self.drained, "note": self.note,
        })
    }

    fn words(&self) -> Vec<String> {
        let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let mounted = match (&self.volume, self.mounted) {
            (None, _) => "-",
            (Some(_), true) => "yes",
            (Some(_), false) => "no",
        };
        let drained = self.drained.then(|| "not to be lent again".to_owned());
        let notes: Vec<String> = drained.into_iter().chain(self.note.clone()).collect();
        vec![
            self.region.clone(),
            self.lender.clone(),
            size_text(self.size_bytes),
            self.form.name().into(),
            self.state.into(),
            word(&self.volume),
            word(&self.borrower),
            mounted.into(),
            notes.join(", "),
        ]
    }
}

fn lines(rows: &ClusterRows, seen: &[Seen]) -> Vec<Line> {
    let one = |row: &RegionRow| {
        let loan = row.loan().and_then(|loan| rows.loan(loan));
        let seen = seen.iter().find(|seen| seen.name == row.name);
        let note = seen.and_then(|seen| match (&seen.fault, seen.erased_bytes) {
            (Some(fault), _) => Some(fault.clone()),
            (None, Some(done)) => Some(format!("{} MiB erased", done >> 20)),
            (None, None) => None,
        });
        Line {
            region: row.name.clone(),
            lender: rows.node_name(row.lender),
            size_bytes: row.size_bytes(),
            form: row.form,
            state: match row.state {
                RegionState::Erasing => "erasing",
                RegionState::Free => "free",
                RegionState::Lent(_) => "lent",
            },
            volume: loan.map(|loan| loan.name.clone()),
            borrower: loan.map(|loan| rows.node_name(loan.borrower)),
            mounted: loan.is_some_and(|loan| loan.mounted.is_some()),
            drained: row.drained,
            note,
        }
    };
    rows.regions.iter().map(one).collect()
}

// --- changing ---

fn region_of<'r>(rows: &'r ClusterRows, name: &str) -> anyhow::Result<&'r RegionRow> {
    let found = rows.regions.iter().find(|row| row.name == name);
    found.with_context(|| {
        let names: Vec<&str> = rows.regions.iter().take(12).map(|row| row.name.as_str()).collect();
        match names.is_empty() {
            true => format!("there is no region {name:?}: the pool is empty, see netdisk pool add"),
            false => format!("there is no region {name:?}: there is {}", names.join(", ")),
        }
    })
}

fn loan_of<'r>(rows: &'r ClusterRows, name: &str) -> anyhow::Result<&'r LoanRow> {
    rows.loan_named(name).with_context(|| {
        let names: Vec<&str> = rows.loans.iter().take(12).map(|row| row.name.as_str()).collect();
        match names.is_empty() {
            true => format!("{name:?} is not lent: nothing is, see netdisk pool allocate"),
            false => format!("{name:?} is not lent: there is {}", names.join(", ")),
        }
    })
}

fn plan_add(database: &Database, new: &Add) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let lender = find::node(rows, &new.node)?;
    ensure!(
        rows.regions.iter().all(|row| row.name != new.name),
        "there is a region {} already: choose another name",
        new.name
    );
    ensure!(
        new.sizes.len() == 1 || new.sizes.len() == new.paths.len(),
        "{} sizes for {} disks: say one for all, or one for each in their order",
        new.sizes.len(),
        new.paths.len()
    );
    let mut used: Vec<u32> = rows.disks.iter().map(|row| row.id.0).collect();
    let (mut changes, mut extents) = (Vec::new(), Vec::new());
    for (place, path) in new.paths.iter().enumerate() {
        ensure!(path.starts_with('/'), "{path:?} is no absolute path: write where it is on {}", lender.name);
        let id = DiskId(next_number(used.iter().copied(), 1, DISKS_MAX as u32)?);
        used.push(id.0);
        let name = match new.paths.len() {
            1 => new.name.clone(),
            _ => format!("{}.{}", new.name, place + 1),
        };
        let size = new.sizes.get(place).or(new.sizes.first()).context("say --size")?;
        extents.push(Extent { disk: id, size_bytes: bytes(size)? });
        let kind = if new.raw { DiskKind::Raw } else { DiskKind::File };
        let ports = vec![DiskPort { node: lender.id, path: path.clone() }];
        changes.push(RowChange::Put(Row::Disk(DiskRow { id, name, kind, ports })));
    }
    let numbers = rows.regions.iter().map(|row| row.id.0);
    let row = RegionRow {
        id: RegionId(next_number(numbers, 1, REGIONS_MAX as u32)?),
        name: new.name.clone(),
        lender: lender.id,
        extents,
        form: new.form.form(),
        drained: false,
        state: RegionState::Erasing,
    };
    let size = size_text(row.size_bytes());
    let done = format!("{} lends {}, {size}: it is erased, then it is free", lender.name, row.name);
    changes.push(RowChange::Put(Row::Region(row)));
    Ok(Plan::new(done, changes))
}

fn plan_remove(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let row = region_of(database.rows(), name)?;
    let mut changes = vec![RowChange::Remove(RowKey::Region(row.id))];
    changes.extend(row.extents.iter().map(|extent| RowChange::Remove(RowKey::Disk(extent.disk))));
    Ok(Plan::new(format!("region {} is out of the pool", row.name), changes))
}

fn plan_form(database: &Database, name: &str, form: Form) -> anyhow::Result<Plan> {
    let row = region_of(database.rows(), name)?.clone();
    let done = format!("region {} may be used for volumes of form {form}", row.name);
    Ok(Plan::new(done, vec![RowChange::Put(Row::Region(RegionRow { form, ..row }))]))
}

fn plan_drain(database: &Database, it: &Drain) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let regions: Vec<&RegionRow> = match (&it.name, &it.node) {
        (Some(name), _) => vec![region_of(rows, name)?],
        (None, node) => {
            let node = find::node(rows, node.as_deref().unwrap_or_default())?;
            let its: Vec<&RegionRow> = rows.regions.iter().filter(|row| row.lender == node.id).collect();
            ensure!(!its.is_empty(), "{} lends nothing: see netdisk pool table", node.name);
            its
        }
    };
    let lent: Vec<&str> =
        regions.iter().filter_map(|row| rows.loan(row.loan()?).map(|loan| loan.name.as_str())).collect();
    let names: Vec<&str> = regions.iter().map(|row| row.name.as_str()).collect();
    let mut done = match it.undo {
        true => format!("{} may be lent again", names.join(", ")),
        false => format!("{} will not be lent again", names.join(", ")),
    };
    if !lent.is_empty() && !it.undo {
        done += &format!("; still lent to: {} (netdisk pool release)", lent.join(", "));
    }
    let put = |row: &RegionRow| RowChange::Put(Row::Region(RegionRow { drained: !it.undo, ..row.clone() }));
    Ok(Plan::new(done, regions.into_iter().map(put).collect()))
}

fn plan_drain_region(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let row = region_of(database.rows(), name)?.clone();
    let done = format!("{name} will not be lent again");
    Ok(Plan::new(done, vec![RowChange::Put(Row::Region(RegionRow { drained: true, ..row }))]))
}

fn plan_allocate(database: &Database, new: &Allocate) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let borrower = find::node(rows, &new.borrower)?;
    ensure!(
        rows.loan_named(&new.name).is_none(),
        "{} is lent already: choose another name, or see netdisk pool table",
        new.name
    );
    let (form, size_bytes) = (new.form.form(), bytes(&new.size)?);
    ensure!(
        size_bytes > 0 && LOAN_BLOCK.divides(size_bytes),
        "{size_bytes} bytes are not a multiple of the block of {} bytes: say another size",
        LOAN_BLOCK.get()
    );
    let avoid = match new.avoid.is_empty() {
        true => Vec::new(),
        false => find::nodes(rows, &new.avoid)?,
    };
    let wanted = Wanted { form, size_bytes, count: new.count, avoid };
    let regions = pool::place(rows, &wanted)?;
    let id = LoanId(next_number(rows.loans.iter().map(|row| row.id.0), 1, REGIONS_MAX as u32)?);
    let mut names = Vec::new();
    let mut changes = Vec::new();
    for row in regions.iter().filter_map(|id| rows.region(*id)) {
        names.push(format!("{} of {}", row.name, rows.node_name(row.lender)));
        changes.push(RowChange::Put(Row::Region(RegionRow { state: RegionState::Lent(id), ..row.clone() })));
    }
    let done = format!(
        "{} is lent {}, {} {form}, on {}; make its path: netdisk pool mount {}",
        borrower.name,
        new.name,
        size_text(size_bytes),
        names.join(", "),
        new.name
    );
    let copies = if form == Form::Mirrored { regions.len() as u8 } else { 1 };
    changes.push(RowChange::Put(Row::Loan(LoanRow {
        id,
        name: new.name.clone(),
        borrower: borrower.id,
        form,
        size_bytes,
        copies,
        regions,
        mounted: None,
        kept: None,
    })));
    Ok(Plan::new(done, changes))
}

fn plan_mount(database: &Database, it: &Mount, owner: (u32, u32), seed: u64) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let name = &it.name;
    let loan = loan_of(rows, name)?;
    let mut changes = pool::mount(rows, loan, owner, seed)?;
    let at = rows.node_name(loan.borrower);
    let mut done =
        format!("{name} is mounted: {at} opens virtual disk {name}, {}", size_text(loan.size_bytes));
    if let Some(listen) = &it.listen {
        let listen = address(listen)?;
        ensure!(
            rows.nbd_server(loan.borrower, &listen).is_none(),
            "{at} has an nbd server at {listen} already: choose another place to listen"
        );
        let whole = changes.iter().find_map(|change| match change {
            RowChange::Put(Row::Loan(row)) => row.mounted,
            _ => None,
        });
        done += &format!(", or NBD at {listen}");
        let exports = whole.into_iter().collect();
        changes.push(RowChange::Put(Row::Nbd(NbdRow { node: loan.borrower, listen, exports })));
    }
    Ok(Plan::new(done, changes))
}

fn plan_unmount(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let changes = pool::unmount(rows, loan_of(rows, name)?)?;
    Ok(Plan::new(format!("{name} is not mounted any more; its bytes stay"), changes))
}

fn plan_release(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let loan = loan_of(rows, name)?;
    ensure!(loan.mounted.is_none(), "{name} is mounted: unmount it first (netdisk pool unmount {name})");
    let mut changes = vec![RowChange::Remove(RowKey::Loan(loan.id))];
    for row in loan.regions.iter().filter_map(|id| rows.region(*id)) {
        changes.push(RowChange::Put(Row::Region(RegionRow { state: RegionState::Erasing, ..row.clone() })));
    }
    Ok(Plan::new(format!("{name} is given back: its regions are erased, then they are free"), changes))
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
