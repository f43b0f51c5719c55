//! The providers of one endpoint behind one face: dispatch by a match, not by a table of pointers.

use crate::inbox::Inbox;
use crate::plan::{ProviderKind, RailAddress};
use crate::verbs::VerbsSeat;
use mio::{Registry, Token};
use std::io;
use transport_buf::Chunk;
use transport_proto::identity::ClientId;
use transport_proto::time::Time;
use transport_proto::wire::FrameHeader;
use transport_provider::{
    ConnectionId, DialRefusal, ListenRefusal, PayloadSlice, PostRefusal, Provider, RailName,
};
use transport_shm::ShmProvider;
use transport_tcp::TcpProvider;

/// A connection of any provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wire {
    pub(crate) kind: ProviderKind,
    pub(crate) connection: ConnectionId,
}

/// `mio` tokens of each provider.
const TOKENS_EACH: usize = 1 << 16;
/// First token that belongs to nobody in the transport; the program's own begin here.
pub const FIRST_FREE_TOKEN: usize = 4 * TOKENS_EACH;
/// Token of the endpoint's waker.
pub(crate) const WAKER_TOKEN: Token = Token(2 * TOKENS_EACH);

pub(crate) struct Providers {
    pub(crate) shm: ShmProvider,
    pub(crate) tcp: TcpProvider,
    /// Something was posted to tcp since its last flush.
    pub(crate) tcp_posted: bool,
    pub(crate) verbs: VerbsSeat,
}

macro_rules! each {
    ($self:ident, $kind:expr, $provider:ident => $body:expr) => {
        match $kind {
            ProviderKind::Shm => {
                let $provider = &mut $self.shm;
                $body
            }
            ProviderKind::Tcp => {
                let $provider = &mut $self.tcp;
                $body
            }
            ProviderKind::Verbs => {
                let $provider = &mut $self.verbs;
                $body
            }
        }
    };
}

impl Providers {
    pub(crate) fn attach(&mut self, registry: &Registry) -> io::Result<()> {
        self.shm.attach(registry.try_clone()?, 0..TOKENS_EACH);
        self.tcp.attach(registry.try_clone()?, TOKENS_EACH..2 * TOKENS_EACH);
        self.verbs.attach(registry.try_clone()?, 3 * TOKENS_EACH..4 * TOKENS_EACH);
        Ok(())
    }

    pub(crate) fn listen(&mut self, rail: RailName, address: &RailAddress) -> Result<(), ListenRefusal> {
        match address {
            RailAddress::Shm(name) => self.shm.listen(rail, name),
            RailAddress::Tcp(address) => self.tcp.listen(rail, address),
            RailAddress::Verbs(address) => self.verbs.listen(rail, address),
        }
    }

    pub(crate) fn unlisten(&mut self, rail: RailName, kind: ProviderKind) {
        each!(self, kind, provider => provider.unlisten(rail));
    }

    /// `None`: the two ends of the rail are of different kinds, which the configuration reader refuses.
    pub(crate) fn dial(
        &mut self,
        now: Time,
        rail: RailName,
        local: &RailAddress,
        remote: &RailAddress,
    ) -> Option<Result<Wire, DialRefusal>> {
        let (kind, dialed) = match (local, remote) {
            (RailAddress::Shm(local), RailAddress::Shm(remote)) => {
                (ProviderKind::Shm, self.shm.dial(now, rail, local, remote))
            }
            (RailAddress::Tcp(local), RailAddress::Tcp(remote)) => {
                (ProviderKind::Tcp, self.tcp.dial(now, rail, local, remote))
            }
            (RailAddress::Verbs(local), RailAddress::Verbs(remote)) => {
                (ProviderKind::Verbs, self.verbs.dial(now, rail, local, remote))
            }
            _ => return None,
        };
        Some(dialed.map(|connection| Wire { kind, connection }))
    }

    pub(crate) fn establish(&mut self, wire: Wire) {
        each!(self, wire.kind, provider => provider.establish(wire.connection));
    }

    pub(crate) fn close(&mut self, wire: Wire) {
        each!(self, wire.kind, provider => provider.close(wire.connection));
    }

    pub(crate) fn reserve(
        &mut self,
        wire: Wire,
        client: ClientId,
        length: usize,
    ) -> Result<Chunk, PostRefusal> {
        match wire.kind {
            ProviderKind::Shm => self.shm.reserve_for(wire.connection, client.0, length),
            ProviderKind::Tcp => self.tcp.reserve(wire.connection, length),
            ProviderKind::Verbs => self.verbs.reserve(wire.connection, length),
        }
    }

    /// Memory for what comes in is shared among these clients, one bit each.
    pub(crate) fn share_among(&mut self, clients: u32) {
        self.shm.share_among(clients);
        self.tcp.share_among(clients);
        self.verbs.share_among(clients);
    }

    #[inline]
    pub(crate) fn post(
        &mut self,
        wire: Wire,
        header: &FrameHeader,
        control: &[u8],
        inline: &[u8],
        data: PayloadSlice<'_>,
    ) -> Result<(), PostRefusal> {
        self.tcp_posted |= wire.kind == ProviderKind::Tcp;
        each!(self, wire.kind, provider => provider.post(wire.connection, header, control, inline, data))
    }

    /// Sends what was posted; `thorough`: also looks after queues that were blocked.
    #[inline]
    pub(crate) fn flush(&mut self, thorough: bool) {
        self.shm.flush();
        if core::mem::take(&mut self.tcp_posted) | thorough {
            self.tcp.flush();
        }
        self.verbs.flush();
    }

    #[inline]
    pub(crate) fn poll(&mut self, kind: ProviderKind, now: Time, inbox: &mut Inbox) -> usize {
        match kind {
            // Its frames are taken one by one (`dispatch::frames_of_shm`).
            ProviderKind::Shm => self.shm.poll_beside(inbox),
            ProviderKind::Tcp => self.tcp.poll(now, inbox),
            ProviderKind::Verbs => self.verbs.poll(now, inbox),
        }
    }

    /// Arms all; `false` if one has something already (and then none stays armed).
    pub(crate) fn arm(&mut self) -> bool {
        // What was posted since the last round must not wait, with a sleeping peer, until this side wakes.
        self.flush(true);
        let quiet = self.shm.arm() && self.tcp.arm() && self.verbs.arm();
        if !quiet {
            self.disarm();
        }
        quiet
    }

    pub(crate) fn disarm(&mut self) {
        self.shm.disarm();
        self.tcp.disarm();
        self.verbs.disarm();
    }

    /// Forwards a readiness event; `false` if it is no provider's token.
    pub(crate) fn event(&mut self, token: Token, readable: bool, writable: bool) -> bool {
        match token.0 / TOKENS_EACH {
            0 => self.shm.event(token, readable, writable),
            1 => self.tcp.event(token, readable, writable),
            3 => self.verbs.event(token, readable, writable),
            _ => return false,
        }
        true
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.shm.memory_bytes() + self.tcp.memory_bytes() + self.verbs.memory_bytes()
    }
}
