//! The table of connections, and the lists that say which of them want something.

use crate::connection::{Connection, Phase, Refused};
use crate::options::TcpOptions;
use crate::provider::CONNECTIONS_MAX;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::net::SocketAddr;
use transport_proto::time::Time;
use transport_provider::{ConnectionId, RailFault, RailName};

/// Sockets that are read directly at the most: each costs a system call a poll.
const HOT_MAX: usize = 4;

/// A place in the table.
pub(crate) type Slot = u16;

/// Connections by slot. Each list holds a slot at most once and only slots that are taken.
pub(crate) struct Table {
    connections: Vec<Option<Box<Connection>>>,
    /// Times that each slot was used.
    reuses: Vec<u16>,
    /// `mio` called them readable, and no read has found nothing since.
    pub(crate) readable: Vec<Slot>,
    /// They carried a frame a moment ago.
    pub(crate) hot: Vec<Slot>,
    /// Something waits to be flushed.
    pub(crate) dirty: Vec<Slot>,
    /// They wait for receive memory.
    pub(crate) starved: Vec<Slot>,
    /// Their caller was refused and wants to hear `writable`.
    pub(crate) refused: Vec<Slot>,
    /// To be reported as established.
    pub(crate) establishing: Vec<Slot>,
    /// Their dial may be decided.
    pub(crate) dialing: Vec<Slot>,
    /// Gone already, to be reported as lost. Until then nobody else gets their slot: whoever keeps a table by
    /// slot would take the end of the old connection for that of the new one.
    pub(crate) ended: VecDeque<(ConnectionId, RailFault)>,
}

impl Table {
    pub(crate) fn new() -> Table {
        let list = || Vec::with_capacity(CONNECTIONS_MAX);
        Table {
            connections: (0..CONNECTIONS_MAX).map(|_| None).collect(),
            reuses: vec![0; CONNECTIONS_MAX],
            readable: list(),
            hot: Vec::with_capacity(HOT_MAX),
            dirty: list(),
            starved: list(),
            refused: list(),
            establishing: list(),
            dialing: list(),
            ended: VecDeque::with_capacity(CONNECTIONS_MAX),
        }
    }

    /// Connections in the table.
    pub(crate) fn count(&self) -> usize {
        self.connections.iter().flatten().count()
    }

    /// The connection in `slot`, if there is one.
    #[inline]
    pub(crate) fn at(&mut self, slot: Slot) -> Option<&mut Connection> {
        self.connections[usize::from(slot)].as_deref_mut()
    }

    /// The connection in `slot`, if there is one, to look at.
    pub(crate) fn look(&self, slot: Slot) -> Option<&Connection> {
        self.connections[usize::from(slot)].as_deref()
    }

    /// The connection with this id, if it still is.
    #[inline]
    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let slot = self.connections.get_mut(id.slot())?;
        slot.as_deref_mut().filter(|connection| connection.id == id)
    }

    fn free(&self) -> Option<usize> {
        let ending = |slot| self.ended.iter().any(|(id, _)| id.slot() == slot);
        (0..CONNECTIONS_MAX).find(|slot| self.connections[*slot].is_none() && !ending(*slot))
    }

    fn name(&mut self, slot: usize) -> ConnectionId {
        self.reuses[slot] = self.reuses[slot].wrapping_add(1);
        ConnectionId::new(slot as u16, self.reuses[slot])
    }

    /// An id for a connection that ended before it began. `None`: every slot is taken.
    pub(crate) fn stillborn(&mut self) -> Option<ConnectionId> {
        self.free().map(|slot| self.name(slot))
    }

    /// Puts a socket into the table and has it watched. `None`: the table is full or the kernel refuses.
    pub(crate) fn admit(
        &mut self,
        registry: &Registry,
        first_token: usize,
        (rail, mut stream, peer): (RailName, TcpStream, SocketAddr),
        phase: Phase,
        options: &TcpOptions,
    ) -> Option<ConnectionId> {
        let slot = self.free()?;
        let watch = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(first_token + slot), watch).ok()?;
        let id = self.name(slot);
        self.connections[slot] = Some(Box::new(Connection::new(id, rail, stream, peer, phase, options)));
        Some(id)
    }

    /// Takes a connection out of the table and off every list.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<Box<Connection>> {
        let connection = self.connections[usize::from(slot)].take()?;
        let lists = [
            &mut self.readable,
            &mut self.hot,
            &mut self.dirty,
            &mut self.starved,
            &mut self.refused,
            &mut self.establishing,
            &mut self.dialing,
        ];
        for list in lists {
            list.retain(|listed| *listed != slot);
        }
        Some(connection)
    }

    /// There may be something to read.
    pub(crate) fn mark_readable(&mut self, slot: Slot) {
        let Some(connection) = self.at(slot) else { return };
        connection.readable = true;
        if !core::mem::replace(&mut connection.listed, true) {
            self.readable.push(slot);
        }
    }

    /// Puts a connection that was served back on the list if it is still readable.
    pub(crate) fn relist(&mut self, slot: Slot) {
        if self.look(slot).is_some_and(|connection| connection.readable) {
            self.mark_readable(slot);
        }
    }

    /// The socket carries a frame: it is read directly for a while. The one idle for longest makes room.
    pub(crate) fn mark_hot(&mut self, slot: Slot, now: Time) {
        let Some(connection) = self.at(slot) else { return };
        connection.active = now;
        if core::mem::replace(&mut connection.hot, true) {
            return;
        }
        if self.hot.len() == HOT_MAX {
            let active = |slot: &Slot| self.look(*slot).map(|connection| connection.active);
            let coldest = (0..HOT_MAX).min_by_key(|index| active(&self.hot[*index])).unwrap_or(0);
            self.cool(coldest);
        }
        self.hot.push(slot);
    }

    /// Takes the connection at `index` off the list of the hot.
    pub(crate) fn cool(&mut self, index: usize) {
        let slot = self.hot.swap_remove(index);
        self.at(slot).expect("removal unlists").hot = false;
    }

    /// There is something to flush.
    pub(crate) fn mark_dirty(&mut self, slot: Slot) {
        let Some(connection) = self.at(slot) else { return };
        if !core::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(slot);
        }
    }

    /// A dial may be decided.
    pub(crate) fn mark_dialing(&mut self, slot: Slot) {
        if !self.dialing.contains(&slot) {
            self.dialing.push(slot);
        }
    }

    /// The caller was refused and will hear when to try again.
    pub(crate) fn note_refused(&mut self, id: ConnectionId, refused: Refused) {
        let Some(connection) = self.get(id) else { return };
        if core::mem::replace(&mut connection.refused, refused) == Refused::No {
            self.refused.push(id.slot() as u16);
        }
    }
}
