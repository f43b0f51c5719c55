//! The conversation between honest ends, and against strangers, eavesdroppers' tricks and noise.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use super::super::request::Welcome;
use super::super::token::Fingerprint;
use super::*;
use proptest::prelude::*;
use std::os::unix::net::UnixStream;
use std::thread;
use transport_proto::cluster_key::ClusterKey;

fn key() -> ClusterKey {
    ClusterKey::derive("north", b"0123456789abcdef")
}

fn token(key: &ClusterKey) -> JoinToken {
    let id = TokenId([7; 16]);
    JoinToken {
        id,
        secret: TokenSecret::of(key, id),
        fingerprint: Fingerprint::of(key),
        expires_unix_ms: 0,
        contacts: vec!["127.0.0.1:1".parse().unwrap()],
    }
}

fn request() -> JoinRequest {
    JoinRequest {
        nonce: [3; 16],
        release: "1".into(),
        name: "beta".into(),
        host: "10.0.0.2".parse().unwrap(),
        id: None,
        port_base: None,
        rails: Vec::new(),
        dry_run: false,
    }
}

fn welcome(bytes: usize) -> JoinAnswer {
    let genesis = (0..bytes).map(|at| (at ^ (at >> 8)) as u8).collect();
    JoinAnswer::Welcome(Box::new(Welcome { cluster: "north".into(), node: 2, genesis }))
}

/// A stream that gives scripted bytes and keeps what is written.
struct Scripted<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl Read for Scripted<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.input.read(room)
    }
}

impl Write for Scripted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Keeps a copy of what comes in.
struct Tapped {
    stream: UnixStream,
    heard: Vec<u8>,
}

impl Read for Tapped {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(room)?;
        self.heard.extend_from_slice(&room[..count]);
        Ok(count)
    }
}

impl Write for Tapped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A whole conversation: what the newcomer got, what the node said, and all bytes that the node heard.
fn converse(token: JoinToken, answer: JoinAnswer) -> (Result<JoinAnswer, String>, bool, Vec<u8>) {
    let (near, far) = UnixStream::pair().unwrap();
    let newcomer = thread::spawn(move || ask(near, &token, &request()).map_err(|fault| fault.to_string()));
    let mut tapped = Tapped { stream: far, heard: Vec::new() };
    let heard = hear(&mut tapped, |id| TokenSecret::of(&key(), id));
    let asked = heard.is_ok();
    if let Ok(heard) = heard {
        assert_eq!(heard.request, request());
        heard.answer(&answer).unwrap();
    }
    let heard = std::mem::take(&mut tapped.heard);
    drop(tapped);
    (newcomer.join().unwrap(), asked, heard)
}

#[test]
fn a_newcomer_with_the_token_is_heard_and_answered_whatever_the_length() {
    for bytes in [0, 1, 9_000, 300_000] {
        let (got, asked, _) = converse(token(&key()), welcome(bytes));
        assert!(asked);
        assert!(got.unwrap() == welcome(bytes), "{bytes} bytes");
    }
    let no = JoinAnswer::Refused { why: "the token was used".into() };
    assert!(converse(token(&key()), no.clone()).0.unwrap() == no);
}

// proves: C3
#[test]
fn a_wrong_secret_is_never_heard_and_learns_nothing() {
    let other = ClusterKey::derive("north", b"another secret of theirs");
    let (got, asked, _) = converse(token(&other), welcome(10));
    assert!(!asked);
    assert!(got.unwrap_err().contains("it hung up: the token is not of its cluster"));
    // Nor does one who shows the right secret for another id.
    let mut mixed = token(&key());
    mixed.id = TokenId([8; 16]);
    assert!(!converse(mixed, welcome(10)).1);
}

#[test]
fn a_false_node_cannot_pose_as_the_cluster() {
    let (near, far) = UnixStream::pair().unwrap();
    let impostor = thread::spawn(move || {
        let mut far = far;
        let mut hello = [0; HELLO_BYTES];
        far.read_exact(&mut hello).unwrap();
        // The best it can do: a well-formed message without the secret.
        far.write_all(&[0x55; HANDSHAKE_BYTES]).unwrap();
    });
    let fault = ask(near, &token(&key()), &request()).unwrap_err();
    assert!(matches!(fault, ExchangeFault::Unproven), "{fault}");
    impostor.join().unwrap();
}

#[test]
fn what_travels_shows_neither_the_wish_nor_the_key_and_cannot_be_played_again() {
    let (_, _, heard) = converse(token(&key()), welcome(100));
    let shows = |text: &[u8]| heard.windows(text.len()).any(|window| window == text);
    assert!(!shows(b"beta") && !shows(b"10.0.0.2"));
    // The node has new keys each time, so the old words do not fit.
    let mut again = Scripted { input: &heard, output: Vec::new() };
    let played = hear(&mut again, |id| TokenSecret::of(&key(), id));
    assert!(matches!(played, Err(ExchangeFault::Unproven)));
}

#[test]
fn every_byte_that_is_changed_or_missing_is_noticed() {
    let (_, _, heard) = converse(token(&key()), welcome(10));
    for at in 0..HELLO_BYTES {
        let mut changed = heard.clone();
        changed[at] ^= 1;
        let mut stream = Scripted { input: &changed, output: Vec::new() };
        assert!(hear(&mut stream, |id| TokenSecret::of(&key(), id)).is_err(), "byte {at}");
        assert!(stream.output.is_empty(), "a stranger got an answer, byte {at}");
        let mut short = Scripted { input: &heard[..at], output: Vec::new() };
        assert!(hear(&mut short, |id| TokenSecret::of(&key(), id)).is_err(), "cut at {at}");
        assert!(short.output.is_empty());
    }
}

#[test]
fn an_authentic_newcomer_cannot_fill_the_nodes_memory() {
    let (near, far) = UnixStream::pair().unwrap();
    let greedy = thread::spawn(move || {
        let mut near = near;
        let token = token(&key());
        let mut state = handshake(token.id, &token.secret, true).unwrap();
        let mut hello = [0; HELLO_BYTES];
        hello[..8].copy_from_slice(MAGIC);
        hello[8..24].copy_from_slice(&token.id.0);
        state.write_message(&[], &mut hello[24..]).unwrap();
        near.write_all(&hello).unwrap();
        let mut reply = [0; HANDSHAKE_BYTES];
        near.read_exact(&mut reply).unwrap();
        state.read_message(&reply, &mut []).unwrap();
        let mut sealed = Sealed { stream: near, state: state.into_transport_mode().unwrap() };
        let _ = sealed.send(&"x".repeat(1 << 20), usize::MAX);
    });
    let heard = hear(far, |id| TokenSecret::of(&key(), id));
    assert!(matches!(heard, Err(ExchangeFault::TooLong)), "{heard:?}");
    greedy.join().unwrap();
}

proptest! {
    // proves: C3
    #[test]
    fn no_bytes_at_all_make_the_join_port_panic_or_talk(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        magic in any::<bool>(),
    ) {
        let mut input = if magic { MAGIC.to_vec() } else { Vec::new() };
        input.extend_from_slice(&bytes);
        let mut stream = Scripted { input: &input, output: Vec::new() };
        prop_assert!(hear(&mut stream, |id| TokenSecret::of(&key(), id)).is_err());
        prop_assert!(stream.output.is_empty());
    }

    #[test]
    fn no_bytes_at_all_make_the_newcomer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut stream = Scripted { input: &bytes, output: Vec::new() };
        prop_assert!(ask(&mut stream, &token(&key()), &request()).is_err());
    }
}
