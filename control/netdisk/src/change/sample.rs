//! A database for tests: three nodes, two of which reach a disk with one virtual disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use super::Plan;
use super::flow::{Cluster, Proposed, carry_out};
use control_node::config::Config;
use control_proto::ccd::{Change, Command, Database, Expect, OperationId, Steward};
use control_proto::rows::ClusterRows;
use control_proto::view::Member;
use std::path::Path;
use std::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, NodeId};

const TEXT: &str = r#"
[cluster]
name = "north"
[[node]]
id = 1
name = "alpha"
[[node]]
id = 2
name = "beta"
[[node]]
id = 3
name = "gamma"
[[link]]
rails = [{ kind = "shm" }, { kind = "tcp" }]
[[link]]
rails = [{ kind = "tcp" }]
[[disk]]
id = 1
name = "shelf"
nodes = ["alpha", "beta"]
path = "/shelf.img"
[[disk]]
id = 2
name = "spare"
nodes = ["alpha", "beta"]
path = "/spare.img"
[[disk]]
id = 3
name = "quick"
kind = "memory"
nodes = ["gamma"]
[[virtual_disk]]
id = 0
name = "vd0"
size = "64MiB"
disk = "shelf"
[[permission]]
virtual_disk = "vd0"
owner = 1000
mode = 0o640
[[nbd]]
node = "gamma"
listen = "unix:/run/c.sock"
"#;

/// Who takes care of the membership.
pub(crate) const STEWARD: Steward =
    Steward { member: Member { node: NodeId(1), incarnation: Incarnation(1) }, term: 1 };

pub(crate) fn member(node: u16) -> Member {
    Member { node: NodeId(node), incarnation: Incarnation(1) }
}

pub(crate) fn rows() -> ClusterRows {
    Config::parse_rows(Path::new("/c.toml"), TEXT).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The rows, founded, with all three as members.
pub(crate) fn database() -> Database {
    let mut database = Database::found(rows()).unwrap();
    let members = vec![member(1), member(2), member(3)];
    let (by, expect) = (STEWARD, Epoch(0));
    let change = Change::Membership { by, expect, members, broken: Vec::new(), causes: Vec::new() };
    for (index, change) in [(1, Change::Steward(STEWARD)), (2, change)] {
        let operation = OperationId { node: NodeId(3), life: Incarnation(1), sequence: index };
        let command = Command { operation, expect: Vec::new(), change };
        database.apply(index, &command).answer().result.clone().unwrap();
    }
    database
}

/// A cluster in which all goes well.
struct Smooth(Database);

impl Smooth {
    fn apply(&mut self, expect: Vec<Expect>, change: Change) -> Proposed {
        let operation = OperationId { node: NodeId(1), life: Incarnation(1), sequence: self.0.index() + 1 };
        let command = Command { operation, expect, change };
        let index = self.0.index() + 1;
        Proposed::Answered(self.0.apply(index, &command).answer().clone())
    }
}

impl Cluster for Smooth {
    fn database(&mut self) -> anyhow::Result<Database> {
        Ok(self.0.clone())
    }

    fn propose(&mut self, expect: Vec<Expect>, change: Change) -> anyhow::Result<Proposed> {
        Ok(self.apply(expect, change))
    }

    fn pause(&mut self, _: Duration) {
        let waited: Vec<_> =
            self.0.live_reconfigurations().map(|row| (row.id, row.missing.clone())).collect();
        for (reconfiguration, missing) in waited {
            for member in missing {
                self.apply(Vec::new(), Change::Ack { reconfiguration, member });
            }
        }
    }
}

/// The rows after a plan was carried out in a cluster where all goes well; or why not.
pub(crate) fn after(
    database: &Database,
    plan: &dyn Fn(&Database) -> anyhow::Result<Plan>,
) -> anyhow::Result<Database> {
    let mut cluster = Smooth(database.clone());
    carry_out(&mut cluster, plan, 500, false, &mut |_| {})?;
    Ok(cluster.0)
}

/// The text of a plan's refusal.
pub(crate) fn refused(database: &Database, plan: &dyn Fn(&Database) -> anyhow::Result<Plan>) -> String {
    match after(database, plan) {
        Ok(_) => panic!("it was not refused"),
        Err(error) => format!("{error:#}"),
    }
}
