//! `netdisk cluster`: begin one, invite to it, and its whole configuration as a file.

mod init;
mod invite;
mod transfer;

use std::process::ExitCode;

/// Begin a cluster, invite nodes, write the configuration out and read it back.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Begin a cluster with one node, on this machine.
    Init(init::Arguments),
    /// Make a token by which one more machine joins, once.
    Token(invite::Arguments),
    /// Write the whole configuration as TOML, or as JSON.
    Export(transfer::Export),
    /// Make the configuration what a file says; shows the differences.
    Import(transfer::Import),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    match &arguments.action {
        Action::Init(init) => init::run(init),
        Action::Token(token) => invite::run(token),
        Action::Export(export) => transfer::export(export),
        Action::Import(import) => transfer::import(import),
    }
}
