//! Power cuts: whatever was not fsynced is gone, at any moment, and nothing acknowledged is.
//!
//! The nodes' directories lie on a file system of our own (FUSE, in memory) that knows exactly which
//! bytes and names were fsynced. Where it can't be mounted the tests say so loudly and do nothing.
//!
//! `TALLY_POWER_CUTS` sets how many cuts all tests together make (100 unless it is set), and
//! `TALLY_POWER_CUT_SEED` the seed of the cuts' random choices; the moments themselves are real time
//! and can't be repeated exactly.

#[path = "../support/mod.rs"]
mod support;

mod cycles;
mod fuse;
mod model;
