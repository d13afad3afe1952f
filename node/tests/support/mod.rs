//! Nodes as real processes, and load whose outcome can be audited.
//!
//! Shared by the tests of processes and of power cuts; each uses a part of it.
#![allow(dead_code)]

pub(crate) mod load;
pub(crate) mod nodes;

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// How long something may take that happens sooner or later. What has a deadline by promise is
/// measured by its own test; this one only keeps a hanging test from hanging for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Tries until it gets something, or panics with `what` was waited for.
pub(crate) async fn eventually<T, F, Tried>(what: &str, mut attempt: F) -> T
where
    F: FnMut() -> Tried,
    Tried: Future<Output = Option<T>>,
{
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(found) = attempt().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within {} s", PATIENCE.as_secs());
}

/// Says that a test did not run. cargo captures what a passing test prints, so this goes around it.
pub(crate) fn skip(test: &str, why: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {why}\n");
}

/// Prints a measured figure, also when the test passes.
pub(crate) fn report(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
