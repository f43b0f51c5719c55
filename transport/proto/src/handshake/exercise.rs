//! A handshake against arbitrary bytes, for the fuzz target `hello` and the tests that replay its corpus.

use super::*;
use crate::identity::{LinkId, RailId};

const FRAME_BYTES: usize = HEADER_BYTES + HELLO_BYTES;
/// First byte: this side is the one that dials.
const DIAL: u8 = 1;
/// First byte: addresses, order and echo are put right, so that the bytes reach the later checks.
const ADDRESS: u8 = 2;
/// First byte: the frame is signed as a faulty node with the right key would.
const SIGN: u8 = 4;

/// Lets `bytes` speak as the peer: the first byte says how much of each frame is put right, the rest is
/// frames. Must not panic, whatever the bytes.
pub fn exercise(bytes: &[u8]) {
    let Some((&mode, frames)) = bytes.split_first() else { return };
    let key = ClusterKey::derive("fuzz", b"a secret for the fuzzer");
    let path = Path { link: LinkId(0), rail: RailId(1) };
    let ours = Introduction {
        node: NodeId(2),
        incarnation: Incarnation(50),
        epoch: Epoch(3),
        highest_epoch: Epoch(4),
        features: FEATURE_DATA_CRC,
        data_bytes_max: 1 << 20,
        window: 64,
    };
    let peer = Acquaintance {
        node: NodeId(1),
        incarnation: Incarnation(9),
        last_generation: RailGeneration(65_535),
    };
    let mut machine = if mode & DIAL != 0 {
        Handshake::dial(&key, ours, path, peer, Nonce([7; 16])).0
    } else {
        Handshake::accept(&key, ours, path, &[peer], Nonce([7; 16]))
    };
    for bytes in frames.chunks(FRAME_BYTES) {
        let Ok((mut header, control)) = FrameHeader::read_from_prefix(bytes) else { return };
        let mut part = HelloPart::read_from_bytes(control);
        if let Ok(part) = &mut part {
            let (due, purpose) = machine.due();
            if mode & ADDRESS != 0 {
                address(&machine, due, &mut header, part);
            }
            if mode & SIGN != 0 {
                let mut transcript = machine.transcript.clone();
                if transcript.length + FRAME_BYTES <= transcript.bytes.len() {
                    transcript.add(&HelloFrame { header, part: *part });
                    part.mac = key.sign(purpose, &[transcript.signed_bytes()]);
                }
            }
        }
        let control = part.as_ref().map_or(control, |part| part.as_bytes());
        if machine.handle(&header, control).is_err() {
            return;
        }
    }
}

fn address(machine: &Handshake, due: FrameType, header: &mut FrameHeader, part: &mut HelloPart) {
    header.version = VERSION;
    header.frame_type = due as u8;
    header.source = U16::new(1);
    header.destination = U16::new(2);
    (header.link, header.rail) = (machine.path.link.0, machine.path.rail.0);
    header.control_length = U16::new(HELLO_BYTES as u16);
    header.data_length = U32::ZERO;
    part.cluster = machine.key.tag().0;
    part.echo = if due == FrameType::Hello { [0; 16] } else { machine.nonce.0 };
}
