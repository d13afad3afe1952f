//! Consensus: the only way to change the state, and the only way to read it with a promise.
//!
//! ```text
//!  api ──write──▶ Consensus ──▶ queue ──▶ Proposer ──entry──▶ openraft ──▶ log_store ─▶ WAL
//!        │           │                                           │  └──▶ peer::network ─▶ others
//!        │           └─(not the leader)─▶ Others::propose         ▼ committed
//!        └─read──▶ Reads ──▶ Rounds (read index)               apply ─▶ machine ─▶ StateStore
//! ```
//!
//! What is absent here: nothing in this module knows gRPC's services or status codes (`api` does),
//! nor what a counter is (`machine` does), nor how bytes reach a disk (`storage` does).

mod admission;
mod applied;
pub mod apply;
#[cfg(feature = "seeded-bugs")]
mod bugs;
pub mod cluster_id;
pub mod compare;
mod comparing;
pub(crate) mod confirm;
mod drain;
pub mod error;
pub mod first_token;
pub(crate) mod forward;
pub mod guard;
#[cfg(feature = "seeded-bugs")]
pub(crate) mod kept;
pub mod leader;
pub mod log_store;
pub mod log_time;
pub mod members;
pub mod membership;
mod news;
pub mod others;
pub mod plan;
pub mod propose;
pub mod raft;
pub mod raft_config;
pub mod read;
pub mod read_index;
pub mod recovery;
pub mod runtime;
pub mod sending;
pub mod snapshots;
#[cfg(test)]
mod suite_tests;
pub mod tables;
pub mod tasks;
pub mod traced;
pub mod types;
pub mod upgrade;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tally_proto::{peer::v1 as wire, seeded_bugs};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

pub use self::admission::{Admission, WhenFull};
use self::{
    admission::Room,
    cluster_id::ClusterId,
    compare::Comparisons,
    error::{Error, NotProposed},
    leader::{Leader, Leadership, no_quorum_after},
    log_time::LogTime,
    others::{Others, ms_left},
    propose::{Answerer, Applied, Outcome, Proposal, Proposer, Ticket, Waiter, await_outcome},
    raft::Raft,
    read::Reads,
    read_index::Rounds,
    sending::Sending,
};
use crate::{
    env::{
        Clock, Fatal, Observer,
        shares::{Identity, ShareRule},
        traces::Tracer,
    },
    machine::{codec, command::Command},
    metrics::Metrics,
    storage::state::StateStore,
};

/// An append message is cut here, unless its first entry alone is larger.
pub const APPEND_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of one chunk of a snapshot on the wire.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;

/// Commands of the node itself (ticks, the cluster's first) that may be in the queue.
const OWN_COMMANDS_MAX: usize = 8;

/// How long to wait before a leader that can't be reached is looked for again.
const REDIAL_DELAY: Duration = Duration::from_millis(20);

/// A write that was decided before it was proposed, with who is to learn it.
pub struct DecidedAtOnce {
    /// What was decided.
    pub outcome: Outcome,
    /// Who waits.
    pub answerer: Box<dyn Answerer>,
}

/// A running Raft node, as the api sees it. Cheap to clone.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    leadership: Leadership,
    reads: Reads,
    state: Arc<StateStore>,
    others: Arc<dyn Others>,
    cluster_id: ClusterId,
    clock: Arc<dyn Clock>,
    queue: mpsc::Sender<Proposal>,
    room: Room,
    election_timeout_max: Duration,
    /// True while the disk is nearly full.
    disk_nearly_full: watch::Receiver<bool>,
    session_loads: guard::SessionLoads,
    /// True while no leader, or no quorum that stores what is written, has been heard of for two election timeouts.
    quorum_lost: watch::Receiver<bool>,
    shutting_down: AtomicBool,
    /// Held while the membership is changed from here: what was looked at before still holds then.
    changing_members: tokio::sync::Mutex<()>,
    /// Asks for snapshots.
    snapshots: mpsc::Sender<snapshots::SnapshotAsked>,
    comparisons: Comparisons,
    sending: Sending,
    tracer: Tracer,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("node_id", &self.node_id()).finish()
    }
}

/// What [`Consensus::start`] stands on.
pub struct Foundation {
    /// A running openraft.
    pub raft: Raft,
    /// The state.
    pub state: Arc<StateStore>,
    /// Applied index of the state, as it moves.
    pub applied: watch::Receiver<u64>,
    /// The other nodes.
    pub others: Arc<dyn Others>,
    /// Which cluster this is.
    pub cluster_id: ClusterId,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// Sees rounds for reads, in simulations.
    pub observer: Option<Arc<dyn Observer>>,
    /// Ends the node.
    pub fatal: Fatal,
    /// Upper end of the election timeout.
    pub election_timeout_max: Duration,
    /// Entries that are under way at once.
    pub entries_in_flight: usize,
    /// Writes that wait or are under way at once.
    pub writes_in_flight: usize,
    /// … and their bytes.
    pub write_bytes_in_flight: usize,
    /// What one client may have of both.
    pub share: ShareRule,
    /// True while the disk is nearly full.
    pub disk_nearly_full: watch::Receiver<bool>,
    /// Asks for snapshots beside those that are due.
    pub snapshots: mpsc::Sender<snapshots::SnapshotAsked>,
    /// What comparisons of the replicas have shown.
    pub comparisons: Comparisons,
    /// The snapshots that it sends to others.
    pub sending: Sending,
    /// What spans are told to.
    pub tracer: Tracer,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Foundation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Foundation")
    }
}

impl Consensus {
    /// Starts the tasks around a running Raft.
    pub fn start(foundation: Foundation) -> Consensus {
        let Foundation {
            raft,
            state,
            applied,
            others,
            cluster_id,
            clock,
            observer,
            fatal,
            election_timeout_max,
            entries_in_flight,
            writes_in_flight,
            write_bytes_in_flight,
            share,
            disk_nearly_full,
            snapshots,
            comparisons,
            sending,
            tracer,
            metrics,
        } = foundation;
        let leadership = Leadership::new(&raft, Arc::clone(&others));
        let (read_index, rounds) = Rounds::new(
            raft.clone(),
            leadership.clone(),
            Arc::clone(&others),
            Arc::clone(&clock),
            election_timeout_max,
            observer,
            Arc::clone(&metrics),
        );
        let reads = Reads::new(
            read_index,
            Arc::clone(&state),
            applied.clone(),
            Arc::clone(&clock),
            comparisons.clone(),
            Arc::clone(&metrics),
        );
        // What is admitted finds a place, also beside the node's own commands, which take no room.
        let (queue, proposals) = mpsc::channel(writes_in_flight + OWN_COMMANDS_MAX);
        let (quorum_lost_sender, quorum_lost) = watch::channel(false);
        let proposer = Proposer {
            raft: raft.clone(),
            leadership: leadership.clone(),
            log_time: LogTime::new(
                Arc::clone(&clock),
                Arc::clone(&state),
                applied,
                election_timeout_max,
            ),
            cluster_id: cluster_id.clone(),
            clock: Arc::clone(&clock),
            queue: proposals,
            entries_in_flight,
            tracer: tracer.clone(),
            quorum_lost: quorum_lost.clone(),
            metrics: Arc::clone(&metrics),
        };
        tokio::spawn(rounds.run());
        tokio::spawn(proposer.run());
        tokio::spawn(tasks::watch_quorum(
            leadership.clone(),
            election_timeout_max,
            quorum_lost_sender,
        ));
        tokio::spawn(tasks::watch_raft(raft.clone(), fatal));
        tokio::spawn(news::tell(raft.clone(), others.node_id(), Arc::clone(&metrics)));
        Consensus {
            inner: Arc::new(Inner {
                raft,
                leadership,
                reads,
                state,
                others,
                cluster_id,
                clock,
                queue,
                room: Room::new(writes_in_flight, write_bytes_in_flight, share),
                election_timeout_max,
                disk_nearly_full,
                session_loads: guard::SessionLoads::default(),
                quorum_lost,
                shutting_down: AtomicBool::new(false),
                changing_members: tokio::sync::Mutex::default(),
                snapshots,
                comparisons,
                sending,
                tracer,
                metrics,
            }),
        }
    }

    /// What spans are told to.
    pub(crate) fn tracer(&self) -> &Tracer {
        &self.inner.tracer
    }

    /// The read levels.
    pub fn reads(&self) -> &Reads {
        &self.inner.reads
    }

    /// Who leads.
    pub fn leadership(&self) -> &Leadership {
        &self.inner.leadership
    }

    /// The state.
    pub fn state(&self) -> &Arc<StateStore> {
        &self.inner.state
    }

    /// This node.
    pub fn node_id(&self) -> u64 {
        self.inner.others.node_id()
    }

    /// Which cluster this is.
    pub fn cluster_id(&self) -> &ClusterId {
        &self.inner.cluster_id
    }

    /// The snapshots that this node sends to others.
    pub fn sending(&self) -> &Sending {
        &self.inner.sending
    }

    /// What comparisons of the replicas have shown.
    pub fn comparisons(&self) -> &Comparisons {
        &self.inner.comparisons
    }

    /// Clocks.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// openraft's handle, for the peer service and membership.
    pub fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// Confirms that this node leads, by a quorum round that begins after this call: what to apply
    /// before reading.
    pub(crate) async fn confirm_leading(
        &self,
        until: Instant,
    ) -> Result<types::LogId, confirm::Unconfirmed> {
        let election_timeout_max = self.inner.election_timeout_max;
        confirm::round_here(self.raft(), &self.inner.others, until, election_timeout_max).await
    }

    /// How long it is looked for a leader with a quorum before the answer is that there is none.
    pub fn no_quorum_after(&self) -> Duration {
        no_quorum_after(self.inner.election_timeout_max)
    }

    /// True while no leader, or no quorum that stores what is written, has been heard of for two election timeouts.
    pub fn quorum_lost(&self) -> bool {
        *self.inner.quorum_lost.borrow()
    }

    /// Writes that hold a place, and how many there are.
    pub fn writes_in_flight(&self) -> (usize, usize) {
        self.inner.room.places()
    }

    /// Writes that wait for the next entry.
    pub fn proposals_waiting(&self) -> usize {
        let turns = self.inner.metrics.writes.waiting_turn.get() as usize;
        self.inner.queue.max_capacity() - self.inner.queue.capacity() + turns
    }

    /// True while writes are refused for want of room on the disk.
    pub fn disk_nearly_full(&self) -> bool {
        *self.inner.disk_nearly_full.borrow()
    }

    /// The node is on its way out.
    pub fn is_shutting_down(&self) -> bool {
        self.inner.shutting_down.load(Ordering::Acquire)
    }

    /// From now on writes are refused.
    pub fn refuse_writes(&self) {
        self.inner.shutting_down.store(true, Ordering::Release);
    }

    /// How often a client would have had more than its share of the room for writes.
    pub fn shares_exceeded(&self) -> u64 {
        self.inner.room.shares_exceeded()
    }

    /// Waits until no write is under way, or the time is over.
    pub async fn drain(&self, until: Instant) {
        let _ = tokio::time::timeout_at(until, self.inner.room.all_free()).await;
    }

    /// Room for one write.
    pub async fn admit(
        &self,
        identity: Identity,
        size_bytes: usize,
        when_full: WhenFull,
        deadline: Instant,
    ) -> Result<Admission, NotProposed> {
        // A shutdown waits for all places, so that none looks free from here on.
        if self.is_shutting_down() {
            return Err(NotProposed::ShuttingDown);
        }
        self.inner.room.admit(identity, size_bytes, when_full, deadline).await
    }

    /// Room for a forwarded write that waits for some, which only a leader has for it.
    ///
    /// Elsewhere it would wait behind writes that look for a leader themselves; and two nodes that are full
    /// of writes for each other, as after a change of leader, would wait for each other.
    pub async fn admit_while_leading(
        &self,
        identity: Identity,
        size_bytes: usize,
        until: Instant,
    ) -> Result<Admission, NotProposed> {
        tokio::select! {
            biased;
            () = self.leadership().lost() => Err(NotProposed::NotLeader(self.leadership().hint())),
            admitted = self.admit(identity, size_bytes, WhenFull::Wait, until) => admitted,
        }
    }

    /// Room for one write, if there is some at once.
    pub fn try_admit(&self, identity: Identity, size_bytes: usize) -> Option<Admission> {
        if self.is_shutting_down() {
            return None;
        }
        self.inner.room.admit_now(identity, size_bytes).ok()
    }

    /// Runs one write: here if this node leads, else forwarded once to the leader.
    pub async fn write(
        &self,
        command: Command,
        admission: Admission,
        deadline: Instant,
        request_id: &(dyn std::fmt::Display + Sync),
    ) -> Result<Applied, Error> {
        if self.inner.shutting_down.load(Ordering::Acquire) {
            return Err(NotProposed::ShuttingDown.into());
        }
        self.check_comparisons(&command.action)?;
        self.write_at_leader(command, admission, deadline, request_id).await
    }

    /// Finds the leader, waiting for one if need be, and runs the write there.
    ///
    /// A leader to which no connection can be made has seen nothing of the write, so it is offered
    /// to the next one; whatever may have reached a leader is not sent a second time.
    async fn write_at_leader(
        &self,
        command: Command,
        admission: Admission,
        deadline: Instant,
        request_id: &(dyn std::fmt::Display + Sync),
    ) -> Result<Applied, Error> {
        let patience = no_quorum_after(self.inner.election_timeout_max);
        let until = deadline.min(Instant::now() + patience);
        if self.inner.leadership.term_as_leader().is_some() {
            return self.write_here(command, Some(admission), deadline).await;
        }
        let mut leadership = self.inner.leadership.clone();
        loop {
            match leadership.wait_for_leader(until).await {
                Some(Leader::Here { .. }) => {
                    return self.write_here(command, Some(admission), deadline).await;
                }
                Some(Leader::There { node_id, peer_address, .. }) if !self.quorum_lost() => {
                    // An older leader could not even read it.
                    self.check_version(&command)?;
                    let forwarded = wire::ForwardedCommand {
                        command: codec::encode_command(&command),
                        request_id: request_id.to_string(),
                        deadline_ms: ms_left(deadline),
                        waits_for_room: admission.when_full() == WhenFull::Wait,
                        client_address: admission.identity().address(),
                        trace_context: admission
                            .waits()
                            .map(|waits| waits.request.to_bytes().to_vec().into())
                            .unwrap_or_default(),
                        restore_epoch: admission.restore_epoch(),
                    };
                    let outcome = self.forward(forwarded, node_id, &peer_address, deadline).await;
                    if let Some(outcome) = outcome {
                        return outcome;
                    }
                }
                Some(Leader::There { .. }) | None => {}
            }
            if Instant::now() >= deadline {
                return Err(NotProposed::Deadline.into());
            }
            if Instant::now() >= until {
                let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
                return Err(NotProposed::NoQuorum { waited_ms }.into());
            }
            leadership.changed((Instant::now() + REDIAL_DELAY).min(until)).await;
        }
    }

    /// Runs one write if this node leads; never forwards. The node's own commands need no
    /// admission.
    pub async fn write_here(
        &self,
        command: Command,
        admission: Option<Admission>,
        deadline: Instant,
    ) -> Result<Applied, Error> {
        self.check_limits(&command)?;
        if admission.is_some() {
            self.wait_cluster_known(deadline).await?;
        }
        #[cfg(feature = "seeded-bugs")]
        if let Some(applied) = self.decide_before_proposing(&command) {
            return Ok(applied);
        }
        let ticket = Arc::new(Ticket::default());
        let (waiter, answer) = oneshot::channel();
        let waiter = Waiter::task(waiter, admission);
        let size_bytes = codec::size_hint(&command);
        let (since, ticket_in_queue) = (Instant::now(), Arc::clone(&ticket));
        let proposal =
            Proposal { command, size_bytes, ticket: ticket_in_queue, deadline, since, waiter };
        if let Some((refusal, _)) = self.queue(proposal) {
            return Err(refusal.into());
        }
        await_outcome(answer, &ticket, deadline).await
    }

    /// A client's write waits until the cluster has its id, which is the first command of its first
    /// leader: else its answer could bring no token, and a SESSION read after it might miss it.
    async fn wait_cluster_known(&self, deadline: Instant) -> Result<(), NotProposed> {
        if self.is_cluster_known() || seeded_bugs::is_on("write-before-cluster-known") {
            return Ok(());
        }
        let patience = self.no_quorum_after();
        let until = deadline.min(Instant::now() + patience);
        if self.inner.cluster_id.wait(until).await {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(NotProposed::Deadline);
        }
        let waited_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Err(NotProposed::NoQuorum { waited_ms })
    }

    /// Whether this node knows which cluster it belongs to.
    pub fn is_cluster_known(&self) -> bool {
        self.inner.cluster_id.get().is_some()
    }

    /// The same without waiting: the answerer learns the outcome, or is given back with it if the
    /// write was refused at once. Its deadline is the caller's to watch, with
    /// [`propose::at_deadline`].
    pub fn propose_here(
        &self,
        command: Command,
        admission: Admission,
        ticket: Arc<Ticket>,
        (since, deadline): (Instant, Instant),
        answerer: Box<dyn Answerer>,
    ) -> Option<DecidedAtOnce> {
        if let Err(refusal) = self.check_limits(&command) {
            return Some(DecidedAtOnce { outcome: Err(refusal.into()), answerer });
        }
        #[cfg(feature = "seeded-bugs")]
        if let Some(applied) = self.decide_before_proposing(&command) {
            return Some(DecidedAtOnce { outcome: Ok(applied), answerer });
        }
        let size_bytes = codec::size_hint(&command);
        let waiter = Waiter::answerer(answerer, admission);
        let proposal = Proposal { command, size_bytes, ticket, deadline, since, waiter };
        let (refusal, proposal) = self.queue(proposal)?;
        let answerer = proposal.waiter.into_answerer().expect("it was made with one");
        Some(DecidedAtOnce { outcome: Err(refusal.into()), answerer })
    }

    /// Queues a proposal, or gives it back with the reason why not.
    fn queue(&self, proposal: Proposal) -> Option<(NotProposed, Proposal)> {
        match self.inner.queue.try_send(proposal) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(proposal)) => {
                Some((self.inner.room.too_many(), proposal))
            }
            Err(mpsc::error::TrySendError::Closed(proposal)) => {
                Some((NotProposed::ShuttingDown, proposal))
            }
        }
    }
}
