//! Invitations: who shows the secret of a token joins the cluster, once. The database keeps a hash of the
//! secret only, so that nobody can join with what a snapshot or a log tells.

use crate::codec::coded;
use core::fmt;
use sha2::{Digest, Sha256};
use transport_proto::identity::NodeId;

/// Unused tokens at the most.
pub const TOKENS_MAX: usize = 256;

/// What the database keeps of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The hash of a secret. The secret must be random, of 16 bytes or more: nothing slows a guess down.
    pub fn of(secret: &[u8]) -> TokenHash {
        TokenHash(
            Sha256::new().chain_update(b"netdisk join token 1\0").chain_update(secret).finalize().into(),
        )
    }
}

impl fmt::Display for TokenHash {
    /// Enough of it to tell one from another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An invitation that was not used yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Of its secret.
    pub hash: TokenHash,
    /// Not after this wall-clock time, ms since 1970, as told by whoever lets the node in; 0: no such limit.
    pub expires_unix_ms: u64,
    /// Not after this log index; 0: no such limit.
    pub expires_index: u64,
    /// Only for the node of this id, if given.
    pub node: Option<NodeId>,
}

coded! {
    newtype TokenHash
}
coded! {
    struct TokenRow { hash, expires_unix_ms, expires_index, node }
}
