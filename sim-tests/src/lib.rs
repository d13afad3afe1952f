//! Deterministic simulation of Tally: the shipped node and the shipped client under simulated
//! network, disks and clocks, all from one seed.

pub mod check;
