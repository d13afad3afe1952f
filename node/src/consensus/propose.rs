//! The write path's narrow door: requests queue up, one task turns whatever has queued into one log
//! entry, and the answers go back to those who wait.
//!
//! # Batching without a timer
//! At most `entries_in_flight` entries are under way at once. While they are, requests queue; when
//! a place is free, everything that has queued becomes the next entry, as far as each client's turn
//! goes ([`turns`]). So a lone caller is proposed at once, and under load the entries grow by themselves.
//!
//! # Where "proposed" begins
//! Each request has a ticket that moves from *queued* either to *proposed* (by this task, just
//! before the entry is handed to Raft) or to *abandoned* (by its waiter, when its deadline passes),
//! never both: it is one compare-and-swap. An abandoned request is dropped and can say
//! NOT_APPLIED truthfully; a proposed one says UNKNOWN unless Raft says that the entry was never
//! appended. `ClientWriteError::ForwardToLeader` and a failed `with_leader` say just that;
//! everything else (a discarded entry, a dropped waiter) may still commit through another leader.
//!
//! # Log time
//! Entries carry log time (see `log_time`), which belongs to one term. The entry is bound to that
//! term (`with_leader`): if this node lost and won leadership in between, the entry is refused
//! instead of carrying the stamp of an older reckoning.

#[cfg(feature = "seeded-bugs")]
mod bugs;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use openraft::{
    errors::{ClientWriteError, ForwardReason},
    impls::ProgressResponder,
    raft::ClientWriteResult,
};
use tally_proto::seeded_bugs;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

use self::turns::{Entry, EntryTime, HEAVY_ENTRIES_MAX, Heavy, Turns, allotment};
use super::{
    Admission,
    admission::Waits,
    cluster_id::ClusterId,
    error::{Error, NotProposed, Unknown},
    leader::Leadership,
    log_time::LogTime,
    raft::Raft,
    traced::CONTEXTS_MAX,
    types::{AppliedAt, EntryPayload, TypeConfig},
};
use crate::{
    env::{Clock, shares::Identity, traces::Tracer},
    machine::{
        codec,
        command::{Action, Batch, Command, Reply},
    },
    metrics::Metrics,
};

/// At most this many commands in one entry, so that applying it stays short.
pub const ENTRY_COMMANDS_MAX: usize = 2048;

/// An entry is closed when its commands reach this many bytes, unless the first alone is larger.
pub const ENTRY_BYTES_MAX: usize = 512 * 1024;

/// A write that was applied (or refused in apply).
#[derive(Debug, Clone)]
pub struct Applied {
    /// The answer.
    pub reply: Reply,
    /// Log index of the entry that decided.
    pub log_index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Revision of the store after that entry: what `log_index` is the state of. Other commands of the
    /// entry may have changed more than this one did, and what is replayed was decided earlier.
    pub revision: u64,
    /// The leader that it was forwarded to, whose answer this is; `None` for this node's own.
    pub leader: Option<AnsweredBy>,
    /// Where its time went, if this node proposed it.
    pub times: Option<Times>,
}

/// Where the time of a write went, behind the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When its entry was handed to Raft.
    pub proposed: Instant,
    /// From there until it was durable in this node's log, in µs; until it was applied, if that was earlier.
    pub log_us: u32,
    /// From there until it was applied, in µs: what a majority took longer than this node.
    pub quorum_us: u32,
    /// What applying took, in µs.
    pub apply_us: u32,
}

fn us(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

/// The leader behind the answer to a forwarded write, as it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredBy {
    /// Its id.
    pub node_id: u64,
    /// Its term when it answered.
    pub term: u64,
    /// Its cluster, which the node that forwarded may not know yet.
    pub cluster_id: u128,
    /// How often that was restored from a backup.
    pub restore_epoch: u64,
}

/// What a waiter gets.
pub type Outcome = Result<Applied, Error>;

const QUEUED: u8 = 0;
const PROPOSED: u8 = 1;
const ABANDONED: u8 = 2;

/// On which side of the line a request is. See the module's doc.
#[derive(Debug, Default)]
pub struct Ticket(AtomicU8);

impl Ticket {
    /// The waiter gives up: true if the request will never be proposed.
    pub fn abandon(&self) -> bool {
        match self.0.compare_exchange(QUEUED, ABANDONED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(state) => state == ABANDONED,
        }
    }

    /// The request is about to be handed over: true if its waiter has not given up.
    fn propose(&self) -> bool {
        self.0.compare_exchange(QUEUED, PROPOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// One request in the queue.
#[derive(Debug)]
pub struct Proposal {
    /// What to do.
    pub command: Command,
    /// About how many bytes that is in the entry.
    pub size_bytes: usize,
    /// On which side of the line it is.
    pub ticket: Arc<Ticket>,
    /// Not proposed after this.
    pub deadline: Instant,
    /// When it was asked for.
    pub since: Instant,
    /// Who waits, and the room that the write takes until it is answered.
    pub waiter: Waiter,
}

/// Takes the outcome of a write where no task waits for it. Dropped unasked it learns that nobody will
/// know more: see [`gone`].
pub trait Answerer: Send {
    /// The outcome. Must not block.
    fn answer(self: Box<Self>, outcome: Outcome);
}

/// Who waits for the answer to a write. It holds the write's room: a caller that goes away leaves
/// its write in the queue, where it takes as much as before.
pub struct Waiter {
    to: To,
    admission: Option<Admission>,
}

enum To {
    /// A task that waits.
    Task(oneshot::Sender<Outcome>),
    /// Whatever is to be done then.
    Answerer(Box<dyn Answerer>),
}

impl std::fmt::Debug for Waiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiter").finish_non_exhaustive()
    }
}

impl Waiter {
    /// A task.
    pub(super) fn task(answer: oneshot::Sender<Outcome>, admission: Option<Admission>) -> Self {
        Waiter { to: To::Task(answer), admission }
    }

    /// No task.
    pub(super) fn answerer(answerer: Box<dyn Answerer>, admission: Admission) -> Self {
        Waiter { to: To::Answerer(answerer), admission: Some(admission) }
    }

    /// Since when it waits, if it is traced.
    fn waits(&self) -> Option<&Waits> {
        self.admission.as_ref().and_then(Admission::waits)
    }

    /// The restore epoch by which its caller is known.
    fn known_at(&self) -> Option<u64> {
        self.admission.as_ref().and_then(Admission::restore_epoch)
    }

    /// A task of its own waits for it: it came in a call of its own, and not in a stream.
    fn is_a_call(&self) -> bool {
        matches!(self.to, To::Task(_))
    }

    /// Whose write it is; `None` for the node's own.
    fn identity(&self) -> Option<Identity> {
        self.admission.as_ref().map(Admission::identity)
    }

    /// Answers, if somebody still waits, and gives the room back.
    fn send(self, outcome: Outcome) {
        match self.to {
            To::Task(answer) => drop(answer.send(outcome)),
            To::Answerer(answerer) => answerer.answer(outcome),
        }
    }

    /// Whom it would have answered.
    pub(super) fn into_answerer(self) -> Option<Box<dyn Answerer>> {
        match self.to {
            To::Task(_) => None,
            To::Answerer(answerer) => Some(answerer),
        }
    }
}

/// The places that an entry takes until it is answered: among all, and among those with something of heavy clients.
type Places = (OwnedSemaphorePermit, Option<HeavyPlace>);

/// A place among the entries with something of heavy clients.
struct HeavyPlace {
    _place: OwnedSemaphorePermit,
    entry_time: Arc<EntryTime>,
}

/// The task behind the queue.
pub(super) struct Proposer {
    pub(super) raft: Raft,
    pub(super) leadership: Leadership,
    pub(super) log_time: LogTime,
    pub(super) cluster_id: ClusterId,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: mpsc::Receiver<Proposal>,
    pub(super) entries_in_flight: usize,
    pub(super) tracer: Tracer,
    /// Set while this node leads and reaches no quorum.
    pub(super) quorum_lost: watch::Receiver<bool>,
    pub(super) metrics: Arc<Metrics>,
}

impl Proposer {
    /// Runs until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        let places = Arc::new(Semaphore::new(self.entries_in_flight));
        let heavy_places = Arc::new(Semaphore::new(HEAVY_ENTRIES_MAX));
        let entry_time = Arc::new(EntryTime::default());
        let mut turns = Turns::default();
        loop {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore lives as long as this task and is never closed");
            let Some((batch, heavy_place)) =
                self.next_entry(&mut turns, &heavy_places, &entry_time).await
            else {
                break;
            };
            self.propose(batch, (place, heavy_place)).await;
        }
        // What is under way still gets its answer.
        let all = u32::try_from(self.entries_in_flight).unwrap_or(u32::MAX);
        drop(places.acquire_many(all).await);
    }

    /// What is proposed next, as soon as there is something, and the place among heavy entries that it takes if it
    /// needs one. `None` when the queue is closed and empty.
    async fn next_entry(
        &mut self,
        turns: &mut Turns,
        heavy_places: &Arc<Semaphore>,
        entry_time: &Arc<EntryTime>,
    ) -> Option<(Vec<Proposal>, Option<HeavyPlace>)> {
        loop {
            if turns.is_empty() {
                turns.put(self.queue.recv().await?);
            }
            while let Ok(proposal) = self.queue.try_recv() {
                turns.put(proposal);
            }
            let (heavy, heavy_place) = match turns.are_short(Instant::now()) {
                false => (Heavy::All, None),
                true => match Arc::clone(heavy_places).try_acquire_owned() {
                    Ok(_place) => {
                        let entry_time = Arc::clone(entry_time);
                        (allotment(entry_time.mean()), Some(HeavyPlace { _place, entry_time }))
                    }
                    Err(_) => (Heavy::Nothing, None),
                },
            };
            let Entry { batch, has_heavy } = turns.take(heavy);
            self.metrics.writes.waiting_turn.set(turns.len() as u64);
            if !batch.is_empty() {
                return Some((batch, heavy_place.filter(|_| has_heavy)));
            }
            // Only heavy ones wait, and as much of that is under way as may be.
            tokio::select! {
                biased;
                Some(proposal) = self.queue.recv() => turns.put(proposal),
                _ = heavy_places.acquire() => {}
            }
        }
    }

    /// Whether a command's caller, two ids, may be somebody else where the command is applied.
    ///
    /// **Claim.** What is proposed names nobody who was known before a restore and comes behind the entry that ends it, from
    /// which on the ids are those of the backup's users.
    ///
    /// **The steps.** This node has applied all entries of terms before its own when it proposes (`LogTime::stamp`). So the
    /// entry that ends a restore is either applied, and the caller's epoch is behind; or it is one of this term, and was
    /// asked for by whoever had the answer of this leader, or of one before, that the restore had begun: that is applied
    /// here, and the restore is under way. Who is nobody is refused in apply: as the restore is under way, or as unknown.
    /// The entry that ends it sets the epoch before it says that it is over ([`ClusterId::saw`]), so they are looked at
    /// in the other order.
    ///
    /// **What breaks it:** an earlier look, before the command has waited for room, for its turn or for this leader's first
    /// entry; the epoch of whoever forwards it, and not that by which it knew the caller.
    fn is_somebody_elses(&self, proposal: &Proposal) -> bool {
        let is_restore = matches!(proposal.command.action, Action::Restore(_));
        let is_restored = self.cluster_id.is_restored() && !is_restore;
        let epoch = self.cluster_id.restore_epoch();
        is_restored || proposal.waiter.known_at().is_some_and(|known_at| known_at < epoch)
    }

    /// Hands one entry over and leaves its answers to a task of its own.
    async fn propose(&mut self, batch: Vec<Proposal>, place: Places) {
        let Some(term) = self.leadership.term_as_leader() else {
            let refusal = NotProposed::NotLeader(self.leadership.hint());
            return refuse(batch, &refusal);
        };
        if *self.quorum_lost.borrow() {
            // Raft would refuse it too, but its answer and the loss would race for the waiter.
            return refuse(batch, &NotProposed::NoQuorum { waited_ms: 0 });
        }
        // Reads the state once a term, after it holds an entry of that term; until then the batch
        // waits here, not yet proposed.
        let stamp = match self.log_time.stamp(term, &mut self.leadership).await {
            Ok(stamp) => stamp,
            Err(refusal) => return refuse(batch, &refusal),
        };

        let now = Instant::now();
        let oldest = batch.iter().map(|proposal| proposal.since).min().unwrap_or(now);
        let mut commands = Vec::with_capacity(batch.len());
        let mut waiters = Vec::with_capacity(batch.len());
        let mut traced = Vec::new();
        for mut proposal in batch {
            if self.is_somebody_elses(&proposal) {
                proposal.command.caller = None;
            }
            if proposal.deadline <= now {
                if proposal.ticket.abandon() {
                    proposal.waiter.send(Err(NotProposed::Deadline.into()));
                }
            } else if proposal.ticket.propose() {
                if let Some(Waits { request, since_ns }) = proposal.waiter.waits() {
                    self.tracer.end_all(&[*request], "queue", *since_ns, &[], None);
                    traced.push(*request);
                }
                commands.push(proposal.command);
                waiters.push(proposal.waiter);
            }
        }
        if commands.is_empty() {
            return;
        }

        let batch = Batch { log_time_ms: stamp, wall_time_ms: self.clock.wall_ms(), commands };
        traced.truncate(CONTEXTS_MAX);
        let payload = EntryPayload {
            batch: codec::encode_batch(&batch),
            traced: (!traced.is_empty()).then(|| traced.into()),
        };
        let meters = &self.metrics.writes;
        meters.queue.record(now.saturating_duration_since(oldest));
        meters.entry_commands.record(batch.commands.len() as u64);
        meters.entry_bytes.record(payload.batch.len() as u64);
        let (responder, answer) = ProgressResponder::complete_only();
        let handed_over = self.raft.write(payload).with_leader(term).responder(responder).await;
        if handed_over.is_err() {
            // Raft has stopped. Whether it took the message first can't be seen from here.
            return unknown(waiters, &Unknown::WaiterGone);
        }
        #[cfg(feature = "seeded-bugs")]
        if seeded_bugs::is_on("ack-before-commit")
            && place.0.semaphore().available_permits() + 1 == self.entries_in_flight
            && batch.commands.iter().all(bugs::writes)
        {
            let (log_index, revision, replies) = bugs::foresee(self.log_time.state(), &batch);
            for (reply, waiter) in replies.into_iter().zip(waiters) {
                let (leader, times) = (None, None);
                waiter.send(Ok(Applied { reply, log_index, term, revision, leader, times }));
            }
            tokio::spawn(async move {
                drop(answer.await);
                drop(place);
            });
            return;
        }
        #[cfg(feature = "seeded-bugs")]
        let by_index = match seeded_bugs::is_on("waiters-by-index") {
            true => bugs::ByIndex::of_last(&self.raft).await,
            false => None,
        };
        let leadership = self.leadership.clone();
        let quorum_lost = self.quorum_lost.clone();
        let metrics = Arc::clone(&self.metrics);
        tokio::spawn(async move {
            let answered = wait_for_answer(answer, quorum_lost).await;
            if let (_, Some(heavy)) = &place {
                heavy.entry_time.record(now.elapsed());
            }
            drop(place);
            #[cfg(feature = "seeded-bugs")]
            if let Some(by_index) = by_index
                && matches!(
                    answered,
                    Ok(Err(ClientWriteError::LogEntryDiscarded(_))) | Err(Unknown::QuorumLost)
                )
            {
                return by_index.deliver(term, waiters).await;
            }
            deliver(answered, waiters, &leadership, &metrics, now);
        });
    }
}

/// The entry's answer, or that nobody can give one.
async fn wait_for_answer(
    answer: impl Future<Output = Result<ClientWriteResult<TypeConfig>, impl Sized>>,
    mut quorum_lost: watch::Receiver<bool>,
) -> Result<ClientWriteResult<TypeConfig>, Unknown> {
    tokio::select! {
        biased;
        answer = answer => answer.map_err(|_| Unknown::WaiterGone),
        lost = quorum_lost.wait_for(|lost| *lost) => {
            Err(if lost.is_ok() { Unknown::QuorumLost } else { Unknown::WaiterGone })
        }
    }
}

/// Gives each waiter its answer.
fn deliver(
    answered: Result<ClientWriteResult<TypeConfig>, Unknown>,
    waiters: Vec<Waiter>,
    leadership: &Leadership,
    metrics: &Metrics,
    proposed: Instant,
) {
    match answered {
        Ok(Ok(response)) => {
            let term = response.log_id.leader_id.term;
            let log_index = response.log_id.index;
            let revision = response.data.revision;
            let times = response.data.applied.map(|AppliedAt { began, took }| {
                let all = began.saturating_duration_since(proposed);
                let synced = metrics.storage.synced.since(log_index);
                let log = synced.map_or(all, |at| at.saturating_duration_since(proposed).min(all));
                let quorum = all - log;
                metrics.writes.log.record(log);
                metrics.writes.quorum.record(quorum);
                Times { proposed, log_us: us(log), quorum_us: us(quorum), apply_us: us(took) }
            });
            let replies = Arc::unwrap_or_clone(response.data.replies);
            assert_eq!(
                replies.len(),
                waiters.len(),
                "entry {log_index} has as many replies as commands"
            );
            for (reply, waiter) in replies.into_iter().zip(waiters) {
                let leader = None;
                waiter.send(Ok(Applied { reply, log_index, term, revision, leader, times }));
            }
        }
        Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
            // Refused before it was appended: nothing was proposed after all.
            let refusal = match forward.reason {
                ForwardReason::LeaseExpired => NotProposed::NoQuorum { waited_ms: 0 },
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                    NotProposed::NotLeader(leadership.hint())
                }
            };
            for waiter in waiters {
                waiter.send(Err(refusal.clone().into()));
            }
        }
        Ok(Err(ClientWriteError::PreconditionFailed(_))) => {
            for waiter in waiters {
                waiter.send(Err(NotProposed::NotLeader(leadership.hint()).into()));
            }
        }
        Ok(Err(
            ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::ChangeMembershipError(_),
        )) => unknown(waiters, &Unknown::LeadershipLost),
        Err(cause) => unknown(waiters, &cause),
    }
}

/// Answers requests that were not handed over.
fn refuse(batch: Vec<Proposal>, refusal: &NotProposed) {
    for proposal in batch {
        if proposal.ticket.abandon() {
            proposal.waiter.send(Err(refusal.clone().into()));
        }
    }
}

/// Answers requests that were.
fn unknown(waiters: Vec<Waiter>, cause: &Unknown) {
    for waiter in waiters {
        waiter.send(Err(cause.clone().into()));
    }
}

/// Waits for the answer to one request until its deadline.
pub(super) async fn await_outcome(
    answer: oneshot::Receiver<Outcome>,
    ticket: &Ticket,
    deadline: Instant,
) -> Outcome {
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(gone(ticket)),
        Err(_) => Err(at_deadline(ticket)),
    }
}

/// What a waiter may say whose deadline has passed.
pub fn at_deadline(ticket: &Ticket) -> Error {
    match ticket.abandon() || seeded_bugs::is_on("timeout-not-applied") {
        true => NotProposed::Deadline.into(),
        false => Unknown::Deadline.into(),
    }
}

/// What a waiter may say that will never be answered: the queue is gone with the request in it, or
/// after it was handed over.
pub fn gone(ticket: &Ticket) -> Error {
    match ticket.abandon() {
        true => NotProposed::ShuttingDown.into(),
        false => Unknown::WaiterGone.into(),
    }
}
