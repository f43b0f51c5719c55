//! What the administrator asks of the node: answers at once, or once the log has answered.

use crate::admin::{Asked, Request, of_hex, refusal, to_hex};
use crate::consensus::{Asker, NotTaken};
use crate::join::{CONTACTS_MAX, Fingerprint, JoinToken, TokenId, TokenSecret};
use crate::node::Node;
use crate::report;
use crate::reservation::Settling;
use crate::scheme::join_address;
use blockdev_proto::wire::Settle;
use control_proto::ccd::{Answer, Applied, Change, Command, Database, Event, ReconfigurationId, RowEvent};
use control_raft::NotDone;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A change that has no answer by then is reported as of unknown outcome.
const PROPOSAL_TIME_MAX: Duration = Duration::from_secs(8);
/// The same for one whose reconfiguration is waited for.
const WAIT_TIME_MAX: Duration = Duration::from_secs(110);
/// Changes of administrators under way at once.
const WAITING_MAX: usize = 32;
/// Those who watch at once.
const WATCHERS_MAX: usize = 16;

/// A request whose answer is still to come.
struct Waiting {
    number: u64,
    answer: SyncSender<String>,
    since: Instant,
    wait: bool,
    stage: Stage,
    /// Of a command about reservations: what the node that serves the disk has yet to say.
    settling: Option<Settling>,
}

enum Stage {
    /// The log has not answered.
    Proposed,
    /// The log has answered; this node's copy is behind.
    Answered(Answer),
}

/// Somebody who wants the database with everything that any node was told is done.
struct Reading {
    number: u64,
    answer: SyncSender<String>,
    since: Instant,
    /// The machine has it; this node's copy may be behind.
    is_there: bool,
}

/// Requests under way, and those who watch.
#[derive(Default)]
pub(crate) struct Desk {
    waiting: Vec<Waiting>,
    reading: Vec<Reading>,
    last: u64,
    watchers: Vec<SyncSender<String>>,
}

impl Desk {
    /// The log has answered, or did not take the change.
    pub(crate) fn finished(&mut self, number: u64, result: Result<Answer, NotDone>) {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.number == number) else { return };
        match result {
            Ok(answer) => self.waiting[place].stage = Stage::Answered(answer),
            Err(why) => {
                let lost = matches!(why, NotDone::NoLeader);
                let text = json!({ "error": format!("nothing was changed: {why}"), "no_leader": lost });
                give(self.waiting.remove(place).answer, &text.to_string());
            }
        }
    }

    /// The node that serves a disk has these reservations in force.
    pub(crate) fn in_force(&mut self, settled: &Settle) {
        for settling in self.waiting.iter_mut().filter_map(|waiting| waiting.settling.as_mut()) {
            settling.hear(settled);
        }
    }

    /// A read has ended.
    pub(crate) fn read(&mut self, number: u64, result: Result<(), NotDone>) {
        let Some(place) = self.reading.iter().position(|reading| reading.number == number) else { return };
        match result {
            Ok(()) => self.reading[place].is_there = true,
            Err(why) => give(self.reading.remove(place).answer, &unread(&why)),
        }
    }

    /// Something changed.
    pub(crate) fn tell_watchers(&mut self, event: &Event) {
        if !self.watchers.is_empty() {
            self.tell(&event_line(event, Some(unix_ms())).to_string());
        }
    }

    /// So much changed that it is not told one by one.
    pub(crate) fn tell_gap(&mut self, database: &Database) {
        let line = json!({ "gap": true, "index": database.index(), "number": database.number().0 });
        self.tell(&line.to_string());
    }

    fn tell(&mut self, line: &str) {
        // One that does not keep up is hung up on: it begins again from where it was.
        self.watchers.retain(|watcher| watcher.try_send(line.to_owned()).is_ok());
    }

    fn watch(&mut self, database: &Database, since: Option<u64>, watcher: SyncSender<String>) {
        if self.watchers.len() >= WATCHERS_MAX {
            return give(watcher, &refusal("too many watch this node already; watch another"));
        }
        let from = since.unwrap_or(database.index());
        let first = json!({ "watching": from, "number": database.number().0 });
        let mut lines = vec![first];
        match database.events_since(from) {
            Ok(events) => lines.extend(events.map(|event| event_line(event, None))),
            Err(gap) => lines.push(json!({ "gap": true, "index": gap.kept_after })),
        }
        if lines.into_iter().all(|line| watcher.try_send(line.to_string()).is_ok()) {
            self.watchers.push(watcher);
        }
    }
}

fn give(to: SyncSender<String>, answer: &str) {
    // Whoever asked may have gone.
    let _ = to.try_send(answer.to_owned());
}

/// The answer to a read that cannot be given now.
fn unread(why: &NotDone) -> String {
    json!({ "error": why.to_string(), "no_leader": true }).to_string()
}

fn shown(database: &Database) -> String {
    let (index, number) = (database.index(), database.number().0);
    json!({ "index": index, "number": number, "snapshot": to_hex(&database.snapshot()) }).to_string()
}

fn done() -> String {
    json!({ "done": true }).to_string()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn event_line(event: &Event, unix_ms: Option<u64>) -> Value {
    json!({
        "index": event.index,
        "number": event.number.0,
        "unix_ms": unix_ms,
        "cause": event.cause.to_string(),
        "changes": event.changes.iter().map(change_line).collect::<Vec<_>>(),
    })
}

fn change_line(change: &RowEvent) -> Value {
    let kind = match (&change.before, &change.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    json!({ "row": change.key.to_string(), "kind": kind, "text": report::change_text(change) })
}

impl Node {
    pub(crate) fn answer(&mut self, asked: Asked) {
        let Asked { request, answer } = asked;
        let text = match request {
            Request::Status => serde_json::to_string(&report::status(self))
                .unwrap_or_else(|fault| refusal(&fault.to_string())),
            Request::CutRail { link, rail } => self.mute(link, rail, true),
            Request::MendRail { link, rail } => self.mute(link, rail, false),
            Request::PowerFail => done(),
            Request::Invite { expires_s } => self.invite(expires_s),
            Request::Leave => {
                self.departing = true;
                self.stop.store(true, Ordering::Relaxed);
                done()
            }
            Request::Stop => {
                self.stop.store(true, Ordering::Relaxed);
                done()
            }
            Request::Propose { change, dry_run, wait } => {
                return self.propose_for_admin(&change, dry_run, wait, answer);
            }
            Request::Database { fresh: true } => return self.read_for_admin(answer),
            Request::Database { fresh: false } => shown(self.replica.database()),
            Request::Watch { since } => return self.desk.watch(self.replica.database(), since, answer),
        };
        give(answer, &text);
    }

    fn read_for_admin(&mut self, to: SyncSender<String>) {
        let consensus = self.station.endpoint.clients().consensus.as_mut();
        self.desk.last += 1;
        let number = self.desk.last;
        if self.desk.reading.len() < WAITING_MAX && consensus.is_some_and(|log| log.read(number)) {
            self.desk.reading.push(Reading { number, answer: to, since: Instant::now(), is_there: false });
        } else {
            give(to, &refusal("the node is starting, or has too much to do: ask again"));
        }
    }

    fn propose_for_admin(&mut self, change: &str, dry_run: bool, wait: bool, to: SyncSender<String>) {
        let decoded = of_hex(change).and_then(|bytes| Command::decode(&bytes).ok());
        let Some(Command { expect, change, .. }) = decoded else {
            return give(
                to,
                &refusal("this is no change that this release knows: use netdisk of the same release"),
            );
        };
        let (_, clients) = self.station.endpoint.parts();
        let Some(consensus) = clients.consensus.as_mut() else {
            return give(to, &refusal("the node is still starting; ask again"));
        };
        if dry_run {
            let operation = consensus.next_operation();
            let command = Command { operation, expect, change };
            return give(to, &self.would_do(&command));
        }
        if self.desk.waiting.len() >= WAITING_MAX {
            return give(to, &refusal("too many changes are under way; ask again when one has ended"));
        }
        self.desk.last += 1;
        let number = self.desk.last;
        let what = what(&change);
        let settling = Settling::of(&change);
        match consensus.propose(Asker::Admin(number), expect, change) {
            Ok(()) => {
                tracing::info!("an administrator asks for {what}");
                let (since, stage) = (Instant::now(), Stage::Proposed);
                self.desk.waiting.push(Waiting { number, answer: to, since, wait, stage, settling });
            }
            Err(NotTaken::Busy) => give(to, &refusal("too many changes are under way; ask again")),
            Err(NotTaken::Stopped) => {
                give(to, &refusal("the log of this node has stopped: ask another node"))
            }
            Err(NotTaken::TooLarge) => give(to, &refusal("the change is too large: divide it")),
        }
    }

    /// What a change would do, on a copy.
    fn would_do(&self, command: &Command) -> String {
        let mut copy = self.replica.database().clone();
        let index = copy.index() + 1;
        match copy.apply(index, command) {
            Applied::Done { event, .. } => {
                let changes: Vec<Value> =
                    event.iter().flat_map(|event| event.changes.iter().map(change_line)).collect();
                json!({ "dry_run": true, "number": copy.number().0, "changes": changes }).to_string()
            }
            Applied::Refused(answer) | Applied::Repeated(answer) => match answer.result {
                Err(refused) => refusal(&refused.to_string()),
                Ok(_) => json!({ "dry_run": true, "changes": [] }).to_string(),
            },
        }
    }

    /// Answers those who read, once this node's copy has all that they are to see.
    fn settle_readers(&mut self) {
        let is_behind = self.replica.has_steps();
        let database = self.replica.database();
        self.desk.reading.retain(|reading| {
            let answer = match reading.is_there && !is_behind {
                true => shown(database),
                false if reading.since.elapsed() > PROPOSAL_TIME_MAX => unread(&NotDone::NoLeader),
                false => return true,
            };
            give(reading.answer.clone(), &answer);
            false
        });
    }

    /// Answers those whose changes have ended by now.
    pub(crate) fn settle_asked(&mut self) {
        if !self.desk.reading.is_empty() {
            self.settle_readers();
        }
        if self.desk.waiting.is_empty() {
            return;
        }
        let (core, clients) = self.station.endpoint.parts();
        let database = self.replica.database();
        for waiting in &mut self.desk.waiting {
            if let (Stage::Answered(answer), Some(settling)) = (&waiting.stage, &mut waiting.settling) {
                settling.pursue(core, &mut clients.engine, database, answer);
            }
        }
        self.desk.waiting.retain(|waiting| {
            let is_open = waiting.settling.as_ref().is_some_and(Settling::is_open);
            let answer = match &waiting.stage {
                Stage::Answered(answer) if !is_open => settled(database, answer, waiting.wait),
                _ => None,
            };
            let time_max = if waiting.wait { WAIT_TIME_MAX } else { PROPOSAL_TIME_MAX };
            let answer = answer.or_else(|| {
                let late = waiting.since.elapsed() > time_max;
                late.then(|| {
                    if let (Stage::Answered(_), Some(settling)) = (&waiting.stage, &waiting.settling) {
                        return settling.too_late();
                    }
                    let why = "no answer in time: whether it was changed, or will be, is unknown; look again \
                               before you repeat it (netdisk status tells whether there is a majority)";
                    json!({ "error": why, "unknown": true }).to_string()
                })
            });
            if let Some(answer) = &answer {
                give(waiting.answer.clone(), answer);
            }
            answer.is_none()
        });
    }

    /// A token by which a machine may ask to join, once the database knows it.
    fn invite(&self, expires_s: u64) -> String {
        let mut id = TokenId([0; 16]);
        if let Err(fault) = getrandom::fill(&mut id.0) {
            return refusal(&format!("no randomness for a token: {fault}"));
        }
        let key = &self.genesis.key;
        let me = self.genesis.node;
        let others = self.members().filter(|node| *node != me);
        let contacts = std::iter::once(me).chain(others);
        let contacts: Vec<_> = contacts.filter_map(|node| join_address(&self.rows, node)).collect();
        if contacts.is_empty() {
            return refusal("this node has no address where a machine could ask to join");
        }
        let token = JoinToken {
            id,
            secret: TokenSecret::of(key, id),
            fingerprint: Fingerprint::of(key),
            expires_unix_ms: unix_ms().saturating_add(expires_s.saturating_mul(1000)),
            contacts: contacts.into_iter().take(CONTACTS_MAX).collect(),
        };
        json!({ "token": token.to_string() }).to_string()
    }

    fn mute(&mut self, link: u8, rail: u8, muted: bool) -> String {
        if self.monitor.mute(link, rail, muted) {
            tracing::warn!(link, rail, muted, "rail by order of the administrator");
            done()
        } else {
            refusal(&format!("this node has no rail {rail} in link {link}; see netdisk status"))
        }
    }
}

/// The answer to the administrator, once this node knows what the log answered, and the reconfiguration that
/// is waited for has ended.
fn settled(database: &Database, answer: &Answer, wait: bool) -> Option<String> {
    let outcome = match &answer.result {
        Err(refused) => {
            let text = json!({ "error": refused.to_string(), "answer": to_hex(&answer.encode()) });
            return Some(text.to_string());
        }
        Ok(outcome) => outcome,
    };
    if database.index() < answer.index {
        return None;
    }
    let row = outcome.reconfiguration.and_then(|id| database.reconfiguration(id));
    let phase = row.map(|row| row.phase);
    if wait && phase.is_some_and(|phase| phase.is_live()) {
        return None;
    }
    let id = outcome.reconfiguration.map(|ReconfigurationId(id)| id);
    let text = json!({
        "done": true,
        "answer": to_hex(&answer.encode()),
        "index": answer.index,
        "number": database.number().0,
        "reconfiguration": id,
        "phase": phase.map(|phase| phase.to_string()),
    });
    match phase {
        Some(control_proto::ccd::Phase::Cancelled { why, .. }) if wait => {
            Some(refusal(&format!("nothing was changed: {why}")))
        }
        _ => Some(text.to_string()),
    }
}

fn what(change: &Change) -> &'static str {
    match change {
        Change::Rows(_) => "a change of rows",
        Change::Prepare { .. } => "a reconfiguration",
        Change::Proceed { .. } => "a reconfiguration to go on",
        Change::Cancel { .. } => "the end of a reconfiguration",
        Change::Reservation { .. } => "a command about reservations",
        Change::Depart { .. } => "a node to leave",
        Change::Clear { .. } => "a tombstone to be cleared",
        Change::CreateToken(_) | Change::RevokeToken(_) => "an invitation",
        Change::Join { .. } => "a node to join",
        _ => "a change",
    }
}
