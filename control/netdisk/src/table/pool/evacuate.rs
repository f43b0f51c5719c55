//! `netdisk pool evacuate`: a copy moves to another region: one more copy, which is copied to while the
//! borrower goes on; when it has everything, the old one goes. Broken off anywhere, the same command goes on
//! from there.

use super::{Evacuate, plan_drain_region, region_of};
use crate::change::flow::{self, Cluster, Progress, carry_out};
use crate::change::{Plan, find};
use crate::daemon::Daemon;
use crate::random::random;
use anyhow::{Context, bail, ensure};
use blockdev_proto::mirror::LegState;
use control_proto::ccd::Database;
use control_proto::pool::{self, Form, LoanRow, RegionRow, Wanted};
use control_proto::rows::{ClusterRows, VolumeRow};
use serde_json::json;
use std::process::ExitCode;
use std::time::Instant;
use transport_proto::identity::NodeId;

pub(super) fn run(it: &Evacuate) -> anyhow::Result<ExitCode> {
    let mut daemon = Daemon::of(&it.flags.which)?;
    let seed = u64::from_le_bytes(random()?);
    if it.flags.dry_run {
        return flow::run(&mut daemon, &it.flags, false, &|db| plan_more(db, it, seed));
    }
    let mut progress = Progress::new();
    let done = evacuate(&mut daemon, it, seed, &mut |line| progress.tell(line))?;
    drop(progress);
    if it.flags.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "done": done }))?);
    } else {
        println!("{done}");
    }
    Ok(ExitCode::SUCCESS)
}

fn evacuate(
    cluster: &mut dyn Cluster,
    it: &Evacuate,
    seed: u64,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<String> {
    let deadline_ms = it.flags.deadline_ms;
    carry_out(cluster, &|db| plan_more(db, it, seed), deadline_ms, false, progress)?;
    let begun = Instant::now();
    loop {
        let database = cluster.database()?;
        let Some((_, loan)) = held(database.rows(), &it.name)? else { break };
        if others_are_sound(database.rows(), &it.name, loan)? {
            break;
        }
        ensure!(
            begun.elapsed().as_secs() < it.wait,
            "the new copy of {} is not complete: the same command again goes on (netdisk volume status {})",
            loan.name,
            loan.name
        );
        progress(&format!("copying {}", loan.name));
        cluster.pause(super::LOOK_EVERY);
    }
    let (plan, _, _) = carry_out(cluster, &|db| plan_less(db, &it.name), deadline_ms, false, progress)?;
    Ok(plan.done)
}

/// The region, and the volume of which it holds a copy; `None`: nobody borrows it.
fn held<'r>(rows: &'r ClusterRows, name: &str) -> anyhow::Result<Option<(&'r RegionRow, &'r LoanRow)>> {
    let region = region_of(rows, name)?;
    let Some(loan) = region.loan().and_then(|loan| rows.loan(loan)) else { return Ok(None) };
    if loan.form != Form::Mirrored {
        bail!(
            "{} is {} and has no other copy: let its borrower save it, then netdisk pool release {}",
            loan.name,
            loan.form,
            loan.name
        );
    }
    ensure!(
        loan.mounted.is_some(),
        "{} is not mounted, so nothing can be copied: netdisk pool mount {}, then the same command again",
        loan.name,
        loan.name
    );
    Ok(Some((region, loan)))
}

/// Whether as many copies as there are to be have everything, that of the region not counted.
fn others_are_sound(rows: &ClusterRows, name: &str, loan: &LoanRow) -> anyhow::Result<bool> {
    let region = region_of(rows, name)?.id;
    let mirror = loan.mounted.and_then(|volume| rows.volume(volume)).and_then(VolumeRow::mirror);
    let mirror = mirror.with_context(|| format!("{} is no mirror", loan.name))?;
    let others = loan.regions.iter().zip(&mirror.legs).filter(|(id, _)| **id != region);
    Ok(others.filter(|(_, leg)| leg.state == LegState::InSync).count() >= usize::from(loan.copies))
}

/// One more copy, and the region is not to be lent again.
pub(super) fn plan_more(database: &Database, it: &Evacuate, seed: u64) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let Some((_, loan)) = held(rows, &it.name)? else {
        return plan_drain_region(database, &it.name);
    };
    let lenders = loan.regions.iter().filter_map(|id| rows.region(*id)).map(|row| row.lender);
    let mut avoid: Vec<NodeId> = lenders.collect();
    if !it.avoid.is_empty() {
        avoid.extend(find::nodes(rows, &it.avoid)?);
    }
    let mut plan = plan_drain_region(database, &it.name)?;
    if loan.regions.len() <= usize::from(loan.copies) {
        let wanted = Wanted { form: Form::Mirrored, size_bytes: loan.size_bytes, count: 1, avoid };
        let chosen = pool::place(rows, &wanted)?;
        let region = chosen.first().context("no region was chosen")?;
        plan.changes.extend(pool::widen(rows, loan, *region, seed)?);
        plan.done = format!("{} has one more copy, which is copied to", loan.name);
    }
    Ok(plan)
}

/// The copy of the region goes, once there are enough others.
pub(super) fn plan_less(database: &Database, name: &str) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let Some((region, loan)) = held(rows, name)? else {
        let done = format!("region {name} holds nothing of anybody and will not be lent again");
        return Ok(Plan::new(done, Vec::new()));
    };
    ensure!(
        others_are_sound(rows, name, loan)?,
        "another copy of {} lacks writes since a moment ago: the same command again goes on",
        loan.name
    );
    let done = format!(
        "{} lies elsewhere now; region {} is erased and will not be lent again",
        loan.name, region.name
    );
    Ok(Plan::new(done, pool::narrow(rows, loan, region.id)?))
}
