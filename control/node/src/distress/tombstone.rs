//! The tombstone: a file in the state folder that a failing node marks, and that keeps it from starting again
//! until an operator clears it (SPEC D5). It is open from the start on, and marked by one write that was
//! formed in advance, so that a signal handler can do it.

use control_proto::distress::{Level, Reason};
use control_proto::view::Member;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use transport_buf::last_words::MARK_BYTES_MAX;
use transport_proto::identity::{Incarnation, NodeId};

const FIRST_LINE: &str = "netdisk tombstone 1";

/// What a failing node left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Which life ended.
    pub member: Member,
    /// Why.
    pub reason: Reason,
    /// How far it came.
    pub level: Level,
}

/// Why a node does not start: it failed, or what it left cannot be read.
#[derive(Debug)]
pub enum TombstoneRefusal {
    /// It failed and was not cleared.
    Stands(PathBuf, Tombstone),
    /// The file is not netdisk's, of another release, or damaged. It is left as it is.
    Damaged(PathBuf),
    /// The system refused.
    System(PathBuf, io::Error),
}

impl fmt::Display for TombstoneRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TombstoneRefusal::Stands(path, stone) => {
                let folder = path.parent().unwrap_or(Path::new("."));
                write!(
                    f,
                    "{} gave up (reason: {}) and stays out until it is cleared: find the cause, then run \
                     `netdisk node clear --state {}`",
                    stone.member.node,
                    stone.reason,
                    folder.display()
                )
            }
            TombstoneRefusal::Damaged(path) => write!(
                f,
                "{} is damaged or not netdisk's, so it is unknown how this node ended: look into its log, \
                 then move the file away",
                path.display()
            ),
            TombstoneRefusal::System(path, _) => {
                write!(
                    f,
                    "cannot use {}: give the node a folder that it may write with --state",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for TombstoneRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TombstoneRefusal::System(_, source) => Some(source),
            TombstoneRefusal::Stands(..) | TombstoneRefusal::Damaged(_) => None,
        }
    }
}

impl Tombstone {
    /// As it lies in the file; always of one length, so that a later one replaces an earlier one wholly.
    pub(crate) fn encode(self) -> [u8; MARK_BYTES_MAX] {
        let body = format!(
            "{FIRST_LINE}\nnode {}\nlife {}\nreason {}\nlevel {}\n# {}, {}\n",
            self.member.node.0,
            self.member.incarnation.0,
            self.reason.number(),
            self.level as u8,
            self.reason,
            self.level,
        );
        let text = format!("{body}check {:08x}\n", crc32c::crc32c(body.as_bytes()));
        let mut bytes = [b'\n'; MARK_BYTES_MAX];
        assert!(text.len() <= bytes.len(), "a tombstone of {} bytes", text.len());
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    fn decode(text: &str) -> Option<Tombstone> {
        let (body, check) = text.split_at(text.find("check ")?);
        let check = u32::from_str_radix(check.trim_end().strip_prefix("check ")?, 16).ok()?;
        let rest = body.strip_prefix(FIRST_LINE).filter(|_| crc32c::crc32c(body.as_bytes()) == check)?;
        let number = |name: &str| -> Option<u64> {
            let line = rest.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.parse().ok()
        };
        let node = NodeId(u16::try_from(number("node")?).ok()?);
        Some(Tombstone {
            member: Member { node, incarnation: Incarnation(number("life")?) },
            reason: Reason::from_number(u16::try_from(number("reason")?).ok()?),
            level: Level::from_number(u8::try_from(number("level")?).ok()?)?,
        })
    }
}

/// What an unmarked file holds: as many bytes as a mark, so that marking it takes no room on a disk that may
/// be full by then.
const BLANK: [u8; MARK_BYTES_MAX] = [b'\n'; MARK_BYTES_MAX];

fn read(path: &Path, file: &mut File) -> Result<Option<Tombstone>, TombstoneRefusal> {
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes).map_err(|error| TombstoneRefusal::System(path.into(), error))?;
    if bytes.is_empty() || bytes == BLANK {
        return Ok(None);
    }
    let stone = core::str::from_utf8(&bytes).ok().and_then(Tombstone::decode);
    stone.map(Some).ok_or_else(|| TombstoneRefusal::Damaged(path.into()))
}

fn at(folder: &Path) -> PathBuf {
    folder.join("tombstone")
}

/// The file, unmarked, ready to be marked. A marked one is a refusal.
pub(crate) fn open(folder: &Path) -> Result<File, TombstoneRefusal> {
    let path = at(folder);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let refused = |error| TombstoneRefusal::System(path.clone(), error);
    let mut file = opened.map_err(refused)?;
    if let Some(stone) = read(&path, &mut file)? {
        return Err(TombstoneRefusal::Stands(path, stone));
    }
    blank(&file).map_err(refused)?;
    Ok(file)
}

fn blank(file: &File) -> io::Result<()> {
    file.write_all_at(&BLANK, 0)?;
    file.sync_all()
}

/// Clears the tombstone in a state folder; returns what it was, if there was one.
pub fn clear(folder: &Path) -> Result<Option<Tombstone>, TombstoneRefusal> {
    let path = at(folder);
    let refused = |error| TombstoneRefusal::System(path.clone(), error);
    let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => return Ok(None),
        opened => opened.map_err(refused)?,
    };
    let stone = read(&path, &mut file)?;
    blank(&file).map_err(refused)?;
    Ok(stone)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;

    // proves: D5
    #[test]
    fn a_marked_file_keeps_a_node_from_starting_until_it_is_cleared() {
        let folder = std::env::temp_dir().join(format!("netdisk-tombstone-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(clear(&folder).unwrap(), None);
        let length = open(&folder).unwrap().metadata().unwrap().len();
        assert_eq!(length as usize, MARK_BYTES_MAX, "a mark needs room that is there already");
        let life = Member { node: NodeId(3), incarnation: Incarnation(u64::MAX) };
        for reason in Reason::all() {
            let file = open(&folder).unwrap();
            for level in Level::ALL {
                let stone = Tombstone { member: life, reason, level };
                file.write_at(&stone.encode(), 0).unwrap();
                let refusal = open(&folder).unwrap_err();
                assert!(matches!(&refusal, TombstoneRefusal::Stands(_, found) if *found == stone));
                let text = refusal.to_string();
                assert!(text.contains(&format!("netdisk node clear --state {}", folder.display())), "{text}");
            }
            assert_eq!(clear(&folder).unwrap().unwrap().reason, reason);
        }
        // What cannot be read is not taken for "nothing happened", and not overwritten.
        let stone = Tombstone { member: life, reason: Reason::Panic, level: Level::Dying }.encode();
        for cut in [1, 40, 90] {
            std::fs::write(folder.join("tombstone"), &stone[..cut]).unwrap();
            assert!(matches!(open(&folder), Err(TombstoneRefusal::Damaged(_))));
            assert!(matches!(clear(&folder), Err(TombstoneRefusal::Damaged(_))));
            assert_eq!(std::fs::read(folder.join("tombstone")).unwrap(), &stone[..cut]);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
