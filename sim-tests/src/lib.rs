//! Deterministic simulation of Tally: the shipped node and the shipped client under simulated
//! network, disks and clocks, all from one seed.
//!
//! - [`Cluster`] puts Tally nodes into a turmoil simulation: the piece for other projects' tests.
//! - [`run`] is our own use of it: a seed draws knobs ([`knobs`]), users ([`workload`]) and faults
//!   ([`faults`]); what the nodes do is checked while it happens ([`invariants`]), what the clients
//!   saw is judged at the end ([`check`]).
//! - [`trace`] is what happened, line by line, the same for the same seed.

pub mod bugs;
pub mod check;
pub mod cluster;
pub mod env;
pub mod faults;
pub mod invariants;
pub mod kinds;
pub mod knobs;
pub mod run;
pub mod scenarios;
pub mod trace;
pub mod workload;

use std::time::{Duration, UNIX_EPOCH};

pub use cluster::Cluster;

#[cfg(not(tokio_unstable))]
compile_error!("build with --cfg tokio_unstable, else tokio's scheduler is not seeded");

/// Seeds what belongs to a thread: a simulation needs one of its own to be the same each time.
pub fn prepare_thread(seed: u64) {
    tally_node::consensus::runtime::seed_thread(env::mix(seed, &[0x7d]));
}

/// Simulated time that turmoil gives each host in turn, in ms. Messages travel for 1 to 10 ms and
/// are delivered between turns. Beginning and ending turns costs much: at 1 ms a simulation takes a
/// quarter longer for the same number of calls.
pub const TICK_MS: u64 = 2;

/// A turmoil builder with the settings that Tally needs: everything seeded, a clock that starts at
/// a fixed moment, and room for the connections that partitions leave behind.
pub fn builder(seed: u64) -> turmoil::Builder {
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + Duration::from_millis(env::EPOCH_MS))
        .tick_duration(Duration::from_millis(TICK_MS))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(10))
        .ephemeral_ports(1024..=65535)
        .tcp_capacity(65536);
    builder
}
