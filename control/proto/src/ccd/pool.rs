//! Which steps rows of the pool may take. Allocation is one change: the loan, and its regions from free to
//! lent, for the revisions that were looked at. Nothing leads from lent to free but the lender's word that it
//! has erased the region (SPEC M5, M8).

use super::answer::Outcome;
use super::database::{Database, Done};
use super::event::{Cause, RowEvent};
use super::refusal::Refusal;
use super::row::{Row, RowKey};
use crate::codec::coded;
use crate::pool::{Form, LoanRow, RegionId, RegionRow, RegionState};
use crate::protocol_rules::ProtocolRules;
use crate::rows::DiskRow;
use crate::view::Member;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use transport_proto::identity::NodeId;

/// Why a step of a region or a loan was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum PoolRefusal {
    NotErased { region: String },
    RegionLent { region: String },
    RegionFixed { region: String },
    NotLender { node: NodeId, region: String },
    NotErasing { region: String },
    LoanFixed { name: String },
    StillMounted { name: String },
    NewIsMounted { name: String },
    CopiesChanged { name: String },
}

impl fmt::Display for PoolRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PoolRefusal::NotErased { region } => write!(
                f,
                "region {region} is not erased yet: its lender says when it is free (netdisk pool table)"
            ),
            PoolRefusal::RegionLent { region } => {
                write!(f, "region {region} is lent: unmount and release its volume first")
            }
            PoolRefusal::RegionFixed { region } => write!(
                f,
                "lender, disks and size of region {region} stay as they are: remove it, and add it anew"
            ),
            PoolRefusal::NotLender { node, region } => {
                write!(
                    f,
                    "node {} does not lend region {region}, or is no member: its lender says so",
                    node.0
                )
            }
            PoolRefusal::NotErasing { region } => {
                write!(f, "region {region} is not being erased: nothing is to be said of it")
            }
            PoolRefusal::LoanFixed { name } => write!(
                f,
                "borrower, size, form and regions of {name} stay as they are: release it and allocate another"
            ),
            PoolRefusal::StillMounted { name } => {
                write!(f, "{name} is mounted: unmount it first (netdisk pool unmount {name})")
            }
            PoolRefusal::NewIsMounted { name } => {
                write!(f, "{name} is new and has no path yet: allocate it, then mount it")
            }
            PoolRefusal::CopiesChanged { name } => {
                write!(f, "copies of {name} changed while it was unmounted: try again")
            }
        }
    }
}

impl From<PoolRefusal> for Refusal {
    fn from(refusal: PoolRefusal) -> Refusal {
        Refusal::Pool(refusal)
    }
}

impl<R: ProtocolRules> Database<R> {
    /// The lender says that a region is zero, every byte of it durable.
    pub(super) fn erased(&mut self, region: RegionId, by: Member) -> Result<Done, Refusal> {
        let key = RowKey::Region(region);
        let before = self.rows.region(region).ok_or(Refusal::NoSuchRow { key: key.clone() })?.clone();
        let name = || before.name.clone();
        if before.lender != by.node || !self.membership.has(by) {
            return Err(PoolRefusal::NotLender { node: by.node, region: name() }.into());
        }
        if before.state != RegionState::Erasing {
            return Err(PoolRefusal::NotErasing { region: name() }.into());
        }
        let after = RegionRow { state: RegionState::Free, ..before.clone() };
        Arc::make_mut(&mut self.rows).put(Row::Region(after.clone()));
        let (before, after) = (Some(Row::Region(before)), Some(Row::Region(after)));
        let changes = Vec::from([RowEvent { key, before, after }]);
        Ok(Done { outcome: Outcome::default(), cause: Cause::Erased(region), changes })
    }

    pub(super) fn check_region_put(&self, row: &RegionRow) -> Result<(), Refusal> {
        let region = || row.name.clone();
        let Some(known) = self.rows.region(row.id) else {
            return match row.state {
                RegionState::Erasing => Ok(()),
                RegionState::Free | RegionState::Lent(_) => {
                    Err(PoolRefusal::NotErased { region: region() }.into())
                }
            };
        };
        if (known.lender, &known.extents) != (row.lender, &row.extents) {
            return Err(PoolRefusal::RegionFixed { region: region() }.into());
        }
        if known.form != row.form && known.loan().is_some() {
            return Err(PoolRefusal::RegionLent { region: region() }.into());
        }
        match (known.state, row.state) {
            (before, after) if before == after => Ok(()),
            (_, RegionState::Erasing) => Ok(()),
            (RegionState::Free, RegionState::Lent(_)) if !known.drained => Ok(()),
            (RegionState::Erasing, _) => Err(PoolRefusal::NotErased { region: region() }.into()),
            (RegionState::Free | RegionState::Lent(_), _) => {
                Err(PoolRefusal::RegionLent { region: region() }.into())
            }
        }
    }

    /// The medium behind a region is not exchanged for another one, which nobody has erased.
    pub(super) fn check_lent_disk(&self, row: &DiskRow) -> Result<(), Refusal> {
        let known =
            self.rows.disk(row.id).filter(|known| (known.kind, &known.ports) != (row.kind, &row.ports));
        match known.and_then(|known| self.rows.region_on(known.id)) {
            Some(region) => Err(PoolRefusal::RegionFixed { region: region.name.clone() }.into()),
            None => Ok(()),
        }
    }

    pub(super) fn check_loan_put(&self, row: &LoanRow) -> Result<(), Refusal> {
        let name = || row.name.clone();
        let Some(known) = self.rows.loan(row.id) else {
            return match row.mounted.is_some() || row.kept.is_some() {
                true => Err(PoolRefusal::NewIsMounted { name: name() }.into()),
                false => Ok(()),
            };
        };
        // Copies come and go while the rules of mirrors watch over them.
        let may_move =
            known.form == Form::Mirrored && known.mounted.is_some() && known.mounted == row.mounted;
        let regions = if may_move { row.regions.clone() } else { known.regions.clone() };
        let path = LoanRow { mounted: row.mounted, kept: row.kept.clone(), regions, ..known.clone() };
        if path != *row {
            return Err(PoolRefusal::LoanFixed { name: name() }.into());
        }
        let shape_of = |volume| self.rows.volume(volume).map(|whole| whole.shape.clone());
        let kept = match (known.mounted, row.mounted) {
            (Some(before), None) => shape_of(before).filter(|_| known.form == Form::Mirrored),
            (Some(before), Some(after)) if before != after => {
                return Err(PoolRefusal::StillMounted { name: name() }.into());
            }
            (None, None) => known.kept.clone(),
            (_, Some(_)) => None,
        };
        match row.kept == kept {
            true => Ok(()),
            // A copy that missed writes must not be taken for one that has them.
            false => Err(PoolRefusal::CopiesChanged { name: name() }.into()),
        }
    }

    pub(super) fn check_pool_removal(&self, key: &RowKey) -> Result<(), Refusal> {
        match key {
            RowKey::Region(id) => match self.rows.region(*id).filter(|row| row.loan().is_some()) {
                Some(row) => Err(PoolRefusal::RegionLent { region: row.name.clone() }.into()),
                None => Ok(()),
            },
            RowKey::Loan(id) => match self.rows.loan(*id).filter(|row| row.mounted.is_some()) {
                Some(row) => Err(PoolRefusal::StillMounted { name: row.name.clone() }.into()),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

coded! {
    enum PoolRefusal {
        1 = NotErased { region }, 2 = RegionLent { region }, 3 = RegionFixed { region },
        4 = NotLender { node, region }, 5 = NotErasing { region }, 6 = LoanFixed { name },
        7 = StillMounted { name }, 8 = NewIsMounted { name }, 9 = CopiesChanged { name }
    }
}
