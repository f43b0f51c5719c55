//! Whom a person may ask to be measured beside netdisk.

use clap::ValueEnum;

/// A peer, or a limit of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub(crate) enum Rival {
    /// UCX, by its own ucx_perftest.
    Ucx,
    /// libfabric, by its own fi_pingpong.
    Libfabric,
    /// perftest, inside the laboratory.
    Perftest,
    /// iceoryx2's publish-subscribe.
    Iceoryx2,
    /// Raw TCP sockets on the loopback.
    Tcp,
    /// Raw UNIX sockets.
    Unix,
    /// Limit: a cache line that goes to the other core and back.
    Cacheline,
    /// Limit: a copy into the memory of another process.
    Memcpy,
    /// nbdkit's memory disk.
    Nbdkit,
    /// qemu-nbd on a file in memory.
    QemuNbd,
    /// nbd-server on a file in memory.
    NbdServer,
    /// SPDK's NVMe/TCP target and its perf.
    Spdk,
    /// The kernel's NVMe over RDMA, inside the laboratory.
    NvmeRdma,
    /// The kernel's NVMe over TCP, inside the laboratory.
    NvmeTcp,
    /// etcd, beside the log of the configuration.
    Etcd,
}

impl Rival {
    /// As a person types it.
    pub(crate) fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Where it is measured, for those who asked elsewhere.
    pub(crate) fn elsewhere(self) -> String {
        let word = self.word();
        let there = match self {
            Self::Perftest | Self::NvmeRdma | Self::NvmeTcp => "netdisk lab bench".to_owned(),
            Self::Spdk => "netdisk bench disk --surface library --provider tcp --vs spdk".to_owned(),
            Self::Nbdkit | Self::QemuNbd | Self::NbdServer => {
                format!("netdisk bench disk --vs {word}")
            }
            Self::Etcd => "netdisk bench control --vs etcd".to_owned(),
            Self::Cacheline => "netdisk bench lat --provider shm --vs cacheline".to_owned(),
            Self::Memcpy => "netdisk bench bw --provider shm --vs memcpy".to_owned(),
            Self::Libfabric => "netdisk bench lat --vs libfabric".to_owned(),
            Self::Ucx | Self::Iceoryx2 | Self::Tcp | Self::Unix => {
                format!("netdisk bench lat|bw|rate --vs {word}")
            }
        };
        format!("{word} does not do this; it is compared by: {there}")
    }
}
