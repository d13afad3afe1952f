//! Tests over the simulated disk: a small cluster-less "raft" that appends, votes, truncates, purges
//! and jumps, is cut off at any step, and compares what comes back with what it was told.

mod crashes;
mod damage;
mod faults;
mod forged;
mod harness;
mod normal;
