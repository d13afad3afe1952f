//! Faults: what they do to the network ([`links`], also for other simulations), which ones a seed brings
//! ([`plan`]), and the one who breaks, mends and keeps the damage within what the protocol promises to
//! survive (`inject`).

pub mod links;
pub mod plan;

pub(crate) mod inject;
pub(crate) mod moments;
pub(crate) mod operator;
pub(crate) mod reach;

pub use self::{
    inject::{Done, Fate},
    moments::Moment,
};
