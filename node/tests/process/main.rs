//! Real processes on this machine: killed, paused, stopped, started wrongly.
//!
//! `kill -9` keeps the page cache, so nothing here says anything about fsync; the tests of power
//! cuts do.

#[path = "../support/mod.rs"]
mod support;

mod about;
pub(crate) mod bounds;
mod chaos;
mod dev;
mod disk_full;
mod failover;
mod hostile;
mod joins;
mod lab;
mod logs;
mod members;
mod names;
mod recover;
mod refusal;
mod report;
mod restore;
mod shutdown;
mod sizes;
mod traces;
mod upgrade;
mod waiting;
mod watched;
