//! The first bytes of a connection: the server's greeting and the client's flags.

use super::WireFault;
use super::bytes::{ByteSink, Fields};

/// "NBDMAGIC".
const SERVER_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": newstyle negotiation; also the start of every option.
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;

/// What the server offers for the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeFlags(pub u16);

impl HandshakeFlags {
    /// The server speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The server can leave out the 124 zeroes after `NBD_OPT_EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// The server's first message, 18 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// What the server offers.
    pub flags: HandshakeFlags,
}

impl Greeting {
    /// Bytes on the wire.
    pub const BYTES: usize = 18;

    /// Appends the greeting.
    pub fn encode(&self, sink: &mut impl ByteSink) {
        sink.put_u64(SERVER_MAGIC);
        sink.put_u64(OPTION_MAGIC);
        sink.put_u16(self.flags.0);
    }

    /// Reads a greeting; `Ok(None)` while bytes are missing. Oldstyle greetings are a fault.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, WireFault> {
        let mut fields = Fields(input);
        for expected in [SERVER_MAGIC, OPTION_MAGIC] {
            match fields.u64() {
                None => return Ok(None),
                Some(found) if found != expected => return Err(WireFault::Magic { expected, found }),
                Some(_) => {}
            }
        }
        Ok(fields.u16().map(|flags| Self { flags: HandshakeFlags(flags) }))
    }
}

/// What the client takes of the server's offer, 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFlags(pub u32);

impl ClientFlags {
    /// Bytes on the wire.
    pub const BYTES: usize = 4;
    /// The client speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client wants no zeroes after `NBD_OPT_EXPORT_NAME`.
    pub const NO_ZEROES: u32 = 1 << 1;

    /// Appends the flags.
    pub fn encode(&self, sink: &mut impl ByteSink) {
        sink.put_u32(self.0);
    }

    /// Reads the flags; `None` while bytes are missing.
    pub fn parse(input: &[u8]) -> Option<Self> {
        Fields(input).u32().map(Self)
    }

    /// Is every one of these flags set?
    pub fn has(self, flags: u32) -> bool {
        self.0 & flags == flags
    }

    /// Flags that no protocol version knows.
    pub fn unknown(self) -> u32 {
        self.0 & !(Self::FIXED_NEWSTYLE | Self::NO_ZEROES)
    }
}
