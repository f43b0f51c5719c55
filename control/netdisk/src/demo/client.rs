//! A small NBD client for the demo: several requests under way on one connection, simple replies, no thread.

use anyhow::{Context, bail};
use blockdev_nbd::BlockErrno;
use blockdev_nbd::codec::{
    ClientFlags, ClientOption, Command, CommandFlags, ExportQuery, Greeting, OptionReply, OptionReplyBody,
    Request, ServerInfo, SimpleReply,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long a server may take over one step of the handshake.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes taken from the socket at once.
const TAKE_BYTES: usize = 256 << 10;
/// Sent bytes are cut off the front of the outgoing ones when there are so many.
const SENT_BYTES_MAX: usize = 1 << 20;

/// A request's name on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cookie(u64);

/// The answer to a request; of a read, with its bytes.
pub(super) struct Answer {
    pub(super) cookie: Cookie,
    pub(super) result: Result<Vec<u8>, BlockErrno>,
}

/// One connection to an export.
pub(super) struct NbdClient {
    socket: UnixStream,
    outgoing: Vec<u8>,
    sent: usize,
    incoming: Vec<u8>,
    /// Where the socket's bytes go first.
    room: Vec<u8>,
    /// Bytes that the answer brings, by cookie.
    under_way: HashMap<u64, usize>,
    next: u64,
    size_bytes: u64,
}

impl NbdClient {
    /// Connects and opens an export.
    pub(super) fn open(path: &Path, export: &str) -> anyhow::Result<NbdClient> {
        let socket = UnixStream::connect(path)
            .with_context(|| format!("no NBD server answers at {}", path.display()))?;
        socket.set_read_timeout(Some(HANDSHAKE_WAIT_MAX))?;
        let mut client = NbdClient {
            socket,
            outgoing: Vec::new(),
            sent: 0,
            incoming: Vec::new(),
            room: vec![0; TAKE_BYTES],
            under_way: HashMap::new(),
            next: 0,
            size_bytes: 0,
        };
        client.shake_hands(export).with_context(|| format!("opening {export} at {}", path.display()))?;
        client.socket.set_nonblocking(true)?;
        Ok(client)
    }

    /// Size of the export.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Requests without an answer.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Reads `length` bytes.
    pub(super) fn read(&mut self, offset: u64, length: u32) -> Cookie {
        self.send(Command::Read, CommandFlags(0), offset, length, &[])
    }

    /// Writes; with `durable`, answered when the bytes would survive a power cut.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> Cookie {
        let flags = CommandFlags(if durable { CommandFlags::FUA } else { 0 });
        self.send(Command::Write, flags, offset, bytes.len() as u32, bytes)
    }

    /// Makes all answered writes durable.
    pub(super) fn flush(&mut self) -> Cookie {
        self.send(Command::Flush, CommandFlags(0), 0, 0, &[])
    }

    /// Says goodbye. Nothing may be under way.
    pub(super) fn close(mut self) -> anyhow::Result<()> {
        self.send(Command::Disconnect, CommandFlags(0), 0, 0, &[]);
        self.push()
    }

    /// Waits until one of the connections has something to take or can take more.
    pub(super) fn wait(clients: &[&NbdClient], at_most: Duration) -> anyhow::Result<()> {
        let interest = |client: &NbdClient| {
            let more = client.sent < client.outgoing.len();
            if more { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
        };
        let mut polled: Vec<PollFd<'_>> =
            clients.iter().map(|client| PollFd::new(&client.socket, interest(client))).collect();
        let limit = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: at_most.subsec_nanos().into() };
        match poll(&mut polled, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("waiting for an NBD server"),
        }
    }

    /// Sends what the socket takes and hands out the answers that are there.
    pub(super) fn turn(&mut self) -> anyhow::Result<Vec<Answer>> {
        self.push()?;
        let open = self.pull()?;
        let mut answers = Vec::new();
        let mut taken = 0;
        while let Some((answer, length)) = self.parse(&self.incoming[taken..])? {
            self.under_way.remove(&answer.cookie.0);
            taken += length;
            answers.push(answer);
        }
        self.incoming.drain(..taken);
        if !open && answers.is_empty() {
            bail!("the NBD server hung up with {} requests under way", self.under_way.len());
        }
        Ok(answers)
    }

    fn send(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u32,
        payload: &[u8],
    ) -> Cookie {
        let cookie = self.next;
        self.next += 1;
        if self.sent > SENT_BYTES_MAX {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
        Request { flags, command, cookie, offset, length }.encode(&mut self.outgoing);
        self.outgoing.extend_from_slice(payload);
        let answer_bytes = if command == Command::Read { length as usize } else { 0 };
        self.under_way.insert(cookie, answer_bytes);
        Cookie(cookie)
    }

    fn push(&mut self) -> anyhow::Result<()> {
        while self.sent < self.outgoing.len() {
            match self.socket.write(&self.outgoing[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("sending to the NBD server"),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes what has come; `false` once the server has hung up.
    fn pull(&mut self) -> anyhow::Result<bool> {
        loop {
            match self.socket.read(&mut self.room) {
                Ok(0) => return Ok(false),
                Ok(count) => self.incoming.extend_from_slice(&self.room[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("receiving from the NBD server"),
            }
        }
    }

    fn parse(&self, input: &[u8]) -> anyhow::Result<Option<(Answer, usize)>> {
        let Some(reply) = SimpleReply::parse(input)? else { return Ok(None) };
        let Some(expected) = self.under_way.get(&reply.cookie) else {
            bail!("the NBD server answered a request that was not under way");
        };
        let length = if reply.error.is_some() { 0 } else { *expected };
        let end = SimpleReply::BYTES + length;
        let Some(bytes) = input.get(SimpleReply::BYTES..end) else { return Ok(None) };
        let result = match reply.error {
            Some(errno) => Err(errno),
            None => Ok(bytes.to_vec()),
        };
        Ok(Some((Answer { cookie: Cookie(reply.cookie), result }, end)))
    }

    // --- handshake ---

    fn shake_hands(&mut self, export: &str) -> anyhow::Result<()> {
        while Greeting::parse(&self.incoming)?.is_none() {
            self.take_more()?;
        }
        self.incoming.drain(..Greeting::BYTES);
        let mut hello = Vec::new();
        ClientFlags(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES).encode(&mut hello);
        ClientOption::Go(ExportQuery::plain(export)).encode(&mut hello);
        self.socket.write_all(&hello)?;
        while !self.take_option_reply()? {}
        Ok(())
    }

    /// Takes one reply to the option; `true` when it was the last.
    fn take_option_reply(&mut self) -> anyhow::Result<bool> {
        let (length, last) = loop {
            let Some((reply, length)) = OptionReply::parse(&self.incoming)? else {
                self.take_more()?;
                continue;
            };
            let last = match reply.body {
                OptionReplyBody::Ack => true,
                OptionReplyBody::Error { error, message } => bail!("refused: {message} ({error:?})"),
                OptionReplyBody::Info(ServerInfo::Export { size_bytes, .. }) => {
                    self.size_bytes = size_bytes;
                    false
                }
                _ => false,
            };
            break (length, last);
        };
        self.incoming.drain(..length);
        Ok(last)
    }

    fn take_more(&mut self) -> anyhow::Result<()> {
        let mut room = [0; 1024];
        let count = self.socket.read(&mut room).context("the NBD server does not answer")?;
        if count == 0 {
            bail!("the NBD server hung up during the handshake");
        }
        self.incoming.extend_from_slice(&room[..count]);
        Ok(())
    }
}
