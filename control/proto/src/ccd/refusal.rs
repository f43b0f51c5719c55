//! Why a command changed nothing. Each text says what stood against it, then what to do.

use super::pool::PoolRefusal;
use super::reconfiguration::{Phase, ReconfigurationId};
use super::row::{RowKey, Table};
use super::token::TokenHash;
use crate::codec::coded;
use crate::rules::RowFault;
use crate::view::Member;
use alloc::boxed::Box;
use alloc::string::String;
use blockdev_proto::geometry::VolumeId;
use blockdev_proto::reservation::Conflict;
use core::fmt;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

/// Why a command was refused. Nothing happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts in Display below say what each means and what its fields are")]
pub enum Refusal {
    // The command as such.
    Malformed,
    Stranger { node: NodeId },
    EarlierLife { life: Incarnation, known: Incarnation },
    Forgotten { sequence: u64 },
    RowChanged { key: RowKey, expected: u64, found: u64 },
    NumberChanged { expected: Epoch, found: Epoch },
    // Rows.
    Row { key: RowKey, fault: Box<RowFault> },
    TooManyChanges { found: usize, most: usize },
    NothingToChange,
    TwiceInOne { key: RowKey },
    NotByHand { key: RowKey },
    NoSuchRow { key: RowKey },
    InUse { key: RowKey, by: RowKey },
    IsMember { node: NodeId },
    NameFixed { name: String },
    Shrinks { name: String, size_bytes: u64, wanted_bytes: u64 },
    BlockFixed { name: String },
    FormatVersion { table: Table, found: u16, known: u16 },
    MirrorSize { name: String },
    PartSize { name: String },
    PartsFixed { volume: VolumeId },
    LegByHand { volume: VolumeId, leg: VolumeId },
    NoLeg { volume: VolumeId, leg: VolumeId },
    LastLeg { volume: VolumeId, leg: VolumeId },
    NotServing { node: NodeId, volume: VolumeId },
    ReservationConflict { volume: VolumeId, conflict: Conflict },
    PartReserved { volume: VolumeId, whole: VolumeId },
    NotPermitted { node: NodeId, volume: VolumeId },
    NeedsReconfiguration { key: RowKey },
    Busy { key: RowKey, by: ReconfigurationId },
    // Reconfigurations.
    NothingToSynchronise,
    BadDeadline { deadline_ms: u32, most: u32 },
    TooManyReconfigurations { most: usize },
    NoMembers,
    NoReconfiguration { id: ReconfigurationId },
    Decided { id: ReconfigurationId, phase: Phase },
    NotAsked { id: ReconfigurationId, member: Member },
    NotHeld { id: ReconfigurationId },
    // Members.
    NotSteward { term: u64 },
    MembershipChanged { expected: Epoch, found: Epoch },
    MembersMalformed,
    NotConfigured { node: NodeId },
    Tombstoned { node: NodeId },
    LifeIsOver { member: Member },
    NumberTooLarge { number: Epoch },
    NoTombstone { node: NodeId },
    StillServes { node: NodeId, name: String },
    // Tokens.
    TooManyTokens { most: usize },
    TokenTaken { token: TokenHash },
    NoToken,
    TokenUsed { node: NodeId },
    TokenExpired,
    TokenOfOther { node: NodeId },
    JoinAddsNoNode,
    // The pool.
    Pool(PoolRefusal),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed
            | Refusal::Stranger { .. }
            | Refusal::EarlierLife { .. }
            | Refusal::Forgotten { .. }
            | Refusal::RowChanged { .. }
            | Refusal::NumberChanged { .. } => self.fmt_command(f),
            Refusal::Row { .. }
            | Refusal::TooManyChanges { .. }
            | Refusal::NothingToChange
            | Refusal::TwiceInOne { .. }
            | Refusal::NotByHand { .. }
            | Refusal::NoSuchRow { .. }
            | Refusal::InUse { .. }
            | Refusal::IsMember { .. }
            | Refusal::NameFixed { .. }
            | Refusal::Shrinks { .. }
            | Refusal::BlockFixed { .. }
            | Refusal::FormatVersion { .. }
            | Refusal::MirrorSize { .. }
            | Refusal::PartSize { .. }
            | Refusal::PartsFixed { .. }
            | Refusal::LegByHand { .. }
            | Refusal::NoLeg { .. }
            | Refusal::LastLeg { .. }
            | Refusal::NotServing { .. }
            | Refusal::ReservationConflict { .. }
            | Refusal::PartReserved { .. }
            | Refusal::NotPermitted { .. }
            | Refusal::NeedsReconfiguration { .. }
            | Refusal::Busy { .. } => self.fmt_rows(f),
            Refusal::NothingToSynchronise
            | Refusal::BadDeadline { .. }
            | Refusal::TooManyReconfigurations { .. }
            | Refusal::NoMembers
            | Refusal::NoReconfiguration { .. }
            | Refusal::Decided { .. }
            | Refusal::NotAsked { .. }
            | Refusal::NotHeld { .. } => self.fmt_reconfiguration(f),
            Refusal::Pool(refusal) => refusal.fmt(f),
            _ => self.fmt_member(f),
        }
    }
}

impl Refusal {
    fn fmt_command(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed => {
                write!(f, "the command cannot be read by this release: run one release on all nodes")
            }
            Refusal::Stranger { node } => write!(
                f,
                "node {} is not configured, so it may propose nothing: let it join first (netdisk join)",
                node.0
            ),
            Refusal::EarlierLife { .. } => write!(
                f,
                "the node that asked has been restarted since: see whether the change is there, and ask again"
            ),
            Refusal::Forgotten { sequence } => write!(
                f,
                "command {sequence} is too old for anybody to know its answer: look whether the change is \
                 there, and ask again"
            ),
            Refusal::RowChanged { key, expected: 0, .. } => {
                write!(f, "{key} is already there: choose another, or change that one")
            }
            Refusal::RowChanged { key, found: 0, .. } => {
                write!(f, "{key} is not there any more: look again what there is")
            }
            Refusal::RowChanged { key, .. } => {
                write!(f, "{key} was changed by somebody else meanwhile: look again and decide anew")
            }
            Refusal::NumberChanged { expected, found } => write!(
                f,
                "the configuration went on from number {} to {} meanwhile: look again and decide anew",
                expected.0, found.0
            ),
            _ => Ok(()),
        }
    }

    fn fmt_rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Row { key, fault } => write!(f, "{key}: {fault}"),
            Refusal::TooManyChanges { found, most } => {
                write!(f, "{found} rows in one command, {most} may be: divide them among several")
            }
            Refusal::NothingToChange => write!(f, "the command changes no row: name at least one"),
            Refusal::TwiceInOne { key } => {
                write!(f, "{key} is changed twice in one command: say once what it shall be")
            }
            Refusal::NotByHand { key } => {
                write!(f, "{key} comes about by itself and is not written by hand: use the command for it")
            }
            Refusal::NoSuchRow { key } => write!(f, "there is no {key}: look what there is"),
            Refusal::InUse { key, by } => {
                write!(f, "{key} is still used by {by}: change or remove that first")
            }
            Refusal::IsMember { node } => write!(
                f,
                "node {} is a member of the running cluster: let it leave first (netdisk leave)",
                node.0
            ),
            Refusal::NameFixed { name } => write!(
                f,
                "the cluster is named {name:?} for good, its keys are made from that: keep the name"
            ),
            Refusal::Shrinks { name, size_bytes, wanted_bytes } => write!(
                f,
                "{name} has {size_bytes} bytes and {wanted_bytes} are fewer: a virtual disk only grows, \
                 create a smaller one and copy"
            ),
            Refusal::BlockFixed { name } => write!(
                f,
                "{name} keeps the block size it was made with: create another virtual disk and copy"
            ),
            Refusal::FormatVersion { table, found, known } => write!(
                f,
                "format version {found} of table {table}, this release writes {known}: keep the version"
            ),
            Refusal::NeedsReconfiguration { key } => write!(
                f,
                "{key} is in use, so all nodes must stand still for this change: make it a reconfiguration"
            ),
            Refusal::Busy { key, by } => write!(
                f,
                "{key} is just being changed by reconfiguration {}: wait for its end, or cancel it",
                by.0
            ),
            _ => self.fmt_volumes(f),
        }
    }

    fn fmt_volumes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::MirrorSize { name } => {
                write!(f, "{name} is a mirror and keeps its size: make a larger one and copy")
            }
            Refusal::PartSize { name } => write!(
                f,
                "{name} is followed by others in a concatenation and keeps its size: grow the last one, or \
                 add another (netdisk volume attach)"
            ),
            Refusal::PartsFixed { volume } => write!(
                f,
                "volume {} keeps its kind, its chunk and its parts in their order, or its bytes would be \
                 elsewhere: make another one and copy",
                volume.0
            ),
            Refusal::LegByHand { volume, leg } => write!(
                f,
                "leg {} of volume {} cannot be called in sync by hand: it becomes so by being copied to",
                leg.0, volume.0
            ),
            Refusal::NoLeg { volume, leg } => {
                write!(f, "volume {} has no leg {}: look at netdisk volume status", volume.0, leg.0)
            }
            Refusal::LastLeg { volume, leg } => write!(
                f,
                "leg {} is the last of volume {} that has everything: mend another first",
                leg.0, volume.0
            ),
            Refusal::ReservationConflict { volume, conflict } => {
                write!(f, "reservation conflict on virtual disk {}: {conflict}", volume.0)
            }
            Refusal::PartReserved { volume, whole } => {
                write!(f, "virtual disk {} is a part of volume {}: reserve that", volume.0, whole.0)
            }
            Refusal::NotPermitted { node, volume } => write!(
                f,
                "node {} may not open virtual disk {}, so it may not register with it either: see netdisk \
                 permission list",
                node.0, volume.0
            ),
            Refusal::NotServing { node, volume } => write!(
                f,
                "node {} does not serve volume {} now: only who serves it says how its legs stand",
                node.0, volume.0
            ),
            _ => Ok(()),
        }
    }

    fn fmt_reconfiguration(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NothingToSynchronise => {
                write!(f, "nothing in use is changed by this: make the change at once, without preparing it")
            }
            Refusal::BadDeadline { deadline_ms, most } => {
                write!(f, "a deadline of {deadline_ms} ms: give 1 to {most}")
            }
            Refusal::TooManyReconfigurations { most } => {
                write!(f, "{most} reconfigurations are under way: wait for the end of one")
            }
            Refusal::NoMembers => write!(f, "the cluster has no members yet: wait until it has formed"),
            Refusal::NoReconfiguration { id } => {
                write!(f, "there is no reconfiguration {}: see netdisk watch for those there are", id.0)
            }
            Refusal::Decided { id, phase } => write!(f, "reconfiguration {} is over: {phase}", id.0),
            Refusal::NotAsked { id, member } => write!(
                f,
                "reconfiguration {} does not wait for this life of node {}: join first",
                id.0, member.node.0
            ),
            Refusal::NotHeld { id } => write!(
                f,
                "reconfiguration {} is not held: it goes on by itself when all members have acknowledged",
                id.0
            ),
            _ => Ok(()),
        }
    }

    fn fmt_member(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotSteward { term } => write!(
                f,
                "who led the cluster in term {term} leads it no more: the present leader decides on members"
            ),
            Refusal::MembershipChanged { expected, found } => {
                write!(f, "the membership is number {} and not {} any more: look again", found.0, expected.0)
            }
            Refusal::MembersMalformed => {
                write!(
                    f,
                    "members and paths must rise, with one member at least: run one release on all nodes"
                )
            }
            Refusal::NotConfigured { node } => {
                write!(f, "node {} is not configured: add it first (netdisk node add)", node.0)
            }
            Refusal::Tombstoned { node } => write!(
                f,
                "node {} gave up in distress and stays out: mend it, then netdisk node clear {}",
                node.0, node.0
            ),
            Refusal::LifeIsOver { member } => write!(
                f,
                "this life of node {} is over: the node begins a new one and joins again",
                member.node.0
            ),
            Refusal::NumberTooLarge { number } => write!(
                f,
                "configuration number {} cannot be: the disk that tells it is damaged or not netdisk's",
                number.0
            ),
            Refusal::StillServes { node, name } => write!(
                f,
                "node {} still serves {name}: let others serve it first (netdisk vdisk detach {name})",
                node.0
            ),
            Refusal::NoTombstone { node } => {
                write!(f, "node {} has no tombstone: there is nothing to clear", node.0)
            }
            Refusal::TooManyTokens { most } => {
                write!(f, "{most} invitations are open: use or revoke one first (netdisk cluster token)")
            }
            Refusal::TokenTaken { token } => write!(f, "token {token} is already there: make a new one"),
            Refusal::TokenUsed { node } => write!(
                f,
                "the token was used already, by node {}: make another (netdisk cluster token)",
                node.0
            ),
            Refusal::NoToken => {
                write!(
                    f,
                    "this token was never given, or was used already: ask for a new one (netdisk \
                     cluster token)"
                )
            }
            Refusal::TokenExpired => {
                write!(f, "this token has expired: ask for a new one (netdisk cluster token)")
            }
            Refusal::TokenOfOther { node } => {
                write!(f, "this token was given for node {}: join as that node, or ask for a new one", node.0)
            }
            Refusal::JoinAddsNoNode => {
                write!(f, "joining adds exactly one node that was not there: give it another id")
            }
            _ => Ok(()),
        }
    }
}

coded! {
    enum Refusal {
        1 = Malformed, 2 = Stranger { node }, 3 = EarlierLife { life, known }, 4 = Forgotten { sequence },
        5 = RowChanged { key, expected, found }, 6 = NumberChanged { expected, found },
        10 = Row { key, fault }, 11 = TooManyChanges { found, most }, 12 = NothingToChange,
        13 = TwiceInOne { key }, 14 = NotByHand { key }, 15 = NoSuchRow { key }, 16 = InUse { key, by },
        17 = IsMember { node }, 18 = NameFixed { name }, 19 = Shrinks { name, size_bytes, wanted_bytes },
        20 = BlockFixed { name }, 21 = FormatVersion { table, found, known },
        22 = NeedsReconfiguration { key }, 23 = Busy { key, by }, 24 = LegByHand { volume, leg },
        25 = NoLeg { volume, leg }, 26 = LastLeg { volume, leg }, 27 = NotServing { node, volume },
        28 = MirrorSize { name }, 29 = PartSize { name }, 60 = PartsFixed { volume },
        61 = ReservationConflict { volume, conflict }, 62 = PartReserved { volume, whole },
        63 = NotPermitted { node, volume },
        30 = NothingToSynchronise, 31 = BadDeadline { deadline_ms, most },
        32 = TooManyReconfigurations { most }, 33 = NoMembers, 34 = NoReconfiguration { id },
        35 = Decided { id, phase }, 36 = NotAsked { id, member }, 37 = NotHeld { id },
        40 = MembershipChanged { expected, found }, 41 = MembersMalformed, 42 = NotConfigured { node },
        43 = Tombstoned { node }, 44 = LifeIsOver { member }, 45 = NumberTooLarge { number },
        46 = NoTombstone { node }, 48 = StillServes { node, name }, 47 = NotSteward { term },
        50 = TooManyTokens { most }, 51 = TokenTaken { token }, 52 = NoToken,
        56 = TokenUsed { node },
        53 = TokenExpired, 54 = TokenOfOther { node }, 55 = JoinAddsNoNode, 90 = Pool(refusal)
    }
}
