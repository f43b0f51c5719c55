//! A node that joined, until it has arrived: it sees to it that there are as many voters as is usual.

use crate::consensus::Asker;
use crate::node::Node;
use control_proto::ccd::{Change, Database, Expect, Row, RowChange};
use control_proto::rows::{NodeRow, voters_usual};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use transport_proto::identity::NodeId;

/// Voters are proposed this often while they are wanted.
const AGAIN: Duration = Duration::from_secs(1);

/// In the state folder from the joining until the node has arrived.
const FILE: &str = "arriving";

/// Marks a state folder as that of a node that joins. Before its genesis is written.
pub fn mark(folder: &Path) -> io::Result<()> {
    File::create(folder.join(FILE))?.sync_all()
}

/// A node that has joined and not arrived.
#[derive(Debug)]
pub(crate) struct Arrival {
    file: PathBuf,
    voters_at: Instant,
}

impl Arrival {
    /// Whether a state folder is that of such a node.
    pub(crate) fn of(folder: &Path) -> Option<Arrival> {
        let file = folder.join(FILE);
        file.exists().then(|| Arrival { file, voters_at: Instant::now() })
    }
}

/// Who is to vote in addition, so that as many do as is usual; nobody if members are too few for it.
fn more_voters(database: &Database) -> Vec<NodeRow> {
    let rows = database.rows();
    let is_member = |node: NodeId| database.membership().members.iter().any(|member| member.node == node);
    let all: Vec<NodeId> = rows.nodes.iter().map(|row| row.id).filter(|node| is_member(*node)).collect();
    let voters = rows.nodes.iter().filter(|row| row.voter).count();
    let wanted = voters_usual(&all).len().saturating_sub(voters);
    let others = rows.nodes.iter().filter(|row| !row.voter && is_member(row.id));
    let more: Vec<NodeRow> = others.take(wanted).map(|row| NodeRow { voter: true, ..row.clone() }).collect();
    if more.len() == wanted { more } else { Vec::new() }
}

impl Node {
    /// One step of a node that joined, once it is a member: it and those before it become voters if they are
    /// enough; then it has arrived. (Not the leader's business: what an operator chose later is left alone.)
    pub(crate) fn arrive(&mut self) {
        let me = self.me();
        let Some(arrival) = &mut self.arrival else { return };
        let database = self.replica.database();
        if !database.membership().has(me) {
            return;
        }
        let more = more_voters(database);
        if more.is_empty() {
            tracing::info!("arrived in the cluster");
            // If it stays, the same is looked at again after the next start.
            let _ = std::fs::remove_file(&arrival.file);
            self.arrival = None;
            return;
        }
        if Instant::now() < arrival.voters_at {
            return;
        }
        arrival.voters_at = Instant::now() + AGAIN;
        let changes: Vec<RowChange> = more.into_iter().map(|row| RowChange::Put(Row::Node(row))).collect();
        let expect = changes.iter().map(|change| {
            let key = change.key();
            Expect::Row { revision: database.revision(&key), key }
        });
        let expect = expect.collect();
        if let Some(consensus) = self.station.endpoint.clients().consensus.as_mut() {
            tracing::info!(more = changes.len(), "more nodes are to vote on the configuration");
            // What is refused or lost is proposed again, if it is still wanted then.
            let _ = consensus.propose(Asker::Arrival, expect, Change::Rows(changes));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use crate::config::Config;
    use control_proto::ccd::{Command, OperationId, Steward};
    use control_proto::view::Member;
    use std::path::Path;
    use transport_proto::identity::{Epoch, Incarnation};

    /// A cluster of so many nodes of which the first votes, with these members.
    fn database(nodes: u16, members: &[u16]) -> Database {
        let vote = |id: u16| if id == 1 { "voter = true\n" } else { "" };
        let nodes: String = (1..=nodes).map(|id| format!("[[node]]\nid = {id}\n{}", vote(id))).collect();
        let text = format!("[cluster]\nname = \"n\"\n{nodes}[[link]]\nrails = [{{ kind = \"tcp\" }}]\n");
        let mut database = Database::found(Config::parse_rows(Path::new("/c"), &text).unwrap()).unwrap();
        let member = |&node: &u16| Member { node: NodeId(node), incarnation: Incarnation(1) };
        let members: Vec<Member> = members.iter().map(member).collect();
        let by = Steward { member: member(&1), term: 1 };
        let change = Change::Membership { by, expect: Epoch(0), members, broken: vec![], causes: vec![] };
        for (index, change) in [(1, Change::Steward(by)), (2, change)] {
            let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: index };
            let command = Command { operation, expect: vec![], change };
            database.apply(index, &command).answer().result.clone().unwrap();
        }
        database
    }

    fn more(nodes: u16, members: &[u16]) -> Vec<u16> {
        more_voters(&database(nodes, members)).iter().map(|row| row.id.0).collect()
    }

    // proves: C1
    #[test]
    fn voters_grow_from_one_to_three_to_five_and_never_to_an_even_number() {
        assert_eq!(more(1, &[1]), Vec::<u16>::new());
        assert_eq!(more(2, &[1, 2]), Vec::<u16>::new());
        assert_eq!(more(3, &[1, 2, 3]), [2, 3]);
        // One of three does not run: two more voters would be one too few now.
        assert_eq!(more(3, &[1, 3]), Vec::<u16>::new());
        assert_eq!(more(4, &[1, 3, 4]), [3, 4]);
        assert_eq!(more(6, &[1, 2, 3, 4, 5, 6]), [2, 3, 4, 5]);
    }
}
