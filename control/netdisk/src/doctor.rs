//! `netdisk doctor`: what is wrong, one line each, with the command that helps.

mod checks;
mod machine;
#[cfg(test)]
pub(crate) mod sample;

use crate::change::Look;
use crate::change::flow::Cluster;
use crate::daemon::{Daemon, request};
use crate::exit;
use anyhow::Context;
use checks::{Finding, Severity};
use control_node::admin::Request;
use control_node::report::Status;
use serde_json::{Value, json};
use std::process::ExitCode;

/// Say what is wrong and what helps.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    look: Look,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let look = &arguments.look;
    let socket = look.which.socket()?;
    let status = request(&socket, &Request::Status);
    let status = match status {
        Ok(answer) => serde_json::from_value::<Status>(answer).context("the node is of another release"),
        Err(error) => Err(error),
    };
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let folder = socket.parent().map_or_else(|| ".".into(), |folder| folder.display().to_string());
            let finding = Finding {
                severity: Severity::Wrong,
                what: format!("{error:#}"),
                help: format!("netdisk node run --state {folder}"),
            };
            show(&[finding], look.json)?;
            return Ok(exit::code(&error));
        }
    };
    let database = Daemon { socket: socket.clone() }.database()?;
    let mut found = checks::check(&status, &database);
    found.extend(machine::check(&socket, &status));
    found.sort_by_key(|finding| finding.severity);
    show(&found, look.json)?;
    let wrong = found.iter().any(|finding| finding.severity == Severity::Wrong);
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_json(finding: &Finding) -> Value {
    json!({ "severity": finding.severity.name(), "what": finding.what, "help": finding.help })
}

fn show(found: &[Finding], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&found.iter().map(as_json).collect::<Vec<Value>>())?);
        return Ok(());
    }
    for finding in found {
        println!("{}  {}; try: {}", finding.severity.name(), finding.what, finding.help);
    }
    if found.is_empty() {
        println!("all is well");
    }
    Ok(())
}
