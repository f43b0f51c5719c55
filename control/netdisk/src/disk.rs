//! `netdisk disk`: makes disks.

use anyhow::{Context, bail};
use blockdev_store::{DiskUuid, NewDisk, create};
use std::path::PathBuf;
use std::process::ExitCode;

/// Make and look at disks.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Format a file or a block device as a disk.
    Create(Create),
}

#[derive(clap::Args)]
struct Create {
    /// File or block device.
    path: PathBuf,
    /// Bytes for clients, with KiB, MiB, GiB or TiB; a device may leave it out and give all it has.
    #[arg(long)]
    size: Option<String>,
    /// Bytes of a block.
    #[arg(long, default_value_t = 4096)]
    block_size: u32,
    /// Leave holes instead of allocating the file's space now.
    #[arg(long)]
    sparse: bool,
    /// Erase what is there.
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Action::Create(new) = &arguments.action;
    let data_bytes = new.size.as_deref().map(bytes).transpose()?;
    let disk = NewDisk {
        data_bytes,
        block_bytes: new.block_size,
        uuid: uuid()?,
        sparse: new.sparse,
        force: new.force,
    };
    create(&new.path, &disk)?;
    println!("{} is a disk of blocks of {} bytes", new.path.display(), new.block_size);
    Ok(ExitCode::SUCCESS)
}

/// A fresh identity for a disk.
pub(crate) fn uuid() -> anyhow::Result<DiskUuid> {
    let mut bytes = [0; 16];
    let source = std::fs::File::open("/dev/urandom").context("no randomness for the disk's identity")?;
    std::io::Read::read_exact(&mut { source }, &mut bytes)
        .context("no randomness for the disk's identity")?;
    Ok(DiskUuid(u128::from_le_bytes(bytes)))
}

/// Bytes of a size such as `64MiB`.
fn bytes(size: &str) -> anyhow::Result<u64> {
    let digits = size.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit: u64 = match &size[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        other => bail!("unit {other:?} is unknown: use KiB, MiB, GiB or TiB"),
    };
    let count: u64 =
        digits.parse().with_context(|| format!("{size:?} is no size: write 64MiB or a number of bytes"))?;
    count.checked_mul(unit).with_context(|| format!("{size} is too large"))
}
