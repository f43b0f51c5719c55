//! The secret that makes a node one of the cluster's, and the keyed hashes taken with it.

use core::fmt;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

/// Bytes that a cluster's secret must have at the least; a shorter one can be guessed by one who only
/// listens.
pub const SECRET_BYTES_MIN: usize = 16;

/// What the cluster is called on the wire: a hash of its name, so that two clusters in one network tell each
/// other apart before any key is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterTag(pub [u8; 16]);

impl ClusterTag {
    /// The tag of the cluster with this name.
    pub fn of_name(name: &str) -> ClusterTag {
        let digest = Sha256::new().chain_update(b"netdisk cluster name\0").chain_update(name).finalize();
        let mut tag = [0; 16];
        tag.copy_from_slice(&digest[..16]);
        ClusterTag(tag)
    }
}

impl fmt::Display for ClusterTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a keyed hash is for. A hash for one purpose never fits another, so nothing that is overheard in one
/// place can be used in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// HELLO, dialer to listener.
    Hello = 1,
    /// HELLO_ACK, listener to dialer.
    HelloAck = 2,
    /// HELLO_DONE, dialer to listener.
    HelloDone = 3,
    /// A heartbeat of the connectivity monitor.
    Heartbeat = 4,
    /// The last words of a node that fails.
    Distress = 5,
    /// Secrets of join tokens, and the fingerprint of the key.
    JoinToken = 16,
}

/// The cluster's secret, ready to use. Shows nothing of itself in logs.
#[derive(Clone)]
pub struct ClusterKey {
    bytes: [u8; 32],
    /// HMAC state that has absorbed the key: a clone of it saves two rounds of SHA-256 for each hash.
    primed: Hmac<Sha256>,
    tag: ClusterTag,
}

impl ClusterKey {
    /// The key of the cluster with this name and this secret. Secrets of two clusters may be equal by
    /// mistake; their keys are not. The caller refuses secrets below [`SECRET_BYTES_MIN`] with a message to
    /// the operator.
    pub fn derive(cluster_name: &str, secret: &[u8]) -> ClusterKey {
        let tag = ClusterTag::of_name(cluster_name);
        let key = Sha256::new()
            .chain_update(b"netdisk cluster key\0")
            .chain_update(tag.0)
            .chain_update(secret)
            .finalize();
        ClusterKey::of_bytes(cluster_name, key.into())
    }

    /// The key of the cluster with this name, as [`ClusterKey::expose`] gave it.
    pub fn of_bytes(cluster_name: &str, bytes: [u8; 32]) -> ClusterKey {
        // HMAC pads a key with zeros to the hash's block.
        let mut block = [0; 64];
        block[..32].copy_from_slice(&bytes);
        ClusterKey { bytes, primed: Hmac::new(&block.into()), tag: ClusterTag::of_name(cluster_name) }
    }

    /// The key itself, to be kept where nobody else reads it, or to be given to a node that joins.
    pub fn expose(&self) -> [u8; 32] {
        self.bytes
    }

    /// The cluster's tag.
    pub fn tag(&self) -> ClusterTag {
        self.tag
    }

    /// Keyed hash over the parts, one after the other. The parts have fixed sizes for each purpose.
    pub fn sign(&self, purpose: Purpose, parts: &[&[u8]]) -> [u8; 32] {
        self.absorb(purpose, parts).finalize().into_bytes().into()
    }

    /// Whether `mac`, all of the hash or its first bytes (16 at the least), fits the parts. In constant time.
    #[must_use]
    pub fn verify(&self, purpose: Purpose, parts: &[&[u8]], mac: &[u8]) -> bool {
        mac.len() >= 16 && self.absorb(purpose, parts).verify_truncated_left(mac).is_ok()
    }

    fn absorb(&self, purpose: Purpose, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut state = self.primed.clone();
        state.update(&[purpose as u8]);
        parts.iter().for_each(|part| state.update(part));
        state
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey(of cluster {}, secret)", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_only_its_purpose_its_key_and_its_bytes() {
        let key = ClusterKey::derive("north", b"0123456789abcdef");
        let mac = key.sign(Purpose::Hello, &[b"ab", b"c"]);
        assert!(key.verify(Purpose::Hello, &[b"abc"], &mac));
        assert!(key.verify(Purpose::Hello, &[b"abc"], &mac[..16]));
        assert!(!key.verify(Purpose::HelloAck, &[b"abc"], &mac));
        assert!(!key.verify(Purpose::Hello, &[b"abd"], &mac));
        assert!(!key.verify(Purpose::Hello, &[b"abc"], &mac[..15]));
        let south = ClusterKey::derive("south", b"0123456789abcdef");
        assert!(!south.verify(Purpose::Hello, &[b"abc"], &mac));
    }

    #[test]
    fn a_key_that_was_kept_is_the_same_key() {
        let key = ClusterKey::derive("north", b"0123456789abcdef");
        let kept = ClusterKey::of_bytes("north", key.expose());
        assert!(kept.verify(Purpose::Hello, &[b"x"], &key.sign(Purpose::Hello, &[b"x"])));
        assert_eq!(kept.tag(), key.tag());
    }

    #[test]
    fn a_key_does_not_print_its_secret() {
        let key = ClusterKey::derive("north", b"a secret of some bytes");
        assert!(!alloc::format!("{key:?}").contains("a secret of"));
    }
}
