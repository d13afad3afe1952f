//! What survives a power cut.
pub mod byte_store;
pub mod disk;
pub mod simulated_store;
pub mod sled_store;
