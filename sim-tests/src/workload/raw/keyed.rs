//! Writes under a key, again and again, and what their answers promised of it.

use std::time::Duration;

use rand::{Rng, seq::IndexedRandom};
use tally_client::{CounterChange, proto as v1};
use tally_proto::{reason, status::Details};
use tonic::transport::Channel;

use super::{Raw, now_ms, told};
use crate::workload::counter;

/// Numbers and keys whose promise is checked.
const PROBES_MAX: usize = 6;

/// A write under a key, and what its answer promised.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) key: String,
    pub(super) name: String,
    pub(super) delta: i64,
    pub(super) revision: u64,
    /// What the history calls this execution.
    pub(super) idem: String,
    /// It is remembered at least until then, in simulated ms.
    pub(super) until_ms: u64,
}

impl Raw {
    /// Under a key, again and again, also when its window is about to end, and for another request.
    pub(super) async fn under_key(&mut self, channel: Channel) -> String {
        let unsure = self.unsure.take();
        let sure = self.kept.choose(&mut self.rng).cloned();
        let sure = sure.filter(|_| unsure.is_none() && self.rng.random_bool(0.6));
        let mut other = false;
        if let Some(kept) = &sure {
            let left = kept.until_ms.saturating_sub(now_ms());
            if left < 4_000 && self.rng.random_bool(0.5) {
                let wait = (left + self.rng.random_range(0..80)).saturating_sub(40);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            other = self.rng.random_bool(0.2);
        }
        let is_new = unsure.is_none() && sure.is_none();
        let new = || Kept {
            key: format!("raw-{}-{}", self.number, self.calls),
            name: counter(1),
            delta: 1,
            revision: 0,
            idem: String::new(),
            until_ms: 0,
        };
        let first = sure.clone().or(unsure).unwrap_or_else(new);
        let options =
            v1::WriteOptions { idempotency_key: Some(first.key.clone()), ..Default::default() };
        let delta = if other { first.delta + 10 } else { first.delta };
        let call = v1::CountersAddRequest {
            name: first.name.clone(),
            delta,
            options: Some(options),
            ..Default::default()
        };
        let known = sure.clone();
        let key = first.key.clone();
        // Each execution under a key is a logical write of its own; its repeats tell its revision. One
        // that repeats an attempt of unknown outcome is the same as that attempt.
        let idem = |result: Result<&CounterChange, &Details>| match (result, &known) {
            (Ok(change), Some(known))
                if change.write.replayed && known.revision == change.revision =>
            {
                Some(known.idem.clone())
            }
            (Ok(change), _) if change.write.replayed => Some(format!("{key}?")),
            (Ok(change), _) => Some(format!("{key}@{}", change.revision)),
            (Err(details), _) => {
                let replayed = details.outcome.is_some_and(|outcome| outcome.replayed);
                (is_new || replayed).then(|| format!("{key}?"))
            }
        };
        let began = now_ms();
        let added = self.add(channel, call, &idem).await;
        let is_due = sure.as_ref().filter(|kept| now_ms() < kept.until_ms);
        self.kept.retain(|kept| kept.key != first.key);
        match &added {
            Ok(change) => {
                if let Some(due) = is_due
                    && (other || change.revision != due.revision)
                {
                    self.wrong(format!(
                        "key {}: executed at revision {} though it was to be remembered, from \
                         revision {}, for {} ms more",
                        first.key,
                        change.revision,
                        due.revision,
                        due.until_ms - now_ms()
                    ));
                }
                if sure.is_some() && !change.write.replayed {
                    self.workload.shared.book.happened("key forgotten after its window");
                }
                self.kept.push(Kept {
                    revision: change.revision,
                    idem: idem(Ok(change)).unwrap_or_default(),
                    delta,
                    until_ms: began + change.write.kept_for.as_millis() as u64,
                    ..first.clone()
                });
                if self.kept.len() > PROBES_MAX {
                    self.kept.remove(0);
                }
            }
            Err(details) => {
                let reused = details.reason == reason::IDEMPOTENCY_KEY_REUSED;
                if reused && !other && sure.is_some() {
                    self.wrong(format!("key {}: REUSED for its own request", first.key));
                }
                let outcome = details.outcome.unwrap_or_default();
                let is_new_refusal = outcome.decided_in_apply
                    && !reused
                    && details.reason != reason::DEDUP_TABLE_FULL;
                if is_new_refusal && is_due.is_some() {
                    self.wrong(format!(
                        "key {}: decided anew, with {}, though it was to be remembered",
                        first.key, details.reason
                    ));
                }
                if outcome.outcome() == v1::Outcome::NotApplied && !is_new_refusal {
                    // What it was before is what it is.
                    self.kept.extend(sure.clone());
                } else if is_new {
                    self.unsure = Some(first.clone());
                }
            }
        }
        let other = if other { " for another request" } else { "" };
        format!("adds under key {}{other}: {}", first.key, told(&added))
    }
}
