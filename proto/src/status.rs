//! Errors on the wire: a `google.rpc.Status` with its details, built by nodes and read by clients.
//!
//! The same error travels in two ways: as [`tonic::Status`] of a unary call, whose details are a
//! header, and as [`v1::CallStatus`] inside the stream. [`StatusBuilder`] makes the second and
//! [`to_tonic`] the first of it; [`Details`] reads both. Which error a situation deserves is
//! decided elsewhere.

use std::{collections::BTreeMap, time::Duration};

use prost::Message;
use prost_types::Any;
use tonic::Code;

use crate::v1;

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "tally";

/// Details are a header of at most 16 KiB with HTTP/2's defaults, in base64 and beside others.
pub const DETAILS_BYTES_MAX: usize = 6 * 1024;

/// A message is sent twice in a unary error, once percent-encoded: a longer one is cut.
pub const MESSAGE_BYTES_MAX: usize = 1024;

const TYPE_URL: &str = "type.googleapis.com/";

/// `google.rpc.ErrorInfo` with sorted metadata: equal errors are equal bytes, in every run.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// `google.rpc.RetryInfo`. Of Google's details only three are used, too few for a crate that has them all.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct FieldViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

/// A message that can be a detail of an error.
pub trait Detail: Message + Default {
    /// Full name of the message.
    const FULL_NAME: &'static str;
}

macro_rules! details {
    ($($message:ty => $name:literal,)*) => {
        $(impl Detail for $message { const FULL_NAME: &'static str = $name; })*

        /// The full names of all messages that can be a detail of an error.
        pub const DETAIL_NAMES: &[&str] = &[$($name),*];
    };
}

details! {
    ErrorInfo => "google.rpc.ErrorInfo",
    RetryInfo => "google.rpc.RetryInfo",
    BadRequest => "google.rpc.BadRequest",
    v1::WriteOutcome => "tally.v1.WriteOutcome",
    v1::LeaderHint => "tally.v1.LeaderHint",
    v1::ConditionFailure => "tally.v1.ConditionFailure",
    v1::BoundFailure => "tally.v1.BoundFailure",
    v1::QuotaFailure => "tally.v1.QuotaFailure",
    v1::StepFailure => "tally.v1.StepFailure",
    v1::StalenessFailure => "tally.v1.StalenessFailure",
    v1::AnswerState => "tally.v1.AnswerState",
    v1::RequestId => "tally.v1.RequestId",
}

fn pack<D: Detail>(detail: &D) -> Any {
    Any { type_url: format!("{TYPE_URL}{}", D::FULL_NAME), value: detail.encode_to_vec() }
}

fn unpack<D: Detail>(any: &Any) -> Option<D> {
    let name = any.type_url.rsplit('/').next()?;
    if name == D::FULL_NAME { D::decode(any.value.as_slice()).ok() } else { None }
}

/// Builds an error.
///
/// ```
/// use tally_proto::{reason, status::{Details, StatusBuilder}, v1};
/// use tonic::Code;
///
/// let error = StatusBuilder::new(Code::Unavailable, reason::NOT_LEADER, "node 2 does not lead")
///     .outcome(v1::Outcome::NotApplied)
///     .detail(&v1::LeaderHint { node_id: 3, address: "127.0.0.1:7403".into(), term: 7 })
///     .build();
/// let details = Details::parse_call(&error);
/// assert_eq!(details.reason, reason::NOT_LEADER);
/// assert_eq!(details.leader.unwrap().node_id, 3);
/// ```
#[derive(Debug, Clone)]
pub struct StatusBuilder {
    code: Code,
    message: String,
    info: ErrorInfo,
    violations: Vec<FieldViolation>,
    details: Vec<Any>,
}

impl StatusBuilder {
    /// An error of this code, with one of [`crate::reason`]'s reasons and a message for people.
    pub fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary_at(MESSAGE_BYTES_MAX));
        let info = ErrorInfo {
            reason: reason.to_owned(),
            domain: DOMAIN.to_owned(),
            metadata: BTreeMap::new(),
        };
        Self { code, message, info, violations: Vec::new(), details: Vec::new() }
    }

    /// Adds metadata for programs, e.g. a limit's name and value.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.info.metadata.insert(key.into(), value.to_string());
        self
    }

    /// Names a field of the request that is wrong.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.violations
            .push(FieldViolation { field: field.into(), description: description.into() });
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        let retry_delay = prost_types::Duration::try_from(delay).ok();
        self.detail(&RetryInfo { retry_delay })
    }

    /// Says what became of a write that was refused outside of apply.
    #[must_use]
    pub fn outcome(self, outcome: v1::Outcome) -> Self {
        let outcome = outcome as i32;
        self.detail(&v1::WriteOutcome { outcome, ..Default::default() })
    }

    /// Adds one of our own details. Those added first survive when there is no room for all.
    #[must_use]
    pub fn detail<D: Detail>(mut self, detail: &D) -> Self {
        self.details.push(pack(detail));
        self
    }

    /// The error as it travels in the stream.
    pub fn build(self) -> v1::CallStatus {
        let mut details = vec![pack(&self.info)];
        if !self.violations.is_empty() {
            details.push(pack(&BadRequest { field_violations: self.violations }));
        }
        // The outcome is what a client needs most: it never gives way to a long description.
        let outcome = format!("{TYPE_URL}{}", v1::WriteOutcome::FULL_NAME);
        let (first, rest): (Vec<_>, Vec<_>) =
            self.details.into_iter().partition(|detail| detail.type_url == outcome);
        details.splice(1..1, first);
        details.extend(rest);
        let mut status = v1::CallStatus { code: self.code as i32, message: self.message, details };
        drop_what_has_no_room(&mut status);
        status
    }

    /// The error as a unary call returns it.
    pub fn into_tonic(self) -> tonic::Status {
        to_tonic(&self.build())
    }
}

fn drop_what_has_no_room(status: &mut v1::CallStatus) {
    let mut used = 0;
    let room = DETAILS_BYTES_MAX - status.message.len() - 64;
    status.details.retain(|detail| {
        let size = detail.encoded_len() + 4;
        let fits = used + size <= room;
        if fits {
            used += size;
        }
        fits
    });
}

/// `str::floor_char_boundary`, which the oldest compiler that we support does not have.
trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, index: usize) -> usize;
}

impl FloorCharBoundary for String {
    fn floor_char_boundary_at(&self, index: usize) -> usize {
        if index >= self.len() {
            return self.len();
        }
        (0..=index).rev().find(|&at| self.is_char_boundary(at)).unwrap_or(0)
    }
}

/// The unary form of an error.
pub fn to_tonic(status: &v1::CallStatus) -> tonic::Status {
    // CallStatus has the fields and numbers of google.rpc.Status, so its bytes are that message.
    let details = status.encode_to_vec();
    tonic::Status::with_details(Code::from(status.code), status.message.clone(), details.into())
}

/// The stream's form of an error. One without our details keeps its code and message.
pub fn from_tonic(status: &tonic::Status) -> v1::CallStatus {
    let details = match v1::CallStatus::decode(status.details()) {
        Ok(parsed) => parsed.details,
        Err(_) => Vec::new(),
    };
    v1::CallStatus { code: status.code() as i32, message: status.message().to_owned(), details }
}

/// The details of an error, as far as it has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// Reason of the `ErrorInfo`, if its domain is ours; else empty.
    pub reason: String,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// Wrong fields, each with a description.
    pub fields: Vec<(String, String)>,
    /// What became of a write. Absent where no node of ours made the error.
    pub outcome: Option<v1::WriteOutcome>,
    /// Who leads.
    pub leader: Option<v1::LeaderHint>,
    /// What is stored instead of what a condition expected.
    pub condition: Option<v1::ConditionFailure>,
    /// The bound that was in the way.
    pub bound: Option<v1::BoundFailure>,
    /// The quota that was in the way.
    pub quota: Option<v1::QuotaFailure>,
    /// The part of an `Apply` that was in the way.
    pub step: Option<v1::StepFailure>,
    /// The staleness that could be proven.
    pub staleness: Option<v1::StalenessFailure>,
    /// Header of the node that refused.
    pub header: Option<v1::ResponseHeader>,
    /// Id under which the nodes logged the request.
    pub request_id: Option<String>,
}

impl Details {
    /// The details of a unary error.
    pub fn parse(status: &tonic::Status) -> Self {
        Self::parse_call(&from_tonic(status))
    }

    /// The details of an error in the stream.
    pub fn parse_call(status: &v1::CallStatus) -> Self {
        let mut details = Self::default();
        for any in &status.details {
            details.take(any);
        }
        details
    }

    fn take(&mut self, any: &Any) {
        match any.type_url.rsplit('/').next().unwrap_or_default() {
            ErrorInfo::FULL_NAME => {
                if let Some(info) = unpack::<ErrorInfo>(any).filter(|info| info.domain == DOMAIN) {
                    self.reason = info.reason;
                    self.metadata = info.metadata;
                }
            }
            <RetryInfo as Detail>::FULL_NAME => {
                let delay = unpack::<RetryInfo>(any).and_then(|info| info.retry_delay);
                self.retry_after = delay.and_then(|delay| Duration::try_from(delay).ok());
            }
            <BadRequest as Detail>::FULL_NAME => {
                let request = unpack::<BadRequest>(any).unwrap_or_default();
                let violations = request.field_violations.into_iter();
                self.fields = violations.map(|field| (field.field, field.description)).collect();
            }
            <v1::WriteOutcome as Detail>::FULL_NAME => self.outcome = unpack(any),
            <v1::LeaderHint as Detail>::FULL_NAME => self.leader = unpack(any),
            <v1::ConditionFailure as Detail>::FULL_NAME => self.condition = unpack(any),
            <v1::BoundFailure as Detail>::FULL_NAME => self.bound = unpack(any),
            <v1::QuotaFailure as Detail>::FULL_NAME => self.quota = unpack(any),
            <v1::StepFailure as Detail>::FULL_NAME => self.step = unpack(any),
            <v1::StalenessFailure as Detail>::FULL_NAME => self.staleness = unpack(any),
            <v1::AnswerState as Detail>::FULL_NAME => {
                self.header = unpack::<v1::AnswerState>(any).and_then(|state| state.header);
            }
            <v1::RequestId as Detail>::FULL_NAME => {
                self.request_id = unpack::<v1::RequestId>(any).map(|request| request.id);
            }
            // A newer node's detail: what it means is for newer clients.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> StatusBuilder {
        StatusBuilder::new(Code::FailedPrecondition, "BELOW_FLOOR", "stock would fall below 0")
            .metadata("floor", 0)
            .field("delta", "too low")
            .retry_after(Duration::from_millis(1500))
            .detail(&v1::WriteOutcome {
                outcome: v1::Outcome::NotApplied as i32,
                decided_in_apply: true,
                replayed: false,
                decided_at_revision: Some(7),
            })
            .detail(&v1::BoundFailure { value: 1, bound: Some(0) })
            .detail(&v1::StepFailure {
                part: Some(v1::step_failure::Part::OperationIndex(2)),
                else_branch: true,
            })
    }

    #[test]
    fn unary_and_stream_carry_the_same_details() {
        let call = refusal().build();
        let unary = to_tonic(&call);
        assert_eq!(unary.code(), Code::FailedPrecondition);
        assert_eq!(from_tonic(&unary), call);
        let details = Details::parse(&unary);
        assert_eq!(details, Details::parse_call(&call));
        assert_eq!(details.reason, "BELOW_FLOOR");
        assert_eq!(details.metadata["floor"], "0");
        assert_eq!(details.retry_after, Some(Duration::from_millis(1500)));
        assert_eq!(details.fields, [("delta".to_owned(), "too low".to_owned())]);
        assert!(details.outcome.unwrap().decided_in_apply);
        assert_eq!(details.bound.unwrap().bound, Some(0));
        assert!(details.step.unwrap().else_branch);
    }

    #[test]
    fn the_standard_library_reads_our_details() {
        use tonic_types::StatusExt as _;
        let status = refusal().into_tonic();
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("BELOW_FLOOR", DOMAIN));
        assert_eq!(info.metadata["floor"], "0");
        let request = status.get_details_bad_request().unwrap();
        let [wrong] = &request.field_violations[..] else { panic!("{request:?}") };
        assert_eq!((wrong.field.as_str(), wrong.description.as_str()), ("delta", "too low"));
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn the_outcome_survives_when_there_is_no_room() {
        let huge = v1::ConditionFailure {
            value: Some(vec![7; 2 * DETAILS_BYTES_MAX].into()),
            ..Default::default()
        };
        let status = StatusBuilder::new(Code::Aborted, "CONDITION_FAILED", "é".repeat(5000))
            .detail(&huge)
            .outcome(v1::Outcome::NotApplied)
            .build();
        assert!(status.encoded_len() <= DETAILS_BYTES_MAX);
        let details = Details::parse_call(&status);
        assert_eq!(details.reason, "CONDITION_FAILED");
        assert_eq!(details.outcome.unwrap().outcome, v1::Outcome::NotApplied as i32);
        assert_eq!(details.condition, None);
    }

    #[test]
    fn a_status_that_is_not_ours_has_no_details() {
        let status = tonic::Status::unavailable("connection refused");
        assert_eq!(Details::parse(&status), Details::default());
        let garbage = tonic::Status::with_details(
            Code::Internal,
            "x",
            prost::bytes::Bytes::from_static(b"\xff\xff"),
        );
        assert_eq!(Details::parse(&garbage), Details::default());
        assert_eq!(from_tonic(&garbage).message, "x");
    }
}
