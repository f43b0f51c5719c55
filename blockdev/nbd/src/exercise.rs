//! What the fuzzer drives: every parser, and one connection against a client that says anything and a service
//! that answers in any order. The corpus is replayed through the same function by an ordinary test.

use std::io::IoSlice;

use crate::codec::{
    Chunk, ClientFlags, ClientOption, ExportQuery, Greeting, MetaQuery, OptionHeader, OptionReply, Request,
    SimpleReply,
};
use crate::connection::{Connection, ConnectionLimits, EndReason, Step, Submission, split_tag};
use crate::{
    BlockAnswer, BlockErrno, BlockIo, BlockOperation, ExportEntry, Extent, OpenRefusal, OpenedExport,
    SubmitRefusal, SubmitRefusalReason, VolumeHandle,
};

const TRANSFER_BYTES: u32 = 64 << 10;
static ZEROES: [u8; TRANSFER_BYTES as usize] = [0; TRANSFER_BYTES as usize];

/// Replies of one run that are kept and parsed; beyond that the bytes are only counted off.
const OUTPUT_BYTES_MAX: usize = 4 << 20;

/// One run. The first byte chooses how far the handshake is when the rest arrives, the second how the stream
/// is cut and what the service does. Panics only if the crate has a bug.
pub fn exercise(bytes: &[u8]) {
    parse_everything(bytes);
    let [mode, seed, stream @ ..] = bytes else { return };
    let mut run = Run {
        connection: Connection::new(0, ConnectionLimits { requests_max: 8, bytes_max: 1 << 20 }),
        submitted: Vec::new(),
        seed: u64::from(*seed) | 0x100,
        output: Vec::new(),
    };
    let structured = mode % 3 == 2;
    if mode % 3 > 0 {
        run.agree(structured);
    }
    let mut input = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let cut = (run.roll() as usize % 64 + 1).min(rest.len());
        let (now, later) = rest.split_at(cut);
        rest = later;
        input.extend_from_slice(now);
        run.turn(&mut input);
        run.serve();
        run.drain();
    }
    if structured {
        assert_parses(&run.output);
    }
    run.connection.lost(EndReason::HungUp);
    while run.complete_one() {}
    assert_eq!(run.connection.unfinished_count(), 0, "a request outlived the service's answers");
    assert_eq!(run.connection.in_service(), 0, "the service is owed an answer");
}

fn parse_everything(bytes: &[u8]) {
    let _ = Greeting::parse(bytes);
    let _ = ClientFlags::parse(bytes);
    let _ = OptionHeader::parse(bytes);
    for number in 0..12 {
        if let Ok(option) = ClientOption::parse(number, bytes) {
            if option == ClientOption::Abort {
                // Whatever a client says beyond its farewell is ignored.
                continue;
            }
            let mut again = Vec::new();
            option.encode(&mut again);
            assert_eq!(again.get(OptionHeader::BYTES..), Some(bytes), "option {number} changed its bytes");
        }
    }
    if let Ok(Some((reply, length))) = OptionReply::parse(bytes) {
        let mut again = Vec::new();
        reply.encode(&mut again);
        assert_eq!(again, bytes[..length], "an option reply changed its bytes");
    }
    if let Ok(Some(request)) = Request::parse(bytes) {
        let mut again = Vec::new();
        request.encode(&mut again);
        assert_eq!(again, bytes[..Request::BYTES], "a request changed its bytes");
    }
    let _ = SimpleReply::parse(bytes);
    let _ = Chunk::parse(bytes);
}

/// Every byte belongs to a reply.
fn assert_parses(output: &[u8]) {
    let mut rest = output;
    while !rest.is_empty() {
        let length = match (Chunk::parse(rest), SimpleReply::parse(rest)) {
            (Ok(Some((_, _, length))), _) => length,
            (_, Ok(Some(_))) => SimpleReply::BYTES,
            (Ok(None), _) | (_, Ok(None)) => return,
            (Err(fault), Err(_)) => panic!("the server sent what is no reply: {fault}"),
        };
        rest = &rest[length..];
    }
}

struct Run {
    connection: Connection<Vec<u8>, &'static [u8]>,
    submitted: Vec<BlockIo<Vec<u8>>>,
    seed: u64,
    output: Vec<u8>,
}

impl Run {
    fn roll(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    /// Goes through the handshake as a sound client does.
    fn agree(&mut self, structured: bool) {
        let mut bytes = Vec::new();
        ClientFlags(ClientFlags::FIXED_NEWSTYLE).encode(&mut bytes);
        if structured {
            ClientOption::StructuredReply.encode(&mut bytes);
            let queries = b"\0\0\0\x0fbase:allocation";
            ClientOption::SetMetaContext(MetaQuery::from_encoded("disk", 1, queries)).encode(&mut bytes);
        }
        ClientOption::Go(ExportQuery::plain("disk")).encode(&mut bytes);
        self.turn(&mut bytes);
        assert!(self.connection.agreement().is_some(), "a sound handshake failed");
        self.drain();
        self.output.clear();
    }

    fn turn(&mut self, input: &mut Vec<u8>) {
        loop {
            let (count, step) = self.connection.advance(input);
            input.drain(..count);
            match step {
                Step::Progress => {}
                Step::NeedPayload => {
                    let room = self.connection.payload_room();
                    let count = room.len().min(input.len());
                    if count == 0 {
                        break;
                    }
                    room[..count].copy_from_slice(&input[..count]);
                    input.drain(..count);
                    self.connection.payload_arrived(count);
                }
                Step::NeedBuffer { .. } if self.roll().is_multiple_of(4) => {
                    self.connection.starved();
                    break;
                }
                Step::NeedBuffer { length, .. } => self.connection.grant_buffer(vec![0; length as usize]),
                Step::List => {
                    let entry = ExportEntry { name: "disk".to_owned(), description: String::new() };
                    self.connection.listed(&[entry]);
                }
                Step::Open { name, .. } => {
                    self.connection.opened(open(&name));
                }
                Step::NeedInput | Step::Full | Step::Ended => break,
            }
        }
    }

    /// The service takes operations, or is busy, or refuses; then it completes some.
    fn serve(&mut self) {
        loop {
            let roll = self.roll() % 16;
            let submitted = &mut self.submitted;
            let result = self.connection.submit_next(|io| match roll {
                0 => Err(SubmitRefusal { io, reason: SubmitRefusalReason::Busy }),
                1 => Err(SubmitRefusal { io, reason: SubmitRefusalReason::Failed(BlockErrno::NoMemory) }),
                _ => {
                    submitted.push(io);
                    Ok(())
                }
            });
            match result {
                Submission::Idle => break,
                Submission::Busy => {
                    self.connection.starved();
                    break;
                }
                Submission::Submitted | Submission::Refused(_) => {}
            }
        }
        for _ in 0..self.roll() % 8 {
            self.complete_one();
        }
    }

    fn complete_one(&mut self) -> bool {
        if self.submitted.is_empty() {
            return false;
        }
        let index = self.roll() as usize % self.submitted.len();
        let io = self.submitted.swap_remove(index);
        let result = match (self.roll() % 16, io.operation) {
            (0, _) => Err(BlockErrno::Io),
            (1, _) => Ok(BlockAnswer::Done),
            (_, BlockOperation::Read { length, .. }) => Ok(BlockAnswer::Data(&ZEROES[..length as usize])),
            (_, BlockOperation::BlockStatus { length, .. }) => {
                Ok(BlockAnswer::Extents(vec![Extent { length, hole: true, zero: true }]))
            }
            _ => Ok(BlockAnswer::Done),
        };
        let (_, job, piece) = split_tag(io.tag);
        self.connection.complete(job, piece, result);
        true
    }

    /// The client takes some of the replies.
    fn drain(&mut self) {
        let outbox = self.connection.outbox();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = outbox.gather(&mut slices);
            let mut taken = 0;
            for slice in &slices[..count] {
                taken += slice.len();
                if self.output.len() < OUTPUT_BYTES_MAX {
                    self.output.extend_from_slice(slice);
                }
            }
            outbox.written(taken);
        }
    }
}

fn open(name: &str) -> Result<OpenedExport, OpenRefusal> {
    if name != "disk" {
        return Err(OpenRefusal::Unknown);
    }
    Ok(OpenedExport {
        volume: VolumeHandle(0),
        size_bytes: 1 << 40,
        block_bytes: 1,
        max_transfer_bytes: TRANSFER_BYTES,
        read_only: false,
        fast_zero: true,
        description: String::new(),
    })
}
