//! A client on a real socket, in the same thread as the reactor that it talks to: what it writes is there at
//! once, so a test decides who comes first without sleeping.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blockdev_nbd::codec::{
    Chunk, ClientFlags, ClientOption, Command, CommandFlags, ExportQuery, Greeting, Request, SimpleReply,
};
use blockdev_nbd::connection::ConnectionLimits;
use blockdev_nbd::memory::{MemoryDisk, MemoryReactor, MemoryService};
use blockdev_nbd::{ListenAddress, NbdConfig, VolumeHandle};

pub(crate) const DISK: VolumeHandle = VolumeHandle(0);

/// A path for a socket that no other test uses.
pub(crate) fn socket_path(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("netdisk-nbd-{}-{number}-{name}.sock", std::process::id()))
}

pub(crate) fn unix_config(path: &Path) -> NbdConfig {
    let listen = vec![ListenAddress::Unix { path: path.to_owned(), mode: 0o600, owner: None }];
    NbdConfig { listen, ..NbdConfig::default() }
}

/// A reactor over a 16 MiB disk named `disk`.
pub(crate) fn reactor(name: &str, limits: ConnectionLimits) -> (MemoryReactor, PathBuf) {
    let path = socket_path(name);
    let config = NbdConfig { limits, ..unix_config(&path) };
    let service = MemoryService::new(vec![MemoryDisk::new("disk", 16 << 20)]);
    (MemoryReactor::new(config, service, Duration::ZERO).unwrap(), path)
}

/// Lets the server do all that it can do now.
pub(crate) fn settle(reactor: &mut MemoryReactor) {
    loop {
        reactor.harvest(Some(Duration::ZERO)).unwrap();
        if !reactor.round() && reactor.server.arm() {
            return;
        }
    }
}

pub(crate) struct Client {
    pub(crate) socket: UnixStream,
    pub(crate) received: Vec<u8>,
}

impl Client {
    /// Connects and says nothing yet.
    pub(crate) fn dial(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, received: Vec::new() }
    }

    /// Connects and opens `disk` with structured replies.
    pub(crate) fn open(reactor: &mut MemoryReactor, path: &Path) -> Self {
        let mut client = Self::dial(path);
        settle(reactor);
        client.send_handshake();
        settle(reactor);
        client.receive();
        assert!(client.received.len() > Greeting::BYTES);
        client.received.clear();
        client
    }

    pub(crate) fn send_handshake(&mut self) {
        let mut bytes = Vec::new();
        ClientFlags(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES).encode(&mut bytes);
        ClientOption::StructuredReply.encode(&mut bytes);
        ClientOption::Go(ExportQuery::plain("disk")).encode(&mut bytes);
        self.send(&bytes);
    }

    /// Opens `disk` without structured replies, as the kernel's client does.
    pub(crate) fn send_simple_handshake(&mut self) {
        let mut bytes = Vec::new();
        ClientFlags(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES).encode(&mut bytes);
        ClientOption::Go(ExportQuery::plain("disk")).encode(&mut bytes);
        self.send(&bytes);
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(crate) fn request(&mut self, command: Command, cookie: u64, offset: u64, length: u32) {
        let mut bytes = Vec::new();
        Request { flags: CommandFlags(0), command, cookie, offset, length }.encode(&mut bytes);
        self.send(&bytes);
    }

    pub(crate) fn write(&mut self, cookie: u64, offset: u64, payload: &[u8]) {
        self.request(Command::Write, cookie, offset, payload.len() as u32);
        self.send(payload);
    }

    /// Takes what has arrived. False once the server has hung up.
    pub(crate) fn receive(&mut self) -> bool {
        let mut room = [0; 65536];
        loop {
            match self.socket.read(&mut room) {
                Ok(0) => return false,
                Ok(count) => self.received.extend_from_slice(&room[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
    }

    /// The next successful write reply that has arrived: its cookie.
    pub(crate) fn acknowledged(&mut self) -> Option<u64> {
        self.receive();
        let reply = SimpleReply::parse(&self.received).unwrap()?;
        assert_eq!(reply.error, None);
        self.received.drain(..SimpleReply::BYTES);
        Some(reply.cookie)
    }

    /// The next data chunk that has arrived: its cookie and bytes.
    pub(crate) fn data(&mut self) -> Option<(u64, Vec<u8>)> {
        self.receive();
        let (header, chunk, length) = Chunk::parse(&self.received).unwrap()?;
        let Chunk::OffsetData { data, .. } = chunk else { panic!("no data but {chunk:?}") };
        let data = data.to_vec();
        self.received.drain(..length);
        Some((header.cookie, data))
    }
}
