//! The clients of one node's endpoint, and the node as the service below its NBD servers.

use crate::access::{Access, access};
use crate::consensus::Consensus;
use crate::membership::MembershipClient;
use blockdev_engine::{
    BlockEngine, BlockIo, DeskWish, LibraryDesk, OpenRefusal as LibraryRefusal, Opened, Opening, ReadData,
    RefusedWhy, WriteData,
};
use blockdev_nbd::{
    BlockAnswer, BlockCompletion, BlockErrno as NbdErrno, BlockIo as NbdIo, BlockOperation, BlockService,
    Busy, ClientIdentity, ExportEntry, Extent, OpenRefusal, OpenedExport, SubmitRefusal, SubmitRefusalReason,
    VolumeHandle,
};
use blockdev_proto::errno::BlockErrno;
use blockdev_proto::geometry::{ByteRange, TRANSFER_BYTES_MAX, VolumeId};
use blockdev_proto::lanes::Lane;
use blockdev_proto::wire::{Operation, RequestFlags};
use control_proto::rows::{ClusterRows, VirtualDiskRow};
use rustix::process::{getegid, geteuid, getgroups};
use std::collections::VecDeque;
use std::sync::Arc;
use transport_endpoint::{Clients, Completion, Core, Delivery, Endpoint, PeerEvent, SendBuffer};
use transport_proto::identity::{ClientId, NodeId};

/// All clients of the endpoint.
pub(crate) struct NodeClients {
    /// Block requests.
    pub(crate) engine: BlockEngine,
    /// Membership.
    pub(crate) membership: MembershipClient,
    /// The log of the configuration; there from the end of the start on.
    pub(crate) consensus: Option<Consensus>,
}

impl Clients for NodeClients {
    #[inline]
    fn deliver(&mut self, core: &mut Core, delivery: Delivery<'_>) {
        match delivery.client {
            ClientId::BLOCK | ClientId::LEGS | ClientId::VOLUME_LEGS => self.engine.deliver(core, delivery),
            ClientId::MEMBERSHIP => self.membership.deliver(core, delivery),
            ClientId::CONFIGURATION => {
                if let Some(consensus) = &mut self.consensus {
                    consensus.deliver(core, delivery);
                }
            }
            _ => {}
        }
    }

    fn complete(&mut self, core: &mut Core, completion: Completion) {
        if Lane::of_client(completion.client).is_some() {
            self.engine.complete(core, completion);
        }
    }

    fn peer(&mut self, core: &mut Core, event: PeerEvent) {
        self.engine.peer(core, event);
        self.membership.peer(core, event);
        if let Some(consensus) = &mut self.consensus {
            consensus.peer(core, event);
        }
    }

    fn writable(&mut self, core: &mut Core, node: NodeId, client: ClientId) {
        // What membership could not send is said again by itself.
        if Lane::of_client(client).is_some() {
            self.engine.writable(core, node, client);
        }
    }
}

/// Who a completion of the engine is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    server: usize,
    tag: u64,
}

/// Set in the engine's tags of the library surface; all others are numbers of tickets.
const LIBRARY: u64 = 1 << 63;

/// The node as seen from its surfaces.
pub(crate) struct Station {
    /// The transport and its clients.
    pub(crate) endpoint: Endpoint<NodeClients>,
    pub(crate) rows: Arc<ClusterRows>,
    pub(crate) node: NodeId,
    /// Which NBD server is calling: each has exports of its own.
    pub(crate) server: usize,
    exports: Vec<Vec<VolumeId>>,
    tickets: Vec<Ticket>,
    free: Vec<u32>,
    /// Completions that need no round of the engine.
    at_once: VecDeque<(usize, BlockCompletion<ReadData>)>,
    /// Requests of other threads of this process.
    pub(crate) library: LibraryDesk,
    /// Openings by surfaces, per volume (SPEC B7).
    open: Vec<(VolumeId, usize)>,
    /// Volumes that nobody has open any more, until the engine has let them go.
    closing: Vec<VolumeId>,
    /// This process, as a client of its own disks.
    own: ClientIdentity,
    user: u32,
}

impl Station {
    pub(crate) fn new(endpoint: Endpoint<NodeClients>, node: NodeId, rows: Arc<ClusterRows>) -> Station {
        let library = LibraryDesk::new(endpoint.waker());
        Station {
            endpoint,
            rows,
            node,
            server: 0,
            exports: Vec::new(),
            tickets: Vec::new(),
            free: Vec::new(),
            at_once: VecDeque::new(),
            library,
            open: Vec::new(),
            closing: Vec::new(),
            own: own_identity(),
            user: geteuid().as_raw(),
        }
    }

    /// What the NBD server of this number exports from now on.
    pub(crate) fn set_exports(&mut self, server: usize, exports: &[VolumeId]) {
        if self.exports.len() <= server {
            self.exports.resize_with(server + 1, Vec::new);
        }
        self.exports[server] = exports.to_vec();
    }

    /// Volumes that surfaces have open, and how often.
    pub(crate) fn open_volumes(&self) -> &[(VolumeId, usize)] {
        &self.open
    }

    /// The next completion, and the server that it is for.
    #[inline]
    pub(crate) fn next_completion(&mut self) -> Option<(usize, BlockCompletion<ReadData>)> {
        if let Some(done) = self.at_once.pop_front() {
            return Some(done);
        }
        let done = loop {
            let done = self.endpoint.clients().engine.next_completion()?;
            if done.tag & LIBRARY == 0 {
                break done;
            }
            self.library.complete(done.tag as u32, done.result);
        };
        let Ticket { server, tag } = self.tickets[done.tag as usize];
        self.free.push(done.tag as u32);
        let result = match done.result {
            Ok(None) => Ok(BlockAnswer::Done),
            Ok(Some(data)) => Ok(BlockAnswer::Data(data)),
            Err(errno) => Err(nbd_errno(errno)),
        };
        Some((server, BlockCompletion { tag, result }))
    }

    #[inline]
    fn ticket(&mut self, tag: u64) -> u32 {
        let ticket = Ticket { server: self.server, tag };
        match self.free.pop() {
            Some(number) => {
                self.tickets[number as usize] = ticket;
                number
            }
            None => {
                self.tickets.push(ticket);
                self.tickets.len() as u32 - 1
            }
        }
    }

    /// Hands requests of other threads to the engine.
    #[inline]
    pub(crate) fn poll_library(&mut self) -> usize {
        let (core, clients) = self.endpoint.parts();
        let mut found = self.library.poll(core, &mut clients.engine, |number| LIBRARY | u64::from(number));
        while let Some(wish) = self.library.next_wish() {
            found += 1;
            match wish {
                DeskWish::Open(opening) => self.open_for_library(opening),
                DeskWish::Close(volume) => self.close_one(volume),
            }
        }
        found
    }

    #[cold]
    fn open_for_library(&mut self, opening: Opening) {
        let rows = self.rows.clone();
        let name = || opening.name().to_owned();
        let result = match rows.virtual_disk_named(opening.name()) {
            None => {
                let known = rows.virtual_disks.iter().map(|row| row.name.clone()).collect();
                Err(LibraryRefusal::Unknown { name: name(), known })
            }
            Some(row) => match self.access(row.id, &self.own) {
                Access::Nothing => Err(LibraryRefusal::NotPermitted { name: name() }),
                access if self.open_one(row.id) => Ok(Opened {
                    volume: row.id,
                    size_bytes: row.size_bytes,
                    block_bytes: row.block_bytes,
                    writable: access == Access::Write && !row.read_only,
                }),
                _ => Err(LibraryRefusal::Unknown { name: name(), known: Vec::new() }),
            },
        };
        self.library.opened(opening, result);
    }

    fn access(&self, volume: VolumeId, client: &ClientIdentity) -> Access {
        access(&self.rows, self.node, volume, client, self.user)
    }

    /// A surface opens a volume: the first opening sets it up. `false`: no mapping is known.
    fn open_one(&mut self, volume: VolumeId) -> bool {
        let (core, clients) = self.endpoint.parts();
        if !clients.engine.open(core, volume) {
            return false;
        }
        match self.open.iter_mut().find(|(known, _)| *known == volume) {
            Some((_, count)) => *count += 1,
            None => self.open.push((volume, 1)),
        }
        self.closing.retain(|known| *known != volume);
        true
    }

    fn close_one(&mut self, volume: VolumeId) {
        let Some((_, count)) = self.open.iter_mut().find(|(known, _)| *known == volume) else { return };
        *count -= 1;
        if *count == 0 {
            self.open.retain(|(known, _)| *known != volume);
            self.closing.push(volume);
        }
    }

    /// Lets go of volumes that nobody has open any more: they are not set up again at the next
    /// reconfiguration.
    pub(crate) fn close_idle(&mut self) {
        let (core, clients) = self.endpoint.parts();
        self.closing.retain(|volume| !clients.engine.close(core, *volume));
    }

    fn exported(&self) -> &[VolumeId] {
        self.exports.get(self.server).map_or(&[], Vec::as_slice)
    }

    /// The row behind an export of the server that is calling.
    fn export(&self, export: &str) -> Option<&VirtualDiskRow> {
        let exported = self.exported();
        match export {
            "" => exported.first().and_then(|volume| self.rows.virtual_disk(*volume)),
            name => self.rows.virtual_disk_named(name).filter(|row| exported.contains(&row.id)),
        }
    }
}

fn own_identity() -> ClientIdentity {
    let groups = getgroups().unwrap_or_default().into_iter().map(|group| group.as_raw()).collect();
    ClientIdentity::Local { user: geteuid().as_raw(), group: getegid().as_raw(), groups }
}

/// A request of the NBD server in the engine's words; `None` for one that needs no engine.
fn translate(
    operation: BlockOperation<SendBuffer>,
) -> (Operation, RequestFlags, ByteRange, Option<WriteData>) {
    let fua_flag = |fua| if fua { RequestFlags::FUA } else { RequestFlags::NONE };
    let none = RequestFlags::NONE;
    match operation {
        BlockOperation::Read { offset, length } => {
            (Operation::Read, none, ByteRange::new(offset, length), None)
        }
        BlockOperation::Write { offset, buffer, fua } => {
            let range = ByteRange::new(offset, buffer.as_ref().len() as u32);
            (Operation::Write, fua_flag(fua), range, Some(WriteData::built(buffer)))
        }
        BlockOperation::Discard { offset, length, fua } => {
            (Operation::Discard, fua_flag(fua), ByteRange::new(offset, length), None)
        }
        BlockOperation::WriteZeroes { offset, length, fua, no_unmap, .. } => {
            let keep = if no_unmap { RequestFlags::NO_UNMAP } else { none };
            (Operation::WriteZeroes, fua_flag(fua).with(keep), ByteRange::new(offset, length), None)
        }
        BlockOperation::Flush | BlockOperation::BlockStatus { .. } => {
            (Operation::Flush, none, ByteRange::EMPTY, None)
        }
    }
}

fn nbd_errno(errno: BlockErrno) -> NbdErrno {
    match errno {
        BlockErrno::Eperm | BlockErrno::Eacces | BlockErrno::Erofs => NbdErrno::NotPermitted,
        BlockErrno::Einval => NbdErrno::Invalid,
        BlockErrno::Enospc => NbdErrno::NoSpace,
        BlockErrno::Eoverflow => NbdErrno::Overflow,
        BlockErrno::Enotsup => NbdErrno::NotSupported,
        BlockErrno::Eshutdown => NbdErrno::Shutdown,
        _ => NbdErrno::Io,
    }
}

impl BlockService for Station {
    type WriteBuffer = SendBuffer;
    type ReadData = ReadData;

    fn open(&mut self, export: &str, client: &ClientIdentity) -> Result<OpenedExport, OpenRefusal> {
        let row = self.export(export).ok_or(OpenRefusal::Unknown)?;
        let access = self.access(row.id, client);
        if access == Access::Nothing {
            return Err(OpenRefusal::NotPermitted);
        }
        let opened = OpenedExport {
            volume: VolumeHandle(row.id.0),
            size_bytes: row.size_bytes,
            block_bytes: row.block_bytes.get(),
            max_transfer_bytes: TRANSFER_BYTES_MAX,
            read_only: row.read_only || access < Access::Write,
            fast_zero: false,
            description: format!("virtual disk {} of cluster {}", row.name, self.rows.name),
        };
        let volume = row.id;
        if self.open_one(volume) { Ok(opened) } else { Err(OpenRefusal::Unreachable) }
    }

    fn exports(&self, client: &ClientIdentity) -> Vec<ExportEntry> {
        let rows = self.exported().iter().filter_map(|volume| self.rows.virtual_disk(*volume));
        rows.filter(|row| self.access(row.id, client) > Access::Nothing)
            .map(|row| ExportEntry { name: row.name.clone(), description: String::new() })
            .collect()
    }

    fn write_buffer(&mut self, _volume: VolumeHandle, _offset: u64, length: u32) -> Result<SendBuffer, Busy> {
        let (core, clients) = self.endpoint.parts();
        clients.engine.write_buffer(core, length as usize).map_err(|_| Busy)
    }

    fn submit(&mut self, io: NbdIo<SendBuffer>) -> Result<(), SubmitRefusal<SendBuffer>> {
        let volume = VolumeId(io.volume.0);
        if let BlockOperation::BlockStatus { length, .. } = io.operation {
            // What a disk has allocated is not asked for over the cluster: everything counts as data.
            let extents = BlockAnswer::Extents(vec![Extent { length, hole: false, zero: false }]);
            self.at_once.push_back((self.server, BlockCompletion { tag: io.tag, result: Ok(extents) }));
            return Ok(());
        }
        if !self.endpoint.clients().engine.may_submit() {
            return Err(SubmitRefusal { io, reason: SubmitRefusalReason::Busy });
        }
        let ticket = self.ticket(io.tag);
        let (operation, flags, range, data) = translate(io.operation);
        let request = BlockIo { volume, operation, flags, range, data, tag: u64::from(ticket) };
        let (core, clients) = self.endpoint.parts();
        match clients.engine.submit(core, request) {
            Ok(()) => Ok(()),
            Err(refused) => {
                let errno = match refused.why {
                    // There was room a moment ago.
                    RefusedWhy::Full => NbdErrno::NoMemory,
                    RefusedWhy::Failed(errno) => nbd_errno(errno),
                };
                self.free.push(ticket);
                self.at_once.push_back((self.server, BlockCompletion { tag: io.tag, result: Err(errno) }));
                Ok(())
            }
        }
    }

    fn close(&mut self, volume: VolumeHandle) {
        self.close_one(VolumeId(volume.0));
    }
}
