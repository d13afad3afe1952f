//! Removing what nobody can see any more, a bounded number of items in each entry. (And counting for new quotas, which
//! has a budget of its own and is described there: [`super::quota`].)
//!
//! Three kinds: answers below a watermark or of a session that is gone, sessions that have ended,
//! idempotency keys that have expired. Each kind has a budget of its own, so that none starves
//! another, and each budget grows with the commands of the entry, so that removing keeps up with
//! what they add. Whether something was removed yet decides no answer.
//!
//! A session's garbage is removed at the end of the entry that raised its watermark. What exceeds
//! the budget (a watermark may jump over 65,536 answers at once) puts the session into a queue, the
//! space [`Space::SessionGarbage`], from which later entries go on, ticks included. So does a
//! session that is removed before its answers are.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    keys::{RecordKey, Space},
    records::SessionRecord,
    session::session_answer_bytes,
    view::View,
    work::Work,
};

/// What removing a range of answers came to.
struct Removed {
    answers: u64,
    bytes: u64,
    /// The last one removed, if there may be more after it.
    stopped_at: Option<u64>,
}

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// Removes up to `items` of each kind.
    pub(super) fn keep_house(&mut self, items: usize) {
        for _ in 0..items {
            if !self.remove_an_ended_session() {
                break;
            }
        }
        for _ in 0..items {
            if !self.remove_an_expired_key() {
                break;
            }
        }
        let mut left = items;
        for session_id in self.touched_sessions() {
            if let Some(session) = self.session_record(session_id) {
                self.remove_answers_below_watermark(session_id, session, &mut left);
            }
        }
        self.work_off_queue(left);
        self.count_for_quotas();
    }

    /// Removes one session that has ended by log time; false if there is none.
    pub(super) fn remove_an_ended_session(&mut self) -> bool {
        let (_, end) = Space::SessionExpiry.range();
        let Some(key) = self.first_key(&self.ended_from, &end) else {
            return false;
        };
        let Ok(RecordKey::SessionExpiry { expires_at_ms, session_id }) = RecordKey::decode(&key)
        else {
            panic!("the index of session ends holds a malformed key: {key:02x?}");
        };
        if self.meta.log_time_ms < expires_at_ms {
            return false;
        }
        let session = self.session_record(session_id);
        let session = session.expect("a session in the index of session ends has a record");
        assert_eq!(
            session.expires_at_ms, expires_at_ms,
            "session {session_id} is at another time in the index than in its record"
        );
        self.remove_session(session_id, session);
        self.ended_from = key;
        true
    }

    /// Removes one idempotency key that has expired by log time; false if there is none.
    pub(super) fn remove_an_expired_key(&mut self) -> bool {
        let (_, end) = Space::IdempotencyExpiry.range();
        let Some(index_key) = self.first_key(&self.expired_from, &end) else {
            return false;
        };
        let Ok(RecordKey::IdempotencyExpiry { expires_at_ms, key }) = RecordKey::decode(&index_key)
        else {
            panic!("the index of idempotency keys holds a malformed key: {index_key:02x?}");
        };
        if self.meta.log_time_ms < expires_at_ms {
            return false;
        }
        self.remove_key(key);
        self.expired_from = index_key;
        true
    }

    /// Removes answers of a live session that are below its watermark.
    fn remove_answers_below_watermark(
        &mut self,
        session_id: u64,
        mut session: SessionRecord,
        left: &mut usize,
    ) {
        if session.removed_below == session.watermark {
            return;
        }
        let removed =
            self.remove_answers(session_id, session.removed_below, Some(session.watermark), left);
        session.answers -= removed.answers;
        session.answer_bytes -= removed.bytes;
        session.removed_below = match removed.stopped_at {
            Some(last) => last.saturating_add(1).min(session.watermark),
            None => session.watermark,
        };
        let queued = session.removed_below < session.watermark;
        if queued != session.garbage_queued {
            let key = RecordKey::SessionGarbage(session_id).encode();
            if queued {
                self.overlay.put(key, Bytes::new());
            } else {
                self.overlay.delete(key);
            }
            session.garbage_queued = queued;
        }
        self.set_session_record(session_id, Some(session));
    }

    /// Goes on with sessions whose garbage was more than one entry could remove.
    fn work_off_queue(&mut self, mut left: usize) {
        while left > 0 {
            let (start, end) = Space::SessionGarbage.range();
            let Some(key) = self.first_key(&start, &end) else {
                return;
            };
            let Ok(RecordKey::SessionGarbage(session_id)) = RecordKey::decode(&key) else {
                panic!("the queue of sessions with garbage holds a malformed key: {key:02x?}");
            };
            match self.session_record(session_id) {
                Some(session) => {
                    assert!(
                        session.garbage_queued && session.removed_below < session.watermark,
                        "session {session_id} is queued for garbage that it does not have"
                    );
                    self.remove_answers_below_watermark(session_id, session, &mut left);
                }
                None => {
                    let removed = self.remove_answers(session_id, 0, None, &mut left);
                    if removed.stopped_at.is_none() {
                        self.overlay.delete(key);
                    }
                }
            }
        }
    }

    /// Removes answers with `from <= sequence < to` (`None`: all from there) in ascending order, at
    /// most `left`, which is lowered by as many.
    fn remove_answers(
        &mut self,
        session_id: u64,
        from: u64,
        to: Option<u64>,
        left: &mut usize,
    ) -> Removed {
        let start = RecordKey::SessionAnswer { session_id, sequence: from }.encode();
        let end = match to {
            Some(to) => RecordKey::SessionAnswer { session_id, sequence: to },
            None => RecordKey::SessionAnswer { session_id: session_id + 1, sequence: 0 },
        }
        .encode();
        let mut removed = Removed { answers: 0, bytes: 0, stopped_at: None };
        if *left == 0 {
            removed.stopped_at = Some(from.saturating_sub(1));
            return removed;
        }
        let mut sequences = Vec::new();
        self.overlay.scan(&start, &end, &mut |key, value| {
            removed.bytes += session_answer_bytes(value.len());
            let Ok(RecordKey::SessionAnswer { sequence, .. }) = RecordKey::decode(key) else {
                panic!("the space of session answers holds a malformed key: {key:02x?}");
            };
            sequences.push(sequence);
            if sequences.len() == *left {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        *left -= sequences.len();
        removed.answers = sequences.len() as u64;
        if *left == 0 {
            removed.stopped_at = sequences.last().copied();
        }
        for sequence in sequences {
            self.overlay.delete_answer(session_id, sequence);
        }
        self.meta.session_answers -= removed.answers;
        self.meta.session_answer_bytes -= removed.bytes;
        removed
    }

    fn first_key(&self, start: &[u8], end: &[u8]) -> Option<Bytes> {
        let mut first = None;
        self.overlay.scan(start, end, &mut |key, _| {
            first = Some(Bytes::copy_from_slice(key));
            ControlFlow::Break(())
        });
        first
    }
}
