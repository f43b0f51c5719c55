//! One end per machine: who listens starts a partner for whoever connects, and ends it when the connection
//! does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_harness::{CoreId, Worker};
use serde::{Deserialize, Serialize};

use super::partner::Partner;
use super::wiring::Wiring;
use crate::role::{Role, SUB_COMMAND};

/// What an invitation begins with, and its version.
const FORMAT: &str = "netdisk-bench-remote";
const VERSION: u32 = 1;
/// Longest line that is read from the other machine.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// How long the other machine may take for a line.
const WORD_WAIT_MAX: Duration = Duration::from_secs(20);

/// Asks for a partner at the other end of these addresses.
#[derive(Debug, Serialize, Deserialize)]
struct Invitation {
    format: String,
    version: u32,
    wiring: Wiring,
}

/// What the listening side says to it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Ready,
    Refused(String),
}

/// A partner on another machine, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
}

impl Session {
    /// Reaches whoever listens.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let help = "start the same command with --listen there first";
        let stream = TcpStream::connect_timeout(&address, WORD_WAIT_MAX)
            .with_context(|| format!("nobody listens at {address}: {help}"))?;
        Ok(Self { stream })
    }

    /// This machine's address and the other's, as the connection has them.
    ///
    /// # Errors
    /// The connection is gone.
    pub(crate) fn addresses(&self) -> Result<(IpAddr, IpAddr)> {
        Ok((self.stream.local_addr()?.ip(), self.stream.peer_addr()?.ip()))
    }

    /// Has a partner started there.
    ///
    /// # Errors
    /// It was refused, with the reason.
    pub(crate) fn invite(&mut self, wiring: Wiring) -> Result<()> {
        say(&mut self.stream, &Invitation { format: FORMAT.to_owned(), version: VERSION, wiring })?;
        match hear(&self.stream)? {
            Reply::Ready => Ok(()),
            Reply::Refused(why) => bail!("the other machine starts no partner: {why}"),
        }
    }
}

/// Serves one session after another, for ever or `sessions` of them.
///
/// # Errors
/// The address is taken.
pub(crate) fn listen(address: SocketAddr, core: CoreId, sessions: Option<u32>) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("{address} cannot be listened on"))?;
    eprintln!("listening on {}; end with Ctrl-C", listener.local_addr()?);
    let mut served = 0;
    while sessions.is_none_or(|sessions| served < sessions) {
        let (stream, from) = listener.accept()?;
        served += 1;
        match serve(stream, core) {
            Ok(()) => eprintln!("{from}: done"),
            Err(error) => eprintln!("{from}: {error:#}"),
        }
    }
    Ok(())
}

fn serve(mut stream: TcpStream, core: CoreId) -> Result<()> {
    match start(&stream, core) {
        Ok(_partner) => {
            say(&mut stream, &Reply::Ready)?;
            // Nothing more is said: the end of the connection ends the partner.
            stream.set_read_timeout(None)?;
            let _ = stream.read(&mut [0; 1]);
            Ok(())
        }
        Err(error) => {
            say(&mut stream, &Reply::Refused(format!("{error:#}")))?;
            Err(error)
        }
    }
}

fn start(stream: &TcpStream, core: CoreId) -> Result<Worker> {
    let Invitation { format, version, wiring } = hear(stream)?;
    ensure!(
        format == FORMAT && version == VERSION,
        "this is {FORMAT} {VERSION}, they speak {format} {version}: use the same netdisk on both machines"
    );
    wiring.check()?;
    let mut worker = Worker::start(SUB_COMMAND, &Role::NetdiskPartner(Partner { wiring, core }))?;
    let _ready: String = worker.hear()?;
    Ok(worker)
}

fn say(stream: &mut TcpStream, word: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(word)?;
    writeln!(stream, "{line}").context("the other machine is gone")
}

fn hear<T: for<'a> Deserialize<'a>>(stream: &TcpStream) -> Result<T> {
    stream.set_read_timeout(Some(WORD_WAIT_MAX))?;
    let mut line = String::new();
    BufReader::new(stream.take(LINE_BYTES_MAX))
        .read_line(&mut line)
        .context("the other machine says nothing")?;
    serde_json::from_str(&line).context("the other machine speaks another language: is it a netdisk bench?")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use bench_harness::CoreId;

    use super::{FORMAT, Reply, hear, serve};
    use crate::netdisk::{Carrier, Layout, Waiting, Wiring};

    fn answer_to(line: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut there = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (here, _) = listener.accept().unwrap();
        there.write_all(line.as_bytes()).unwrap();
        there.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(serve(here, CoreId(0)).is_err());
        match hear(&there).unwrap() {
            Reply::Refused(why) => why,
            Reply::Ready => panic!("{line} was accepted"),
        }
    }

    // proves: F4
    #[test]
    fn strangers_and_impossible_wirings_are_refused_with_the_reason() {
        assert!(answer_to("GET / HTTP/1.1\r\n").contains("another language"));
        assert!(answer_to("").contains("another language"));
        let wiring = Wiring::choose(Layout::one(Carrier::Shm, Waiting::Adaptive)).unwrap();
        let wiring = serde_json::to_string(&wiring).unwrap();
        let line = |version: u32, wiring: &str| {
            format!("{{\"format\":\"{FORMAT}\",\"version\":{version},\"wiring\":{wiring}}}\n")
        };
        assert!(answer_to(&line(2, &wiring)).contains("same netdisk"));
        assert!(answer_to(&line(1, &wiring.replace("\"links\":1", "\"links\":200"))).contains("200 links"));
        assert!(answer_to(&line(1, &wiring.replace("\"links\":1", "\"links\":2"))).contains("two addresses"));
    }
}
