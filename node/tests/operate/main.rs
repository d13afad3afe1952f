//! What operators and reviewers rely on, over the wire: who may do what, certificates, limits, the audit log, metrics.
//! What is promised is in `docs/security.md`, `docs/audit.md` and `docs/observability.md`; each module takes one part of it.
//!
//! A process of its own, beside `it`: a node that is let go of keeps the files of its byte store open until its
//! process ends, and as many nodes as both have together are more than a process may have files.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the clusters are those of `it`, whose tests use all of them"
)]

mod audit;
mod audit_unwritable;
mod auth;
mod certificate_users;
#[path = "../it/client.rs"]
mod client;
#[path = "../it/cluster.rs"]
mod cluster;
mod console;
#[path = "../it/disk.rs"]
mod disk;
mod identities;
mod limits;
mod metrics;
mod metrics_port;
#[path = "../it/network.rs"]
mod network;
mod quotas;
#[path = "../it/raw.rs"]
mod raw;
mod report;
#[path = "../it/requests.rs"]
mod requests;
mod tls;
mod tls_peers;
mod tls_reload;
mod watching;
