//! The life of one call: stamped once, attempted until it is answered, refused or out of time.

use std::{sync::Arc, time::Duration};

use tally_proto::{reason, seeded_bugs, v1};
use tokio::time::{Instant, sleep_until};

use crate::{
    call::Sending,
    client::{ONE_SHOT_WINDOW, Shared},
    consistency::ReadLevel,
    error::{Error, Result},
    exchange::Reply,
    retry::{Backoff, Failure, Next, Pause, Retry, Stamps},
    routing::Target,
    session::Ticket,
    sessions::Stamping,
    wire::{self, Class, Request, Response, Rpc},
};

/// What a caller asked for besides the request itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) deadline: Option<Duration>,
    pub(crate) until: Option<Instant>,
    pub(crate) level: ReadLevel,
    pub(crate) key: String,
    pub(crate) key_window: Duration,
    /// Asks whichever node this client has settled on.
    pub(crate) any_node: bool,
}

impl Plan {
    pub(crate) fn until(until: Instant) -> Self {
        Self { until: Some(until), ..Self::default() }
    }
}

/// One attempt takes a quarter of the deadline, within these bounds: long enough for a node to say
/// itself that it finds no quorum (two election timeouts) or can't prove a bound, short enough to
/// try every node of a small cluster.
const ATTEMPT_MIN: Duration = Duration::from_millis(1000);
const ATTEMPT_MAX: Duration = Duration::from_secs(5);

impl Shared {
    pub(crate) async fn drive_to<R: Rpc>(
        self: &Arc<Self>,
        request: R,
        plan: Plan,
    ) -> Result<R::Response> {
        let request = request.request();
        let class = wire::class(&request);
        let response = self.drive(request, plan).await?;
        R::response(response).ok_or_else(|| {
            // Something was answered, so a write may have been applied.
            let message = "the node gave an answer of another kind";
            Error::local(tonic::Code::Internal, reason::OUTCOME_UNKNOWN, message).unknown(class)
        })
    }

    /// The same, of a nameable type: a write can open a session, which is a call of its own.
    pub(crate) fn drive_aside<R>(self: &Arc<Self>, request: R, plan: Plan) -> Sending<R::Response>
    where
        R: Rpc + Send + 'static,
        R::Response: Send,
    {
        let shared = self.clone();
        Box::pin(async move { shared.drive_to(request, plan).await })
    }

    /// Runs one call to its end.
    pub(crate) async fn drive(self: &Arc<Self>, request: Request, plan: Plan) -> Result<Response> {
        let now = Instant::now();
        let deadline = plan.deadline.unwrap_or(self.deadline);
        let until = plan.until.unwrap_or(now + deadline);
        let total = until.saturating_duration_since(now);
        let attempt = (total / 4).clamp(ATTEMPT_MIN, ATTEMPT_MAX);
        let attempt = self.attempt_timeout.unwrap_or(attempt);
        match wire::class(&request) {
            Class::Write => self.write(request, plan, until, total, attempt).await,
            class => {
                let call = Call {
                    shared: self,
                    target: if plan.any_node || !plan.level.prefers_leader() {
                        Target::Any
                    } else {
                        Target::Leader
                    },
                    until,
                    total,
                    attempt,
                    retry: Retry::new(class, Stamps::default(), self.router.nodes()),
                    backoff: Backoff::new(),
                };
                call.run(request, &plan.level).await
            }
        }
    }

    async fn write(
        self: &Arc<Self>,
        mut request: Request,
        plan: Plan,
        until: Instant,
        total: Duration,
        attempt: Duration,
    ) -> Result<Response> {
        let mut options = v1::WriteOptions {
            idempotency_window_ms: plan.key_window.as_millis() as u64,
            idempotency_key: plan.key,
            session: None,
        };
        let by_session = matches!(self.sessions.stamping, Stamping::Session { .. });
        if !by_session && options.idempotency_key.is_empty() {
            options.idempotency_key = self.random_key();
            options.idempotency_window_ms = ONE_SHOT_WINDOW.as_millis() as u64;
        }
        let key = options.idempotency_key.clone();
        let stamps = Stamps { session: by_session, key: !key.is_empty() };
        if let Some(slot) = wire::write_options(&mut request) {
            *slot = Some(options);
        }
        let call = Call {
            shared: self,
            target: Target::Leader,
            until,
            total,
            attempt,
            retry: Retry::new(Class::Write, stamps, self.router.nodes()),
            backoff: Backoff::new(),
        };
        call.run_write(request, by_session).await.map_err(|error| error.of_write(&key))
    }
}

/// One call under way.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    target: Target,
    until: Instant,
    total: Duration,
    attempt: Duration,
    retry: Retry,
    backoff: Backoff,
}

impl Call<'_> {
    async fn run(mut self, mut request: Request, level: &ReadLevel) -> Result<Response> {
        loop {
            if let Some(read) = wire::read_options(&mut request) {
                *read = level.options(&self.shared.tokens);
            }
            let failure = match self.attempt(request.clone()).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            match self.retry.failed(failure) {
                Next::Again(pause) => self.wait(pause).await?,
                Next::NewSession => self.wait(Pause::Backoff).await?,
                Next::Fail(error) => return Err(error),
            }
        }
    }

    async fn run_write(mut self, request: Request, by_session: bool) -> Result<Response> {
        let mut ticket = self.ticket(by_session).await?;
        loop {
            let mut stamped = request.clone();
            if let (Some(ticket), Some(Some(options))) =
                (&ticket, wire::write_options(&mut stamped))
            {
                options.session = Some(ticket.stamp());
            }
            let failure = match self.attempt(stamped).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            match self.retry.failed(failure) {
                Next::Again(pause) => {
                    self.wait(pause).await?;
                    if seeded_bugs::is_on("retry-new-sequence") {
                        ticket = self.ticket(by_session).await?;
                    }
                }
                Next::NewSession => {
                    if let Some(ticket) = &ticket {
                        self.shared.sessions.expired(ticket.session.id);
                    }
                    self.wait(Pause::Backoff).await?;
                    ticket = self.ticket(by_session).await?;
                }
                Next::Fail(error) => return Err(error),
            }
        }
    }

    async fn ticket(&self, by_session: bool) -> Result<Option<Ticket>> {
        if !by_session {
            return Ok(None);
        }
        match self.shared.ticket(self.until).await {
            Ok(ticket) => Ok(Some(ticket)),
            // An earlier attempt, under a session that has ended since, may have been executed.
            Err(_) if self.retry.is_unknown() => Err(self.retry.gave_up(self.total)),
            Err(error) => Err(error),
        }
    }

    /// Sends it once.
    async fn attempt(&self, request: Request) -> Result<Response, Failure> {
        let router = &self.shared.router;
        let node = router.pick(self.target);
        let until = self.until.min(Instant::now() + self.attempt);
        let reply = node.call(&self.shared.network, request, until).await;
        let failure = match reply {
            Reply::Answer(Response::Error(status)) => Failure::new(true, status),
            Reply::Answer(response) => {
                if let Some(header) = wire::header(&response) {
                    self.shared.tokens.saw(header);
                    router.saw_header(header);
                }
                self.shared.discover();
                return Ok(response);
            }
            Reply::Broken { sent, status } => Failure::new(sent, status),
        };
        tracing::debug!(
            node = node.address,
            sent = failure.sent,
            reason = failure.reason(),
            message = failure.status.message,
            "attempt failed"
        );
        self.learn(&node, &failure);
        Err(failure)
    }

    /// What a failure says about who to ask next.
    fn learn(&self, node: &crate::node::Node, failure: &Failure) {
        let router = &self.shared.router;
        if let Some(header) = &failure.details.header {
            if failure.reason() == reason::TOKEN_OF_ANOTHER_CLUSTER {
                // The caller is told once that its reads went back; then they go on from here.
                self.shared.tokens.forget();
            }
            self.shared.tokens.saw(header);
        }
        let is_decided =
            failure.details.outcome.as_ref().is_some_and(|outcome| outcome.decided_in_apply);
        match failure.reason() {
            _ if is_decided => {}
            // Not a node's answer: it is down, cut off or too slow.
            "" => router.failed(node),
            reason::NOT_LEADER
            | reason::NO_QUORUM
            | reason::SHUTTING_DOWN
            | reason::OUTCOME_UNKNOWN
            | reason::STALENESS_BOUND_EXCEEDED
            | reason::TOKEN_NOT_REACHED => router.failed(node),
            _ => {}
        }
        if let Some(hint) = &failure.details.leader {
            router.saw_hint(hint);
        }
    }

    /// Waits before the next attempt; fails if the deadline comes first.
    async fn wait(&mut self, pause: Pause) -> Result<()> {
        let random = self.shared.random_fraction();
        let again = Instant::now() + self.backoff.wait(pause, random);
        if again >= self.until {
            return Err(self.retry.gave_up(self.total));
        }
        if pause != Pause::None {
            sleep_until(again).await;
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
    Err(if is_write { error.of_write("") } else { error })
}
