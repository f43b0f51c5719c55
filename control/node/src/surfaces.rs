//! The NBD servers of this node, in line with the rows: they come, go and change while others run.

use crate::access::socket_access;
use crate::station::Station;
use blockdev_engine::ReadData;
use blockdev_nbd::{BlockCompletion, ListenAddress, NbdConfig, NbdServer, StartRefusal, VolumeHandle};
use blockdev_proto::geometry::VolumeId;
use control_proto::rows::{ClusterRows, NbdAddress, NbdRow};
use std::time::{Duration, Instant};
use transport_endpoint::FIRST_FREE_TOKEN;
use transport_proto::identity::NodeId;

/// Event tokens: disks first, then a range for each NBD server.
pub(crate) const DISK_TOKENS: usize = 1 << 12;
const NBD_TOKENS: usize = 1 << 12;
/// A server whose address was taken is tried again after this time.
const START_AGAIN: Duration = Duration::from_secs(1);

/// One NBD server.
struct Surface {
    listen: NbdAddress,
    server: NbdServer<Station>,
    /// Its row is gone: it goes when its last client has gone.
    leaving: bool,
}

/// All of them. Places are numbers that completions bear, so a place is used again only after its server
/// went.
pub(crate) struct Surfaces {
    places: Vec<Option<Surface>>,
    /// Rows whose server could not be started; tried again then.
    again_at: Option<Instant>,
}

impl Surfaces {
    /// Starts the servers of this node; one that cannot be started is a refusal.
    pub(crate) fn start(station: &mut Station, rows: &ClusterRows) -> Result<Surfaces, StartRefusal> {
        let mut surfaces = Surfaces { places: Vec::new(), again_at: None };
        for row in rows_of(rows, station.node) {
            surfaces.add(station, rows, row)?;
        }
        Ok(surfaces)
    }

    fn add(&mut self, station: &mut Station, rows: &ClusterRows, row: &NbdRow) -> Result<(), StartRefusal> {
        let vacant = self.places.iter().position(Option::is_none);
        let place = vacant.unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        let listen = match &row.listen {
            NbdAddress::Tcp(address) => ListenAddress::Tcp(*address),
            NbdAddress::Unix(path) => {
                let (mode, owner) = socket_access(rows, row.node, &row.exports);
                ListenAddress::Unix { path: path.into(), mode, owner }
            }
        };
        let first = FIRST_FREE_TOKEN + DISK_TOKENS + place * NBD_TOKENS;
        let config = NbdConfig { listen: vec![listen], ..NbdConfig::default() };
        let server = NbdServer::new(station.endpoint.registry(), first..first + NBD_TOKENS, config)?;
        self.places[place] = Some(Surface { listen: row.listen.clone(), server, leaving: false });
        station.set_exports(place, &row.exports);
        Ok(())
    }

    /// Brings the servers in line with rows that changed.
    pub(crate) fn follow(&mut self, station: &mut Station, rows: &ClusterRows) {
        let node = station.node;
        for (place, surface) in self.places.iter_mut().enumerate() {
            let Some(surface) = surface.as_mut().filter(|surface| !surface.leaving) else { continue };
            match rows_of(rows, node).find(|row| row.listen == surface.listen) {
                Some(row) => {
                    station.set_exports(place, &row.exports);
                    let (mode, owner) = socket_access(rows, node, &row.exports);
                    if let Err(error) = surface.server.set_access(mode, owner) {
                        tracing::error!(
                            "cannot change mode and owner of {}: {error}; run the node as root",
                            address(&surface.listen)
                        );
                    }
                }
                None => {
                    tracing::info!("NBD on {} ends: it is not configured any more", address(&surface.listen));
                    surface.server.stop();
                    surface.leaving = true;
                }
            }
        }
        self.start_missing(station, rows);
    }

    fn start_missing(&mut self, station: &mut Station, rows: &ClusterRows) {
        let was_refused = self.again_at.take().is_some();
        for row in rows_of(rows, station.node) {
            if self.each().any(|surface| surface.listen == row.listen) {
                continue;
            }
            match self.add(station, rows, row) {
                Ok(()) => tracing::info!("serving NBD on {}", address(&row.listen)),
                Err(refusal) => {
                    if !was_refused {
                        tracing::error!("{refusal}; trying again");
                    }
                    self.again_at = Some(Instant::now() + START_AGAIN);
                }
            }
        }
    }

    /// Clients of volumes that are gone from the configuration get their answers and are let go.
    pub(crate) fn close_volume(&mut self, volume: VolumeId) {
        for surface in self.places.iter_mut().flatten() {
            surface.server.close_volume(VolumeHandle(volume.0));
        }
    }

    /// Everything that is not data.
    pub(crate) fn control(&mut self, station: &mut Station) {
        for surface in self.places.iter_mut().flatten() {
            while let Some(notice) = surface.server.take_notice() {
                tracing::info!("{notice}");
            }
        }
        for place in &mut self.places {
            if place.as_ref().is_some_and(|surface| surface.leaving && surface.server.connections() == 0) {
                *place = None;
                // One at the same address may wait for it.
                self.again_at = Some(Instant::now());
            }
        }
        if self.again_at.is_some_and(|at| Instant::now() >= at) {
            let rows = station.rows.clone();
            self.start_missing(station, &rows);
        }
    }

    // --- data ---

    /// Lets every server do what it can do now.
    #[inline]
    pub(crate) fn poll(&mut self, station: &mut Station) -> usize {
        let mut found = 0;
        for (place, surface) in self.places.iter_mut().enumerate() {
            if let Some(surface) = surface {
                station.server = place;
                found += usize::from(surface.server.poll(station));
            }
        }
        found
    }

    /// A completion for one of the servers.
    #[inline]
    pub(crate) fn complete(&mut self, place: usize, completion: BlockCompletion<ReadData>) {
        if let Some(Some(surface)) = self.places.get_mut(place) {
            surface.server.complete(completion);
        }
    }

    #[inline]
    pub(crate) fn flush(&mut self) {
        self.places.iter_mut().flatten().for_each(|surface| {
            surface.server.flush();
        });
    }

    #[inline]
    pub(crate) fn handle_event(&mut self, event: &mio::event::Event) -> bool {
        self.places.iter_mut().flatten().any(|surface| surface.server.handle_event(event))
    }

    pub(crate) fn arm(&mut self) -> bool {
        self.places.iter_mut().flatten().all(|surface| surface.server.arm())
    }

    // --- stop, and what is told ---

    pub(crate) fn stop(&mut self) {
        self.places.iter_mut().flatten().for_each(|surface| surface.server.stop());
    }

    pub(crate) fn connections(&self) -> usize {
        self.servers().map(NbdServer::connections).sum()
    }

    pub(crate) fn servers(&self) -> impl Iterator<Item = &NbdServer<Station>> {
        self.each().map(|surface| &surface.server)
    }

    fn each(&self) -> impl Iterator<Item = &Surface> {
        self.places.iter().flatten()
    }
}

fn rows_of(rows: &ClusterRows, node: NodeId) -> impl Iterator<Item = &NbdRow> {
    rows.nbd.iter().filter(move |row| row.node == node)
}

fn address(listen: &NbdAddress) -> String {
    match listen {
        NbdAddress::Unix(path) => format!("unix:{path}"),
        NbdAddress::Tcp(address) => format!("tcp:{address}"),
    }
}
