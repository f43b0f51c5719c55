//! Latency over time: where a histogram only tells that there was a stall, this tells when.

/// Slots of a timeline. When the time outgrows them, each then covers twice as much.
const SLOTS: usize = 2048;
/// Length of a slot at first, in nanoseconds.
const FIRST_SLOT_NS: u64 = 100_000;

/// Latencies by the time at which they ended, in a fixed amount of memory: recording never allocates.
#[derive(Debug, Clone)]
pub struct Timeline {
    slots: Vec<Slot>,
    slot_ns: u64,
    /// Slots from the start to the last one that holds something.
    used: usize,
}

/// What happened within one slot of time.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    count: u64,
    sum_ns: u64,
    max_ns: u64,
}

impl Slot {
    fn add(&mut self, other: Slot) {
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }
}

/// One point of a timeline: the operations that ended within one slot of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// Middle of the slot, seconds since the start.
    pub at_s: f64,
    /// Operations that ended in it.
    pub count: u64,
    /// Their mean latency, nanoseconds.
    pub mean_ns: f64,
    /// Their longest latency, nanoseconds.
    pub max_ns: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); SLOTS], slot_ns: FIRST_SLOT_NS, used: 0 }
    }
}

impl Timeline {
    /// Adds an operation that ended `at_ns` after the start and took `latency_ns`.
    pub fn record(&mut self, at_ns: u64, latency_ns: u64) {
        self.add(at_ns, Slot { count: 1, sum_ns: latency_ns, max_ns: latency_ns });
    }

    /// Appends the timeline of a later turn; the time between the two is left out.
    pub fn append(&mut self, later: &Self) {
        let offset_ns = self.used as u64 * self.slot_ns;
        for (index, slot) in later.slots[..later.used].iter().enumerate() {
            if slot.count > 0 {
                self.add(offset_ns + index as u64 * later.slot_ns, *slot);
            }
        }
    }

    /// Adds what another one recorded at the same times.
    pub fn overlay(&mut self, beside: &Self) {
        for (index, slot) in beside.slots[..beside.used].iter().enumerate() {
            if slot.count > 0 {
                self.add(index as u64 * beside.slot_ns, *slot);
            }
        }
    }

    /// The same with half of each latency.
    #[must_use]
    pub fn halved(mut self) -> Self {
        for slot in &mut self.slots {
            slot.sum_ns /= 2;
            slot.max_ns /= 2;
        }
        self
    }

    /// What was recorded, by time; times at which nothing ended are left out.
    pub fn moments(&self) -> Vec<Moment> {
        let slot_s = self.slot_ns as f64 / 1e9;
        let filled = self.slots[..self.used].iter().enumerate().filter(|(_, slot)| slot.count > 0);
        let moment = |(index, slot): (usize, &Slot)| Moment {
            at_s: (index as f64 + 0.5) * slot_s,
            count: slot.count,
            mean_ns: slot.sum_ns as f64 / slot.count as f64,
            max_ns: slot.max_ns,
        };
        filled.map(moment).collect()
    }

    fn add(&mut self, at_ns: u64, slot: Slot) {
        while at_ns / self.slot_ns >= SLOTS as u64 {
            self.join_neighbours();
        }
        let index = (at_ns / self.slot_ns) as usize;
        self.slots[index].add(slot);
        self.used = self.used.max(index + 1);
    }

    fn join_neighbours(&mut self) {
        for index in 0..SLOTS / 2 {
            let mut joined = self.slots[2 * index];
            joined.add(self.slots[2 * index + 1]);
            self.slots[index] = joined;
        }
        self.slots[SLOTS / 2..].fill(Slot::default());
        self.used = self.used.div_ceil(2);
        self.slot_ns *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::{FIRST_SLOT_NS, SLOTS, Timeline};

    // proves: F4
    #[test]
    fn a_stall_stands_at_its_time_however_long_the_run_was() {
        let mut timeline = Timeline::default();
        for ms in 0..60_000_u64 {
            let latency_ns = if ms == 20_000 { 900_000_000 } else { 1_000 };
            timeline.record(ms * 1_000_000, latency_ns);
        }
        let moments = timeline.moments();
        assert!(moments.len() <= SLOTS);
        let worst = moments.iter().max_by_key(|moment| moment.max_ns).unwrap();
        assert_eq!(worst.max_ns, 900_000_000);
        assert!((worst.at_s - 20.0).abs() < 0.1, "{worst:?}");
        assert_eq!(moments.iter().map(|moment| moment.count).sum::<u64>(), 60_000);
    }

    #[test]
    fn turns_follow_each_other() {
        let mut first = Timeline::default();
        first.record(5 * FIRST_SLOT_NS, 10);
        let mut all = Timeline::default();
        all.append(&first);
        all.append(&first);
        let times: Vec<f64> = all.moments().iter().map(|moment| moment.at_s).collect();
        assert_eq!(times.len(), 2);
        let gap_s = times[1] - times[0];
        assert!((gap_s - 6.0 * FIRST_SLOT_NS as f64 / 1e9).abs() < 1e-9, "{times:?}");
    }
}
