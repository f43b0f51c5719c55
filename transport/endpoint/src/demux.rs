//! Clients that register while the program runs: a table of call-back objects by client number.

use crate::client::{Clients, Completion, Delivery, PeerEvent};
use crate::core::Core;
use transport_proto::identity::{CLIENTS_MAX, ClientId, NodeId};

/// One client's call-backs; see [`Clients`] for when they come.
pub trait Client {
    /// A message arrived.
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>);
    /// A message sent with a tag is complete.
    fn complete(&mut self, core: &mut Core, completion: Completion) {
        let _ = (core, completion);
    }
    /// A peer came, went, or began a new life. Every client hears it.
    fn peer(&mut self, core: &mut Core, event: PeerEvent) {
        let _ = (core, event);
    }
    /// May send to `node` again.
    fn writable(&mut self, core: &mut Core, node: NodeId) {
        let _ = (core, node);
    }
}

/// A table of clients, dispatched by number. Costs one indirect call a message; a program that knows its
/// clients when it is compiled implements [`Clients`] itself and saves it.
#[derive(Default)]
pub struct Demux {
    clients: [Option<Box<dyn Client>>; CLIENTS_MAX],
}

/// That number is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTaken;

impl Demux {
    /// Registers a client and opens its traffic.
    pub fn register(
        &mut self,
        core: &mut Core,
        id: ClientId,
        client: Box<dyn Client>,
    ) -> Result<(), ClientTaken> {
        let place = self.clients.get_mut(usize::from(id.0)).ok_or(ClientTaken)?;
        if place.is_some() {
            return Err(ClientTaken);
        }
        *place = Some(client);
        core.open_client(id);
        Ok(())
    }

    /// Takes a client out. Messages that still come for it are taken and dropped.
    pub fn unregister(&mut self, id: ClientId) -> Option<Box<dyn Client>> {
        self.clients.get_mut(usize::from(id.0))?.take()
    }

    fn at(&mut self, id: ClientId) -> Option<&mut Box<dyn Client>> {
        self.clients.get_mut(usize::from(id.0))?.as_mut()
    }
}

impl Clients for Demux {
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        if let Some(client) = self.at(delivery.client) {
            client.deliver(core, delivery);
        }
    }

    fn complete(&mut self, core: &mut Core, completion: Completion) {
        if let Some(client) = self.at(completion.client) {
            client.complete(core, completion);
        }
    }

    fn peer(&mut self, core: &mut Core, event: PeerEvent) {
        for client in self.clients.iter_mut().flatten() {
            client.peer(core, event);
        }
    }

    fn writable(&mut self, core: &mut Core, node: NodeId, client: ClientId) {
        if let Some(client) = self.at(client) {
            client.writable(core, node);
        }
    }
}
