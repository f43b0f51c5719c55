//! The file as people write it. What is here is checked for shape only; meaning is checked in the sibling
//! modules.

use super::pool::{LoanSection, RegionSection};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
pub(super) use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub(super) cluster: Spanned<ClusterSection>,
    #[serde(default)]
    pub(super) memory: MemorySection,
    #[serde(default)]
    pub(super) heartbeat: HeartbeatSection,
    #[serde(default)]
    pub(super) membership: MembershipSection,
    #[serde(default)]
    pub(super) node: Vec<Spanned<NodeSection>>,
    #[serde(default)]
    pub(super) link: Vec<Spanned<LinkSection>>,
    #[serde(default)]
    pub(super) disk: Vec<Spanned<DiskSection>>,
    #[serde(default)]
    pub(super) virtual_disk: Vec<Spanned<VirtualDiskSection>>,
    #[serde(default)]
    pub(super) permission: Vec<Spanned<PermissionSection>>,
    #[serde(default)]
    pub(super) nbd: Vec<Spanned<NbdSection>>,
    #[serde(default)]
    pub(super) region: Vec<Spanned<RegionSection>>,
    #[serde(default)]
    pub(super) loan: Vec<Spanned<LoanSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterSection {
    pub(super) name: Spanned<String>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) port_base: Option<u16>,
    #[serde(default)]
    pub(super) spread: SpreadName,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum SpreadName {
    Single,
    #[default]
    Home,
    RoundRobin,
    LeastInFlight,
    LowestLatency,
    Stripe,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemorySection {
    pub(super) budget: Option<Spanned<Size>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HeartbeatSection {
    pub(super) period_ms: Option<Spanned<u64>>,
    pub(super) missed: Option<Spanned<u32>>,
    pub(super) heard: Option<Spanned<u32>>,
    pub(super) sticky: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MembershipSection {
    pub(super) suspect_ms: Option<Spanned<u64>>,
    pub(super) lease_ms: Option<Spanned<u64>>,
    pub(super) hung_disk_ms: Option<Spanned<u64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeSection {
    pub(super) id: Spanned<u16>,
    pub(super) name: Option<Spanned<String>>,
    pub(super) host: Option<Spanned<String>>,
    pub(super) port_base: Option<u16>,
    pub(super) voter: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkSection {
    pub(super) number: Option<Spanned<u32>>,
    pub(super) id: Option<Spanned<u32>>,
    #[serde(default)]
    pub(super) nodes: Selection,
    pub(super) rails: Spanned<Vec<Spanned<RailSection>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RailSection {
    pub(super) id: Option<Spanned<u8>>,
    pub(super) kind: RailKind,
    #[serde(default)]
    pub(super) addresses: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(super) heartbeats: BTreeMap<String, Spanned<String>>,
}

#[derive(Clone, Copy, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RailKind {
    Shm,
    Tcp,
    Verbs,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiskSection {
    pub(super) id: Option<Spanned<u32>>,
    pub(super) name: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) kind: DiskKindName,
    pub(super) nodes: Spanned<Selection>,
    pub(super) path: Option<Spanned<String>>,
    pub(super) paths: Option<Spanned<Vec<String>>>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(super) enum DiskKindName {
    #[default]
    File,
    Raw,
    Memory,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VirtualDiskSection {
    pub(super) id: Option<Spanned<u32>>,
    pub(super) name: Spanned<String>,
    pub(super) size: Spanned<Size>,
    pub(super) block_size: Option<Spanned<Size>>,
    #[serde(default)]
    pub(super) read_only: bool,
    #[serde(default)]
    pub(super) on_lost_quorum: LostQuorumName,
    pub(super) disk: Option<Spanned<Reference>>,
    pub(super) primary: Option<Spanned<CandidateSection>>,
    pub(super) secondary: Option<Spanned<CandidateSection>>,
    #[serde(default)]
    pub(super) others: Vec<Spanned<CandidateSection>>,
    pub(super) mirror: Option<Spanned<Vec<Spanned<Reference>>>>,
    pub(super) concat: Option<Spanned<Vec<Spanned<Reference>>>>,
    pub(super) stripe: Option<Spanned<Vec<Spanned<Reference>>>>,
    pub(super) chunk: Option<Spanned<Size>>,
    pub(super) nodes: Option<Spanned<Selection>>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LostQuorumName {
    #[default]
    Suspend,
    Fail,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CandidateSection {
    pub(super) node: Spanned<Reference>,
    pub(super) disk: Spanned<Reference>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PermissionSection {
    pub(super) virtual_disk: Spanned<Reference>,
    #[serde(default)]
    pub(super) owner: u32,
    #[serde(default)]
    pub(super) group: u32,
    pub(super) mode: Spanned<u32>,
    #[serde(default)]
    pub(super) nodes: Selection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NbdSection {
    pub(super) node: Spanned<Reference>,
    pub(super) listen: Spanned<String>,
    #[serde(default)]
    pub(super) exports: Selection,
}

/// A row by id or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Id(u32),
    Name(String),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Id(id) => write!(f, "{id}"),
            Reference::Name(name) => write!(f, "{name:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Reference;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id (number) or a name (string)")
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<Reference, E> {
                let out_of_range = || E::invalid_value(de::Unexpected::Signed(id), &self);
                u32::try_from(id).map(Reference::Id).map_err(|_| out_of_range())
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Reference, E> {
                Ok(Reference::Name(name.to_owned()))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// Some rows, or all there are.
#[derive(Clone, Debug, Default)]
pub(super) enum Selection {
    #[default]
    All,
    Some(Vec<Spanned<Reference>>),
}

impl<'de> Deserialize<'de> for Selection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Selection, D::Error> {
        struct AllOrList;
        impl<'de> Visitor<'de> for AllOrList {
            type Value = Selection;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"all\" or a list of ids or names")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Selection, E> {
                match word {
                    "all" => Ok(Selection::All),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Selection, A::Error> {
                let mut references = Vec::new();
                while let Some(reference) = list.next_element()? {
                    references.push(reference);
                }
                Ok(Selection::Some(references))
            }
        }
        deserializer.deserialize_any(AllOrList)
    }
}

/// A number of bytes: a plain number, or a string with a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a number of bytes, or a string such as \"512KiB\", \"64MiB\", \"10GiB\", \"1TiB\"",
                )
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let negative = || E::invalid_value(de::Unexpected::Signed(bytes), &self);
                u64::try_from(bytes).map(Size).map_err(|_| negative())
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                parse_size(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

fn parse_size(text: &str) -> Option<Size> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).map(Size)
}
