//! What differs from seed to seed: sizes, timeouts, rates, mixes.
//!
//! Seeds must differ in kind, not only in luck. So whole families of faults are switched off in
//! about half of the seeds each (swarm testing: Groce et al., ISSTA 2012), and the sizes at which
//! code paths change (segment, snapshot, batch) are drawn small enough to be crossed often.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde::Serialize;
use tally_node::{config::Config, storage::simulated_disk::Latency};

use crate::env::mix;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Share of the seeds that have quotas. In the others nothing is refused for want of room, so that what writes do is
/// seen, too.
const QUOTAS: f64 = 0.3;
/// Share of the seeds whose replicas compare themselves often. In the others a state stays unflushed for as long as the
/// flush interval lets it: a comparison ends that.
const OFTEN_COMPARED: f64 = 0.6;
/// Share of the seeds in which stored bits flip and a replica's state differs.
const DIFFERING: f64 = 0.25;
/// Share of the seeds in which a backup is restored: it costs three more nodes.
const RESTORES: f64 = 0.25;
/// Often enough for a run, and between others' faults.
const COMPARED_OFTEN_MS: u64 = 2_000;
/// Once or twice in a run.
pub(crate) const COMPARED_SELDOM_MS: u64 = 25_000;

/// The knobs of one seed.
#[derive(Debug, Clone, Serialize)]
pub struct Knobs {
    /// Nodes at the start.
    pub nodes: u64,
    /// Heartbeats, in ms.
    pub heartbeat_ms: u64,
    /// Lower end of the election timeout, in ms.
    pub election_ms_min: u64,
    /// Upper end of the election timeout, in ms.
    pub election_ms_max: u64,
    /// Longest time that a message takes, in ms.
    pub latency_ms_max: u64,
    /// Log entries under way at once.
    pub entries_in_flight: usize,
    /// A snapshot after so many entries.
    pub snapshot_after_entries: u64,
    /// Entries kept behind a snapshot.
    pub log_entries_kept: u64,
    /// Size of a segment of the log, in bytes.
    pub segment_bytes: u64,
    /// Entries of the log kept in memory, in bytes; the others are read from the disk when they are sent.
    pub log_cache_bytes: u64,
    /// Time between two flushes of the state, in ms.
    pub flush_interval_ms: u64,
    /// Time between two comparisons of the replicas' states, in ms. Each makes every node flush its state.
    pub compare_interval_ms: u64,
    /// Time that a disk write takes, in µs.
    pub disk_write_us: u64,
    /// Time that a disk sync takes, in µs.
    pub disk_sync_us: u64,
    /// Time that a change of the state's store takes, in µs.
    pub store_us: u64,
    /// Logical clients.
    pub clients: u64,
    /// A client waits up to so long between two calls, in ms.
    pub think_ms_max: u64,
    /// A client's deadline for a call, in ms.
    pub deadline_ms: u64,
    /// Share of calls with a deadline so short that their outcome is often unknown.
    pub short_deadlines: f64,
    /// Hot counters, which everybody uses.
    pub hot_counters: u64,
    /// Counters and keys over which the rest is spread.
    pub spread: u64,
    /// Longest padding of a value, in bytes.
    pub value_bytes_max: usize,
    /// Share of reads among the calls.
    pub reads: f64,
    /// Share of the hot counters' calls.
    pub hot: f64,
    /// Share of writes that are sent twice under one idempotency key.
    pub resends: f64,
    /// Open sessions that the cluster admits.
    pub sessions_max: u64,
    /// Percent of the places which others leave that the clients of one host may hold.
    pub sessions_share_percent: u8,
    /// Idle time of a session that asks for none, in ms.
    pub session_idle_ms: u64,
    /// Window of an idempotency key, in ms.
    pub idempotency_window_ms: u64,
    /// Bytes of remembered idempotency keys.
    pub idempotency_bytes_max: u64,
    /// Writes that a node lets wait or be under way at once.
    pub writes_in_flight: usize,
    /// Clients that do without the library.
    pub raw_clients: u64,
    /// Share of calls that their callers give up without a word.
    pub abandoned: f64,
    /// Nobody asks for anything from the first to the second simulated ms.
    pub lull_ms: Option<(u64, u64)>,
    /// Authentication is on, users have roles and tokens, and these change.
    pub rights: bool,
    /// … and it is switched off and on again meanwhile.
    pub rights_toggled: bool,
    /// Until then, in simulated ms, each start of a node draws its release: this one, or one that reads the first version
    /// of the formats only. Then all are restarted with this one, and their leader finalizes the upgrade.
    pub releases_mixed_until_ms: Option<u64>,
    /// Somebody sets, changes and removes quotas.
    pub quotas: bool,
    /// Bits flip in what replicas have stored of their state, and somebody overwrites it.
    pub stored_bits_flip: bool,
    /// A backup is made, and restored into another cluster.
    pub restores: bool,
    /// Which families of faults are on.
    pub faults: Families,
    /// Mean time between two faults, in ms.
    pub fault_every_ms: u64,
}

/// Families of faults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Families {
    /// Partitions.
    pub partitions: bool,
    /// Lost, late and held messages.
    pub messages: bool,
    /// Kills, power cuts, pauses, stops.
    pub processes: bool,
    /// Slow, failing, full, rotten, replaced disks.
    pub disks: bool,
    /// Wrong wall clocks.
    pub clocks: bool,
    /// Leaders transferred, nodes replaced, rolling restarts.
    pub operations: bool,
    /// Nodes added and removed, learners that stay learners, changes that are interrupted, strangers,
    /// a majority of the disks lost.
    pub members: bool,
}

impl Knobs {
    /// Those of a seed.
    pub fn draw(seed: u64) -> Knobs {
        let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0x6b]));
        let heartbeat_ms = rng.random_range(40..=120);
        let election_ms_min = heartbeat_ms * rng.random_range(3..=6);
        let election_ms_max = election_ms_min + rng.random_range(heartbeat_ms..=election_ms_min);
        let nodes = *[1, 3, 3, 3, 3, 3, 3, 5, 5].choose(rng).expect("not empty");
        let slow_disks = rng.random_bool(0.2);
        // Many users who seldom ask are as much load as few who often do, and more of them wait
        // together when nothing is answered.
        let clients = log_uniform(rng, 2, 16);
        let mut knobs = Knobs {
            nodes,
            heartbeat_ms,
            election_ms_min,
            election_ms_max,
            latency_ms_max: rng.random_range(2..=heartbeat_ms / 2),
            entries_in_flight: *[1, 2, 8, 8, 64].choose(rng).expect("not empty"),
            snapshot_after_entries: log_uniform(rng, 30, 1500),
            log_entries_kept: *[0, 0, 5, 50, 500].choose(rng).expect("not empty"),
            segment_bytes: log_uniform(rng, 64 * 1024, 512 * 1024),
            log_cache_bytes: 64 << 20,
            flush_interval_ms: log_uniform(rng, 100, 5000),
            compare_interval_ms: if SmallRng::seed_from_u64(mix(seed, &[0xc0e]))
                .random_bool(OFTEN_COMPARED)
            {
                COMPARED_OFTEN_MS
            } else {
                COMPARED_SELDOM_MS
            },
            disk_write_us: rng.random_range(0..300),
            disk_sync_us: if slow_disks {
                rng.random_range(5_000..30_000)
            } else {
                rng.random_range(500..5_000)
            },
            store_us: rng.random_range(0..2_000),
            clients,
            think_ms_max: log_uniform(rng, 40, 400) * clients / 5 + 20,
            deadline_ms: log_uniform(rng, 300, 6000),
            short_deadlines: *[0.0, 0.02, 0.2].choose(rng).expect("not empty"),
            hot_counters: rng.random_range(1..=3),
            spread: log_uniform(rng, 2, 60),
            value_bytes_max: *[0, 100, 1_000, 4_000].choose(rng).expect("not empty"),
            reads: rng.random_range(0.2..0.7),
            hot: rng.random_range(0.1..0.7),
            resends: *[0.0, 0.05, 0.2].choose(rng).expect("not empty"),
            sessions_max: *[16, 1_000, 100_000].choose(rng).expect("not empty"),
            sessions_share_percent: 50,
            session_idle_ms: HOUR_MS,
            idempotency_window_ms: DAY_MS,
            idempotency_bytes_max: 1 << 30,
            writes_in_flight: 4096,
            raw_clients: 0,
            abandoned: 0.0,
            lull_ms: None,
            rights: false,
            rights_toggled: false,
            releases_mixed_until_ms: None,
            // With dice of its own: the other seeds are what they would be without.
            quotas: SmallRng::seed_from_u64(mix(seed, &[0x90a])).random_bool(QUOTAS),
            stored_bits_flip: false,
            restores: false,
            faults: Families::draw(rng),
            fault_every_ms: log_uniform(rng, 600, 4000),
        };
        knobs.draw_ends(rng);
        knobs.draw_releases(seed);
        knobs.draw_differing(seed);
        // In the other cluster nobody would end an upgrade. (Dice of its own, as above.)
        knobs.restores = SmallRng::seed_from_u64(mix(seed, &[0x4e57])).random_bool(RESTORES)
            && knobs.releases_mixed_until_ms.is_none();
        knobs
    }

    /// Replicas whose state differs, from draws of its own. They need a majority that does not.
    fn draw_differing(&mut self, seed: u64) {
        let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0xd1ff]));
        if rng.random_bool(DIFFERING) && self.nodes >= 3 {
            self.stored_bits_flip = true;
            self.compare_interval_ms = COMPARED_OFTEN_MS;
        }
    }

    /// Nodes of two releases, from draws of its own: what else a seed draws is as it was before there were any.
    fn draw_releases(&mut self, seed: u64) {
        let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0x4e1]));
        if rng.random_bool(0.4) {
            self.releases_mixed_until_ms = Some(rng.random_range(6_000..25_000));
        }
    }

    /// Promises that end, and tables that are full, while users work.
    fn draw_ends(&mut self, rng: &mut SmallRng) {
        self.raw_clients = *[0, 1, 2, 3].choose(rng).expect("not empty");
        self.abandoned = *[0.0, 0.02, 0.1].choose(rng).expect("not empty");
        self.session_idle_ms = *[2_000, 6_000, HOUR_MS].choose(rng).expect("not empty");
        if rng.random_bool(0.3) {
            self.sessions_max = rng.random_range(3..=12);
        }
        if self.sessions_max <= 16 {
            // What is left behind gives its place back in time for those who come in the end.
            self.session_idle_ms = self.session_idle_ms.min(6_000);
        }
        self.idempotency_window_ms = *[3_000, 9_000, DAY_MS].choose(rng).expect("not empty");
        self.idempotency_bytes_max =
            *[1_500, 20_000, 1 << 30, 1 << 30].choose(rng).expect("not empty");
        self.writes_in_flight = *[2, 8, 4096, 4096].choose(rng).expect("not empty");
        if rng.random_bool(0.25) {
            // Values so large that a snapshot has many blocks and is sent in many chunks.
            self.value_bytes_max = 60_000;
            self.segment_bytes = self.segment_bytes.max(4 << 20);
            self.spread = self.spread.max(30);
            // … and so little log that whoever was away needs one.
            self.snapshot_after_entries = self.snapshot_after_entries.min(120);
            self.log_entries_kept = self.log_entries_kept.min(5);
        }
        self.sessions_share_percent = *[1, 10, 50, 100].choose(rng).expect("not empty");
        if self.sessions_max <= 16 {
            // Who finds no place writes under keys, which must outlive its calls. (A node that is configured
            // as the documentation allows remembers a key for a minute at least.) In most such seeds there is
            // room for them, so that more is seen of it than refusals.
            self.idempotency_window_ms = DAY_MS;
            if self.idempotency_bytes_max < 20_000 {
                self.idempotency_bytes_max = 1 << 20;
            }
        }
        if rng.random_bool(0.15) {
            let from_ms = rng.random_range(6_000..20_000);
            self.lull_ms = Some((from_ms, from_ms + rng.random_range(10_000..25_000)));
        }
        self.log_cache_bytes = *[500, 20_000, 64 << 20, 64 << 20].choose(rng).expect("not empty");
    }

    /// Whether keys are remembered for longer than any call of the library may last and any message
    /// be on its way: only then is a write under one key applied once, however often it is sent.
    pub fn keys_outlive_calls(&self) -> bool {
        self.idempotency_window_ms == DAY_MS
    }

    /// A quiet cluster of three, for scenarios that bring their own faults.
    pub fn calm(seed: u64) -> Knobs {
        let drawn = Knobs::draw(seed);
        Knobs {
            nodes: 3,
            heartbeat_ms: 100,
            election_ms_min: 400,
            election_ms_max: 800,
            latency_ms_max: 10,
            disk_sync_us: 2_000,
            sessions_max: 100_000,
            sessions_share_percent: 50,
            session_idle_ms: HOUR_MS,
            idempotency_window_ms: DAY_MS,
            idempotency_bytes_max: 1 << 30,
            writes_in_flight: 4096,
            abandoned: 0.0,
            deadline_ms: 3_000,
            short_deadlines: 0.0,
            lull_ms: None,
            releases_mixed_until_ms: None,
            quotas: false,
            stored_bits_flip: false,
            restores: false,
            compare_interval_ms: COMPARED_OFTEN_MS,
            faults: Families::default(),
            ..drawn
        }
    }

    /// What a seed draws where users have rights, on top of what it always does.
    pub(crate) fn draw_rights(&mut self, seed: u64) {
        let rng = &mut SmallRng::seed_from_u64(mix(seed, &[0x419]));
        self.faults = Families { members: false, ..Families::draw(rng) };
        self.fault_every_ms = log_uniform(rng, 600, 4000);
        self.rights_toggled = rng.random_bool(0.5);
        self.clients = rng.random_range(1..=3);
        // What the gate refuses is nobody's want of rights.
        self.releases_mixed_until_ms = None;
        // They show no token.
        self.raw_clients = 0;
        self.stored_bits_flip = false;
        self.restores = false;
        if self.rights_toggled {
            // A session or key from before a switch is not found after it, so a write that is sent again under
            // a key of its own may be applied twice (docs/security.md). Under a number it can't.
            self.idempotency_window_ms = HOUR_MS;
            self.resends = 0.0;
        }
    }

    /// As a node's configuration.
    pub fn configure(&self, config: &mut Config) {
        config.heartbeat_interval_ms = self.heartbeat_ms;
        config.election_timeout_ms_min = self.election_ms_min;
        config.election_timeout_ms_max = self.election_ms_max;
        config.entries_in_flight = self.entries_in_flight;
        config.snapshot_after_entries = self.snapshot_after_entries;
        config.log_entries_kept = self.log_entries_kept;
        config.log_segment_bytes = self.segment_bytes;
        config.log_cache_bytes = self.log_cache_bytes;
        config.flush_interval_ms = self.flush_interval_ms;
        config.state_compare_interval_ms = self.compare_interval_ms;
        // Room for some 80 records, so that they come and go.
        config.state_cache_bytes = 64 * 1024;
        config.disk_reserve_bytes = 64 * 1024;
        config.sessions_max = self.sessions_max;
        config.sessions_share_percent = self.sessions_share_percent;
        config.session_idle_ms = self.session_idle_ms;
        config.idempotency_window_ms = self.idempotency_window_ms;
        config.idempotency_bytes_max = self.idempotency_bytes_max;
        config.writes_in_flight = self.writes_in_flight;
        // Of very little room everybody may have all, so that both are refused: what the node lacks, and what one client
        // may not have of it.
        config.limit_share_percent = if self.writes_in_flight < 4 { 100 } else { 75 };
        config.shutdown_grace_ms = 1_500;
    }

    /// Of a healthy disk.
    pub fn disk_latency(&self) -> Latency {
        Latency {
            read: Duration::ZERO,
            write: Duration::from_micros(self.disk_write_us),
            sync: Duration::from_micros(self.disk_sync_us),
        }
    }
}

impl Families {
    fn draw(rng: &mut SmallRng) -> Families {
        let mut on = || rng.random_bool(0.6);
        Families {
            partitions: on(),
            messages: on(),
            processes: on(),
            disks: on(),
            clocks: on(),
            operations: on(),
            members: on(),
        }
    }
}

/// Small numbers as likely as large ones.
fn log_uniform(rng: &mut SmallRng, low: u64, high: u64) -> u64 {
    let (low, high) = ((low as f64).ln(), (high as f64 + 0.5).ln());
    rng.random_range(low..high).exp() as u64
}
