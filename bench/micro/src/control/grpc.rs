//! As much of gRPC over HTTP/2 as it takes to put keys into etcd, many at a time on one connection.
//!
//! Written here so that the client costs as little as ours does: no runtime, no threads, no header tables.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::client::{Client, VALUE_BYTES};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEAD_BYTES: usize = 9;
/// What either side may send before it is allowed more.
const WINDOW_BYTES: i64 = 65_535;
const PUT: &str = "/etcdserverpb.KV/Put";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// A connection to one node of etcd.
pub(crate) struct EtcdClient {
    stream: TcpStream,
    out: Vec<u8>,
    inbox: Vec<u8>,
    next_stream: u32,
    /// Bytes that the server still takes.
    send_window: i64,
    /// Calls whose answer has come, but not its end.
    with_data: HashSet<u32>,
    /// The last answer.
    answer: Vec<u8>,
    put_headers: Vec<u8>,
    put_message: Vec<u8>,
}

impl EtcdClient {
    pub(crate) fn connect(port: u16) -> Result<EtcdClient> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        let mut put = Vec::new();
        put_field(&mut put, 1, b"/netdisk/bench");
        put_field(&mut put, 2, &[b'v'; VALUE_BYTES]);
        let mut client = EtcdClient {
            stream,
            out: PREFACE.to_vec(),
            inbox: Vec::new(),
            next_stream: 1,
            send_window: WINDOW_BYTES,
            with_data: HashSet::new(),
            answer: Vec::new(),
            put_headers: header_block(PUT),
            put_message: message(&put),
        };
        client.frame(SETTINGS, 0, 0, &[]);
        // Answers are small; with this the server never has to wait for room.
        client.frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
        Ok(client)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend_from_slice(&[kind, flags]);
        self.out.extend_from_slice(&stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }

    fn call(&mut self, headers: &[u8], message: &[u8]) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.frame(HEADERS, END_HEADERS, stream, headers);
        self.frame(DATA, END_STREAM, stream, message);
        self.send_window -= message.len() as i64;
        stream
    }

    /// This node's id and the leader's.
    pub(crate) fn status(&mut self, wait: Duration) -> Result<Option<(u64, u64)>> {
        self.call(&header_block(STATUS), &message(&[]));
        let Some((_, true)) = self.answer(wait)? else { return Ok(None) };
        let answer = std::mem::take(&mut self.answer);
        let body = answer.get(5..).unwrap_or_default();
        let head = find_bytes(body, 1).unwrap_or_default();
        Ok(find_number(head, 2).zip(find_number(body, 4)))
    }

    /// Takes one frame off the inbox; whose call has ended by it, and whether well.
    fn take_frame(&mut self) -> Result<Option<Option<(u64, bool)>>> {
        let Some((head, rest)) = self.inbox.split_first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        if rest.len() < length {
            return Ok(None);
        }
        let payload = rest[..length].to_vec();
        self.inbox.drain(..FRAME_HEAD_BYTES + length);
        let ended = match kind {
            DATA => {
                self.with_data.insert(stream);
                self.answer = payload;
                (flags & END_STREAM != 0).then_some((u64::from(stream), true))
            }
            // Headers that end a call without data carry an error.
            HEADERS if flags & END_STREAM != 0 => Some((u64::from(stream), self.with_data.remove(&stream))),
            RST_STREAM => Some((u64::from(stream), false)),
            SETTINGS if flags & ACK == 0 => {
                self.frame(SETTINGS, ACK, 0, &[]);
                None
            }
            PING if flags & ACK == 0 => {
                self.frame(PING, ACK, 0, &payload);
                None
            }
            WINDOW_UPDATE if stream == 0 => {
                let more = payload.first_chunk::<4>().map_or(0, |more| u32::from_be_bytes(*more));
                self.send_window += i64::from(more);
                None
            }
            GOAWAY => bail!("etcd closes the connection"),
            _ => None,
        };
        Ok(Some(ended))
    }
}

impl Client for EtcdClient {
    fn put(&mut self) -> Result<u64> {
        let (headers, message) = (self.put_headers.clone(), self.put_message.clone());
        if self.send_window < message.len() as i64 {
            bail!("etcd takes no more bytes; fewer writes may be open at once");
        }
        Ok(u64::from(self.call(&headers, &message)))
    }

    fn answer(&mut self, wait: Duration) -> Result<Option<(u64, bool)>> {
        let deadline = Instant::now() + wait;
        let mut bytes = [0; 16 << 10];
        loop {
            while let Some(ended) = self.take_frame()? {
                if ended.is_some() {
                    return Ok(ended);
                }
            }
            self.stream.write_all(&self.out)?;
            self.out.clear();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("etcd is gone"),
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// POST, http, then literal fields that no table remembers.
fn header_block(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let fields = [
        (":path", path),
        (":authority", "127.0.0.1"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        for part in [name, value] {
            block.push(part.len() as u8);
            block.extend_from_slice(part.as_bytes());
        }
    }
    block
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn message(body: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend_from_slice(&(body.len() as u32).to_be_bytes());
    framed.extend_from_slice(body);
    framed
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_number(out, field << 3 | 2);
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn find<'a>(mut bytes: &'a [u8], wanted: u64) -> Option<Field<'a>> {
    while !bytes.is_empty() {
        let key = take_number(&mut bytes)?;
        let value = match key & 7 {
            0 => Field::Number(take_number(&mut bytes)?),
            2 => {
                let length = usize::try_from(take_number(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Field::Bytes(value)
            }
            _ => return None,
        };
        if key >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn find_number(bytes: &[u8], wanted: u64) -> Option<u64> {
    match find(bytes, wanted)? {
        Field::Number(number) => Some(number),
        Field::Bytes(_) => None,
    }
}

fn find_bytes(bytes: &[u8], wanted: u64) -> Option<&[u8]> {
    match find(bytes, wanted)? {
        Field::Bytes(found) => Some(found),
        Field::Number(_) => None,
    }
}
