//! The life of one call: stamped once, attempted until it is answered, refused or out of time.

mod sessions;
mod span;

use std::{pin::Pin, sync::Arc, time::Duration};

use tally_proto::{reason, seeded_bugs, v1};
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument as _, Span};

use self::span::CallSpan;

use crate::{
    cause::Stranger,
    consistency::ReadLevel,
    error::{Error, Result},
    exchange::Reply,
    failure::Failure,
    node::{Node, Trouble},
    plan::Plan,
    retry::{Backoff, Next, Pause, Retry, Stamps},
    routing::Target,
    session::Ticket,
    shared::{Shared, Stamping, one_shot_window},
    wire::{self, Class, Request, Response, Rpc},
};

/// One attempt takes a quarter of the deadline, within these bounds: long enough for a node to say
/// itself that it finds no quorum (two election timeouts) or can't prove a bound, short enough to
/// try every node of a small cluster.
const ATTEMPT_MIN: Duration = Duration::from_millis(1000);
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

impl Shared {
    /// Runs a call to its end, as a future of a nameable type: a write can open a session, which is a
    /// call of its own.
    pub(crate) fn drive<R>(
        self: &Arc<Self>,
        request: R,
        plan: Plan,
    ) -> Pin<Box<dyn Future<Output = Result<R::Response>> + Send>>
    where
        R: Rpc,
        R::Response: Send,
    {
        let mut call = Call::new(self.clone(), request.request(), plan);
        Box::pin(async move { call.answer_to::<R>().await })
    }
}

/// One call under way.
///
/// A pipeline has thousands of them, so what they carry counts: it is moved in once, nothing is kept
/// twice, and what only a failure needs is boxed.
pub(crate) struct Call {
    shared: Arc<Shared>,
    request: Request,
    class: Class,
    level: ReadLevel,
    target: Target,
    /// The one node that is asked, if it is to be one.
    only: Option<Arc<Node>>,
    by_session: bool,
    /// Empty unless it is a write with one. Once something was sent under it, it stays.
    idempotency_key: String,
    key_was_chosen: bool,
    deadline: Option<Duration>,
    until: Option<Instant>,
    retry: Retry,
    backoff: Backoff,
    /// Nodes that are of another cluster or lack the state asked for: the others are asked instead.
    asked: Option<Box<Asked>>,
    /// What a node says counts, whichever cluster it is of.
    any_cluster: bool,
    /// Its span, if somebody looks at it.
    span: Option<Box<CallSpan>>,
}

/// Whom not to ask again.
struct Asked {
    nodes: Vec<Arc<Node>>,
    /// Headers of the cluster that this client had seen when the first of them answered.
    heard: u64,
}

/// A request as it is sent once.
struct Stamped {
    request: Request,
    /// A read that need not be linearizable: any node can answer it without asking the leader.
    any_state: bool,
    /// A linearizable read covers this many of the answers that came without a token.
    covers: Option<u64>,
}

/// How long a call and its attempts may take.
struct Limits {
    until: Instant,
    total: Duration,
    attempt: Duration,
}

impl Limits {
    /// How long the call goes on by now. It may end long before its time is over, where the next attempt would be later.
    fn passed(&self) -> Duration {
        self.total.saturating_sub(self.until.saturating_duration_since(Instant::now()))
    }
}

impl Call {
    /// Its time begins when it is first polled.
    pub(crate) fn new(shared: Arc<Shared>, mut request: Request, plan: Plan) -> Self {
        let class = wire::class(&request);
        let Plan { deadline, until, level, key_window, any_node, only, max_attempts, .. } = plan;
        let key_was_chosen = plan.key.is_some();
        let mut idempotency_key = plan.key.unwrap_or_default();
        let target = if any_node { Target::Any } else { Target::Leader };
        let sessions = matches!(shared.sessions.stamping, Stamping::Session { .. });
        let by_session = class == Class::Write && sessions;
        if let Some(slot) = wire::write_options(&mut request) {
            let mut window = key_window;
            if !by_session && !key_was_chosen {
                idempotency_key = shared.random_key();
                window = one_shot_window(deadline.unwrap_or(shared.patience.deadline));
            }
            *slot = Some(v1::WriteOptions {
                idempotency_window_ms: window.as_millis() as u64,
                idempotency_key: Some(idempotency_key.clone()).filter(|key| !key.is_empty()),
                session: None,
            });
        }
        let stamps = Stamps { session: by_session, key: !idempotency_key.is_empty() };
        let retry = Retry::new(class, stamps, shared.router.nodes()).at_most(max_attempts);
        let backoff = Backoff::new();
        Self {
            shared,
            request,
            class,
            level,
            target,
            only,
            by_session,
            idempotency_key,
            key_was_chosen,
            deadline,
            until,
            retry,
            backoff,
            asked: None,
            // Who asks for the state of a node wants to see that one, above all if it is a wrong one.
            any_cluster: any_node,
            span: None,
        }
    }

    /// Runs it to its end.
    pub(crate) async fn answer_to<R: Rpc>(&mut self) -> Result<R::Response> {
        self.span = CallSpan::open(&self.request);
        if self.span.is_some() {
            // Boxed, so that who is not looked at does not carry it around.
            return Box::pin(self.looked_at::<R>()).await;
        }
        self.end_of::<R>().await
    }

    /// The same, in its span.
    async fn looked_at<R: Rpc>(&mut self) -> Result<R::Response> {
        let span = self.span.as_ref().map_or_else(Span::none, |span| span.span());
        let ended = self.end_of::<R>().instrument(span).await;
        if let Some(mut span) = self.span.take() {
            span.end(&ended);
        }
        ended
    }

    async fn end_of<R: Rpc>(&mut self) -> Result<R::Response> {
        match self.run().await {
            Ok(response) => R::response(response).ok_or_else(|| {
                // Something was answered, so a write may have been applied.
                let message = "the node gave an answer of another kind";
                let error = Error::local(tonic::Code::Internal, reason::OUTCOME_UNKNOWN, message);
                error.unknown(self.class)
            }),
            Err(error) if self.class == Class::Write => {
                Err(error.of_write(&self.idempotency_key, self.key_was_chosen))
            }
            Err(error) => Err(error),
        }
    }

    fn limits(&self) -> Limits {
        let now = Instant::now();
        let deadline = self.deadline.unwrap_or(self.shared.patience.deadline);
        let until = self.until.unwrap_or(now + deadline);
        let total = until.saturating_duration_since(now);
        let attempt = (total / 4).clamp(ATTEMPT_MIN, ATTEMPT_MAX);
        Limits { until, total, attempt: self.shared.patience.attempt_timeout.unwrap_or(attempt) }
    }

    async fn run(&mut self) -> Result<Response> {
        if self.key_was_chosen && self.idempotency_key.is_empty() {
            // Whoever took it from what is not set would count twice, and believe to be safe.
            let message = "the idempotency key is empty, which would protect nothing";
            let code = tonic::Code::InvalidArgument;
            return Err(Error::local(code, reason::INVALID_REQUEST, message));
        }
        let limits = self.limits();
        let mut ticket = self.ticket(&limits).await?;
        loop {
            let stamped = self.stamped(ticket.as_ref());
            let Some(node) = self.node(&stamped) else { return Err(self.asked_all(None)) };
            if let Some(span) = &mut self.span {
                span.attempt(&node);
            }
            let failure = match self.attempt(&node, stamped, &limits).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if let Some(ticket) = &ticket
                && failure.reason() == reason::SESSION_EXPIRED
            {
                // Whatever becomes of this call, the next one needs another session.
                self.shared.sessions.expired(ticket.session.id);
            }
            match self.retry.failed(failure) {
                Next::Another => {
                    let heard = || self.shared.tokens.heard();
                    let asked = self.asked.get_or_insert_with(|| {
                        Box::new(Asked { nodes: Vec::new(), heard: heard() })
                    });
                    asked.nodes.push(node);
                    self.wait(Pause::None, &limits).await?;
                }
                Next::Again(pause) => {
                    self.wait(pause, &limits).await?;
                    if seeded_bugs::is_on("retry-new-sequence") {
                        ticket = self.ticket(&limits).await?;
                    }
                    if self.has_fallen_back() && seeded_bugs::is_on("fallback-new-key-each-attempt")
                    {
                        self.new_key();
                    }
                }
                Next::NewSession => {
                    self.wait(Pause::Backoff, &limits).await?;
                    ticket = self.ticket(&limits).await?;
                }
                Next::Fail(error) => return Err(error),
            }
        }
    }

    /// A number of the session for a write that goes by one; nothing if it goes by its key alone, which
    /// it does from now on if there is no place for a session.
    ///
    /// A logical write has one name, and may change it only where no attempt under the old one can be
    /// executed any more. This is asked at two moments: before its first attempt; and when its session has
    /// ended and either nothing can have been executed under its number, nor ever will be, or
    /// every attempt so far carried the key that it keeps ([`Next::NewSession`]). Nothing else leaves the
    /// session, and nothing goes back to one: after this the key stays through all attempts, so
    /// whichever of them is applied first, the others find its answer.
    async fn ticket(&mut self, limits: &Limits) -> Result<Option<Ticket>> {
        if !self.by_session {
            return Ok(None);
        }
        match self.shared.ticket(limits.until).await {
            Ok(None) if self.retry.may_leave_session() => {
                self.leave_session();
                Ok(None)
            }
            // Only a bug asks for another number at any other moment.
            Ok(None) => Err(self.retry.gave_up(limits.passed())),
            Ok(ticket) => Ok(ticket),
            // An earlier attempt, under a session that has ended since, may have been executed.
            Err(_) if self.retry.is_unknown() => Err(self.retry.gave_up(limits.passed())),
            Err(error) => Err(error),
        }
    }

    /// Goes on under a key: its caller's, or else a random one that is made now, once.
    fn leave_session(&mut self) {
        self.by_session = false;
        if self.idempotency_key.is_empty() {
            self.new_key();
        }
        self.retry.leave_session();
    }

    fn new_key(&mut self) {
        let window = one_shot_window(self.deadline.unwrap_or(self.shared.patience.deadline));
        self.idempotency_key = self.shared.random_key();
        if let Some(slot) = wire::write_options(&mut self.request) {
            *slot = Some(v1::WriteOptions {
                idempotency_window_ms: window.as_millis() as u64,
                idempotency_key: Some(self.idempotency_key.clone()),
                session: None,
            });
        }
    }

    /// Its key is one that was made because there was no place for a session.
    fn has_fallen_back(&self) -> bool {
        let sessions = matches!(self.shared.sessions.stamping, Stamping::Session { .. });
        sessions && self.class == Class::Write && !self.by_session && !self.key_was_chosen
    }

    /// Whom to ask: the leader if it is known, for what only it can do without a detour.
    fn node(&self, request: &Stamped) -> Option<Arc<Node>> {
        let router = &self.shared.router;
        if let Some(only) = &self.only {
            return Some(Arc::clone(only)).filter(|_| self.asked.is_none());
        }
        match &self.asked {
            Some(asked) => router.pick_other(&asked.nodes),
            None if request.any_state => Some(router.pick(Target::Any)),
            None => Some(router.pick(self.target)),
        }
    }

    /// Tells the caller that there is nobody left to ask, or no time. If all that answered are of another
    /// cluster, then this client's is gone, and the next call begins anew: once told is enough.
    fn asked_all(&self, gave_up_after: Option<Duration>) -> Error {
        // A token that the caller brought may be another cluster's though this client's is the right one.
        let brought = matches!(self.level, ReadLevel::Session(Some(_)));
        if let Some(asked) = &self.asked
            && self.retry.all_name_another_cluster()
            && !brought
            && self.shared.tokens.forget(asked.heard)
        {
            self.shared.router.forget();
            self.shared.sessions.forget();
        }
        gave_up_after.map_or_else(|| self.retry.asked_all(), |after| self.retry.gave_up(after))
    }

    /// The request as it is sent now.
    fn stamped(&self, ticket: Option<&Ticket>) -> Stamped {
        let mut request = self.request.clone();
        if let Some(ticket) = ticket
            && let Some(Some(options)) = wire::write_options(&mut request)
        {
            options.session = Some(ticket.stamp());
        }
        let mut stamped = Stamped { request, any_state: false, covers: None };
        if let Some(read) = wire::read_options(&mut stamped.request) {
            let untold = self.shared.tokens.untold();
            *read = self.level.options(&self.shared.tokens);
            stamped.any_state = read.is_some();
            stamped.covers = read.is_none().then_some(untold);
        }
        stamped
    }

    /// Sends it once.
    async fn attempt(
        &self,
        node: &Arc<Node>,
        stamped: Stamped,
        limits: &Limits,
    ) -> Result<Response, Box<Failure>> {
        let until = limits.until.min(Instant::now() + limits.attempt);
        let Stamped { request, covers, .. } = stamped;
        let failure = match node.call(&self.shared.network, request, until).await {
            Reply::Answer(Response::Error(status)) => Box::new(self.refused(node, status)),
            Reply::Answer(response) => match self.answered(node, &response, covers) {
                Ok(()) => return Ok(response),
                Err(failure) => failure,
            },
            Reply::Broken { sent, status } => match Stranger::of(&node.address, &status) {
                Some(stranger) => Box::new(Failure::of_stranger(sent, &stranger)),
                None => Box::new(Failure::new(sent, status)),
            },
            Reply::Refused(status) => Box::new(Failure::refused(status)),
        };
        tracing::debug!(
            node = node.address,
            sent = failure.sent,
            reason = failure.reason(),
            message = failure.status.message,
            "attempt failed"
        );
        if let Some(tell) = &self.shared.network.trouble {
            tell(&Trouble {
                node: &node.address,
                reason: failure.reason(),
                message: &failure.status.message,
                nobody_listens: failure.nobody_listens,
            });
        }
        self.learn(node, &failure);
        Err(failure)
    }

    /// Takes note of an answer, unless it is one of another cluster.
    fn answered(
        &self,
        node: &Node,
        response: &Response,
        covers: Option<u64>,
    ) -> Result<(), Box<Failure>> {
        let Shared { tokens, router, .. } = &*self.shared;
        let header = wire::header(response);
        if let Some(header) = header {
            if tokens.saw(header) {
                router.saw_header(header);
            } else if !self.any_cluster {
                return Err(Box::new(self.of_another_cluster(node, &header.cluster_id, None)));
            }
        }
        let is_told = header.is_some_and(|header| !header.session_token.is_empty());
        match (covers, self.class) {
            (Some(untold), _) if is_told => tokens.covered(untold),
            (_, Class::Read | Class::Write) if !is_told => tokens.saw_untold(),
            _ => {}
        }
        self.shared.discover();
        Ok(())
    }

    /// Takes note of a node's refusal.
    fn refused(&self, node: &Node, status: v1::CallStatus) -> Failure {
        let failure = Failure::new(true, status);
        let tokens = &self.shared.tokens;
        let header = failure.details.header.as_ref();
        if failure.reason() == reason::TOKEN_OF_ANOTHER_CLUSTER {
            return failure;
        }
        if let Some(header) = header
            && !tokens.saw(header)
            && !self.any_cluster
        {
            let cluster_id = header.cluster_id.clone();
            return self.of_another_cluster(node, &cluster_id, Some(failure));
        }
        // A refusal that the state decided shows that state.
        let shows = failure.is_decided() || failure.is_not_found();
        if shows && header.is_none_or(|header| header.session_token.is_empty()) {
            tokens.saw_untold();
        }
        failure
    }

    fn of_another_cluster(&self, node: &Node, theirs: &str, said: Option<Failure>) -> Failure {
        let (address, ours) = (&node.address, self.shared.tokens.cluster_id());
        let message = format!("{address} is of cluster {theirs}; this client's cluster is {ours}");
        tracing::warn!(node = address, theirs, ours, "a node is of another cluster");
        Failure::of_another_cluster(said, message)
    }

    /// What a failure says about who to ask next.
    fn learn(&self, node: &Node, failure: &Failure) {
        let router = &self.shared.router;
        match failure.reason() {
            _ if failure.is_decided() => {}
            // Not a node's answer: it is down, cut off or too slow.
            "" => router.failed(node),
            reason::NOT_LEADER
            | reason::NO_QUORUM
            | reason::SHUTTING_DOWN
            | reason::NODE_STARTING
            | reason::STATE_DIFFERS
            | reason::OUTCOME_UNKNOWN
            | reason::ANOTHER_CLUSTER => router.failed(node),
            // Too slow for this attempt, which may have been a short one: no word on who leads.
            reason::DEADLINE_EXCEEDED
            | reason::STALENESS_BOUND_EXCEEDED
            | reason::TOKEN_NOT_REACHED
            | reason::TOKEN_OF_ANOTHER_CLUSTER
            | reason::AUDIT_LOG_UNAVAILABLE => router.avoid(node),
            _ => {}
        }
        // Its header says whose leader that is.
        let cluster = failure.details.header.as_ref().map_or("", |header| &header.cluster_id);
        if let Some(hint) = &failure.details.leader
            && self.shared.tokens.is_cluster(cluster)
        {
            router.saw_hint(hint);
        }
    }

    /// Waits before the next attempt; fails if the deadline comes first, or if it has been long enough that
    /// nothing listened wherever this call was sent.
    async fn wait(&mut self, pause: Pause, limits: &Limits) -> Result<()> {
        let random = self.shared.random_fraction();
        let again = Instant::now() + self.backoff.wait(pause, random);
        if let Some(unheard_max) = self.shared.patience.unheard_max
            && again >= limits.until - limits.total + unheard_max
            && self.retry.nobody_listens()
        {
            return Err(self.retry.unheard(&self.shared.router.addresses()));
        }
        if again >= limits.until {
            return Err(self.asked_all(Some(limits.passed())));
        }
        if pause != Pause::None {
            // Boxed, as a timer is large and a call that is answered has none.
            Box::pin(sleep_until(again)).await;
        }
        Ok(())
    }
}

impl Shared {
    /// Asks for the members in the background if nobody knows who leads.
    fn discover(self: &Arc<Self>) {
        if !self.router.wants_members() {
            return;
        }
        let client = Arc::downgrade(self);
        tokio::spawn(async move {
            let Some(shared) = client.upgrade() else { return };
            let node = shared.router.pick(Target::Any);
            let network = shared.network.clone();
            drop(shared);
            let request = v1::ClusterStatusRequest { local_only: false };
            let until = Instant::now() + ATTEMPT_MAX;
            let reply = node.call(&network, request.request(), until).await;
            if let (Some(shared), Reply::Answer(Response::ClusterStatus(status))) =
                (client.upgrade(), reply)
                && status.header.as_ref().is_none_or(|header| shared.tokens.saw(header))
            {
                shared.router.saw_members(&status);
            }
        });
    }
}

/// Requests above this are refused by every node; sent in a pack, they would break the stream for
/// all.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Refuses what no node would take.
pub(crate) fn check_size<R: prost::Message>(request: &R, is_write: bool) -> Result<()> {
    let size = request.encoded_len();
    if size <= REQUEST_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the request is {size} bytes; REQUEST_BYTES_MAX is {REQUEST_BYTES_MAX}");
    let error = Error::local(tonic::Code::InvalidArgument, reason::REQUEST_BYTES_MAX, message);
    Err(if is_write { error.of_write("", false) } else { error })
}
