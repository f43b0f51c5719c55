//! Reads everything back through one node when nothing is under way any more: the image byte by byte and as a
//! checksum, every block of the load against its history.

use super::client::{Cookie, NbdClient};
use super::faults::{Faults, Moment};
use super::image::Image;
use super::interrupt::Interrupt;
use super::load::Load;
use super::outcome::hex;
use super::stamp::{BLOCK_BYTES, BlockNumber};
use anyhow::bail;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of one read.
const PIECE_BYTES: u64 = 256 << 10;
/// Reads under way.
const DEPTH: usize = 4;
const SLEEP_MAX: Duration = Duration::from_millis(50);
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Reads in order, a few ahead.
struct Reader<'a> {
    client: &'a mut NbdClient,
    interrupt: &'a Interrupt,
    /// What is still to be asked for.
    next: u64,
    end: u64,
    asked: VecDeque<Cookie>,
    early: Vec<(Cookie, Vec<u8>)>,
}

impl<'a> Reader<'a> {
    fn over(client: &'a mut NbdClient, interrupt: &'a Interrupt, bytes: Range<u64>) -> Reader<'a> {
        let (next, end) = (bytes.start, bytes.end);
        Reader { client, interrupt, next, end, asked: VecDeque::new(), early: Vec::new() }
    }

    /// The next piece in order; `None` at the end.
    fn piece(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        while self.next < self.end && self.asked.len() < DEPTH {
            let length = PIECE_BYTES.min(self.end - self.next);
            self.asked.push_back(self.client.read(self.next, length as u32));
            self.next += length;
        }
        let Some(wanted) = self.asked.pop_front() else { return Ok(None) };
        let deadline = Instant::now() + SILENCE_MAX;
        loop {
            if let Some(at) = self.early.iter().position(|(cookie, _)| *cookie == wanted) {
                return Ok(Some(self.early.swap_remove(at).1));
            }
            for answer in self.client.turn()? {
                match answer.result {
                    Ok(bytes) => self.early.push((answer.cookie, bytes)),
                    Err(errno) => bail!("reading back was answered with an error: {errno}"),
                }
            }
            self.interrupt.check()?;
            if Instant::now() > deadline {
                bail!("no answer while reading back for {} s", SILENCE_MAX.as_secs());
            }
            if self.early.iter().all(|(cookie, _)| *cookie != wanted) {
                NbdClient::wait(&[&*self.client], SLEEP_MAX)?;
            }
        }
    }
}

/// Reads image and load back through node `through`: the image's SHA-256 and the bytes read.
pub(super) fn read_back(
    mut client: NbdClient,
    through: &str,
    image: &Image,
    load: &mut Load,
    faults: &mut Faults,
    interrupt: &Interrupt,
) -> anyhow::Result<(String, u64)> {
    let base = image.padded_length();
    let end = base + load.blocks() * BLOCK_BYTES as u64;
    let mut hash = Sha256::new();
    let (mut wrong, mut first_wrong, mut offset) = (0, 0, 0);
    let mut expected = Vec::new();
    let mut pieces = Reader::over(&mut client, interrupt, 0..base);
    while let Some(bytes) = pieces.piece()? {
        let own = (image.length() - offset).min(bytes.len() as u64) as usize;
        hash.update(&bytes[..own]);
        // The image's own pieces may be smaller than those of the reader.
        let mut at = 0;
        while at < bytes.len() {
            image.read_at(offset + at as u64, &mut expected)?;
            let length = expected.len().min(bytes.len() - at);
            let differing = bytes[at..at + length].iter().zip(&expected).enumerate();
            for (index, _) in differing.filter(|(_, (found, wanted))| found != wanted) {
                first_wrong = if wrong == 0 { offset + (at + index) as u64 } else { first_wrong };
                wrong += 1;
            }
            at += length;
        }
        offset += bytes.len() as u64;
    }
    if wrong > 0 {
        faults.image(wrong, first_wrong, through);
    }
    let mut pieces = Reader::over(&mut client, interrupt, base..end);
    let mut block = 0;
    while let Some(bytes) = pieces.piece()? {
        let count = (bytes.len() / BLOCK_BYTES) as u64;
        let floors = load.floors(BlockNumber(block), count);
        load.read(BlockNumber(block), &floors, &bytes, faults, (Moment::ReadBack, through));
        block += count;
    }
    client.close()?;
    Ok((hex(&hash.finalize()), end))
}
