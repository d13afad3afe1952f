//! Nodes that speak the real protocol over real sockets and misbehave as they are told to.
//!
//! What they put off happens when the test says so, and deadlines that a test is about pass when it lets
//! them ([`Cluster::let_deadline_pass`]): no test waits for a time and hopes that enough was done in it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::Stream;
use tally_client::{Builder, Client, proto as v1};
use tally_proto::{
    reason,
    status::{StatusBuilder, to_tonic},
    v1::{
        answer::Response,
        call::Request,
        cluster_server::ClusterServer,
        counters_server::CountersServer,
        sessions_server::SessionsServer,
        stream_server::{Stream as StreamService, StreamServer},
    },
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Code, Status, Streaming, transport::Server};

use crate::model::{Model, options, refusal};

/// What a node does with the next write that it gets.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// What a healthy leader does.
    Answer,
    /// Executes it and breaks the stream instead of answering.
    ExecuteAndBreak,
    /// Breaks the stream and executes nothing.
    Break,
    /// Executes it and says nothing.
    ExecuteSilently,
    /// Executes it when the test says so; says at once that the outcome is unknown.
    ExecuteLater,
    /// Neither executes nor answers.
    Silence,
    /// Executes nothing and answers with this.
    Refuse(Box<Response>),
    /// Answers when the test says so.
    Slow,
    /// Answers as a node did that did not know its cluster: without saying of which state.
    AnswerUntold,
    /// Drops all sessions, then does what a healthy leader does.
    ExpireSessions,
    /// Executes it, drops all sessions, and breaks the stream.
    ExecuteExpireAndBreak,
    /// Drops all sessions and admits no more, then does what a healthy leader does.
    ExpireSessionsForGood,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Writes in each pack that held any.
    pub(crate) packs: Vec<usize>,
    /// The traces that calls of streams are part of, where they say one.
    pub(crate) traceparents: Vec<String>,
    pub(crate) writes: usize,
    pub(crate) reads: usize,
    /// (sequence, lowest unanswered) of each stamped write.
    pub(crate) stamps: Vec<(u64, u64)>,
    pub(crate) keys: Vec<(String, u64)>,
    pub(crate) read_options: Vec<Option<v1::ReadOptions>>,
    /// How often it was asked who the members are.
    pub(crate) statuses: usize,
}

pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) address: String,
    pub(crate) script: Mutex<VecDeque<Act>>,
    /// What it says to the next reads instead of answering.
    pub(crate) refuses_reads: Mutex<VecDeque<Response>>,
    /// It never reaches the state of a token.
    pub(crate) is_behind: AtomicBool,
    pub(crate) seen: Mutex<Seen>,
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) model: Mutex<Model>,
    /// Index of the node that leads; too high for none.
    pub(crate) leader: AtomicUsize,
    addresses: Mutex<Vec<String>>,
    pub(crate) term: AtomicUsize,
    /// What was put off is done now.
    hurried: watch::Sender<bool>,
}

/// Longest time that anything in these tests may take which must happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A deadline by which no test ends, however slow the machine is.
pub(crate) const FAR: Duration = Duration::from_secs(60);

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !is_so() {
        assert!(tokio::time::Instant::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Cluster {
    pub(crate) async fn start(nodes: usize) -> Self {
        Self::served_by(nodes, Server::builder).await
    }

    /// With servers of the test's own making.
    pub(crate) async fn served_by(nodes: usize, server: impl Fn() -> Server) -> Self {
        let model = Model {
            cluster_id: "fake".into(),
            window: 65_536,
            idle_timeout_ms: 3_600_000,
            ..Default::default()
        };
        let shared = Arc::new(Shared {
            model: Mutex::new(model),
            leader: AtomicUsize::new(0),
            addresses: Mutex::default(),
            term: AtomicUsize::new(1),
            hurried: watch::Sender::new(false),
        });
        let mut cluster = Self { nodes: Vec::new(), shared: shared.clone(), tasks: Vec::new() };
        for id in 1..=nodes as u64 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            shared.addresses.lock().unwrap().push(address.clone());
            let node = Arc::new(Node {
                id,
                address,
                script: Mutex::default(),
                refuses_reads: Mutex::default(),
                is_behind: AtomicBool::new(false),
                seen: Mutex::default(),
                shared: shared.clone(),
            });
            let server = server()
                .add_service(StreamServer::new(Handle(node.clone())))
                .add_service(CountersServer::new(Handle(node.clone())))
                .add_service(SessionsServer::new(Handle(node.clone())))
                .add_service(ClusterServer::new(Handle(node.clone())))
                .serve_with_incoming(TcpListenerStream::new(listener));
            cluster.tasks.push(tokio::spawn(async move { server.await.unwrap() }));
            cluster.nodes.push(node);
        }
        cluster
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    pub(crate) fn builder(&self) -> Builder {
        Client::builder(self.endpoints()).seed(1)
    }

    pub(crate) fn client(&self) -> Client {
        self.builder().deadline(FAR).build().unwrap()
    }

    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.shared.model.lock().unwrap()
    }

    pub(crate) fn value(&self, counter: &str) -> i64 {
        self.model().counters.get(counter).copied().unwrap_or_default()
    }

    /// Made anew at the same addresses: another cluster.
    pub(crate) fn make_anew(&self, counters: &[(&str, i64)]) {
        let mut model = self.model();
        model.cluster_id += "-new";
        model.log_index = 1;
        model.sessions.clear();
        model.counters = counters.iter().map(|(name, value)| (name.to_string(), *value)).collect();
        self.shared.term.store(1, Ordering::SeqCst);
    }

    pub(crate) fn elect(&self, index: usize) {
        self.shared.term.fetch_add(1, Ordering::SeqCst);
        self.shared.leader.store(index, Ordering::SeqCst);
    }

    /// This node ends at the next write that reaches it, and is not started again.
    pub(crate) fn end(&self, node: usize) {
        self.tasks[node].abort();
        self.script(node, [Act::Break]);
    }

    pub(crate) fn script(&self, node: usize, acts: impl IntoIterator<Item = Act>) {
        self.nodes[node].script.lock().unwrap().extend(acts);
    }

    pub(crate) fn writes(&self) -> usize {
        self.nodes.iter().map(|node| node.seen.lock().unwrap().writes).sum()
    }

    /// Waits until the nodes have seen so many writes.
    pub(crate) async fn has_seen(&self, writes: usize) {
        eventually(&format!("{writes} writes came"), || self.writes() >= writes).await;
    }

    /// Does what the nodes have put off.
    pub(crate) fn hurry(&self) {
        self.shared.hurried.send_replace(true);
    }

    /// Lets the deadline of a call pass, once the nodes have seen so many writes: by a clock that goes
    /// on only while nothing else can, so that no machine is too slow.
    pub(crate) async fn let_deadline_pass<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
        writes: usize,
    ) -> T {
        let call = tokio::spawn(call);
        self.has_seen(writes).await;
        tokio::time::pause();
        let ended = call.await.unwrap();
        tokio::time::resume();
        ended
    }
}

/// Node 3 has nothing to tell, and node 2 not everything.
fn diagnosis(node_id: u64) -> Response {
    let file = |name: &str, text: &str, problem: &str| v1::DiagnosticFile {
        name: name.to_owned(),
        text: text.to_owned(),
        problem: problem.to_owned(),
    };
    let mut answer = v1::ClusterDiagnoseResponse { node_id, ..Default::default() };
    match node_id {
        3 => answer.problem = "no answer in time".to_owned(),
        2 => answer.files.push(file("log.txt", "", "this process keeps no log lines")),
        _ => answer.files.push(file("log.txt", "a line\n", "3 earlier lines are no longer kept")),
    }
    answer.files.push(file("../config.toml", "node_id = 1\n", ""));
    if node_id == 3 {
        answer.files.clear();
    }
    Response::ClusterDiagnose(answer)
}

/// What is done with the stream after a call.
#[allow(clippy::large_enum_variant)]
enum Then {
    Say(Response),
    SayLater(Request),
    Nothing,
    Break,
}

impl Node {
    fn leads(&self) -> bool {
        self.shared.leader.load(Ordering::SeqCst) + 1 == self.id as usize
    }

    fn not_leader(&self, is_write: bool) -> Response {
        let leader = self.shared.leader.load(Ordering::SeqCst);
        let header = Some(self.shared.model.lock().unwrap().header());
        let mut error = StatusBuilder::new(Code::Unavailable, reason::NOT_LEADER, "not leader")
            .detail(&v1::AnswerState { header });
        if is_write {
            error = error.outcome(v1::Outcome::NotApplied);
        }
        if let Some(address) = self.shared.addresses.lock().unwrap().get(leader) {
            error = error.detail(&v1::LeaderHint {
                node_id: leader as u64 + 1,
                address: address.clone(),
                term: self.shared.term.load(Ordering::SeqCst) as u64,
            });
        }
        Response::Error(error.build())
    }

    async fn put_off(&self) {
        let mut hurried = self.shared.hurried.subscribe();
        hurried.wait_for(|hurried| *hurried).await.map(|_| ()).unwrap();
    }

    fn refuse_token(&self, token: &[u8]) -> Option<Response> {
        let header = self.shared.model.lock().unwrap().header();
        let (code, why) = if token[8..] != header.session_token[8..] {
            (Code::FailedPrecondition, reason::TOKEN_OF_ANOTHER_CLUSTER)
        } else if self.is_behind.load(Ordering::SeqCst) {
            (Code::Unavailable, reason::TOKEN_NOT_REACHED)
        } else {
            return None;
        };
        let state = v1::AnswerState { header: Some(header) };
        Some(Response::Error(StatusBuilder::new(code, why, why).detail(&state).build()))
    }

    fn execute(&self, request: Request) -> Response {
        self.shared.model.lock().unwrap().execute(request)
    }

    fn status(&self) -> Response {
        let addresses = self.shared.addresses.lock().unwrap();
        let nodes = addresses.iter().enumerate().map(|(index, address)| v1::NodeStatus {
            id: index as u64 + 1,
            address: address.clone(),
            reachable: true,
            pid: 1000 + index as u32,
            leader_id: self.shared.leader.load(Ordering::SeqCst) as u64 + 1,
            term: self.shared.term.load(Ordering::SeqCst) as u64,
            role: if self.shared.leader.load(Ordering::SeqCst) == index {
                v1::Role::Leader as i32
            } else {
                v1::Role::Follower as i32
            },
            ..Default::default()
        });
        Response::ClusterStatus(v1::ClusterStatusResponse {
            header: Some(v1::ResponseHeader { node_id: self.id, ..Default::default() }),
            nodes: nodes.collect(),
            dedup: None,
            next_node_id: 0,
        })
    }

    /// Of node 3 it has none to tell; of others a hundred adds more each time.
    fn metrics(&self, node_id: u64) -> Response {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let adds = 100 * ASKED.fetch_add(1, Ordering::SeqCst);
        let add = "method=\"CountersAdd\",transport=\"stream\",outcome=\"ok\"";
        let text = format!(
            "# TYPE tally_requests_total counter\n\
             tally_requests_total{{{add}}} {adds}\n\
             tally_request_duration_seconds_bucket{{{add},le=\"0.002\"}} {adds}\n\
             tally_request_duration_seconds_bucket{{{add},le=\"+Inf\"}} {adds}\n\
             tally_hot_item_operations_per_second{{kind=\"counter\",item=\"stock\"}} 7.5\n"
        );
        let mut answer = v1::ClusterMetricsResponse { node_id, ..Default::default() };
        match node_id {
            3 => answer.problem = "no answer in time".to_owned(),
            _ => answer.text = text,
        }
        Response::ClusterMetrics(answer)
    }

    fn handle(self: &Arc<Self>, mut request: Request) -> Then {
        if let Request::ClusterStatus(_) = request {
            self.seen.lock().unwrap().statuses += 1;
            return Then::Say(self.status());
        }
        match request {
            Request::ClusterMetrics(v1::ClusterMetricsRequest { node_id }) => {
                return Then::Say(self.metrics(node_id));
            }
            Request::ClusterDiagnose(v1::ClusterDiagnoseRequest { node_id }) => {
                return Then::Say(diagnosis(node_id));
            }
            _ => {}
        }
        let Some(options) = options(&mut request) else {
            let mut seen = self.seen.lock().unwrap();
            seen.reads += 1;
            let level = if let Request::CountersGet(get) = &request {
                seen.read_options.push(get.read.clone());
                get.read.clone().unwrap_or_default().level()
            } else {
                v1::ReadLevel::Linearizable
            };
            drop(seen);
            if let Some(refusal) = self.refuses_reads.lock().unwrap().pop_front() {
                return Then::Say(refusal);
            }
            if let Request::CountersGet(get) = &request
                && level == v1::ReadLevel::Session
                && let Some(refusal) = self.refuse_token(&get.read.clone().unwrap().session_token)
            {
                return Then::Say(refusal);
            }
            let needs_leader = level != v1::ReadLevel::Local && level != v1::ReadLevel::Session;
            if needs_leader && !self.leads() {
                return Then::Say(self.not_leader(false));
            }
            return Then::Say(self.execute(request));
        };
        let mut seen = self.seen.lock().unwrap();
        seen.writes += 1;
        let options = options.clone().expect("the library never sends a write unstamped");
        if let Some(stamp) = options.session {
            seen.stamps.push((stamp.sequence, stamp.lowest_unanswered));
        }
        seen.keys
            .push((options.idempotency_key.unwrap_or_default(), options.idempotency_window_ms));
        drop(seen);
        let act = self.script.lock().unwrap().pop_front();
        let act = match act {
            Some(act) => act,
            None if self.leads() => Act::Answer,
            None => Act::Refuse(self.not_leader(true).into()),
        };
        self.perform(act, request)
    }

    fn perform(self: &Arc<Self>, act: Act, request: Request) -> Then {
        match act {
            Act::Answer => Then::Say(self.execute(request)),
            Act::AnswerUntold => match self.execute(request) {
                Response::CountersAdd(added) => {
                    Then::Say(Response::CountersAdd(v1::CountersWriteResponse {
                        header: Some(Default::default()),
                        ..added
                    }))
                }
                other => panic!("{other:?}"),
            },
            Act::ExecuteAndBreak => {
                self.execute(request);
                Then::Break
            }
            Act::Break => Then::Break,
            Act::ExecuteSilently => {
                self.execute(request);
                Then::Nothing
            }
            Act::ExecuteLater => {
                let node = self.clone();
                tokio::spawn(async move {
                    node.put_off().await;
                    node.execute(request);
                });
                let why = reason::OUTCOME_UNKNOWN;
                Then::Say(refusal(Code::Unavailable, why, v1::Outcome::Unknown, false))
            }
            Act::Silence => Then::Nothing,
            Act::Refuse(response) => Then::Say(*response),
            Act::Slow => Then::SayLater(request),
            Act::ExpireSessions => {
                self.shared.model.lock().unwrap().sessions.clear();
                Then::Say(self.execute(request))
            }
            Act::ExpireSessionsForGood => {
                let mut model = self.shared.model.lock().unwrap();
                model.sessions.clear();
                model.sessions_full = true;
                drop(model);
                Then::Say(self.execute(request))
            }
            Act::ExecuteExpireAndBreak => {
                self.execute(request);
                self.shared.model.lock().unwrap().sessions.clear();
                Then::Break
            }
        }
    }
}

#[derive(Clone)]
pub(crate) struct Handle(Arc<Node>);

type Answers = Pin<Box<dyn Stream<Item = Result<v1::StreamExchangeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl StreamService for Handle {
    type ExchangeStream = Answers;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<v1::StreamExchangeRequest>>,
    ) -> Result<tonic::Response<Answers>, Status> {
        let node = self.0.clone();
        let mut packs = request.into_inner();
        let (say, said) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(pack)) = packs.message().await {
                let mut writes = 0;
                let mut answers = Vec::new();
                for call in pack.calls {
                    if !call.traceparent.is_empty() {
                        node.seen.lock().unwrap().traceparents.push(call.traceparent);
                    }
                    let mut request = call.request.expect("a request");
                    writes += usize::from(options(&mut request).is_some());
                    match node.handle(request) {
                        Then::Say(response) => {
                            answers.push(v1::Answer { id: call.id, response: Some(response) });
                        }
                        Then::SayLater(request) => {
                            let (node, say) = (node.clone(), say.clone());
                            tokio::spawn(async move {
                                node.put_off().await;
                                let response = Some(node.execute(request));
                                let answers = vec![v1::Answer { id: call.id, response }];
                                let _ = say.send(Ok(v1::StreamExchangeResponse { answers })).await;
                            });
                        }
                        Then::Nothing => {}
                        Then::Break => {
                            let _ = say.send(Err(Status::unavailable("broken"))).await;
                            return;
                        }
                    }
                }
                if writes > 0 {
                    node.seen.lock().unwrap().packs.push(writes);
                }
                if say.send(Ok(v1::StreamExchangeResponse { answers })).await.is_err() {
                    return;
                }
            }
        });
        Ok(tonic::Response::new(Box::pin(ReceiverStream::new(said))))
    }
}

impl Handle {
    fn unary(&self, request: Request) -> Result<Response, Status> {
        match self.0.handle(request) {
            Then::Say(Response::Error(status)) => Err(to_tonic(&status)),
            Then::Say(response) => Ok(response),
            Then::SayLater(..) | Then::Nothing | Then::Break => Err(Status::unknown("broken")),
        }
    }
}

macro_rules! unary {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        $(#[tonic::async_trait]
        impl v1::$server_in::$server for Handle {
            $(async fn $method(
                &self,
                request: tonic::Request<v1::$request>,
            ) -> Result<tonic::Response<v1::$response>, Status> {
                match self.unary(Request::$variant(request.into_inner()))? {
                    Response::$variant(response) => Ok(tonic::Response::new(response)),
                    _ => Err(Status::internal("another kind")),
                }
            })*
        })*
    };
}
tally_proto::requests!(unary);
