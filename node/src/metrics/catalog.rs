//! Every metric of a node: its name, type, labels and meaning, and when to worry. What a node exports is written
//! under these, and `docs/metrics.md` is made of them.
//!
//! Names follow OpenMetrics: base units (seconds, bytes), `_total` on counters. The kind of a value is told by the name, so a
//! name never changes its meaning: a new meaning is a new name.

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, from the start of the process.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values were up to each bound, their number and their sum.
    Histogram,
    /// Always 1: its labels are what it says.
    Info,
}

impl Kind {
    /// As the text formats name it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name, as queries say it (but for a histogram's endings).
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    /// When to worry.
    pub worry: &'static str,
}

macro_rules! catalog {
    ($($section:literal { $($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal $worry:literal;)* })*) => {
        $($(
            #[doc = $help]
            pub const $id: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
                worry: $worry,
            };
        )*)*

        /// All of them, in sections.
        pub const CATALOG: &[(&str, &[&Family])] = &[$(($section, &[$(&$id),*])),*];
    };
}

catalog! {
    "The node" {
        BUILD = Info "tally_build_info" ["version", "profile"]
            "The program: its version with its commit, and the profile it was built in."
            "Nodes of one cluster differ for longer than an upgrade takes; a profile other than dist in production.";
        NODE = Info "tally_node_info" ["node", "cluster"]
            "The node: its id, and that of its cluster once it knows it."
            "Two targets have the same node, or one has another cluster than the rest.";
        READY = Gauge "tally_ready" ["check"]
            "1 if a check of /readyz holds, else 0."
            "0 for longer than an election (seconds): /readyz?verbose of the node says why.";
        WALL_CLOCK = Gauge "tally_wall_clock_timestamp_seconds" []
            "The node's wall clock when it was asked. It is stored for display only and decides nothing."
            "It is more than some seconds from the scraper's: times that users see are wrong.";
        CLIENT_CONNECTIONS = Gauge "tally_client_connections" []
            "Connections open on the client port."
            "It comes near tally_client_connections_max, or falls to nothing while there should be load.";
        CLIENT_CONNECTIONS_MAX = Gauge "tally_client_connections_max" []
            "Connections that the client port takes at most: what file descriptors leave."
            "It is below what the clients need: raise the limit on open files.";
        CLIENT_CONNECTIONS_REFUSED = Counter "tally_client_connections_refused_total" []
            "Connections to the client port that were refused because the most were open."
            "It grows.";
        CPU = Counter "process_cpu_seconds_total" []
            "CPU time of the process, user and system."
            "Its rate stays near the number of cores.";
        MEMORY = Gauge "process_resident_memory_bytes" []
            "Resident memory of the process."
            "It comes near the machine's or the container's limit. The caches grow to what is configured first.";
        OPEN_FILES = Gauge "process_open_fds" []
            "File descriptors that are open."
            "It comes near process_max_fds.";
        MAX_FILES = Gauge "process_max_fds" []
            "File descriptors that may be open."
            "It is below 1024.";
        START_TIME = Gauge "process_start_time_seconds" []
            "When the process started, in seconds since 1970."
            "It changes without anybody having restarted the node.";
    }
    "Requests" {
        REQUESTS = Counter "tally_requests_total" ["method", "transport", "outcome"]
            "Requests that ended: ok; refused for what they ask or what the data is; failed, because the node or the cluster could not; or abandoned by their callers."
            "failed grows faster than in an election now and then; abandoned is a large part.";
        REQUEST_DURATION = Histogram "tally_request_duration_seconds" ["method", "transport", "outcome"]
            "From the arrival of a request until its answer is known. A write waits for the disks of a majority."
            "The 99th percentile is several times what it is on a good day, or near the clients' deadlines.";
        REQUESTS_IN_FLIGHT = Gauge "tally_requests_in_flight" ["method", "transport"]
            "Requests that have arrived and are not answered."
            "It grows and does not fall again: more comes than the node can do.";
        REQUEST_ERRORS = Counter "tally_request_errors_total" ["method", "reason"]
            "Requests that did not end ok, by the reason that their callers were given."
            "NO_QUORUM, TOO_MANY_IN_FLIGHT, TOO_MANY_BYTES_IN_FLIGHT, DISK_NEARLY_FULL, SESSION_TABLE_FULL, DEDUP_TABLE_FULL or OUTCOME_UNKNOWN grow.";
        LIMITS_EXCEEDED = Counter "tally_limits_exceeded_total" ["limit"]
            "How often a client wanted more than its share of the node, or a user more operations a second than its roles allow. With limit_report_only nobody is refused for it."
            "It grows: who it is, the role or the share should be looked at.";
        SLOW_OPERATIONS = Counter "tally_slow_operations_total" ["method"]
            "Requests that took longer than slow_operation_ms; the log has a bounded number of them, with where the time went."
            "It grows steadily.";
        HOT_ITEMS = Gauge "tally_hot_item_operations_per_second" ["kind", "item"]
            "The ten most used counters and keys of the last 15 s on this node, estimated from one request in 61 (writes and reads of a single item). hot_item_names says whether names are shown, hashed or not counted."
            "One counter takes most of a cluster's load: its writes are ordered one after the other.";
    }
    "Certificates" {
        CERTIFICATE_END = Gauge "tally_certificate_not_after_timestamp_seconds" ["key", "name"]
            "When a certificate in use ends, in seconds since 1970: the first end in its chain, or the last one of a file of CAs. key is the configuration's. Absent without TLS."
            "Less than 30 days from now.";
        CERTIFICATE_BEGIN = Gauge "tally_certificate_not_before_timestamp_seconds" ["key", "name"]
            "From when on it is good."
            "It is to come: others refuse it.";
    }
    "The audit log" {
        AUDIT_LINES = Counter "tally_audit_log_lines_total" ["result"]
            "Lines of the audit log: written, or dropped as there was no room for them. All of this section is absent without an audit log."
            "dropped grows: what was asked then is not recorded.";
        AUDIT_WRITTEN = Counter "tally_audit_log_written_bytes_total" []
            "Bytes of the lines that were written."
            "Never by itself.";
        AUDIT_REFUSED = Counter "tally_audit_log_refused_requests_total" []
            "Requests that were refused as they could not be recorded (audit_log_must_not_drop)."
            "It grows.";
        AUDIT_QUEUED = Gauge "tally_audit_log_queued_bytes" []
            "Bytes of lines that wait to be written."
            "It stays high: the disk of the audit log is slow.";
        AUDIT_FAILING = Gauge "tally_audit_log_failing" []
            "1 while the file of the audit log can't be written; the node's log says why."
            "1.";
    }
    "Writes, from the queue to the state" {
        PROPOSALS_WAITING = Gauge "tally_proposals_waiting" []
            "Writes in the queue before the next log entry."
            "It stays above what one entry holds (2048).";
        WRITES_IN_FLIGHT = Gauge "tally_writes_in_flight" []
            "Writes that hold a place of writes_in_flight."
            "It comes near tally_writes_in_flight_max: further unary writes are refused.";
        WRITES_IN_FLIGHT_MAX = Gauge "tally_writes_in_flight_max" []
            "The configured writes_in_flight."
            "Never by itself.";
        ENTRY_COMMANDS = Histogram "tally_entry_commands" []
            "Commands in a log entry that this node proposed as the leader."
            "Never by itself: it grows with the load.";
        ENTRY_SIZE = Histogram "tally_entry_size_bytes" []
            "Bytes of such an entry."
            "Entries stay at 512 KiB: large values fill them.";
        QUEUE_DURATION = Histogram "tally_entry_queue_duration_seconds" []
            "How long the oldest command of an entry waited until the entry was handed to Raft."
            "It is longer than what follows it: more comes than entries_in_flight lets through.";
        LOG_DURATION = Histogram "tally_entry_log_duration_seconds" []
            "From there until the entry is durable in the leader's own log, or applied if its followers were faster."
            "It is far above tally_log_sync_duration_seconds: entries wait for the syncs before theirs.";
        QUORUM_DURATION = Histogram "tally_entry_quorum_duration_seconds" []
            "From there until the leader begins to apply the entry: what a majority takes longer than the leader, and entries that are applied before it."
            "It is far above tally_log_sync_duration_seconds of the followers: one of them or the network is slow.";
        APPLY_DURATION = Histogram "tally_apply_duration_seconds" []
            "One step of applying committed entries (up to 64 together) to the state."
            "More than some 10 ms: nothing else of Raft runs meanwhile.";
        APPLIED_COMMANDS = Counter "tally_applied_commands_total" []
            "Commands that this node applied, whoever proposed them."
            "Its rate on one node stays behind that of the others.";
        FORWARDED_WRITES = Counter "tally_forwarded_writes_total" []
            "Writes that came to this node and were sent on to the leader."
            "Most writes are: the clients do not learn who leads.";
    }
    "Consensus" {
        IS_LEADER = Gauge "tally_is_leader" []
            "1 on the node that leads, else 0."
            "The sum over the cluster is 0 for longer than an election.";
        LEADER_ID = Gauge "tally_leader_id" []
            "Id of the leader that the node knows; 0 for none."
            "0 for longer than an election, or nodes disagree for as long.";
        HAS_QUORUM = Gauge "tally_has_quorum" []
            "1 while a majority answers the leader and stores what it writes, or a follower hears its leader; 0 when neither was so for two election timeouts."
            "0.";
        TERM = Gauge "tally_term" []
            "The Raft term."
            "It grows without a node having been stopped.";
        ELECTIONS = Counter "tally_elections_total" []
            "How often this node was seen to stand for election."
            "It grows while nobody restarts nodes: heartbeats are late.";
        LEADER_CHANGES = Counter "tally_leader_changes_total" []
            "How often this node saw another leader than before, or none."
            "More than a few an hour: look at the network, the disks' syncs, and the CPU.";
        VOTERS = Gauge "tally_voters" []
            "Voting members, as this node knows them."
            "It is even, or below three.";
        COMMIT_INDEX = Gauge "tally_commit_index" []
            "The last entry that the node knows to be on a majority."
            "It stands still while there are writes.";
        APPLIED_INDEX = Gauge "tally_applied_index" []
            "The last entry that is part of its state."
            "It falls behind the leader's tally_commit_index.";
        APPLY_LAG = Gauge "tally_apply_lag_entries" []
            "Entries that are committed, as far as the node knows, and not applied."
            "Thousands, for longer than a restart takes.";
        PEER_LAG = Gauge "tally_peer_lag_entries" ["peer"]
            "On the leader: entries of its log that a member has not acknowledged."
            "It grows: the member is down, cut off or too slow.";
        PEER_SILENCE = Gauge "tally_peer_silence_seconds" ["peer"]
            "On the leader: since a member last acknowledged anything. Absent for one that never did."
            "More than a second.";
        READ_ROUNDS = Histogram "tally_read_index_round_duration_seconds" ["outcome"]
            "A round that confirms who leads, for the linearizable reads that wait: ok or failed."
            "Its 99th percentile is far above the network's round trip, or failed grows.";
        READ_ROUND_READS = Histogram "tally_read_index_round_reads" []
            "Reads that shared a round."
            "Never by itself: it grows with the load.";
        READ_PROOF_AGE = Gauge "tally_read_proof_age_seconds" []
            "The age of the newest proof that this node's state is current; a round is run every 0.4 s at least. Absent until there was one."
            "More than a second: bounded and linearizable reads fail here.";
    }
    "Reads" {
        READS = Counter "tally_reads_total" ["level"]
            "Reads that were permitted, by the promise that their answers keep."
            "local grows although nobody asks for it: bounded reads fall back.";
        STALENESS = Histogram "tally_read_staleness_seconds" ["level"]
            "The proven upper bound of the age of the state that a read saw. Reads of a state without any proof are not in it."
            "Its high percentiles come near the bounds that clients ask for.";
    }
    "Sessions and idempotency keys" {
        SESSIONS = Gauge "tally_sessions" []
            "Sessions in the table, ended ones that are not removed yet included."
            "Above 80 % of tally_sessions_max.";
        SESSIONS_MAX = Gauge "tally_sessions_max" []
            "Sessions that the table takes."
            "Never by itself.";
        SESSION_ANSWERS = Gauge "tally_session_answers" []
            "Answers that are remembered under sessions."
            "Never by itself.";
        SESSION_ANSWER_BYTES = Gauge "tally_session_answers_size_bytes" []
            "Bytes of those. At tally_session_answers_max_bytes writes are refused with TOO_MANY_SESSION_BYTES."
            "Above 70 % of that.";
        SESSION_ANSWERS_MAX = Gauge "tally_session_answers_max_bytes" []
            "Bytes that these may take."
            "Never by itself.";
        KEYS = Gauge "tally_idempotency_keys" []
            "Idempotency keys that are remembered."
            "Never by itself.";
        KEYS_SIZE = Gauge "tally_idempotency_keys_size_bytes" []
            "Bytes of those, with their answers."
            "Above 70 % of tally_idempotency_keys_max_bytes.";
        KEYS_MAX = Gauge "tally_idempotency_keys_max_bytes" []
            "Bytes that the table takes."
            "Never by itself.";
        REPLAYS = Counter "tally_replays_total" ["by"]
            "Writes that were answered from memory because they had been applied before: by session or by key."
            "It grows with every write: answers get lost, or clients do not wait for them.";
    }
    "Storage" {
        COUNTERS = Gauge "tally_counters" []
            "Counters in the state."
            "Never by itself.";
        STORED_KEYS = Gauge "tally_keys" []
            "Keys in the state."
            "Never by itself.";
        APPEND_DURATION = Histogram "tally_log_append_duration_seconds" []
            "From handing entries to the log until they are durable, the wait for the sync before included."
            "Twice tally_log_sync_duration_seconds and more: the disk does not keep up.";
        LOG_WRITE_DURATION = Histogram "tally_log_write_duration_seconds" []
            "One write to the log's file."
            "More than some milliseconds: the page cache is short of memory, or the disk is full of other work.";
        LOG_SYNC_DURATION = Histogram "tally_log_sync_duration_seconds" []
            "One fdatasync of the log: every write waits for one."
            "Its 99th percentile is above 25 ms for minutes; above half of election_timeout_ms_min leaders are lost.";
        LOG_WRITTEN = Counter "tally_log_written_bytes_total" []
            "Bytes that were written to the log."
            "Never by itself.";
        LOG_BYTES = Gauge "tally_log_size_bytes" []
            "Bytes of the log's segments on the disk."
            "It grows without bound: snapshots fail.";
        STATE_BYTES = Gauge "tally_state_size_bytes" []
            "Bytes of the state on the disk."
            "The disk has room for less than twice as much besides: a snapshot is as large, and one from the leader comes beside it.";
        SNAPSHOT_BYTES = Gauge "tally_snapshot_size_bytes" []
            "Bytes of the newest snapshot; 0 without one."
            "Never by itself.";
        SNAPSHOT_INDEX = Gauge "tally_snapshot_index" []
            "The last entry in the newest snapshot."
            "It stays far behind tally_applied_index: see the log of the node.";
        SNAPSHOT_DURATION = Histogram "tally_snapshot_duration_seconds" []
            "One snapshot that was built."
            "It grows towards the time between two.";
        SNAPSHOTS_SENDING = Gauge "tally_snapshots_sending" []
            "Snapshots that this node is sending to others; what follows them stays in its log meanwhile, ten minutes at most."
            "It stays above 0: see the log of the node.";
        SNAPSHOTS_SENT = Counter "tally_snapshots_sent_total" ["result"]
            "Attempts to send a snapshot to another node: installed there, or failed (it is away or refuses, or took nothing of it for a minute)."
            "failed grows: see the log of the node.";
        DIRTY_BYTES = Gauge "tally_state_dirty_bytes" []
            "Applied changes in memory that are not flushed."
            "It stays near dirty_bytes_max: flushes do not keep up, and writes wait.";
        FLUSH_DURATION = Histogram "tally_state_flush_duration_seconds" []
            "One flush of the state."
            "It grows towards flush_interval_ms.";
        FLUSHED_RECORDS = Counter "tally_state_flushed_records_total" []
            "Records that flushes wrote."
            "Never by itself.";
        CACHE = Counter "tally_state_cache_lookups_total" ["result"]
            "Records that were looked for in the cache of the state: hit or miss. What is not flushed yet is found before it."
            "Misses are a large part while writes are slow: raise state_cache_bytes.";
        STATE_DIFFERS = Gauge "tally_state_differs" []
            "1 if the node's state differs from that of a majority of the voters: it answers LOCAL reads only."
            "1: remove the node, wipe its data directory and let it join anew.";
        STATE_NO_MAJORITY = Gauge "tally_state_no_majority" []
            "1 while the voters' states differ and no majority of them agrees: nothing is written."
            "1.";
        STATES_COMPARED = Counter "tally_state_comparisons_total" []
            "Comparisons of the replicas' states in which a majority of the voters agreed, as this node saw them."
            "It stands still for minutes while writes are applied.";
        DISK_FREE = Gauge "tally_disk_free_bytes" []
            "Bytes that are free on the disk of the data directory."
            "It comes near tally_disk_reserve_bytes.";
        DISK_RESERVE = Gauge "tally_disk_reserve_bytes" []
            "Bytes to be held on the disk for flushes (disk_reserve_bytes)."
            "Never by itself.";
        DISK_RESERVE_USED = Gauge "tally_disk_reserve_used_bytes" []
            "Bytes of it that were let go of, so that a flush or a start had room."
            "Above 0: the disk ran full.";
        DISK_NEARLY_FULL = Gauge "tally_disk_nearly_full" []
            "1 while writes are refused for want of room: the reserve can't be held, less than half of it is free besides, or less than a flush may need."
            "1.";
    }
    "Backups" {
        BACKUP_LAST = Gauge "tally_backup_last_success_timestamp_seconds" []
            "When the newest backup was made that this node has made by itself, in seconds since 1970; 0: there is none. All of this section is absent without backup_dir or backup_to."
            "More than two intervals ago.";
        BACKUP_INTERVAL = Gauge "tally_backup_interval_seconds" []
            "From one backup to the next (backup_interval_ms)."
            "Never by itself.";
        BACKUP_REVISION = Gauge "tally_backup_last_revision" []
            "The revision of the newest backup."
            "It does not grow while the store's does.";
        BACKUP_BYTES = Gauge "tally_backup_last_bytes" []
            "The size of the newest backup."
            "It comes near what the disk of backup_dir has free, divided by backups_kept.";
        BACKUPS = Counter "tally_backups_total" ["result"]
            "Backups that this node was to make by itself: made or failed."
            "failed grows.";
    }
    "Quotas" {
        QUOTA_ITEMS = Gauge "tally_quota_items" ["scope", "prefix"]
            "Items that a quota is about. hot_item_names says whether its prefix is shown or hashed; the empty one is shown."
            "It comes near tally_quota_items_max.";
        QUOTA_ITEMS_MAX = Gauge "tally_quota_items_max" ["scope", "prefix", "limit"]
            "The limits on them, soft and hard. Absent where there is none."
            "Never by itself.";
        QUOTA_SIZE = Gauge "tally_quota_size_bytes" ["scope", "prefix"]
            "Bytes of their names and values, as quotas count them."
            "It comes near tally_quota_max_bytes.";
        QUOTA_SIZE_MAX = Gauge "tally_quota_max_bytes" ["scope", "prefix", "limit"]
            "The limits on those, soft and hard. Absent where there is none."
            "Never by itself.";
        QUOTA_SOFT_PASSED = Gauge "tally_quota_soft_passed" ["scope", "prefix"]
            "1 while more is used than a soft limit says, else 0."
            "1: room is to be made, or the limits are to be raised, before a hard one refuses.";
        QUOTA_COUNTING = Gauge "tally_quota_counting" ["scope", "prefix"]
            "1 while a new quota counts what was there before it; until then it refuses nothing."
            "1 for minutes.";
    }
    "The metrics port itself" {
        SCRAPE_DURATION = Gauge "tally_scrape_duration_seconds" []
            "How long the answer before this one took to write."
            "More than some 10 ms.";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let mut seen = BTreeSet::new();
        for family in CATALOG.iter().flat_map(|(_, families)| families.iter()) {
            let Family { name, kind, labels, help, worry } = family;
            assert!(seen.insert(name), "{name} is there twice");
            assert!(name.starts_with("tally_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), *kind == Kind::Info, "{name}");
            let snake = |char: char| char.is_ascii_lowercase() || char == '_';
            assert!(name.chars().all(snake) && labels.iter().all(|label| label.chars().all(snake)));
            for unit in ["_ms", "_milliseconds", "_microseconds", "_kb", "_mb", "_percent"] {
                assert!(!name.ends_with(unit), "{name}: the base unit, please");
            }
            assert!(!labels.contains(&"le"), "{name}: le is a histogram's own");
            for sentence in [help, worry] {
                assert!(sentence.ends_with('.') && !sentence.contains(['\n', '|', '\\']), "{name}");
            }
        }
    }
}
