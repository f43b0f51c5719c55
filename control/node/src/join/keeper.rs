//! Who decides about those who knock: the cluster, by way of this node's desk. Runs on threads of the door's.

use super::door::Doorkeeper;
use super::request::{JoinAnswer, JoinRequest, Welcome, Would};
use super::rows::newcomer;
use super::token::{TokenId, TokenSecret};
use crate::admin::{Desk, Request, of_hex};
use crate::genesis::Genesis;
use control_proto::ccd::{Answer, Change, Command, Database, Expect, OperationId, Refusal, TokenHash};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transport_proto::identity::{Incarnation, NodeId};

/// How often one tries where others change the same rows.
const ATTEMPTS_MAX: u32 = 10;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Lets in whoever shows a token that the database knows.
pub(crate) struct Keeper {
    pub(crate) desk: Arc<Desk>,
    pub(crate) genesis: Genesis,
}

impl Doorkeeper for Keeper {
    fn secret(&self, id: TokenId) -> TokenSecret {
        TokenSecret::of(&self.genesis.key, id)
    }

    fn decide(&self, id: TokenId, request: JoinRequest) -> JoinAnswer {
        let hash = TokenHash::of(&self.secret(id).0);
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(hash, &request) {
                Some(answer) => return answer,
                None => std::thread::sleep(PAUSE),
            }
        }
        later("others change the same rows, or the log does not answer in time")
    }
}

fn later(why: impl Into<String>) -> JoinAnswer {
    JoinAnswer::Later { why: why.into() }
}

fn refused(why: impl ToString) -> JoinAnswer {
    JoinAnswer::Refused { why: why.to_string() }
}

fn would(database: &Database, expect: Vec<Expect>, change: Change) -> JoinAnswer {
    // Nobody's: it is never proposed.
    let operation = OperationId { node: NodeId(0), life: Incarnation(0), sequence: 0 };
    let command = Command { operation, expect, change }.encode();
    JoinAnswer::Would(Box::new(Would { database: database.snapshot(), command }))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Keeper {
    fn ask(&self, request: Request) -> Option<Value> {
        serde_json::from_str(&self.desk.ask(request)?).ok()
    }

    fn database(&self) -> Option<Database> {
        let answer = self.ask(Request::Database { fresh: true })?;
        Database::restore(&of_hex(answer.get("snapshot")?.as_str()?)?).ok()
    }

    /// One attempt; `None`: things changed meanwhile, look again.
    fn attempt(&self, hash: TokenHash, request: &JoinRequest) -> Option<JoinAnswer> {
        let Some(database) = self.database() else { return Some(later("the node is busy")) };
        let Some(token) = database.tokens().find(|token| token.hash == hash).cloned() else {
            return Some(refused(Refusal::NoToken));
        };
        match token.used {
            Some(used) if used.nonce == request.nonce => return Some(self.welcome(&database, used.node)),
            Some(used) => return Some(refused(Refusal::TokenUsed { node: used.node })),
            None => {}
        }
        let unix_ms = unix_ms();
        if token.expires_unix_ms != 0 && unix_ms > token.expires_unix_ms {
            return Some(refused(Refusal::TokenExpired));
        }
        let departed = database.membership().departed.iter().map(|gone| gone.node);
        let given = departed.chain(database.tombstones().map(|stone| stone.member.node));
        let changes = match newcomer(database.rows(), given, token.node, request) {
            Ok((_, changes)) => changes,
            Err(refusal) => return Some(refused(refusal)),
        };
        let expect = changes.iter().map(|change| {
            let key = change.key();
            Expect::Row { revision: database.revision(&key), key }
        });
        let expect = expect.collect();
        let change = Change::Join { token: hash, nonce: request.nonce, unix_ms, changes };
        if request.dry_run {
            return Some(would(&database, expect, change));
        }
        let Some(answer) = self.ask(Request::propose(expect, change, false, false)) else {
            return Some(later("the node is busy"));
        };
        let decided = answer.get("answer").and_then(Value::as_str).and_then(of_hex);
        match decided.map(|bytes| Answer::decode(&bytes)) {
            // The next look finds the token used, by this very machine.
            Some(Ok(Answer { result: Ok(_), .. })) => None,
            Some(Ok(Answer { result: Err(Refusal::RowChanged { .. }), .. })) => None,
            Some(Ok(Answer { result: Err(refusal), .. })) => Some(refused(refusal)),
            _ if answer.get("unknown").is_some() => None,
            _ => Some(later(answer.get("error").and_then(Value::as_str).unwrap_or("no answer").to_owned())),
        }
    }

    fn welcome(&self, database: &Database, node: NodeId) -> JoinAnswer {
        JoinAnswer::Welcome(Box::new(Welcome {
            cluster: self.genesis.name.clone(),
            node: node.0,
            genesis: self.genesis.for_node(node, database).encode(),
        }))
    }
}
