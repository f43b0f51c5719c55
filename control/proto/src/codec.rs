//! Bytes of what lies in the log, in snapshots and in answers: little-endian, in the order of the fields,
//! with counts before lists. One trait, and a macro that spells out a type's fields once for both directions.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use blockdev_proto::geometry::{BlockBytes, DiskId, VolumeId};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use transport_proto::identity::{Epoch, Incarnation, LinkId, NodeId, RailId};

/// Why bytes are not what they should be. Whoever wrote them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeFault {
    /// They end too early.
    Short,
    /// They go on after the end.
    Long,
    /// A number that names no variant of this type.
    Variant {
        /// The type.
        of: &'static str,
        /// The number found.
        found: u8,
    },
    /// A value that the type cannot have.
    Value {
        /// The type.
        of: &'static str,
    },
    /// Written by a version that this program does not know.
    Version {
        /// What was written.
        of: &'static str,
        /// The version found.
        found: u16,
        /// The latest that this program knows.
        known: u16,
    },
}

impl fmt::Display for CodeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            CodeFault::Short => write!(f, "the bytes end too early: they were cut or damaged"),
            CodeFault::Long => write!(f, "bytes are left over: they were damaged"),
            CodeFault::Variant { of, found } => {
                write!(f, "{found} is no kind of {of} that this release knows: run one release on all nodes")
            }
            CodeFault::Value { of } => write!(f, "a {of} has an impossible value: the bytes were damaged"),
            CodeFault::Version { of, found, known } => write!(
                f,
                "{of} of version {found}, this release knows up to {known}: run a release that is as new on \
                 this node"
            ),
        }
    }
}

impl core::error::Error for CodeFault {}

/// Bytes in the making.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
}

/// Bytes being read.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], CodeFault> {
        let (head, tail) = self.0.split_at_checked(length).ok_or(CodeFault::Short)?;
        self.0 = tail;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodeFault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodeFault> {
        Ok(self.array::<1>()?[0])
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), CodeFault> {
        if self.0.is_empty() { Ok(()) } else { Err(CodeFault::Long) }
    }
}

/// A type with bytes of its own. What [`Coded::put`] wrote, [`Coded::take`] reads; it panics at no bytes.
pub(crate) trait Coded: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Writer);
    /// Reads a value.
    fn take(from: &mut Reader<'_>) -> Result<Self, CodeFault>;

    /// The value alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.put(&mut out);
        out.0
    }

    /// A value and nothing after it.
    fn of_bytes(bytes: &[u8]) -> Result<Self, CodeFault> {
        let mut from = Reader(bytes);
        let value = Self::take(&mut from)?;
        from.end()?;
        Ok(value)
    }
}

/// Gives types their bytes: `struct Name { fields }`, `newtype Name`, `enum Name { 1 = One, 2 = Two { fields
/// }, 3 = Three(inner) }`. The numbers of variants are for ever.
macro_rules! coded {
    ($(struct $name:ident { $($field:ident),* $(,)? })+) => { $(
        impl $crate::codec::Coded for $name {
            fn put(&self, out: &mut $crate::codec::Writer) {
                $( $crate::codec::Coded::put(&self.$field, out); )*
            }
            fn take(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::CodeFault> {
                Ok($name { $( $field: $crate::codec::Coded::take(from)? ),* })
            }
        }
    )+ };
    ($(newtype $name:ident)+) => { $(
        impl $crate::codec::Coded for $name {
            fn put(&self, out: &mut $crate::codec::Writer) {
                $crate::codec::Coded::put(&self.0, out);
            }
            fn take(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::CodeFault> {
                $crate::codec::Coded::take(from).map($name)
            }
        }
    )+ };
    ($(enum $name:ident { $(
        $tag:literal = $variant:ident $({ $($field:ident),* $(,)? })? $(( $inner:ident ))?
    ),* $(,)? })+) => { $(
        impl $crate::codec::Coded for $name {
            fn put(&self, out: &mut $crate::codec::Writer) {
                match self { $(
                    $name::$variant $({ $($field),* })? $(( $inner ))? => {
                        out.u8($tag);
                        $( $( $crate::codec::Coded::put($field, out); )* )?
                        $( $crate::codec::Coded::put($inner, out); )?
                    }
                )* }
            }
            fn take(
                from: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::CodeFault> {
                match from.u8()? {
                    $( $tag => Ok($name::$variant
                        $({ $( $field: $crate::codec::Coded::take(from)? ),* })?
                        $(({ let $inner = $crate::codec::Coded::take(from)?; $inner }))?
                    ), )*
                    found => Err($crate::codec::CodeFault::Variant { of: stringify!($name), found }),
                }
            }
        }
    )+ };
}
pub(crate) use coded;

macro_rules! coded_number {
    ($($number:ty),*) => { $(
        impl Coded for $number {
            fn put(&self, out: &mut Writer) {
                out.bytes(&self.to_le_bytes());
            }
            fn take(from: &mut Reader<'_>) -> Result<$number, CodeFault> {
                from.array().map(<$number>::from_le_bytes)
            }
        }
    )* };
}

coded_number!(u8, u16, u32, u64);
coded! {
    newtype NodeId
    newtype Incarnation
    newtype Epoch
    newtype LinkId
    newtype RailId
    newtype VolumeId
    newtype DiskId
}

impl Coded for usize {
    fn put(&self, out: &mut Writer) {
        (*self as u64).put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<usize, CodeFault> {
        usize::try_from(u64::take(from)?).map_err(|_| CodeFault::Value { of: "count" })
    }
}

impl Coded for bool {
    fn put(&self, out: &mut Writer) {
        out.u8(u8::from(*self));
    }

    fn take(from: &mut Reader<'_>) -> Result<bool, CodeFault> {
        match from.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodeFault::Value { of: "flag" }),
        }
    }
}

impl Coded for String {
    fn put(&self, out: &mut Writer) {
        (self.len() as u32).put(out);
        out.bytes(self.as_bytes());
    }

    fn take(from: &mut Reader<'_>) -> Result<String, CodeFault> {
        let length = u32::take(from)? as usize;
        let text = core::str::from_utf8(from.take(length)?);
        text.map(String::from).map_err(|_| CodeFault::Value { of: "text" })
    }
}

impl<T: Coded> Coded for Box<T> {
    fn put(&self, out: &mut Writer) {
        (**self).put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Box<T>, CodeFault> {
        T::take(from).map(Box::new)
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, out: &mut Writer) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Option<T>, CodeFault> {
        bool::take(from)?.then(|| T::take(from)).transpose()
    }
}

impl<T: Coded> Coded for Vec<T> {
    fn put(&self, out: &mut Writer) {
        (self.len() as u32).put(out);
        for value in self {
            value.put(out);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Vec<T>, CodeFault> {
        let count = u32::take(from)? as usize;
        // Everything that is listed has a byte or more, so a wild count fails before it costs memory.
        if count > from.0.len() {
            return Err(CodeFault::Short);
        }
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(T::take(from)?);
        }
        Ok(list)
    }
}

impl<A: Coded, B: Coded> Coded for (A, B) {
    fn put(&self, out: &mut Writer) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<(A, B), CodeFault> {
        Ok((A::take(from)?, B::take(from)?))
    }
}

impl<const N: usize> Coded for [u8; N] {
    fn put(&self, out: &mut Writer) {
        out.bytes(self);
    }

    fn take(from: &mut Reader<'_>) -> Result<[u8; N], CodeFault> {
        from.array()
    }
}

impl Coded for IpAddr {
    fn put(&self, out: &mut Writer) {
        match self {
            IpAddr::V4(address) => {
                out.u8(4);
                out.bytes(&address.octets());
            }
            IpAddr::V6(address) => {
                out.u8(6);
                out.bytes(&address.octets());
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<IpAddr, CodeFault> {
        match from.u8()? {
            4 => from.array().map(|octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets))),
            6 => from.array().map(|octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets))),
            found => Err(CodeFault::Variant { of: "address", found }),
        }
    }
}

impl Coded for SocketAddr {
    fn put(&self, out: &mut Writer) {
        self.ip().put(out);
        self.port().put(out);
        if let SocketAddr::V6(address) = self {
            address.flowinfo().put(out);
            address.scope_id().put(out);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<SocketAddr, CodeFault> {
        let (ip, port) = (IpAddr::take(from)?, u16::take(from)?);
        Ok(match ip {
            IpAddr::V4(_) => SocketAddr::new(ip, port),
            IpAddr::V6(ip) => {
                let (flow, scope) = (u32::take(from)?, u32::take(from)?);
                SocketAddr::V6(core::net::SocketAddrV6::new(ip, port, flow, scope))
            }
        })
    }
}

impl Coded for Duration {
    fn put(&self, out: &mut Writer) {
        self.as_secs().put(out);
        self.subsec_nanos().put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<Duration, CodeFault> {
        let (seconds, nanos) = (u64::take(from)?, u32::take(from)?);
        if nanos >= 1_000_000_000 {
            return Err(CodeFault::Value { of: "duration" });
        }
        Ok(Duration::new(seconds, nanos))
    }
}

impl Coded for BlockBytes {
    fn put(&self, out: &mut Writer) {
        self.get().put(out);
    }

    fn take(from: &mut Reader<'_>) -> Result<BlockBytes, CodeFault> {
        BlockBytes::new(u32::take(from)?).ok_or(CodeFault::Value { of: "block" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_wild_count_costs_no_memory_and_cut_bytes_are_refused() {
        assert_eq!(Vec::<u64>::of_bytes(&u32::MAX.to_le_bytes()), Err(CodeFault::Short));
        let list = vec![(NodeId(3), String::from("three"))].to_bytes();
        for cut in 0..list.len() {
            assert!(Vec::<(NodeId, String)>::of_bytes(&list[..cut]).is_err(), "cut at {cut}");
        }
        assert_eq!(bool::of_bytes(&[2]), Err(CodeFault::Value { of: "flag" }));
        let v6: SocketAddr = "[fe80::1%7]:9".parse().expect("an address");
        assert_eq!(SocketAddr::of_bytes(&v6.to_bytes()), Ok(v6));
    }
}
