//! From a provider's reports to the clients' call-backs.

use crate::client::{Arrived, Clients, Completion, Delivery, Outcome, Tag};
use crate::core::{Core, Notice, Owner};
use crate::inbox::{Inbox, Noted, Report};
use crate::lease::LeasedBytes;
use crate::message::{OutgoingId, Waiting};
use crate::plan::ProviderKind;
use crate::providers::Wire;
use transport_buf::SlotCopy;
use transport_proto::identity::{ClientId, Sequence};
use transport_proto::session::{FrameDrop, Receipt};
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
                let data = match data {
                    Noted::Empty => Arrived::Borrowed(&[]),
                    Noted::Inline(span) => Arrived::Borrowed(Inbox::bytes(&arena, span)),
                    Noted::Chunk(chunk) => Arrived::Chunk(chunk),
                };
                frame(core, clients, wire, &header, Inbox::bytes(&arena, control), data);
            }
            Report::Shed(header) => shed(core, wire, &header),
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

/// Acts on the frames that wait in shared memory, each where its private copy is made; so nothing is noted
/// down, and the provider is free for the call-backs to post. Returns how many.
#[inline]
pub(crate) fn frames_of_shm<C: Clients>(core: &mut Core, clients: &mut C, copy: &mut SlotCopy) -> usize {
    let mut found = 0;
    let mut connections = core.providers.shm.connections();
    while connections != 0 {
        let slot = connections.trailing_zeros() as usize;
        connections &= connections - 1;
        let mut count = 0;
        while count < transport_shm::POLL_BUDGET
            && let Some((connection, taken)) = core.providers.shm.take(slot, copy)
        {
            let (header, control, data) = taken.split(copy);
            let wire = Wire { kind: ProviderKind::Shm, connection };
            frame(core, clients, wire, header, control, data.into());
            notices(core, clients);
            count += 1;
        }
        core.providers.shm.batch_done(slot, count);
        found += count;
    }
    found
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

#[inline]
fn frame<C: Clients>(
    core: &mut Core,
    clients: &mut C,
    wire: Wire,
    header: &FrameHeader,
    control: &[u8],
    data: Arrived<'_>,
) {
    let Some(at) = core.speaker(wire) else { return greeting(core, wire, header, control) };
    let client = header.client();
    let receipt = match receive(core, at, header) {
        Ok(receipt) => receipt,
        Err(FrameDrop::Overrun) => return fault(core, wire),
        Err(_) => return withhold(core, wire, data),
    };
    let peer = &mut core.peers[at];
    if header.flags & FLAG_REPLAY != 0 && peer.session.replay(client) > 0 {
        core.pump(at);
    }
    if receipt.next {
        return deliver(core, clients, at, client, control, data);
    }
    match header.frame_type() {
        Some(FrameType::Data) => whole(core, clients, (at, client), wire, header.sequence(), control, data),
        Some(FrameType::Fragment) => {
            if !fragment(core, (at, client), header.sequence(), control, data.as_ref()) {
                return fault(core, wire);
            }
            drop(data);
            ready(core, clients, at, client);
        }
        _ => {}
    }
}

/// Has the session take in a frame, and notes for the clients what follows from it.
#[inline]
fn receive(core: &mut Core, at: usize, header: &FrameHeader) -> Result<Receipt, FrameDrop> {
    let Core { peers, outgoing, notices, .. } = core;
    let peer = &mut peers[at];
    let (client, to) = (header.client(), peer.node);
    let complete = |kept: Retained<OutgoingId>| {
        let tag = outgoing.release(kept.message);
        if tag != Tag::SILENT {
            notices.push(Notice::Complete(Completion { client, to, tag, outcome: Outcome::Delivered }));
        }
    };
    let receipt = peer.session.receive(core.now, header, complete)?;
    if receipt.writable {
        notices.push(Notice::Writable(to, client));
    }
    Ok(receipt)
}

/// A frame whose data found no memory: what it says besides counts, its message is asked for again. What
/// waits behind it gives its memory up.
#[cold]
fn shed(core: &mut Core, wire: Wire, header: &FrameHeader) {
    let Some(at) = core.speaker(wire) else { return };
    let (client, sequence) = (header.client(), header.sequence());
    // It bears no message that could be next in order.
    let bare = FrameHeader { frame_type: FrameType::Ack as u8, ..*header };
    match receive(core, at, &bare) {
        Ok(_) => {}
        Err(FrameDrop::Overrun) => return fault(core, wire),
        Err(_) => return,
    }
    let Core { peers, providers, now, .. } = core;
    let session = &mut peers[at].session;
    let replays = header.flags & FLAG_REPLAY != 0 && session.replay(client) > 0;
    session.shed(*now, client, sequence);
    let pool = providers.tcp.receive_region();
    session.shed_held(client, |waiting| waiting.holds_chunk_of(pool));
    if replays {
        core.pump(at);
    }
}

/// A frame of a connection whose other end has not proved to be a peer yet.
#[cold]
fn greeting(core: &mut Core, wire: Wire, header: &FrameHeader, control: &[u8]) {
    match core.owner(wire) {
        Owner::Stranger => core.on_greeting(wire, header, control),
        Owner::Rail { .. } if matches!(header.frame_type(), Some(FrameType::HelloAck)) => {
            core.on_greeting(wire, header, control);
        }
        _ => {}
    }
}

/// A message is dropped that its sender will send again, over shared memory from this very chunk. Returned,
/// it would be filled anew before that; so it is withheld, and the rail connects anew, with new memory,
/// before it is sent again.
#[cold]
fn withhold(core: &mut Core, wire: Wire, data: Arrived<'_>) {
    if let (ProviderKind::Shm, Arrived::Chunk(chunk), Owner::Rail { peer, rail }) =
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

/// Takes a whole message that is not simply the next.
#[cold]
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
    let session = &mut core.peers[at].session;
    if wire.kind == ProviderKind::Tcp
        && matches!(data, Arrived::Chunk(_))
        && session.waits_behind_gap(client, sequence)
    {
        // It would hold memory that those before it need.
        return session.shed(now, client, sequence);
    }
    let Some(stream) = session.stream(client) else { return };
    match stream.receive.offer(sequence, Waiting::new(control, data.keep())) {
        Offer::Deliver(message) => {
            session.owe(now, client, 1);
            deliver_waiting(core, clients, (at, client), message);
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
        deliver_waiting(core, clients, (at, client), message);
    }
}

fn deliver_waiting<C: Clients>(
    core: &mut Core,
    clients: &mut C,
    (at, client): (usize, ClientId),
    message: Waiting,
) {
    let (control, data) = message.split();
    let inline;
    let data = match data {
        LeasedBytes::Empty => Arrived::Borrowed(&[]),
        LeasedBytes::Inline(bytes) => {
            inline = bytes;
            Arrived::Borrowed(inline.as_ref())
        }
        LeasedBytes::Chunk(chunk) => Arrived::Chunk(chunk),
        LeasedBytes::Assembled(bytes) => Arrived::Assembled(bytes),
    };
    deliver(core, clients, at, client, control.as_ref(), data);
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
    peer.session.count_delivery(data.as_ref().len());
    let life = peer.session.peer_incarnation();
    let delivery = Delivery::new((at, life), (peer.node, client), control, data);
    core.leased = false;
    clients.deliver(core, delivery);
    if core.leased {
        return;
    }
    let session = &mut core.peers[at].session;
    if session.peer_incarnation() == life {
        session.release(now, client, 1);
    }
}
