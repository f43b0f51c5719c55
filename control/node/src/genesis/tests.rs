//! Tests of the genesis file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use super::*;
use crate::config::Config;

fn genesis(size: &str, node: u16) -> Genesis {
    let text = format!(
        r#"
        [cluster]
        name = "north"
        key = "a secret of sufficient length"
        [[node]]
        id = 1
        [[node]]
        id = 2
        [[link]]
        nodes = "all"
        rails = [{{ kind = "tcp" }}]
        [[disk]]
        nodes = [1]
        kind = "memory"
        [[virtual_disk]]
        name = "vd0"
        size = "{size}"
        disk = 1
    "#
    );
    let config = Config::parse(Path::new("north.toml"), &text).unwrap_or_else(|faults| panic!("{faults}"));
    Genesis::of_rows(config.rows, config.key, NodeId(node)).unwrap()
}

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("netdisk-genesis-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

// proves: C2
#[test]
fn a_folder_is_founded_once_and_read_again() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("once");
    assert!(Genesis::load(&folder.0).unwrap().is_none());
    let first = genesis("1MiB", 2);
    first.store(&folder.0).unwrap();
    let mode = std::fs::metadata(folder.0.join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the key is in it");
    let found = Genesis::load(&folder.0).unwrap().unwrap();
    assert_eq!((found.cluster, &found.name, found.node), (first.cluster, &first.name, NodeId(2)));
    assert_eq!((found.digest(), found.key.expose()), (first.digest(), first.key.expose()));
    assert_eq!(found.database(&folder.0).unwrap().rows().virtual_disks[0].name, "vd0");
    let again = genesis("2MiB", 1).store(&folder.0).unwrap_err();
    assert!(matches!(again, GenesisRefusal::Present(_)), "{again}");
    assert_eq!(Genesis::load(&folder.0).unwrap().unwrap().digest(), first.digest());
    assert!(!folder.0.join("genesis.next").exists() || Genesis::load(&folder.0).is_ok());
}

// proves: C2
#[test]
fn equal_rows_make_one_cluster_and_different_rows_are_told_apart() {
    let (one, other, third) = (genesis("1MiB", 1), genesis("1MiB", 2), genesis("2MiB", 3));
    assert_eq!((one.cluster, one.digest()), (other.cluster, other.digest()));
    assert_eq!(one.cluster, third.cluster);
    assert_ne!(one.digest(), third.digest());
    let grown = third.database(Path::new("")).unwrap();
    let joined = one.for_node(NodeId(7), &grown);
    assert_eq!((joined.cluster, joined.digest(), joined.node), (one.cluster, one.digest(), NodeId(7)));
    let read = Genesis::decode(Path::new("genesis"), &joined.encode()).unwrap();
    assert_eq!(read.known_rows().unwrap().virtual_disks, grown.rows().virtual_disks);
    assert!(one.known_rows().is_none());
}

// proves: C1
#[test]
fn a_damaged_foreign_or_newer_file_is_refused_with_the_remedy_and_stays_as_it_is() {
    let folder = Folder::new("damaged");
    genesis("1MiB", 1).store(&folder.0).unwrap();
    let path = folder.0.join(FILE);
    let sound = std::fs::read(&path).unwrap();
    let refusal_of = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let refusal = Genesis::load(&folder.0).unwrap_err();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the file was changed");
        refusal
    };
    for at in 10..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        let refusal = refusal_of(&bytes);
        assert!(matches!(refusal, GenesisRefusal::Damaged(_)), "byte {at}: {refusal}");
    }
    for length in 10..sound.len() {
        assert!(matches!(refusal_of(&sound[..length]), GenesisRefusal::Damaged(_)), "cut at {length}");
    }
    assert!(matches!(refusal_of(b"[cluster]"), GenesisRefusal::Foreign(_)));
    assert!(matches!(refusal_of(b""), GenesisRefusal::Foreign(_)));
    let mut newer = sound;
    newer[8] = 2;
    let refusal = refusal_of(&newer);
    assert!(refusal.to_string().contains("version 2"), "{refusal}");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(folder.0.join(crate::consensus::FOLDER)).unwrap();
    assert!(Genesis::load(&folder.0).unwrap().is_none());
    std::fs::write(folder.0.join(crate::consensus::FOLDER).join("log"), b"x").unwrap();
    let lost = Genesis::load(&folder.0).unwrap_err();
    assert!(lost.to_string().contains("put a copy of that back"), "{lost}");
}
