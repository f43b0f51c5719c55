//! Acting on what the log says: rows, members, mappings, in the order in which it says it.

use crate::consensus::Asker;
use crate::leaving::Farewell;
use crate::ndd;
use crate::node::Node;
use crate::replica::News;
use crate::reservation;
use crate::start::new_life;
use crate::volumes;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::mapping::Mapping;
use control_proto::ccd::{Cause, Change, Event, Row, RowEvent, RowKey, Table};
use control_proto::membership::Input;
use control_proto::rows::{ClusterRows, LostQuorum, VolumeRow};
use control_proto::view::{BrokenPath, ClusterView, Member};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use transport_proto::identity::{Incarnation, NodeId};

/// What a command touched.
#[derive(Default)]
struct Touched {
    rows: bool,
    members: bool,
    /// Virtual disks whose mapping may be another now; all of them if the members changed.
    volumes: BTreeSet<VolumeId>,
}

impl Touched {
    fn of(event: &Event, rows: &ClusterRows) -> Touched {
        let mut touched = Touched::default();
        for change in &event.changes {
            touched.add(change, rows);
        }
        touched
    }

    fn add(&mut self, change: &RowEvent, rows: &ClusterRows) {
        match &change.key {
            RowKey::Membership => self.members = true,
            RowKey::VirtualDisk(volume) => {
                self.rows = true;
                self.volumes.insert(*volume);
            }
            RowKey::Disk(disk) => {
                self.rows = true;
                let users = rows.virtual_disks.iter();
                let users = users.filter(|row| row.candidates.iter().any(|(_, used)| used == disk));
                self.volumes.extend(users.map(|row| row.id));
            }
            RowKey::Reconfiguration(_) => {
                if let Some(Row::Reconfiguration(row)) = change.after.as_ref().or(change.before.as_ref()) {
                    self.volumes.extend(&row.volumes);
                }
            }
            key => self.rows |= is_configured(key.table()),
        }
    }
}

fn is_configured(table: Table) -> bool {
    matches!(
        table,
        Table::Nodes
            | Table::Links
            | Table::Permissions
            | Table::Nbd
            | Table::Settings
            | Table::Formats
            | Table::Volumes
            | Table::Regions
            | Table::Loans
    )
}

impl Node {
    /// This node in its present life.
    pub(crate) fn me(&mut self) -> Member {
        let core = self.station.endpoint.core();
        Member { node: core.node(), incarnation: core.incarnation() }
    }

    /// Takes in what the log's thread has applied.
    #[inline]
    pub(crate) fn take_news(&mut self) {
        while let Some(news) = self.replica.step() {
            match news {
                News::Applied(applied) => {
                    if let Some(event) = applied.event() {
                        self.on_event(&event.clone());
                    }
                }
                News::Relisted => self.relist(),
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        tracing::info!(number = event.number.0, index = event.index, "{}", event.cause);
        if let Cause::Departed(node) = event.cause {
            self.farewell = Some(Farewell::to(node));
        }
        let touched = Touched::of(event, self.replica.database().rows());
        if touched.rows {
            self.follow_rows();
        }
        self.follow_members(touched.members, &touched.volumes);
        self.desk.tell_watchers(event);
    }

    /// Everything may be different.
    fn relist(&mut self) {
        tracing::info!(number = self.replica.database().number().0, "the whole configuration is read again");
        self.follow_rows();
        self.follow_members(true, &BTreeSet::new());
        self.desk.tell_gap(self.replica.database());
    }

    /// Acts on rows that changed, while everything runs: rails, then disks, then what surfaces serve. The
    /// mappings by these rows come after it.
    fn follow_rows(&mut self) {
        let rows = self.replica.database().rows().clone();
        self.joining &= rows.node(self.genesis.node).is_none();
        let before = std::mem::replace(&mut self.rows, rows.clone());
        if Arc::ptr_eq(&before, &rows) || before == rows {
            return;
        }
        if rows.node(self.genesis.node).is_none() {
            self.rows = before;
            return self.not_configured();
        }
        self.station.rows = rows.clone();
        if before.connectivity != rows.connectivity {
            self.monitor.set_settings(&rows);
        }
        let (core, clients) = self.station.endpoint.parts();
        if self.farewell.is_none() {
            self.rails.follow(core, &self.monitor, &rows);
        }
        self.distress.follow_rows(&rows);
        let news = self.disks.follow(&mut clients.engine, &rows);
        for volume in ndd::removed(&before, &rows) {
            tracing::info!(volume = volume.0, "the virtual disk is not configured any more");
            self.surfaces.close_volume(volume);
            clients.engine.remove(core, volume);
        }
        self.surfaces.follow(&mut self.station, &rows);
        self.tell_paths(news);
        self.obey_policies();
    }

    /// The rows do not have this node: not yet, or not any more.
    fn not_configured(&mut self) {
        if !self.joining && !self.is_leaving() {
            tracing::error!("this node was removed from the configuration: it stops");
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Acts on members, numbers and mappings: transport first (who may talk), then the disks' mappings.
    fn follow_members(&mut self, members_changed: bool, volumes: &BTreeSet<VolumeId>) {
        let me = self.me();
        let view = self.replica.database().view();
        let membership = self.replica.database().membership();
        let members: Vec<NodeId> = membership.members.iter().map(|member| member.node).collect();
        let departed: Vec<(NodeId, Incarnation)> =
            membership.departed.iter().map(|gone| (gone.node, gone.incarnation)).collect();
        let hears_still = |node| self.farewell.is_some_and(|farewell| farewell.node() == node);
        let departed: Vec<(NodeId, Incarnation)> =
            departed.into_iter().filter(|(node, _)| !hears_still(*node)).collect();
        let is_member = membership.has(me);
        let mut endings = Vec::new();
        let (core, clients) = self.station.endpoint.parts();
        if core.epoch() != view.epoch || members_changed {
            core.configure_lives(view.epoch, &members, &departed);
            self.monitor.configure(view.epoch);
            endings = self.distress.configure(view.epoch, &view.members);
        }
        if members_changed {
            let listed: Vec<u16> = members.iter().map(|node| node.0).collect();
            tracing::info!(number = view.epoch.0, members = ?listed, "members");
            let lives: Vec<(NodeId, Incarnation)> =
                membership.members.iter().map(|member| (member.node, member.incarnation)).collect();
            clients.engine.members(&lives);
            let leads_no_more = |leader: &NodeId| {
                !members.contains(leader) && departed.iter().any(|(gone, _)| gone == leader)
            };
            if let Some(consensus) = &clients.consensus
                && let Some(leader) = consensus.state().leader.filter(leads_no_more)
            {
                consensus.ended(leader);
            }
        }
        // A life that is not in serves nothing and asks nobody, whatever one before it did.
        if is_member {
            self.map(&view, members_changed, volumes);
        }
        let log = self.replica.database().log_state();
        let (core, clients) = self.station.endpoint.parts();
        clients.membership.applied(core, log);
        self.reconfigurations.note(core.now(), me, self.replica.database());
        for ending in &endings {
            self.on_ending(ending);
        }
        self.clear_own_tombstone(me);
    }

    /// This life was allowed to start: whatever an earlier one said is over.
    fn clear_own_tombstone(&mut self, me: Member) {
        let stone = self.replica.database().tombstone(me.node);
        if stone.is_none_or(|stone| stone.member.incarnation >= me.incarnation) || self.is_leaving() {
            return;
        }
        let clients = self.station.endpoint.clients();
        if let Some(consensus) = clients.consensus.as_mut().filter(|log| !log.has_open(Asker::Witness)) {
            // Not taken: with the next news of the log.
            let _ = consensus.propose(Asker::Witness, Vec::new(), Change::Clear { node: me.node });
        }
    }

    fn map(&mut self, view: &ClusterView, all: bool, volumes: &BTreeSet<VolumeId>) {
        let (core, clients) = self.station.endpoint.parts();
        volumes::follow(&mut clients.engine, core, self.replica.database(), self.genesis.node);
        reservation::follow(&mut clients.engine, core, self.replica.database());
        // Whoever had a part open before it was one could change what the whole is.
        for part in self.rows.volumes.iter().flat_map(VolumeRow::parts) {
            if clients.engine.is_open(part) {
                tracing::warn!(volume = part.0, "the virtual disk is a part of a volume now: its clients go");
                self.surfaces.close_volume(part);
                clients.engine.evict(core, part);
            }
        }
        let mut mappings: Vec<Mapping> = match all {
            true => view.mappings().collect(),
            false => volumes.iter().filter_map(|volume| view.mapping(*volume)).collect(),
        };
        // What lies on others is given up before a newer number of these is acted on.
        mappings.sort_by_key(|mapping| core::cmp::Reverse(self.rows.storeys(mapping.volume)));
        mappings.iter().for_each(|mapping| ndd::map(&mut clients.engine, core, mapping));
        self.disks.let_go(&mut clients.engine);
    }

    /// The others have gone on without this node: it begins a new life and joins as a newcomer.
    pub(crate) fn rejoin(&mut self) {
        if self.is_leaving() {
            return;
        }
        let life = new_life(self.me().incarnation);
        tracing::warn!(incarnation = life.0, "removed from the cluster: joining again in a new life");
        let (core, clients) = self.station.endpoint.parts();
        clients.engine.fence(core);
        core.reincarnate(life);
        self.monitor.reincarnate(life);
        self.distress.reincarnate(life);
        clients.membership.tell(core, Input::Reincarnate(life));
    }

    /// Clients of a virtual disk whose policy is to fail meet errors while there is no quorum (SPEC C6).
    pub(crate) fn obey_policies(&mut self) {
        let (core, clients) = self.station.endpoint.parts();
        for row in &self.rows.virtual_disks {
            let failing = !self.has_quorum && self.was_in && row.on_lost_quorum == LostQuorum::Fail;
            if self.failing.contains(&row.id) == failing || (failing && !clients.engine.is_open(row.id)) {
                continue;
            }
            clients.engine.set_failing(core, row.id, failing);
            if failing {
                self.failing.insert(row.id);
            } else {
                self.failing.remove(&row.id);
            }
            tracing::info!(volume = row.name, failing, "requests without quorum");
        }
        self.failing.retain(|volume| self.rows.virtual_disk(*volume).is_some());
    }

    /// Tells the membership of paths that this node found broken or mended by itself.
    pub(crate) fn tell_paths(&mut self, news: Vec<(BrokenPath, bool)>) {
        let (core, clients) = self.station.endpoint.parts();
        for (path, broken) in news {
            let input = if broken { Input::PathBroken(path) } else { Input::PathMended(path) };
            clients.membership.tell(core, input);
        }
    }

    /// Tries again what could not be done when rows changed.
    pub(crate) fn tidy_up(&mut self) {
        self.surfaces.control(&mut self.station);
        self.station.close_idle();
        let rows = self.rows.clone();
        let (core, clients) = self.station.endpoint.parts();
        if self.farewell.take_if(|farewell| farewell.is_over()).is_some() {
            self.rails.follow(core, &self.monitor, &rows);
        }
        self.rails.control(core);
        let news = self.disks.control(&mut clients.engine, &rows);
        self.tell_paths(news);
    }
}
