//! A process that dies says so, in whatever way it dies. The dying ones are this test binary again, run as a
//! child that is told what to do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use transport_buf::last_words::{
    COPIES, DATAGRAM_BYTES_MAX, Destination, FatalSignal, LastWords, Mouth, Phrase, REASONS_MAX, install,
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread allocates and frees.
struct Counting;

// SAFETY: hands everything to the system's allocator unchanged; counting touches a thread-local integer only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's conditions are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's conditions are those of the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Reasons of these tests: the fatal signals in their order, then two others, of which one is no last one.
const OTHER_LAST: usize = 5;
const NOT_LAST: usize = 6;
const REASONS: usize = 7;
/// How long a datagram over the loopback may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn phrase(reason: usize, level: usize, forming: u8) -> Phrase {
    let mut datagram = vec![forming; 100];
    (datagram[0], datagram[1]) = (reason as u8, level as u8);
    let mark = if reason == NOT_LAST { Vec::new() } else { vec![b'0' + reason as u8; 16] };
    Phrase { datagram, mark }
}

/// Where words are heard: two rails, of one peer.
struct Ears(Vec<UdpSocket>);

impl Ears {
    fn new() -> Ears {
        let ear = |address: &str| {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        Ears(vec![ear("127.0.0.1:0"), ear("[::1]:0")])
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|ear| ear.local_addr().unwrap()).collect()
    }

    /// Exactly this came, on each rail, and no more. `None`: nothing.
    #[track_caller]
    fn heard(&self, expected: &[Vec<u8>]) {
        let mut room = [0; DATAGRAM_BYTES_MAX + 1];
        for ear in &self.0 {
            for datagram in expected {
                let length = ear.recv(&mut room).unwrap();
                assert_eq!(&room[..length], datagram);
            }
            ear.set_nonblocking(true).unwrap();
            assert!(ear.recv(&mut room).is_err(), "one more came: {:?}", &room[..2]);
            ear.set_nonblocking(false).unwrap();
        }
    }

    #[track_caller]
    fn heard_copies_of(&self, reason: usize, level: usize) {
        self.heard(&vec![phrase(reason, level, 1).datagram; COPIES]);
    }
}

fn words(remotes: &[SocketAddr], mark: Option<File>) -> Arc<LastWords> {
    let destination = |remote: &SocketAddr| {
        let local = if remote.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        Destination { local: local.parse().unwrap(), remote: *remote }
    };
    let destinations: Vec<Destination> = remotes.iter().map(destination).collect();
    let words = LastWords::prepare(&destinations, REASONS, |reason| reason != NOT_LAST, mark).unwrap();
    assert!(words.form(|reason, level| phrase(reason, level, 1)));
    Arc::new(words)
}

fn reason_of(signal: FatalSignal) -> usize {
    match signal {
        FatalSignal::SegmentationFault => 0,
        FatalSignal::BusError => 1,
        FatalSignal::IllegalInstruction => 2,
        FatalSignal::ArithmeticFault => 3,
        FatalSignal::Abort => 4,
    }
}

// --- the dying child ---

const CHILD: &str = "NETDISK_LAST_WORDS_CHILD";

struct Child {
    status: ExitStatus,
    mark: String,
    errors: String,
}

/// Runs this binary once more to die in the way that `how` names.
fn dying(how: &str, ears: &Ears) -> Child {
    let mark = std::env::temp_dir().join(format!("netdisk-last-words-{}-{how}", std::process::id()));
    let remotes: Vec<String> = ears.addresses().iter().map(SocketAddr::to_string).collect();
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_child_dies_as_it_is_told", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{how} {} {}", mark.display(), remotes.join(" ")))
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&mark).unwrap_or_default();
    let _ = std::fs::remove_file(&mark);
    Child { status: ran.status, mark: text, errors: String::from_utf8_lossy(&ran.stderr).into_owned() }
}

#[test]
fn a_child_dies_as_it_is_told() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let mut order = order.split(' ');
    let how = order.next().unwrap();
    let mark = File::create(PathBuf::from(order.next().unwrap())).unwrap();
    let remotes: Vec<SocketAddr> = order.map(|remote| remote.parse().unwrap()).collect();
    // A dump of it helps nobody.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    // Words that were replaced are said by nobody.
    let mouth = Arc::new(Mouth::new(words(&remotes[..1], None)));
    install(&mouth, reason_of).unwrap();
    assert!(mouth.replace(words(&remotes, Some(mark))));
    drop(mouth);
    match how {
        "touches" => {
            // SAFETY: none: the child is to die of it.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
        }
        "divides" => raise(libc::SIGFPE),
        "aborts" => std::process::abort(),
        "bus" => raise(libc::SIGBUS),
        "illegal" => raise(libc::SIGILL),
        "segv" => raise(libc::SIGSEGV),
        "overflows" => assert_eq!(deeper(1), 0),
        "another-thread" => {
            let thread = std::thread::spawn(|| raise(libc::SIGSEGV));
            let _ = thread.join();
        }
        other => panic!("{other}?"),
    }
    std::process::exit(77);
}

fn raise(signal: i32) {
    // SAFETY: sends this thread a signal.
    unsafe { libc::raise(signal) };
}

#[expect(unconditional_recursion, reason = "it is to run out of stack")]
fn deeper(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    deeper(depth + 1) + room[7]
}

// --- tests ---

// proves: D1 D2 D3
#[test]
fn a_fatal_signal_is_told_on_every_rail_before_it_takes_its_course() {
    let cases = [
        ("touches", FatalSignal::SegmentationFault),
        ("segv", FatalSignal::SegmentationFault),
        ("another-thread", FatalSignal::SegmentationFault),
        ("bus", FatalSignal::BusError),
        ("illegal", FatalSignal::IllegalInstruction),
        ("divides", FatalSignal::ArithmeticFault),
        ("aborts", FatalSignal::Abort),
    ];
    for (how, signal) in cases {
        let ears = Ears::new();
        let child = dying(how, &ears);
        assert_eq!(
            child.status.signal(),
            Some(signal.number()),
            "{how}: {:?} {}",
            child.status,
            child.errors
        );
        ears.heard_copies_of(reason_of(signal), 0);
        assert_eq!(child.mark, format!("{}", reason_of(signal)).repeat(16), "{how}");
    }
}

// proves: D2
#[test]
fn a_thread_without_stack_says_so_on_the_stack_that_is_kept_for_it() {
    let ears = Ears::new();
    let child = dying("overflows", &ears);
    // The standard library's own handler has its turn afterwards, and tells; it ends in an abort, which is no
    // second reason.
    assert!(child.errors.contains("has overflowed its stack"), "{}", child.errors);
    assert_eq!(child.status.signal(), Some(libc::SIGABRT));
    ears.heard_copies_of(reason_of(FatalSignal::SegmentationFault), 0);
    assert_eq!(child.mark, "0".repeat(16));
}

// proves: D1 D2
#[test]
fn saying_it_allocates_nothing() {
    let ears = Ears::new();
    let mark = std::env::temp_dir().join(format!("netdisk-last-words-{}-mark", std::process::id()));
    let words = words(&ears.addresses(), Some(File::create(&mark).unwrap()));
    let before = ALLOCATIONS.get();
    let left = words.say(OTHER_LAST);
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(left, Some(2 * COPIES));
    ears.heard_copies_of(OTHER_LAST, 0);
    let mut text = String::new();
    File::open(&mark).unwrap().read_to_string(&mut text).unwrap();
    std::fs::remove_file(&mark).unwrap();
    assert_eq!(text, "5".repeat(16));
}

// proves: D2
#[test]
fn a_thread_that_dies_while_it_forms_the_words_says_the_earlier_ones() {
    let ears = Ears::new();
    let words = words(&ears.addresses(), None);
    // From within: a lock that is held here would hang it.
    words.form(|reason, level| {
        if (reason, level) == (3, 1) {
            assert_eq!(words.say(OTHER_LAST), Some(2 * COPIES));
        }
        phrase(reason, level, 9)
    });
    ears.heard_copies_of(OTHER_LAST, 0);
    assert!(!words.form(|reason, level| phrase(reason, level, 9)), "nothing is formed anew after that");
}

// proves: D1
#[test]
fn words_that_are_formed_again_and_again_are_said_whole() {
    for _ in 0..20 {
        let ears = Ears::new();
        let words = words(&ears.addresses(), None);
        let go = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut forming = 1;
                while words.form(|reason, level| phrase(reason, level, forming)) {
                    forming = forming % 250 + 1;
                    go.store(true, Ordering::Relaxed);
                }
            });
            while !go.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
            words.say(OTHER_LAST).unwrap();
        });
        let mut room = [0; DATAGRAM_BYTES_MAX];
        for ear in &ears.0 {
            for _ in 0..COPIES {
                let length = ear.recv(&mut room).unwrap();
                assert_eq!(&room[..length], phrase(OTHER_LAST, 0, room[2]).datagram);
            }
        }
    }
}

// proves: D2
#[test]
fn the_first_last_reason_counts_and_a_raised_level_is_told_once_more() {
    let ears = Ears::new();
    let words = words(&ears.addresses(), None);
    assert!(!words.has_spoken());
    assert_eq!(words.say(NOT_LAST), Some(2 * COPIES));
    assert_eq!(words.say(NOT_LAST), None);
    ears.heard_copies_of(NOT_LAST, 0);
    assert_eq!(words.say(2), Some(2 * COPIES), "a crash in the middle of a stop is news");
    assert_eq!(words.say(4), None, "and the abort after it is none");
    ears.heard_copies_of(2, 0);
    words.raise_level();
    assert_eq!(words.say(2), Some(2 * COPIES));
    assert_eq!(words.say(4), None);
    ears.heard_copies_of(2, 1);
    assert_eq!(words.say(REASONS), None, "no such reason");
    assert_eq!(words.say(REASONS_MAX + 50), None);
    ears.heard(&[]);
}

// proves: D1
#[test]
fn words_are_replaced_until_something_was_said() {
    let [former, later, last] = [Ears::new(), Ears::new(), Ears::new()];
    let mouth = Mouth::new(words(&former.addresses(), None));
    let held = words(&later.addresses(), None);
    assert!(mouth.replace(held.clone()));
    assert_eq!(mouth.say(1), Some(2 * COPIES));
    assert!(!mouth.replace(words(&last.addresses(), None)), "what is said must stay said");
    assert_eq!(mouth.say(1), None);
    former.heard(&[]);
    later.heard_copies_of(1, 0);
    last.heard(&[]);
    drop(mouth);
    assert_eq!(Arc::strong_count(&held), 1, "released with the mouth");
}

// proves: D1
#[test]
fn a_peer_whose_port_is_closed_does_not_cost_the_others_a_copy() {
    let ears = Ears::new();
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let words = words(&[ears.addresses(), vec![closed]].concat(), None);
    words.relay(b"of another");
    words.relay(b"of another");
    ears.heard(&[b"of another".to_vec(), b"of another".to_vec()]);
    assert_eq!(words.say(OTHER_LAST), Some(3 * COPIES));
    ears.heard_copies_of(OTHER_LAST, 0);
}
