//! The environment of a simulated node: turmoil's network, a simulated disk, clocks that the
//! simulation moves, and randomness from the seed.
//!
//! The node itself is the shipped one: [`tally_node::node::Node::start`] with another
//! [`tally_node::env::Env`]. What is simulated ends at that seam.
//!
//! A node's process may end at any moment, also in the middle of a simulated millisecond, when the
//! node itself finds that going on could break a promise (a failed fsync). [`Life`] makes that
//! exact: from that moment on its sockets and its disk fail, so that nothing a dead process still
//! computes can be seen by anybody.

mod clock;
pub mod machine_clock;
mod network;
pub(crate) mod observed;
mod wires;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use futures_util::future::BoxFuture;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tally_node::env::{Random, Threads};

pub use self::{
    clock::{EPOCH_MS, SimulatedClock, WallClock, simulated_ms, simulated_now},
    network::{SimulatedNetwork, connect_client},
    wires::{Wire, Wires},
};

/// One run of a node's process, from its start to its end.
#[derive(Debug, Default)]
pub struct Life {
    over: AtomicBool,
    /// The power had failed between two disk operations when the node ended itself.
    without_power: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Life {
    /// Ends it, as the node asked for. Says whether the machine had lost its power before: then it
    /// was the power that ended it.
    pub fn end(&self, reason: String, without_power: bool) {
        if self.is_over() {
            // What is dropped with a process that was killed has nothing to say any more.
            return;
        }
        let mut first = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(reason);
            self.without_power.store(without_power, Ordering::Relaxed);
        }
        self.over.store(true, Ordering::Relaxed);
    }

    /// Ends it from outside, without a reason of its own.
    pub fn kill(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Whether it ended because the power had failed.
    pub fn lost_power(&self) -> bool {
        self.without_power.load(Ordering::Relaxed)
    }

    /// Why the node ended itself, if it did.
    pub fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Randomness for ids, from a seed.
#[derive(Debug)]
pub struct SeededRandom(Mutex<SmallRng>);

impl SeededRandom {
    /// Equal seeds draw equal numbers.
    pub fn new(seed: u64) -> Self {
        SeededRandom(Mutex::new(SmallRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn next_u128(&self) -> u128 {
        let mut rng = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
    }
}

/// Blocking work becomes a task: the simulated disk takes simulated time only.
#[derive(Debug)]
pub struct Tasks;

impl Threads for Tasks {
    fn run_blocking(&self, _name: &str, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }

    fn process_id(&self) -> u32 {
        0
    }
}

/// Mixes parts into one seed, so that neighbours draw unrelated numbers.
pub fn mix(seed: u64, parts: &[u64]) -> u64 {
    let mut mixed = seed;
    for part in parts {
        mixed ^= part.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_add(mixed << 6);
        // The finalizer of splitmix64.
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}

/// Whose process it is, shared by what belongs to it.
pub type SharedLife = Arc<Life>;
