//! What survives a power cut.
pub mod byte_store;
#[cfg(test)]
mod byte_store_suite;
mod codec;
pub mod disk;
#[cfg(test)]
mod disk_tests;
pub mod log_id;
pub mod real_disk;
pub mod simulated_disk;
pub mod simulated_store;
pub mod sled_store;
pub mod snapshot;
pub mod state;
#[cfg(test)]
mod test_disk;
pub mod wal;
