//! Invitations: who shows the secret of a token joins the cluster, once. The database keeps a hash of the
//! secret only, so that nobody can join with what a snapshot or a log tells. A used one is remembered with
//! who used it, so that whoever lost the answer gets it again, and nobody else does.

use crate::codec::coded;
use core::fmt;
use sha2::{Digest, Sha256};
use transport_proto::identity::NodeId;

/// Tokens at the most; used ones make room for new ones.
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

/// Who used a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenUse {
    /// The node that joined by it.
    pub node: NodeId,
    /// What its machine chose at random before it first asked, and says whenever it asks again.
    pub nonce: [u8; 16],
}

/// An invitation.
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
    /// By whom it was used, once it was.
    pub used: Option<TokenUse>,
}

coded! {
    newtype TokenHash
}
coded! {
    struct TokenUse { node, nonce }
    struct TokenRow { hash, expires_unix_ms, expires_index, node, used }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ccd::{Change, Command, Database, OperationId, Refusal, Row, RowChange, RowKey};
    use crate::rows::{ClusterRows, NodeRow};
    use alloc::string::{String, ToString};
    use alloc::vec;
    use alloc::vec::Vec;
    use core::net::{IpAddr, Ipv4Addr};
    use transport_proto::identity::{Incarnation, LinkId};

    fn node(id: u16) -> NodeRow {
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        NodeRow { id: NodeId(id), name: alloc::format!("node{id}"), host, voter: id == 1 }
    }

    /// A cluster of one node, with a link that waits.
    fn founded() -> Database {
        use crate::rows::{LinkNumber, LinkRow};
        let mut rows = ClusterRows::empty("north");
        rows.nodes.push(node(1));
        let rails = vec![rail(&[1])];
        rows.links.push(LinkRow { number: LinkNumber(0), id: LinkId(0), nodes: vec![NodeId(1)], rails });
        Database::found(rows).expect("rows that keep the rules")
    }

    fn rail(nodes: &[u16]) -> crate::rows::RailRow {
        use crate::rows::{RailAddress, RailEnd, RailRow};
        use transport_proto::identity::RailId;
        let end = |&id: &u16| RailEnd {
            node: NodeId(id),
            address: RailAddress::Shm(alloc::format!("{id}")),
            heartbeat: core::net::SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7000 + id),
        };
        RailRow { id: RailId(0), ends: nodes.iter().map(end).collect() }
    }

    fn give(database: &mut Database, change: Change) -> Result<(), String> {
        let index = database.index() + 1;
        let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: index };
        let command = Command { operation, expect: Vec::new(), change };
        let bytes = command.encode();
        let applied = database.apply_bytes(index, &bytes);
        applied.answer().result.as_ref().map(|_| ()).map_err(ToString::to_string)
    }

    fn join(hash: TokenHash, nonce: u8, id: u16) -> Change {
        let mut link = founded().rows().links[0].clone();
        link.nodes = vec![NodeId(1), NodeId(id)];
        link.rails = vec![rail(&[1, id])];
        let changes = vec![RowChange::Put(Row::Node(node(id))), RowChange::Put(Row::Link(link))];
        Change::Join { token: hash, nonce: [nonce; 16], unix_ms: 5, changes }
    }

    // proves: C3 C5
    #[test]
    fn a_token_lets_one_machine_in_and_tells_that_machine_alone_again() {
        let mut database = founded();
        let hash = TokenHash::of(b"a secret of sixteen bytes");
        let token = TokenRow { hash, expires_unix_ms: 10, expires_index: 0, node: None, used: None };
        assert_eq!(give(&mut database, Change::CreateToken(token)), Ok(()));
        assert_eq!(give(&mut database, join(hash, 1, 2)), Ok(()));
        let rows = database.rows().clone();
        // The answer was lost: the machine asks again, perhaps through another node, and nothing changes.
        assert_eq!(give(&mut database, join(hash, 1, 3)), Ok(()));
        assert_eq!(*database.rows(), rows);
        let used = database.tokens().next().and_then(|token| token.used);
        assert_eq!(used, Some(TokenUse { node: NodeId(2), nonce: [1; 16] }));
        // Another machine with the same token stays outside.
        let refused = give(&mut database, join(hash, 2, 3)).expect_err("a used token");
        assert_eq!(refused, Refusal::TokenUsed { node: NodeId(2) }.to_string());
        assert_eq!(*database.rows(), rows);
        // So it is after a restart from a snapshot.
        let mut again = Database::restore(&database.snapshot()).expect("a snapshot");
        assert_eq!(give(&mut again, join(hash, 1, 3)), Ok(()));
        assert_eq!(*again.rows(), rows);
        // And when the node is gone, its machine is as any other.
        let mut link = rows.links[0].clone();
        (link.nodes, link.rails) = (vec![NodeId(1)], vec![rail(&[1])]);
        let leave = vec![RowChange::Remove(RowKey::Node(NodeId(2))), RowChange::Put(Row::Link(link))];
        assert_eq!(give(&mut database, Change::Rows(leave)), Ok(()));
        assert_eq!(give(&mut database, join(hash, 1, 2)), Err(Refusal::NoToken.to_string()));
    }

    #[test]
    fn used_tokens_make_room_for_new_ones() {
        let mut database = founded();
        let hash = |number: usize| TokenHash::of(&number.to_le_bytes().repeat(2));
        let token = |number: usize| {
            let hash = hash(number);
            TokenRow { hash, expires_unix_ms: 1000, expires_index: 0, node: None, used: None }
        };
        for number in 0..TOKENS_MAX {
            assert_eq!(give(&mut database, Change::CreateToken(token(number))), Ok(()));
        }
        assert!(give(&mut database, Change::CreateToken(token(TOKENS_MAX))).is_err());
        assert_eq!(give(&mut database, join(hash(7), 1, 2)), Ok(()));
        assert_eq!(give(&mut database, Change::CreateToken(token(TOKENS_MAX))), Ok(()));
        assert_eq!(database.tokens().count(), TOKENS_MAX);
        assert_eq!(give(&mut database, join(hash(7), 1, 2)), Err(Refusal::NoToken.to_string()));
    }
}
