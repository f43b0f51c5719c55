//! One end of a test: a provider, the reactor's part in its calling order, and a sink that checks what it
//! hears.

use super::Fixture;
use crate::{
    ConnectionId, Incoming, Payload, PayloadSlice, PostRefusal, Provider, RailFault, RailName, Sink,
};
use mio::{Events, Poll, Token};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use transport_buf::Chunk;
use transport_proto::identity::{LinkId, NodeId, Path, RailId};
use transport_proto::time::Time;
use transport_proto::wire::{FrameHeader, FrameType};

/// How long a test waits for what must happen before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tokens that the suite gives to a provider; one below and one above are outside.
const TOKENS: core::ops::Range<usize> = 1000..2000;

/// The data part of a frame that was heard.
#[derive(Debug)]
pub enum Content {
    /// None or inline, copied.
    Copied(Vec<u8>),
    /// In a chunk, held until this is dropped.
    Held(Chunk),
}

/// A frame that was heard.
#[derive(Debug)]
pub struct Received {
    /// Where it came from.
    pub connection: ConnectionId,
    /// Its header.
    pub header: FrameHeader,
    /// Its control part.
    pub control: Vec<u8>,
    /// Its data part.
    pub content: Content,
}

impl Received {
    /// Bytes of the data part.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Copied(bytes) => bytes,
            Content::Held(chunk) => chunk.as_ref(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Dialing,
    Open { establish_called: bool },
    Established,
}

/// A sink that remembers what it hears and panics at once when a report breaks the contract.
#[derive(Default)]
pub struct Heard {
    /// Peers that dialed.
    pub accepted: VecDeque<(RailName, ConnectionId)>,
    /// Dials that got through.
    pub connected: VecDeque<ConnectionId>,
    /// Connections ready for payload.
    pub established: VecDeque<ConnectionId>,
    /// Frames, in the order of their arrival.
    pub frames: VecDeque<Received>,
    /// Connections that may be posted on again.
    pub writable: VecDeque<ConnectionId>,
    /// Ends.
    pub lost: VecDeque<(ConnectionId, RailFault)>,
    /// Reports of any kind.
    pub reports: usize,
    open: HashMap<ConnectionId, State>,
}

impl Heard {
    /// Notes a dial that a test made itself, so that its reports are expected.
    pub fn expect_dial(&mut self, connection: ConnectionId) {
        self.begin(connection, State::Dialing);
    }

    fn begin(&mut self, connection: ConnectionId, state: State) {
        let before = self.open.insert(connection, state);
        assert_eq!(before, None, "{connection:?} was given out while it was open");
    }
}

impl Sink for Heard {
    fn accepted(&mut self, rail: RailName, connection: ConnectionId) {
        self.reports += 1;
        self.begin(connection, State::Open { establish_called: false });
        self.accepted.push_back((rail, connection));
    }

    fn connected(&mut self, connection: ConnectionId) {
        self.reports += 1;
        let before = self.open.insert(connection, State::Open { establish_called: false });
        assert_eq!(before, Some(State::Dialing), "`connected` of {connection:?}, which was not dialing");
        self.connected.push_back(connection);
    }

    fn established(&mut self, connection: ConnectionId) {
        self.reports += 1;
        let before = self.open.insert(connection, State::Established);
        let expected = Some(State::Open { establish_called: true });
        assert_eq!(before, expected, "`established` of {connection:?} without `establish`, or twice");
        self.established.push_back(connection);
    }

    fn frame(&mut self, connection: ConnectionId, header: &FrameHeader, control: &[u8], data: Incoming<'_>) {
        self.reports += 1;
        assert_eq!(header.check(), Ok(()), "an unchecked header was delivered");
        assert_eq!(usize::from(header.control_length.get()), control.len());
        assert_eq!(header.data_length.get() as usize, data.len());
        match self.open.get(&connection) {
            Some(State::Established) => (),
            Some(State::Open { .. }) => {
                assert!(!matches!(data, Incoming::Chunk(_)), "payload arrived before `established`");
            }
            state => panic!("a frame of {connection:?}, which is {state:?}"),
        }
        let content = match data {
            Incoming::Empty => Content::Copied(Vec::new()),
            Incoming::Inline(bytes) => Content::Copied(bytes.to_vec()),
            Incoming::Chunk(chunk) => Content::Held(chunk),
        };
        self.frames.push_back(Received { connection, header: *header, control: control.to_vec(), content });
    }

    fn writable(&mut self, connection: ConnectionId) {
        self.reports += 1;
        assert!(self.open.contains_key(&connection), "`writable` of {connection:?}, which is not open");
        self.writable.push_back(connection);
    }

    fn lost(&mut self, connection: ConnectionId, fault: RailFault) {
        self.reports += 1;
        let before = self.open.remove(&connection);
        assert!(before.is_some(), "`lost` of {connection:?}, which is not open");
        self.lost.push_back((connection, fault));
    }
}

/// A provider and the reactor's part around it.
pub struct Side<P: Provider> {
    /// The provider under test.
    pub provider: P,
    /// What it reported.
    pub heard: Heard,
    poll: Poll,
    events: Events,
    start: Instant,
}

impl<P: Provider> Side<P> {
    /// Attaches `provider` to a poll of its own.
    pub fn new(mut provider: P) -> Side<P> {
        let poll = Poll::new().expect("the system gives a poll");
        provider.attach(poll.registry().try_clone().expect("registry"), TOKENS);
        let events = Events::with_capacity(64);
        Side { provider, heard: Heard::default(), poll, events, start: Instant::now() }
    }

    /// Now, since this side began.
    pub fn now(&self) -> Time {
        Time::from_nanos(self.start.elapsed().as_nanos() as u64)
    }

    /// One round of an awake reactor: readiness without waiting, poll, flush. Returns the number of reports.
    pub fn turn(&mut self) -> usize {
        self.forward_events(Duration::ZERO);
        self.poll_once()
    }

    /// Poll and flush alone, as in a spin phase between two looks at readiness.
    pub fn poll_once(&mut self) -> usize {
        let before = self.heard.reports;
        let claimed = self.provider.poll(self.now(), &mut self.heard);
        let reports = self.heard.reports - before;
        assert!(claimed > 0 || reports == 0, "poll claimed to be idle and made {reports} reports");
        self.provider.flush();
        reports
    }

    /// Sleeps until something is ready, as a reactor does. Panics after 30 s: the wake-up was lost.
    pub fn sleep(&mut self, what: &str) {
        if self.provider.arm() {
            assert!(self.forward_events(PATIENCE) > 0, "lost wake-up: {what}");
        }
        self.provider.disarm();
    }

    fn forward_events(&mut self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        let mut count = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut self.events, Some(left)) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.expect("poll works"),
            }
            for event in self.events.iter() {
                assert!(TOKENS.contains(&event.token().0), "a token outside the provider's range");
                let readable = event.is_readable() || event.is_read_closed() || event.is_error();
                let writable = event.is_writable() || event.is_write_closed() || event.is_error();
                self.provider.event(Token(event.token().0), readable, writable);
                count += 1;
            }
            if count > 0 || left.is_zero() {
                return count;
            }
        }
    }

    /// Dials and notes it.
    pub fn dial(&mut self, rail: RailName, local: &P::Address, address: &P::Address) -> ConnectionId {
        let now = self.now();
        let connection = self.provider.dial(now, rail, local, address).expect("the dial can begin");
        self.heard.expect_dial(connection);
        connection
    }

    /// Says that the peer is authenticated.
    pub fn establish(&mut self, connection: ConnectionId) {
        self.heard.open.insert(connection, State::Open { establish_called: true });
        self.provider.establish(connection);
    }

    /// Posts a message frame with `number` as its sequence.
    pub fn post(
        &mut self,
        connection: ConnectionId,
        number: u64,
        control: &[u8],
        inline: &[u8],
        data: PayloadSlice<'_>,
    ) -> Result<(), PostRefusal> {
        let mut header = FrameHeader::new(FrameType::Data);
        header.sequence.set(number);
        header.control_length.set(control.len() as u16);
        header.data_length.set((inline.len() + data.len()) as u32);
        self.provider.post(connection, &header, control, inline, data)
    }

    /// Posts a message of `length` bytes from the caller's memory, filled with the pattern of `number`.
    pub fn post_pattern(
        &mut self,
        connection: ConnectionId,
        number: u64,
        length: usize,
    ) -> Result<(), PostRefusal> {
        let payload = Payload::Caller(Arc::new(pattern(number, length)));
        self.post(connection, number, &[], &[], payload.whole())
    }
}

/// Bytes that tell messages apart: the same for the same `number` and `length`.
pub fn pattern(number: u64, length: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The rail with this number, of peer 1.
pub fn rail(number: u8) -> RailName {
    RailName { peer: NodeId(1), path: Path { link: LinkId(number / 4), rail: RailId(number % 4) } }
}

/// The two ends of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// At the dialer.
    pub left: ConnectionId,
    /// At the listener.
    pub right: ConnectionId,
}

/// Two providers; the left one dials, the right one listens.
pub struct Pair<'f, F: Fixture> {
    /// What made them.
    pub fixture: &'f F,
    /// The dialer.
    pub left: Side<F::Provider>,
    /// The listener.
    pub right: Side<F::Provider>,
    /// Where it listens.
    pub address: <F::Provider as Provider>::Address,
}

impl<'f, F: Fixture> Pair<'f, F> {
    /// Two fresh providers; the right one listens for [`rail`] 0.
    pub fn new(fixture: &'f F) -> Pair<'f, F> {
        let left = Side::new(fixture.provider());
        let mut right = Side::new(fixture.provider());
        let address = fixture.address();
        right.provider.listen(rail(0), &address).expect("a fresh address can be listened on");
        Pair { fixture, left, right, address }
    }

    /// An unauthenticated connection.
    pub fn connect(&mut self) -> Link {
        let dialed = self.left.dial(rail(0), &self.fixture.local(), &self.address);
        let mut link = (None, None);
        self.until("a connection opens", |pair| {
            link.0 = link.0.or(pair.left.heard.connected.pop_front());
            link.1 = link.1.or(pair.right.heard.accepted.pop_front());
            link.0.is_some() && link.1.is_some()
        });
        let (Some(left), Some((_, right))) = link else { unreachable!("`until` returned") };
        assert_eq!(left, dialed);
        Link { left, right }
    }

    /// A connection that is ready for payload.
    pub fn establish(&mut self) -> Link {
        let link = self.connect();
        self.left.establish(link.left);
        self.right.establish(link.right);
        self.until("both ends are established", |pair| {
            pair.left.heard.established.contains(&link.left)
                && pair.right.heard.established.contains(&link.right)
        });
        self.left.heard.established.clear();
        self.right.heard.established.clear();
        link
    }

    /// Turns both ends until `done`. Panics with `what` after 30 s.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            if turn_both(&mut self.left, &mut self.right) == 0 {
                std::thread::yield_now();
                assert!(Instant::now() < deadline, "waited in vain: {what}");
            }
        }
    }

    /// Turns both ends until the right one has heard a frame; takes it.
    pub fn receive(&mut self) -> Received {
        self.until("a frame arrives", |pair| !pair.right.heard.frames.is_empty());
        self.right.heard.frames.pop_front().expect("waited for it")
    }

    /// Turns both ends until neither has anything to report for a while; for proving that nothing comes.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 200 {
            quiet = if turn_both(&mut self.left, &mut self.right) == 0 { quiet + 1 } else { 0 };
            std::thread::yield_now();
        }
    }
}

/// One round of two ends. Returns the number of reports.
pub fn turn_both<P: Provider, Q: Provider>(left: &mut Side<P>, right: &mut Side<Q>) -> usize {
    left.turn() + right.turn()
}

/// Turns two ends until `done`. Panics with `what` after 30 s.
pub fn pump_until<P: Provider>(
    left: &mut Side<P>,
    right: &mut Side<P>,
    what: &str,
    mut done: impl FnMut(&mut Side<P>, &mut Side<P>) -> bool,
) {
    let deadline = Instant::now() + PATIENCE;
    while !done(left, right) {
        if turn_both(left, right) == 0 {
            std::thread::yield_now();
            assert!(Instant::now() < deadline, "waited in vain: {what}");
        }
    }
}
