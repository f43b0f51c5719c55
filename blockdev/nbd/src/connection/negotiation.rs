//! The handshake: fixed newstyle option haggling, up to the moment where an export is agreed on.

use super::EndReason;
use crate::codec::{ByteSink, OptionFault};
use crate::codec::{
    ClientFlags, ClientOption, ExportQuery, Greeting, HandshakeFlags, MetaQuery, OptionError, OptionHeader,
    OptionReply, OptionReplyBody, ServerInfo, TransmissionFlags, option_number,
};
use crate::limits::{
    BLOCK_BYTES_PREFERRED, MESSAGE_BYTES_MAX, OPTION_BYTES_MAX, OPTIONS_MAX, REQUEST_BYTES_MAX,
    STRING_BYTES_MAX,
};
use crate::{ExportEntry, OpenRefusal, OpenedExport};

/// The one metadata context that we know, and its number in block status replies.
const ALLOCATION_CONTEXT: &str = "base:allocation";
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;

/// The zeroes that follow the answer to `NBD_OPT_EXPORT_NAME` for clients that did not decline them.
const EXPORT_NAME_ZEROES: [u8; 124] = [0; 124];

/// What the handshake has agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The export, open.
    pub export: OpenedExport,
    /// Replies come as structured chunks.
    pub structured: bool,
    /// The client selected `base:allocation` for this export.
    pub allocation_context: bool,
}

impl Agreement {
    /// What the export can do for this client.
    pub fn transmission_flags(&self) -> TransmissionFlags {
        type F = TransmissionFlags;
        // Multi-conn is honest: a flush makes every write durable that was answered before, whichever
        // connection it came on, for all connections reach the same volume of the same engine (see the
        // README).
        let mut flags = F::HAS_FLAGS | F::SEND_FLUSH | F::CAN_MULTI_CONN;
        if self.structured {
            flags |= F::SEND_DF;
        }
        if self.export.read_only {
            flags |= F::READ_ONLY;
        } else {
            flags |= F::SEND_FUA | F::SEND_TRIM | F::SEND_WRITE_ZEROES;
            if self.export.fast_zero {
                flags |= F::SEND_FAST_ZERO;
            }
        }
        TransmissionFlags(flags)
    }
}

/// What the handshake needs next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NegotiationStep {
    NeedInput,
    Progress,
    List,
    Open { name: String, probe: bool },
    Ended(EndReason),
}

#[derive(Debug)]
enum Stage {
    ClientFlags,
    Options,
    /// The data of an option is too long to be looked at.
    Skipping {
        option: u32,
        left: u32,
    },
    Listing,
    Opening(Purpose),
}

/// Why an export is being opened.
#[derive(Debug)]
enum Purpose {
    ExportName { name: String },
    Tell { name: String, go: bool, name_wanted: bool, description_wanted: bool },
    Contexts { name: String, set: bool, matched: bool },
}

/// The handshake of one connection.
#[derive(Debug)]
pub(super) struct Negotiation {
    stage: Stage,
    options: u32,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected last.
    allocation_for: Option<String>,
}

impl Negotiation {
    /// Starts with the greeting.
    pub(super) fn new(out: &mut Vec<u8>) -> Self {
        let flags = HandshakeFlags(HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES);
        Greeting { flags }.encode(out);
        Self {
            stage: Stage::ClientFlags,
            options: 0,
            no_zeroes: false,
            structured: false,
            allocation_for: None,
        }
    }

    /// Takes bytes off the front of `input`, at most one message, and tells how many.
    pub(super) fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, NegotiationStep) {
        match &mut self.stage {
            Stage::ClientFlags => self.client_flags(input),
            Stage::Options => self.option(input, out),
            Stage::Skipping { option, left } => {
                let count = input.len().min(*left as usize);
                *left -= count as u32;
                if *left > 0 {
                    return (count, NegotiationStep::NeedInput);
                }
                refuse(out, *option, OptionError::TooBig, "the data of the option is too long");
                self.stage = Stage::Options;
                (count, NegotiationStep::Progress)
            }
            // The owner has been asked and answers through `listed` or `opened`.
            Stage::Listing | Stage::Opening(_) => (0, NegotiationStep::NeedInput),
        }
    }

    fn client_flags(&mut self, input: &[u8]) -> (usize, NegotiationStep) {
        let Some(flags) = ClientFlags::parse(input) else { return (0, NegotiationStep::NeedInput) };
        let step = if flags.unknown() != 0 {
            NegotiationStep::Ended(EndReason::UnknownClientFlags(flags.unknown()))
        } else if !flags.has(ClientFlags::FIXED_NEWSTYLE) {
            NegotiationStep::Ended(EndReason::NotFixedNewstyle)
        } else {
            self.no_zeroes = flags.has(ClientFlags::NO_ZEROES);
            self.stage = Stage::Options;
            NegotiationStep::Progress
        };
        (ClientFlags::BYTES, step)
    }

    fn option(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, NegotiationStep) {
        let header = match OptionHeader::parse(input) {
            Ok(Some(header)) => header,
            Ok(None) => return (0, NegotiationStep::NeedInput),
            Err(fault) => return (0, NegotiationStep::Ended(EndReason::Garbage(fault))),
        };
        if self.options >= OPTIONS_MAX {
            return (0, NegotiationStep::Ended(EndReason::TooManyOptions));
        }
        if header.length > OPTION_BYTES_MAX {
            self.options += 1;
            if header.number == option_number::EXPORT_NAME {
                return (0, NegotiationStep::Ended(EndReason::ExportRefused));
            }
            self.stage = Stage::Skipping { option: header.number, left: header.length };
            return (OptionHeader::BYTES, NegotiationStep::Progress);
        }
        let end = OptionHeader::BYTES + header.length as usize;
        let Some(data) = input.get(OptionHeader::BYTES..end) else { return (0, NegotiationStep::NeedInput) };
        self.options += 1;
        let step = match ClientOption::parse(header.number, data) {
            Ok(option) => self.answer(option, out),
            Err(_) if header.number == option_number::EXPORT_NAME => {
                NegotiationStep::Ended(EndReason::ExportRefused)
            }
            Err(OptionFault(message)) => {
                refuse(out, header.number, OptionError::Invalid, message);
                NegotiationStep::Progress
            }
        };
        (end, step)
    }

    fn answer(&mut self, option: ClientOption<'_>, out: &mut Vec<u8>) -> NegotiationStep {
        let number = option.number();
        match option {
            ClientOption::ExportName(name) => {
                let name = name.to_owned();
                self.open(name.clone(), false, Purpose::ExportName { name })
            }
            ClientOption::Abort => {
                reply(out, number, OptionReplyBody::Ack);
                NegotiationStep::Ended(EndReason::Aborted)
            }
            ClientOption::List => {
                self.stage = Stage::Listing;
                NegotiationStep::List
            }
            ClientOption::StartTls => {
                refuse(
                    out,
                    number,
                    OptionError::Policy,
                    "this server is not set up for TLS; go on without it",
                );
                NegotiationStep::Progress
            }
            ClientOption::Info(query) => self.tell(query, false),
            ClientOption::Go(query) => self.tell(query, true),
            ClientOption::StructuredReply => {
                self.structured = true;
                reply(out, number, OptionReplyBody::Ack);
                NegotiationStep::Progress
            }
            ClientOption::ListMetaContext(query) => self.contexts(query, false, out),
            ClientOption::SetMetaContext(query) => self.contexts(query, true, out),
            ClientOption::Unknown { .. } => {
                refuse(out, number, OptionError::Unsupported, "this server does not know the option");
                NegotiationStep::Progress
            }
        }
    }

    fn open(&mut self, name: String, probe: bool, purpose: Purpose) -> NegotiationStep {
        self.stage = Stage::Opening(purpose);
        NegotiationStep::Open { name, probe }
    }

    fn tell(&mut self, query: ExportQuery<'_>, go: bool) -> NegotiationStep {
        let name = query.name.to_owned();
        let name_wanted = query.wants(ServerInfo::KIND_NAME);
        let description_wanted = query.wants(ServerInfo::KIND_DESCRIPTION);
        self.open(name.clone(), !go, Purpose::Tell { name, go, name_wanted, description_wanted })
    }

    fn contexts(&mut self, query: MetaQuery<'_>, set: bool, out: &mut Vec<u8>) -> NegotiationStep {
        let number = if set { option_number::SET_META_CONTEXT } else { option_number::LIST_META_CONTEXT };
        if set {
            // A new selection replaces the old one, also when it fails.
            self.allocation_for = None;
        }
        if !self.structured {
            refuse(out, number, OptionError::Invalid, "metadata contexts need structured replies first");
            return NegotiationStep::Progress;
        }
        let listed = |text: &str| text == ALLOCATION_CONTEXT || (!set && text == "base:");
        let matched = query.queries().any(listed) || (!set && query.count() == 0);
        let name = query.name.to_owned();
        self.open(name.clone(), true, Purpose::Contexts { name, set, matched })
    }

    /// The owner's answer to [`NegotiationStep::List`].
    pub(super) fn listed(&mut self, exports: &[ExportEntry], out: &mut Vec<u8>) {
        assert!(matches!(self.stage, Stage::Listing), "a list of exports that nobody asked for");
        for entry in exports {
            if entry.name.len() <= STRING_BYTES_MAX {
                let description = shortened(&entry.description);
                reply(out, option_number::LIST, OptionReplyBody::Server { name: &entry.name, description });
            }
        }
        reply(out, option_number::LIST, OptionReplyBody::Ack);
        self.stage = Stage::Options;
    }

    /// The owner's answer to [`NegotiationStep::Open`]. An agreement ends the handshake; an export that was
    /// opened as a probe is closed by the owner.
    pub(super) fn opened(
        &mut self,
        result: Result<OpenedExport, OpenRefusal>,
        out: &mut Vec<u8>,
    ) -> Result<Option<Agreement>, EndReason> {
        let Stage::Opening(purpose) = std::mem::replace(&mut self.stage, Stage::Options) else {
            panic!("an opened export that nobody asked for");
        };
        let (name, option) = match &purpose {
            Purpose::ExportName { name } => (name, option_number::EXPORT_NAME),
            Purpose::Tell { name, go: true, .. } => (name, option_number::GO),
            Purpose::Tell { name, go: false, .. } => (name, option_number::INFO),
            Purpose::Contexts { name, set: true, .. } => (name, option_number::SET_META_CONTEXT),
            Purpose::Contexts { name, set: false, .. } => (name, option_number::LIST_META_CONTEXT),
        };
        let export = match result {
            Ok(export) => export,
            Err(_) if option == option_number::EXPORT_NAME => return Err(EndReason::ExportRefused),
            Err(refusal) => {
                let (error, message) = refusal_words(refusal);
                refuse(out, option, error, message);
                return Ok(None);
            }
        };
        let allocation_context = self.allocation_for.as_ref() == Some(name);
        let agreement = Agreement { export, structured: self.structured, allocation_context };
        match purpose {
            Purpose::ExportName { .. } => {
                out.put_u64(agreement.export.size_bytes);
                out.put_u16(agreement.transmission_flags().0);
                if !self.no_zeroes {
                    out.put(&EXPORT_NAME_ZEROES);
                }
                Ok(Some(agreement))
            }
            Purpose::Tell { name, go, name_wanted, description_wanted } => {
                tell_export(out, option, &agreement, name_wanted.then_some(&name), description_wanted);
                Ok(go.then_some(agreement))
            }
            Purpose::Contexts { name, set, matched } => {
                if matched {
                    let id = if set { ALLOCATION_CONTEXT_ID } else { 0 };
                    reply(out, option, OptionReplyBody::MetaContext { id, name: ALLOCATION_CONTEXT });
                }
                reply(out, option, OptionReplyBody::Ack);
                if set && matched {
                    self.allocation_for = Some(name);
                }
                Ok(None)
            }
        }
    }
}

fn tell_export(
    out: &mut Vec<u8>,
    option: u32,
    agreement: &Agreement,
    name: Option<&String>,
    description_wanted: bool,
) {
    let export = &agreement.export;
    let mut info = |info| reply(out, option, OptionReplyBody::Info(info));
    info(ServerInfo::Export { size_bytes: export.size_bytes, flags: agreement.transmission_flags() });
    // Told also to clients that did not ask: one that knows the block size need not guess it.
    info(ServerInfo::BlockSize {
        minimum: export.block_bytes,
        preferred: export.block_bytes.max(BLOCK_BYTES_PREFERRED),
        maximum: REQUEST_BYTES_MAX,
    });
    if let Some(name) = name {
        info(ServerInfo::Name(name));
    }
    if description_wanted && !export.description.is_empty() {
        info(ServerInfo::Description(shortened(&export.description)));
    }
    reply(out, option, OptionReplyBody::Ack);
}

fn reply(out: &mut Vec<u8>, option: u32, body: OptionReplyBody<'_>) {
    OptionReply { option, body }.encode(out);
}

fn refuse(out: &mut Vec<u8>, option: u32, error: OptionError, message: &str) {
    debug_assert!(message.len() <= MESSAGE_BYTES_MAX);
    reply(out, option, OptionReplyBody::Error { error, message });
}

fn refusal_words(refusal: OpenRefusal) -> (OptionError, &'static str) {
    match refusal {
        OpenRefusal::Unknown => (OptionError::Unknown, "there is no export of that name"),
        OpenRefusal::NotPermitted => (OptionError::Policy, "the export may not be opened from here"),
        OpenRefusal::Unreachable => {
            (OptionError::Platform, "no path leads to the disk of this export at the moment; try again later")
        }
        OpenRefusal::ShuttingDown => (OptionError::Shutdown, "the server is shutting down"),
    }
}

/// The longest start of a text that the protocol's limit on strings allows.
fn shortened(text: &str) -> &str {
    let mut end = text.len().min(STRING_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
