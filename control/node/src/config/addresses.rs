//! Who uses which address, so that no two rails, monitors or servers claim one.

use super::{AddressMistake, Place};
use control_proto::rows::RailAddress;
use std::net::SocketAddr;
use transport_proto::identity::NodeId;

/// Port spaces that do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

struct Use<A> {
    address: A,
    by: String,
    place: Place,
}

/// All addresses claimed so far.
#[derive(Default)]
pub(super) struct AddressUses {
    sockets: Vec<Use<(Transport, SocketAddr)>>,
    paths: Vec<Use<(NodeId, String)>>,
}

impl AddressUses {
    /// Claims an address for `by`. The mistake names who has it already. Port 0 (any free one) is never
    /// taken.
    pub(super) fn claim(
        &mut self,
        transport: Transport,
        address: SocketAddr,
        by: String,
        place: Place,
    ) -> Result<(), AddressMistake> {
        let clash = self.sockets.iter().find(|taken| {
            let (other, theirs) = taken.address;
            let hosts_meet =
                theirs.ip() == address.ip() || theirs.ip().is_unspecified() || address.ip().is_unspecified();
            other == transport && theirs.port() == address.port() && address.port() != 0 && hosts_meet
        });
        let result = match clash {
            Some(taken) => Err(AddressMistake::AddressTaken {
                address: format!("{} {address}", if transport == Transport::Tcp { "TCP" } else { "UDP" }),
                by: taken.by.clone(),
                first: taken.place,
            }),
            None => Ok(()),
        };
        self.sockets.push(Use { address: (transport, address), by, place });
        result
    }

    /// Claims a socket path on a node.
    pub(super) fn claim_path(
        &mut self,
        node: NodeId,
        path: &str,
        by: String,
        place: Place,
    ) -> Result<(), AddressMistake> {
        let clash = self.paths.iter().find(|taken| taken.address.0 == node && taken.address.1 == path);
        let result = match clash {
            Some(taken) => Err(AddressMistake::AddressTaken {
                address: path.to_owned(),
                by: taken.by.clone(),
                first: taken.place,
            }),
            None => Ok(()),
        };
        self.paths.push(Use { address: (node, path.to_owned()), by, place });
        result
    }

    /// Claims a rail's own address and that of its monitor.
    pub(super) fn claim_rail(
        &mut self,
        address: &RailAddress,
        heartbeat: SocketAddr,
        by: &str,
        place: Place,
    ) -> Result<(), AddressMistake> {
        if let RailAddress::Tcp(address) | RailAddress::Verbs(address) = address {
            self.claim(Transport::Tcp, *address, by.to_owned(), place)?;
        }
        self.claim(Transport::Udp, heartbeat, format!("the heartbeats of {by}"), place)
    }
}
