//! Faults: which ones a seed brings ([`plan`]), what they do to the network ([`links`]), and the one
//! who breaks, mends and keeps the damage within what the protocol promises to survive ([`inject`]).

pub mod inject;
pub mod links;
pub mod moments;
pub mod operator;
pub mod plan;
pub mod reach;
