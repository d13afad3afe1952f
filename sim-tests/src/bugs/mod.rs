//! Bugs on purpose: which there are, and what must happen for each to show.

pub mod catalogue;

pub use catalogue::{BUGS, Bug, INEXPRESSIBLE, SHOWN_BY_SEED, SHOWN_BY_TWO_RUNS, SHOWN_IN};
