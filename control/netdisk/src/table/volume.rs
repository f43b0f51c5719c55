//! `netdisk volume`: virtual disks that lie on others, while clients use them.

mod assembled;

use super::vdisk::{OnLostQuorum, block_size};
use super::{bytes, change, next_number};
use crate::change::flow;
use crate::change::{Flags, Look, Plan, find};
use crate::daemon::{Daemon, request};
use crate::random::random;
use anyhow::{Context, bail, ensure};
use blockdev_proto::geometry::{BlockBytes, DiskId, VOLUMES_MAX, VolumeId};
use blockdev_proto::mapping::CANDIDATES_MAX;
use blockdev_proto::mirror::{LEGS_MAX, LegState, leg_bytes};
use control_node::admin::Request;
use control_node::config::size_text;
use control_node::report::{Assembly, Mirror, Status};
use control_proto::ccd::{Database, Row, RowChange};
use control_proto::rows::{
    ClusterRows, LegRow, LostQuorum, MirrorShape, Shape, StaleReason, VirtualDiskRow, VolumeRow,
};
use std::process::ExitCode;
use transport_proto::identity::NodeId;

/// See and change volumes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// One line for each: how it stands, why, and what helps.
    Status(Looking),
    /// Make a mirror, copies of the same bytes; or a concatenation or stripe of virtual disks.
    Create(Create),
    /// Add a copy, which is copied to while clients go on; or what follows the last part of a concatenation.
    Attach(Attach),
    /// Take a copy away; its virtual disk stays.
    Detach(Leg),
    /// Say of a copy that it is not to be trusted: it is copied to anew.
    Fail(Leg),
}

#[derive(clap::Args)]
struct Looking {
    /// Of this volume only.
    name: Option<String>,
    #[command(flatten)]
    look: Look,
}

#[derive(clap::Args)]
struct Create {
    /// Its name, by which clients open it.
    name: String,
    /// Disks that hold a copy each; what is on the first stays.
    #[arg(long, value_delimiter = ',', value_name = "DISKS")]
    #[arg(required_unless_present_any = ["of", "concat", "stripe"])]
    on: Vec<String>,
    /// Virtual disks that hold a copy each, in place of disks; what is on the first stays.
    #[arg(long, value_delimiter = ',', value_name = "VDISKS", conflicts_with = "on")]
    of: Vec<String>,
    /// Virtual disks, mirrors perhaps, that hold some of it each, one after the other.
    #[arg(long, value_delimiter = ',', value_name = "VDISKS", conflicts_with_all = ["on", "of"])]
    concat: Vec<String>,
    /// Virtual disks, mirrors perhaps, that hold some of it each, in turns.
    #[arg(long, value_delimiter = ',', value_name = "VDISKS", conflicts_with_all = ["on", "of", "concat"])]
    stripe: Vec<String>,
    /// Bytes of one turn of a stripe, a power of two; 64KiB by default.
    #[arg(long, requires = "stripe")]
    chunk: Option<String>,
    /// Bytes, with KiB, MiB, GiB or TiB; by default what fits on the virtual disks.
    #[arg(long, required_unless_present_any = ["of", "concat", "stripe"])]
    size: Option<String>,
    /// Bytes of a block.
    #[arg(long, default_value = "4096")]
    block_size: String,
    /// Nodes that may serve it, the primary first; by default the primaries of what it lies on.
    #[arg(long, value_delimiter = ',', value_name = "NODES")]
    nodes: Vec<String>,
    /// What clients meet on a node without quorum.
    #[arg(long, value_enum, default_value_t = OnLostQuorum::Suspend)]
    on_lost_quorum: OnLostQuorum,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Attach {
    /// Name of the volume.
    name: String,
    /// The disk that is to hold a copy.
    #[arg(long, required_unless_present = "of")]
    on: Option<String>,
    /// The virtual disk that is to hold a copy, in place of a disk, or to follow the last part.
    #[arg(long, conflicts_with = "on")]
    of: Option<String>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(clap::Args)]
struct Leg {
    /// Name of the volume.
    name: String,
    /// The virtual disk that holds the copy.
    #[arg(long)]
    leg: String,
    #[command(flatten)]
    flags: Flags,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::Status(looking) => status(looking),
        Action::Create(new) => {
            let seed = random()?;
            change(&new.flags, false, &|database| plan_create(database, new, seed))
        }
        Action::Attach(it) => {
            let seed = random()?;
            change(&it.flags, false, &|database| plan_attach(database, it, seed))
        }
        Action::Detach(it) => change(&it.flags, false, &|database| plan_detach(database, &it.name, &it.leg)),
        Action::Fail(it) => change(&it.flags, false, &|database| plan_fail(database, &it.name, &it.leg)),
    }
}

// --- looking ---

fn status(looking: &Looking) -> anyhow::Result<ExitCode> {
    let which = &looking.look.which;
    let mut daemon = Daemon::of(which)?;
    let database = flow::Cluster::database(&mut daemon)?;
    let answer = request(&which.socket()?, &Request::Status)?;
    let seen: Status = serde_json::from_value(answer).context("the node is of another release")?;
    let rows = database.rows();
    if let Some(name) = &looking.name {
        row_of(rows, name)?;
    }
    let mirrors = seen.mirrors.iter().map(Seen::Mirror);
    let all = mirrors.chain(seen.assemblies.iter().map(Seen::Assembly));
    let wanted = |seen: &Seen<'_>| looking.name.as_ref().is_none_or(|name| seen.name() == name);
    let volumes: Vec<Seen<'_>> = all.filter(wanted).collect();
    if looking.look.json {
        println!("{}", serde_json::to_string_pretty(&volumes)?);
        return Ok(ExitCode::SUCCESS);
    }
    if volumes.is_empty() {
        println!("no volumes: make one with netdisk volume create");
    }
    let view = database.view();
    for seen in volumes {
        let row = rows.virtual_disk_named(seen.name());
        let serving = row.and_then(|row| view.serving(row.id)).map(|node| rows.node_name(node));
        println!("{}", seen.line(serving.as_deref()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a node tells of a volume.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum Seen<'s> {
    Mirror(&'s Mirror),
    Assembly(&'s Assembly),
}

impl Seen<'_> {
    fn name(&self) -> &str {
        match self {
            Seen::Mirror(mirror) => &mirror.name,
            Seen::Assembly(assembly) => &assembly.name,
        }
    }

    fn line(&self, serving: Option<&str>) -> String {
        match self {
            Seen::Mirror(mirror) => line(mirror, serving),
            Seen::Assembly(assembly) => assembled::line(assembly, serving),
        }
    }
}

fn served_by_nobody(name: &str) -> String {
    format!(
        "{name}: DOWN: no node serves it; start one of its nodes, or let another serve it (netdisk vdisk \
         attach {name} --node NODE)"
    )
}

/// One line that is true, with the cause and what to do when all is not well.
fn line(mirror: &Mirror, serving: Option<&str>) -> String {
    let name = &mirror.name;
    let Some(serving) = serving else { return served_by_nobody(name) };
    let in_sync = mirror.legs.iter().filter(|leg| leg.state == "in sync").count();
    let copies = format!("{in_sync} of {} copies in sync, served by {serving}", mirror.legs.len());
    let ill = mirror.legs.iter().filter(|leg| leg.state != "in sync");
    let mut notes = Vec::new();
    for leg in ill {
        let why = leg.why.as_deref().map_or(String::new(), |why| format!(" ({why})"));
        let next = match (leg.state.as_str(), leg.reachable) {
            ("copying", _) => match mirror.to_copy_bytes.div_ceil(1 << 20) {
                0 => "almost done".into(),
                mib => format!("{mib} MiB to go, {} MiB done", mirror.copied_bytes >> 20),
            },
            (_, Some(false)) => {
                format!("start its node, or take it out: netdisk volume detach {name} --leg {}", leg.name)
            }
            (_, None) => format!("progress: ask {serving}"),
            _ => "it is copied to as soon as it answers".into(),
        };
        notes.push(format!("{} {}{why}: {next}", leg.name, leg.state));
    }
    match notes.is_empty() {
        true => format!("{name}: healthy: {copies}"),
        false => format!("{name}: degraded: {copies}; {}", notes.join("; ")),
    }
}

// --- changing ---

fn row_of<'r>(rows: &'r ClusterRows, name: &str) -> anyhow::Result<(&'r VirtualDiskRow, &'r VolumeRow)> {
    let whole = find::virtual_disk(rows, name)?;
    let row = rows.volume(whole.id);
    let row = row.with_context(|| format!("{} lies on a disk, not on other virtual disks", whole.name))?;
    Ok((whole, row))
}

fn volume<'r>(rows: &'r ClusterRows, name: &str) -> anyhow::Result<(&'r VirtualDiskRow, &'r MirrorShape)> {
    let (whole, row) = row_of(rows, name)?;
    let mirror = row.mirror();
    let mirror = mirror.with_context(|| format!("{} is no mirror: it keeps its parts", whole.name))?;
    Ok((whole, mirror))
}

fn put(volume: VolumeId, mirror: MirrorShape) -> RowChange {
    RowChange::Put(Row::Volume(VolumeRow { volume, shape: Shape::Mirror(mirror) }))
}

/// The largest size whose legs fit into this many bytes.
fn fitting(leg: u64, block: BlockBytes) -> u64 {
    let block = u64::from(block.get());
    let mut size = leg / block * block;
    while size > 0 && leg_bytes(size).is_none_or(|needed| needed > leg) {
        let over = leg_bytes(size).map_or(block, |needed| needed - leg);
        size = size.saturating_sub(over.next_multiple_of(block));
    }
    size
}

/// Virtual disks to be made, and numbers for them.
struct Maker<'r> {
    rows: &'r ClusterRows,
    used: Vec<u32>,
    made: Vec<VirtualDiskRow>,
}

impl Maker<'_> {
    fn number(&mut self) -> anyhow::Result<VolumeId> {
        let number = next_number(self.used.iter().copied(), 0, VOLUMES_MAX as u32 - 1)?;
        self.used.push(number);
        Ok(VolumeId(number))
    }

    /// A virtual disk on a disk of its own, to be a copy of `whole`.
    fn leg_on(&mut self, disk: &str, whole: &VirtualDiskRow, number: usize) -> anyhow::Result<VolumeId> {
        let disk = find::disk(self.rows, disk)?;
        let needed = leg_bytes(whole.size_bytes).context("that is too large for any disk")?;
        let row = VirtualDiskRow {
            id: self.number()?,
            name: format!("{}.{number}", whole.name),
            candidates: disk.ports.iter().map(|port| (port.node, disk.id)).collect(),
            size_bytes: needed.next_multiple_of(u64::from(whole.block_bytes.get())),
            block_bytes: whole.block_bytes,
            read_only: false,
            on_lost_quorum: LostQuorum::Suspend,
        };
        let id = row.id;
        self.made.push(row);
        Ok(id)
    }
}

fn maker(rows: &ClusterRows) -> Maker<'_> {
    Maker { rows, used: rows.virtual_disks.iter().map(|row| row.id.0).collect(), made: Vec::new() }
}

/// Names by which legs that are made here can be called.
fn leg_number(rows: &ClusterRows, name: &str) -> usize {
    (1..).find(|number| rows.virtual_disk_named(&format!("{name}.{number}")).is_none()).unwrap_or(1)
}

/// Primaries of the legs, each once.
fn primaries<'a>(legs: impl Iterator<Item = &'a VirtualDiskRow>) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    for (node, _) in legs.flat_map(|leg| leg.candidates.first()) {
        if !nodes.contains(node) && nodes.len() < CANDIDATES_MAX {
            nodes.push(*node);
        }
    }
    nodes
}

fn plan_create(database: &Database, new: &Create, seed: [u8; 8]) -> anyhow::Result<Plan> {
    let rows = database.rows();
    ensure!(
        rows.virtual_disk_named(&new.name).is_none(),
        "there is a virtual disk {} already: choose another name",
        new.name
    );
    if !(new.concat.is_empty() && new.stripe.is_empty()) {
        return assembled::plan_create(database, new);
    }
    let count = new.on.len() + new.of.len();
    ensure!(
        (1..=LEGS_MAX).contains(&count),
        "{count} copies: name 1 to {LEGS_MAX} disks, two for a mirror that survives the loss of one"
    );
    let block_bytes = block_size(&new.block_size)?;
    let mut maker = maker(rows);
    let known: Vec<&VirtualDiskRow> =
        new.of.iter().map(|leg| find::virtual_disk(rows, leg)).collect::<anyhow::Result<_>>()?;
    let size_bytes = match &new.size {
        Some(size) => bytes(size)?,
        None => fitting(known.iter().map(|leg| leg.size_bytes).min().unwrap_or(0), block_bytes),
    };
    let mut whole = VirtualDiskRow {
        id: maker.number()?,
        name: new.name.clone(),
        candidates: Vec::new(),
        size_bytes,
        block_bytes,
        read_only: false,
        on_lost_quorum: new.on_lost_quorum.row(),
    };
    let mut legs: Vec<VolumeId> = known.iter().map(|leg| leg.id).collect();
    for (place, disk) in new.on.iter().enumerate() {
        legs.push(maker.leg_on(disk, &whole, place + 1)?);
    }
    let nodes = match new.nodes.is_empty() {
        true => primaries(known.iter().copied().chain(&maker.made)),
        false => find::nodes(rows, &new.nodes)?,
    };
    whole.candidates = nodes.iter().map(|node| (*node, DiskId::PARTS)).collect();
    let legs = legs.into_iter().enumerate().map(|(place, volume)| LegRow {
        volume,
        identity: u64::from_le_bytes(seed).wrapping_add(place as u64 + 1),
        state: if place == 0 { LegState::InSync } else { LegState::Stale },
        why: StaleReason::New,
    });
    let mirror = MirrorShape { instance: u64::from_le_bytes(seed), fresh: true, legs: legs.collect() };
    let served: Vec<String> = nodes.iter().map(|node| rows.node_name(*node)).collect();
    let done = format!(
        "volume {} is there: {} in {count} copies, served by {}",
        whole.name,
        size_text(size_bytes),
        served.join(", then ")
    );
    let mut changes: Vec<RowChange> =
        maker.made.into_iter().map(|row| RowChange::Put(Row::VirtualDisk(row))).collect();
    changes.push(put(whole.id, mirror));
    changes.push(RowChange::Put(Row::VirtualDisk(whole)));
    Ok(Plan::new(done, changes))
}

fn plan_attach(database: &Database, it: &Attach, seed: [u8; 8]) -> anyhow::Result<Plan> {
    let rows = database.rows();
    let (whole, row) = row_of(rows, &it.name)?;
    let Some(mirror) = row.mirror() else { return assembled::plan_attach(database, whole, row, it) };
    let mut maker = maker(rows);
    let leg = match (&it.of, &it.on) {
        (Some(leg), _) => find::virtual_disk(rows, leg)?.id,
        (None, Some(disk)) => maker.leg_on(disk, whole, leg_number(rows, &whole.name))?,
        (None, None) => bail!("say what is to hold the copy: --on DISK or --of VDISK"),
    };
    let mut mirror = mirror.clone();
    let identity = u64::from_le_bytes(seed);
    mirror.legs.push(LegRow { volume: leg, identity, state: LegState::Stale, why: StaleReason::New });
    let mut changes: Vec<RowChange> =
        maker.made.into_iter().map(|row| RowChange::Put(Row::VirtualDisk(row))).collect();
    changes.push(put(whole.id, mirror));
    let done = format!("volume {} has one more copy: it is copied to (netdisk volume status)", whole.name);
    Ok(Plan::new(done, changes))
}

/// The mirror with its legs, and the place of one of them.
fn with_leg(
    database: &Database,
    name: &str,
    leg: &str,
) -> anyhow::Result<(VirtualDiskRow, MirrorShape, usize)> {
    let rows = database.rows();
    let (whole, mirror) = volume(rows, name)?;
    let wanted = find::virtual_disk(rows, leg)?;
    let place = mirror.legs.iter().position(|row| row.volume == wanted.id);
    let place = place.with_context(|| {
        let legs: Vec<&str> = mirror
            .legs
            .iter()
            .filter_map(|row| rows.virtual_disk(row.volume).map(|row| row.name.as_str()))
            .collect();
        format!("{} is no copy of {}: there is {}", wanted.name, whole.name, legs.join(", "))
    })?;
    let stays = mirror.legs.iter().enumerate().filter(|(other, _)| *other != place);
    let others = stays.filter(|(_, row)| row.state == LegState::InSync).count();
    ensure!(
        others > 0,
        "{} is the last copy of {} that has everything: let another one be copied to first",
        wanted.name,
        whole.name
    );
    Ok((whole.clone(), mirror.clone(), place))
}

fn plan_detach(database: &Database, name: &str, leg: &str) -> anyhow::Result<Plan> {
    let (whole, mut mirror, place) = with_leg(database, name, leg)?;
    mirror.legs.remove(place);
    let done = format!("{leg} is no copy of {} any more", whole.name);
    Ok(Plan::new(done, vec![put(whole.id, mirror)]))
}

fn plan_fail(database: &Database, name: &str, leg: &str) -> anyhow::Result<Plan> {
    let (whole, mut mirror, place) = with_leg(database, name, leg)?;
    // Another identity: nothing of what it holds is believed.
    let row = &mut mirror.legs[place];
    (row.state, row.why) = (LegState::Stale, StaleReason::Operator);
    row.identity = row.identity.wrapping_add(1 << 32);
    let done = format!("{leg} is stale and is copied to anew (netdisk volume status {})", whole.name);
    Ok(Plan::new(done, vec![put(whole.id, mirror)]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::change::sample::{after, database, refused};
    use control_node::report::Leg as SeenLeg;

    #[derive(clap::Parser)]
    struct Line<T: clap::Args> {
        #[command(flatten)]
        arguments: T,
    }

    pub(super) fn parsed<T: clap::Args>(words: &[&str]) -> T {
        let line = <Line<T> as clap::Parser>::try_parse_from(std::iter::once(&"x").chain(words));
        line.unwrap_or_else(|fault| panic!("{fault}")).arguments
    }

    fn mirrored() -> Database {
        let new: Create = parsed(&["m", "--on", "spare,quick", "--size", "8MiB"]);
        after(&database(), &|db| plan_create(db, &new, [1; 8])).unwrap()
    }

    // proves: B9 C5
    #[test]
    fn a_mirror_is_made_on_disks_and_its_copies_come_and_go() {
        let made = mirrored();
        let (whole, mirror) = volume(made.rows(), "m").unwrap();
        assert_eq!(whole.candidates, [(NodeId(1), DiskId::PARTS), (NodeId(3), DiskId::PARTS)]);
        assert_eq!(mirror.in_sync().count(), 1);
        let leg = made.rows().virtual_disk_named("m.2").unwrap();
        assert!(leg.size_bytes >= leg_bytes(8 << 20).unwrap());
        let gone = after(&made, &|db| plan_detach(db, "m", "m.2")).unwrap();
        assert_eq!(volume(gone.rows(), "m").unwrap().1.legs.len(), 1);
        assert!(refused(&gone, &|db| plan_detach(db, "m", "m.1")).contains("last copy"));
        let again: Attach = parsed(&["m", "--of", "m.2"]);
        let back = after(&gone, &|db| plan_attach(db, &again, [9; 8])).unwrap();
        let legs = &volume(back.rows(), "m").unwrap().1.legs;
        assert_ne!(legs[1].identity, mirror.legs[1].identity, "it missed what was written meanwhile");
        assert!(refused(&made, &|db| plan_fail(db, "m", "vd0")).contains("there is m.1, m.2"));
    }

    #[test]
    fn a_mirror_of_virtual_disks_takes_what_fits() {
        let known = leg_bytes(fitting(64 << 20, BlockBytes::USUAL)).unwrap();
        assert!(known <= 64 << 20 && known > (64 << 20) - 8192, "{known}");
        // The leg of a mirror that is gone again.
        let was = after(&mirrored(), &|db| plan_detach(db, "m", "m.2")).unwrap();
        let new: Create = parsed(&["n", "--of", "m.2"]);
        let made = after(&was, &|db| plan_create(db, &new, [1; 8])).unwrap();
        assert_eq!(volume(made.rows(), "n").unwrap().0.size_bytes, 8 << 20);
        let many: Create = parsed(&["n", "--of", "m.2,m.2"]);
        assert!(refused(&was, &|db| plan_create(db, &many, [1; 8])).contains("twice"));
        let exported: Create = parsed(&["n", "--of", "vd0"]);
        assert!(refused(&was, &|db| plan_create(db, &exported, [1; 8])).contains("cannot export it"));
    }

    #[test]
    fn the_status_of_a_mirror_says_what_is_wrong_and_what_helps() {
        let leg = |name: &str, state: &str, reachable| SeenLeg {
            name: name.into(),
            state: state.into(),
            reachable,
            why: (state != "in sync").then(|| "no node serves it".into()),
        };
        let mirror = |legs| Mirror {
            name: "m".into(),
            here: true,
            marked_bytes: 0,
            behind_bytes: 0,
            to_copy_bytes: 5 << 20,
            copied_bytes: 1 << 20,
            legs,
        };
        let sound = mirror(vec![leg("a", "in sync", Some(true)), leg("b", "in sync", Some(true))]);
        assert_eq!(line(&sound, Some("beta")), "m: healthy: 2 of 2 copies in sync, served by beta");
        let away = mirror(vec![leg("a", "in sync", Some(true)), leg("b", "stale", Some(false))]);
        assert!(line(&away, Some("beta")).contains("netdisk volume detach m --leg b"));
        let copied = mirror(vec![leg("a", "in sync", Some(true)), leg("b", "copying", Some(true))]);
        assert!(line(&copied, Some("beta")).contains("5 MiB to go"));
        assert!(line(&copied, None).contains("DOWN"));
    }
}
