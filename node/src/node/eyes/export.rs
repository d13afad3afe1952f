//! What is written at `/metrics`: what is counted, and what is read there and then.

use std::{sync::atomic::Ordering, time::Duration};

use http::StatusCode;
use tokio::time::Instant;

use super::{Eyes, Running};
use crate::{
    audit::Counts,
    backup::schedule,
    consensus::{cluster_id::format_cluster_id, guard, leader::Outlook},
    machine::{query, quota::QuotaUnit, quotas},
    metrics::{
        Metrics, catalog,
        text::{Exposition, Format},
    },
    port::plain::Page,
    status::SelfReport as _,
};

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1e3
}

impl Eyes {
    /// All of it, in Prometheus's own format.
    pub(in crate::node) fn text(&self) -> String {
        self.metrics(Format::Prometheus).body
    }

    pub(super) fn metrics(&self, format: Format) -> Page {
        let began = Instant::now();
        let mut out = Exposition::new(format);
        self.write_process(&mut out);
        self.metrics.write(&mut out);
        if let Some(running) = self.running.get() {
            running.write(&mut out);
            running.write_quotas(&self.metrics, &mut out);
        }
        let before = Duration::from_nanos(self.last_scrape_ns.load(Ordering::Relaxed));
        out.single(&catalog::SCRAPE_DURATION, before.as_secs_f64());
        let body = out.finish();
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_scrape_ns.store(took, Ordering::Relaxed);
        Page { status: StatusCode::OK, content_type: format.content_type(), body, headers: &[] }
    }

    fn write_process(&self, out: &mut Exposition) {
        out.family(&catalog::BUILD).value(&[env!("BUILD_VERSION"), env!("BUILD_PROFILE")], 1);
        let cluster_id = self.running.get().and_then(|it| it.consensus.cluster_id().get());
        let cluster_id = cluster_id.map(format_cluster_id).unwrap_or_default();
        out.family(&catalog::NODE).value(&[&self.node_id.to_string(), &cluster_id], 1);
        let mut ready = out.family(&catalog::READY);
        for (name, why) in self.checks() {
            ready.value(&[name], u8::from(why.is_none()));
        }
        out.single(&catalog::WALL_CLOCK, seconds(self.clock.wall_ms()));
        out.single(&catalog::START_TIME, seconds(self.started_at_ms));
        if let Some(usage) = self.threads.usage() {
            out.single(&catalog::CPU, usage.cpu_seconds);
            out.single(&catalog::MEMORY, usage.resident_bytes);
            out.single(&catalog::OPEN_FILES, usage.open_files);
            out.single(&catalog::MAX_FILES, usage.open_files_max);
        }
    }
}

impl Running {
    /// What is read when it is asked for.
    fn write(&self, out: &mut Exposition) {
        let Running { consensus, report, reserve_bytes, .. } = self;
        out.single(&catalog::CLIENT_CONNECTIONS, report.slots.used());
        out.single(&catalog::CLIENT_CONNECTIONS_MAX, report.slots.max());
        out.single(&catalog::CLIENT_CONNECTIONS_REFUSED, report.slots.refused());
        let (used, max) = consensus.writes_in_flight();
        out.single(&catalog::PROPOSALS_WAITING, consensus.proposals_waiting());
        out.single(&catalog::WRITES_IN_FLIGHT, used);
        out.single(&catalog::WRITES_IN_FLIGHT_MAX, max);
        self.write_audit_log(out);
        self.write_backups(out);
        let limits = report.limits();
        let mut exceeded = out.family(&catalog::LIMITS_EXCEEDED);
        exceeded.value(&["share"], limits.shares_exceeded);
        exceeded.value(&["rate"], limits.rates_exceeded);
        self.write_consensus(out);
        self.write_tables(out);
        self.write_certificates(out);
        let state = &report.state;
        let snapshot = state.current_snapshot();
        out.single(&catalog::LOG_BYTES, report.log.disk_bytes());
        out.single(&catalog::STATE_BYTES, state.size_bytes().unwrap_or(0));
        out.single(&catalog::SNAPSHOT_BYTES, snapshot.as_ref().map_or(0, |built| built.size));
        let index = snapshot.as_ref().map_or(0, |built| built.last_log_id.index);
        out.single(&catalog::SNAPSHOT_INDEX, index);
        let (sending, counts) = (consensus.sending(), consensus.sending().counts());
        out.single(&catalog::SNAPSHOTS_SENDING, sending.under_way());
        let mut sent = out.family(&catalog::SNAPSHOTS_SENT);
        sent.value(&["installed"], counts.installed);
        sent.value(&["failed"], counts.failed);
        out.single(&catalog::DIRTY_BYTES, state.dirty_bytes());
        let comparisons = consensus.comparisons();
        let no_majority = comparisons.why_nothing_is_written().is_some();
        out.single(&catalog::STATE_DIFFERS, u8::from(comparisons.differs()));
        out.single(&catalog::STATE_NO_MAJORITY, u8::from(no_majority));
        out.single(&catalog::STATES_COMPARED, comparisons.compared());
        out.single(&catalog::DISK_FREE, report.guard.free_bytes());
        out.single(&catalog::DISK_RESERVE, reserve_bytes);
        out.single(&catalog::DISK_RESERVE_USED, report.guard.used_bytes());
        out.single(&catalog::DISK_NEARLY_FULL, u8::from(consensus.disk_nearly_full()));
    }

    fn write_backups(&self, out: &mut Exposition) {
        let counts = self.report.backups();
        let mut backups = out.family(&catalog::BACKUPS);
        if let Some(counts) = &counts {
            backups.value(&["made"], counts.made);
            backups.value(&["failed"], counts.failed);
        }
        let mut single = |family, value: &dyn Fn(&schedule::Counts) -> f64| {
            let mut samples = out.family(family);
            if let Some(counts) = &counts {
                samples.value(&[], value(counts));
            }
        };
        single(&catalog::BACKUP_LAST, &|counts| seconds(counts.last_wall_time_ms));
        single(&catalog::BACKUP_INTERVAL, &|counts| seconds(counts.interval_ms));
        single(&catalog::BACKUP_REVISION, &|counts| counts.last_revision as f64);
        single(&catalog::BACKUP_BYTES, &|counts| counts.last_bytes as f64);
    }

    fn write_consensus(&self, out: &mut Exposition) {
        let consensus = &self.consensus;
        let applied = consensus.state().applied().map_or(0, |applied| applied.index);
        let Outlook { leads, leader, term, commit_index, voters, peers } =
            consensus.leadership().outlook();
        out.single(&catalog::IS_LEADER, u8::from(leads));
        out.single(&catalog::LEADER_ID, leader.unwrap_or(0));
        out.single(&catalog::HAS_QUORUM, u8::from(!consensus.quorum_lost()));
        out.single(&catalog::TERM, term);
        out.single(&catalog::VOTERS, voters);
        out.single(&catalog::COMMIT_INDEX, commit_index);
        out.single(&catalog::APPLIED_INDEX, applied);
        out.single(&catalog::APPLY_LAG, commit_index.saturating_sub(applied));
        let mut lag = out.family(&catalog::PEER_LAG);
        for peer in &peers {
            lag.value(&[&peer.id.to_string()], peer.lag_entries);
        }
        let mut silence = out.family(&catalog::PEER_SILENCE);
        for peer in &peers {
            if let Some(heard) = peer.silence {
                silence.value(&[&peer.id.to_string()], heard.as_secs_f64());
            }
        }
        let mut age = out.family(&catalog::READ_PROOF_AGE);
        if let Some(ms) = consensus.reads().staleness_ms() {
            age.value(&[], Duration::from_millis(ms).as_secs_f64());
        }
    }

    fn write_tables(&self, out: &mut Exposition) {
        let meta = query::meta(&self.consensus.state().view());
        out.single(&catalog::SESSIONS, meta.sessions);
        out.single(&catalog::SESSIONS_MAX, meta.settings.sessions_max);
        out.single(&catalog::SESSION_ANSWERS, meta.session_answers);
        out.single(&catalog::SESSION_ANSWER_BYTES, meta.session_answer_bytes);
        out.single(&catalog::SESSION_ANSWERS_MAX, guard::SESSION_ANSWER_BYTES_TOTAL_MAX);
        out.single(&catalog::KEYS, meta.idempotency_keys);
        out.single(&catalog::KEYS_SIZE, meta.idempotency_bytes);
        out.single(&catalog::KEYS_MAX, meta.settings.idempotency_bytes_max);
        out.single(&catalog::COUNTERS, meta.counters);
        out.single(&catalog::STORED_KEYS, meta.keys);
    }

    fn write_quotas(&self, metrics: &Metrics, out: &mut Exposition) {
        let quotas = quotas::quotas(&self.consensus.state().view());
        let quotas: Vec<_> = quotas
            .iter()
            .map(|(scope, prefix, record)| {
                let scope = format!("{scope}s");
                (scope, metrics.hot.shown(prefix), record)
            })
            .collect();
        for (unit, used, limits) in [
            (QuotaUnit::Items, &catalog::QUOTA_ITEMS, &catalog::QUOTA_ITEMS_MAX),
            (QuotaUnit::Bytes, &catalog::QUOTA_SIZE, &catalog::QUOTA_SIZE_MAX),
        ] {
            let mut samples = out.family(used);
            for (scope, prefix, record) in &quotas {
                samples.value(&[scope, prefix], record.of(unit).0);
            }
            let mut samples = out.family(limits);
            for (scope, prefix, record) in &quotas {
                let (_, soft, hard) = record.of(unit);
                for (which, limit) in [("soft", soft), ("hard", hard)] {
                    if let Some(limit) = limit {
                        samples.value(&[scope, prefix, which], limit);
                    }
                }
            }
        }
        let mut samples = out.family(&catalog::QUOTA_SOFT_PASSED);
        for (scope, prefix, record) in &quotas {
            samples.value(&[scope, prefix], u8::from(record.has_passed_soft()));
        }
        let mut samples = out.family(&catalog::QUOTA_COUNTING);
        for (scope, prefix, record) in &quotas {
            samples.value(&[scope, prefix], u8::from(!record.is_ready()));
        }
    }

    fn write_audit_log(&self, out: &mut Exposition) {
        let counts = self.report.audit_log();
        let mut lines = out.family(&catalog::AUDIT_LINES);
        if let Some(counts) = &counts {
            lines.value(&["written"], counts.written_lines);
            lines.value(&["dropped"], counts.dropped_lines);
        }
        let mut single = |family, value: &dyn Fn(&Counts) -> u64| {
            let mut samples = out.family(family);
            if let Some(counts) = &counts {
                samples.value(&[], value(counts));
            }
        };
        single(&catalog::AUDIT_WRITTEN, &|counts| counts.written_bytes);
        single(&catalog::AUDIT_REFUSED, &|counts| counts.refused_requests);
        single(&catalog::AUDIT_QUEUED, &|counts| counts.queued_bytes);
        single(&catalog::AUDIT_FAILING, &|counts| u64::from(!counts.error.is_empty()));
    }

    fn write_certificates(&self, out: &mut Exposition) {
        let certificates = self.report.tls.certificates();
        let mut ends = out.family(&catalog::CERTIFICATE_END);
        for certificate in &certificates {
            ends.value(&[certificate.key, &certificate.name], seconds(certificate.not_after_ms));
        }
        let mut begins = out.family(&catalog::CERTIFICATE_BEGIN);
        for certificate in &certificates {
            begins.value(&[certificate.key, &certificate.name], seconds(certificate.not_before_ms));
        }
    }
}
