//! A client and a service on paper: drives one connection machine without a socket.

use std::io::IoSlice;

use blockdev_nbd::codec::{
    Chunk, ClientFlags, ClientOption, Command, CommandFlags, ExportQuery, Greeting, MetaQuery, OptionReply,
    Request, SimpleReply,
};
use blockdev_nbd::connection::{Connection, ConnectionLimits, Step, Submission, split_tag};
use blockdev_nbd::{
    BlockAnswer, BlockErrno, BlockIo, BlockOperation, ExportEntry, OpenRefusal, OpenedExport, SubmitRefusal,
    SubmitRefusalReason, VolumeHandle,
};

/// The disk of these tests: 1 GiB of 512-byte blocks.
pub(crate) fn export() -> OpenedExport {
    OpenedExport {
        volume: VolumeHandle(7),
        size_bytes: 1 << 30,
        block_bytes: 512,
        max_transfer_bytes: 64 << 10,
        read_only: false,
        fast_zero: false,
        description: "a disk on paper".to_owned(),
    }
}

/// `base:allocation` as an encoded context query.
pub(crate) fn allocation_query() -> Vec<u8> {
    query("base:allocation")
}

/// One encoded context query.
pub(crate) fn query(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// One connection with a service that the test plays.
pub(crate) struct Rig {
    pub(crate) connection: Connection<Vec<u8>, Vec<u8>>,
    /// What `disk` opens as.
    pub(crate) export: OpenedExport,
    /// Bytes of the client that the machine has not taken.
    pub(crate) input: Vec<u8>,
    /// Operations in the service.
    pub(crate) submitted: Vec<BlockIo<Vec<u8>>>,
    /// The service refuses buffers and operations beyond this number.
    pub(crate) room: usize,
    /// The service refuses every operation with this.
    pub(crate) refusal: Option<BlockErrno>,
    /// Exports that were opened and closed at once.
    pub(crate) probes: usize,
    pub(crate) last_step: Step,
}

impl Rig {
    /// A connection before its first byte.
    pub(crate) fn fresh() -> Self {
        Self::with_limits(ConnectionLimits::default())
    }

    pub(crate) fn with_limits(limits: ConnectionLimits) -> Self {
        Self {
            connection: Connection::new(3, limits),
            export: export(),
            input: Vec::new(),
            submitted: Vec::new(),
            room: usize::MAX,
            refusal: None,
            probes: 0,
            last_step: Step::NeedInput,
        }
    }

    /// A connection that has said hello.
    pub(crate) fn greeted(mut self) -> Self {
        let greeting = self.output();
        assert_eq!(greeting.len(), Greeting::BYTES);
        assert!(Greeting::parse(&greeting).unwrap().is_some());
        let mut bytes = Vec::new();
        ClientFlags(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES).encode(&mut bytes);
        self.send(&bytes);
        self
    }

    /// A connection in transmission, with structured replies and `base:allocation`, or with simple replies.
    pub(crate) fn transmitting(structured: bool, export: OpenedExport) -> Self {
        let mut rig = Self { export, ..Self::fresh() }.greeted();
        if structured {
            rig.option(ClientOption::StructuredReply);
            let queries = allocation_query();
            rig.option(ClientOption::SetMetaContext(MetaQuery::from_encoded("disk", 1, &queries)));
        }
        rig.option(ClientOption::Go(ExportQuery::plain("disk")));
        rig.output();
        assert!(rig.connection.agreement().is_some());
        rig
    }

    pub(crate) fn option(&mut self, option: ClientOption<'_>) {
        let mut bytes = Vec::new();
        option.encode(&mut bytes);
        self.send(&bytes);
    }

    pub(crate) fn request(&mut self, command: Command, flags: u16, cookie: u64, offset: u64, length: u32) {
        let mut bytes = Vec::new();
        Request { flags: CommandFlags(flags), command, cookie, offset, length }.encode(&mut bytes);
        self.send(&bytes);
    }

    /// The client sends bytes; the machine goes as far as it can.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.turn();
    }

    /// Lets the machine go as far as it can.
    pub(crate) fn turn(&mut self) {
        loop {
            let (count, step) = self.connection.advance(&self.input);
            self.input.drain(..count);
            self.last_step = step;
            match &self.last_step {
                Step::Progress => {}
                Step::NeedPayload => {
                    let room = self.connection.payload_room();
                    let count = room.len().min(self.input.len());
                    if count == 0 {
                        break;
                    }
                    room[..count].copy_from_slice(&self.input[..count]);
                    self.input.drain(..count);
                    self.connection.payload_arrived(count);
                }
                Step::NeedBuffer { length, .. } => {
                    if self.submitted.len() >= self.room {
                        self.connection.starved();
                        break;
                    }
                    self.connection.grant_buffer(vec![0; *length as usize]);
                }
                Step::List => {
                    let entry = |name: &str| ExportEntry { name: name.into(), description: "paper".into() };
                    self.connection.listed(&[entry("disk"), entry("tape")]);
                }
                Step::Open { name, probe } => {
                    let result = match name.as_str() {
                        "disk" | "" => Ok(self.export.clone()),
                        "secret" => Err(OpenRefusal::NotPermitted),
                        "far" => Err(OpenRefusal::Unreachable),
                        _ => Err(OpenRefusal::Unknown),
                    };
                    self.probes += usize::from(*probe);
                    self.connection.opened(result);
                }
                Step::NeedInput | Step::Full | Step::Ended => break,
            }
            self.submit();
        }
        self.submit();
    }

    fn submit(&mut self) {
        loop {
            let (room, refusal, submitted) = (self.room, self.refusal, &mut self.submitted);
            let result = self.connection.submit_next(|io| match refusal {
                Some(errno) => Err(SubmitRefusal { io, reason: SubmitRefusalReason::Failed(errno) }),
                None if submitted.len() >= room => {
                    Err(SubmitRefusal { io, reason: SubmitRefusalReason::Busy })
                }
                None => {
                    submitted.push(io);
                    Ok(())
                }
            });
            match result {
                Submission::Idle => return,
                Submission::Submitted | Submission::Refused(_) => {}
                Submission::Busy => return self.connection.starved(),
            }
        }
    }

    /// The service completes the operation at `index` of those submitted.
    pub(crate) fn complete(&mut self, index: usize, result: Result<BlockAnswer<Vec<u8>>, BlockErrno>) {
        let (connection, job, piece) = split_tag(self.submitted.remove(index).tag);
        assert_eq!(connection, 3);
        self.connection.complete(job, piece, result);
    }

    /// Completes the read at `index` with bytes that tell their offset: each block is filled with its number.
    pub(crate) fn complete_read(&mut self, index: usize) {
        let BlockOperation::Read { offset, length } = self.submitted[index].operation else {
            panic!("operation {index} is no read");
        };
        self.complete(index, Ok(BlockAnswer::Data(pattern(offset, length))));
    }

    /// What the machine sends.
    pub(crate) fn output(&mut self) -> Vec<u8> {
        let outbox = self.connection.outbox();
        let mut bytes = Vec::new();
        while !outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 3];
            let count = outbox.gather(&mut slices);
            // Like a socket that takes only a part of what it is given.
            let whole: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let taken = whole.len().div_ceil(2).max(1);
            bytes.extend_from_slice(&whole[..taken]);
            outbox.written(taken);
        }
        bytes
    }

    /// The replies to options that the machine sends, as text.
    pub(crate) fn option_replies(&mut self) -> Vec<String> {
        let bytes = self.output();
        let mut rest = &bytes[..];
        let mut replies = Vec::new();
        while let Some((reply, length)) = OptionReply::parse(rest).unwrap() {
            replies.push(format!("{:?}", reply.body));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "half a reply is left");
        replies
    }

    /// The one simple reply without data that the machine sends.
    pub(crate) fn simple_reply(&mut self) -> SimpleReply {
        let bytes = self.output();
        assert_eq!(bytes.len(), SimpleReply::BYTES, "exactly one simple reply");
        SimpleReply::parse(&bytes).unwrap().unwrap()
    }

    /// The chunks that the machine sends, as (cookie, is last, text).
    pub(crate) fn chunks(&mut self) -> Vec<(u64, bool, String)> {
        let bytes = self.output();
        let mut rest = &bytes[..];
        let mut chunks = Vec::new();
        while let Some((header, chunk, length)) = Chunk::parse(rest).unwrap() {
            let text = match &chunk {
                Chunk::OffsetData { offset, data } => {
                    let sound = *data == pattern(*offset, data.len() as u32);
                    format!("data {offset}+{} {}", data.len(), if sound { "sound" } else { "wrong" })
                }
                Chunk::Error { error, .. } => format!("error {error:?}"),
                other => format!("{other:?}"),
            };
            chunks.push((header.cookie, header.is_done(), text));
            rest = &rest[length..];
        }
        assert!(rest.is_empty(), "half a chunk is left");
        chunks
    }
}

/// Bytes that tell where they are from: each 512-byte block is filled with its number.
pub(crate) fn pattern(offset: u64, length: u32) -> Vec<u8> {
    (offset..offset + u64::from(length)).map(|position| (position / 512 % 251) as u8).collect()
}
