//! The process around a node: its commands and exit codes, its logs, a cluster of several for a try.
//!
//! `main.rs` is the program `tallyd`, which calls what is here.

mod ask;
pub mod dev;
mod environment;
pub mod health;
mod join;
pub mod recent;
pub mod recover;
pub mod serve;
pub mod telemetry;
mod test_faults;
#[cfg(feature = "otlp")]
pub mod traces;

pub use crate::env::EXIT_FATAL;

/// Exit code when the node must not run as it is configured: starting again does not help.
pub const EXIT_REFUSED: i32 = 78;
