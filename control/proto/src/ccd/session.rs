//! What is remembered of commands, so that a copy of one is not applied again (SPEC C2).
//!
//! Each node has one session: the latest life in which it proposed, and its last [`ANSWERS_MAX`] answers. A
//! proposer has at most that many commands without an answer, so whatever it may still send again is
//! remembered. What is older, or of an earlier life, is refused and never applied: the proposer is told that
//! nobody knows any more, and looks at the rows. So forgetting costs an answer and never a second effect.
//! Sessions outlive the row of their node, without their answers; there are no more of them than node ids.

use super::answer::Answer;
use super::command::OperationId;
use super::refusal::Refusal;
use crate::codec::coded;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use transport_proto::identity::{Incarnation, NodeId};

/// Answers that are remembered of one node, and commands that it may have without an answer.
pub const ANSWERS_MAX: usize = 64;

/// What is known of one node's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) node: NodeId,
    life: Incarnation,
    /// Commands up to this one are forgotten.
    forgotten: u64,
    /// By rising sequence.
    answers: Vec<(u64, Answer)>,
}

coded! {
    struct Session { node, life, forgotten, answers }
}

/// All sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions(pub(super) BTreeMap<NodeId, Session>);

/// What is known of a command.
pub(super) enum Known {
    New,
    Answered(Answer),
    Never(Refusal),
}

impl Sessions {
    pub(super) fn find(&self, id: &OperationId) -> Known {
        let Some(session) = self.0.get(&id.node) else { return Known::New };
        if id.life > session.life {
            return Known::New;
        }
        if id.life < session.life {
            return Known::Never(Refusal::EarlierLife { life: id.life, known: session.life });
        }
        match session.answers.binary_search_by_key(&id.sequence, |(sequence, _)| *sequence) {
            Ok(place) => Known::Answered(session.answers[place].1.clone()),
            Err(_) if id.sequence <= session.forgotten => {
                Known::Never(Refusal::Forgotten { sequence: id.sequence })
            }
            Err(_) => Known::New,
        }
    }

    pub(super) fn remember(&mut self, id: &OperationId, answer: Answer) {
        let fresh = || Session { node: id.node, life: id.life, forgotten: 0, answers: Vec::new() };
        let session = self.0.entry(id.node).or_insert_with(fresh);
        if id.life > session.life {
            *session = fresh();
        }
        if let Err(place) = session.answers.binary_search_by_key(&id.sequence, |(sequence, _)| *sequence) {
            session.answers.insert(place, (id.sequence, answer));
        }
        if session.answers.len() > ANSWERS_MAX {
            session.forgotten = session.answers.remove(0).0;
        }
    }

    /// The node's row is gone: nobody asks for its answers again.
    pub(super) fn forget_answers(&mut self, node: NodeId) {
        if let Some(session) = self.0.get_mut(&node) {
            session.forgotten = u64::MAX;
            session.answers.clear();
        }
    }
}
