//! `netdisk demo`: three nodes on this machine, a virtual disk, real bytes, a killed master, a cut rail; and
//! at the end every byte is compared.
//!
//! ```text
//! director ── cluster      three processes of this program, killed with it
//!    │    └── live         the line that a person watches
//!    └── workload (thread) two NBD connections to C: the image, and the load
//!           ├── load ── stamp, history    what each block may hold
//!           ├── latency                   before, during and after the failover
//!           └── faults                    what a client must never see
//! ```

mod client;
mod cluster;
mod director;
pub(crate) mod failover;
mod faults;
mod folder;
mod history;
mod image;
mod interrupt;
mod latency;
mod live;
mod load;
mod outcome;
mod place;
mod read_back;
mod stamp;
mod ustar;
mod watched_load;
mod workload;

use folder::Folders;
use image::Image;
use interrupt::Interrupt;
use live::Live;
use place::{Place, Provider};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Show it: three nodes here, a killed master, every byte compared.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File to write through the cluster; by default the sources of the checkout, packed as an image.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Keep image, disk, configuration and logs in this new folder.
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// What carries the rails; for verbs the demo enters the soft-RoCE laboratory by itself.
    #[arg(long, value_enum, default_value = "usual")]
    provider: Provider,
    /// Seconds of load; a large image may take longer.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The outcome as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if let Some(code) = place::enter(arguments.provider)? {
        return Ok(code);
    }
    let place = Place::find(arguments.provider)?;
    let interrupt = Interrupt::watch()?;
    let mut folders = Folders::create(arguments.keep.as_deref())?;
    let mut live = Live::new();
    let image = match &arguments.input {
        Some(path) => Image::given(path)?,
        None => Image::packed(&folders.file("image"), &folders.file("sources"))?,
    };
    live.act(&format!("input: {}, {:.1} MiB", image.what(), image.length() as f64 / f64::from(1 << 20)));
    interrupt.check()?;
    let span = Duration::from_secs(arguments.seconds);
    let staged = director::stage(&folders, &place, image, span, &interrupt, &mut live);
    drop(live);
    let outcome = match staged {
        Ok(outcome) => outcome,
        Err(error) => {
            if interrupt.check().is_ok() {
                eprintln!("netdisk demo: the files of the run are kept in {}", folders.keep().display());
            }
            return Err(error);
        }
    };
    if arguments.json {
        println!("{}", outcome.json()?);
    } else {
        print!("{}", outcome.text());
    }
    if outcome.is_good() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("netdisk demo: the files of the run are kept in {}", folders.keep().display());
    Ok(ExitCode::FAILURE)
}
