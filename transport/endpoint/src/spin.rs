//! When to spin, when to yield, when to sleep.
//!
//! Waking a halted core costs about 40 µs on virtual machines, some 300 cache-line round trips; so after work
//! the reactor spins for about as long as the next piece has lately taken to come, at most a wake-up's cost
//! or two, and sleeps at once when work comes too seldom for spinning to meet it. When more threads than
//! cores spin, spinning keeps the very thread from running that would bring the work; so it yields in
//! between.

use core::time::Duration;
use transport_proto::time::Time;

/// How an endpoint waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinSettings {
    /// Longest spin after work, before sleeping. Zero: never spin.
    pub spin_max: Duration,
    /// Give the core away between looks, for machines where more threads spin than there are cores.
    pub yielding: bool,
    /// Never sleep: for measurements on cores of one's own.
    pub forever: bool,
}

impl Default for SpinSettings {
    fn default() -> SpinSettings {
        SpinSettings { spin_max: Duration::from_micros(100), yielding: true, forever: false }
    }
}

/// What to do after a round that found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Look again.
    Spin,
    /// Give the core away once, then look again.
    Yield,
    /// Sleep.
    Sleep,
}

/// The policy's memory.
#[derive(Clone, Debug)]
pub struct Spin {
    settings: SpinSettings,
    /// Smoothed time from work to the next work, nanoseconds.
    gap: u64,
    last_work: Time,
}

impl Spin {
    /// Begins without experience: spins the whole budget at first.
    pub fn new(settings: SpinSettings) -> Spin {
        Spin { settings, gap: 0, last_work: Time(0) }
    }

    /// A round found work.
    #[inline]
    pub fn worked(&mut self, now: Time) {
        let gap = now.0.saturating_sub(self.last_work.0);
        // A pause of whole seconds says nothing about the rhythm within a burst; cap what one gap can weigh.
        let cap = 8 * self.budget();
        self.gap = self.gap - self.gap / 8 + gap.min(cap) / 8;
        self.last_work = now;
    }

    #[inline]
    fn budget(&self) -> u64 {
        self.settings.spin_max.as_nanos() as u64
    }

    /// A round found nothing.
    #[inline]
    pub fn idle(&self, now: Time) -> Idle {
        let spin = if self.settings.yielding { Idle::Yield } else { Idle::Spin };
        if self.settings.forever {
            return spin;
        }
        let budget = self.budget();
        // Work that comes at gaps far beyond the budget will not be met by spinning: look briefly, then
        // sleep.
        let allowed = if self.gap > 4 * budget { budget / 16 } else { budget };
        if now.0.saturating_sub(self.last_work.0) < allowed { spin } else { Idle::Sleep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(count: u64) -> Time {
        Time(count * 1_000)
    }

    #[test]
    fn spins_after_work_and_sleeps_when_the_budget_is_spent() {
        let mut spin = Spin::new(SpinSettings { yielding: false, ..SpinSettings::default() });
        (1..100).for_each(|step| spin.worked(micros(step * 10)));
        assert_eq!(spin.idle(micros(990 + 50)), Idle::Spin);
        assert_eq!(spin.idle(micros(990 + 150)), Idle::Sleep);
    }

    #[test]
    fn does_not_spin_for_work_that_comes_seldom() {
        let mut spin = Spin::new(SpinSettings::default());
        (1..100).for_each(|step| spin.worked(micros(step * 10_000)));
        assert_eq!(spin.idle(micros(990_000 + 10)), Idle::Sleep);
    }
}
