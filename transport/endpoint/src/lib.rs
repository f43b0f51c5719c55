//! The cluster transport interface: what a program uses to talk to the nodes of its cluster.
//!
//! Make an [`Endpoint`] with a node id, a cluster key and your [`Clients`]; tell it its peers, links and
//! rails with [`Core::set_peer`]; then drive it. Messages `{control, data}` go to a client on a named node by
//! [`Core::send`] and arrive by call-back, exactly once per pair of lives, in order, whatever rails die under
//! them (SPEC T1–T12).
//!
//! ```text
//! Endpoint ── Clients        call-backs: deliver, complete, peer, writable
//!    │
//!   Core ──── Peer ── Session (pure: windows, credits, acknowledgements, routes)
//!    │          └──── rails (pure machine each) ── connection of a provider
//! Providers: verbs │ shm │ tcp
//! ```

#![forbid(unsafe_code)]

mod ccm_thread;
mod client;
mod core;
mod demux;
mod dispatch;
mod endpoint;
mod inbox;
mod lease;
mod lifecycle;
mod message;
mod notices;
mod peer;
mod plan;
mod providers;
mod spin;
mod status;
mod verbs;
mod verdicts;

pub use ccm_thread::{MonitorRefusal, MonitorReport, MonitorThread, WatchedRail};
pub use client::{Clients, Completion, Delivery, Outcome, PeerEvent, Tag};
pub use demux::{Client, Demux};
pub use endpoint::{Endpoint, EndpointConfig, StartError};
pub use lease::{Lease, LeaseTicket};
pub use message::{BufferHome, Data, SendBuffer};
pub use notices::NoticeCheck;
pub use plan::{PeerPlan, ProviderKind, RailAddress, RailPlan};
pub use providers::FIRST_FREE_TOKEN;
pub use spin::{Idle, Spin, SpinSettings};
pub use status::{LinkStatus, PeerStatus, RailStatus, TransportStatus};
pub use transport_proto::session::{SendRefusal, SessionCounters};
pub use transport_provider::{ListenRefusal, PostRefusal};
pub use transport_tcp::TcpOptions;
pub use transport_verbs::Statistics as VerbsStatistics;
pub use transport_verbs::VerbsOptions;
pub use transport_verbs::fabric::double as simulated_verbs;
pub use verbs::HAS_VERBS;
pub use verdicts::{Verdict, VerdictBoard};

pub use self::core::Core;
