//! Rules of the pool: a region is lent once or not at all, and what is not mounted cannot be reached.

use super::{RowFault, check_limit, check_name, check_node_is_there};
use crate::ccd::{Row, RowKey, Table};
use crate::codec::coded;
use crate::pool::{
    EXTENTS_MAX, Form, LOAN_BLOCK, LOAN_NAME_BYTES_MAX, LoanRow, REGIONS_MAX, RegionRow, share_bytes,
};
use crate::rows::{ClusterRows, DiskKind, VirtualDiskRow};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use blockdev_proto::geometry::DiskId;
use blockdev_proto::mirror::LEGS_MAX;
use core::fmt;

/// What can be wrong with a region or a loan.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum PoolFault {
    ExtentCount { found: usize },
    DiskOfOthers { disk: String },
    DiskInTwo { disk: String, other: String },
    DiskInUse { disk: String, by: String },
    NoSuchLoan { region: String },
    LongName { name: String },
    NameInUse { name: String },
    NotLentForIt { region: String },
    RegionTwice { region: String },
    OtherForm { region: String, form: Form, wanted: Form },
    RegionCount { form: Form, found: usize },
    SameNode { region: String, other: String },
    TooSmall { needed_bytes: u64, found_bytes: u64 },
    NoPath { name: String },
    NotItsBorrowers { name: String },
}

impl fmt::Display for PoolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolFault::ExtentCount { found } => {
                write!(f, "a region of {found} disks: name 1 to {EXTENTS_MAX}, of at least a block each")
            }
            PoolFault::DiskOfOthers { disk } => write!(
                f,
                "disk {disk} is memory, or other nodes than the lender reach it: lend a file or device that \
                 only the lender reaches"
            ),
            PoolFault::DiskInTwo { disk, other } => {
                write!(f, "disk {disk} is part of region {other} already: take another disk")
            }
            PoolFault::DiskInUse { disk, by } => write!(
                f,
                "disk {disk} belongs to the pool, so {by} cannot lie on it: borrow it (netdisk pool \
                 allocate), or take it out of the pool (netdisk pool remove)"
            ),
            PoolFault::NoSuchLoan { region } => {
                write!(f, "region {region} is lent for a volume that is not there: nothing was lent")
            }
            PoolFault::LongName { name } => {
                write!(f, "{name:?} is too long for a lent volume: use {LOAN_NAME_BYTES_MAX} bytes or less")
            }
            PoolFault::NameInUse { name } => {
                write!(f, "there is a virtual disk or lent volume {name} already: choose another name")
            }
            PoolFault::NotLentForIt { region } => {
                write!(f, "region {region} is not lent for this volume: nothing was lent, choose again")
            }
            PoolFault::RegionTwice { region } => write!(f, "region {region} is named twice: name it once"),
            PoolFault::OtherForm { region, form, wanted } => write!(
                f,
                "region {region} is set for form {form}, not {wanted}: set it while it is free (netdisk pool \
                 form {region} {wanted})"
            ),
            PoolFault::RegionCount { form, found } => write!(
                f,
                "a volume of form {form} on {found} regions: single takes 1, mirrored 2 to {LEGS_MAX}, split \
                 2 or more"
            ),
            PoolFault::SameNode { region, other } => write!(
                f,
                "copies on {region} and {other} would fail together, one node lends both: take regions of \
                 different nodes"
            ),
            PoolFault::TooSmall { needed_bytes, found_bytes } => write!(
                f,
                "the volume needs {needed_bytes} bytes of a region and finds {found_bytes}: take larger \
                 regions, or make the volume smaller"
            ),
            PoolFault::NoPath { name } => write!(
                f,
                "{name} is a lent volume, and its path is mounted or taken away as a whole: use netdisk pool \
                 mount and unmount"
            ),
            PoolFault::NotItsBorrowers { name } => write!(
                f,
                "{name} is lent to one node, and no other may open it: release it, and let the other node \
                 borrow one"
            ),
        }
    }
}

/// Rows of the pool that another row's change may have made wrong.
pub(super) fn touched_by(rows: &ClusterRows, key: &RowKey) -> Vec<Row> {
    if rows.regions.is_empty() {
        return Vec::new();
    }
    let regions = |keep: &dyn Fn(&RegionRow) -> bool| -> Vec<Row> {
        rows.regions.iter().filter(|row| keep(row)).cloned().map(Row::Region).collect()
    };
    let loans = |keep: &dyn Fn(&LoanRow) -> bool| -> Vec<Row> {
        rows.loans.iter().filter(|row| keep(row)).cloned().map(Row::Loan).collect()
    };
    match key {
        RowKey::Node(node) => {
            let mut touched = regions(&|row| row.lender == *node);
            touched.extend(loans(&|row| row.borrower == *node));
            touched
        }
        RowKey::Disk(disk) => rows.region_on(*disk).cloned().map(Row::Region).into_iter().collect(),
        RowKey::Region(id) => loans(&|row| row.regions.contains(id)),
        RowKey::Loan(id) => regions(&|row| row.loan() == Some(*id)),
        RowKey::Permission(volume) => loans(&|row| row.mounted == Some(*volume)),
        RowKey::VirtualDisk(volume) | RowKey::Volume(volume) => {
            let disks = rows.disks_below(*volume);
            let under = |row: &RegionRow| row.extents.iter().any(|extent| disks.contains(&extent.disk));
            let mut touched = regions(&under);
            let over = rows.loan_over(*volume).map(|loan| loan.id);
            touched.extend(loans(&|row| row.mounted == Some(*volume) || Some(row.id) == over));
            let name = rows.virtual_disk(*volume).map(|disk| disk.name.as_str());
            touched.extend(loans(&|row| row.mounted.is_none() && Some(row.name.as_str()) == name));
            touched
        }
        _ => Vec::new(),
    }
}

/// The virtual disk that lies on this disk.
fn user_of(rows: &ClusterRows, disk: DiskId) -> Option<&VirtualDiskRow> {
    rows.virtual_disks.iter().find(|row| row.candidates.iter().any(|(_, used)| *used == disk))
}

pub(super) fn check_region(rows: &ClusterRows, row: &RegionRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Regions, rows.regions.len(), REGIONS_MAX, out);
    check_name(&row.name, out);
    check_node_is_there(rows, row.lender, out);
    let namesake = rows.regions.iter().find(|other| other.id != row.id && other.name == row.name);
    if let Some(other) = namesake {
        let (table, name, other) = (Table::Regions, row.name.clone(), RowKey::Region(other.id));
        out.push(RowFault::DuplicateName { table, name, other });
    }
    let small = row.extents.iter().any(|extent| extent.size_bytes < u64::from(LOAN_BLOCK.get()));
    if small || !(1..=EXTENTS_MAX).contains(&row.extents.len()) {
        out.push(PoolFault::ExtentCount { found: row.extents.len() }.into());
    }
    for (place, extent) in row.extents.iter().enumerate() {
        let Some(disk) = rows.disk(extent.disk) else {
            let reference = extent.disk.0.to_string();
            out.push(RowFault::Dangling { table: Table::Disks, reference });
            continue;
        };
        let alone = disk.ports.iter().all(|port| port.node == row.lender);
        if disk.kind == DiskKind::Memory || !alone {
            out.push(PoolFault::DiskOfOthers { disk: disk.name.clone() }.into());
        }
        let twice = row.extents.iter().take(place).any(|other| other.disk == extent.disk);
        let mut others = rows.regions.iter().filter(|other| other.id != row.id);
        let other = others.find(|other| other.extents.iter().any(|one| one.disk == extent.disk));
        if let Some(other) = other.or(twice.then_some(row)) {
            let (disk, other) = (disk.name.clone(), other.name.clone());
            out.push(PoolFault::DiskInTwo { disk, other }.into());
        }
        let mounted = row.loan().and_then(|loan| rows.loan(loan)).is_some_and(|loan| loan.mounted.is_some());
        if let Some(user) = user_of(rows, extent.disk).filter(|_| !mounted) {
            let (disk, by) = (disk.name.clone(), user.name.clone());
            out.push(PoolFault::DiskInUse { disk, by }.into());
        }
    }
    let of_loan = |loan| rows.loan(loan).is_some_and(|loan| loan.regions.contains(&row.id));
    if row.loan().is_some_and(|loan| !of_loan(loan)) {
        out.push(PoolFault::NoSuchLoan { region: row.name.clone() }.into());
    }
}

pub(super) fn check_loan(rows: &ClusterRows, row: &LoanRow, out: &mut Vec<RowFault>) {
    check_limit(Table::Loans, rows.loans.len(), REGIONS_MAX, out);
    check_name(&row.name, out);
    check_node_is_there(rows, row.borrower, out);
    if row.name.len() > LOAN_NAME_BYTES_MAX {
        out.push(PoolFault::LongName { name: row.name.clone() }.into());
    }
    let twice = rows.loans.iter().any(|other| other.id != row.id && other.name == row.name);
    let namesake = rows.virtual_disk_named(&row.name).filter(|disk| row.mounted != Some(disk.id));
    if twice || namesake.is_some() {
        out.push(PoolFault::NameInUse { name: row.name.clone() }.into());
    }
    if row.size_bytes == 0 {
        out.push(RowFault::SizeZero);
    } else if !LOAN_BLOCK.divides(row.size_bytes) {
        let (size_bytes, block_bytes) = (row.size_bytes, LOAN_BLOCK.get());
        out.push(RowFault::SizeNotBlocks { size_bytes, block_bytes });
    }
    check_regions_of(rows, row, out);
    check_path(rows, row, out);
}

fn check_regions_of(rows: &ClusterRows, row: &LoanRow, out: &mut Vec<RowFault>) {
    let count = row.regions.len();
    let right = match row.form {
        Form::Single => count == 1,
        Form::Concatenated => count >= 1,
        Form::Mirrored => {
            let copies = usize::from(row.copies);
            (2..=LEGS_MAX).contains(&count) && (copies..=copies + 1).contains(&count)
        }
        Form::Split => count >= 2,
    };
    if !right {
        out.push(PoolFault::RegionCount { form: row.form, found: count }.into());
    }
    let mut seen: Vec<&RegionRow> = Vec::new();
    for id in &row.regions {
        let Some(region) = rows.region(*id) else {
            let reference = id.0.to_string();
            out.push(RowFault::Dangling { table: Table::Regions, reference });
            continue;
        };
        let name = || region.name.clone();
        if region.loan() != Some(row.id) {
            out.push(PoolFault::NotLentForIt { region: name() }.into());
        }
        if region.form != row.form {
            let (form, wanted) = (region.form, row.form);
            out.push(PoolFault::OtherForm { region: name(), form, wanted }.into());
        }
        if seen.iter().any(|other| other.id == region.id) {
            out.push(PoolFault::RegionTwice { region: name() }.into());
        } else if row.form == Form::Mirrored
            && let Some(other) = seen.iter().find(|other| other.lender == region.lender)
        {
            out.push(PoolFault::SameNode { region: name(), other: other.name.clone() }.into());
        }
        seen.push(region);
    }
    let needed_bytes = share_bytes(row.form, row.size_bytes, count);
    let sizes = seen.iter().map(|region| region.size_bytes());
    let found_bytes = match row.form {
        Form::Concatenated => sizes.fold(0, u64::saturating_add),
        Form::Single | Form::Mirrored | Form::Split => sizes.min().unwrap_or(0),
    };
    if found_bytes < needed_bytes {
        out.push(PoolFault::TooSmall { needed_bytes, found_bytes }.into());
    }
}

/// While it is mounted its virtual disk lies on exactly its regions, and its borrower alone may open it.
fn check_path(rows: &ClusterRows, row: &LoanRow, out: &mut Vec<RowFault>) {
    let disks: Vec<DiskId> = row
        .regions
        .iter()
        .filter_map(|id| rows.region(*id))
        .flat_map(|region| region.extents.iter().map(|extent| extent.disk))
        .collect();
    let Some(volume) = row.mounted else {
        for disk in disks {
            if let Some(user) = user_of(rows, disk) {
                let disk = rows.disk(disk).map_or_else(|| disk.0.to_string(), |row| row.name.clone());
                out.push(PoolFault::DiskInUse { disk, by: user.name.clone() }.into());
            }
        }
        return;
    };
    let named = rows.virtual_disk(volume).is_some_and(|disk| disk.name == row.name);
    let sized = rows.virtual_disk(volume).is_some_and(|disk| disk.size_bytes == row.size_bytes);
    if !named || !sized || row.kept.is_some() || rows.disks_below(volume) != disks {
        out.push(PoolFault::NoPath { name: row.name.clone() }.into());
    }
    let permission = rows.permission(volume);
    if permission.is_none_or(|permission| permission.nodes != [row.borrower]) {
        out.push(PoolFault::NotItsBorrowers { name: row.name.clone() }.into());
    }
}

impl From<PoolFault> for RowFault {
    fn from(fault: PoolFault) -> RowFault {
        RowFault::Pool(fault)
    }
}

coded! {
    enum PoolFault {
        1 = ExtentCount { found }, 2 = DiskOfOthers { disk }, 3 = DiskInTwo { disk, other },
        4 = DiskInUse { disk, by }, 5 = NoSuchLoan { region }, 6 = LongName { name },
        7 = NameInUse { name }, 8 = NotLentForIt { region }, 9 = RegionTwice { region },
        10 = OtherForm { region, form, wanted }, 11 = RegionCount { form, found },
        12 = SameNode { region, other }, 13 = TooSmall { needed_bytes, found_bytes },
        14 = NoPath { name }, 15 = NotItsBorrowers { name }
    }
}
