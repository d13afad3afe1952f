//! What survives a power cut.
pub mod disk;
#[cfg(test)]
mod disk_tests;
pub mod real_disk;
pub mod simulated_disk;
pub mod wal;
