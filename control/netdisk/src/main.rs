//! `netdisk`: the one program of netdisk. Each sub-command is a module.

#![forbid(unsafe_code)]

mod bench;
mod change;
mod cluster;
mod cut;
mod daemon;
mod demo;
mod doctor;
mod exit;
mod join;
mod lab;
mod leave;
mod logging;
mod node;
mod random;
mod reconfigure;
mod reservation;
mod sim;
mod status;
mod table;
mod watch;
mod which;

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
    /// Begin a cluster, invite nodes, write the configuration out and read it back.
    Cluster(cluster::Arguments),
    /// Run a node; see and change the nodes of the cluster.
    Node(node::Arguments),
    /// Become a node of a cluster, by a token.
    Join(join::Arguments),
    /// Let the node of this machine leave the cluster for good.
    Leave(leave::Arguments),
    /// Tell what happens, as it happens.
    Watch(watch::Arguments),
    /// Say what is wrong, and what helps.
    Doctor(doctor::Arguments),
    /// Tell what a running node sees: nodes, links, rails, disks, requests, failovers.
    Status(status::Arguments),
    /// See and change logical links.
    Link(table::link::Arguments),
    /// See, add and remove rails; cut or mend one of a running node.
    Rail(table::rail::Arguments),
    /// Format disks; see and change which nodes reach them.
    Disk(table::disk::Arguments),
    /// See and change virtual disks, while clients use them.
    Vdisk(table::vdisk::Arguments),
    /// See and change virtual disks that lie on others: mirrors, concatenations, stripes.
    Volume(table::volume::Arguments),
    /// Lend spare storage, borrow volumes of it, watch and steer the whole pool.
    Pool(table::pool::Arguments),
    /// See and change who may open a virtual disk.
    Permission(table::permission::Arguments),
    /// See who is registered with virtual disks and holds them; register, reserve, release, preempt.
    Reservation(reservation::Arguments),
    /// See and change NBD servers.
    Nbd(table::nbd::Arguments),
    /// See changes that nodes stand still for; let one go on, or give it up.
    Change(reconfigure::Arguments),
    /// Measure netdisk on this machine.
    Bench(bench::Arguments),
    /// Run simulated clusters under faults and judge them.
    Sim(sim::Arguments),
    /// Run any program under soft-RoCE, on any Linux machine.
    Lab(lab::Arguments),
    /// What `lab bench` runs inside the laboratory.
    #[command(hide = true)]
    LabBench(lab::GuestArguments),
    /// The other end of an exchange that is measured; started by `lab bench` itself.
    #[command(hide = true)]
    Worker(lab::WorkerArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Node(arguments) => node::run(arguments),
        Command::Join(arguments) => join::run(&arguments),
        Command::Leave(arguments) => leave::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Link(arguments) => table::link::run(&arguments),
        Command::Rail(arguments) => table::rail::run(&arguments),
        Command::Disk(arguments) => table::disk::run(&arguments),
        Command::Vdisk(arguments) => table::vdisk::run(&arguments),
        Command::Volume(arguments) => table::volume::run(&arguments),
        Command::Pool(arguments) => table::pool::run(&arguments),
        Command::Permission(arguments) => table::permission::run(&arguments),
        Command::Reservation(arguments) => reservation::run(&arguments),
        Command::Nbd(arguments) => table::nbd::run(&arguments),
        Command::Change(arguments) => reconfigure::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Lab(arguments) => lab::run(arguments),
        Command::LabBench(arguments) => lab::measure_in_guest(&arguments),
        Command::Worker(arguments) => lab::serve_worker(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netdisk: {error:#}");
            exit::code(&error)
        }
    }
}
