//! What was asked and what came: one record for each call, and what it is worth beside all others.

use std::collections::VecDeque;

use serde::Serialize;

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Came {
    /// An answer.
    Ok,
    /// It says that it was not done, or that it can't be answered.
    Refused,
    /// A write of which nobody can say here whether it was or will be done.
    Unknown,
    /// A read without an answer. It changes nothing, so there is nothing unknown.
    Silence,
}

/// One call. Times are in ms since the lab began.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Record {
    /// Grows by one.
    pub(crate) seq: u64,
    /// Who asked: the number of a client, or 0 for a call by hand.
    pub(crate) client: u64,
    /// The node that was asked.
    pub(crate) node: u64,
    /// `add` or `get`.
    pub(crate) kind: &'static str,
    pub(crate) counter: String,
    /// The level that was asked for, of a read: `linearizable`, `bounded:200`, `session` or `local`.
    pub(crate) asked: String,
    pub(crate) start: f64,
    pub(crate) end: f64,
    pub(crate) came: Came,
    /// The gRPC code, if it is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    /// The node's reason: NO_QUORUM and the like.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<i64>,
    /// A write's answer is the remembered one of an earlier call.
    pub(crate) replayed: bool,
    /// From the answer's header.
    #[serde(flatten)]
    pub(crate) header: Option<Header>,
    /// A read only: it misses a write that was acknowledged so long before it began. 0: it misses none. Judged by
    /// the lab from the acknowledged writes to this counter, not by a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seen_ms: Option<f64>,
}

/// What a node says that its answer is worth.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Header {
    /// The level provided.
    pub(crate) provided: &'static str,
    pub(crate) by: u64,
    pub(crate) role: &'static str,
    pub(crate) term: u64,
    pub(crate) applied: u64,
    pub(crate) revision: u64,
    /// The state is no older than this: what the node proves.
    pub(crate) proven_ms: Option<u64>,
}

/// So many acknowledged writes of a counter are kept to judge reads by; with more a second than any lab does in
/// half a minute.
const ACKNOWLEDGED_MAX: usize = 65_536;

/// The acknowledged adds of a counter, each of a positive amount: a greater value is a newer state.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    /// Value after, and when the answer came. In the order in which answers came.
    adds: VecDeque<(i64, f64)>,
}

impl Acknowledged {
    /// An add was answered with this value at this time.
    pub(crate) fn add(&mut self, value: i64, at: f64) {
        if self.adds.len() == ACKNOWLEDGED_MAX {
            self.adds.pop_front();
        }
        self.adds.push_back((value, at));
    }

    /// How long before its beginning a read that saw this value had already missed a write.
    pub(crate) fn stale_ms(&self, value: i64, began: f64) -> f64 {
        let before = self.adds.iter().rev().skip_while(|(_, at)| *at >= began);
        // Of writes under way at once answers may overtake each other, but never by more than some of them.
        let mut seen_in_a_row = 0;
        let mut first_missed: Option<f64> = None;
        for (newer, at) in before {
            if *newer > value {
                first_missed = Some(*at);
                seen_in_a_row = 0;
            } else {
                seen_in_a_row += 1;
                if seen_in_a_row > OVERTAKING_MAX {
                    break;
                }
            }
        }
        first_missed.map_or(0.0, |at| began - at)
    }
}

/// More writes than the lab has under way at once.
const OVERTAKING_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_as_stale_as_the_first_write_that_it_misses() {
        let mut acknowledged = Acknowledged::default();
        for (value, at) in [(1, 10.0), (3, 20.0), (2, 21.0), (4, 30.0)] {
            acknowledged.add(value, at);
        }
        assert_eq!(acknowledged.stale_ms(4, 50.0), 0.0);
        assert_eq!(acknowledged.stale_ms(3, 50.0), 20.0);
        assert_eq!(acknowledged.stale_ms(2, 50.0), 30.0, "3 was acknowledged before 2");
        assert_eq!(acknowledged.stale_ms(0, 50.0), 40.0);
        assert_eq!(acknowledged.stale_ms(2, 15.0), 0.0, "later writes need not be seen");
        assert_eq!(
            acknowledged.stale_ms(3, 30.0),
            0.0,
            "acknowledged as it began: concurrent at most"
        );
    }
}
