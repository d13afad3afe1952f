//! The pure state machine.
pub mod command;
pub mod view;
