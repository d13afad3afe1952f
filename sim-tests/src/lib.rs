//! Deterministic simulation of Tally: the shipped node and the shipped client under simulated
//! network, disks and clocks, all from one seed.
//!
//! # For other projects' tests
//! - [`Cluster`] puts Tally nodes into your turmoil simulation ([`cluster`] has an example), and its
//!   machines are killed, stopped and lose their power. `tests/shop.rs` is a whole service tested so.
//! - [`env`](mod@env) is what such a machine has in place of the system: its network, clocks and life.
//! - [`faults::links`] cuts and holds links, also where faults overlap.
//! - [`check`] judges what clients saw: a history of [`tally_client::history`], from here or elsewhere.
//! - [`player`] makes a page of a simulation, with all of this on one time line.
//! - [`trace`] is what happened, line by line, the same for the same seed.
//!
//! # Tally's own
//! [`run`](mod@run) is our own use of these, behind the command line `tally-sim`: a seed draws knobs
//! ([`knobs`]), users and faults, or a scenario has chosen them ([`scenarios`]); what the nodes do is
//! checked while it happens, what the clients saw is judged at the end, and with a bug on purpose
//! ([`bugs`]) somebody must notice. It is public as far as the command line needs it, and changes as
//! Tally does. Users (`workload`), statements about nodes (`invariants`) and about rights
//! (`rights`) and counts (`kinds`) are not.

// For anybody.
pub mod check;
pub mod cluster;
pub mod env;
pub mod faults;
pub mod player;
pub mod trace;

// For the command line.
pub mod bugs;
pub mod knobs;
pub mod run;
pub mod scenarios;
pub mod story;

// For these alone.
mod entries;
mod invariants;
mod kinds;
mod quotas;
mod rights;
mod workload;

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
