//! The node over the wire: real nodes in this process, asked through gRPC by generated clients, by
//! hand-made bytes, and across a network that can be cut. What is promised is in
//! `docs/consistency.md` and `docs/exactly-once.md`; each module takes one part of it.

mod authority;
mod bounds;
mod client;
mod cluster;
mod compare;
mod directories;
mod disk;
mod drain;
mod errors;
mod exactly_once;
mod fixtures;
mod headers;
mod hostile;
mod invalid;
mod large_values;
mod members;
mod network;
mod quorum;
mod raw;
mod reads;
mod requests;
mod restarted_leader;
mod service;
mod sessions;
mod snapshots;
mod start;
mod streams;
mod upgrade;
