//! Distress (SPEC D): a node that fails says so, and the others need not wait until its silence is long
//! enough.
//!
//! *The signal* ([`Signal`]) is one datagram, the same for all nodes, authenticated by the cluster's key. For
//! each [`Reason`] and [`Level`] there is one, formed when the node learns a new configuration number; a node
//! that dies picks one and sends it, and computes nothing. So there is no byte on which the hash would have
//! to wait, and none outside of it: a receiver believes all of a signal or nothing.
//!
//! *Reason and level* are two things. The level says what must still be fenced: [`Level::Dying`] may have I/O
//! under way, [`Level::Fenced`] has closed its gates and drained its disks. The reason says which way the
//! signal goes out (D3), what the receivers do, and whether the node may come back by itself (D5).
//!
//! *The receiver* ([`DistressWatch`]) tells a life that has *failed* from one that is only *silent*: silence
//! may be a partition, and takes the suspect time; a verified signal is the node's own word, and takes none.
//! Neither fences anything: what re-issues requests obeys SPEC B5 as ever.
//!
//! *Replays.* A life fails once. A signal names its life, so a recording can only say again what that very
//! life has said; of a life that is over it has no effect, and a later life is another one (D6).

mod reason;
mod signal;
mod watch;

pub use reason::{Level, REASONS, Reason, Way};
pub use signal::{SIGNAL_BYTES, SIGNAL_VERSION, Signal, SignalFault, Speaker, TEXT_BYTES};
pub use watch::{DistressFault, DistressWatch, Ending, Standing};
