//! `netdisk status`: asks a running node by its admin socket.

use crate::daemon::request;
use crate::which::Which;
use anyhow::Context;
use control_node::admin::Request;
use control_node::report::{Status, text};
use std::process::ExitCode;

/// Tell what a running node sees.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let answer = request(&arguments.which.socket()?, &Request::Status)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        let status: Status = serde_json::from_value(answer).context("the node is of another release")?;
        print!("{}", text(&status));
    }
    Ok(ExitCode::SUCCESS)
}
