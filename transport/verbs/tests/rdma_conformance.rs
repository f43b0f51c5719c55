//! The verbs provider keeps the contract, on real devices: run where a RoCEv2 device has the address that
//! `NETDISK_VERBS_ADDRESS` names; `netdisk lab run` is such a place anywhere.

#![cfg(feature = "rdma")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "children, by fork")]

use std::any::Any;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use transport_buf::{Region, SlabLayout};
use transport_provider::conformance::{self, Fixture};
use transport_verbs::fabric::Fabric;
use transport_verbs::fabric::rdma::RdmaFabric;
use transport_verbs::{VerbsOptions, VerbsProvider};

/// The suite looks at this process's memory, so nothing else happens in it meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

struct Rdma {
    address: IpAddr,
}

/// The place to test in. `None`, said loudly: there is none here.
fn place() -> Option<Rdma> {
    let named = std::env::var("NETDISK_VERBS_ADDRESS").or_else(|_| std::env::var("LAB_RAIL1_ADDR"));
    match named {
        Ok(address) => Some(Rdma { address: address.parse().expect("an IP address") }),
        Err(_) => {
            assert!(std::env::var_os("NETDISK_LAB_REQUIRE").is_none(), "NETDISK_VERBS_ADDRESS is not set");
            eprintln!("SKIPPED: NETDISK_VERBS_ADDRESS names no address of an RDMA device");
            None
        }
    }
}

impl Fixture for Rdma {
    type Provider = VerbsProvider<RdmaFabric>;

    fn provider(&self) -> Self::Provider {
        let receive =
            SlabLayout { classes: [(8 << 10, 64), (68 << 10, 16), (260 << 10, 4), (1028 << 10, 4)] };
        let reserve = SlabLayout { classes: [(4 << 10, 64), (64 << 10, 32), (256 << 10, 8), (1 << 20, 4)] };
        VerbsProvider::new(RdmaFabric::new().unwrap(), VerbsOptions { receive, reserve }).unwrap()
    }

    fn address(&self) -> SocketAddr {
        TcpListener::bind((self.address, 0)).unwrap().local_addr().unwrap()
    }

    fn local(&self) -> SocketAddr {
        SocketAddr::new(self.address, 0)
    }

    fn send_garbage(&self, address: &SocketAddr, bytes: &[u8]) -> Box<dyn Any> {
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.set_nonblocking(true).unwrap();
        // What the provider does not want to hear it need not read to the end.
        let _ = stranger.write(bytes).unwrap();
        Box::new(stranger)
    }
}

/// Children of this process begin with a copy of its memory. Where that copy is made late, a page that the
/// device knows may become the child's, and what the parent writes goes by the device (or the other way
/// round). Registered memory is a shared mapping, or is kept out of children, so neither can be.
// proves: T8
#[test]
fn children_of_this_process_do_not_come_between_it_and_the_device() {
    let Some(place) = place() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fabric = RdmaFabric::new().unwrap();
    let port = fabric.port(place.address).unwrap();
    let region = Arc::new(Region::create(1 << 20).unwrap());
    let memory = fabric.register(port.device, &region, true).unwrap();
    let flags = flags_of(region.pointer(0) as usize);
    assert!(flags.iter().any(|flag| flag == "sh" || flag == "dc"), "neither shared nor kept back: {flags:?}");
    fabric.deregister(port.device, memory);
    fabric.close(port.device);

    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let forker = scope.spawn(|| {
            let mut children = 0;
            // One at least, and then as long as there is traffic.
            while !over.load(Ordering::Acquire) || children == 0 {
                fork_and_touch();
                children += 1;
            }
            children
        });
        {
            let _ends = Ends(&over);
            conformance::mixed_traffic_in_both_directions_keeps_its_order(&place);
            conformance::data_of_every_size_arrives_whole_from_every_kind_of_payload(&place);
        }
        eprintln!("  {} children were born and died meanwhile", forker.join().unwrap());
    });
}

/// Says so when traffic ends, well or by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The kernel's flags of the mapping that begins at or before `address` and holds it.
fn flags_of(address: usize) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut holds = false;
    for line in maps.lines() {
        let range = line.split_whitespace().next().and_then(|range| range.split_once('-'));
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        if let Some((Some(from), Some(to))) = range.map(|(from, to)| (hexadecimal(from), hexadecimal(to))) {
            holds = (from..to).contains(&address);
        } else if holds && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_whitespace().map(str::to_owned).collect();
        }
    }
    panic!("no mapping holds {address:#x}");
}

/// A child that writes to memory it shares with nobody, and ends.
fn fork_and_touch() {
    static PRIVATE: [AtomicU8; 1 << 18] = [const { AtomicU8::new(0) }; 1 << 18];
    // SAFETY: the child only stores to a static and ends, which is allowed whatever other threads were doing.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no child: {}", std::io::Error::last_os_error());
    if child == 0 {
        PRIVATE.iter().step_by(4096).for_each(|byte| byte.store(1, Ordering::Relaxed));
        // SAFETY: ends the child at once, without what the parent has registered to be done at an exit.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was made above; the pointer is to a local.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert!(waited == child && status == 0, "the child ended with {status:#x}");
}

/// The suite, as one test: in the machine where it runs a test more costs more than a rule more.
macro_rules! rules {
    ($($rule:ident)*) => {
        // proves: T8
        #[test]
        fn the_conformance_suite_passes_on_real_devices() {
            let Some(place) = place() else { return };
            let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
            $(
                eprintln!("  {}", stringify!($rule));
                conformance::$rule(&place);
            )*
        }
    };
}

rules! {
    greeting_frames_pass_before_establish_and_payload_does_not
    reports_come_in_order_accepted_connected_established
    payload_posted_right_behind_the_handshake_waits_for_establish
    dialing_an_address_where_nobody_listens_is_lost_as_refused
    listening_on_an_address_in_use_is_refused
    an_address_can_be_listened_on_again_after_unlisten
    garbage_ends_its_connection_as_a_protocol_fault_and_no_other
    frames_of_every_control_and_inline_length_arrive_once_whole_and_in_order
    data_of_every_size_arrives_whole_from_every_kind_of_payload
    slices_of_a_payload_arrive_as_their_own_bytes
    header_fields_arrive_as_they_were_posted
    mixed_traffic_in_both_directions_keeps_its_order
    memory_reserved_on_a_dead_connection_is_sent_over_another
    a_full_queue_refuses_without_a_trace_and_says_when_it_is_writable
    what_is_too_large_is_refused_as_such
    connections_that_are_not_open_refuse_posts
    reservations_run_out_without_stopping_what_comes_in
    held_chunks_keep_their_bytes_while_traffic_goes_on
    exhausted_receive_memory_refuses_and_recovers_when_chunks_return
    a_chunk_may_be_released_on_another_thread
    memory_of_a_dead_connection_is_not_reused_while_its_chunks_live
    closing_ends_both_sides_and_nothing_arrives_afterwards
    a_provider_that_goes_away_is_noticed_by_its_peer
    reconnecting_a_hundred_times_works_and_leaks_no_memory
    a_sleeping_side_wakes_for_every_kind_of_report
    no_wake_up_is_lost_between_two_threads_that_sleep_and_post
    a_sender_asleep_on_a_full_queue_wakes_when_it_is_writable
    a_flooded_connection_does_not_starve_the_others
    a_connection_without_memory_does_not_stop_small_frames_of_others
}
