//! The operator: somebody who administers the cluster through its API, and keeps trying.
//!
//! It is a turmoil host of its own, so it meets the same network as everybody, and talks to the
//! `tally.v1.Cluster` service with plain gRPC calls.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use tally_client::proto::{self as v1, cluster_client::ClusterClient};
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};

use crate::{
    cluster::{CLIENT_PORT, Cluster, PEER_PORT, host_of},
    env::connect_client,
    trace_event,
};

/// Name of the operator's host.
pub const HOST: &str = "operator";

/// How long a call may take; a learner that catches up from a snapshot needs some time.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// What an operator is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Let another node lead.
    TransferLeader,
    /// Put a new node into the place of an old one.
    Replace {
        /// Who goes.
        old: u64,
        /// Who comes; its machine runs already.
        new: u64,
    },
    /// Ask one node, once, to remove another.
    TryRemoval {
        /// Who is asked.
        at: u64,
        /// Who goes.
        old: u64,
    },
}

/// Where tasks are left for the operator.
#[derive(Debug, Clone, Default)]
pub struct Desk {
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: RefCell<VecDeque<Task>>,
    doing: RefCell<Option<Task>>,
    done: RefCell<Vec<(Task, bool)>>,
    bell: Notify,
}

impl Desk {
    /// Leaves a task.
    pub fn ask(&self, task: Task) {
        self.shared.waiting.borrow_mut().push_back(task);
        self.shared.bell.notify_one();
    }

    /// Forgets transfers that nobody has begun: the time of faults is over.
    pub fn drop_transfers(&self) {
        self.shared.waiting.borrow_mut().retain(|task| *task != Task::TransferLeader);
    }

    /// What is done: the task, and whether it worked out.
    pub fn take_done(&self) -> Vec<(Task, bool)> {
        std::mem::take(&mut self.shared.done.borrow_mut())
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.shared.waiting.borrow().is_empty() && self.shared.doing.borrow().is_none()
    }

    /// The operator's work, for as long as the simulation lasts.
    pub async fn work(self, cluster: Cluster) {
        loop {
            let next = self.shared.waiting.borrow_mut().pop_front();
            let Some(task) = next else {
                self.shared.bell.notified().await;
                continue;
            };
            *self.shared.doing.borrow_mut() = Some(task.clone());
            trace_event!(HOST, "begins {task:?}");
            let worked = match &task {
                Task::TransferLeader => transfer(&cluster).await,
                Task::Replace { old, new } => {
                    replace(&cluster, *old, *new).await;
                    true
                }
                Task::TryRemoval { at, old } => try_removal(*at, *old).await,
            };
            trace_event!(HOST, "{} {task:?}", if worked { "has done" } else { "gave up" });
            self.shared.doing.borrow_mut().take();
            self.shared.done.borrow_mut().push((task, worked));
        }
    }
}

/// One attempt: whoever leads may change at any moment.
async fn transfer(cluster: &Cluster) -> bool {
    let request = v1::ClusterTransferLeaderRequest::default();
    for id in running(cluster) {
        let call = |mut client: ClusterClient<Channel>| async move {
            client.transfer_leader(request).await.map(drop)
        };
        if at(id, call).await.is_ok() {
            return true;
        }
    }
    false
}

/// One attempt, at one node.
async fn try_removal(asked: u64, old: u64) -> bool {
    let request = v1::ClusterRemoveRequest { node_id: old };
    let call =
        |mut client: ClusterClient<Channel>| async move { client.remove(request).await.map(drop) };
    at(asked, call).await.is_ok()
}

/// Add as a learner, promote, remove the old one: each until it is so.
async fn replace(cluster: &Cluster, old: u64, new: u64) {
    let peer_address = format!("{}:{PEER_PORT}", host_of(new));
    until_done(cluster, "add learner", |mut client| {
        let request =
            v1::ClusterAddLearnerRequest { node_id: new, peer_address: peer_address.clone() };
        async move { client.add_learner(request).await.map(drop) }
    })
    .await;
    until_done(cluster, "promote", |mut client| async move {
        client.promote(v1::ClusterPromoteRequest { node_id: new }).await.map(drop)
    })
    .await;
    until_done(cluster, "remove", |mut client| async move {
        client.remove(v1::ClusterRemoveRequest { node_id: old }).await.map(drop)
    })
    .await;
}

async fn until_done<C, F>(cluster: &Cluster, what: &str, call: C)
where
    C: Fn(ClusterClient<Channel>) -> F,
    F: Future<Output = Result<(), tonic::Status>>,
{
    loop {
        for id in running(cluster) {
            match at(id, &call).await {
                Ok(()) => return,
                Err(status) => {
                    trace_event!(HOST, "{what} at {}: {}", host_of(id), status.message())
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An operator does not ask machines that are known to be down.
fn running(cluster: &Cluster) -> Vec<u64> {
    cluster.ids().into_iter().filter(|id| cluster.consensus(*id).is_some()).collect()
}

async fn at<C, F>(id: u64, call: C) -> Result<(), tonic::Status>
where
    C: FnOnce(ClusterClient<Channel>) -> F,
    F: Future<Output = Result<(), tonic::Status>>,
{
    let endpoint = Endpoint::from_shared(format!("http://{}:{CLIENT_PORT}", host_of(id)))
        .expect("a host's name is an address");
    let work = async {
        let channel = connect_client(endpoint)
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        call(ClusterClient::new(channel)).await
    };
    match tokio::time::timeout(CALL_TIMEOUT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
    }
}
