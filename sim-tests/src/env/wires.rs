//! What passes between hosts, watched and slowed down at the sockets.
//!
//! turmoil delivers, loses and holds messages by link. Two things it does not do are done here, where
//! a node reads from a connection:
//!
//! - **Stalling what is there.** The connections that exist now deliver nothing for a while, then what
//!   has waited, little by little; connections made meanwhile are not affected. So a message arrives
//!   behind others that were sent after it, which is what a crowded path does to an old connection.
//! - **Watching cuts.** Bytes that arrive over a link long after it was cut show that the cut does
//!   nothing, and that every test of a partition is empty.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes may arrive for so long after a cut: they were under way, or waited in a buffer.
const UNDER_WAY_MS: u64 = 4_000;

/// After a stall, what has waited comes in pieces for so long.
const DRIP_MS: u64 = 4_000;

const NEVER: u64 = u64::MAX;

/// All directions of all links, by the names of their hosts. Clones are handles.
#[derive(Debug, Clone, Default)]
pub struct Wires {
    wires: Arc<Mutex<ByDirection>>,
}

/// From which host to which.
type ByDirection = BTreeMap<(String, String), Arc<Wire>>;

/// One direction of one link.
#[derive(Debug)]
pub struct Wire {
    cut_since_ms: AtomicU64,
    stall_began_ms: AtomicU64,
    stall_until_ms: AtomicU64,
    drip_every_ms: AtomicU64,
    crossed_bytes: AtomicU64,
}

impl Default for Wire {
    fn default() -> Self {
        Wire {
            cut_since_ms: AtomicU64::new(NEVER),
            stall_began_ms: AtomicU64::new(0),
            stall_until_ms: AtomicU64::new(0),
            drip_every_ms: AtomicU64::new(0),
            crossed_bytes: AtomicU64::new(0),
        }
    }
}

impl Wires {
    /// From one host to another.
    pub fn between(&self, from: &str, to: &str) -> Arc<Wire> {
        let mut wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(wires.entry((from.to_owned(), to.to_owned())).or_default())
    }

    /// Says since when messages from one host to another are lost, if they are.
    pub fn set_cut(&self, from: &str, to: &str, since_ms: Option<u64>) {
        let wire = self.between(from, to);
        let since_ms = since_ms.unwrap_or(NEVER);
        // A second cut on top of the first does not begin anew.
        if since_ms == NEVER || wire.cut_since_ms.load(Ordering::Relaxed) == NEVER {
            wire.cut_since_ms.store(since_ms, Ordering::Relaxed);
        }
    }

    /// What the present connections from one host to another carry waits, and then comes one piece
    /// at a time.
    pub fn stall(&self, from: &str, to: &str, (now_ms, until_ms): (u64, u64), drip_every_ms: u64) {
        let wire = self.between(from, to);
        wire.drip_every_ms.store(drip_every_ms, Ordering::Relaxed);
        wire.stall_began_ms.store(now_ms, Ordering::Relaxed);
        wire.stall_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// Whether something waits at this time.
    pub fn is_stalled(&self, now_ms: u64) -> bool {
        let wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        wires.values().any(|wire| now_ms < wire.stall_until_ms.load(Ordering::Relaxed) + DRIP_MS)
    }

    /// Links over which bytes arrived though they were cut, with how many.
    pub fn crossed(&self) -> Vec<(String, String, u64)> {
        let wires = self.wires.lock().unwrap_or_else(PoisonError::into_inner);
        let crossed = wires.iter().map(|((from, to), wire)| {
            (from.clone(), to.clone(), wire.crossed_bytes.load(Ordering::Relaxed))
        });
        crossed.filter(|(_, _, bytes)| *bytes > 0).collect()
    }
}

impl Wire {
    /// Whether messages are lost on it.
    pub(super) fn is_cut(&self) -> bool {
        self.cut_since_ms.load(Ordering::Relaxed) != NEVER
    }

    /// Whether it was ever stalled: most never are, and are not asked the time.
    pub(super) fn may_stall(&self) -> bool {
        self.stall_until_ms.load(Ordering::Relaxed) > 0
    }

    /// How long a connection of this age has to wait before it reads, in ms.
    pub(super) fn wait_ms(&self, born_ms: u64, now_ms: u64) -> u64 {
        let until = self.stall_until_ms.load(Ordering::Relaxed);
        if self.is_affected(born_ms) { until.saturating_sub(now_ms) } else { 0 }
    }

    /// How long it has to wait after it has read, in ms.
    pub(super) fn pause_ms(&self, born_ms: u64, now_ms: u64) -> u64 {
        let until = self.stall_until_ms.load(Ordering::Relaxed);
        let drips = self.is_affected(born_ms) && now_ms < until + DRIP_MS;
        if drips { self.drip_every_ms.load(Ordering::Relaxed) } else { 0 }
    }

    fn is_affected(&self, born_ms: u64) -> bool {
        self.may_stall() && born_ms <= self.stall_began_ms.load(Ordering::Relaxed)
    }

    /// So many bytes are read from a connection of this age. One that was stalled may read long
    /// afterwards what had arrived before.
    pub(super) fn arrived(&self, bytes: usize, born_ms: u64, now_ms: impl Fn() -> u64) {
        let since = self.cut_since_ms.load(Ordering::Relaxed);
        if bytes > 0
            && since != NEVER
            && !self.is_affected(born_ms)
            && now_ms() > since + UNDER_WAY_MS
        {
            self.crossed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}
