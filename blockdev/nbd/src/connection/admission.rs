//! Which requests are admitted to the service, and with what errno the others are refused.

use crate::BlockErrno;
use crate::codec::{Command, CommandFlags, Request};
use crate::connection::Agreement;
use crate::limits::REQUEST_BYTES_MAX;

/// What an admitted request asks of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Read,
    Write { fua: bool },
    Flush,
    Discard { fua: bool },
    WriteZeroes { fua: bool, no_unmap: bool, fast_only: bool },
    BlockStatus { one: bool },
}

impl Work {
    pub(super) fn changes_disk(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Discard { .. } | Self::WriteZeroes { .. })
    }

    /// Does the request carry payload, in one direction or the other, that is cut into pieces?
    pub(super) fn has_payload(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. })
    }
}

/// A request that the service never sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) errno: BlockErrno,
    pub(super) message: &'static str,
}

/// Checks a request against the agreed export. `NBD_CMD_DISC` has no reply and is handled before.
pub(super) fn admit(request: &Request, agreement: &Agreement) -> Result<Work, Refused> {
    let refuse = |errno, message| Err(Refused { errno, message });
    let work = work_of(request, agreement)?;
    let export = &agreement.export;
    if work == Work::Flush {
        if request.offset != 0 || request.length != 0 {
            return refuse(BlockErrno::Invalid, "a flush has neither offset nor length");
        }
        return Ok(work);
    }
    if export.read_only && work.changes_disk() {
        return refuse(BlockErrno::NotPermitted, "the export is read-only");
    }
    if request.length == 0 {
        return refuse(BlockErrno::Invalid, "the request is of zero length");
    }
    if work.has_payload() && request.length > REQUEST_BYTES_MAX {
        return refuse(BlockErrno::Invalid, "the request is longer than 32 MiB");
    }
    let end = request.offset.checked_add(u64::from(request.length));
    if end.is_none_or(|end| end > export.size_bytes) {
        // The protocol tells a full disk from a wrong request by this.
        let grows = matches!(work, Work::Write { .. } | Work::WriteZeroes { .. });
        let errno = if grows { BlockErrno::NoSpace } else { BlockErrno::Invalid };
        return refuse(errno, "the request reaches beyond the end of the export");
    }
    let block_bytes = u64::from(export.block_bytes);
    let aligned = |value: u64| value.is_multiple_of(block_bytes);
    if !aligned(request.offset) || !aligned(u64::from(request.length)) {
        return refuse(BlockErrno::Invalid, "the request is not aligned to the minimum block size");
    }
    if request.flags.has(CommandFlags::DF) && request.length > export.max_transfer_bytes {
        return refuse(BlockErrno::Overflow, "the read is too long for a single chunk");
    }
    Ok(work)
}

/// The command and its flags.
fn work_of(request: &Request, agreement: &Agreement) -> Result<Work, Refused> {
    let invalid = |message| Err(Refused { errno: BlockErrno::Invalid, message });
    let flags = request.flags;
    // FUA is valid on every command where it was offered, also where it means nothing.
    let fua_offered = if agreement.export.read_only { 0 } else { CommandFlags::FUA };
    let mut allowed = fua_offered;
    let fua = flags.has(CommandFlags::FUA);
    let work = match request.command {
        Command::Read => {
            if agreement.structured {
                allowed |= CommandFlags::DF;
            }
            Work::Read
        }
        Command::Write => Work::Write { fua },
        Command::Flush => Work::Flush,
        Command::Trim => Work::Discard { fua },
        Command::WriteZeroes => {
            allowed |= CommandFlags::NO_HOLE;
            if agreement.export.fast_zero {
                allowed |= CommandFlags::FAST_ZERO;
            }
            let no_unmap = flags.has(CommandFlags::NO_HOLE);
            Work::WriteZeroes { fua, no_unmap, fast_only: flags.has(CommandFlags::FAST_ZERO) }
        }
        Command::BlockStatus => {
            if !agreement.allocation_context {
                return invalid("block status needs a metadata context that the handshake selects");
            }
            allowed |= CommandFlags::REQ_ONE;
            Work::BlockStatus { one: flags.has(CommandFlags::REQ_ONE) }
        }
        // A cache that we do not have cannot be filled, and it was not offered.
        Command::Cache => return invalid("this export does not cache"),
        Command::Disconnect | Command::Unknown(_) => return invalid("this server does not know the command"),
    };
    if flags.exceeds(allowed) {
        return invalid("a flag of the request is not valid for its command");
    }
    Ok(work)
}
