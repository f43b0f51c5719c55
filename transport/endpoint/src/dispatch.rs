//! From a provider's reports to the clients' call-backs.

use crate::client::{Arrived, Clients, Completion, Delivery, Outcome, Tag};
use crate::core::{Core, Notice, Owner};
use crate::inbox::{Inbox, Noted, Report};
use crate::lease::LeasedBytes;
use crate::message::{OutgoingId, Waiting};
use crate::plan::ProviderKind;
use crate::providers::Wire;
use transport_proto::identity::{ClientId, Sequence};
use transport_proto::window::{FragmentPlace, Offer, Retained};
use transport_proto::wire::{DATA_BYTES_MAX, FLAG_REPLAY, FragmentExtension, FrameHeader, FrameType};
use zerocopy::FromBytes;

/// Acts on everything that a provider reported in one round.
pub(crate) fn reports<C: Clients>(core: &mut Core, clients: &mut C, kind: ProviderKind, inbox: &mut Inbox) {
    let (mut reports, arena) = inbox.take();
    for (connection, report) in reports.drain(..) {
        let wire = Wire { kind, connection };
        match report {
            Report::Frame { header, control, data } => {
                frame(core, clients, wire, &header, Inbox::bytes(&arena, control), data, &arena);
            }
            Report::Accepted(name) => core.on_accepted(wire, name),
            Report::Connected => core.on_connected(wire),
            Report::Established => core.on_established(wire),
            Report::Writable => {
                if let Owner::Rail { peer, .. } = core.owner(wire) {
                    core.pump(peer);
                }
            }
            Report::Lost(fault) => core.on_lost(wire, fault),
        }
        notices(core, clients);
    }
    inbox.restore(reports, arena);
}

/// Tells the clients what has piled up.
#[inline]
pub(crate) fn notices<C: Clients>(core: &mut Core, clients: &mut C) {
    if core.notices.is_empty() {
        return;
    }
    let mut notices = core::mem::take(&mut core.notices);
    for notice in notices.drain(..) {
        match notice {
            Notice::Complete(completion) => clients.complete(core, completion),
            Notice::Peer(event) => clients.peer(core, event),
            Notice::Writable(node, client) => clients.writable(core, node, client),
        }
    }
    // Call-backs may have led to more; those come after, and the larger buffer stays.
    notices.append(&mut core.notices);
    core.notices = notices;
    if !core.notices.is_empty() {
        self::notices(core, clients);
    }
}

fn frame<C: Clients>(
    core: &mut Core,
    clients: &mut C,
    wire: Wire,
    header: &FrameHeader,
    control: &[u8],
    data: Noted,
    arena: &[u8],
) {
    let at = match core.owner(wire) {
        Owner::Rail { peer, rail } => {
            if matches!(header.frame_type(), Some(FrameType::HelloAck)) {
                return core.on_greeting(wire, header, control);
            }
            if core.peers[peer].rails[rail].proven != Some(wire) {
                return;
            }
            peer
        }
        Owner::Stranger => return core.on_greeting(wire, header, control),
        Owner::Nobody => return,
    };
    let client = header.client();
    let (to, notices) = (core.peers[at].node, &mut core.notices);
    let session = &mut core.peers[at].session;
    if session.admit(header).is_err() {
        return withhold(core, wire, data);
    }
    let pool = &mut core.outgoing;
    let complete = |kept: Retained<OutgoingId>| {
        let tag = pool.release(kept.message);
        if tag != Tag::SILENT {
            notices.push(Notice::Complete(Completion { client, to, tag, outcome: Outcome::Delivered }));
        }
    };
    match session.acknowledge(header, complete) {
        Ok(true) => core.notices.push(Notice::Writable(to, client)),
        Ok(false) => {}
        Err(_) => return fault(core, wire),
    }
    if header.flags & FLAG_REPLAY != 0 && core.peers[at].session.replay(client) > 0 {
        core.pump(at);
    }
    match header.frame_type() {
        Some(FrameType::Data) => {
            let data = match data {
                Noted::Empty => Arrived::Owned(LeasedBytes::Empty),
                Noted::Inline(span) => Arrived::Borrowed(Inbox::bytes(arena, span)),
                Noted::Chunk(chunk) => Arrived::Owned(LeasedBytes::Chunk(chunk)),
            };
            whole(core, clients, (at, client), wire, header.sequence(), control, data);
        }
        Some(FrameType::Fragment) => {
            let bytes = match &data {
                Noted::Empty => &[][..],
                Noted::Inline(span) => Inbox::bytes(arena, *span),
                Noted::Chunk(chunk) => chunk.as_ref(),
            };
            if !fragment(core, (at, client), header.sequence(), control, bytes) {
                return fault(core, wire);
            }
            drop(data);
            ready(core, clients, at, client);
        }
        _ => {}
    }
}

/// A message is dropped that its sender will send again, over shared memory from this very chunk. Returned,
/// it would be filled anew before that; so it is withheld, and the rail connects anew, with new memory,
/// before it is sent again.
#[cold]
fn withhold(core: &mut Core, wire: Wire, data: Noted) {
    if let (ProviderKind::Shm, Noted::Chunk(chunk), Owner::Rail { peer, rail }) =
        (wire.kind, data, core.owner(wire))
    {
        chunk.give_away();
        core.peers[peer].rails[rail].withheld = true;
    }
}

/// The peer broke the rules of the session: its rail starts over.
fn fault(core: &mut Core, wire: Wire) {
    if let Owner::Rail { peer, rail } = core.owner(wire) {
        tracing::warn!(
            peer = core.peers[peer].node.0,
            "peer overran its credit or acknowledged what was never sent"
        );
        core.protocol_fault(peer, rail);
    }
}

#[inline]
fn whole<C: Clients>(
    core: &mut Core,
    clients: &mut C,
    (at, client): (usize, ClientId),
    wire: Wire,
    sequence: Sequence,
    control: &[u8],
    data: Arrived<'_>,
) {
    let now = core.now;
    if core.peers[at].session.accept_next(now, client, sequence) {
        return deliver(core, clients, at, client, control, data);
    }
    let data = match data {
        Arrived::Borrowed(bytes) => LeasedBytes::Inline(transport_provider::InlineBytes::new(bytes)),
        Arrived::Owned(bytes) => bytes,
    };
    let session = &mut core.peers[at].session;
    let Some(stream) = session.stream(client) else { return };
    match stream.receive.offer(sequence, Waiting::new(control, data)) {
        Offer::Deliver(message) => {
            session.owe(now, client, 1);
            let (control, data) = message.split();
            deliver(core, clients, at, client, control.as_ref(), Arrived::Owned(data));
            ready(core, clients, at, client);
        }
        Offer::Held => {}
        Offer::Duplicate(_) => session.owe(now, client, 0),
        Offer::Overrun(_) => fault(core, wire),
    }
}

/// Delivers what has become next in order.
fn ready<C: Clients>(core: &mut Core, clients: &mut C, at: usize, client: ClientId) {
    loop {
        let now = core.now;
        let session = &mut core.peers[at].session;
        let Some(message) = session.stream(client).and_then(|stream| stream.receive.pop_ready()) else {
            return;
        };
        session.owe(now, client, 1);
        let (control, data) = message.split();
        deliver(core, clients, at, client, control.as_ref(), Arrived::Owned(data));
    }
}

/// Puts a fragment in its place. `false`: the peer is at fault.
fn fragment(
    core: &mut Core,
    (at, client): (usize, ClientId),
    sequence: Sequence,
    control: &[u8],
    bytes: &[u8],
) -> bool {
    let Ok((extension, control)) = FragmentExtension::read_from_prefix(control) else { return false };
    let (index, count) = (extension.index.get(), extension.count.get());
    let (offset, length) = (extension.offset.get() as usize, extension.message_length.get() as usize);
    if length > DATA_BYTES_MAX || offset.checked_add(bytes.len()).is_none_or(|end| end > length) {
        return false;
    }
    let now = core.now;
    let session = &mut core.peers[at].session;
    let Some(stream) = session.stream(client) else { return true };
    match stream.receive.place_fragment(sequence, index, count) {
        FragmentPlace::Fault => return false,
        FragmentPlace::Duplicate => {
            session.owe(now, client, 0);
            return true;
        }
        FragmentPlace::First => {
            let assembly = Waiting::new(&[], LeasedBytes::Assembled(vec![0; length]));
            stream.receive.begin_assembly(sequence, count, assembly);
        }
        FragmentPlace::Next => {}
    }
    let Some(waiting) = stream.receive.assembly(sequence) else { return true };
    let LeasedBytes::Assembled(assembled) = &mut waiting.data else { return false };
    if assembled.len() != length {
        return false;
    }
    assembled[offset..offset + bytes.len()].copy_from_slice(bytes);
    if index == 0 {
        waiting.set_control(control);
    }
    stream.receive.fragment_done(sequence, index);
    true
}

#[inline]
fn deliver<C: Clients>(
    core: &mut Core,
    clients: &mut C,
    at: usize,
    client: ClientId,
    control: &[u8],
    data: Arrived<'_>,
) {
    let now = core.now;
    let peer = &mut core.peers[at];
    let length = match &data {
        Arrived::Borrowed(bytes) => bytes.len(),
        Arrived::Owned(bytes) => bytes.as_ref().len(),
    };
    peer.session.count_delivery(length);
    let life = peer.session.peer_incarnation();
    let delivery = Delivery::new((at, life), (peer.node, client), control, data);
    core.leased = false;
    clients.deliver(core, delivery);
    let peer = &mut core.peers[at];
    if !core.leased && peer.session.peer_incarnation() == life {
        peer.session.release(now, client, 1);
    }
}
