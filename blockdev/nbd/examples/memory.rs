//! An NBD server over a disk in memory, to measure the server itself and to try clients on.
//!
//! `cargo run --release -p blockdev-nbd --features test-service --example memory -- /tmp/nbd.sock [MiB] [spin
//! µs]`

use std::path::PathBuf;
use std::time::Duration;

use blockdev_nbd::memory::{MemoryDisk, MemoryReactor, MemoryService};
use blockdev_nbd::{ListenAddress, NbdConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path: PathBuf =
        arguments.next().ok_or("usage: memory SOCKET [MEBIBYTES] [SPIN_MICROSECONDS]")?.into();
    let mebibytes: u64 = arguments.next().map_or(Ok(1024), |text| text.parse())?;
    let spin_us: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;

    let service = MemoryService::new(vec![MemoryDisk::new("memory", mebibytes << 20)]);
    let listen = vec![ListenAddress::Unix { path, mode: 0o600, owner: None }];
    let config = NbdConfig { listen, ..NbdConfig::default() };
    let mut reactor = MemoryReactor::new(config, service, Duration::from_micros(spin_us))?;
    for address in reactor.server.addresses() {
        println!("serving the export \"memory\" on {address}");
    }
    reactor.run()?;
    Ok(())
}
