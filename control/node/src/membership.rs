//! The membership machine as a client of the transport: its messages, its votes on disk, and what it decides.

use control_proto::ballot_membership::{Durable, Input, Membership, Message, Output, View};
use control_proto::rows::MembershipTimes;
use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use transport_endpoint::{Core, Data, Delivery, PeerEvent, Tag};
use transport_proto::identity::{ClientId, Incarnation, NodeId};
use transport_proto::time::Time;

/// First bytes of the file of votes; the last digit is the layout's version.
const MAGIC: &[u8; 8] = b"ndvotes1";

/// Why the file of votes could not be used. It is never overwritten in that case.
#[derive(Debug)]
pub enum VotesRefusal {
    /// The system refused.
    System(PathBuf, io::Error),
    /// Not a file of ours, of another version, or damaged.
    Damaged(PathBuf),
}

impl fmt::Display for VotesRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VotesRefusal::System(path, _) => {
                write!(
                    f,
                    "cannot use {}: give the node a folder that it may write with --state",
                    path.display()
                )
            }
            VotesRefusal::Damaged(path) => write!(
                f,
                "{} is damaged or not netdisk's: if this node has no other copy of it, move it away and \
                 start the \
                 node only while a majority of the others is running",
                path.display()
            ),
        }
    }
}

impl std::error::Error for VotesRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            VotesRefusal::System(_, source) => Some(source),
            VotesRefusal::Damaged(_) => None,
        }
    }
}

/// The votes of this node, on disk.
#[derive(Debug)]
pub(crate) struct Votes {
    path: PathBuf,
}

impl Votes {
    /// Reads what was persisted last; a missing file is a node that never voted.
    pub(crate) fn load(folder: &Path) -> Result<(Votes, Durable), VotesRefusal> {
        let path = folder.join("votes");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Votes { path }, Durable::default()));
            }
            Err(error) => return Err(VotesRefusal::System(path, error)),
        };
        let body = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<4>());
        match body {
            Some((sum, body)) if u32::from_le_bytes(*sum) == crc32c::crc32c(body) => {
                match Durable::decode(body) {
                    Ok(durable) => Ok((Votes { path }, durable)),
                    Err(_) => Err(VotesRefusal::Damaged(path)),
                }
            }
            _ => Err(VotesRefusal::Damaged(path)),
        }
    }

    /// Puts votes on disk, whole or not at all, and returns when they are there.
    fn store(&self, durable: &Durable) -> io::Result<()> {
        let body = durable.encode();
        let next = self.path.with_extension("next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&next)?;
        file.write_all(MAGIC)?;
        file.write_all(&crc32c::crc32c(&body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_data()?;
        std::fs::rename(&next, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}

/// What the membership has decided, for the node to act on, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// A new view.
    View(View),
    /// This node, in its present life, is out.
    Removed,
    /// This node left in good order.
    Left,
    /// No majority: serve nothing.
    QuorumLost,
    /// A majority again.
    QuorumRegained,
    /// Votes cannot be kept any more: this node must stop.
    Failed,
}

/// Membership as a client of the transport.
pub(crate) struct MembershipClient {
    machine: Membership,
    votes: Votes,
    outputs: Vec<Output>,
    decisions: VecDeque<Decision>,
}

impl MembershipClient {
    pub(crate) fn new(
        node: NodeId,
        incarnation: Incarnation,
        configured: &[NodeId],
        times: MembershipTimes,
        (votes, durable): (Votes, Durable),
    ) -> MembershipClient {
        MembershipClient {
            machine: Membership::new(node, incarnation, configured, times, durable, Time(1)),
            votes,
            outputs: Vec::new(),
            decisions: VecDeque::new(),
        }
    }

    /// The machine, to look at.
    pub(crate) fn machine(&self) -> &Membership {
        &self.machine
    }

    /// The next decision.
    pub(crate) fn next_decision(&mut self) -> Option<Decision> {
        self.decisions.pop_front()
    }

    /// Tells the machine something and carries out what it wants.
    pub(crate) fn tell(&mut self, core: &mut Core, input: Input) {
        self.machine.handle(core.now(), input, &mut self.outputs);
        let mut outputs = core::mem::take(&mut self.outputs);
        let mut may_send = true;
        for output in outputs.drain(..) {
            match output {
                Output::Persist(durable) => {
                    if let Err(error) = self.votes.store(&durable) {
                        tracing::error!("cannot keep votes in {}: {error}", self.votes.path.display());
                        // What was not persisted must not be told.
                        may_send = false;
                        self.decisions.push_back(Decision::Failed);
                    }
                }
                Output::Send { to, message } if may_send => {
                    let encoded = message.encode();
                    // Lost for want of a rail or credit, it is said again.
                    let data = Data::Copy(&encoded.data);
                    let _ = core.send(to, ClientId::MEMBERSHIP, &encoded.control, data, Tag::SILENT);
                }
                Output::Send { .. } => {}
                Output::NewView(view) => self.decisions.push_back(Decision::View(view)),
                Output::Removed => self.decisions.push_back(Decision::Removed),
                Output::Left => self.decisions.push_back(Decision::Left),
                Output::QuorumLost => self.decisions.push_back(Decision::QuorumLost),
                Output::QuorumRegained => self.decisions.push_back(Decision::QuorumRegained),
            }
        }
        outputs.append(&mut self.outputs);
        self.outputs = outputs;
    }

    pub(crate) fn tick(&mut self, core: &mut Core) {
        if core.now() >= self.machine.next_deadline() {
            self.tell(core, Input::Tick);
        }
    }

    pub(crate) fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        let from = delivery.from;
        let Some(incarnation) = core.peer_incarnation(from) else { return };
        match Message::decode(delivery.control, delivery.data()) {
            Ok(message) => self.tell(core, Input::Message { from, incarnation, message }),
            Err(fault) => tracing::warn!(from = from.0, ?fault, "not a membership message"),
        }
    }

    pub(crate) fn peer(&mut self, core: &mut Core, event: PeerEvent) {
        let input = match event {
            PeerEvent::Up { node, .. }
            | PeerEvent::Restarted { node, .. }
            | PeerEvent::Reachable { node } => match core.peer_incarnation(node) {
                Some(incarnation) if core.is_reachable(node) => Input::PeerUp { node, incarnation },
                _ => return,
            },
            PeerEvent::Unreachable { node } | PeerEvent::Gone { node } => Input::PeerDown { node },
        };
        self.tell(core, input);
    }
}
