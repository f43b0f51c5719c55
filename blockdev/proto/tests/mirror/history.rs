//! What clients did to one block, and whether one disk could have shown it.
//!
//! Each write has a value of its own. A read may show a write unless another write lay wholly between the
//! two: begun after that one had ended, and ended before the read began. A write whose fate is unknown has
//! not ended, until a read shows it: from then on it counts as done.

const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
struct Write {
    value: u64,
    begun: u64,
    ended: u64,
}

/// One block.
#[derive(Clone, Debug)]
pub(crate) struct History {
    writes: Vec<Write>,
}

impl Default for History {
    fn default() -> History {
        History { writes: vec![Write { value: 0, begun: 0, ended: 0 }] }
    }
}

impl History {
    pub(crate) fn begin(&mut self, value: u64, now: u64) {
        if !self.writes.iter().any(|write| write.value == value) {
            self.writes.push(Write { value, begun: now, ended: NEVER });
        }
    }

    pub(crate) fn end(&mut self, value: u64, now: u64) {
        if let Some(write) = self.writes.iter_mut().find(|write| write.value == value) {
            write.ended = write.ended.min(now);
        }
    }

    /// A read from `begun` to `now` showed this value.
    pub(crate) fn read(&mut self, value: u64, begun: u64, now: u64) -> Result<(), String> {
        let Some(shown) = self.writes.iter().find(|write| write.value == value).copied() else {
            return Err(format!("shows {value}, which nobody wrote"));
        };
        let over = self.writes.iter().find(|other| other.begun > shown.ended && other.ended < begun);
        if let Some(over) = over {
            let (newer, ended) = (over.value, over.ended);
            return Err(format!(
                "shows {value} though {newer}, begun after that had ended, had ended at {ended}; read \
                 {begun}..{now}"
            ));
        }
        self.end(value, now);
        Ok(())
    }
}
