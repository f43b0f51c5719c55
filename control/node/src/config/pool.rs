//! Regions and lent volumes in a configuration file. What became of a region is no matter of files: one that
//! is not lent is erased first, whatever it was when the file was written.

use super::check::Check;
use super::document::{Reference, Size, Spanned};
use super::{Row, RowMistake};
use control_proto::pool::{Extent, Form, LoanId, LoanRow, RegionId, RegionRow, RegionState};
use control_proto::rows::{ClusterRows, DiskRow, VirtualDiskRow};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegionSection {
    id: Option<Spanned<u32>>,
    name: Spanned<String>,
    lender: Spanned<Reference>,
    #[serde(default)]
    form: FormName,
    disks: Spanned<Vec<Spanned<Reference>>>,
    sizes: Spanned<Vec<Size>>,
    #[serde(default)]
    drained: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoanSection {
    id: Option<Spanned<u32>>,
    name: Spanned<String>,
    borrower: Spanned<Reference>,
    form: FormName,
    size: Spanned<Size>,
    copies: Option<u8>,
    regions: Spanned<Vec<Spanned<Reference>>>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FormName {
    #[default]
    Single,
    Concatenated,
    Mirrored,
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

    fn of(form: Form) -> FormName {
        match form {
            Form::Single => FormName::Single,
            Form::Concatenated => FormName::Concatenated,
            Form::Mirrored => FormName::Mirrored,
            Form::Split => FormName::Split,
        }
    }
}

fn is_meant(reference: &Reference, id: u32, name: &str) -> bool {
    match reference {
        Reference::Id(wanted) => *wanted == id,
        Reference::Name(wanted) => wanted == name,
    }
}

impl Check<'_> {
    pub(super) fn read_regions(
        &mut self,
        sections: &[Spanned<RegionSection>],
        disks: &[DiskRow],
    ) -> Vec<RegionRow> {
        let mut rows: Vec<RegionRow> = Vec::new();
        for (position, section) in sections.iter().enumerate() {
            let region = section.get_ref();
            let id = RegionId(region.id.as_ref().map_or(position as u32 + 1, |id| *id.get_ref()));
            let name = self.name(&region.name);
            let Some(lender) = self.node(&region.lender) else { continue };
            let (named, sizes) = (region.disks.get_ref(), region.sizes.get_ref());
            if named.len() != sizes.len() {
                // One size for each disk.
                self.fault_at(&region.sizes, RowMistake::TooFew { row: Row::Disk });
                continue;
            }
            let mut extents = Vec::new();
            for (reference, size) in named.iter().zip(sizes) {
                match disks.iter().find(|row| is_meant(reference.get_ref(), row.id.0, &row.name)) {
                    Some(row) => extents.push(Extent { disk: row.id, size_bytes: size.0 }),
                    None => {
                        let text = reference.get_ref().to_string();
                        self.fault_at(reference, RowMistake::Dangling { row: Row::Disk, reference: text });
                    }
                }
            }
            if rows.iter().any(|row| row.id == id) {
                let first = self.place(&region.name);
                self.fault_at(&region.name, RowMistake::DuplicateId { row: Row::Region, id: id.0, first });
                continue;
            }
            let (form, drained, state) = (region.form.form(), region.drained, RegionState::Erasing);
            rows.push(RegionRow { id, name, lender, extents, form, drained, state });
        }
        rows
    }

    /// Lent volumes; their regions become lent.
    pub(super) fn read_loans(
        &mut self,
        sections: &[Spanned<LoanSection>],
        regions: &mut [RegionRow],
        virtual_disks: &[VirtualDiskRow],
    ) -> Vec<LoanRow> {
        let mut rows: Vec<LoanRow> = Vec::new();
        for (position, section) in sections.iter().enumerate() {
            let loan = section.get_ref();
            let id = LoanId(loan.id.as_ref().map_or(position as u32 + 1, |id| *id.get_ref()));
            let name = self.name(&loan.name);
            let Some(borrower) = self.node(&loan.borrower) else { continue };
            let mut lent = Vec::new();
            for reference in loan.regions.get_ref() {
                match regions.iter_mut().find(|row| is_meant(reference.get_ref(), row.id.0, &row.name)) {
                    Some(row) => {
                        row.state = RegionState::Lent(id);
                        lent.push(row.id);
                    }
                    None => {
                        let text = reference.get_ref().to_string();
                        self.fault_at(reference, RowMistake::Dangling { row: Row::Region, reference: text });
                    }
                }
            }
            if rows.iter().any(|row| row.id == id) {
                let first = self.place(&loan.name);
                self.fault_at(&loan.name, RowMistake::DuplicateId { row: Row::Loan, id: id.0, first });
                continue;
            }
            let mounted = virtual_disks.iter().find(|row| row.name == name).map(|row| row.id);
            let (form, size_bytes) = (loan.form.form(), loan.size.get_ref().0);
            let usual = if form == Form::Mirrored { lent.len() } else { 1 };
            let copies = loan.copies.unwrap_or(u8::try_from(usual).unwrap_or(u8::MAX));
            rows.push(LoanRow {
                id,
                name,
                borrower,
                form,
                size_bytes,
                copies,
                regions: lent,
                mounted,
                kept: None,
            });
        }
        rows
    }
}

/// A region as it is written.
#[derive(Serialize)]
pub(super) struct RegionText {
    id: u32,
    name: String,
    lender: String,
    form: FormName,
    disks: Vec<String>,
    sizes: Vec<String>,
    drained: bool,
}

/// A lent volume as it is written.
#[derive(Serialize)]
pub(super) struct LoanText {
    id: u32,
    name: String,
    borrower: String,
    form: FormName,
    size: String,
    copies: u8,
    regions: Vec<String>,
}

pub(super) fn region(rows: &ClusterRows, row: &RegionRow) -> RegionText {
    let disk = |extent: &Extent| {
        rows.disk(extent.disk).map_or_else(|| extent.disk.0.to_string(), |disk| disk.name.clone())
    };
    RegionText {
        id: row.id.0,
        name: row.name.clone(),
        lender: rows.node_name(row.lender),
        form: FormName::of(row.form),
        disks: row.extents.iter().map(disk).collect(),
        sizes: row.extents.iter().map(|extent| super::size_text(extent.size_bytes)).collect(),
        drained: row.drained,
    }
}

pub(super) fn loan(rows: &ClusterRows, row: &LoanRow) -> LoanText {
    let region =
        |id: &RegionId| rows.region(*id).map_or_else(|| id.0.to_string(), |region| region.name.clone());
    LoanText {
        id: row.id.0,
        name: row.name.clone(),
        borrower: rows.node_name(row.borrower),
        form: FormName::of(row.form),
        size: super::size_text(row.size_bytes),
        copies: row.copies,
        regions: row.regions.iter().map(region).collect(),
    }
}
