//! The one conversation by which a machine becomes a node, over any stream of bytes.
//!
//! ```text
//! newcomer                                     a node of the cluster
//!   magic, token id, Noise 1      ──────────►    derives the token's secret from the id
//!                                 ◄──────────    Noise 2: knows the secret too
//!   what it wants to be           ──────────►    the database decides
//!                                 ◄──────────    welcome (with the cluster's key), or why not
//! ```
//! Noise_NNpsk0: the token's secret proves both ends to each other, and keys of this conversation alone hide
//! the rest, so whoever records it and finds the token later learns nothing. A stranger gets no byte back:
//! its first message is dropped after one hash and one check, before any arithmetic on curves. Every message
//! has a limit, and the stream's owner sets the time that all of it may take.

use super::request::{JoinAnswer, JoinRequest};
use super::token::{JoinToken, TokenId, TokenSecret};
use serde::Serialize;
use serde::de::DeserializeOwned;
use snow::{Builder, HandshakeState, TransportState};
use std::fmt;
use std::io::{self, Read, Write};

/// The first bytes of a conversation; the last one is its version.
const MAGIC: &[u8; 8] = b"ndjoin\0\x01";
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
/// An ephemeral key and the check of an empty text.
const HANDSHAKE_BYTES: usize = 32 + TAG_BYTES;
const TAG_BYTES: usize = 16;
/// Bytes of the first message.
const HELLO_BYTES: usize = MAGIC.len() + 16 + HANDSHAKE_BYTES;
/// Bytes of what a newcomer wants, at the most.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Bytes of the answer at the most: it tells of all nodes and links.
pub const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Text that is sealed as one piece.
const PIECE_BYTES: usize = 32 << 10;

/// Why a conversation ended early.
#[derive(Debug)]
pub enum ExchangeFault {
    /// The other end hung up, was too slow, or the network failed.
    Io(io::Error),
    /// The other end speaks something else, or another version of this.
    Foreign,
    /// The other end does not know the token's secret, or bytes were changed on the way.
    Unproven,
    /// A message is over its limit.
    TooLong,
    /// A message is authentic but not understood: the other end is of another release.
    Garbled(serde_json::Error),
    /// The system has no randomness, or the cipher refused to work.
    Cipher(snow::Error),
}

impl fmt::Display for ExchangeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExchangeFault::Io(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => {
                write!(f, "it hung up: the token is not of its cluster, or it serves too many others now")
            }
            ExchangeFault::Io(fault)
                if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                write!(f, "it did not answer in time")
            }
            ExchangeFault::Io(fault) => write!(f, "{fault}"),
            ExchangeFault::Foreign => write!(f, "it speaks something else: is this its join port?"),
            ExchangeFault::Unproven => write!(f, "it could not prove that it knows the token"),
            ExchangeFault::TooLong => write!(f, "a message was too long"),
            ExchangeFault::Garbled(fault) => write!(f, "it is of another release ({fault})"),
            ExchangeFault::Cipher(fault) => write!(f, "the cipher does not work here ({fault})"),
        }
    }
}

impl std::error::Error for ExchangeFault {}

impl From<io::Error> for ExchangeFault {
    fn from(fault: io::Error) -> ExchangeFault {
        ExchangeFault::Io(fault)
    }
}

/// A secured stream.
struct Sealed<S> {
    stream: S,
    state: TransportState,
}

fn handshake(id: TokenId, secret: &TokenSecret, initiator: bool) -> Result<HandshakeState, snow::Error> {
    let builder = Builder::new(PATTERN.parse()?).psk(0, &secret.0)?;
    let mut prologue = MAGIC.to_vec();
    prologue.extend_from_slice(&id.0);
    let builder = builder.prologue(&prologue)?;
    if initiator { builder.build_initiator() } else { builder.build_responder() }
}

/// The newcomer's side.
pub(super) fn ask<S: Read + Write>(
    mut stream: S,
    token: &JoinToken,
    request: &JoinRequest,
) -> Result<JoinAnswer, ExchangeFault> {
    let mut state = handshake(token.id, &token.secret, true).map_err(ExchangeFault::Cipher)?;
    let mut hello = [0; HELLO_BYTES];
    hello[..8].copy_from_slice(MAGIC);
    hello[8..24].copy_from_slice(&token.id.0);
    state.write_message(&[], &mut hello[24..]).map_err(ExchangeFault::Cipher)?;
    stream.write_all(&hello)?;
    let mut reply = [0; HANDSHAKE_BYTES];
    stream.read_exact(&mut reply)?;
    state.read_message(&reply, &mut []).map_err(|_| ExchangeFault::Unproven)?;
    let state = state.into_transport_mode().map_err(ExchangeFault::Cipher)?;
    let mut sealed = Sealed { stream, state };
    sealed.send(request, REQUEST_BYTES_MAX)?;
    sealed.receive(ANSWER_BYTES_MAX)
}

/// A newcomer that proved to know its token's secret, and what it said; it waits for an answer.
pub(super) struct Heard<S> {
    /// The token that it showed.
    pub(super) id: TokenId,
    /// What it wants.
    pub(super) request: JoinRequest,
    sealed: Sealed<S>,
}

impl<S> fmt::Debug for Heard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Heard({:?})", self.request)
    }
}

/// The cluster's side: hears one out. Whoever cannot prove to know the secret is not heard, and gets no byte.
pub(super) fn hear<S: Read + Write>(
    mut stream: S,
    secret_of: impl FnOnce(TokenId) -> TokenSecret,
) -> Result<Heard<S>, ExchangeFault> {
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello)?;
    let (magic, rest) = hello.split_at(MAGIC.len());
    let (name, first) = rest.split_at(16);
    if magic != MAGIC {
        return Err(ExchangeFault::Foreign);
    }
    let mut id = TokenId([0; 16]);
    id.0.copy_from_slice(name);
    let mut state = handshake(id, &secret_of(id), false).map_err(ExchangeFault::Cipher)?;
    state.read_message(first, &mut []).map_err(|_| ExchangeFault::Unproven)?;
    let mut reply = [0; HANDSHAKE_BYTES];
    state.write_message(&[], &mut reply).map_err(ExchangeFault::Cipher)?;
    stream.write_all(&reply)?;
    let state = state.into_transport_mode().map_err(ExchangeFault::Cipher)?;
    let mut sealed = Sealed { stream, state };
    let request = sealed.receive(REQUEST_BYTES_MAX)?;
    Ok(Heard { id, request, sealed })
}

impl<S: Read + Write> Heard<S> {
    /// The stream, to set limits of time.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.sealed.stream
    }

    /// Answers; that was all.
    pub(super) fn answer(mut self, answer: &JoinAnswer) -> Result<(), ExchangeFault> {
        self.sealed.send(answer, ANSWER_BYTES_MAX)
    }
}

impl<S: Read + Write> Sealed<S> {
    /// A message: pieces of sealed text behind their lengths. The first piece begins with the length of the
    /// whole.
    fn send(&mut self, message: &impl Serialize, most: usize) -> Result<(), ExchangeFault> {
        let text = serde_json::to_vec(message).map_err(ExchangeFault::Garbled)?;
        if text.len() > most {
            return Err(ExchangeFault::TooLong);
        }
        let mut whole = (text.len() as u32).to_le_bytes().to_vec();
        whole.extend_from_slice(&text);
        let mut out = Vec::with_capacity(whole.len() + whole.len() / 512 + 64);
        let mut room = vec![0; PIECE_BYTES + TAG_BYTES];
        for piece in whole.chunks(PIECE_BYTES) {
            let length = self.state.write_message(piece, &mut room).map_err(ExchangeFault::Cipher)?;
            out.extend_from_slice(&(length as u16).to_le_bytes());
            out.extend_from_slice(&room[..length]);
        }
        self.stream.write_all(&out)?;
        self.stream.flush()?;
        Ok(())
    }

    fn receive<M: DeserializeOwned>(&mut self, most: usize) -> Result<M, ExchangeFault> {
        let mut text = self.piece()?;
        let (length, _) = text.split_first_chunk::<4>().ok_or(ExchangeFault::Foreign)?;
        let whole = 4 + u32::from_le_bytes(*length) as usize;
        if whole > 4 + most {
            return Err(ExchangeFault::TooLong);
        }
        while text.len() < whole {
            let more = self.piece()?;
            if more.is_empty() {
                return Err(ExchangeFault::Foreign);
            }
            text.extend_from_slice(&more);
        }
        if text.len() > whole {
            return Err(ExchangeFault::TooLong);
        }
        serde_json::from_slice(&text[4..]).map_err(ExchangeFault::Garbled)
    }

    fn piece(&mut self) -> Result<Vec<u8>, ExchangeFault> {
        let mut length = [0; 2];
        self.stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_le_bytes(length));
        if !(TAG_BYTES..=PIECE_BYTES + TAG_BYTES).contains(&length) {
            return Err(ExchangeFault::TooLong);
        }
        let mut sealed = vec![0; length];
        self.stream.read_exact(&mut sealed)?;
        let mut plain = vec![0; length - TAG_BYTES];
        self.state.read_message(&sealed, &mut plain).map_err(|_| ExchangeFault::Unproven)?;
        Ok(plain)
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
