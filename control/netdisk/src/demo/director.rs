//! The course of the demo: who does what, when, and what must be true before it goes on. Nothing here waits
//! for time to pass; every step waits for a condition, with a deadline.

use super::client::NbdClient;
use super::cluster::{C, Cluster, EXPORT, NODES, NodeNumber, WAIT_MAX, is_ready, rails_up, serving};
use super::faults::Faults;
use super::folder::Folders;
use super::image::Image;
use super::interrupt::Interrupt;
use super::live::Live;
use super::load::Load;
use super::outcome::{Counts, ImageRow, Outcome, PhaseRow, ReadBack};
use super::place::Place;
use super::read_back::read_back;
use super::stamp::BLOCK_BYTES;
use super::workload::{Cues, Progress, Worked, Workload};
use anyhow::{Context, bail, ensure};
use control_node::report::Status;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Blocks of the region that the load works on, behind the image: 16 MiB.
const LOAD_BLOCKS: u64 = 4096;
/// The link of which a rail is cut.
const CUT_LINK: u8 = 0;
/// Between two looks at the clients.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two looks at node C, which costs it a little.
const STATUS_EVERY: Duration = Duration::from_millis(100);

/// The clients' thread; dropping it ends the thread.
struct Clients {
    cues: Arc<Cues>,
    thread: Option<JoinHandle<anyhow::Result<Worked>>>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.cues.abandon.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its error is of no interest to whoever drops it.
            let _ = thread.join();
        }
    }
}

/// A demo under way.
pub(super) struct Director<'a> {
    cluster: &'a mut Cluster,
    image: Arc<Image>,
    span: Duration,
    interrupt: &'a Interrupt,
    live: &'a mut Live,
    looked: Option<Instant>,
    status: Option<Status>,
}

/// What was done to the cluster.
struct Harm {
    killed: NodeNumber,
    rail_cut: String,
    counts: Counts,
}

impl<'a> Director<'a> {
    pub(super) fn new(
        cluster: &'a mut Cluster,
        image: Arc<Image>,
        span: Duration,
        interrupt: &'a Interrupt,
        live: &'a mut Live,
    ) -> Director<'a> {
        Director { cluster, image, span, interrupt, live, looked: None, status: None }
    }

    /// Bytes of the virtual disk that the demo needs.
    pub(super) fn disk_bytes(image: &Image) -> u64 {
        image.padded_length() + LOAD_BLOCKS * BLOCK_BYTES as u64
    }

    /// The whole course.
    pub(super) fn run(mut self, start: Instant) -> anyhow::Result<Outcome> {
        for node in NODES {
            let ready = "three members, all rails up, the disk served";
            self.status = Some(self.cluster.wait_for(node, ready, self.interrupt, is_ready)?);
        }
        let clients = self.start_clients()?;
        let harm = self.harm(&clients)?;
        let mut worked = self.finish_clients(clients)?;
        let (image, read) = self.read_back(&mut worked, harm.killed.twin())?;
        let mut counts = harm.counts;
        for node in [harm.killed.twin(), C] {
            counts.add(&self.cluster.wait_for(node, "an answer", self.interrupt, |_| true)?);
        }
        self.live.act("the remaining nodes are asked to stop");
        let mut complaints = self.cluster.stop(self.interrupt)?;
        if !worked.progress.restored {
            complaints.push("no request that was sent after the kill was answered".to_owned());
        }
        Ok(Outcome {
            seconds: start.elapsed().as_secs_f64(),
            killed: harm.killed.letter(),
            served_after: harm.killed.twin().letter(),
            rail_cut: harm.rail_cut,
            bytes_written: worked.progress.bytes_written,
            bytes_read: worked.progress.bytes_read + read,
            image,
            phases: PhaseRow::all(&worked.latencies),
            counts,
            faults: worked.faults,
            complaints,
        })
    }

    fn start_clients(&mut self) -> anyhow::Result<Clients> {
        let (up, all) = self.status.as_ref().map_or((0, 0), rails_up);
        let server = self.status.as_ref().and_then(serving).map_or('?', NodeNumber::letter);
        self.live.act(&format!(
            "A, B and C run, {up} of C's {all} rails are up, {server} serves; \
             image and load go through C"
        ));
        let open = || NbdClient::open(self.cluster.nbd_socket(C), EXPORT);
        let both = [open()?, open()?];
        let needed = Director::disk_bytes(&self.image);
        ensure!(both[0].size_bytes() >= needed, "the export has {} bytes only", both[0].size_bytes());
        let run = crate::table::disk::uuid()?.0 as u64;
        let cues = Arc::new(Cues::default());
        let load = Load::new(run, LOAD_BLOCKS);
        let workload =
            Workload::new(both, C.letter().to_string(), self.image.clone(), load, self.span, cues.clone());
        let thread = std::thread::Builder::new().name("demo-clients".into()).spawn(move || workload.run())?;
        Ok(Clients { cues, thread: Some(thread) })
    }

    // --- harm ---

    /// Kills the serving node when half of the image is written, cuts a rail when three quarters are.
    fn harm(&mut self, clients: &Clients) -> anyhow::Result<Harm> {
        let half = self.image.length() / 2;
        self.watch(clients, "half of the image written", |progress, _| progress.image_bytes >= half)?;
        let (victim, counts) = self.choose_victim(clients)?;
        self.live.act(&format!("{} is killed by SIGKILL", victim.letter()));
        // Setting them cannot fail: they are set here only.
        let _ = clients.cues.killed.set(Instant::now());
        self.cluster.kill(victim)?;
        let _ = clients.cues.dead.set(Instant::now());
        let survivor = victim.twin();
        self.watch(clients, "the other node serves", |progress, status| {
            progress.restored && status.is_some_and(|status| serving(status) == Some(survivor))
        })?;
        self.live.act(&format!("{} serves since", survivor.letter()));

        let most = self.image.length() / 4 * 3;
        self.watch(clients, "three quarters of the image written", |progress, status| {
            progress.image_bytes >= most && carrier(status, survivor).is_some()
        })?;
        let (rail, kind) =
            carrier(self.status.as_ref(), survivor).context("a rail that is up carries the data")?;
        let (from, to) = (C.letter(), survivor.letter());
        let rail_cut = format!("rail {rail} ({kind}) of link {CUT_LINK} between {from} and {to}");
        self.live.act(&format!("{rail_cut} is cut"));
        self.cluster.cut_rail(C, CUT_LINK, rail)?;
        self.watch(clients, "the data of the cut rail goes by the other one", |_, status| {
            carrier(status, survivor).is_some_and(|(now, _)| now != rail)
        })?;
        Ok(Harm { killed: victim, rail_cut, counts })
    }

    /// Waits until everybody is a member, so that a majority remains, and takes who serves at that moment: A,
    /// unless the machine was so slow that A was taken for dead before.
    fn choose_victim(&mut self, clients: &Clients) -> anyhow::Result<(NodeNumber, Counts)> {
        self.watch(clients, "three members and a served disk", |_, status| {
            status.is_some_and(|status| status.members.len() == NODES.len() && serving(status).is_some())
        })?;
        let victim = self.status.as_ref().and_then(serving).context("somebody serves")?;
        let mut counts = Counts::default();
        if let Some(last_words) = self.cluster.status(victim)? {
            counts.add(&last_words);
        }
        Ok((victim, counts))
    }

    /// Shows how things stand until a condition holds.
    fn watch(
        &mut self,
        clients: &Clients,
        what: &str,
        condition: impl Fn(&Progress, Option<&Status>) -> bool,
    ) -> anyhow::Result<()> {
        let mut deadline = Instant::now() + self.span + WAIT_MAX;
        let mut last_bytes = 0;
        loop {
            self.interrupt.check()?;
            self.look()?;
            let progress = clients.cues.progress();
            self.live.show(&progress, self.image.length(), self.status.as_ref());
            if condition(&progress, self.status.as_ref()) {
                return Ok(());
            }
            if clients.thread.as_ref().is_none_or(JoinHandle::is_finished) {
                // Its own error tells why; whoever waits for it takes it from there.
                return Ok(());
            }
            if progress.image_bytes != last_bytes {
                // A large image takes its time.
                last_bytes = progress.image_bytes;
                deadline = deadline.max(Instant::now() + WAIT_MAX);
            }
            if Instant::now() > deadline {
                let status = self.status.as_ref().map(control_node::report::text).unwrap_or_default();
                bail!("waited in vain for: {what}. Node C tells:\n{status}");
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        if self.looked.is_some_and(|looked| looked.elapsed() < STATUS_EVERY) {
            return self.cluster.check();
        }
        self.looked = Some(Instant::now());
        if let Some(status) = self.cluster.status(C)? {
            self.status = Some(status);
        }
        Ok(())
    }

    // --- end ---

    fn finish_clients(&mut self, mut clients: Clients) -> anyhow::Result<Worked> {
        clients.cues.may_end.store(true, Ordering::Relaxed);
        self.watch(&clients, "the end of the load", |_, _| false)?;
        let thread = clients.thread.take().context("the clients' thread is joined once")?;
        match thread.join() {
            Ok(worked) => worked.context("the clients stopped"),
            Err(_) => bail!("the clients' thread panicked; its message stands above"),
        }
    }

    /// Reads everything back through the survivor, which has the disk, and through C, which has not.
    fn read_back(&mut self, worked: &mut Worked, survivor: NodeNumber) -> anyhow::Result<(ImageRow, u64)> {
        let mut rows = Vec::new();
        let mut total = 0;
        for node in [survivor, C] {
            let letter = node.letter();
            self.live.act(&format!("everything is read back through {letter}"));
            let client = NbdClient::open(self.cluster.nbd_socket(node), EXPORT)?;
            let (load, faults): (&mut Load, &mut Faults) = (&mut worked.load, &mut worked.faults);
            let (checksum, bytes) =
                read_back(client, &letter.to_string(), &self.image, load, faults, self.interrupt)
                    .with_context(|| format!("reading back through {letter}"))?;
            rows.push(ReadBack { through: letter, checksum });
            total += bytes;
        }
        let image = ImageRow {
            what: self.image.what().to_owned(),
            bytes: self.image.length(),
            sent: worked.image_checksum.clone(),
            read_back: rows,
        };
        Ok((image, total))
    }
}

/// The rail that carries the data of [`CUT_LINK`] to a peer, and its kind.
fn carrier(status: Option<&Status>, peer: NodeNumber) -> Option<(u8, String)> {
    let peer = status?.peers.iter().find(|row| row.node == peer.0)?;
    let link = peer.links.iter().find(|link| link.link == CUT_LINK)?;
    let rail = link.rails.iter().find(|rail| rail.active && rail.state == "up")?;
    Some((rail.rail, rail.kind.clone()))
}

/// Makes the cluster and directs it. When it fails, the ends of the nodes' logs are shown.
pub(super) fn stage(
    folders: &Folders,
    place: &Place,
    image: Image,
    span: Duration,
    interrupt: &Interrupt,
    live: &mut Live,
) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut cluster = Cluster::start(folders, place, Director::disk_bytes(&image), interrupt)?;
    let director = Director::new(&mut cluster, Arc::new(image), span, interrupt, live);
    director.run(start).inspect_err(|_| {
        if interrupt.check().is_ok() {
            eprintln!("{}", cluster.logs());
        }
    })
}
