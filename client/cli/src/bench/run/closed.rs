//! The closed loop: each caller has a fixed number of calls in flight, and makes the next one when
//! one is answered. What it can't show is how long calls would have waited that nobody made because
//! the cluster was slow: that is for the open loop.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use super::{MEASURE, STOP, Shared};
use crate::bench::{target::Caller, workload::Choice};

/// Makes calls until it is told to stop. The calls of one caller are futures of one task: many
/// answers that come in one pack then wake one task, and not as many as there are answers.
pub(super) async fn call(shared: Arc<Shared>, caller: Caller, index: usize) {
    let depth = shared.bench.depth as usize;
    if depth == 1 {
        return lane(&shared, &caller, index).await;
    }
    join_all((0..depth).map(|number| lane(&shared, &caller, index * depth + number))).await;
}

async fn lane(shared: &Shared, caller: &Caller, lane: usize) {
    let mut choice = Choice::new(&shared.bench, lane as u64);
    loop {
        if shared.phase() == STOP {
            return;
        }
        let began = Instant::now();
        let result = caller.perform(lane as u64 + 1, choice.next()).await;
        // What ended while it was measured counts, wherever it began: with deep pipelines much is
        // always under way, and leaving it out at one end only would make a short run look slow.
        if shared.phase() == MEASURE {
            match &result {
                Ok(()) => shared.recorder.done(lane, began.elapsed()),
                Err(failed) => shared.recorder.failed(failed, began.elapsed()),
            }
        }
        if result.is_err() {
            // A cluster that refuses at once is not to be asked in a tight loop.
            sleep(Duration::from_millis(10)).await;
        }
    }
}
