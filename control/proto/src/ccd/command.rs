//! What a node asks of the database: a change, what it was thought out for, and the id under which it happens
//! once.

use super::members::{MemberCause, Steward};
use super::mirror::MirrorChange;
use super::reconfiguration::{CancelCause, ReconfigurationId};
use super::row::{RowChange, RowKey};
use super::token::{TokenHash, TokenRow};
use super::tombstone::DistressLevel;
use crate::codec::{CodeFault, Coded, Reader, Writer, coded};
use crate::pool::RegionId;
use crate::view::{BrokenPath, Member};
use alloc::string::String;
use alloc::vec::Vec;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::reservation;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// Bytes of an encoded command at the most; with it, an entry of the log fits into one message.
pub const COMMAND_BYTES_MAX: usize = 512 << 10;
/// Row changes in one command at the most.
pub const ROW_CHANGES_MAX: usize = 4096;
const VERSION: u16 = 1;

/// Who asks, and for the how-manieth time: a command of one id is applied once. Ids of one life rise by one
/// with each new command, and a node has at most [`super::ANSWERS_MAX`] of them without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId {
    /// The node that proposes.
    pub node: NodeId,
    /// The life of its process. Ids of an earlier life are refused once a later one was heard of.
    pub life: Incarnation,
    /// Counted from 1.
    pub sequence: u64,
}

/// A precondition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The row is still of this revision, see [`super::Database::revision`]; 0: there is no such row.
    Row {
        /// Which row.
        key: RowKey,
        /// Its revision.
        revision: u64,
    },
    /// The configuration number is still this one.
    Number(Epoch),
}

/// What is to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Configured rows, all of them or none: nodes, links, disks, virtual disks, permissions, servers,
    /// settings, formats. What would change a mapping under running I/O is refused; see `Prepare`.
    Rows(Vec<RowChange>),
    /// Row changes that are made when every member has suspended, drained and dropped what they concern
    /// (SPEC C4). The answer names the [`ReconfigurationId`].
    Prepare {
        /// The changes.
        changes: Vec<RowChange>,
        /// Longest time that members may take, and that a held one may be held, ms.
        deadline_ms: u32,
        /// After the last acknowledgement, wait for `Proceed` (somebody moves a cable).
        hold: bool,
    },
    /// A member has done what comes before the change.
    Ack {
        /// Of which.
        reconfiguration: ReconfigurationId,
        /// The member, in the life that did it.
        member: Member,
    },
    /// What was held goes on.
    Proceed {
        /// Which.
        reconfiguration: ReconfigurationId,
    },
    /// A reconfiguration is given up; the rows stay as they were.
    Cancel {
        /// Which.
        reconfiguration: ReconfigurationId,
        /// Why.
        why: CancelCause,
    },
    /// Who is a member now, and which paths are broken. Compared with the membership that it was thought out
    /// for.
    Membership {
        /// Who decided so; nobody but the steward may.
        by: Steward,
        /// Number of the membership that this one follows.
        expect: Epoch,
        /// Members by rising id.
        members: Vec<Member>,
        /// Broken paths of members, rising.
        broken: Vec<BrokenPath>,
        /// What led to it, for people.
        causes: Vec<MemberCause>,
    },
    /// A leader of the log takes care of the membership from here on.
    Steward(Steward),
    /// The node that serves a mirror says how a leg stands.
    Mirror {
        /// The mirror.
        volume: VolumeId,
        /// Who serves it, in its life.
        by: Member,
        /// What it says.
        change: MirrorChange,
    },
    /// The node that asks wants to register with, reserve, release or preempt a virtual disk (SPEC B12).
    Reservation {
        /// The virtual disk.
        volume: VolumeId,
        /// What it wants.
        command: reservation::Command,
    },
    /// The lender of a region says that every byte of it is zero, durably.
    Erased {
        /// The region.
        region: RegionId,
        /// Its lender, in its life.
        by: Member,
    },
    /// A member goes for good: its membership, its row and all that names it, in one step.
    Depart {
        /// The member, in its life.
        member: Member,
        /// The rows without it. It serves nothing any more.
        changes: Vec<RowChange>,
    },
    /// A disk was seen to have been used at this number: go above.
    RaiseEpoch {
        /// The number.
        above: Epoch,
    },
    /// A node cried for help: it stays out until it is cleared.
    Distress {
        /// The node, in its life.
        member: Member,
        /// How much it could say.
        level: DistressLevel,
        /// In its own words.
        reason: String,
    },
    /// A node that cried for help may come back.
    Clear {
        /// The node.
        node: NodeId,
    },
    /// Somebody is invited.
    CreateToken(TokenRow),
    /// An invitation is taken back.
    RevokeToken(TokenHash),
    /// An invitation is used: the token is spent, the rows come, both or nothing. The same nonce may ask
    /// again, and is told that it is done.
    Join {
        /// Of the secret that was shown.
        token: TokenHash,
        /// Of the machine that showed it.
        nonce: [u8; 16],
        /// Wall-clock time at whoever was shown it, ms since 1970.
        unix_ms: u64,
        /// The new node's row, and its ends of the links.
        changes: Vec<RowChange>,
    },
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Under which it happens once.
    pub operation: OperationId,
    /// What must still hold, all of it.
    pub expect: Vec<Expect>,
    /// The change.
    pub change: Change,
}

impl Command {
    /// As it lies in the log.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        VERSION.put(&mut out);
        self.put(&mut out);
        out.0
    }

    /// Reads what [`Command::encode`] wrote. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Command, CodeFault> {
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(CodeFault::Long);
        }
        let mut from = Reader(bytes);
        let found = u16::take(&mut from)?;
        if found != VERSION {
            return Err(CodeFault::Version { of: "a command", found, known: VERSION });
        }
        Command::of_bytes(from.0)
    }
}

coded! {
    struct OperationId { node, life, sequence }
    struct Command { operation, expect, change }
}
coded! {
    enum Expect { 1 = Row { key, revision }, 2 = Number(number) }
    enum Change {
        1 = Rows(changes), 2 = Prepare { changes, deadline_ms, hold },
        3 = Ack { reconfiguration, member }, 4 = Proceed { reconfiguration },
        5 = Cancel { reconfiguration, why }, 6 = Membership { by, expect, members, broken, causes },
        7 = RaiseEpoch { above }, 8 = Distress { member, level, reason }, 9 = Clear { node },
        10 = CreateToken(token), 11 = RevokeToken(hash), 12 = Join { token, nonce, unix_ms, changes },
        13 = Steward(steward), 14 = Depart { member, changes }, 15 = Mirror { volume, by, change },
        16 = Reservation { volume, command }, 20 = Erased { region, by }
    }
}
