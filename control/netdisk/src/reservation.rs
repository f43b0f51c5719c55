//! `netdisk reservation`: who is registered with virtual disks and who holds them, with SCSI-3's and NVMe's
//! meaning. The node that is asked is the host.

use crate::change::flow::Cluster;
use crate::change::show::columns;
use crate::change::{Look, find};
use crate::daemon::Daemon;
use crate::exit::Failure;
use crate::which::Which;
use anyhow::{Context, anyhow};
use control_node::reservation::{Command, CommandFault, Key, Kind, command};
use control_proto::ccd::{Database, ReservationRow};
use serde_json::{Value, json};
use std::process::ExitCode;

/// See who is registered with virtual disks and holds them; register, reserve, release, preempt.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List keys and holders.
    List(Look),
    /// Register the node, or change its key.
    Register(Register),
    /// Take the node's registration back; what it alone holds goes with it.
    Unregister(Own),
    /// Make a reservation.
    Reserve(Typed),
    /// Give the reservation up.
    Release(Typed),
    /// Take the registrations of another key away, and the reservation if one of them holds it.
    Preempt(Preempt),
    /// Take all registrations and the reservation away.
    Clear(Own),
}

#[derive(clap::Args)]
struct On {
    /// The virtual disk.
    virtual_disk: String,
    #[command(flatten)]
    which: Which,
    /// What is so now, as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct Register {
    #[command(flatten)]
    on: On,
    /// The node's key from now on; any number but 0, such as 0x1a2b.
    #[arg(long, value_parser = key)]
    key: Key,
    /// The key that it is registered with now; without this, it must not be registered.
    #[arg(long, value_parser = key, conflicts_with = "ignore_existing")]
    existing: Option<Key>,
    /// Whatever key it is registered with now, if any.
    #[arg(long)]
    ignore_existing: bool,
}

#[derive(clap::Args)]
struct Own {
    #[command(flatten)]
    on: On,
    /// The node's key.
    #[arg(long, value_parser = key)]
    key: Key,
}

#[derive(clap::Args)]
struct Typed {
    #[command(flatten)]
    own: Own,
    /// we, ea (write exclusive, exclusive access), we-ro, ea-ro (registrants only), we-ar, ea-ar (all
    /// registrants).
    #[arg(long = "type", value_parser = kind)]
    kind: Kind,
}

#[derive(clap::Args)]
struct Preempt {
    #[command(flatten)]
    typed: Typed,
    /// The key of those who lose their registration; 0 for all others of a reservation that all registrants
    /// hold.
    #[arg(long, value_parser = any_key)]
    victim: Key,
    /// Done only when nothing that they asked before is under way any more.
    #[arg(long)]
    abort: bool,
}

fn any_key(text: &str) -> anyhow::Result<Key> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let number =
        number.with_context(|| format!("{text:?} is no key: write a number of 64 bits, such as 0x1a2b"));
    Ok(Key(number?))
}

fn key(text: &str) -> anyhow::Result<Key> {
    let key = any_key(text)?;
    anyhow::ensure!(key != Key::NONE, "0 is no key: choose another number");
    Ok(key)
}

fn kind(text: &str) -> anyhow::Result<Kind> {
    Kind::from_name(text).with_context(|| {
        let names: Vec<String> = Kind::ALL.map(|(kind, name)| format!("{name} ({kind})")).to_vec();
        format!("{text:?} is no type of reservation: there is {}", names.join("; "))
    })
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::List(look) => list(look),
        Action::Register(it) => {
            let existing = it.existing.unwrap_or(Key::NONE);
            let existing = (!it.ignore_existing).then_some(existing);
            carry_out(&it.on, Command::Register { existing, new: it.key })
        }
        Action::Unregister(it) => {
            carry_out(&it.on, Command::Register { existing: Some(it.key), new: Key::NONE })
        }
        Action::Reserve(Typed { own, kind }) => {
            carry_out(&own.on, Command::Reserve { key: own.key, kind: *kind })
        }
        Action::Release(Typed { own, kind }) => {
            carry_out(&own.on, Command::Release { key: own.key, kind: *kind })
        }
        Action::Preempt(Preempt { typed: Typed { own, kind }, victim, abort }) => {
            carry_out(&own.on, Command::Preempt { key: own.key, victim: *victim, kind: *kind, abort: *abort })
        }
        Action::Clear(own) => carry_out(&own.on, Command::Clear { key: own.key }),
    }
}

fn carry_out(on: &On, wanted: Command) -> anyhow::Result<ExitCode> {
    let mut daemon = Daemon::of(&on.which)?;
    let database = daemon.database()?;
    let disk = find::virtual_disk(database.rows(), &on.virtual_disk)?;
    command(&daemon.socket, disk.id, wanted).map_err(|fault| match fault {
        CommandFault::Conflict(_) => anyhow!("{fault}").context(Failure::Conflict),
        CommandFault::Unknown(why) => anyhow!("{why}").context(Failure::Unknown),
        CommandFault::NoMajority(why) => anyhow!("{why}").context(Failure::NoMajority),
        CommandFault::Unreachable(error) => anyhow!(error).context(Failure::Unreachable),
        CommandFault::Refused(why) => anyhow!("{why}"),
    })?;
    let after = daemon.database()?;
    let row = after.reservations().find(|row| row.volume == disk.id);
    if on.json {
        println!("{}", serde_json::to_string_pretty(&row.map(|row| shown(&after, row)))?);
    } else {
        print!("{}", columns(&HEAD, &row.map(|row| lines(&after, row)).unwrap_or_default()));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(look: &Look) -> anyhow::Result<ExitCode> {
    let database = Daemon::of(&look.which)?.database()?;
    if look.json {
        let rows: Vec<Value> = database.reservations().map(|row| shown(&database, row)).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        let rows: Vec<Vec<String>> = database.reservations().flat_map(|row| lines(&database, row)).collect();
        print!("{}", columns(&HEAD, &rows));
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 5] = ["VIRTUAL DISK", "GENERATION", "NODE", "KEY", "HOLDS"];

fn name(database: &Database, row: &ReservationRow) -> String {
    let disk = database.rows().virtual_disk(row.volume);
    disk.map_or_else(|| row.volume.0.to_string(), |disk| disk.name.clone())
}

/// One line for each host that is registered.
fn lines(database: &Database, row: &ReservationRow) -> Vec<Vec<String>> {
    let it = &row.reservations;
    let line = |one: &control_node::reservation::Registrant| {
        let holds = it.held.filter(|_| it.is_holder(one.node)).map(|held| held.kind.to_string());
        vec![
            name(database, row),
            it.generation.to_string(),
            database.rows().node_name(one.node),
            format!("{:#x}", one.key.0),
            holds.unwrap_or_else(|| "-".to_owned()),
        ]
    };
    it.registrants.iter().map(line).collect()
}

fn shown(database: &Database, row: &ReservationRow) -> Value {
    let it = &row.reservations;
    let registrants: Vec<Value> = it
        .registrants
        .iter()
        .map(|one| {
            json!({
                "node": one.node.0,
                "name": database.rows().node_name(one.node),
                "key": format!("{:#x}", one.key.0),
                "holds": it.is_holder(one.node),
            })
        })
        .collect();
    json!({
        "virtual_disk": name(database, row),
        "generation": it.generation,
        "type": it.held.map(|held| held.kind.name()),
        "registrants": registrants,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;

    // proves: B12
    #[test]
    fn keys_and_types_are_read_and_bad_ones_told_with_the_remedy() {
        assert_eq!((key("7").unwrap(), key("0x1A").unwrap()), (Key(7), Key(26)));
        assert_eq!(any_key("0").unwrap(), Key::NONE);
        for bad in ["0", "", "-1", "0x", "0x1ffffffffffffffff", "me"] {
            assert!(key(bad).unwrap_err().to_string().contains("is no key"), "{bad}");
        }
        for (known, name) in Kind::ALL {
            assert_eq!(kind(name).unwrap(), known);
        }
        assert!(kind("exclusive").unwrap_err().to_string().contains("we-ro (write exclusive, registrants"));
    }
}
