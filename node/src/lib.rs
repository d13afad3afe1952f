//! A Tally node: replicated counters and keys on Raft.

pub mod machine;
pub mod storage;
