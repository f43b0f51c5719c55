//! SPDK's NVMe/TCP target on a memory disk, and its perf: both ends spin, each on its core. A build of the
//! user's own, found by an environment variable.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench_harness::{Contender, CoreId, CorePair, Measured, Recorder, Unit};

use super::fio::{FioFigure, FioWork};
use super::limited;
use super::pair::is_listening;
use crate::scratch::ScratchFolder;

/// Names the folder of SPDK's sources, built there.
const VARIABLE: &str = "NETDISK_SPDK";
const NQN: &str = "nqn.2016-06.io.spdk:netdisk-bench";
const BLOCK_BYTES: u64 = 4096;
/// How long the target may take to listen, and between two looks whether it does.
const START_WAIT_MAX: Duration = Duration::from_secs(30);
const START_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Memory of the target beside its disk, and of perf, MiB. Plain pages: a bench changes no machine.
const MEMORY_MIB: u64 = 512;

/// Where a program of the build is.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os(VARIABLE)?);
    let program = folder.join("build/bin").join(name);
    program.is_file().then_some(program)
}

/// What is missing, and how to get it.
pub(crate) fn missing() -> Option<String> {
    let there = ["nvmf_tgt", "spdk_nvme_perf"].into_iter().all(|name| program(name).is_some());
    (!there).then(|| {
        format!(
            "SPDK is not found: build it and set {VARIABLE} to the folder of its sources (build/bin is in it)"
        )
    })
}

/// Random blocks through SPDK's own initiator and target.
#[derive(Debug)]
pub(crate) struct Spdk {
    /// Where the two ends run.
    pub(crate) cores: CorePair,
    /// What is done.
    pub(crate) work: FioWork,
    /// Length of a turn; perf counts in whole seconds.
    pub(crate) runtime: Duration,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
    /// What is compared.
    pub(crate) figure: FioFigure,
}

impl Contender for Spdk {
    fn name(&self) -> String {
        "SPDK nvmf_tgt + perf, NVMe/TCP".to_owned()
    }

    fn measure(&mut self) -> Result<Measured> {
        let target = Target::start(self.cores.worker, self.disk_bytes)?;
        let seconds = self.runtime.as_secs().max(1);
        let mut perf = limited::command(&found("spdk_nvme_perf")?, Duration::from_secs(seconds + 60));
        let FioWork { writes, bytes, depth } = self.work;
        perf.args(["-c", &mask(self.cores.ours), "-s", &MEMORY_MIB.to_string(), "--no-huge", "-LL"]);
        perf.args(["-q", &depth.to_string(), "-o", &bytes.to_string(), "-t", &seconds.to_string()]);
        perf.args(["-w", if writes { "randwrite" } else { "randread" }]);
        perf.args([
            "-r",
            &format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{NQN}", target.port),
        ]);
        let output = limited::output(perf, "spdk_nvme_perf")?;
        let said = String::from_utf8_lossy(&output.stdout);
        measured(&said, self.figure, bytes).with_context(|| format!("spdk_nvme_perf told no result: {said}"))
    }
}

fn found(name: &str) -> Result<String> {
    Ok(program(name).with_context(|| missing().unwrap_or_default())?.display().to_string())
}

fn mask(core: CoreId) -> String {
    format!("{:#x}", 1_u128 << core.0.min(127))
}

/// A running target. Dropping it ends it.
struct Target {
    child: Child,
    port: u16,
    _folder: ScratchFolder,
}

impl Target {
    fn start(core: CoreId, disk_bytes: u64) -> Result<Self> {
        let folder = ScratchFolder::create()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let config = folder.path().join("target.json");
        fs::write(&config, configuration(port, disk_bytes).to_string())?;
        let memory_mib = MEMORY_MIB + (disk_bytes >> 20);
        let child = Command::new(found("nvmf_tgt")?)
            .args(["-m", &mask(core), "-s", &memory_mib.to_string(), "--no-huge", "-c"])
            .arg(&config)
            .arg("-r")
            .arg(folder.path().join("rpc.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nvmf_tgt cannot be started")?;
        let mut target = Self { child, port, _folder: folder };
        target.wait_until_it_listens(&config)?;
        Ok(target)
    }

    fn wait_until_it_listens(&mut self, config: &Path) -> Result<()> {
        let deadline = Instant::now() + START_WAIT_MAX;
        while !is_listening(self.port)? {
            if let Some(status) = self.child.try_wait()? {
                bail!("nvmf_tgt ended at once ({status}); try it by hand with -c {}", config.display());
            }
            if Instant::now() > deadline {
                bail!("nvmf_tgt did not listen within {} s", START_WAIT_MAX.as_secs());
            }
            std::thread::sleep(START_LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what they are for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A memory disk behind a subsystem that anyone on the loopback may use.
fn configuration(port: u16, disk_bytes: u64) -> serde_json::Value {
    let method =
        |name: &str, params: serde_json::Value| serde_json::json!({"method": name, "params": params});
    let disk = serde_json::json!({
        "name": "disk", "num_blocks": disk_bytes / BLOCK_BYTES, "block_size": BLOCK_BYTES,
    });
    let subsystem = serde_json::json!({"nqn": NQN, "allow_any_host": true, "serial_number": "NETDISK0"});
    let namespace = serde_json::json!({"nqn": NQN, "namespace": {"bdev_name": "disk"}});
    let address = serde_json::json!({
        "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": port.to_string(),
    });
    let listener = serde_json::json!({"nqn": NQN, "listen_address": address});
    serde_json::json!({"subsystems": [
        {"subsystem": "bdev", "config": [method("bdev_malloc_create", disk)]},
        {"subsystem": "nvmf", "config": [
            method("nvmf_create_transport", serde_json::json!({"trtype": "TCP"})),
            method("nvmf_create_subsystem", subsystem),
            method("nvmf_subsystem_add_ns", namespace),
            method("nvmf_subsystem_add_listener", listener),
        ]},
    ]})
}

/// Median and rate out of what perf prints with `-LL`, and the histogram behind them.
fn measured(said: &str, figure: FioFigure, bytes: u32) -> Option<Measured> {
    let total = said.lines().find_map(|line| line.strip_prefix("Total"))?;
    let per_s: f64 = total.split_once(':')?.1.split_whitespace().next()?.parse().ok()?;
    let median_us: f64 = said.lines().find_map(|line| {
        let (quantile, latency) = line.split_once("% :")?;
        let is_median = quantile.trim().parse::<f64>().is_ok_and(|quantile| quantile == 50.0);
        is_median.then(|| latency.trim().strip_suffix("us")?.trim().parse().ok())?
    })?;
    let measured = match figure {
        FioFigure::MedianLatency => Measured::figure(median_us * 1e3, Unit::Nanoseconds),
        FioFigure::Iops => Measured::figure(per_s, Unit::OperationsPerSecond),
        FioFigure::Bandwidth => Measured::figure(per_s * f64::from(bytes), Unit::BytesPerSecond),
    };
    let mut recorder = Recorder::new(1);
    for line in said.lines() {
        if let Some((end_us, count)) = bucket(line) {
            recorder.record_many_ns((end_us * 1e3) as u64, count);
        }
    }
    Some(Measured { recorder: (recorder.samples() > 0).then_some(recorder), ..measured })
}

/// `start - end: share%  ( count)`, times in microseconds.
fn bucket(line: &str) -> Option<(f64, u64)> {
    let (range, rest) = line.split_once(':')?;
    let end_us = range.split_once(" - ")?.1.trim().parse().ok()?;
    let count = rest.split_once('(')?.1.split_once(')')?.0.trim().parse().ok()?;
    Some((end_us, count))
}

#[cfg(test)]
mod tests {
    use bench_harness::Unit;

    use super::super::fio::FioFigure;
    use super::{configuration, mask, measured};
    use bench_harness::CoreId;

    const SAID: &str = "\
========================================================
                                                  Latency(us)
Device Information                    :       IOPS      MiB/s    Average        min        max
TCP  (addr:127.0.0.1) NSID 1 from core  0:  104012.35     406.30       9.58       8.13     123.42
========================================================
Total                                 :  104012.35     406.30       9.58       8.13     123.42

Summary latency data for TCP from core 0:
=================================================================================
  1.00000% :     8.441us
 50.00000% :     9.301us
 99.00000% :    13.652us

Latency histogram for TCP from core 0:
==============================================================================
       Range in us     Cumulative    IO count
    8.119 -     8.155:    0.0010%  (        2)
    9.265 -     9.301:   60.0000%  (      118)
";

    #[test]
    fn median_rate_and_histogram_are_read_from_what_perf_prints() {
        let median = measured(SAID, FioFigure::MedianLatency, 4096).unwrap();
        assert_eq!((median.figure, median.unit), (9_301.0, Unit::Nanoseconds));
        assert_eq!(median.recorder.unwrap().samples(), 120);
        assert_eq!(measured(SAID, FioFigure::Iops, 4096).unwrap().figure, 104_012.35);
        assert!(measured("no device", FioFigure::Iops, 4096).is_none());
    }

    #[test]
    fn the_target_gets_a_disk_of_the_size_and_the_port() {
        let config = configuration(4420, 1 << 20);
        assert_eq!(config["subsystems"][0]["config"][0]["params"]["num_blocks"], 256);
        let listener = &config["subsystems"][1]["config"][3]["params"]["listen_address"];
        assert_eq!((&listener["trsvcid"], &listener["traddr"]), (&"4420".into(), &"127.0.0.1".into()));
        assert_eq!(mask(CoreId(1)), "0x2");
    }
}
