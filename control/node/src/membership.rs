//! The membership machine as a client of the transport, and what it decides.

use control_proto::ccd::Change;
use control_proto::membership::{Input, LogState, Membership, Message, Output};
use std::collections::VecDeque;
use transport_endpoint::{Core, Data, Delivery, PeerEvent, Tag};
use transport_proto::identity::{ClientId, Incarnation, NodeId};
use transport_proto::time::Time;

/// What the membership wants of the node, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Propose this to the log.
    Propose(Change),
    /// Ask a majority whether this node leads the log.
    Confirm(Time),
    /// This node, in its present life, is out.
    Removed,
    /// This node left in good order.
    Left,
    /// No lease: serve nothing.
    QuorumLost,
    /// A lease again.
    QuorumRegained,
}

/// Membership as a client of the transport.
pub(crate) struct MembershipClient {
    machine: Membership,
    outputs: Vec<Output>,
    decisions: VecDeque<Decision>,
}

impl MembershipClient {
    pub(crate) fn new(node: NodeId, incarnation: Incarnation, log: LogState) -> MembershipClient {
        MembershipClient {
            machine: Membership::new(node, incarnation, log, Time(1)),
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
        for output in outputs.drain(..) {
            match output {
                Output::Send { to, message } => {
                    let encoded = message.encode();
                    // Lost for want of a rail or credit, it is said again.
                    let data = Data::Copy(&encoded.data);
                    let _ = core.send(to, ClientId::MEMBERSHIP, &encoded.control, data, Tag::SILENT);
                }
                Output::Propose(change) => self.decisions.push_back(Decision::Propose(change)),
                Output::Confirm { at } => self.decisions.push_back(Decision::Confirm(at)),
                Output::Removed => self.decisions.push_back(Decision::Removed),
                Output::Left => self.decisions.push_back(Decision::Left),
                Output::QuorumLost => self.decisions.push_back(Decision::QuorumLost),
                Output::QuorumRegained => self.decisions.push_back(Decision::QuorumRegained),
            }
        }
        outputs.append(&mut self.outputs);
        self.outputs = outputs;
    }

    /// The log has gone on. Nodes that it names only now may have been met before: the rails of one that
    /// joins are up before its log has come to the others' rows.
    pub(crate) fn applied(&mut self, core: &mut Core, log: LogState) {
        let configured = log.configured.clone();
        self.tell(core, Input::Applied(log));
        for node in configured {
            if self.machine.hears(node) == Some(false)
                && core.is_reachable(node)
                && let Some(incarnation) = core.peer_incarnation(node)
            {
                self.tell(core, Input::PeerUp { node, incarnation });
            }
        }
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
