//! What reads of each level promise, and what answers claim about themselves.
//!
//! That a read at any level shows the state of the revision that it tells, and so no invented one,
//! is shown by `order.rs`, where every read has its place; that this state is not of the future, by
//! `time.rs`. What is left is how old it may be:
//!
//! - **Bounded.** The read was served at some time t from its call on, from a state not older than
//!   the bound: that state has all that was reached before t − bound, so all that was reached before
//!   call − bound. The same holds for a claim of staleness, at every level.
//! - **Session.** All that the client had been told before the call; or, with a token of its own,
//!   the state of the token.
//! - **Local.** Nothing more. One node's state does not fall while it runs, but it may restart
//!   behind where it was.
//!
//! Linearizable reads are `time.rs`'s. An answer that keeps a stronger promise than was asked is
//! held to that one.

use std::collections::BTreeMap;

use tally_client::history::{Level, Record, Status};

use super::{
    Rule, Verdict,
    logical::{History, Logical, Outcome, Place},
    order::Order,
    show::{show, show_all},
    time::Reached,
};

const NS_PER_MS: u64 = 1_000_000;

pub(super) fn check(history: &History<'_>, _: &Order, verdict: &mut Verdict) {
    let reached = Reached::new(history);
    let known = Known::new(history.records, |record| record.client, |_| true);
    let mut unplaced = 0u64;
    for operation in &history.operations {
        if !operation.is_read() || operation.outcome != Outcome::Answered {
            continue;
        }
        claims(operation, verdict);
        let counts = &mut verdict.counts;
        match operation.level() {
            Level::Linearizable => counts.linearizable_reads += 1,
            Level::Bounded => counts.bounded_reads += 1,
            Level::Session => counts.session_reads += 1,
            Level::Local => counts.local_reads += 1,
        }
        let Place::Saw(revision) = operation.place else {
            unplaced += u64::from(operation.level() != Level::Linearizable);
            continue;
        };
        age(history, operation, revision, &reached, verdict);
        if operation.record.level == Some(Level::Session) {
            session(operation.record, revision, &known, verdict);
        }
    }
    if unplaced > 0 {
        verdict.notes.push(format!(
            "{unplaced} reads at weaker levels do not tell which revision they saw: not checked"
        ));
    }
    nodes(history, verdict);
}

/// The promise claimed must be the one asked for, or a stronger one.
fn claims(operation: &Logical<'_>, verdict: &mut Verdict) {
    let record = operation.record;
    let Some(claimed) = record.consistency else { return };
    let asked = record.level.unwrap_or(Level::Linearizable);
    let keeps = claimed == asked
        || claimed == Level::Linearizable
        || asked == Level::Local
        || (asked == Level::Bounded && record.fallback);
    if !keeps {
        let message = format!("the answer claims only {claimed:?}: {}", show(record));
        verdict.violation(Rule::WeakerThanAsked, message);
    }
}

/// Neither older than the bound, nor older than the answer claims.
fn age(
    history: &History<'_>,
    operation: &Logical<'_>,
    revision: u64,
    reached: &Reached,
    verdict: &mut Verdict,
) {
    let record = operation.record;
    let asked = record.bound_ms.filter(|_| operation.level() == Level::Bounded);
    verdict.counts.staleness_claims += u64::from(record.staleness_ms.is_some());
    for (bound, what) in [(asked, "its bound allows"), (record.staleness_ms, "it claims")] {
        let Some(bound_ms) = bound else { continue };
        let Some(since) = operation.call.checked_sub(bound_ms.saturating_mul(NS_PER_MS)) else {
            continue;
        };
        let Some((floor, by)) = reached.before(since).filter(|(floor, _)| revision < *floor) else {
            continue;
        };
        let both = show_all([history.operations[by].record, record]);
        verdict.violation(
            Rule::TooOld,
            format!(
                "the read is older than {what} ({bound_ms} ms): it shows revision {revision}, but \
                 {floor} was reached more than that before it began:{both}"
            ),
        );
    }
}

/// What somebody had been told when: by key, in the order of answers, the highest so far.
struct Known<'a>(BTreeMap<u64, Vec<(u64, u64, &'a Record)>>);

impl<'a> Known<'a> {
    fn new(
        records: &'a [Record],
        key: impl Fn(&Record) -> u64,
        counts: impl Fn(&Record) -> bool,
    ) -> Self {
        let mut told: BTreeMap<u64, Vec<(u64, u64, &Record)>> = BTreeMap::new();
        for record in records.iter().filter(|record| counts(record)) {
            let own = record.part.result.as_ref().and_then(|result| result.version);
            let own = own.filter(|_| record.status == Status::Ok && !record.is_read());
            if let (Some(ret), Some(revision)) = (record.ret, record.revision.max(own)) {
                told.entry(key(record)).or_default().push((ret, revision, record));
            }
        }
        for told in told.values_mut() {
            told.sort_by_key(|(ret, revision, _)| (*ret, *revision));
            for at in 1..told.len() {
                if told[at].1 < told[at - 1].1 {
                    (told[at].1, told[at].2) = (told[at - 1].1, told[at - 1].2);
                }
            }
        }
        Self(told)
    }

    fn before(&self, key: u64, time: u64) -> Option<(u64, &'a Record)> {
        let told = self.0.get(&key)?;
        let answered = told.partition_point(|(ret, _, _)| *ret < time);
        answered.checked_sub(1).map(|last| (told[last].1, told[last].2))
    }
}

fn session(record: &Record, revision: u64, known: &Known<'_>, verdict: &mut Verdict) {
    if let Some((floor, before)) = known.before(record.client, record.call)
        && record.token.is_none()
        && revision < floor
    {
        verdict.violation(
            Rule::SessionWentBack,
            format!(
                "client {} had seen revision {floor}, then it was shown {revision}:{}",
                record.client,
                show_all([before, record])
            ),
        );
    }
    if let (Some(token), Some(applied)) = (record.token, record.applied)
        && applied < token
    {
        let message = format!(
            "the state has applied {applied}, not the {token} of the token: {}",
            show(record)
        );
        verdict.violation(Rule::SessionWentBack, message);
    }
}

/// What one client sees of one node never falls.
fn nodes(history: &History<'_>, verdict: &mut Verdict) {
    let local_counts = history.assumptions.local_never_falls;
    // Only reads: a write that was forwarded tells the revision that the leader gave it, which the
    // node that forwarded it may not have applied yet. And of them not the bounded ones: a node that
    // was restarted may serve an older state, as long as it is within the bound.
    let counts = |record: &Record| {
        record.is_read()
            && record.node.is_some()
            && record.revision.is_some()
            // A token of the caller's own demands no more than its state.
            && record.token.is_none()
            && (local_counts
                || matches!(record.consistency, Some(Level::Linearizable | Level::Session)))
    };
    let mut pairs: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for record in history.records.iter().filter(|record| counts(record)) {
        let next = pairs.len() as u64;
        pairs.entry((record.client, record.node.unwrap_or(0))).or_insert(next);
    }
    let pair = |record: &Record| {
        pairs.get(&(record.client, record.node.unwrap_or(0))).copied().unwrap_or(u64::MAX)
    };
    let known = Known::new(history.records, pair, counts);
    for record in history.records.iter().filter(|record| counts(record)) {
        let revision = record.revision.unwrap_or(0);
        if let Some((floor, before)) = known.before(pair(record), record.call)
            && revision < floor
        {
            verdict.violation(
                Rule::RevisionFell,
                format!(
                    "the node showed revision {floor}, and later {revision}:{}",
                    show_all([before, record])
                ),
            );
        }
    }
}
