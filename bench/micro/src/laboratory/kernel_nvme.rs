//! The kernel's NVMe over fabrics, initiator and target, on a memory disk of the same kernel, driven by fio.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_harness::{Contender, Measured};

use crate::netdisk::JobKind;
use crate::peers::{FioFigure, read_figure};

/// Sets one transport up; what it does stands in it.
const SCRIPT: &str = include_str!("nvme.sh");

/// What carries NVMe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fabric {
    /// nvme-rdma → nvmet-rdma, over soft-RoCE.
    Rdma,
    /// nvme-tcp → nvmet-tcp.
    Tcp,
}

impl Fabric {
    /// As the kernel calls it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        }
    }

    /// The kernel module of the initiator's side.
    pub(crate) fn module(self) -> &'static str {
        match self {
            Self::Rdma => "nvme-rdma",
            Self::Tcp => "nvme-tcp",
        }
    }
}

/// Random 4 KiB blocks from or to the kernel's block device.
#[derive(Debug)]
pub(crate) struct KernelNvme {
    /// What carries it.
    pub(crate) fabric: Fabric,
    /// Reads or writes.
    pub(crate) kind: JobKind,
    /// Requests in flight.
    pub(crate) depth: u32,
    /// Length of a turn.
    pub(crate) runtime: Duration,
    /// Time before it in which nothing is recorded.
    pub(crate) warm_up: Duration,
    /// Bytes of the disk.
    pub(crate) disk_bytes: u64,
}

impl Contender for KernelNvme {
    fn name(&self) -> String {
        let word = self.fabric.word();
        format!("nvme-{word} → nvmet-{word}")
    }

    fn measure(&mut self) -> Result<Measured> {
        let device = ready(self.fabric)?;
        let lost_before = connections_lost()?;
        let device = format!("--filename={device}");
        let size = format!("--size={}", self.disk_bytes);
        let common = [device.as_str(), &size, "--direct=1"];
        let (mode, direction) = match self.kind {
            JobKind::Read => ("--rw=randread", "read"),
            JobKind::Write => ("--rw=randwrite", "write"),
        };
        if self.kind == JobKind::Read {
            fio(&[&common[..], &["--name=fill", "--rw=write", "--bs=1m", "--ioengine=psync"]].concat())?;
        }
        let runtime = format!("--runtime={}ms", self.runtime.as_millis());
        let ramp = format!("--ramp_time={}ms", self.warm_up.as_millis());
        let depth = format!("--iodepth={}", self.depth);
        // With one request at a time nothing is quicker than the plain call.
        let (engine, figure) = match self.depth {
            1 => ("--ioengine=psync", FioFigure::MedianLatency),
            _ => ("--ioengine=libaio", FioFigure::Iops),
        };
        let job = ["--name=job", mode, "--bs=4k", "--time_based", &runtime, &ramp, &depth, engine];
        let measured = read_figure(&fio(&[&common[..], &job].concat())?, direction, figure)?;
        // Ten seconds of silence each: no figure of a peer, and nothing to be better than.
        let lost = connections_lost()? - lost_before;
        ensure!(lost == 0, "the kernel's initiator lost its connection {lost} times: soft-RoCE failed it");
        Ok(measured)
    }
}

/// The block device of a transport, set up if it is not.
fn ready(fabric: Fabric) -> Result<String> {
    let way = std::env::var("LAB_WAY").unwrap_or_default();
    ensure!(
        way == "kvm" || way == "tcg",
        "the kernel's target needs a kernel of its own, this laboratory is on the machine's: --way tcg"
    );
    let output = Command::new("nsenter")
        .args(["--net=/proc/1/ns/net", "--", "sh", "-c", SCRIPT, "nvme.sh", fabric.word()])
        .stdin(Stdio::null())
        .output()
        .context("nsenter cannot be started")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("nvmet over {} cannot be set up ({}): {said}", fabric.word(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How often the kernel's initiators have lost their connection since the guest was started.
fn connections_lost() -> Result<usize> {
    let output = Command::new("dmesg").stdin(Stdio::null()).output().context("dmesg cannot be started")?;
    ensure!(output.status.success(), "dmesg: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).matches("starting error recovery").count())
}

fn fio(job: &[&str]) -> Result<serde_json::Value> {
    let mut command = Command::new("fio");
    command.args(job).args(["--output-format=json", "--eta=never", "--thread"]);
    let output = command.stdin(Stdio::null()).output().context("fio cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("fio failed ({}): {}{text}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    let report = text.find('{').map(|start| &text[start..]).context("fio reported nothing")?;
    serde_json::from_str(report).context("fio's report is not JSON")
}
