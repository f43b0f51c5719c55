//! `netdisk`: the one program of netdisk. Each sub-command is a module.

#![forbid(unsafe_code)]

mod cut;
mod demo;
mod disk;
mod lab;
mod logging;
mod node;
mod sim;
mod status;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Every disk of the cluster on every node, as if attached.
#[derive(Parser)]
#[command(name = "netdisk", version, about, long_about = None, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show it: three nodes on this machine, a virtual disk, a killed master, every byte compared.
    Demo(demo::Arguments),
    /// Run a node of a cluster.
    Node(node::Arguments),
    /// Tell what a running node sees: nodes, links, rails, disks, requests, failovers.
    Status(status::Arguments),
    /// Make and look at disks.
    Disk(disk::Arguments),
    /// Cut or mend a rail of a running node, to see what happens.
    Rail(cut::Arguments),
    /// Run simulated clusters under faults and judge them.
    Sim(sim::Arguments),
    /// Run any program under soft-RoCE, on any Linux machine.
    Lab(lab::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Node(arguments) => node::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Disk(arguments) => disk::run(&arguments),
        Command::Rail(arguments) => cut::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Lab(arguments) => lab::run(arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netdisk: {error:#}");
            ExitCode::FAILURE
        }
    }
}
