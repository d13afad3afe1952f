//! Other systems, called with the same steps: etcd, Redis and NATS JetStream.
//!
//! Only built with the feature `peers`, so that users of the command line do not pay for it. Each
//! is called over its own protocol or by its usual Rust client. What can't be made equal is said
//! where the figures are: `deploy/bench/compare.sh`.

pub(super) mod etcd;
pub(super) mod nats;
pub(super) mod redis;

mod etcd_api;

use tokio::task::JoinSet;

use super::Target;
use crate::{
    bench::{
        args::Bench,
        workload::{Step, needs_keys},
    },
    output::Failure,
};

/// Callers that prepare at once.
const PREPARE_CALLERS: u64 = 256;

/// Puts the keys that the workload reads.
pub(super) async fn prepare(target: &Target, bench: &Bench) -> Result<(), Failure> {
    if !needs_keys(bench.workload) {
        return Ok(());
    }
    let spread = bench.spread;
    let mut callers = JoinSet::new();
    for first in 0..PREPARE_CALLERS.min(spread) {
        let caller = target.caller(first as usize).await?;
        callers.spawn(async move {
            for item in (first..spread).step_by(PREPARE_CALLERS as usize) {
                let put = caller.perform(first + 1, Step::Put(item)).await;
                put.map_err(|failed| Failure::unable(format!("preparing: {}", failed.reason)))?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done.map_err(|error| Failure::unable(error.to_string()))??;
    }
    Ok(())
}
