//! Errors, shaped by what a caller can do next.

use std::{collections::BTreeMap, fmt, time::Duration};

use tally_proto::{reason, status::Details, v1};
pub use tonic::Code;

pub use crate::outcome::Outcome;
use crate::{answer::Header, failure::Failure, wire::Class};

/// The result of a call.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) -> tally_client::Result<()> {
/// let change = client.counter("hits").add(1).await?;
/// println!("{}", change.value);
/// # Ok(()) }
/// ```
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// ```no_run
/// # async fn example(client: tally_client::Client) {
/// if let Err(error) = client.counter("stock").add(-1).floor(0).await {
///     eprintln!("{}: {}", error.reason(), error.message());
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    code: Code,
    reason: String,
    message: String,
    outcome: Option<Outcome>,
    decided: bool,
    attempts: u32,
    idempotency_key: Option<String>,
    /// The caller chose the key, so others may have used it.
    key_was_chosen: bool,
    nobody_listens: bool,
    details: Details,
}

impl Error {
    /// Refused here, before anything was sent.
    pub(crate) fn local(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            outcome: None,
            decided: false,
            attempts: 0,
            idempotency_key: None,
            key_was_chosen: false,
            nobody_listens: false,
            details: Details::default(),
        }))
    }

    /// The verdict over all attempts at a call.
    pub(crate) fn after(
        last: Option<&Failure>,
        outcome: Option<Outcome>,
        attempts: u32,
        gave_up_after: Option<Duration>,
    ) -> Self {
        let details = last.map(|failure| failure.details.clone()).unwrap_or_default();
        let mut code = last.map_or(Code::DeadlineExceeded, |last| Code::from(last.status.code));
        let mut reason = details.reason.clone();
        let mut message = last.map_or_else(
            || "the deadline passed before anything was sent".to_owned(),
            |last| last.status.message.clone(),
        );
        if let Some(after) = gave_up_after {
            code = Code::DeadlineExceeded;
            let attempts =
                if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
            message = format!(
                "gave up after {} ms and {attempts}; the last: {message}",
                after.as_millis()
            );
        }
        if outcome == Some(Outcome::Unknown) && !KNOWN_UNKNOWN.contains(&reason.as_str()) {
            // What the last attempt met is not what became of the write.
            if !reason.is_empty() {
                message = format!("{message} ({reason})");
            }
            reason = reason::OUTCOME_UNKNOWN.to_owned();
        } else if reason.is_empty() {
            reason =
                if outcome.is_some() { reason::NOT_PROPOSED } else { reason::NO_ANSWER }.to_owned();
        }
        let decided = outcome != Some(Outcome::Unknown)
            && details.outcome.as_ref().is_some_and(|outcome| outcome.decided_in_apply);
        Self(Box::new(Inner {
            code,
            reason,
            message,
            outcome,
            decided,
            attempts,
            idempotency_key: None,
            key_was_chosen: false,
            nobody_listens: false,
            details,
        }))
    }

    pub(crate) fn of_write(mut self, idempotency_key: &str, was_chosen: bool) -> Self {
        self.0.outcome.get_or_insert(Outcome::NotApplied);
        self.0.key_was_chosen = was_chosen;
        if !idempotency_key.is_empty() {
            self.0.idempotency_key = Some(idempotency_key.to_owned());
        }
        self
    }

    /// Nothing listens at any of these addresses.
    pub(crate) fn of_nobody(mut self, addresses: &[String]) -> Self {
        self.0.nobody_listens = true;
        self.0.message = format!("nothing listens at {}", addresses.join(", "));
        self
    }

    /// Something was answered that makes no sense.
    pub(crate) fn unknown(mut self, class: Class) -> Self {
        self.0.outcome = matches!(class, Class::Write | Class::Change).then_some(Outcome::Unknown);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { reason, message, outcome, .. } = &*self.0;
        match outcome {
            Some(outcome) if self.speaks_of_this_call_only() => write!(
                f,
                "{message} [{reason}, outcome {outcome} by this call; an earlier one under the same \
                 key may have been applied]"
            ),
            Some(outcome) => write!(f, "{message} [{reason}, outcome {outcome}]"),
            None => write!(f, "{message} [{reason}]"),
        }
    }
}

impl std::error::Error for Error {}

/// Reasons that themselves say that the outcome is unknown.
const KNOWN_UNKNOWN: [&str; 3] =
    [reason::OUTCOME_UNKNOWN, reason::SEQUENCE_TOO_OLD, reason::SESSION_EXPIRED];

macro_rules! example {
    ($($code:literal)*) => {
        concat!(
            "\n\n```no_run\n# fn example(error: tally_client::Error) {\n",
            $($code, "\n",)*
            "# }\n```\n"
        )
    };
}

impl Error {
    /// What became of the write; nothing for a read.
    #[doc = example!("assert_eq!(error.outcome(), Some(tally_client::Outcome::NotApplied));")]
    pub fn outcome(&self) -> Option<Outcome> {
        self.0.outcome
    }

    /// It gave up early, because nothing listens at any of the client's addresses
    /// ([`Builder::give_up_unheard`](crate::Builder::give_up_unheard)).
    #[doc = example!("if error.nobody_listens() { eprintln!(\"is the cluster running?\"); }")]
    pub fn nobody_listens(&self) -> bool {
        self.0.nobody_listens
    }

    /// The refusal was decided while the entry was applied, the same on every replica: sending the
    /// same request again under the same idempotency key gets the same refusal.
    #[doc = example!("if !error.is_decided() { /* trying again later can help */ }")]
    pub fn is_decided(&self) -> bool {
        self.0.decided
    }

    /// [`Outcome::NotApplied`] of a write under an idempotency key that its caller chose says only that
    /// nothing was done by this call: an earlier one under the key may have been applied, or may still
    /// be. The refusal was not decided under the key. Send the same request again under the same key to
    /// know. False for a key that the library made, since no earlier call can have had it.
    #[doc = example!("if error.speaks_of_this_call_only() { /* send it again under the same key */ }")]
    pub fn speaks_of_this_call_only(&self) -> bool {
        // A full table decides, but can't remember the key.
        let decided = self.0.decided && self.0.reason != reason::DEDUP_TABLE_FULL;
        self.0.outcome == Some(Outcome::NotApplied) && self.0.key_was_chosen && !decided
    }

    /// The gRPC code.
    #[doc = example!("assert_eq!(error.code(), tally_client::Code::FailedPrecondition);")]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The reason, for programs.
    #[doc = example!("assert_eq!(error.reason(), tally_client::reason::BELOW_FLOOR);")]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The message, for people.
    #[doc = example!("eprintln!(\"{}\", error.message());")]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// How often it was tried.
    #[doc = example!("eprintln!(\"after {} attempts\", error.attempts());")]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// The idempotency key that the write carried: under it, and with the same request, sending
    /// again can't count twice.
    #[doc = example!(
        "if let Some(key) = error.idempotency_key() { eprintln!(\"try again with {key}\"); }"
    )]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.0.idempotency_key.as_deref()
    }

    /// Who leads, if the node that refused knew better.
    #[doc = example!("if let Some(leader) = error.leader() { eprintln!(\"{}\", leader.address); }")]
    pub fn leader(&self) -> Option<&v1::LeaderHint> {
        self.0.details.leader.as_ref()
    }

    /// What is stored instead of what a condition expected.
    #[doc = example!(
        "if let Some(stored) = error.condition() { eprintln!(\"{:?}\", stored.counter_value); }"
    )]
    pub fn condition(&self) -> Option<&v1::ConditionFailure> {
        self.0.details.condition.as_ref()
    }

    /// The bound that was in the way.
    #[doc = example!(
        "if let Some(failure) = error.bound() { eprintln!(\"{:?}\", failure.bound); }"
    )]
    pub fn bound(&self) -> Option<&v1::BoundFailure> {
        self.0.details.bound.as_ref()
    }

    /// The quota that was in the way.
    #[doc = example!(
        "if let Some(failure) = error.quota() { eprintln!(\"{} {:?}\", failure.prefix, failure.limit); }"
    )]
    pub fn quota(&self) -> Option<&v1::QuotaFailure> {
        self.0.details.quota.as_ref()
    }

    /// The part of an `Apply` that was in the way.
    #[doc = example!("if let Some(step) = error.step() { eprintln!(\"{:?}\", step.part); }")]
    pub fn step(&self) -> Option<&v1::StepFailure> {
        self.0.details.step.as_ref()
    }

    /// The best staleness bound that could be proven, if the one asked for could not.
    #[doc = example!(
        "if let Some(best) = error.best_staleness() { eprintln!(\"{} ms\", best.as_millis()); }"
    )]
    pub fn best_staleness(&self) -> Option<Duration> {
        self.0.details.staleness.and_then(|failure| failure.best_ms).map(Duration::from_millis)
    }

    /// Wrong fields of the request, each with a description.
    #[doc = example!(
        "for (field, wrong) in error.fields() { eprintln!(\"{field}: {wrong}\"); }"
    )]
    pub fn fields(&self) -> &[(String, String)] {
        &self.0.details.fields
    }

    /// Metadata for programs, e.g. the name and value of a limit.
    #[doc = example!("eprintln!(\"{:?}\", error.metadata().get(\"limit\"));")]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.details.metadata
    }

    /// When to try again, if the node said so.
    #[doc = example!("if let Some(pause) = error.retry_after() { eprintln!(\"{pause:?}\"); }")]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.details.retry_after
    }

    /// The revision of the store at which a refusal was decided in apply; of a stored refusal, at the
    /// time of the first. `None` for what was refused before.
    #[doc = example!("assert_eq!(error.decided_at_revision(), None);")]
    pub fn decided_at_revision(&self) -> Option<u64> {
        self.0.details.outcome.as_ref()?.decided_at_revision
    }

    /// The header that the answer would have had. Its token covers the state that refused.
    #[doc = example!("if let Some(header) = error.header() { eprintln!(\"{}\", header.node_id); }")]
    pub fn header(&self) -> Option<Header> {
        self.0.details.header.clone().map(Header::from)
    }

    /// Id under which the nodes logged the request.
    #[doc = example!("eprintln!(\"{}\", error.request_id().unwrap_or_default());")]
    pub fn request_id(&self) -> Option<&str> {
        self.0.details.request_id.as_deref()
    }
}
