//! The kernel's tables of addresses: which port of which device carries a rail's.
//!
//! A table has up to 256 places, each a file, and soft-RoCE fills a handful; to read them all for each dial
//! took the reactor 0.3 s under emulation, while the rails to a dead peer were dialed again and again. So the
//! place of the last time is looked at first, which is a guess and nothing more: the kernel's word there,
//! now, decides. Then come the first places of each table, as far as they are in use; then, seldom, all.

use crate::fabric::Gid;
use core::time::Duration;
use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Empty places in a row after which the rest of a table is taken to be empty, as it is unless many addresses
/// came and went.
const HOLE_MAX: u32 = 16;
/// Between two looks at every place for an address that is not where it should be.
const WHOLE_EVERY: Duration = Duration::from_secs(5);

/// Where an address was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: String,
    pub(super) port: u8,
    pub(super) index: u8,
}

/// The tables, and where addresses were.
pub(super) struct Tables {
    /// Where the kernel lists devices, their ports, and the addresses of these.
    devices: PathBuf,
    /// Where it lists the interfaces of this network namespace.
    interfaces: PathBuf,
    guesses: HashMap<Gid, Place>,
    /// When an address was last looked for in every place.
    whole: HashMap<Gid, Instant>,
}

impl Tables {
    pub(super) fn new() -> Tables {
        Tables::below(Path::new("/sys/class"))
    }

    fn below(class: &Path) -> Tables {
        Tables {
            devices: class.join("infiniband"),
            interfaces: class.join("net"),
            guesses: HashMap::new(),
            whole: HashMap::new(),
        }
    }

    /// Names of the devices there are.
    pub(super) fn devices(&self) -> Vec<String> {
        let mut names = entries(&self.devices);
        names.sort();
        names
    }

    /// The port that carries `gid` as a RoCEv2 address. With several network namespaces on one machine all
    /// see all devices; one whose interface is in this namespace is preferred.
    pub(super) fn find(&mut self, gid: &Gid, now: Instant) -> Option<Place> {
        if let Some(guess) = self.guesses.get(gid)
            && let folder = self.port(&guess.device, guess.port)
            && is_at(&folder, guess.index, gid)
            && self.is_interface_here(&folder, guess.index)
        {
            return Some(guess.clone());
        }
        let mut found = self.search(gid, HOLE_MAX);
        let due = self.whole.get(gid).is_none_or(|last| now.saturating_duration_since(*last) >= WHOLE_EVERY);
        if found.is_none() && due {
            self.whole.insert(*gid, now);
            found = self.search(gid, u32::MAX);
        }
        match &found {
            Some(place) => self.guesses.insert(*gid, place.clone()),
            None => self.guesses.remove(gid),
        };
        found
    }

    fn search(&self, gid: &Gid, hole_max: u32) -> Option<Place> {
        let mut found = None;
        for device in self.devices() {
            for port in entries(&self.devices.join(&device).join("ports")) {
                let Ok(port) = port.parse() else { continue };
                let folder = self.port(&device, port);
                let Some(index) = search_table(&folder, gid, hole_max) else { continue };
                let place = Place { device: device.clone(), port, index };
                if self.is_interface_here(&folder, index) {
                    return Some(place);
                }
                found.get_or_insert(place);
            }
        }
        found
    }

    fn port(&self, device: &str, port: u8) -> PathBuf {
        self.devices.join(device).join("ports").join(port.to_string())
    }

    fn is_interface_here(&self, port: &Path, index: u8) -> bool {
        let name = read(port, "gid_attrs/ndevs", index);
        name.is_some_and(|name| !name.is_empty() && self.interfaces.join(name).exists())
    }
}

/// Names in a folder of the kernel's.
pub(super) fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn read(port: &Path, table: &str, index: u8) -> Option<String> {
    let text = std::fs::read_to_string(port.join(table).join(index.to_string())).ok()?;
    Some(text.trim().to_owned())
}

fn address_at(port: &Path, index: u8) -> Option<Ipv6Addr> {
    read(port, "gids", index)?.parse().ok()
}

fn is_at(port: &Path, index: u8, gid: &Gid) -> bool {
    address_at(port, index) == Some(Ipv6Addr::from(*gid))
        && read(port, "gid_attrs/types", index).is_some_and(|kind| kind == "RoCE v2")
}

fn search_table(port: &Path, gid: &Gid, hole_max: u32) -> Option<u8> {
    let wanted = Ipv6Addr::from(*gid);
    let mut hole = 0;
    for index in 0..=u8::MAX {
        match address_at(port, index) {
            // The table ends here.
            None => return None,
            Some(address) if address == wanted && is_at(port, index, gid) => return Some(index),
            Some(address) if address.is_unspecified() => hole += 1,
            Some(_) => hole = 0,
        }
        if hole >= hole_max {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::gid_of;

    /// A kernel's tables as files: a folder that goes with the test.
    struct Kernel(PathBuf);

    impl Kernel {
        fn new(name: &str) -> Kernel {
            let folder = std::env::temp_dir().join(format!("verbs-tables-{}-{name}", std::process::id()));
            std::fs::create_dir_all(folder.join("net/h1r1")).unwrap();
            Kernel(folder)
        }

        /// Puts an address (`None`: nothing) into a place; both kinds of RoCE have it, as usual.
        fn put(&self, device: &str, interface: &str, index: u8, gid: Option<Gid>) {
            let port = self.0.join("infiniband").join(device).join("ports/1");
            let address = Ipv6Addr::from(gid.unwrap_or_default()).to_string();
            for (table, text) in
                [("gids", address.as_str()), ("gid_attrs/types", "RoCE v2\n"), ("gid_attrs/ndevs", interface)]
            {
                std::fs::create_dir_all(port.join(table)).unwrap();
                std::fs::write(port.join(table).join(index.to_string()), text).unwrap();
            }
        }
    }

    impl Drop for Kernel {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn gid(last: u8) -> Gid {
        gid_of([10, 77, 1, last].into())
    }

    // proves: T8
    #[test]
    fn an_address_that_moved_is_found_where_it_is_now_and_not_where_it_was() {
        let kernel = Kernel::new("moved");
        (0..4).for_each(|index| kernel.put("h1r1", "h1r1", index, None));
        kernel.put("h1r1", "h1r1", 1, Some(gid(1)));
        let (mut tables, now) = (Tables::below(&kernel.0), Instant::now());
        assert_eq!(tables.find(&gid(1), now).unwrap().index, 1);
        kernel.put("h1r1", "h1r1", 1, Some(gid(9)));
        kernel.put("h1r1", "h1r1", 3, Some(gid(1)));
        assert_eq!(tables.find(&gid(1), now).unwrap().index, 3);
        kernel.put("h1r1", "h1r1", 3, None);
        assert_eq!(tables.find(&gid(1), now), None);
    }

    #[test]
    fn a_device_whose_interface_is_in_this_namespace_is_preferred_though_another_was_found_before() {
        let kernel = Kernel::new("namespace");
        kernel.put("a", "elsewhere", 0, Some(gid(1)));
        let (mut tables, now) = (Tables::below(&kernel.0), Instant::now());
        assert_eq!(tables.find(&gid(1), now).unwrap().device, "a");
        kernel.put("b", "h1r1", 0, Some(gid(1)));
        assert_eq!(tables.find(&gid(1), now).unwrap().device, "b");
    }

    #[test]
    fn an_address_behind_many_empty_places_is_found_by_the_seldom_look_at_all() {
        let kernel = Kernel::new("hole");
        (0..100).for_each(|index| kernel.put("h1r1", "h1r1", index, None));
        let (mut tables, now) = (Tables::below(&kernel.0), Instant::now());
        assert_eq!(tables.find(&gid(1), now), None);
        kernel.put("h1r1", "h1r1", 80, Some(gid(1)));
        assert_eq!(tables.find(&gid(1), now), None, "all places again, at once");
        assert_eq!(tables.find(&gid(1), now + WHOLE_EVERY).unwrap().index, 80);
        assert_eq!(tables.find(&gid(1), now + WHOLE_EVERY).unwrap().index, 80, "the guess does not hold");
    }
}
