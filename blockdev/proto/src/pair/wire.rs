//! The bytes of what one half says to the other: one layout of fixed size for every message, fields that a
//! message does not use are zero.

use super::record::{RecordLayout, known, of_flag};
use super::{Command, Generation, PairMessage, Refusal, Role, State};
use crate::wire::WireFault;
use transport_proto::identity::NodeId;
use transport_proto::wire::CONTROL_BYTES_MAX;
use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an encoded [`PairMessage`].
pub const PAIR_MESSAGE_BYTES: usize = 96;
const VERSION: u8 = 1;

const HELLO: u8 = 1;
const ASK: u8 = 2;
const REFUSED: u8 = 3;
const FOLLOW: u8 = 4;
const FOLLOWED: u8 = 5;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Default)]
#[repr(C)]
struct Layout {
    kind: u8,
    version: u8,
    /// A command or a refusal.
    word: u8,
    /// Of a takeover.
    alone: u8,
    /// Of a refusal.
    state: u8,
    role: u8,
    /// Of a command or a refusal.
    node: U16,
    to: U64,
    from: U64,
    term: U64,
    step: U64,
    record: RecordLayout,
    filling: U64,
}
const _: () = assert!(size_of::<Layout>() == PAIR_MESSAGE_BYTES && PAIR_MESSAGE_BYTES <= CONTROL_BYTES_MAX);

impl Layout {
    fn put_command(&mut self, command: Command) {
        let (word, node) = match command {
            Command::Create => (1, 0),
            Command::Split => (2, 0),
            Command::Resync => (3, 0),
            Command::SwapResync => (4, 0),
            Command::Delete => (5, 0),
            Command::Takeover { .. } => (6, 0),
            Command::Reserve { node } => (7, node.0),
            Command::Release { node } => (8, node.0),
        };
        self.alone = u8::from(command == Command::Takeover { alone: true });
        (self.word, self.node) = (word, node.into());
    }

    fn command(&self) -> Result<Command, WireFault> {
        let node = NodeId(self.node.get());
        Ok(match self.word {
            1 => Command::Create,
            2 => Command::Split,
            3 => Command::Resync,
            4 => Command::SwapResync,
            5 => Command::Delete,
            6 => Command::Takeover { alone: known(of_flag(self.alone), "alone")? },
            7 => Command::Reserve { node },
            8 => Command::Release { node },
            _ => return Err(WireFault::Field { field: "command" }),
        })
    }

    fn put_refusal(&mut self, why: Refusal) {
        self.word = match why {
            Refusal::NotNow { state, role } => {
                (self.state, self.role) = (state as u8, role as u8);
                1
            }
            Refusal::Incomplete => 2,
            Refusal::Busy => 3,
            Refusal::Unreachable => 4,
            Refusal::Unanswered => 5,
            Refusal::Crossed => 6,
            Refusal::Reserved { by } => {
                self.node = by.0.into();
                7
            }
            Refusal::NotReserved => 8,
        };
    }

    fn refusal(&self) -> Result<Refusal, WireFault> {
        Ok(match self.word {
            1 => Refusal::NotNow {
                state: known(State::of_code(self.state), "state")?,
                role: known(Role::of_code(self.role), "role")?,
            },
            2 => Refusal::Incomplete,
            3 => Refusal::Busy,
            4 => Refusal::Unreachable,
            5 => Refusal::Unanswered,
            6 => Refusal::Crossed,
            7 => Refusal::Reserved { by: NodeId(self.node.get()) },
            8 => Refusal::NotReserved,
            _ => return Err(WireFault::Field { field: "refusal" }),
        })
    }
}

impl PairMessage {
    /// The bytes of this message.
    pub fn encode(&self) -> [u8; PAIR_MESSAGE_BYTES] {
        let mut layout = Layout { version: VERSION, ..Layout::default() };
        match *self {
            PairMessage::Hello { from, to, record } => {
                (layout.kind, layout.from, layout.to) = (HELLO, from.into(), to.into());
                layout.record = RecordLayout::of(&record);
            }
            PairMessage::Ask { to, command, record } => {
                (layout.kind, layout.to) = (ASK, to.into());
                layout.put_command(command);
                layout.record = RecordLayout::of(&record);
            }
            PairMessage::Refused { to, why } => {
                (layout.kind, layout.to) = (REFUSED, to.into());
                layout.put_refusal(why);
            }
            PairMessage::Follow { to, record } => {
                (layout.kind, layout.to) = (FOLLOW, to.into());
                layout.record = RecordLayout::of(&record);
            }
            PairMessage::Followed { to, generation } => {
                (layout.kind, layout.to) = (FOLLOWED, to.into());
                (layout.term, layout.step) = (generation.term.into(), generation.step.into());
            }
        }
        zerocopy::transmute!(layout)
    }

    /// Reads a message. Each has one form only: what would be written otherwise is refused.
    ///
    /// # Errors
    /// [`WireFault`].
    pub fn parse(bytes: &[u8]) -> Result<PairMessage, WireFault> {
        let found = bytes.len();
        let layout = Layout::ref_from_bytes(bytes).map_err(|_| WireFault::Length { found })?;
        if layout.version != VERSION {
            return Err(WireFault::Version { found: layout.version });
        }
        let to = layout.to.get();
        let message = match layout.kind {
            HELLO => PairMessage::Hello { from: layout.from.get(), to, record: layout.record.read()? },
            ASK => PairMessage::Ask { to, command: layout.command()?, record: layout.record.read()? },
            REFUSED => PairMessage::Refused { to, why: layout.refusal()? },
            FOLLOW => PairMessage::Follow { to, record: layout.record.read()? },
            FOLLOWED => {
                let generation = Generation { term: layout.term.get(), step: layout.step.get() };
                PairMessage::Followed { to, generation }
            }
            found => return Err(WireFault::Kind { found }),
        };
        if message.encode() == bytes { Ok(message) } else { Err(WireFault::Field { field: "unused" }) }
    }
}
