//! The operator: somebody who administers the cluster through its API, and keeps trying.
//!
//! It is a turmoil host of its own, so it meets the same network as everybody, and talks to the
//! `tally.v1.Cluster` service with plain gRPC calls.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use tally_client::proto::{self as v1, cluster_client::ClusterClient};
use tokio::sync::Notify;
use tonic::{
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use crate::{
    cluster::{CLIENT_PORT, Cluster, PEER_PORT, host_of},
    env::{connect_client, simulated_ms},
    trace_event,
};

/// Name of the operator's host.
pub(crate) const HOST: &str = "operator";

/// How long a call may take; a learner that catches up from a snapshot needs some time.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// What an operator is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    /// Let another node lead.
    TransferLeader,
    /// Put a new node into the place of an old one.
    Replace {
        /// Who goes.
        old: u64,
        /// Who comes; its machine runs already.
        new: u64,
    },
    /// Ask one node, once, to make a learner a voter.
    TryPromotion {
        /// Who is asked.
        at: u64,
        /// Who is to vote.
        learner: u64,
    },
    /// Add a new node, whose machine runs already, as a learner.
    AddLearner(u64),
    /// Make a learner a voter.
    Promote(u64),
    /// Take a member out.
    Remove(u64),
    /// What a person types by mistake, and must be refused.
    Mistake(Mistake),
}

/// A membership that mixes two clusters. Each is asked for once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Addresses of the client ports of the nodes that are asked; whoever leads refuses.
    pub asked: Vec<String>,
    /// The id under which to add …
    pub node_id: u64,
    /// … the node whose peer port has this address, and which is of another cluster than those asked.
    pub peer_address: String,
}

/// Where tasks are left for the operator.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desk {
    shared: Rc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: RefCell<VecDeque<Task>>,
    doing: RefCell<Option<Task>>,
    done: RefCell<Vec<(Task, bool)>>,
    bell: Notify,
    /// In simulated ms.
    away_until: Cell<u64>,
    refused_mistakes: Cell<u64>,
}

impl Desk {
    /// Leaves a task.
    pub(crate) fn ask(&self, task: Task) {
        self.shared.waiting.borrow_mut().push_back(task);
        self.shared.bell.notify_one();
    }

    /// Forgets transfers that nobody has begun: the time of faults is over.
    pub(crate) fn drop_transfers(&self) {
        self.shared.waiting.borrow_mut().retain(|task| *task != Task::TransferLeader);
        self.shared.away_until.set(0);
    }

    /// The operator makes no further attempt before this simulated ms.
    pub(crate) fn be_away(&self, until_ms: u64) {
        self.shared.away_until.set(until_ms.max(self.shared.away_until.get()));
    }

    async fn is_back(&self) {
        while simulated_ms().unwrap_or(0) < self.shared.away_until.get() {
            tokio::time::sleep(PAUSE / 10).await;
        }
    }

    /// What is done: the task, and whether it worked out.
    pub(crate) fn take_done(&self) -> Vec<(Task, bool)> {
        std::mem::take(&mut self.shared.done.borrow_mut())
    }

    /// How often a node was refused as it is of another cluster, since it was last asked for.
    pub(crate) fn take_refused_mistakes(&self) -> u64 {
        self.shared.refused_mistakes.take()
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.shared.waiting.borrow().is_empty() && self.shared.doing.borrow().is_none()
    }

    /// The operator's work, for as long as the simulation lasts.
    pub(crate) async fn work(self, cluster: Cluster) {
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
                    self.add_learner(&cluster, *new).await;
                    self.promote(&cluster, *new).await;
                    self.remove(&cluster, *old).await;
                    true
                }
                Task::TryPromotion { at, learner } => try_promotion(&cluster, *at, *learner).await,
                Task::AddLearner(new) => {
                    self.add_learner(&cluster, *new).await;
                    true
                }
                Task::Promote(id) => {
                    self.promote(&cluster, *id).await;
                    true
                }
                Task::Remove(id) => {
                    self.remove(&cluster, *id).await;
                    true
                }
                Task::Mistake(mistake) => self.is_accepted(&cluster, mistake).await,
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
        let call = |mut client: ClusterClient<Asked>| async move {
            client.transfer_leader(request).await.map(drop)
        };
        if at(cluster, id, call).await.is_ok() {
            return true;
        }
    }
    false
}

/// One attempt, at one node.
async fn try_promotion(cluster: &Cluster, asked: u64, learner: u64) -> bool {
    let request = v1::ClusterPromoteRequest { node_id: learner, ..Default::default() };
    let call =
        |mut client: ClusterClient<Asked>| async move { client.promote(request).await.map(drop) };
    match at(cluster, asked, call).await {
        Ok(()) => true,
        Err(status) => {
            trace_event!(HOST, "promote at {}: {}", host_of(asked), status.message());
            false
        }
    }
}

/// Also if fewer voters may fail then: some seeds shrink a cluster.
fn removal(node_id: u64) -> v1::ClusterRemoveRequest {
    v1::ClusterRemoveRequest { node_id, preview: false, accept_fewer_failures: true }
}

impl Desk {
    async fn add_learner(&self, cluster: &Cluster, new: u64) {
        let peer_address = format!("{}:{PEER_PORT}", host_of(new));
        self.until_done(cluster, "add learner", |mut client| {
            let peer_address = peer_address.clone();
            let request =
                v1::ClusterAddLearnerRequest { node_id: new, peer_address, preview: false };
            async move { client.add_learner(request).await.map(drop) }
        })
        .await;
    }

    async fn promote(&self, cluster: &Cluster, id: u64) {
        self.until_done(cluster, "promote", |mut client| async move {
            let request = v1::ClusterPromoteRequest { node_id: id, ..Default::default() };
            client.promote(request).await.map(drop)
        })
        .await;
    }

    async fn remove(&self, cluster: &Cluster, id: u64) {
        self.until_done(cluster, "remove", |mut client| async move {
            client.remove(removal(id)).await.map(drop)
        })
        .await;
    }

    async fn until_done<C, F>(&self, cluster: &Cluster, what: &str, call: C)
    where
        C: Fn(ClusterClient<Asked>) -> F,
        F: Future<Output = Result<(), tonic::Status>>,
    {
        loop {
            for id in running(cluster) {
                self.is_back().await;
                match at(cluster, id, &call).await {
                    Ok(()) => return,
                    Err(status) => {
                        trace_event!(HOST, "{what} at {}: {}", host_of(id), status.message())
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks for it everywhere: whether anybody did it. Of those that were to be asked some may be down by now; with
    /// many of them it would take longer than there is for everything to be mended (seed 3808).
    async fn is_accepted(&self, cluster: &Cluster, mistake: &Mistake) -> bool {
        for address in &mistake.asked {
            let client_port = |id: &u64| format!("{}:{CLIENT_PORT}", host_of(*id));
            let is_down = |id: &u64| cluster.consensus(*id).is_none();
            if cluster.ids().iter().any(|id| client_port(id) == *address && is_down(id)) {
                continue;
            }
            let (node_id, peer_address) = (mistake.node_id, mistake.peer_address.clone());
            let request = v1::ClusterAddLearnerRequest { node_id, peer_address, preview: false };
            let call = |mut client: ClusterClient<Asked>| async move {
                client.add_learner(request).await.map(drop)
            };
            match at_address(address, None, call).await {
                Ok(()) => return true,
                Err(status) => {
                    trace_event!(HOST, "a mistake at {address}: {}", status.message());
                    if status.message().contains("is of cluster") {
                        self.shared.refused_mistakes.set(self.shared.refused_mistakes.get() + 1);
                    }
                }
            }
        }
        false
    }
}

/// How nodes are asked.
type Asked = InterceptedService<Channel, Shows>;

/// Shows a token with each call, if there is one.
struct Shows(Option<String>);

impl Interceptor for Shows {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            let shown = format!("Bearer {token}").parse().expect("a token is a word");
            request.metadata_mut().insert("authorization", shown);
        }
        Ok(request)
    }
}

/// An operator does not ask machines that are known to be down.
fn running(cluster: &Cluster) -> Vec<u64> {
    cluster.ids().into_iter().filter(|id| cluster.consensus(*id).is_some()).collect()
}

async fn at<C, F>(cluster: &Cluster, id: u64, call: C) -> Result<(), tonic::Status>
where
    C: FnOnce(ClusterClient<Asked>) -> F,
    F: Future<Output = Result<(), tonic::Status>>,
{
    let address = format!("{}:{CLIENT_PORT}", host_of(id));
    at_address(&address, cluster.operators_token(), call).await
}

async fn at_address<C, F>(
    address: &str,
    token: Option<String>,
    call: C,
) -> Result<(), tonic::Status>
where
    C: FnOnce(ClusterClient<Asked>) -> F,
    F: Future<Output = Result<(), tonic::Status>>,
{
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.expect("a host's name is an address");
    let work = async {
        let channel = connect_client(endpoint)
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        call(ClusterClient::with_interceptor(channel, Shows(token))).await
    };
    match tokio::time::timeout(CALL_TIMEOUT, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(tonic::Status::deadline_exceeded("no answer in time")),
    }
}
