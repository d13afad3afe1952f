//! Every switch of `tally_proto::seeded_bugs`: the promise that it breaks, where, and what has to
//! happen for anybody to notice.
//!
//! Most are in the node and the client. Those of [`Family::Harness`] are in the simulator itself: with
//! one of them on it would find nothing, so the run must say that it proves nothing.
//!
//! It is long because it is one table with a row for each bug, and nothing else: a reader looks a bug up, and
//! its tests hold the whole of it against the sources.

#[cfg(test)]
mod tests;

/// One switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bug {
    /// What `is_on` is asked for.
    pub name: &'static str,
    /// Which part of the system's promises it belongs to.
    pub family: Family,
    /// The promise that it breaks.
    pub breaks: &'static str,
    /// Where the switch is: `file: function`, several divided by `; `.
    pub place: &'static str,
    /// What must happen for it to show, and how it shows.
    pub hint: &'static str,
}

/// A part of the promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Read levels and what answers say of themselves.
    Reads,
    /// What survives, and when it is acknowledged.
    Durability,
    /// What a committed entry does, exactly once.
    Apply,
    /// Building, sending and installing snapshots.
    Snapshot,
    /// Who votes, and who leads.
    Membership,
    /// Who may do what.
    Rights,
    /// Two releases in one cluster, and the end of an upgrade.
    Upgrades,
    /// How much there may be.
    Quotas,
    /// The simulator itself.
    Harness,
}

/// The bug that no single run can show: it makes two runs of a seed differ.
pub const SHOWN_BY_TWO_RUNS: &str = "real-time-leaks-in";

/// Bugs that need a situation which few seeds draw, and the scenario that brings it about.
pub const SHOWN_IN: &[(&str, &str)] = &[
    ("staleness-from-reply", "slow-answers-do-not-make-it-younger"),
    ("read-joins-running-round", "reads-that-come-while-a-round-runs"),
    ("truncate-in-memory", "overruled-before-a-power-failure"),
    ("waiters-by-index", "overruled-before-a-power-failure"),
    ("duplicate-append-truncates", "appends-that-come-behind-newer-ones"),
    ("segment-begun-too-early", "a-used-file-becomes-the-next-segment"),
    ("install-not-atomic", "left-behind-again-and-again"),
    ("install-before-jump", "left-behind-again-and-again"),
    ("crash-keeps-unsynced", "power-failures"),
    ("heartbeats-are-a-quorum", "answers-and-stores-nothing"),
    ("fallback-new-key-each-attempt", "no-place-for-a-session"),
    ("learner-counts-for-reads", "a-learner-decides-nothing"),
    ("wiped-majority-forms", "two-of-three-wiped"),
    ("removed-by-an-older-state", "a-new-node-loses-power-before-its-first-flush"),
    ("forwarder-speaks", "who-may-do-what"),
    ("rights-at-receipt", "who-may-do-what"),
    ("rights-as-committed", "who-may-do-what"),
    ("replay-shows-as-then", "who-may-do-what"),
    ("keys-are-everybodys", "who-may-do-what"),
    ("adds-show-values", "who-may-do-what"),
    ("other-branch-unasked", "who-may-do-what"),
    ("list-of-what-is-in-part-allowed", "who-may-do-what"),
    ("later-page-unchecked", "who-may-do-what"),
    ("revoked-goes-on", "who-may-do-what"),
    ("over-is-asked-once", "who-may-do-what"),
];

/// Bugs that few seeds show, and one that does. It is tried first, as dozens of others would take minutes; when it does
/// not show the bug any more the others are tried after it, and that is said.
pub const SHOWN_BY_SEED: &[(&str, u64)] = &[
    ("read-index-before-noop", 6),
    ("purge-overtakes-a-snapshot", 15),
    ("dedup-at-leader-only", 2),
    ("session-end-not-put-off", 12),
    ("key-forgotten-early", 27),
    ("install-merges", 4),
    ("step-reads-unbounded", 9),
    ("wiped-disk-votes", 10),
    ("another-cluster-accepted", 4),
    ("joint-left-open", 16),
    ("leader-never-steps-down", 18),
    ("later-page-unchecked", 1),
    ("partition-does-nothing", 7),
    ("quota-refusal-remembered", 10),
    ("restore-over-what-is-there", 16),
    ("restore-forgets-a-record", 3),
    ("restore-forgets-keys", 16),
    ("record-of-a-directory-unread", 1_796_043_595_142_024),
    ("aborted-restore-leaves-keys", 13),
];

/// Bugs of the list in `docs` that can't be put into this code, each with what prevents it.
pub const INEXPRESSIBLE: &[(&str, &str)] = &[(
    "joint-quorum-of-one-half",
    "voters change one at a time, and any majority of n voters meets any majority of n + 1 of them: \
     whoever counts one of the two sets alone is wrong by the book, and no answer shows it",
)];

/// All of them.
pub const BUGS: &[Bug] = &[
    // --- reads -----------------------------------------------------------------------------
    Bug {
        name: "read-without-quorum-round",
        family: Family::Reads,
        breaks: "a leader serves linearizable reads after a quorum has confirmed that it leads",
        place: "node/src/consensus/confirm.rs: round_here",
        hint: "A leader cut off from the other nodes, still reached by clients (or by a follower on \
               its side, with five nodes), while the others elect and acknowledge writes: then a \
               linearizable read at the old leader. It believes in itself until the link is back. \
               Shows as a stale linearizable read.",
    },
    Bug {
        name: "follower-read-local",
        family: Family::Reads,
        breaks: "a follower asks the leader for a read index before a linearizable read",
        place: "node/src/consensus/read_index.rs: Rounds::round",
        hint: "Linearizable reads at followers (clients that have not found the leader) soon after \
               acknowledged writes; a slow or cut link from leader to follower makes it certain. \
               Also makes the follower's staleness claims wrong, for BOUNDED and in every header. \
               A node that knows of no leader still answers NO_QUORUM.",
    },
    Bug {
        name: "read-index-before-noop",
        family: Family::Reads,
        breaks: "a new leader serves no linearizable read before an entry of its term is committed",
        place: "node/src/consensus/confirm.rs: read_index",
        hint: "A change of leader where the old one acknowledged a write whose commit the new one \
               has not heard of, and a linearizable read between its election and the commit of \
               its first entry: one heartbeat round trip against one append and two syncs. Slow \
               syncs on the followers widen it. Shows as a stale linearizable read.",
    },
    Bug {
        name: "read-before-applied",
        family: Family::Reads,
        breaks: "a read waits until the state has applied the read index",
        place: "node/src/consensus/read.rs: Reads::prove",
        hint: "Linearizable or BOUNDED reads at a follower that has not applied what the leader has \
               committed: it learns of a commit with the next message only, so plain load is \
               enough. Hardly shows on a leader. Stale reads, staleness claims too good.",
    },
    Bug {
        name: "staleness-from-reply",
        family: Family::Reads,
        breaks: "the age of a state is counted from when its proof was asked for",
        place: "node/src/consensus/read_index.rs: Rounds::round",
        hint: "A slow answer to a follower's question for a read index (slow or held messages, below \
               two election timeouts), a write acknowledged elsewhere meanwhile, then a BOUNDED read \
               with a small bound, or any header's staleness claim: it is too small by the time \
               that the answer took. The check must be exact to that time.",
    },
    Bug {
        name: "session-token-ignored",
        family: Family::Reads,
        breaks: "a SESSION read sees at least the token's state",
        place: "node/src/consensus/read.rs: Reads::permit",
        hint: "A client that writes (or reads) at one node and reads with its token at another that \
               lags. Shows as a read that goes back, or an answer whose applied index is below the \
               token's.",
    },
    Bug {
        name: "read-joins-running-round",
        family: Family::Reads,
        breaks: "a read is answered by a round that begins after it arrived",
        place: "node/src/consensus/read_index.rs: run",
        hint: "Reads that arrive at a node while its round for others runs, and writes acknowledged \
               elsewhere between the begin of that round and their arrival: several linearizable reads \
               at one follower, some milliseconds apart. Shows as a stale linearizable read.",
    },
    Bug {
        name: "proof-before-applied",
        family: Family::Reads,
        breaks: "a proof of age counts once the state has applied its index",
        place: "node/src/consensus/read.rs: Reads::prove",
        hint: "A follower that asks for a read index and has not applied it yet, and another read there \
               meanwhile with a bound, or any header: it claims to be as young as the question. Slow \
               disks, or a follower that catches up.",
    },
    Bug {
        name: "page-repeats-its-last",
        family: Family::Reads,
        breaks: "a page begins after the last item of the page before",
        place: "node/machine/src/query.rs: scan_range",
        hint: "A list or scan of more than one page.",
    },
    Bug {
        name: "page-skips-an-item",
        family: Family::Reads,
        breaks: "no item between two pages is left out",
        place: "node/machine/src/query.rs: page",
        hint: "A list or scan of more than one page: the page shows as absent what is there.",
    },
    // --- durability ------------------------------------------------------------------------
    Bug {
        name: "ack-before-fsync",
        family: Family::Durability,
        breaks: "an append is acknowledged only when it is on stable storage",
        place: "node/storage/src/wal/writer.rs: WalWriter::write_batch",
        hint: "Power cuts within the sync that follows an acknowledgement: of all nodes, or of one \
               follower and then of the leader before the follower has the entries again. Slow \
               syncs make it likely. Shows as a lost acknowledged write; a follower alone that \
               forgot what it acknowledged trips an assertion of openraft in the leader \
               (progress::entry::update, 'follower log reversion'), which ends its core task by a \
               panic.",
    },
    Bug {
        name: "vote-without-fsync",
        family: Family::Durability,
        breaks: "a vote is durable before it is told to anybody",
        place: "node/storage/src/wal/writer.rs: WalWriter::write_batch",
        hint: "Votes alone are written without a sync; the next append syncs them as well. So: a \
               power cut of a voter between its vote and its next append, a restart within one \
               election timeout, and a second candidate in the same term. Shows as two leaders in \
               a term, or, far sooner, as a node whose term (or vote) is lower after a restart \
               than what it had answered peers or clients before.",
    },
    Bug {
        name: "truncate-in-memory",
        family: Family::Durability,
        breaks: "what was truncated never comes back",
        place: "node/storage/src/wal/recovery/replay.rs: Replay::record",
        hint: "A leader cut off with uncommitted entries, truncated by its successor; then a restart \
               of any kind before those entries are purged. The old entries stand at their indexes \
               again, instead of what took their place: applied again since the last flush of the \
               state (state machine safety), sent to others, or counted in an election.",
    },
    Bug {
        name: "duplicate-append-truncates",
        family: Family::Durability,
        breaks: "an append that the log already holds takes nothing away",
        place: "node/src/peer/service.rs: PeerService::append",
        hint: "An append of the present leader that arrives late, behind newer ones: messages held \
               for so long that the leader opens a second stream and sends the entries again, then \
               released. Takes away entries beyond what the follower knows to be committed, though \
               it has acknowledged them. Shows as lost acknowledged writes after a change of \
               leader, or as openraft's assertion in the leader ('follower log reversion').",
    },
    Bug {
        name: "purge-to-applied",
        family: Family::Durability,
        breaks: "the log is purged only up to what snapshot and state both hold durably",
        place: "node/src/consensus/log_store.rs: LogStore::purge",
        hint: "Few entries kept behind snapshots, so that purges happen; then a kill or power cut \
               before the next flush of the state. The node refuses to start (StateError:: \
               Unrecoverable) though nothing was damaged. Where a follower lags, openraft's \
               leader reads entries that it believes to be there, and asserts.",
    },
    Bug {
        name: "purge-overtakes-a-snapshot",
        family: Family::Durability,
        breaks: "what follows a snapshot stays in the log while it is sent",
        place: "node/src/consensus/sending.rs: Sending::held",
        hint: "A snapshot that takes longer to arrive than the log takes to grow by another one (slow disks, \
               links that hold what is sent): its node is sent one after the other, and never catches up.",
    },
    Bug {
        name: "ack-before-commit",
        family: Family::Durability,
        breaks: "a write is acknowledged after a majority holds it",
        place: "node/src/consensus/propose.rs: Proposer::propose",
        hint: "Answers what apply would say now, when no other entry is under way. A linearizable \
               read right after the answer misses the write, without any fault. A leader that is \
               cut off or dies right after loses it.",
    },
    Bug {
        name: "segment-begun-too-early",
        family: Family::Durability,
        breaks: "all of a segment of the log is durable before the next one begins",
        place: "node/storage/src/wal/writer.rs: WalWriter::next_segment",
        hint: "The power fails soon after the log has moved into its next segment, whose header says \
               that all before it is durable; what was written last to the segment before was never \
               synced. The node does not start, or has lost what it acknowledged.",
    },
    Bug {
        name: "torn-tail-accepted",
        family: Family::Durability,
        breaks: "a frame whose bytes did not all reach the disk is not part of the log",
        place: "node/storage/src/wal/frame.rs: decode",
        hint: "A power cut during a write of entries that cross a sector (values of some hundred \
               bytes, or batches), where a frame's header survives and its end does not. The node \
               goes on with an entry of other content under the same index and term: log matching, \
               an entry that can't be decoded in apply (the node ends itself), or another state. \
               Flipped bits in payloads pass as well.",
    },
    Bug {
        name: "leader-restored",
        family: Family::Durability,
        breaks: "a restarted leader wins a new term before it leads",
        place: "node/src/consensus/raft_config.rs: raft_config",
        hint: "A leader whose followers sync faster than it does (slow disk) commits through them, \
               loses its unsynced tail in a power cut, and is back within one election timeout. It \
               uses the same index and term again for other entries: log matching, lost writes.",
    },
    Bug {
        name: "flush-ahead-of-log",
        family: Family::Durability,
        breaks: "the state on disk is never ahead of its own synced log",
        place: "node/storage/src/state/flush.rs: StateStore::write_frozen",
        hint: "A leader with a slow disk commits through its followers, flushes its state in that \
               time (short flush interval) and loses power before its log is synced. After the \
               restart the log lacks what the state has: the next append does not fit and the node \
               ends itself once ('can't follow'), with no fault to blame. It heals at the second \
               start.",
    },
    Bug {
        name: "sync-error-overlooked",
        family: Family::Durability,
        breaks: "after a failed sync of its log a node acknowledges nothing any more",
        place: "node/storage/src/wal/writer.rs: WalWriter::sync",
        hint: "A sync that fails, and no power cut: shows at once, at the next entry or vote that the \
               node calls durable.",
    },
    Bug {
        name: "store-error-overlooked",
        family: Family::Durability,
        breaks: "a flush that failed is no flush",
        place: "node/storage/src/state/flush.rs: StateStore::write_frozen",
        hint: "An error when the state's store is flushed. The next write to that store finds that it \
               failed.",
    },
    // --- apply and exactly-once ------------------------------------------------------------
    Bug {
        name: "applied-saved-after",
        family: Family::Apply,
        breaks: "state and applied index become durable together",
        place: "node/storage/src/state/flush.rs: StateStore::write_frozen",
        hint: "A kill or power cut between the two writes of a flush, 200 ms apart. Entries are applied a second time: sessions \
               and keys absorb most of it, so look at outcomes of entries across nodes (replayed \
               where others executed), at a session that is opened twice (assertion), and at \
               writes with neither session nor key, which count twice.",
    },
    Bug {
        name: "applied-saved-before",
        family: Family::Apply,
        breaks: "state and applied index become durable together",
        place: "node/storage/src/state/flush.rs: StateStore::write_frozen",
        hint: "As above, the other way round: the entries since the last flush are missing from one \
               node's state for ever. Shows in the state's hash, in lost writes when it leads, and \
               as a session whose index has lost its record (assertion).",
    },
    Bug {
        name: "record-cache-stale",
        family: Family::Durability,
        breaks: "what is kept at hand of the state on disk follows what is written there",
        place: "node/storage/src/state/flush.rs: StateStore::write_frozen",
        hint: "A counter that is read or added to, flushed, and read again. Nodes flush at different \
               moments, so their states differ at an equal applied index.",
    },
    Bug {
        name: "sessions-not-in-snapshot",
        family: Family::Apply,
        breaks: "sessions and what they remember are part of every snapshot",
        place: "node/storage/src/state/snapshots.rs: read_piece",
        hint: "A node that is down or cut off until the log it needs is purged, and gets a snapshot. \
               Its state's hash differs, and writes under old sessions end differently on it; when \
               it leads, clients are told SESSION_EXPIRED.",
    },
    Bug {
        name: "sessions-in-memory-only",
        family: Family::Apply,
        breaks: "sessions and what they remember survive a restart",
        place: "node/storage/src/state/core.rs: Core::freeze",
        hint: "A restart of a node (any kind) after a flush that came after a session was opened. \
               Then as above. Snapshots lack them too.",
    },
    Bug {
        name: "dedup-at-leader-only",
        family: Family::Apply,
        breaks: "whether a number was executed is decided where the entry is applied",
        place: "node/machine/src/session.rs: Work::standing; \
                node/src/consensus/bugs.rs: Consensus::decide_before_proposing",
        hint: "A write that is sent again while its first entry is in the log and not applied at the \
               leader that is asked: short attempt timeouts and a slow quorum, or a new leader just \
               after its election. Numbers of sessions only. Counts twice.",
    },
    Bug {
        name: "duplicate-answers-current",
        family: Family::Apply,
        breaks: "a duplicate gets the answer that was given first",
        place: "node/machine/src/apply.rs: Work::exactly_once",
        hint: "A lost answer to an Add or Set under a session, the counter changed by another, then \
               the retry: value after is not value before plus delta, and the revision belongs to \
               another write.",
    },
    Bug {
        name: "refusal-not-remembered",
        family: Family::Apply,
        breaks: "a refusal is remembered like a success",
        place: "node/machine/src/apply.rs: is_forgotten",
        hint: "A refused write (bound, condition) whose number or key arrives again after the state \
               has changed: a key sent twice on purpose (the second executes), or a first attempt \
               that was held and arrives after the second was refused and told NOT_APPLIED.",
    },
    Bug {
        name: "retry-new-sequence",
        family: Family::Apply,
        breaks: "a write keeps its number through all attempts",
        place: "client/src/drive/mod.rs: Call::run",
        hint: "An attempt that is executed and whose answer is lost or late (cut links, short \
               attempt timeouts): the next counts again. Session clients only.",
    },
    Bug {
        name: "fallback-new-key-each-attempt",
        family: Family::Apply,
        breaks: "a write that finds no place for a session keeps its key through all attempts",
        place: "client/src/drive/mod.rs: Call::run",
        hint: "A table of sessions without a place for the client, so that its writes go under keys, and \
               an attempt that is executed and whose answer is lost or late: the next counts again.",
    },
    Bug {
        name: "heartbeats-are-a-quorum",
        family: Family::Apply,
        breaks: "a leader whose writes nobody stores says that it has no quorum",
        place: "node/src/consensus/tasks.rs: Writes::are_lost",
        hint: "One voter is gone, and another one answers heartbeats and can store nothing, as it first has to \
               be sent a snapshot for which it has no room: each write waits for its deadline.",
    },
    Bug {
        name: "timeout-not-applied",
        family: Family::Apply,
        breaks: "a deadline that passes after a write was proposed leaves it UNKNOWN",
        place: "client/src/retry.rs: Retry::error; \
                node/src/consensus/propose.rs: at_deadline",
        hint: "Deadlines about as long as a write takes (short deadlines, slow syncs, partitions that \
               heal): a write told NOT_APPLIED is found applied.",
    },
    Bug {
        name: "unknown-forgotten",
        family: Family::Apply,
        breaks: "UNKNOWN sticks to the logical write",
        place: "client/src/retry.rs: Retry::write_failed",
        hint: "A first attempt that is lost after it was sent and takes effect, then refusals that \
               were not decided (NOT_LEADER, NO_QUORUM, no connection) until the deadline: a leader \
               cut off from its clients or killed, and no quorum for the rest of the deadline, \
               which must not be much longer than an election.",
    },
    Bug {
        name: "bounds-before-proposing",
        family: Family::Apply,
        breaks: "a bound is judged where the entry is applied",
        place: "node/src/consensus/bugs.rs: Consensus::decide_before_proposing; \
                node/machine/src/operation/counter.rs: CounterAdd::run; \
                node/machine/src/work.rs: Work::set_counter",
        hint: "Several Adds under way at once on a counter near its bound, without SATURATE; or one \
               inside an atomic step, which is not judged at all. No fault needed. The assertion on \
               stored bounds is off together with the check.",
    },
    Bug {
        name: "wall-clock-in-apply",
        family: Family::Apply,
        breaks: "no clock reaches the state but through the entry",
        place: "node/machine/src/apply.rs: apply_with",
        hint: "Any write: nodes apply at different times, so stored wall times differ. Shows in the \
               state's hash only; with wall clocks that are wrong by more than a millisecond at \
               the latest.",
    },
    Bug {
        name: "log-time-jumps",
        family: Family::Apply,
        breaks: "log time counts elapsed time, whoever leads",
        place: "node/src/consensus/log_time.rs: LogTime::stamp",
        hint: "A wall clock that is wrong by more than a session's idle time or a key's window, on a \
               node that leads or comes to lead: live sessions and keys end early (SESSION_EXPIRED \
               to a busy client, a key that executes twice). Directly: log time in the state has \
               moved further than simulated time.",
    },
    Bug {
        name: "hash-order-in-apply",
        family: Family::Apply,
        breaks: "commands of an entry are applied in their order, on every node",
        place: "node/machine/src/apply.rs: Work::commands",
        hint: "Entries with several commands that do not commute (revisions are enough): many callers \
               at once, few entries in flight. The order follows from the node's id. Answers and \
               the state's hash differ between nodes.",
    },
    Bug {
        name: "one-replica-applies-otherwise",
        family: Family::Apply,
        breaks: "what an entry leaves behind is the same on every replica",
        place: "node/machine/src/apply.rs: apply_with; sim-tests/src/invariants/mod.rs: look",
        hint: "One node changes a bit of a counter now and then, and answers as the others do. The simulator does \
               not compare states then: that node has to find out by comparing itself with the others, and its \
               verdict is what shows.",
    },
    Bug {
        name: "stored-byte-flips",
        family: Family::Apply,
        breaks: "what is stored is what was written",
        place: "node/storage/src/state/flush.rs: write_frozen; sim-tests/src/invariants/mod.rs: look",
        hint: "Now and then a flush leaves a record with a bit flipped. The simulator does not compare states then: a \
               node that overwrites such a record, or counts all of them for a snapshot, has to find out by itself.",
    },
    Bug {
        name: "differing-replica-answers",
        family: Family::Apply,
        breaks: "a replica that was found to differ answers LOCAL reads only",
        place: "node/src/consensus/read.rs: check_own_state",
        hint: "A replica in whose stored state a bit has flipped, found out by comparison, and a read at another level \
               there before the operator has replaced it. What it answers may even be right: what shows is that it \
               answers at all.",
    },
    Bug {
        name: "verdict-forgotten",
        family: Family::Apply,
        breaks: "a replica that was found to differ knows it after a restart",
        place: "node/src/consensus/compare.rs: open",
        hint: "A replica that was found to differ is started again before it is replaced. It would answer until the \
               next comparison.",
    },
    Bug {
        name: "one-state-is-believed",
        family: Family::Apply,
        breaks: "of states that differ, that of a majority of the voters is right",
        place: "node/src/consensus/compare.rs: judge",
        hint: "One replica differs, and its hash happens to be the one that is believed (the lowest, in one of two \
               cases): the sound ones find that they differ, in whose states no bit has flipped.",
    },
    Bug {
        name: "restore-over-what-is-there",
        family: Family::Apply,
        breaks: "a backup is restored into an empty cluster only",
        place: "node/machine/src/restore_work.rs: begin_restore",
        hint: "An operator who has mistaken the one cluster for the other.",
    },
    Bug {
        name: "restore-forgets-a-record",
        family: Family::Apply,
        breaks: "what is restored is the file",
        place: "node/machine/src/restore_work.rs: restore_block",
        hint: "The first record of a block, a counter or a key, is left out, on all replicas alike, and no check of the \
               block finds it. What is read of the restored cluster is not the state at the backup's revision.",
    },
    Bug {
        name: "restore-forgets-keys",
        family: Family::Apply,
        breaks: "what a backup holds counts once after a restore, too",
        place: "node/machine/src/restore_work.rs: restore_block",
        hint: "A write under an idempotency key that is in the backup, sent again to the restored cluster.",
    },
    Bug {
        name: "aborted-restore-leaves-keys",
        family: Family::Apply,
        breaks: "nothing is left of a restore that was taken back",
        place: "node/machine/src/restore_work.rs: abort_restore",
        hint: "A restore that is taken back half-way and begun anew: it meets what the first one left, and is refused.",
    },
    Bug {
        name: "share-not-replicated",
        family: Family::Apply,
        breaks: "how many sessions one address may hold is decided by the entry and the state",
        place: "node/machine/src/session.rs: refuse_another_session",
        hint: "Several sessions of one address: each node has a limit of its own in mind. Answers and the \
               state's hash differ between nodes.",
    },
    Bug {
        name: "waiters-by-index",
        family: Family::Apply,
        breaks: "a waiter gets the answer to its own entry",
        place: "node/src/consensus/propose.rs: Proposer::propose; \
                node/src/consensus/apply.rs: StateMachine::apply_together",
        hint: "A leader that is cut off (or stands still) with several entries under way, and back \
               before its callers have given up: their indexes hold entries of the next leader \
               then, the first of them empty. Callers get answers to other writes; their own is \
               lost though acknowledged. Needs entries_in_flight of 2 or more, and load.",
    },
    Bug {
        name: "late-number-too-old",
        family: Family::Apply,
        breaks: "a number above the watermark without an answer executes, in whatever order numbers arrive",
        place: "node/machine/src/session.rs: Work::standing",
        hint: "Writes of one session that arrive out of order: several at once, or one that is sent \
               again after a later one was answered. A live session's unanswered number is told \
               SEQUENCE_TOO_OLD.",
    },
    Bug {
        name: "session-end-not-put-off",
        family: Family::Apply,
        breaks: "a session ends one idle time after it was last used",
        place: "node/machine/src/session.rs: Work::touch_session",
        hint: "A session that is used for longer than its idle time: idle times of some seconds.",
    },
    Bug {
        name: "key-forgotten-early",
        family: Family::Apply,
        breaks: "a key is remembered for as long as its answer says",
        place: "node/machine/src/idempotency.rs: Work::remember_by_key",
        hint: "A write sent again under its key in the second half of its window: windows of some \
               seconds.",
    },
    Bug {
        name: "created-revision-renewed",
        family: Family::Apply,
        breaks: "a write to what exists keeps the revision that created it",
        place: "node/machine/src/operation/counter.rs: write",
        hint: "Any read of a counter that was written twice, if anybody compares that revision.",
    },
    Bug {
        name: "refusal-tells-another-revision",
        family: Family::Apply,
        breaks: "a failed condition names the revision that last changed what it met",
        place: "node/machine/src/operation/counter.rs: found",
        hint: "A failed compare-and-set, or a failed condition, on a counter that was written twice, if \
               anybody compares the details.",
    },
    Bug {
        name: "refused-step-stays-half-done",
        family: Family::Apply,
        breaks: "a step that is refused leaves nothing behind",
        place: "node/machine/src/apply.rs: Work::execute_and_remember_by_key",
        hint: "A step that is refused after its first operation has written.",
    },
    Bug {
        name: "rolled-back-in-order",
        family: Family::Apply,
        breaks: "a step that is refused leaves everything as it was before its first operation",
        place: "node/machine/src/work.rs: Cache::roll_back",
        hint: "A step that writes one name twice and is refused after that.",
    },
    Bug {
        name: "equal-is-not-at-most",
        family: Family::Apply,
        breaks: "a condition compares as it says",
        place: "node/machine/src/transaction.rs: holds",
        hint: "A condition with <= on a value or revision that is equal.",
    },
    Bug {
        name: "step-reads-unbounded",
        family: Family::Apply,
        breaks: "what the reads of a step return together is bounded",
        place: "node/machine/src/transaction.rs: Work::branch",
        hint: "A step with several reads of large values.",
    },
    Bug {
        name: "overflow-saturates",
        family: Family::Apply,
        breaks: "what does not fit in 64 bits is refused",
        place: "node/machine/src/operation/bounds.rs: sum",
        hint: "An add to a counter near the end of what fits.",
    },
    // --- snapshots -------------------------------------------------------------------------
    Bug {
        name: "snapshot-newer-data",
        family: Family::Snapshot,
        breaks: "a snapshot is the state after exactly the entry that it names",
        place: "node/storage/src/state/snapshots.rs: StateStore::build_snapshot",
        hint: "The snapshot names the flush before. A node installs one that was built after a busy \
               flush interval, and applies entries a second time: as for applied-saved-after. Its \
               state at the snapshot's index has another hash at once.",
    },
    Bug {
        name: "install-before-jump",
        family: Family::Snapshot,
        breaks: "the log has jumped to a snapshot, durably, before the state is the snapshot's",
        place: "node/storage/src/state/install.rs: StateStore::install_snapshot",
        hint: "A crash between the pointer and the log's jump: the state is ahead of its log, which says \
               that the log was lost, so the node does not start again.",
    },
    Bug {
        name: "install-not-atomic",
        family: Family::Snapshot,
        breaks: "after a crash during an install the state is the old one or the new one",
        place: "node/storage/src/state/install.rs: StateStore::install_snapshot",
        hint: "A power cut or kill while a follower fills the new generation: slow store, power cuts \
               at a disk step right after it begins to receive a snapshot. It opens with a part of \
               the snapshot's records, or none, and takes them for all.",
    },
    Bug {
        name: "install-merges",
        family: Family::Snapshot,
        breaks: "an installed snapshot replaces everything",
        place: "node/storage/src/state/install.rs: StateStore::install_snapshot",
        hint: "Counters or keys deleted (or answers forgotten, sessions ended) while a node was away \
               for so long that it gets a snapshot. They are back on that node: the state's hash, \
               reads there, lists.",
    },
    Bug {
        name: "install-forgets-a-block",
        family: Family::Snapshot,
        breaks: "an installed snapshot has all of its blocks",
        place: "node/storage/src/state/install.rs: fill",
        hint: "The install of a snapshot of more than one block, 256 KiB: large values.",
    },
    // --- membership and liveness -----------------------------------------------------------
    Bug {
        name: "voter-swapped-in-one-step",
        family: Family::Membership,
        breaks: "majorities of the old voters and of the new ones overlap at each step",
        place: "node/src/consensus/members.rs: Consensus::promote; \
                node/src/consensus/membership.rs: encode_membership",
        hint: "promote() also drops the voter that is furthest behind, and the entry as logged and \
               sent names the new voters only. (openraft's leader, in memory, goes on counting both: \
               append_membership refuses a swap, MembershipState::validate_append_membership.) \
               Shows when nodes act on the logged entry: leader and new node on one side of a \
               partition, the other old voters on the other, and the leader restarted there. Each \
               side elects: two leaders that both commit.",
    },
    Bug {
        name: "wiped-disk-votes",
        family: Family::Membership,
        breaks: "a voter that lost its disk does not come back under its old id",
        place: "node/src/peer/hello/memory.rs: Greeter::compare; node/src/peer/hello.rs: Greeter::answer; \
                node/src/peer/peers.rs: Peers::check_stamp",
        hint: "A lost disk under the same node id, without the operator replacing the node. With a \
               write that this node and the leader alone held: it helps a node without it to win. \
               If the leader that knew its log still leads, its core task panics (openraft, \
               'follower log reversion').",
    },
    Bug {
        name: "lost-log-accepted",
        family: Family::Membership,
        breaks: "a voter whose log is gone does not take part, though the rest of its directory is there",
        place: "node/src/node/stored.rs: open_log; node/storage/src/state/open.rs: Opening::check_log; \
                node/src/peer/hello/memory.rs: Greeter::compare",
        hint: "A log that is lost and a state that is not. It votes, and acknowledges entries, with \
               nothing that it had promised.",
    },
    Bug {
        name: "older-copy-votes",
        family: Family::Membership,
        breaks: "a voter that is an older copy of itself does not take part, where a peer can tell it",
        place: "node/src/peer/hello/memory.rs: Greeter::compare",
        hint: "A whole disk put back from a copy that was made before the node's last start.",
    },
    Bug {
        name: "joint-left-open",
        family: Family::Membership,
        breaks: "a promotion that is confirmed has left the old voters behind",
        place: "node/src/consensus/members.rs: Consensus::promote, Consensus::end_open_changes",
        hint: "A leader that dies, or is cut off, between the two entries of a promotion, and an operator \
               who asks again: the next leader finds the node in one of the two sets, and says that it is \
               done. A majority of the old voters is needed for ever. Shows where what the operator was \
               told is compared with what was committed. (The product did so until the simulator had \
               operators who ask again.)",
    },
    Bug {
        name: "removed-runs-on",
        family: Family::Membership,
        breaks: "a removed node that reaches a member ends itself, and does not start again",
        place: "node/src/peer/hello.rs: Greeter::greet; node/src/peer/hello.rs: Greeter::look_at_membership",
        hint: "A removed node that is left running, or started again. What it answers at LOCAL gets older \
               and older, and nobody looks after it.",
    },
    Bug {
        name: "removed-by-an-older-state",
        family: Family::Membership,
        breaks: "a node takes itself for removed by a membership behind the one that had it",
        place: "node/src/env/identity.rs: Identity::saw_membership",
        hint: "A node that was added, and whose process is killed before the state in which it is a member \
               is flushed, where the state on its disk is of a time before it was added: from a snapshot, \
               mostly. It does not start any more, though nothing was damaged. (The product did so until \
               the simulator had clusters that grow while machines lose their power.)",
    },
    Bug {
        name: "record-of-a-directory-unread",
        family: Family::Membership,
        breaks: "a member that was just added is the directory that was added, also for who has not met it yet",
        place: "node/src/peer/peers.rs: Incarnations::of",
        hint: "A machine is added under an id, and another directory comes to its address under the same id, of no \
               cluster yet, before all others have met the first one: it takes the log, is counted, and takes an \
               entry away with it that it has helped to commit.",
    },
    Bug {
        name: "another-cluster-accepted",
        family: Family::Membership,
        breaks: "nodes of two clusters do not mix",
        place: "node/src/peer/service.rs: check_target; \
                node/src/peer/hello.rs: Greeter::is_another_cluster",
        hint: "A node of another cluster that is given to AddLearner, or has a member's address. (At a \
               member's address its directory is another one too, which is looked at as well.)",
    },
    Bug {
        name: "wiped-majority-forms",
        family: Family::Membership,
        breaks: "a cluster is formed by all of its first members, and by no majority of them",
        place: "node/src/node/peering.rs: admission",
        hint: "The disks of two nodes of three lost at once, and the third out of reach: they elect one of \
               them and serve an empty store. Shows at the first vote.",
    },
    Bug {
        name: "learner-counts-for-reads",
        family: Family::Membership,
        breaks: "a leader that confirms that it leads counts voters only",
        place: "node/src/consensus/confirm.rs: Leading::of; node/src/consensus/confirm.rs: has_quorum",
        hint: "A leader and a learner on one side, the other two voters on the other, which elect and \
               acknowledge writes; clients read at the old leader. Shows as a stale linearizable read.",
    },
    Bug {
        name: "write-before-cluster-known",
        family: Family::Reads,
        breaks: "an acknowledged write brings a token, also in the first moments of a cluster",
        place: "node/src/consensus/mod.rs: Consensus::wait_cluster_known",
        hint: "Clients that ask before the cluster has its id: their writes are acknowledged without a \
               token, so a SESSION read after them may miss them.",
    },
    Bug {
        name: "leader-never-steps-down",
        family: Family::Membership,
        breaks: "a leader that hears nobody stops being followed",
        place: "node/src/peer/peers.rs: Peers::drop_client; node/src/peer/peers.rs: Peers::dial; \
                node/src/peer/server.rs: serve",
        hint: "A leader that is deaf and not mute: nothing reaches it from other nodes, its own \
               messages arrive. It keeps its old connections and its heartbeats go on, so nobody \
               else is elected, and it can commit nothing; if answers were lost, also after the \
               link is whole. Shows as liveness: no progress after the heal, or no leader with a \
               quorum while a majority is connected both ways.",
    },
    // --- who may do what ---------------------------------------------------------------------
    Bug {
        name: "forwarder-speaks",
        family: Family::Rights,
        breaks: "the leader decides a forwarded write for its caller, and whoever forwards it lends it nothing",
        place: "node/src/peer/service.rs: as_the_forwarder",
        hint: "A write at a follower by somebody who may not do it: it is done. Shows in the log, whose entry \
               names another than was shown, and in an answer that the rights do not allow.",
    },
    Bug {
        name: "rights-at-receipt",
        family: Family::Rights,
        breaks: "a write is decided by the rights as of its own entry",
        place: "node/src/api/writes.rs: command; node/machine/src/apply.rs: exactly_once",
        hint: "A right that is taken away while a write is under way, or behind the back of a node that lags: what \
               it lets in is done.",
    },
    Bug {
        name: "rights-as-committed",
        family: Family::Rights,
        breaks: "a change of rights counts from its own entry on, on all replicas alike",
        place: "node/machine/src/work.rs: rights",
        hint: "A change of rights and a write that hangs on it, applied in one go: up to 64 entries are, and each \
               replica takes others together. Shows as a decision by older rights, or as replicas that differ.",
    },
    Bug {
        name: "replay-shows-as-then",
        family: Family::Rights,
        breaks: "a remembered answer is given with the rights of now",
        place: "node/machine/src/apply.rs: command",
        hint: "A write under a key, sent again after its user may not read any more what it wrote to: the values \
               are shown.",
    },
    Bug {
        name: "keys-are-everybodys",
        family: Family::Rights,
        breaks: "an idempotency key belongs to its user",
        place: "node/machine/src/keys.rs: key_of_user",
        hint: "Two users with equal keys: the one is given the other's answer, or told that the key was used.",
    },
    Bug {
        name: "adds-show-values",
        family: Family::Rights,
        breaks: "who may add and not read is not told what is there",
        place: "node/machine/src/redact.rs: redact_answer",
        hint: "Any add by such a user.",
    },
    Bug {
        name: "other-branch-unasked",
        family: Family::Rights,
        breaks: "an atomic step is allowed whole or not at all, also the branch that would not run",
        place: "node/machine/src/apply.rs: forbid",
        hint: "A step whose `else` writes where its caller may not.",
    },
    Bug {
        name: "list-of-what-is-in-part-allowed",
        family: Family::Rights,
        breaks: "a list takes the right to read everything that begins with its prefix",
        place: "node/machine/src/rights.rs: may_list",
        hint: "A list with a prefix of which a user may read a part: its neighbours' names are on it.",
    },
    Bug {
        name: "later-page-unchecked",
        family: Family::Rights,
        breaks: "each page of a list or scan is decided by the rights of the state that it is read from",
        place: "node/src/api/reads.rs: counters_list; node/src/api/reads.rs: keys_scan",
        hint: "A right to read that is taken away between two pages.",
    },
    Bug {
        name: "revoked-goes-on",
        family: Family::Rights,
        breaks: "a token that was revoked counts no more, also over a stream that was opened with it",
        place: "node/machine/src/rights.rs: of",
        hint: "A stream whose caller was found out before its token was revoked.",
    },
    Bug {
        name: "over-is-asked-once",
        family: Family::Rights,
        breaks: "whether a token is over is looked at with each call",
        place: "node/src/api/who.rs: rights; node/src/api/writes.rs: command",
        hint: "A token that ends while a stream is open.",
    },
    // --- upgrades ----------------------------------------------------------------------------
    Bug {
        name: "gate-open",
        family: Family::Upgrades,
        breaks: "nothing is written that the cluster's version of the formats does not have",
        place: "node/machine/src/apply.rs: admit; node/src/consensus/guard.rs: check_version",
        hint: "A client that asks for it while a node of the older release is there, which then meets what it can't read.",
    },
    Bug {
        name: "finalize-unheard",
        family: Family::Upgrades,
        breaks: "an upgrade is finalized only once every member has said that it reads what comes then",
        place: "node/src/consensus/upgrade.rs: plan",
        hint: "Any member of the older release where a cluster begins, or where a leader finalizes: it ends itself at the \
               entry.",
    },
    // --- quotas --------------------------------------------------------------------------
    Bug {
        name: "quota-refuses-an-add",
        family: Family::Quotas,
        breaks: "above a hard limit only what grows is refused",
        place: "node/machine/src/quota_work.rs: charge; node/machine/src/quotas.rs: charge",
        hint: "An add to a counter that exists, or a value of the same length, while as much is used as a hard \
               limit allows: it is refused as if it were one more.",
    },
    Bug {
        name: "quota-never-refuses",
        family: Family::Quotas,
        breaks: "above a hard limit what grows is refused",
        place: "node/machine/src/quotas.rs: charge",
        hint: "Anything that grows above a hard limit: it is done.",
    },
    Bug {
        name: "quota-forgets-a-delete",
        family: Family::Quotas,
        breaks: "a delete makes room at once, and nothing has to be switched back on",
        place: "node/machine/src/quotas.rs: charge",
        hint: "A delete under a quota. Shows in a list, and in the refusal of what there is room for.",
    },
    Bug {
        name: "quota-keeps-what-a-refused-step-took",
        family: Family::Quotas,
        breaks: "a step that is refused takes nothing of a quota",
        place: "node/machine/src/quotas.rs: roll_back",
        hint: "A step, or a write without room for its key, that is refused after it has made or removed something \
               under a quota. Shows in a list, and in later refusals.",
    },
    Bug {
        name: "quota-begins-at-nothing",
        family: Family::Quotas,
        breaks: "a new quota knows what is there before it refuses",
        place: "node/machine/src/quotas.rs: count",
        hint: "A quota that is set over items that are there: a list says nothing is used, and a delete is of more \
               than is used, which ends the node.",
    },
    Bug {
        name: "quota-refusal-remembered",
        family: Family::Quotas,
        breaks: "what a quota refuses leaves no trace under a number or key",
        place: "node/machine/src/apply.rs: is_forgotten",
        hint: "A write under a key that is refused by a quota, and sent again: the refusal is its answer for ever.",
    },
    // --- the simulator itself --------------------------------------------------------------
    Bug {
        name: "recorder-drops-failures",
        family: Family::Harness,
        breaks: "every call of every user is part of the history that is judged",
        place: "sim-tests/src/workload/mod.rs: Book::finish",
        hint: "Any failed call. A violation that needs it would not be seen. Shows where the calls that \
               users counted are compared with those that were recorded.",
    },
    Bug {
        name: "partition-does-nothing",
        family: Family::Harness,
        breaks: "a link that is cut carries nothing",
        place: "sim-tests/src/faults/links.rs: set",
        hint: "Any cut that lasts for some seconds: bytes arrive over it.",
    },
    Bug {
        name: "crash-keeps-unsynced",
        family: Family::Harness,
        breaks: "a power cut loses or tears what was not synced",
        place: "sim-tests/src/faults/inject/mod.rs: set_up",
        hint: "Some power cuts during writes: of all the sectors that they could take they take none.",
    },
    Bug {
        name: SHOWN_BY_TWO_RUNS,
        family: Family::Harness,
        breaks: "the same seed gives the same run",
        place: "sim-tests/src/env/clock.rs: real_ms",
        hint: "Any write, as it carries a wall time. Shows as two traces that differ; a single run is \
               as good as any.",
    },
];
