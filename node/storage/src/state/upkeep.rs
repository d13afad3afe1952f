//! What the state store does beside serving: it flushes, and it builds snapshots when asked to.
//!
//! Both go through records by the hundred thousand. A node has few threads that answer, often one, and
//! with pieces of that work between its answers they came late: so it has a thread of its own, and the
//! scheduler shares the cores out.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{StateStore, error::StateError};
use crate::snapshot::SnapshotInfo;

type Answer = oneshot::Sender<Result<SnapshotInfo, StateError>>;

/// Runs flushes and builds. See the module.
#[derive(Debug)]
pub struct Upkeep {
    state: Arc<StateStore>,
    flush_interval: Duration,
    requests: mpsc::Receiver<Answer>,
    /// Carries nothing: that it is closed is what counts, which `requests` only tells whoever waits for one.
    stop: watch::Receiver<Option<Infallible>>,
}

/// Asks for snapshots. The upkeep ends with the last of these, whatever it is doing: it may be running
/// on a thread that nobody can abort, and has to let go of the data directory of a node that is gone.
#[derive(Debug, Clone)]
pub struct SnapshotRequests {
    requests: mpsc::Sender<Answer>,
    _stop: watch::Sender<Option<Infallible>>,
}

impl StateStore {
    /// The upkeep, which somebody has to run.
    pub fn upkeep(self: &Arc<Self>, flush_interval: Duration) -> (SnapshotRequests, Upkeep) {
        // openraft asks for one at a time.
        let (sender, requests) = mpsc::channel(1);
        let (stop_sender, stop) = watch::channel(None);
        (
            SnapshotRequests { requests: sender, _stop: stop_sender },
            Upkeep { state: Arc::clone(self), flush_interval, requests, stop },
        )
    }
}

impl SnapshotRequests {
    /// [`StateStore::build_snapshot`], where the upkeep runs.
    ///
    /// A caller that goes away does not cancel it.
    pub async fn build(&self) -> Result<SnapshotInfo, StateError> {
        let gone = || StateError::Fatal("the state store's upkeep has ended".into());
        let (answer, answered) = oneshot::channel();
        self.requests.send(answer).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

impl Upkeep {
    /// Runs from when `may_begin` is over until nobody could ask for a snapshot any more. What it is
    /// cancelled in (a flush, a build) is made good by the next one.
    pub async fn run(self, may_begin: impl Future<Output = ()>) {
        let Upkeep { state, flush_interval, mut requests, mut stop } = self;
        let builds = async {
            while let Some(answer) = requests.recv().await {
                let _ = answer.send(state.build_snapshot().await);
            }
        };
        let upkeep = async {
            may_begin.await;
            tokio::join!(Arc::clone(&state).run_flusher(flush_interval), builds);
        };
        tokio::select! {
            biased;
            _ = stop.changed() => {}
            () = upkeep => {}
        }
    }
}
