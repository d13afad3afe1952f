//! openraft's settings: each one is a decision of ours, with its reason. The struct is written out whole, so
//! that a setting which a new release adds does not compile until somebody has decided on it.

use openraft::{SnapshotPolicy, StepDownPolicy};
use tally_proto::seeded_bugs;

use super::SNAPSHOT_CHUNK_BYTES;
use crate::config::Config;

/// Longest pause, in ms, before a peer that could not be reached is tried again.
const RETRY_MS_MAX: u64 = 100;

/// The settings of a node. `elect` is false while it must not stand.
#[expect(deprecated, reason = "the struct is written out whole, also what is on its way out of it")]
pub fn raft_config(config: &Config, elect: bool) -> openraft::Config {
    // A node that comes back gets its first entry after one pause and one attempt, which ends after three
    // quarters of a heartbeat: together below 200 ms. openraft's own series (200, 400, 800, 1000 ms) made
    // a cluster whose majority was back wait up to 2 s for its first write. An attempt at a machine
    // that is down costs next to nothing.
    let retry_ms = config.heartbeat_interval_ms.min(RETRY_MS_MAX);
    openraft::Config {
        // Only logged.
        cluster_name: "tally".to_owned(),

        heartbeat_interval: config.heartbeat_interval_ms,
        election_timeout_min: config.election_timeout_ms_min,
        election_timeout_max: config.election_timeout_ms_max,
        // Heartbeats go out beside entries: they tell a peer that is reached from one that has a slow disk.
        heartbeat_min_interval: Some(0),
        enable_tick: true,
        enable_heartbeat: true,
        enable_elect: elect,
        // Without it, a node that was cut off comes back with a higher term and ends a good leader's
        // reign.
        enable_pre_vote: Some(true),
        // A restarted leader may have lost the unsynced tail of its log, entries that its followers
        // committed; in its old term it would use their (term, index) again for others.
        enable_leader_restore: Some(seeded_bugs::is_on("leader-restored")),
        // Long enough for the answer to whoever removed the leader, and for followers to learn that it is
        // committed; then another voter takes over.
        removed_leader_step_down: StepDownPolicy::After(150),
        // A leader that sends and hears nothing can't make connections either, as each needs an answer,
        // so its heartbeats do not arrive. Writes are refused when no quorum is heard (`tasks`).
        quorum_loss_probe_interval: None,
        // A log that is shorter than it was told is a node that has forgotten something. Its peers tell it
        // before it takes part (`peer::hello`); the leader must not help it to hide that.
        allow_log_reversion: Some(false),

        // Snapshots are triggered by this node: the log's growth is counted in bytes too.
        snapshot_policy: SnapshotPolicy::Never,
        // Ours are sent as one stream of chunks, whose size is `SNAPSHOT_CHUNK_BYTES`.
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES as u64,
        // For one part to be taken, and not for all of them: a large state, or a slow link, takes as long as it takes.
        install_snapshot_timeout: 60_000,
        // For segments of snapshots that are sent one by one, which ours are not.
        send_snapshot_timeout: 0,
        // The log is purged by this node (`snapshots`): openraft does not wait for snapshots that are on their way.
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: 1,
        // A follower that lags by less than the log holds gets entries, not a snapshot.
        replication_lag_threshold: u64::MAX / 2,

        // An entry holds up to 512 KiB of commands, a message up to 1 MiB of entries; these only bound
        // how many small ones are moved at once.
        max_payload_entries: 256,
        max_append_entries: Some(256),
        // What waits here was admitted before (`Consensus::admit`), in entries of which few are under way.
        api_channel_size: Some(4096),
        api_batch_capacity: 4096,
        // No timer on the way of a write.
        api_batch_linger_ms: 0,
        // Raft's own messages (I/O completed, progress, ticks): when they don't fit, those who send them
        // wait, so the bound costs nothing but a little order.
        notification_channel_size: Some(65_536),
        // Apply, build, install. Raft's task waits when this many are queued, which is when the state
        // machine is a thousand entries behind.
        state_machine_channel_size: Some(1024),
        // Statistics that are not compiled in.
        log_stage_capacity: None,
        // Earlier replication makes smaller batches, as openraft warns; not measured here.
        broadcast_submitted_on_append: Some(false),

        // The same pause again and again.
        backoff: format!("{retry_ms}ms {retry_ms}ms {retry_ms}ms"),
        // Whoever is to lead next is needed at once.
        reset_backoff_on_transfer_leader: Some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_peer_is_tried_again_soon_and_as_soon_ever_after() {
        for heartbeat_interval_ms in [10, 60, 1000] {
            let config = Config { heartbeat_interval_ms, ..Config::default() };
            let election_timeouts = Config {
                election_timeout_ms_min: 3 * heartbeat_interval_ms,
                election_timeout_ms_max: 5 * heartbeat_interval_ms,
                ..config
            };
            let config = raft_config(&election_timeouts, true).validate().expect("it is valid");
            let pauses: Vec<_> = config.build_backoff().take(20).collect();
            let longest = heartbeat_interval_ms.min(RETRY_MS_MAX);
            assert!(
                pauses.iter().all(|pause| pause.as_millis() <= u128::from(longest)),
                "{pauses:?}"
            );
        }
    }
}
