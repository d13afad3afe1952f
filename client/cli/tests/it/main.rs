//! The command line against nodes that lose answers, break streams, step down and forget.

#[allow(dead_code, reason = "the library's tests use more of it")]
#[path = "../../../tests/it/fake.rs"]
mod fake;
#[allow(dead_code, reason = "the library's tests use more of it")]
#[path = "../../../tests/it/model.rs"]
mod model;

mod about;
mod deletes;
mod exit_status;
mod lists;
mod loads;
mod members;
mod output;
mod quotas;
mod runs;
mod schema;
mod shell;
mod status;
mod tls;
mod top;
