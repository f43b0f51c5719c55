//! Rules about sleeping: whoever armed is woken by anything that `poll` would report.

use super::{Fixture, Side, pattern, rail};
use crate::{ConnectionId, PayloadSlice, Provider};

/// Wake-ups without the awaited report after which a test gives up.
const WAKES_MAX: usize = 1_000_000;

/// Lets the right side sleep until it has heard what `done` asks for; the left side has done its part
/// already.
fn sleep_until<P: Provider>(side: &mut Side<P>, what: &str, mut done: impl FnMut(&mut Side<P>) -> bool) {
    for _ in 0..WAKES_MAX {
        side.poll_once();
        if done(side) {
            return;
        }
        side.sleep(what);
    }
    panic!("woke {WAKES_MAX} times in vain: {what}");
}

/// A peer that dials, a greeting, `established`, small and large frames, the end: each wakes a side that
/// sleeps.
pub fn a_sleeping_side_wakes_for_every_kind_of_report<F: Fixture>(fixture: &F) {
    let address = fixture.address();
    let mut right = Side::new(fixture.provider());
    right.provider.listen(rail(0), &address).expect("a fresh address can be listened on");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = Side::new(fixture.provider());
            let link = left.dial(rail(0), &fixture.local(), &address);
            sleep_until(&mut left, "connected", |side| !side.heard.connected.is_empty());
            left.post(link, 1, b"hello", &[], PayloadSlice::EMPTY).expect("there is room");
            left.provider.flush();
            sleep_until(&mut left, "the answer", |side| !side.heard.frames.is_empty());
            left.establish(link);
            sleep_until(&mut left, "established", |side| !side.heard.established.is_empty());
            for number in 2..12 {
                left.post_pattern(link, number, if number % 2 == 0 { 8 } else { 100_000 })
                    .expect("there is room");
                left.provider.flush();
                let answers = number as usize;
                sleep_until(&mut left, "the echo", |side| side.heard.frames.len() == answers);
            }
            left.provider.close(link);
            sleep_until(&mut left, "lost", |side| !side.heard.lost.is_empty());
        });
        sleep_until(&mut right, "accepted", |side| !side.heard.accepted.is_empty());
        let (_, link) = right.heard.accepted[0];
        sleep_until(&mut right, "the greeting", |side| !side.heard.frames.is_empty());
        right.post(link, 1, b"hello too", &[], PayloadSlice::EMPTY).expect("there is room");
        right.establish(link);
        sleep_until(&mut right, "established", |side| !side.heard.established.is_empty());
        for number in 2..12 {
            let frames = number as usize;
            sleep_until(&mut right, "a frame", |side| side.heard.frames.len() == frames);
            right.post(link, number, &[], &[], PayloadSlice::EMPTY).expect("there is room");
        }
        sleep_until(&mut right, "the end", |side| !side.heard.lost.is_empty());
    });
}

/// One end of a ball game: dials or accepts, then sleeps between throws at every phase that jitter brings
/// about.
fn play<P: Provider>(side: &mut Side<P>, connection: ConnectionId, throws: u64, serves: bool) {
    side.establish(connection);
    sleep_until(side, "established", |side| !side.heard.established.is_empty());
    let mut jitter = 12_345u64;
    for number in 1..=throws {
        if serves {
            throw(side, connection, number);
        }
        while side.heard.frames.is_empty() {
            jitter = jitter.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for _ in 0..(jitter >> 60) {
                side.poll_once();
            }
            if side.poll_once() == 0 && side.heard.frames.is_empty() {
                side.sleep("the ball");
            }
        }
        let ball = side.heard.frames.pop_front().expect("waited for it");
        assert_eq!(ball.header.sequence.get(), number);
        assert!(ball.bytes() == pattern(number, ball_bytes(number)));
        if !serves {
            throw(side, connection, number);
        }
    }
}

/// Mostly balls that fit a slot, now and then one that needs a chunk.
fn ball_bytes(number: u64) -> usize {
    if number.is_multiple_of(16) { 20_000 } else { 24 }
}

fn throw<P: Provider>(side: &mut Side<P>, connection: ConnectionId, number: u64) {
    side.post_pattern(connection, number, ball_bytes(number)).expect("there is room for one ball");
    side.provider.flush();
}

/// Two threads play ball and sleep between throws: whoever sleeps is woken by every throw.
pub fn no_wake_up_is_lost_between_two_threads_that_sleep_and_post<F: Fixture>(fixture: &F) {
    const THROWS: u64 = 4000;
    let address = fixture.address();
    let mut right = Side::new(fixture.provider());
    right.provider.listen(rail(0), &address).expect("a fresh address can be listened on");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = Side::new(fixture.provider());
            let dialed = left.dial(rail(0), &fixture.local(), &address);
            sleep_until(&mut left, "connected", |side| !side.heard.connected.is_empty());
            play(&mut left, dialed, THROWS, true);
            left.provider.close(dialed);
            sleep_until(&mut left, "lost", |side| !side.heard.lost.is_empty());
        });
        sleep_until(&mut right, "accepted", |side| !side.heard.accepted.is_empty());
        let (_, accepted) = right.heard.accepted[0];
        play(&mut right, accepted, THROWS, false);
        sleep_until(&mut right, "the end", |side| !side.heard.lost.is_empty());
    });
}

/// A sender that filled the queue and sleeps wakes up when its peer has made room.
pub fn a_sender_asleep_on_a_full_queue_wakes_when_it_is_writable<F: Fixture>(fixture: &F) {
    const LENGTH: usize = 30_000;
    const MORE: u64 = 2000;
    let address = fixture.address();
    let mut right = Side::new(fixture.provider());
    right.provider.listen(rail(0), &address).expect("a fresh address can be listened on");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut left = Side::new(fixture.provider());
            let link = left.dial(rail(0), &fixture.local(), &address);
            sleep_until(&mut left, "connected", |side| !side.heard.connected.is_empty());
            left.establish(link);
            sleep_until(&mut left, "established", |side| !side.heard.established.is_empty());
            for number in 1..=MORE {
                while left.post_pattern(link, number, LENGTH).is_err() {
                    left.heard.writable.clear();
                    sleep_until(&mut left, "writable", |side| !side.heard.writable.is_empty());
                }
            }
            left.provider.flush();
            sleep_until(&mut left, "the end", |side| !side.heard.lost.is_empty());
        });
        sleep_until(&mut right, "accepted", |side| !side.heard.accepted.is_empty());
        let (_, link) = right.heard.accepted[0];
        right.establish(link);
        let mut next = 1;
        sleep_until(&mut right, "all frames", |side| {
            for frame in side.heard.frames.drain(..) {
                assert_eq!(frame.header.sequence.get(), next);
                assert!(frame.bytes() == pattern(next, LENGTH), "arrived changed");
                next += 1;
            }
            next > MORE
        });
        right.provider.close(link);
        sleep_until(&mut right, "lost", |side| !side.heard.lost.is_empty());
    });
}
