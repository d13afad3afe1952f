//! What watches over a running node: its quorum, Raft's health, what is due to expire, and the
//! cluster's first command.

use std::{sync::Arc, time::Duration};

use openraft::{async_runtime::WatchReceiver, errors::Fatal as RaftFatal};
use tally_proto::seeded_bugs;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{
    Consensus,
    first_token::{self, FirstToken},
    leader::{Leadership, Writing, no_quorum_after},
    news,
    raft::Raft,
};
use crate::{
    env::{Fatal, Random},
    machine::{
        command::{Action, Command, Fingerprint, Settings},
        query,
        version::FormatVersion,
    },
};

/// While something could expire, log time moves at least this often.
const TICK: Duration = Duration::from_secs(60);

/// While something that has expired waits to be removed, ticks come this often: each removes a
/// bounded number.
const HOUSEKEEPING_TICK: Duration = Duration::from_millis(500);

/// While a quota counts what was there when it was set, ticks come this often: each counts about a thousand items, so
/// a million take half a minute in a cluster in which nobody writes. (Elsewhere each entry counts as many.)
const COUNTING_TICK: Duration = Duration::from_millis(20);

/// How often it is looked whether the cluster has its id yet.
const CREATE_RETRY: Duration = Duration::from_millis(50);

/// Deadline of the node's own commands.
const OWN_COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// How often it is looked whether there is a quorum.
pub(super) fn quorum_check_period(election_timeout_max: Duration) -> Duration {
    election_timeout_max / 4
}

/// Writes that are under way get on by one entry at least in so many times the patience with a quorum (three seconds, with
/// elections of 300 ms), or there is none. A disk may take a second for one flush and all is well; one that never ends,
/// on a majority, would let each writer wait for its deadline.
const STANDSTILL: u32 = 5;

/// Says when this node leads and has reached no quorum for about two election timeouts, or follows
/// and has heard of no leader for as long: waiters are then told UNKNOWN instead of hanging until their
/// deadlines, and nothing more is proposed or forwarded. Neither can be seen from who leads: a
/// leader believes in itself, and a follower in its leader, until somebody wins a later term.
///
/// Nor can it be seen from heartbeats alone. Whoever has to be sent a snapshot first answers them and stores nothing, for
/// ever if it has no room for that snapshot; so does a node whose disk hangs. The one is known by its log ([`Writing`]),
/// the other by a commit index that stands still. What is under way then stays in the log, and once it is committed,
/// there is a quorum again. (`no_room_for_a_snapshot`; `a_standstill_is_a_lost_quorum`.)
pub(super) async fn watch_quorum(
    leadership: Leadership,
    election_timeout_max: Duration,
    lost: watch::Sender<bool>,
) {
    let period = quorum_check_period(election_timeout_max);
    // It is seen up to one period late, and who waits for a forwarded write grants one more.
    let limit = no_quorum_after(election_timeout_max) - 2 * period;
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writes = Writes::default();
    while !lost.is_closed() {
        let now = interval.tick().await;
        let leads = leadership.term_as_leader().is_some();
        let since = match leads {
            true => leadership.since_quorum_ack(),
            false => leadership.since_leader_heard().await,
        };
        let writing = leads.then(|| leadership.writing(limit));
        let is_lost =
            since.is_some_and(|since| since > limit) || writes.are_lost(writing, now, limit);
        if lost.send_if_modified(|value| std::mem::replace(value, is_lost) != is_lost) {
            news::tell_quorum(is_lost, leads);
        }
    }
}

/// Since when a leader's writes have not got on.
#[derive(Debug, Default)]
struct Writes {
    without_quorum: Option<Instant>,
    still: Option<(u64, Instant)>,
}

impl Writes {
    /// What was seen just now, nothing if this node does not lead.
    fn are_lost(&mut self, writing: Option<Writing>, now: Instant, limit: Duration) -> bool {
        let writing = writing.filter(|_| !seeded_bugs::is_on("heartbeats-are-a-quorum"));
        let Some(Writing { has_quorum, last_index, commit_index }) = writing else {
            *self = Writes::default();
            return false;
        };
        self.without_quorum = (!has_quorum).then(|| self.without_quorum.unwrap_or(now));
        let under_way = last_index > commit_index;
        let still = self.still.filter(|(at, _)| *at == commit_index);
        self.still = under_way.then(|| still.unwrap_or((commit_index, now)));
        self.without_quorum.is_some_and(|since| now - since > limit)
            || self.still.is_some_and(|(_, since)| now - since > STANDSTILL * limit)
    }
}

/// Ends the process when Raft has stopped for a reason other than a shutdown: a storage error, or
/// an invariant that broke.
///
/// It waits for the end of the channel that Raft's task closes when it is gone, not on the metrics:
/// those are sent with every message that the task handles, each time waking whoever waits. Why it
/// is gone only the end of the task itself says: a runtime that is shut down drops it too, while
/// this one may still be running on another thread, and that is no panic.
pub(super) async fn watch_raft(raft: Raft, fatal: Fatal) {
    let mut server = raft.server_metrics();
    while server.changed().await.is_ok() {}
    match raft.with_raft_state(|_| ()).await {
        Ok(()) | Err(RaftFatal::Stopped) => {}
        Err(error) => fatal(format!("consensus has stopped: {error}")),
    }
}

/// Gives the cluster its id: the leader's first command, unless the state has one already. With a place for a
/// first token, authentication is on from that command on.
pub async fn create_cluster(
    consensus: Consensus,
    random: Arc<dyn Random>,
    settings: Settings,
    first_token: Option<FirstToken>,
    fatal: Fatal,
) {
    // 0 stands for no id.
    let cluster_id = random.next_u128().max(1);
    let mut secret_hash = None;
    loop {
        let known = query::meta(&consensus.state().view()).cluster_id;
        if known != 0 {
            consensus.cluster_id().set(known);
            if let Some(first_token) = first_token
                && let Err(error) = first_token.settle(consensus.state()).await
            {
                fatal(format!("the file {}: {error}", first_token::FILE));
            }
            return;
        }
        if consensus.leadership().term_as_leader().is_some() {
            if let Some(first_token) = &first_token
                && secret_hash.is_none()
            {
                secret_hash = match first_token.make(&*random).await {
                    Ok(hash) => Some(hash),
                    Err(error) => {
                        return fatal(format!("the file {}: {error}", first_token::FILE));
                    }
                };
            }
            let version = consensus.first_version();
            let command = own_command(match secret_hash {
                _ if version > FormatVersion::FIRST => {
                    Action::CreateClusterAt { cluster_id, settings, secret_hash, version }
                }
                None => Action::CreateCluster { cluster_id, settings },
                Some(secret_hash) => {
                    Action::CreateSecureCluster { cluster_id, settings, secret_hash }
                }
            });
            let deadline = Instant::now() + OWN_COMMAND_DEADLINE;
            match consensus.write_here(command, None, deadline).await {
                // Writes wait for it.
                Ok(_) => continue,
                Err(error) => tracing::debug!(%error, "the cluster could not be given its id yet"),
            }
        }
        tokio::time::sleep(CREATE_RETRY).await;
    }
}

/// Moves log time while something could expire and nobody writes.
pub async fn tick(consensus: Consensus) {
    let mut last = Instant::now();
    let mut pause = HOUSEKEEPING_TICK;
    loop {
        tokio::time::sleep(pause).await;
        pause = HOUSEKEEPING_TICK;
        if consensus.leadership().term_as_leader().is_none() {
            continue;
        }
        let wanted = {
            let view = consensus.state().view();
            let could_expire = || query::next_expiry_log_time(&view).is_some();
            let counts = query::quotas_count(&view);
            if counts {
                pause = COUNTING_TICK;
            }
            counts || query::housekeeping_due(&view) || (last.elapsed() >= TICK && could_expire())
        };
        if wanted {
            last = Instant::now();
            let deadline = Instant::now() + OWN_COMMAND_DEADLINE;
            let _ = consensus.write_here(own_command(Action::Tick), None, deadline).await;
        }
    }
}

pub(super) fn own_command(action: Action) -> Command {
    Command {
        session: None,
        idempotency: None,
        fingerprint: Fingerprint::default(),
        action,
        caller: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(450);

    fn seen(has_quorum: bool, last_index: u64, commit_index: u64) -> Option<Writing> {
        Some(Writing { has_quorum, last_index, commit_index })
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_a_lost_quorum() {
        let mut writes = Writes::default();
        let start = Instant::now();
        let mut at =
            |ms: u64, writing| writes.are_lost(writing, start + Duration::from_millis(ms), LIMIT);
        // One entry is under way and does not get on; more come.
        assert!(!at(0, seen(true, 8, 7)));
        assert!(!at(2_250, seen(true, 9, 7)));
        assert!(at(2_251, seen(true, 9, 7)));
        // It gets on, and the next one has all the time again.
        assert!(!at(2_400, seen(true, 9, 8)));
        assert!(!at(4_650, seen(true, 9, 8)));
        assert!(at(4_651, seen(true, 9, 8)));
        // Nothing is under way: that is no standstill, however long it is.
        assert!(!at(5_000, seen(true, 9, 9)));
        assert!(!at(90_000, seen(true, 9, 9)));
        assert!(!at(90_001, seen(true, 10, 9)));
    }

    #[tokio::test(start_paused = true)]
    async fn voters_that_need_a_snapshot_are_no_quorum() {
        let mut writes = Writes::default();
        let start = Instant::now();
        let mut at =
            |ms: u64, writing| writes.are_lost(writing, start + Duration::from_millis(ms), LIMIT);
        assert!(!at(0, seen(false, 7, 7)));
        assert!(!at(450, seen(false, 7, 7)), "a snapshot may just be on its way");
        assert!(at(451, seen(false, 7, 7)), "with nothing under way, too");
        assert!(!at(500, seen(true, 7, 7)));
        assert!(!at(900, seen(false, 7, 7)), "it counts anew");
        assert!(!at(1_400, None), "another node leads");
        assert!(!at(1_500, seen(false, 7, 7)));
    }
}
