//! `netdisk rail cut`, `mend`: cuts a rail of a running node as a pulled cable would, and mends it.

use crate::daemon::request;
use crate::which::Which;
use control_node::admin::Request;
use std::process::ExitCode;

/// A rail of a running node.
#[derive(clap::Args)]
pub(crate) struct Cable {
    #[command(flatten)]
    which: Which,
    /// Logical link.
    #[arg(long)]
    link: u8,
    /// Rail of it.
    #[arg(long)]
    rail: u8,
    /// What was done, as JSON.
    #[arg(long)]
    json: bool,
}

impl Cable {
    fn done(&self, what: &str) -> ExitCode {
        if self.json {
            println!("{}", serde_json::json!({ "done": what, "link": self.link, "rail": self.rail }));
        }
        ExitCode::SUCCESS
    }
}

pub(crate) fn cut(cable: &Cable) -> anyhow::Result<ExitCode> {
    request(&cable.which.socket()?, &Request::CutRail { link: cable.link, rail: cable.rail })?;
    Ok(cable.done("cut"))
}

pub(crate) fn mend(cable: &Cable) -> anyhow::Result<ExitCode> {
    request(&cable.which.socket()?, &Request::MendRail { link: cable.link, rail: cable.rail })?;
    Ok(cable.done("mended"))
}
