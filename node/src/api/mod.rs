//! The public API: what a request must look like, which promise it asks for, and how every answer
//! and error is put on the wire.
//!
//! Each operation is one method that takes the wire's message and gives the wire's answer, or a
//! [`CallStatus`]. The unary services ([`unary`]) and the stream ([`stream`]) are two ways to reach
//! the same methods. Requests become commands in [`convert`], and the wire's types end there; errors
//! become statuses in [`status`], and nowhere else.

mod answer_bytes;
mod audit;
mod audited;
mod auth;
mod backup;
pub mod cluster;
pub(crate) mod console;
pub mod convert;
mod direct;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod guest;
pub mod layer;
mod members;
mod quotas;
pub(crate) mod rates;
pub mod reads;
mod report;
mod requests;
mod seen;
pub mod server;
mod span;
pub(crate) mod starting;
pub mod status;
pub mod stream;
pub mod token;
pub mod unary;
pub mod who;
pub mod writes;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_proto::v1::{self, CallStatus};
use tokio::{sync::watch, time::Instant};

use self::seen::WriteTimes;
use crate::{
    audit::AuditLog,
    consensus::{
        Consensus, WhenFull,
        cluster_id::format_cluster_id,
        propose::Applied,
        read::{Ground, Provided, Staleness},
    },
    env::{Random, Threads},
    metrics::Metrics,
    peer::hello::Greeter,
    port::deadline::{DEADLINE_DEFAULT, DEADLINE_MAX},
    status::{OwnStatus, role_to_wire},
};

pub use self::who::Who;
use self::{backup::Backups, rates::Rates, span::CallSpan};

/// How long a SESSION read waits for its token if it does not say.
pub const TOKEN_WAIT_DEFAULT: Duration = Duration::from_secs(2);

/// The operations. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api {
    pub(crate) consensus: Consensus,
    pub(crate) node: Arc<NodeFacts>,
    next_request: Arc<AtomicU64>,
    /// Streams have numbers in the audit log.
    next_stream: Arc<AtomicU64>,
    backups: Backups,
}

/// What is fixed while a node runs.
pub struct NodeFacts {
    /// What it says of itself.
    pub own: Arc<OwnStatus>,
    /// Percent of the session table's places which others leave that one address may hold.
    pub sessions_share_percent: u8,
    /// Callers must show who they are, whatever the cluster's state says.
    pub authentication: bool,
    /// What users ask for.
    pub rates: Arc<Rates>,
    /// For the secrets of tokens.
    pub random: Arc<dyn Random>,
    /// Where backups are made.
    pub threads: Arc<dyn Threads>,
    /// Meets other nodes.
    pub greeter: Arc<Greeter>,
    /// Where requests are recorded, if they are.
    pub audit: Option<Arc<AuditLog>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The node stops: calls that were read are answered, further ones are not read.
    pub stopping: watch::Receiver<bool>,
}

impl fmt::Debug for NodeFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeFacts").field("own", &self.own).finish_non_exhaustive()
    }
}

/// One call, however it came.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it began.
    pub began: Instant,
    /// When it must be answered.
    pub deadline: Instant,
    /// The id under which every node logs it.
    pub request_id: RequestId,
    /// What happens when a queue is full.
    pub when_full: WhenFull,
    /// Who calls.
    pub who: Who,
    /// Its span, if it is traced.
    pub(crate) span: Option<Box<CallSpan>>,
    /// Where the time of its write went.
    pub(crate) times: WriteTimes,
}

/// Id of a request. Written out only when somebody wants to see it.
#[derive(Debug, Clone)]
pub enum RequestId {
    /// The caller's.
    Given(String),
    /// Made here: node and number.
    Made(u64, u64),
}

impl RequestId {
    /// As its caller knows it.
    pub fn exact(&self) -> String {
        match self {
            RequestId::Given(id) => id.clone(),
            RequestId::Made(..) => self.to_string(),
        }
    }
}

/// For logs: what a caller made up can't begin another line.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Given(id) if id.contains(char::is_control) => write!(f, "{id:?}"),
            RequestId::Given(id) => f.write_str(id),
            RequestId::Made(node, number) => write!(f, "n{node}-{number}"),
        }
    }
}

/// Longest request id that is kept, in bytes; the rest is cut.
const REQUEST_ID_BYTES_MAX: usize = 128;

impl Api {
    /// Over a running node.
    pub fn new(consensus: Consensus, node: NodeFacts) -> Self {
        Api {
            consensus,
            node: Arc::new(node),
            next_request: Arc::default(),
            next_stream: Arc::new(AtomicU64::new(1)),
            backups: Backups::default(),
        }
    }

    /// The facts of one call.
    pub fn call(&self, asked: Option<Duration>, request_id: &str, when_full: WhenFull) -> Call {
        let patience = asked.filter(|asked| !asked.is_zero()).unwrap_or(DEADLINE_DEFAULT);
        let now = Instant::now();
        self.call_until(now, now + patience.min(DEADLINE_MAX), request_id, when_full)
    }

    /// The facts of one call whose deadline is known.
    fn call_until(
        &self,
        began: Instant,
        deadline: Instant,
        request_id: &str,
        when_full: WhenFull,
    ) -> Call {
        let request_id = if request_id.is_empty() {
            let number = self.next_request.fetch_add(1, Ordering::Relaxed);
            RequestId::Made(self.node.own.node_id, number)
        } else {
            let end = request_id.len().min(REQUEST_ID_BYTES_MAX);
            let end = (0..=end).rev().find(|end| request_id.is_char_boundary(*end)).unwrap_or(0);
            RequestId::Given(request_id[..end].to_owned())
        };
        Call {
            began,
            deadline,
            request_id,
            when_full,
            who: Who::default(),
            span: None,
            times: WriteTimes::new(),
        }
    }

    /// The header of an answer to a write: the state after the entry that answered it, and the leader
    /// that knows it, which is not this node if the write was forwarded.
    pub(crate) fn write_header(&self, applied: &Applied) -> v1::ResponseHeader {
        let (index, revision) = (applied.log_index, applied.revision);
        let mut header = self.header(Provided::Linearizable, None, index, revision);
        if let Some(leader) = &applied.leader {
            header.cluster_id = format_cluster_id(leader.cluster_id);
            header.node_id = leader.node_id;
            header.term = leader.term;
            header.session_token = token::encode(leader.cluster_id, leader.restore_epoch, index);
            header.set_role(v1::Role::Leader);
        }
        header
    }

    /// The header of an answer from one state of this node.
    pub(crate) fn header(
        &self,
        provided: Provided,
        staleness: Option<Staleness>,
        applied_index: u64,
        revision: u64,
    ) -> v1::ResponseHeader {
        let (role, term) = self.consensus.leadership().role();
        let cluster_id = self.consensus.cluster_id();
        let mut header = v1::ResponseHeader {
            cluster_id: cluster_id.text(),
            node_id: self.node.own.node_id,
            term,
            applied_index,
            revision,
            staleness_ms_max: staleness.map(|staleness| staleness.ms_max),
            // A node that has not learned its cluster yet has nothing that a token could be bound to. It
            // answers reads and refusals only: a write waits for the cluster's id (`Consensus`).
            session_token: cluster_id
                .get()
                .map(|id| token::encode(id, cluster_id.restore_epoch(), applied_index))
                .unwrap_or_default(),
            state_differs: self.consensus.comparisons().differs(),
            ..v1::ResponseHeader::default()
        };
        header.set_consistency(match provided {
            Provided::Linearizable => v1::ReadLevel::Linearizable,
            Provided::Bounded => v1::ReadLevel::Bounded,
            Provided::Session => v1::ReadLevel::Session,
            Provided::Local => v1::ReadLevel::Local,
        });
        header.set_role(role_to_wire(role));
        header.set_staleness_ground(match staleness.map(|staleness| staleness.ground) {
            None => v1::StalenessGround::Unspecified,
            Some(Ground::ReadIndex) => v1::StalenessGround::ReadIndex,
            Some(Ground::EarlierReadIndex) => v1::StalenessGround::EarlierReadIndex,
        });
        header
    }

    /// The header that tells a refused caller which state refused: this node's, some past one.
    pub(crate) fn local_header(&self) -> v1::ResponseHeader {
        let view = self.consensus.state().view();
        let applied = view.applied().map_or(0, |applied| applied.index);
        let revision = crate::machine::query::meta(&view).revision;
        self.header(Provided::Local, None, applied, revision)
    }
}

/// What an operation gives.
pub type Answered<T> = Result<T, CallStatus>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_one_word_of_a_log_line() {
        let given = RequestId::Given("r-1\n2026 ERROR forged\u{1b}[2J".to_owned());
        assert_eq!(given.to_string(), r#""r-1\n2026 ERROR forged\u{1b}[2J""#);
        assert_eq!(given.exact(), "r-1\n2026 ERROR forged\u{1b}[2J");
        assert_eq!(RequestId::Given("order 1".to_owned()).to_string(), "order 1");
    }
}
