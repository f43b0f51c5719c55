//! The seat of the verbs provider: taken when the first verbs rail comes, so a node without such rails
//! touches no device. Simulated devices can sit there too, and a build without the feature refuses such
//! rails.

use crate::inbox::Inbox;
use core::ops::Range;
use mio::{Registry, Token};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use transport_buf::{Chunk, Region};
use transport_proto::time::Time;
use transport_proto::wire::FrameHeader;
use transport_provider::{
    ConnectionId, DialRefusal, ListenRefusal, PayloadSlice, PostRefusal, Provider, RailName,
};
use transport_verbs::fabric::Fabric;
use transport_verbs::fabric::double::{DoubleFabric, DoubleNetwork};
use transport_verbs::{Statistics, VerbsOptions, VerbsProvider};

/// Whether this build can have verbs rails.
pub const HAS_VERBS: bool = cfg!(feature = "verbs");

/// Who sits there.
enum Seated {
    Nobody,
    Simulated(Box<VerbsProvider<DoubleFabric>>),
    #[cfg(feature = "verbs")]
    Real(Box<VerbsProvider<transport_verbs::fabric::rdma::RdmaFabric>>),
}

/// The place of a verbs provider.
pub(crate) struct VerbsSeat {
    seated: Seated,
    options: VerbsOptions,
    network: Option<DoubleNetwork>,
    /// Memory of the endpoint that goes out without a copy.
    local: Arc<Region>,
    poll: Option<(Registry, Range<usize>)>,
    clients: u32,
}

/// Calls whoever is seated; `else` if nobody is.
macro_rules! seated {
    ($self:ident, $provider:ident => $body:expr, else $none:expr) => {
        match &mut $self.seated {
            Seated::Nobody => $none,
            Seated::Simulated($provider) => $body,
            #[cfg(feature = "verbs")]
            Seated::Real($provider) => $body,
        }
    };
}

impl VerbsSeat {
    pub(crate) fn new(
        options: VerbsOptions,
        network: Option<DoubleNetwork>,
        local: Arc<Region>,
    ) -> VerbsSeat {
        VerbsSeat { seated: Seated::Nobody, options, network, local, poll: None, clients: 0 }
    }

    pub(crate) fn attach(&mut self, registry: Registry, tokens: Range<usize>) {
        self.poll = Some((registry, tokens));
    }

    /// Whether there is a provider.
    #[inline]
    pub(crate) fn is_taken(&self) -> bool {
        !matches!(self.seated, Seated::Nobody)
    }

    /// Makes the provider, if there is none.
    fn take(&mut self) -> io::Result<()> {
        if self.is_taken() {
            return Ok(());
        }
        self.seated = match &self.network {
            Some(network) => Seated::Simulated(Box::new(self.provider(network.fabric())?)),
            #[cfg(feature = "verbs")]
            None => {
                let fabric = transport_verbs::fabric::rdma::RdmaFabric::new()?;
                Seated::Real(Box::new(self.provider(fabric)?))
            }
            #[cfg(not(feature = "verbs"))]
            None => {
                return Err(io::Error::other(
                    "this netdisk was built without verbs: build it with `--features verbs`, or make the \
                     rail tcp",
                ));
            }
        };
        Ok(())
    }

    fn provider<F: Fabric>(&self, fabric: F) -> io::Result<VerbsProvider<F>> {
        let mut provider = VerbsProvider::new(fabric, self.options).map_err(io::Error::other)?;
        let (registry, tokens) = self.poll.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        provider.attach(registry.try_clone()?, tokens.clone());
        provider.register(&self.local);
        provider.share_among(self.clients);
        Ok(provider)
    }

    pub(crate) fn share_among(&mut self, clients: u32) {
        self.clients = clients;
        seated!(self, provider => provider.share_among(clients), else ());
    }

    pub(crate) fn listen(&mut self, rail: RailName, address: &SocketAddr) -> Result<(), ListenRefusal> {
        let refused = |source| ListenRefusal::Os { address: address.to_string(), source };
        self.take().map_err(refused)?;
        seated!(self, provider => provider.listen(rail, address), else Ok(()))
    }

    pub(crate) fn dial(
        &mut self,
        now: Time,
        rail: RailName,
        local: &SocketAddr,
        remote: &SocketAddr,
    ) -> Result<ConnectionId, DialRefusal> {
        self.take().map_err(DialRefusal::Os)?;
        seated!(self, provider => provider.dial(now, rail, local, remote), else Err(DialRefusal::TooMany))
    }

    pub(crate) fn unlisten(&mut self, rail: RailName) {
        seated!(self, provider => provider.unlisten(rail), else ());
    }

    pub(crate) fn establish(&mut self, connection: ConnectionId) {
        seated!(self, provider => provider.establish(connection), else ());
    }

    pub(crate) fn close(&mut self, connection: ConnectionId) {
        seated!(self, provider => provider.close(connection), else ());
    }

    pub(crate) fn reserve(&mut self, connection: ConnectionId, length: usize) -> Result<Chunk, PostRefusal> {
        let none = Err(PostRefusal::NotConnected);
        seated!(self, provider => provider.reserve(connection, length), else none)
    }

    #[inline]
    pub(crate) fn post(
        &mut self,
        connection: ConnectionId,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: PayloadSlice<'_>,
    ) -> Result<(), PostRefusal> {
        let none = Err(PostRefusal::NotConnected);
        seated!(self, provider => provider.post(connection, header, control, inline, data), else none)
    }

    #[inline]
    pub(crate) fn flush(&mut self) {
        seated!(self, provider => provider.flush(), else ());
    }

    #[inline]
    pub(crate) fn poll(&mut self, now: Time, inbox: &mut Inbox) -> usize {
        seated!(self, provider => provider.poll(now, inbox), else 0)
    }

    pub(crate) fn arm(&mut self) -> bool {
        seated!(self, provider => provider.arm(), else true)
    }

    pub(crate) fn disarm(&mut self) {
        seated!(self, provider => provider.disarm(), else ());
    }

    pub(crate) fn event(&mut self, token: Token, readable: bool, writable: bool) {
        seated!(self, provider => provider.event(token, readable, writable), else ());
    }

    /// What the provider has counted; `None` without one.
    pub(crate) fn statistics(&self) -> Option<Statistics> {
        match &self.seated {
            Seated::Nobody => None,
            Seated::Simulated(provider) => Some(*provider.statistics()),
            #[cfg(feature = "verbs")]
            Seated::Real(provider) => Some(*provider.statistics()),
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.seated {
            Seated::Nobody => 0,
            Seated::Simulated(provider) => provider.memory_bytes(),
            #[cfg(feature = "verbs")]
            Seated::Real(provider) => provider.memory_bytes(),
        }
    }
}
