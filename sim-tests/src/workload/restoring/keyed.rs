//! Writes under idempotency keys from before a backup, sent again to the cluster into which it is restored.
//!
//! **What is judged.** A write that the backup holds is answered from memory there, with its first answer, and counts
//! once. One of after the backup is of a future that the other cluster does not have: sent again it takes effect, once.
//! Both show in the counter that nobody else writes to; each write adds another power of two.

use std::time::Duration;

use tally_client::{
    Client, CounterChange, ReadLevel,
    backup_format::Header,
    history::{Part, Request},
    reason,
};

use super::{HOST, PAUSE, RESTORER, Restoring};
use crate::{trace_event, workload::Workload};

/// Nobody else has to do with it.
const COUNTER: &str = "sent-again";
/// Sent so often, a write is given up.
const ATTEMPTS: u32 = 20;
/// A key that is remembered for less may be forgotten by the time at which its write is sent again.
const KEPT_FOR_MIN: Duration = Duration::from_secs(600);

/// What was written, and what came of it.
#[derive(Default)]
pub(super) struct Keyed {
    written: Vec<Written>,
    /// One may have been applied, or not: what the counter holds can't be foretold.
    is_unsure: bool,
}

struct Written {
    number: u32,
    first: CounterChange,
}

impl Written {
    fn is_in(&self, header: &Header) -> bool {
        self.first.revision <= header.revision
    }
}

fn key_of(number: u32) -> String {
    format!("order-{number}")
}

fn delta_of(number: u32) -> i64 {
    1 << number
}

impl Keyed {
    /// Some more writes, each until it is acknowledged.
    pub(super) async fn write(&mut self, workload: &Workload, client: &Client, more: u32) {
        let from = self.written.len() as u32;
        for number in from..from + more {
            let Some(first) = write_one(workload, client, number).await else {
                self.is_unsure = true;
                return;
            };
            self.written.push(Written { number, first });
        }
    }

    /// All of them once more, to the other cluster.
    pub(super) async fn send_again(
        self,
        workload: &Workload,
        other: &Client,
        header: &Header,
        restoring: &Restoring,
    ) {
        let book = &workload.shared.book;
        let mut expected = 0;
        for written in &self.written {
            let (key, delta) = (key_of(written.number), delta_of(written.number));
            let again = loop {
                restoring.step();
                match other.counter(COUNTER).add(delta).idempotency_key(key.clone()).await {
                    Ok(again) => break Some(again),
                    // What is new may be too much (seed 3033); what is remembered never is.
                    Err(error)
                        if error.reason() == reason::QUOTA_EXCEEDED && !written.is_in(header) =>
                    {
                        break None;
                    }
                    Err(error) => {
                        trace_event!(HOST, "{key} sent again: {}", error.reason());
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            };
            let Some(again) = again else { continue };
            expected += delta;
            let first = &written.first;
            if !written.is_in(header) {
                book.happened("a write that no backup holds sent again after a restore");
                continue;
            }
            if first.write.kept_for < KEPT_FOR_MIN {
                continue;
            }
            trace_event!(HOST, "{key} is {} again", again.value);
            if !again.write.replayed || again.value != first.value {
                book.wrong(format!(
                    "{key} was answered {} at revision {}, is in the backup at revision {}, and sent again after the \
                     restore it is answered {}, from memory: {}",
                    first.value, first.revision, header.revision, again.value, again.write.replayed
                ));
            }
            book.happened("a write answered from memory after a restore");
        }
        let is_forgotten = |it: &Written| it.first.write.kept_for < KEPT_FOR_MIN;
        if self.is_unsure || expected == 0 || self.written.iter().any(is_forgotten) {
            return;
        }
        let found = loop {
            restoring.step();
            match other.counter(COUNTER).get().level(ReadLevel::Linearizable).await {
                Ok(found) => break found.value,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        if found != expected {
            book.wrong(format!(
                "{} writes were sent again after a restore, {COUNTER} is to be {expected}, and is {found}",
                self.written.len()
            ));
        }
    }
}

async fn write_one(workload: &Workload, client: &Client, number: u32) -> Option<CounterChange> {
    let (key, delta) = (key_of(number), delta_of(number));
    for _ in 0..ATTEMPTS {
        let request = Request::from(Part::incr(COUNTER, delta)).idem(key.clone());
        let pending = workload.shared.book.begin(RESTORER, request);
        let answer = client.counter(COUNTER).add(delta).idempotency_key(key.clone()).await;
        workload.shared.book.finish(pending, &answer);
        match answer {
            Ok(first) => return Some(first),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    None
}
