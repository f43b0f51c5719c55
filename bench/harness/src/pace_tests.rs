//! The loops, on a clock that the test holds.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use super::{Budget, Clock, Pipeline, closed_loop, closed_loop_at_depth, open_loop};

const MS: u64 = 1_000_000;

/// A clock that moves only when an operation or a wait moves it.
#[derive(Clone, Default)]
struct HeldClock(Rc<Cell<u64>>);

impl HeldClock {
    fn advance_ns(&self, by_ns: u64) {
        self.0.set(self.0.get() + by_ns);
    }
}

impl Clock for HeldClock {
    fn now_ns(&mut self) -> u64 {
        self.0.get()
    }

    fn wait_until_ns(&mut self, due_ns: u64) {
        self.0.set(self.0.get().max(due_ns));
    }
}

fn budget(warm_up_ms: u64, measure_ms: u64) -> Budget {
    Budget {
        warm_up: Duration::from_millis(warm_up_ms),
        measure: Duration::from_millis(measure_ms),
        operations_max: u64::MAX,
    }
}

/// 10 µs each, but one in the middle stalls for 100 ms.
fn stalling_operation(clock: &HeldClock, stall_at: u64) -> impl FnMut() -> Result<(), Infallible> + use<> {
    let (clock, mut turn) = (clock.clone(), 0);
    move || {
        clock.advance_ns(if turn == stall_at { 100 * MS } else { 10_000 });
        turn += 1;
        Ok(())
    }
}

// proves: F4
#[test]
fn open_loop_charges_a_stall_to_every_operation_that_waited_behind_it() {
    let mut clock = HeldClock::default();
    let operation = stalling_operation(&clock, 500);
    let run = open_loop(&mut clock, &budget(0, 1_000), 1_000.0, operation).unwrap();
    let summary = run.recorder.summary();
    assert_eq!(summary.count, 1_000, "the timetable is kept whatever the operation does");
    assert_eq!(summary.p50_ns / 1_000, 10);
    // 100 of 1000 intended starts fell into the stall, so p99 sees most of it and p90 the end of it.
    assert!(summary.p99_ns > 85 * MS, "{summary:?}");
    assert!(summary.max_ns >= 100 * MS, "{summary:?}");
}

// proves: F4
#[test]
fn a_timetable_slower_than_the_recorded_time_gives_its_first_figure() {
    let mut clock = HeldClock::default();
    let operation = stalling_operation(&clock, 500);
    // One start in 100 ms, and 20 ms to record: the first is before them, the second behind.
    let run = open_loop(&mut clock, &budget(10, 20), 10.0, operation).unwrap();
    assert_eq!(run.recorder.summary().count, 1);
    assert!(run.elapsed >= Duration::from_millis(20), "{:?}", run.elapsed);
}

// proves: F4
#[test]
fn closed_loop_sees_the_same_stall_once() {
    let mut clock = HeldClock::default();
    let operation = stalling_operation(&clock, 500);
    let run = closed_loop(&mut clock, &budget(0, 200), 1, operation).unwrap();
    let summary = run.recorder.summary();
    assert_eq!(summary.p999_ns / 1_000, 10);
    assert!(summary.max_ns >= 100 * MS, "{summary:?}");
}

#[test]
fn warm_up_leaves_no_sample() {
    let mut clock = HeldClock::default();
    let operation = stalling_operation(&clock, 2);
    let run = closed_loop(&mut clock, &budget(101, 10), 1, operation).unwrap();
    assert!(run.recorder.summary().max_ns < MS, "the stall was in the warm-up: {:?}", run.recorder.summary());
    assert_eq!(run.operations, 1_000);
    assert_eq!(run.elapsed, Duration::from_millis(10));
}

#[test]
fn a_batch_counts_all_its_operations() {
    let mut clock = HeldClock::default();
    let operation = stalling_operation(&clock, u64::MAX);
    let run = closed_loop(&mut clock, &budget(0, 16), 16, operation).unwrap();
    assert_eq!((run.recorder.samples(), run.operations), (100, 1_600));
    assert_eq!(run.recorder.summary().p50_ns / 1_000, 10);
    assert!((run.operations_per_s() - 100_000.0).abs() < 1.0);
}

#[test]
fn an_error_ends_the_loop() {
    let mut clock = HeldClock::default();
    let refused: Result<_, &str> = closed_loop(&mut clock, &budget(1, 1), 1, || Err("link down"));
    assert_eq!(refused.err(), Some("link down"));
}

/// Ends one operation per poll, in order, 1 ms apart.
struct Queue {
    clock: HeldClock,
    waiting: std::collections::VecDeque<u32>,
    in_flight_max: usize,
}

impl Pipeline for Queue {
    type Error = Infallible;

    fn submit(&mut self, tag: u32) -> Result<(), Infallible> {
        assert!(!self.waiting.contains(&tag), "tag {tag} was in flight");
        self.waiting.push_back(tag);
        self.in_flight_max = self.in_flight_max.max(self.waiting.len());
        Ok(())
    }

    fn poll(&mut self, done: &mut dyn FnMut(u32)) -> Result<(), Infallible> {
        self.clock.advance_ns(MS);
        self.waiting.pop_front().into_iter().for_each(done);
        Ok(())
    }
}

#[test]
fn a_stall_longer_than_the_measurement_is_recorded_not_lost() {
    let mut clock = HeldClock::default();
    let mut queue = Queue { clock: clock.clone(), waiting: Default::default(), in_flight_max: 0 };
    let run = closed_loop_at_depth(
        &mut clock,
        &Budget { measure: Duration::from_micros(1), ..budget(1, 0) },
        2,
        &mut queue,
    );
    let summary = run.unwrap().recorder.summary();
    assert_eq!((summary.count, summary.p50_ns / MS), (1, 2));
}

#[test]
fn depth_is_held_and_latency_counts_the_queue() {
    let mut clock = HeldClock::default();
    let mut queue = Queue { clock: clock.clone(), waiting: Default::default(), in_flight_max: 0 };
    let run = closed_loop_at_depth(&mut clock, &budget(10, 100), 4, &mut queue).unwrap();
    assert_eq!(queue.in_flight_max, 4);
    assert!(queue.waiting.is_empty(), "what was submitted is waited for");
    let summary = run.recorder.summary();
    assert_eq!(summary.p50_ns / MS, 4, "four in line, one done per millisecond");
    assert!((990.0..1_020.0).contains(&run.operations_per_s()), "{}", run.operations_per_s());
}
