//! The token by which a machine asks to become a node: one word to paste. It tells where to knock, proves
//! that both ends mean each other, and is good once.
//!
//! Its secret is a keyed hash of its id under the cluster's key, so every node can check every token without
//! keeping its secret; the database keeps a hash of it, which tells that it was not used yet.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use transport_proto::cluster_key::{ClusterKey, Purpose};

/// What every token begins with.
const PREFIX: &str = "netdisk-join-";
const VERSION: u8 = 1;
/// Addresses in one token at the most.
pub const CONTACTS_MAX: usize = 5;
/// Letters of a token at the most: more is refused before it is looked at.
const TEXT_BYTES_MAX: usize = 512;

/// Which token; random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenId(pub [u8; 16]);

/// What the holder of a token knows besides its id. Shows nothing of itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret(pub [u8; 32]);

impl TokenSecret {
    /// The secret of a token of the cluster that has this key.
    pub fn of(key: &ClusterKey, id: TokenId) -> TokenSecret {
        TokenSecret(key.sign(Purpose::JoinToken, &[b"secret", &id.0]))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret")
    }
}

/// A name for a cluster's key that tells nothing of it: equal on all nodes of one cluster, for people to
/// compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl Fingerprint {
    /// The fingerprint of a key.
    pub fn of(key: &ClusterKey) -> Fingerprint {
        let mut first = [0; 8];
        first.copy_from_slice(&key.sign(Purpose::JoinToken, &[b"finger"])[..8]);
        Fingerprint(first)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, pair) in self.0.chunks(2).enumerate() {
            let dash = if at > 0 { "-" } else { "" };
            write!(f, "{dash}{:02x}{:02x}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

/// An invitation to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Which one.
    pub id: TokenId,
    /// Its secret.
    pub secret: TokenSecret,
    /// Of the cluster's key.
    pub fingerprint: Fingerprint,
    /// When it ends, ms since 1970 by the clock of the node that made it. The cluster decides; here it is for
    /// the message.
    pub expires_unix_ms: u64,
    /// Join ports of nodes, one to [`CONTACTS_MAX`].
    pub contacts: Vec<SocketAddr>,
}

/// Why a word is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// It does not look like one.
    NotAToken,
    /// It was one once: letters are missing or changed.
    Damaged,
    /// Of another version.
    Version {
        /// The version found.
        found: u8,
    },
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenFault::NotAToken => write!(
                f,
                "this is no join token: a token begins with {PREFIX} and is made by `netdisk cluster token` \
                 on a node of the cluster"
            ),
            TokenFault::Damaged => {
                write!(f, "letters of the join token are missing or changed: copy it again, all in one word")
            }
            TokenFault::Version { found } => write!(
                f,
                "the join token is of version {found}, this release knows {VERSION}: run the release of the \
                 cluster here"
            ),
        }
    }
}

impl std::error::Error for TokenFault {}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.secret.0);
        bytes.extend_from_slice(&self.fingerprint.0);
        bytes.extend_from_slice(&self.expires_unix_ms.to_le_bytes());
        let contacts = &self.contacts[..self.contacts.len().min(CONTACTS_MAX)];
        bytes.push(contacts.len() as u8);
        for contact in contacts {
            match contact.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&contact.port().to_le_bytes());
        }
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        f.write_str(PREFIX)?;
        f.write_str(&base32(&bytes))
    }
}

impl std::str::FromStr for JoinToken {
    type Err = TokenFault;

    fn from_str(text: &str) -> Result<JoinToken, TokenFault> {
        let letters = text.trim().strip_prefix(PREFIX).ok_or(TokenFault::NotAToken)?;
        if letters.len() > TEXT_BYTES_MAX {
            return Err(TokenFault::Damaged);
        }
        let bytes = from_base32(letters).ok_or(TokenFault::Damaged)?;
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(TokenFault::Damaged)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*check) {
            return Err(TokenFault::Damaged);
        }
        let (&version, rest) = body.split_first().ok_or(TokenFault::Damaged)?;
        if version != VERSION {
            return Err(TokenFault::Version { found: version });
        }
        parse(rest).ok_or(TokenFault::Damaged)
    }
}

/// Takes the first bytes off.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

fn parse(mut rest: &[u8]) -> Option<JoinToken> {
    let rest = &mut rest;
    let id = TokenId(take(rest)?);
    let secret = TokenSecret(take(rest)?);
    let fingerprint = Fingerprint(take(rest)?);
    let expires_unix_ms = u64::from_le_bytes(take(rest)?);
    let [count] = take(rest)?;
    if count == 0 || usize::from(count) > CONTACTS_MAX {
        return None;
    }
    let mut contacts = Vec::new();
    for _ in 0..count {
        let ip = match take(rest)? {
            [4] => IpAddr::from(take::<4>(rest)?),
            [6] => IpAddr::from(take::<16>(rest)?),
            _ => return None,
        };
        contacts.push(SocketAddr::new(ip, u16::from_le_bytes(take(rest)?)));
    }
    rest.is_empty().then_some(JoinToken { id, secret, fingerprint, expires_unix_ms, contacts })
}

/// Letters that survive a terminal, a chat and a change of case.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// RFC 4648 without padding, in small letters.
fn base32(bytes: &[u8]) -> String {
    let mut out = String::new();
    let (mut bits, mut held) = (0u32, 0);
    for &byte in bytes {
        bits = (bits << 8) | u32::from(byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            out.push(char::from(LETTERS[(bits >> held) as usize & 31]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        out.push(char::from(LETTERS[(bits << (5 - held)) as usize & 31]));
    }
    out
}

fn from_base32(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for letter in text.bytes() {
        let letter = letter.to_ascii_lowercase();
        let value = LETTERS.iter().position(|known| *known == letter)?;
        bits = (bits << 5) | value as u32;
        held += 5;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
        bits &= (1 << held) - 1;
    }
    // Left over are the zeros that filled the last letter.
    (held < 5 && bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use proptest::prelude::*;

    fn token(id: [u8; 16], contacts: &[&str]) -> JoinToken {
        let key = ClusterKey::derive("north", b"0123456789abcdef");
        let id = TokenId(id);
        JoinToken {
            id,
            secret: TokenSecret::of(&key, id),
            fingerprint: Fingerprint::of(&key),
            expires_unix_ms: 1_900_000_000_000,
            contacts: contacts.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_token_survives_its_text_also_in_capitals_and_with_a_line_end() {
        let token = token([7; 16], &["10.0.0.1:7401", "[fd00::1]:7401"]);
        let text = token.to_string();
        assert!(text.starts_with("netdisk-join-") && !text.contains(char::is_whitespace));
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        let shouted = format!("{PREFIX}{}\n", text[PREFIX.len()..].to_ascii_uppercase());
        assert_eq!(shouted.parse::<JoinToken>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&format!("{:?}", token.secret.0)), "secrets stay out of logs");
    }

    #[test]
    fn a_token_with_a_slip_is_named_as_such() {
        let text = token([7; 16], &["10.0.0.1:7401"]).to_string();
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenFault::NotAToken));
        assert_eq!(text[..text.len() - 1].parse::<JoinToken>(), Err(TokenFault::Damaged));
        assert_eq!(format!("{text}a").parse::<JoinToken>(), Err(TokenFault::Damaged));
        assert_eq!(format!("{PREFIX}{}", "a".repeat(10_000)).parse::<JoinToken>(), Err(TokenFault::Damaged));
        for at in PREFIX.len()..text.len() {
            let mut slip = text.clone().into_bytes();
            slip[at] = if slip[at] == b'a' { b'b' } else { b'a' };
            let slip = String::from_utf8(slip).unwrap();
            assert_eq!(slip.parse::<JoinToken>(), Err(TokenFault::Damaged), "letter {at}");
        }
    }

    #[test]
    fn the_secret_differs_by_token_and_by_cluster() {
        let (north, south) = (
            ClusterKey::derive("north", b"0123456789abcdef"),
            ClusterKey::derive("south", b"0123456789abcdef"),
        );
        let (one, two) = (TokenId([1; 16]), TokenId([2; 16]));
        assert_ne!(TokenSecret::of(&north, one), TokenSecret::of(&north, two));
        assert_ne!(TokenSecret::of(&north, one), TokenSecret::of(&south, one));
        assert_ne!(Fingerprint::of(&north), Fingerprint::of(&south));
        assert_eq!(Fingerprint([0xab, 1, 2, 3, 4, 5, 6, 7]).to_string(), "ab01-0203-0405-0607");
    }

    proptest! {
        #[test]
        fn no_text_at_all_makes_the_reader_panic(text in ".{0,300}", letters in "[a-z2-7]{0,300}") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("{PREFIX}{letters}").parse::<JoinToken>();
        }

        #[test]
        fn bytes_survive_base32(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(from_base32(&base32(&bytes)), Some(bytes));
        }
    }
}
