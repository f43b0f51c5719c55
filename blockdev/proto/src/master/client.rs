//! The drivers that a master has met: which life of each it serves, and what that life has asked.

use crate::duplicates::DuplicateTable;
use alloc::vec::Vec;
use transport_proto::identity::{Incarnation, NodeId};

/// One client node.
pub(super) struct Client {
    /// The life that is served; zero when none was met.
    pub(super) incarnation: Incarnation,
    /// The newest life that was heard of. Served once nothing of the one before runs any more: a client that
    /// restarts must never see a write of its former life land late.
    newest: Incarnation,
    /// Requests that run on the store.
    pub(super) running: u32,
    pub(super) duplicates: DuplicateTable,
    is_member: bool,
}

impl Client {
    /// A newer life waits for this one's requests to finish.
    #[inline]
    pub(super) fn is_leaving(&self) -> bool {
        self.newest != self.incarnation
    }
}

/// How a message's life stands to the one that is served.
pub(super) enum Life<'table> {
    /// It is the one that is served.
    Present(&'table mut Client),
    /// It is newer, and the former one still has something running.
    Coming,
    /// It is over, or the node is no member.
    Past,
}

/// All clients, by node number.
pub(super) struct ClientTable {
    clients: Vec<Client>,
    /// A list of members was given; who is not on it is not served.
    restricted: bool,
}

impl ClientTable {
    pub(super) const fn new() -> ClientTable {
        ClientTable { clients: Vec::new(), restricted: false }
    }

    /// Serves members only from now on.
    pub(super) fn restrict(&mut self, members: &[NodeId]) {
        self.restricted = true;
        for client in &mut self.clients {
            client.is_member = false;
        }
        for member in members {
            self.grow(*member);
            self.clients[usize::from(member.0)].is_member = true;
        }
    }

    /// The client, if this is the life to serve. Adopts a newer life as soon as the former one has nothing
    /// running.
    #[inline]
    pub(super) fn meet(&mut self, node: NodeId, incarnation: Incarnation) -> Life<'_> {
        if self.clients.len() <= usize::from(node.0) {
            self.grow(node);
        }
        let client = &mut self.clients[usize::from(node.0)];
        if !client.is_member || incarnation < client.newest {
            return Life::Past;
        }
        if incarnation == client.incarnation {
            return Life::Present(client);
        }
        client.newest = incarnation;
        if client.running > 0 {
            return Life::Coming;
        }
        client.incarnation = incarnation;
        client.duplicates.clear();
        Life::Present(client)
    }

    /// A client that was met before.
    #[inline]
    pub(super) fn known(&mut self, node: NodeId) -> &mut Client {
        &mut self.clients[usize::from(node.0)]
    }

    pub(super) fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        let client = self.clients.get(usize::from(node.0))?;
        (client.incarnation != Incarnation(0)).then_some(client.incarnation)
    }

    #[cold]
    fn grow(&mut self, node: NodeId) {
        let is_member = !self.restricted;
        while self.clients.len() <= usize::from(node.0) {
            self.clients.push(Client {
                incarnation: Incarnation(0),
                newest: Incarnation(0),
                running: 0,
                duplicates: DuplicateTable::new(),
                is_member,
            });
        }
    }
}
