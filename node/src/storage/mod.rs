//! What survives a power cut.
pub mod disk;
