//! The start of a node: what it begins with, and in which order its parts come to life.

use crate::admin::Admin;
use crate::arrival::Arrival;
use crate::consensus::Consensus;
use crate::ctid::RailKeeper;
use crate::distress::{Distress, DistressRefusal, tombstone_file};
use crate::genesis::{Genesis, GenesisRefusal};
use crate::join::{Door, Keeper};
use crate::lease::LeaseWatch;
use crate::membership::MembershipClient;
use crate::memory::slab_layout;
use crate::monitor::Monitor;
use crate::ndd::{self, DiskKeeper};
use crate::node::{Keepers, Node};
use crate::options::{NodeOptions, NodeRefusal};
use crate::replica::{LogSide, Replica, replicas};
use crate::scheme::join_address;
use crate::station::{NodeClients, Station};
use crate::surfaces::Surfaces;
use blockdev_engine::BlockEngine;
use control_proto::ccd::Database;
use control_proto::rows::ClusterRows;
use control_proto::view::Member;
use control_raft::ClusterStamp;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use transport_endpoint::{Endpoint, EndpointConfig, VerbsOptions};
use transport_proto::identity::{Incarnation, NodeId};

/// A life of this node, later than every earlier one: nanoseconds since 1970, or the next number after `last`
/// where the clock was set back. Masters and members never hear an earlier life again.
pub(crate) fn new_life(last: Incarnation) -> Incarnation {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    Incarnation(u64::try_from(nanos).unwrap_or(u64::MAX)).max(Incarnation(last.0.saturating_add(1)))
}

/// What the node begins with.
struct Beginning {
    genesis: Genesis,
    /// The state folder has nothing yet.
    is_new: bool,
}

fn begin(options: &NodeOptions) -> Result<Beginning, NodeRefusal> {
    let folder = &options.state;
    let path = || folder.join(crate::genesis::FILE);
    std::fs::create_dir_all(folder).map_err(|error| GenesisRefusal::System(folder.clone(), error))?;
    let known = Genesis::load(folder)?;
    let Some((config, id)) = &options.config else {
        let genesis = known.ok_or_else(|| GenesisRefusal::Missing(folder.clone()))?;
        return Ok(Beginning { genesis, is_new: false });
    };
    let Some(genesis) = known else {
        config.node(*id)?;
        let genesis = Genesis::of_rows(config.rows.clone(), config.key.clone(), *id)?;
        return Ok(Beginning { genesis, is_new: true });
    };
    if genesis.node != *id {
        return Err(GenesisRefusal::OtherNode { path: path(), found: genesis.node, wanted: *id }.into());
    }
    if genesis.name != config.rows.name {
        let wanted = config.rows.name.clone();
        return Err(GenesisRefusal::OtherCluster { path: path(), found: genesis.name, wanted }.into());
    }
    if genesis.key.expose() != config.key.expose() {
        return Err(GenesisRefusal::OtherKey(path()).into());
    }
    let same = Genesis::of_rows(config.rows.clone(), config.key.clone(), *id)
        .is_ok_and(|again| again.digest() == genesis.digest());
    if !same {
        tracing::warn!(
            "{} differs from what the cluster was begun with and is not read any more: the cluster's own \
             configuration counts, see netdisk cluster export",
            config.file.display()
        );
    }
    Ok(Beginning { genesis, is_new: false })
}

/// Starts the log, and brings the replica to all that was known to be committed when the node stopped.
fn start_log(
    genesis: &Genesis,
    state: &Path,
    log_side: LogSide,
    replica: &mut Replica,
) -> Result<Consensus, NodeRefusal> {
    let rows = replica.database().rows();
    let voters: BTreeSet<NodeId> = rows.nodes.iter().filter(|row| row.voter).map(|row| row.id).collect();
    let stamp = ClusterStamp { cluster: genesis.cluster, genesis: genesis.digest() };
    let wake = replica.wake();
    let consensus = Consensus::start(genesis.node, stamp, state, voters, log_side, move || wake.wake())?;
    while replica.step().is_some() {}
    Ok(consensus)
}

/// Opens the port at which machines knock that want to join. A node without it works, so that a port that is
/// taken is a warning.
fn open_door(genesis: &Genesis, admin: &Admin, rows: &ClusterRows) -> Option<Door> {
    let address = join_address(rows, genesis.node)?;
    let keeper = Keeper { desk: admin.desk.clone(), genesis: genesis.clone() };
    match Door::open(address, Arc::new(keeper)) {
        Ok(door) => Some(door),
        Err(refusal) => {
            tracing::warn!("{refusal}");
            None
        }
    }
}

impl Node {
    /// Starts the node; drive it with [`Node::run`].
    pub fn start(options: NodeOptions) -> Result<Node, NodeRefusal> {
        let Beginning { genesis, is_new } = begin(&options)?;
        let mark = tombstone_file(&options.state).map_err(DistressRefusal::Tombstone)?;
        let id = genesis.node;
        let (log_side, mut replica) = replicas(genesis.database(&options.state)?);
        // A new node promises nothing before everything else has started: then it begins its log. One that
        // was here before learns from its log what to start.
        let (mut consensus, mut log_side) = (None, Some(log_side));
        if let Some(log_side) = log_side.take_if(|_| !is_new) {
            consensus = Some(start_log(&genesis, &options.state, log_side, &mut replica)?);
        }
        let mut rows = replica.database().rows().clone();
        if rows.node(id).is_none() {
            // One that joins: its row is in entries of the log that it does not have yet.
            let known = genesis.known_rows().filter(|rows| rows.node(id).is_some());
            let was_in = replica.database().last_life(id).is_some();
            rows = known.filter(|_| !was_in).ok_or(NodeRefusal::NotConfigured(id))?;
        }
        let life = new_life(replica.database().last_life(id).unwrap_or(Incarnation(0)));
        let layout = slab_layout(&rows, id)?;
        let clients = NodeClients {
            engine: BlockEngine::new(id, life),
            membership: MembershipClient::new(id, life, replica.database().log_state()),
            consensus: None,
        };
        let mut config = EndpointConfig::new(id, life, genesis.key.clone());
        config.spin = options.spin;
        (config.local_memory, config.shm) = (layout, layout);
        (config.tcp.receive, config.tcp.reserve) = (layout, layout);
        config.verbs = VerbsOptions::for_data_of(layout);
        let mut endpoint = Endpoint::new(config, clients)?;
        let registry = endpoint.registry().try_clone()?;
        let disks = DiskKeeper::start(&mut endpoint.clients().engine, registry, &rows, id)?;
        let rails = RailKeeper::start(endpoint.core(), &rows, id)?;
        let monitor = Monitor::start(&rows, id, life, &genesis.key, endpoint.verdicts())?;
        let waker = endpoint.waker();
        let (me, woken) = (Member { node: id, incarnation: life }, waker.clone());
        let wake = move || {
            // Without it the node looks within its longest sleep.
            let _ = woken.wake();
        };
        let distress = Distress::start(&rows, me, &genesis.key, endpoint.verdicts(), mark, wake)?;
        let open = |path: &Path| Admin::open(path, waker.clone(), distress.alarm.clone());
        let admin = options.socket.as_deref().map(open).transpose()?;
        let lease = LeaseWatch::start(waker.clone())?;
        endpoint.clients().engine.shut_by(lease.shut());
        endpoint.clients().engine.lease_by(lease.is_over());
        let mut station = Station::new(endpoint, id, rows.clone());
        let surfaces = Surfaces::start(&mut station, &rows)?;
        if let Some(log_side) = log_side {
            genesis.store(&options.state)?;
            consensus = Some(start_log(&genesis, &options.state, log_side, &mut replica)?);
        }
        replica.attach(waker);
        station.endpoint.clients().consensus = consensus.map(|log| log.in_life(life));
        let door = admin.as_ref().and_then(|admin| open_door(&genesis, admin, &rows));
        tracing::info!(node = id.0, cluster = rows.name, "node started");
        let keepers = Keepers { surfaces, rails, disks, monitor, distress, lease };
        let arrival = Arrival::of(&options.state);
        let mut node = Node::of_parts(genesis, replica, station, keepers, admin, options.state);
        (node.door, node.arrival) = (door, arrival);
        node.map_before_first_view();
        Ok(node)
    }

    /// Until this life is a member, every virtual disk is known and served by nobody here: requests wait
    /// instead of failing.
    fn map_before_first_view(&mut self) {
        let mut view = Database::view(self.replica.database());
        view.members.clear();
        view.volumes = Arc::default();
        view.formed = transport_proto::identity::Epoch(0);
        let (core, clients) = self.station.endpoint.parts();
        view.mappings().for_each(|mapping| ndd::map(&mut clients.engine, core, &mapping));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves: C3
    #[test]
    fn a_new_life_is_later_than_the_last_though_the_clock_was_set_back() {
        let future = 1 << 62;
        assert!(new_life(Incarnation(7)) > Incarnation(7));
        assert_eq!(new_life(Incarnation(future)), Incarnation(future + 1));
        assert!(new_life(Incarnation(0)) > Incarnation(0));
    }
}
