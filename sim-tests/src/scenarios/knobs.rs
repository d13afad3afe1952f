//! What is special about the clusters and users of scenarios; several share one.

use crate::knobs::Knobs;

pub(super) fn as_it_is(_: &mut Knobs) {}

pub(super) fn many_reads(knobs: &mut Knobs) {
    knobs.reads = 0.7;
    knobs.clients = 8;
}

pub(super) fn one_hot_counter(knobs: &mut Knobs) {
    knobs.hot_counters = 1;
    knobs.hot = 0.8;
    knobs.clients = 8;
}

pub(super) fn impatient(knobs: &mut Knobs) {
    one_hot_counter(knobs);
    knobs.short_deadlines = 0.3;
    knobs.resends = 0.3;
}

/// Followers that sync faster than their leader, so that it commits through them.
pub(super) fn quick_disks(knobs: &mut Knobs) {
    one_hot_counter(knobs);
    knobs.latency_ms_max = 3;
    knobs.disk_sync_us = 500;
    knobs.disk_write_us = 50;
    knobs.flush_interval_ms = 300;
    knobs.think_ms_max = 60;
}

/// Snapshots so often, and so little log behind them, that a short absence needs one.
pub(super) fn short_log(knobs: &mut Knobs) {
    knobs.clients = 8;
    knobs.reads = 0.2;
    knobs.think_ms_max = 80;
    knobs.snapshot_after_entries = 30;
    knobs.log_entries_kept = 0;
    knobs.flush_interval_ms = 100;
}

/// One counter that always changes and is always read, at every level.
pub(super) fn watched_counter(knobs: &mut Knobs) {
    knobs.clients = 12;
    knobs.hot_counters = 1;
    knobs.hot = 0.9;
    knobs.reads = 0.6;
    knobs.think_ms_max = 60;
    knobs.deadline_ms = 6_000;
}

/// Much under way to the disk at any moment.
pub(super) fn many_writes(knobs: &mut Knobs) {
    knobs.clients = 16;
    knobs.reads = 0.1;
    knobs.think_ms_max = 40;
    knobs.value_bytes_max = 4_000;
    knobs.disk_sync_us = 20_000;
}

/// Many callers who wait for long.
pub(super) fn patient(knobs: &mut Knobs) {
    knobs.clients = 12;
    knobs.reads = 0.5;
    knobs.deadline_ms = 6_000;
}

/// Five nodes, and callers who go on asking all of them.
pub(super) fn five(knobs: &mut Knobs) {
    knobs.nodes = 5;
    knobs.clients = 8;
    knobs.raw_clients = 3;
}

/// Users with roles and tokens, an admin who changes them, and whatever faults the seed draws.
pub(super) fn rights(knobs: &mut Knobs) {
    knobs.rights = true;
}

/// Quotas, and few names, so that their limits are met often.
pub(super) fn quotas(knobs: &mut Knobs) {
    knobs.quotas = true;
    knobs.clients = 8;
    knobs.reads = 0.3;
    knobs.hot = 0.2;
    knobs.spread = 12;
    knobs.resends = 0.2;
}

/// Three, whose reads show at once what is old.
pub(super) fn watched_by_many(knobs: &mut Knobs) {
    watched_counter(knobs);
    knobs.raw_clients = 4;
}
