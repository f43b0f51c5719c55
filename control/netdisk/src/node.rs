//! `netdisk node`: the daemon (`netdisk node run`, or `netdisk node` with the same options), and the nodes of
//! the cluster (`netdisk node list`, …).

use crate::daemon::request;
use crate::logging;
use crate::which::Which;
use anyhow::{Context, ensure};
use control_node::admin::Request;
use control_node::config::Config;
use control_node::{Ended, Node, NodeOptions};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use transport_endpoint::SpinSettings;
use transport_proto::identity::NodeId;

/// Run a node; see and change the nodes of the cluster.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: Run,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Run the node that lives in a state folder, or begin it from a configuration file.
    Run(Run),
    /// Tell a running node that the power is gone: it tells the others, gives up its disks and ends. For the
    /// daemon that watches the battery.
    PowerFail(PowerFail),
    #[command(flatten)]
    Table(crate::table::node::Action),
}

#[derive(clap::Args)]
struct Run {
    /// What a new cluster begins with, the same file on all its first nodes. Once a node has begun, the
    /// cluster's own configuration counts.
    #[arg(long, requires = "id", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which node of it this is.
    #[arg(long, requires = "config")]
    id: Option<u16>,
    /// Folder for what must survive a restart.
    #[arg(long, value_name = "FOLDER", required_unless_present = "config")]
    state: Option<PathBuf>,
    /// Admin socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Logs as JSON.
    #[arg(long)]
    log_json: bool,
    /// Longest spin after work before sleeping, microseconds.
    #[arg(long, default_value_t = 100, value_name = "MICROSECONDS")]
    spin: u64,
    /// Never sleep: for measurements on cores of the node's own.
    #[arg(long)]
    spin_forever: bool,
    /// End at once when this process, which must be the one that starts the node, ends.
    #[arg(long, value_name = "PID")]
    with_parent: Option<i32>,
}

#[derive(clap::Args)]
struct PowerFail {
    #[command(flatten)]
    which: Which,
}

/// Where a node of a cluster keeps its state and its admin socket, unless told otherwise.
pub(crate) fn default_folder(cluster: &str, id: u16) -> PathBuf {
    PathBuf::from(format!("/var/lib/netdisk/{cluster}/node{id}"))
}

/// Asks the kernel to end this process when its parent does.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot watch the parent process")?;
    // One that ended before that line sends no signal any more.
    let is_there = getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent);
    ensure!(is_there, "process {parent} is not the parent of this one, or is gone");
    Ok(())
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.action {
        Some(Action::Table(action)) => crate::table::node::run(&action),
        Some(Action::Run(run)) => daemon(run),
        Some(Action::PowerFail(order)) => {
            request(&order.which.socket()?, &Request::PowerFail)?;
            Ok(ExitCode::SUCCESS)
        }
        None => daemon(arguments.run),
    }
}

fn daemon(arguments: Run) -> anyhow::Result<ExitCode> {
    logging::start(arguments.log_json);
    if let Some(parent) = arguments.with_parent {
        end_with(parent)?;
    }
    let config = match (&arguments.config, arguments.id) {
        (Some(file), Some(id)) => Some((Config::load(file)?, NodeId(id))),
        _ => None,
    };
    let usual = config.as_ref().map(|(config, id)| default_folder(&config.rows.name, id.0));
    let state =
        arguments.state.or(usual).context("which node? name its --state folder, or --config and --id")?;
    std::fs::create_dir_all(&state)
        .with_context(|| format!("cannot make {}: choose another folder with --state", state.display()))?;
    let socket = arguments.socket.unwrap_or_else(|| state.join("admin.sock"));
    let spin = SpinSettings {
        spin_max: Duration::from_micros(arguments.spin),
        yielding: !arguments.spin_forever,
        forever: arguments.spin_forever,
    };
    let options = NodeOptions { config, state, socket: Some(socket.clone()), spin };
    let node = Node::start(options)?;
    node.speak_for_process().context("cannot watch for signals")?;
    for address in node.nbd_addresses() {
        tracing::info!("serving NBD on {address}");
    }
    tracing::info!("admin socket {}", socket.display());
    match node.run()? {
        Ended::Stopped => {
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Ended::GaveUp(reason) => anyhow::bail!(
            "this node gave up ({reason}) and told the others; it stays out until it is cleared by \
             `netdisk node clear`"
        ),
    }
}
