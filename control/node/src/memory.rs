//! Divides the node's memory budget among what holds memory (SPEC T12).
//!
//! ```text
//! budget = program + (own memory + tcp receive + tcp reserve) slabs
//!        + shm rails × (slab granted to the peer + slab granted by it + rings) + tcp rails × buffers
//!        + verbs rails × (slab granted to the peer + slots), and one slab to send from if there is one
//! ```
//! Each slab gets the same share, one that a verbs rail grants a quarter more, since its chunks are a page
//! larger. Shared pages count at both ends, as the kernel counts them.

use control_proto::rows::{ClusterRows, RailAddress};
use std::fmt;
use transport_buf::SlabLayout;
use transport_proto::identity::NodeId;

/// The program itself: code, stacks, tables, sessions.
const PROGRAM_BYTES: u64 = 24 << 20;
/// Two rings of 1024 slots of 256 bytes, and their control lines.
const SHM_RAIL_BYTES: u64 = 2 * ((1024 * 256) + 8192);
/// Buffers of a TCP connection.
const TCP_RAIL_BYTES: u64 = 2 * (64 << 10);
/// Slots and side channel of a verbs connection, also of one that is on its way to replace another.
const VERBS_RAIL_BYTES: u64 = 2 * (512 * 256 + (16 << 10));
/// The least that a slab is useful with.
const SLAB_BYTES_MIN: u64 = 4 << 20;

/// The budget cannot hold what the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetTooSmall {
    /// The budget.
    pub budget_bytes: u64,
    /// What it would have to be.
    pub needed_bytes: u64,
    /// Shared-memory rails of this node to all its peers.
    pub shm_rails: u64,
}

impl fmt::Display for BudgetTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[memory] budget of {} MiB is too small for {} shared-memory rails: make it {} MiB, or use fewer \
             rails",
            self.budget_bytes >> 20,
            self.shm_rails,
            self.needed_bytes.div_ceil(1 << 20)
        )
    }
}

impl std::error::Error for BudgetTooSmall {}

/// The cut of every slab of `node`, so that all together stay within the budget.
pub(crate) fn slab_layout(rows: &ClusterRows, node: NodeId) -> Result<SlabLayout, BudgetTooSmall> {
    let rails = rows.rails_of(node);
    let (mut shm_rails, mut tcp_rails, mut verbs_rails) = (0, 0, 0);
    for rail in rails {
        match rail.local.address {
            RailAddress::Shm(_) => shm_rails += 1,
            RailAddress::Tcp(_) => tcp_rails += 1,
            RailAddress::Verbs(_) => verbs_rails += 1,
        }
    }
    let fixed = PROGRAM_BYTES
        + shm_rails * SHM_RAIL_BYTES
        + tcp_rails * TCP_RAIL_BYTES
        + verbs_rails * VERBS_RAIL_BYTES;
    let quarters = 4 * (3 + 2 * shm_rails + u64::from(verbs_rails > 0)) + 5 * verbs_rails;
    let budget = rows.memory_budget_bytes;
    let share = budget.saturating_sub(fixed) * 4 / quarters;
    let layout = SlabLayout::within(usize::try_from(share).unwrap_or(usize::MAX));
    layout.ok_or(BudgetTooSmall {
        budget_bytes: budget,
        needed_bytes: fixed + quarters * SLAB_BYTES_MIN / 4,
        shm_rails,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rows(nodes: u16, budget: &str) -> ClusterRows {
        let mut text =
            String::from("[cluster]\nname = \"m\"\nkey = \"a secret of at least sixteen bytes\"\n");
        text += &format!("[memory]\nbudget = \"{budget}\"\n");
        (1..=nodes).for_each(|id| text += &format!("[[node]]\nid = {id}\n"));
        text += "[[link]]\nnodes = \"all\"\nrails = [{ kind = \"shm\" }, { kind = \"tcp\" }]\n";
        Config::parse("m.toml".as_ref(), &text).unwrap().rows
    }

    // proves: T12
    #[test]
    fn slabs_shrink_until_all_rails_fit_the_budget_and_then_the_start_is_refused() {
        let three = slab_layout(&rows(3, "256MiB"), NodeId(1)).unwrap();
        let nine = slab_layout(&rows(9, "256MiB"), NodeId(1)).unwrap();
        assert_eq!(three, SlabLayout::default());
        assert!(nine.region_bytes() * (3 + 2 * 8) < 256 << 20);
        let refused = slab_layout(&rows(9, "64MiB"), NodeId(1)).unwrap_err();
        assert!(refused.to_string().contains("8 shared-memory rails"));
        assert!(slab_layout(&rows(9, "107MiB"), NodeId(1)).is_ok() || refused.needed_bytes > 107 << 20);
    }
}
