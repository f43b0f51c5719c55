//! What became of a command.

use super::event::Event;
use super::reconfiguration::ReconfigurationId;
use super::refusal::Refusal;
use crate::codec::{CodeFault, Coded, Reader, Writer, coded};
use alloc::sync::Arc;
use alloc::vec::Vec;
use transport_proto::identity::Epoch;

/// What a command brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The reconfiguration that it began, or that it was about.
    pub reconfiguration: Option<ReconfigurationId>,
}

/// The answer to whoever proposed a command. Copies of the command get the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Log index at which the command was applied.
    pub index: u64,
    /// The configuration number then.
    pub number: Epoch,
    /// What it brought about, or why nothing.
    pub result: Result<Outcome, Refusal>,
}

impl Answer {
    /// As it travels back.
    pub fn encode(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// Reads what [`Answer::encode`] wrote. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Answer, CodeFault> {
        Answer::of_bytes(bytes)
    }
}

/// What applying a command did on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was done.
    Done {
        /// For the proposer.
        answer: Answer,
        /// What changed; `None` if everything was already so.
        event: Option<Arc<Event>>,
    },
    /// Nothing happened.
    Refused(Answer),
    /// It happened, or was refused, before; nothing happened now.
    Repeated(Answer),
}

impl Applied {
    /// For the proposer.
    pub fn answer(&self) -> &Answer {
        match self {
            Applied::Done { answer, .. } | Applied::Refused(answer) | Applied::Repeated(answer) => answer,
        }
    }

    /// What changed now.
    pub fn event(&self) -> Option<&Arc<Event>> {
        match self {
            Applied::Done { event, .. } => event.as_ref(),
            Applied::Refused(_) | Applied::Repeated(_) => None,
        }
    }
}

impl Coded for Result<Outcome, Refusal> {
    fn put(&self, out: &mut Writer) {
        self.is_ok().put(out);
        match self {
            Ok(outcome) => outcome.put(out),
            Err(refusal) => refusal.put(out),
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Self, CodeFault> {
        Ok(if bool::take(from)? { Ok(Outcome::take(from)?) } else { Err(Refusal::take(from)?) })
    }
}

coded! {
    struct Outcome { reconfiguration }
    struct Answer { index, number, result }
}
