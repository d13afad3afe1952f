//! Sessions: what the client library's sequence numbers rest on.
//!
//! For each live session the numbers fall into three parts. Below the watermark, everything has
//! been answered to the caller and nothing executes again. From the watermark up to
//! [`SESSION_WINDOW`] numbers further, a number either has a stored answer or is new. Beyond that
//! nothing is admitted, so what a session can hold is bounded.
//!
//! Whether a session is live depends on log time alone; whether its record and answers are still
//! there is housekeeping's business (`housekeeping.rs`) and decides nothing.

use bytes::Bytes;
use tally_seeded_bugs as seeded_bugs;

use super::{
    command::{Answer, Fingerprint, Owner, Refusal, Reply, SessionStamp},
    keys::RecordKey,
    limits::{RECORD_OVERHEAD_BYTES, SESSION_REFRESH_DIVISOR, SESSION_WINDOW},
    records::{Record, SessionAnswerRecord, SessionRecord, decode_stored},
    restore,
    view::View,
    work::Work,
};
#[cfg(feature = "seeded-bugs")]
use crate::bugs;

/// How a session stands to a sequence number.
#[derive(Debug)]
pub(super) enum Standing {
    /// It has an answer.
    Answered(SessionAnswerRecord),
    /// It was never answered, and may be executed.
    New,
    /// It is below the watermark.
    TooOld {
        /// The watermark.
        watermark: u64,
    },
    /// It is too far above the watermark.
    OutOfWindow {
        /// The watermark.
        watermark: u64,
    },
    /// The session is not open.
    Gone,
}

/// Who opens a session, and how much of the table it may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) owner: Owner,
    /// In percent of the places that no other holds. More than 100 is all of them, 0 is one.
    pub(super) percent: u8,
}

/// As many sessions as one owner may hold of so many places: rounded up, so at least one of one.
fn share_max(places: u64, percent: u8) -> u64 {
    let percent = u128::from(percent.clamp(1, 100));
    u64::try_from((u128::from(places) * percent).div_ceil(100)).unwrap_or(u64::MAX)
}

/// What a session's answer counts towards its bytes.
pub(super) fn session_answer_bytes(record_bytes: usize) -> u64 {
    record_bytes as u64 + RECORD_OVERHEAD_BYTES
}

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// A session that is open by log time, of this epoch, and that `user` opened. Somebody else's is none: not even
    /// that there is one is told.
    fn live_session(&mut self, session_id: u64, user: u64) -> Option<SessionRecord> {
        let log_time_ms = self.meta.log_time_ms;
        if session_id < restore::first_session_id(self.meta.restore_epoch) {
            return None;
        }
        let session = self.session_record(session_id).filter(|session| session.user == user)?;
        (log_time_ms < session.expires_at_ms).then_some(session)
    }

    /// Raises the watermark to what the command says, keeps the session alive, and says how the
    /// number stands.
    ///
    /// A client that names its own number as answered (`lowest_unanswered` above `sequence`) is
    /// taken at its word: the number is below the watermark and does not execute. The watermark
    /// is not clamped to numbers seen or to the window, since a client may give up any number of
    /// commands that never arrived here; what a wrong client breaks is its own session only.
    pub(super) fn standing(&mut self, stamp: &SessionStamp, user: u64) -> Standing {
        let SessionStamp { session_id, sequence, lowest_unanswered } = *stamp;
        let Some(session) = self.live_session(session_id, user) else {
            return Standing::Gone;
        };
        let session = self.touch_session(session_id, session, lowest_unanswered);
        let watermark = session.watermark;
        if sequence < watermark {
            return Standing::TooOld { watermark };
        }
        if sequence - watermark >= SESSION_WINDOW {
            return Standing::OutOfWindow { watermark };
        }
        // Numbers mostly come in order, and one above all that have an answer has none.
        if sequence > session.highest_sequence {
            return Standing::New;
        }
        let key = RecordKey::SessionAnswer { session_id, sequence }.encode();
        match self.overlay.get(&key) {
            Some(_) if seeded_bugs::is_on("dedup-at-leader-only") => Standing::New,
            Some(bytes) => Standing::Answered(decode_stored(&key, &bytes)),
            None if seeded_bugs::is_on("late-number-too-old") => Standing::TooOld { watermark },
            None => Standing::New,
        }
    }

    /// Raises the watermark and puts off the session's end.
    ///
    /// The session's expiry is written only if it would come earlier than one idle time from now,
    /// and then with some slack on top, so that a hot session writes it once in that slack.
    /// **It never ends early:** after this, at log time t, `expires_at_ms >= t + idle` holds: either
    /// it did before, or it is now t + idle + slack. It ends late by at most the slack.
    fn touch_session(
        &mut self,
        session_id: u64,
        before: SessionRecord,
        lowest_unanswered: u64,
    ) -> SessionRecord {
        let mut session = before;
        session.watermark = session.watermark.max(lowest_unanswered);
        let due_ms = self.meta.log_time_ms.saturating_add(session.idle_timeout_ms);
        if session.expires_at_ms < due_ms && !seeded_bugs::is_on("session-end-not-put-off") {
            self.overlay.delete(expiry_key(session_id, &session));
            let slack_ms = session.idle_timeout_ms / SESSION_REFRESH_DIVISOR;
            session.expires_at_ms = due_ms.saturating_add(slack_ms);
            self.overlay.put(expiry_key(session_id, &session), Bytes::new());
        }
        if session != before {
            self.set_session_record(session_id, Some(session));
        }
        session
    }

    /// Stores the answer to a number that [`Work::standing`] has just called new.
    pub(super) fn remember_by_session(
        &mut self,
        stamp: &SessionStamp,
        fingerprint: Fingerprint,
        reply: &Reply,
    ) {
        let SessionStamp { session_id, sequence, .. } = *stamp;
        let mut session = self
            .session_record(session_id)
            .expect("no write on counters and keys ends the session that it came under");
        let record = SessionAnswerRecord { fingerprint, reply: reply.as_stored() }.encode();
        let bytes = session_answer_bytes(record.len());
        // New numbers have no answer yet, and most answers are gone again before the state is
        // flushed: the store below never hears of those.
        self.overlay.insert_answer(session_id, sequence, record);
        session.highest_sequence = session.highest_sequence.max(sequence);
        session.answers += 1;
        session.answer_bytes += bytes;
        self.meta.session_answers += 1;
        self.meta.session_answer_bytes += bytes;
        self.set_session_record(session_id, Some(session));
    }

    pub(super) fn open_session(
        &mut self,
        idle_timeout_ms: u64,
        share: Option<Share>,
        user: u64,
    ) -> Result<Answer, Refusal> {
        // The counts hold sessions that have ended and wait for housekeeping. They must not be seen, so
        // they make room first: a refusal is given, and its numbers are told, only when none is left. (To
        // let somebody in at once is the same: fewer sessions, of the owner or of others, only allow
        // more.) Each open adds one, so over time no more have to go than came.
        while let Some(refusal) = self.refuse_another_session(share) {
            if !self.remove_an_ended_session() {
                return Err(refusal);
            }
        }
        // One of each log index and epoch: what a cluster of before opened is none of these.
        let session_id = restore::session_id(self.meta.restore_epoch, self.log_index);
        assert!(
            self.session_record(session_id).is_none(),
            "session {session_id} would be opened a second time"
        );
        let idle_timeout_ms = match idle_timeout_ms {
            0 => self.meta.settings.session_idle_ms,
            asked => asked,
        };
        let session = SessionRecord {
            idle_timeout_ms,
            expires_at_ms: self.meta.log_time_ms.saturating_add(idle_timeout_ms),
            watermark: 1,
            removed_below: 1,
            highest_sequence: 0,
            answers: 0,
            answer_bytes: 0,
            garbage_queued: false,
            opened_wall_time_ms: self.wall_time_ms,
            owner: share.map(|share| share.owner),
            user,
        };
        self.overlay.put(expiry_key(session_id, &session), Bytes::new());
        self.set_session_record(session_id, Some(session));
        Ok(Answer::SessionOpened { session_id, idle_timeout_ms })
    }

    /// Why there is no place for one more, if so. Places are counted with sessions that have ended.
    ///
    /// An owner may hold a part of the places that no *other* holds, not a part of the table: so two
    /// that want everything do not fill it between them. With 50 %, one gets a half, two get a third each,
    /// three a quarter; a place or more stays for each who has none, until all are taken singly.
    /// All of it is in the state or in the entry, so the replicas decide alike.
    fn refuse_another_session(&self, share: Option<Share>) -> Option<Refusal> {
        let (sessions, sessions_max) = (self.meta.sessions, self.meta.settings.sessions_max);
        if sessions >= sessions_max {
            return Some(Refusal::SessionTableFull { sessions_max });
        }
        let Share { owner, percent: share_percent } = share?;
        let held = self.sessions_of(owner);
        let share_max = share_max(sessions_max - (sessions - held), share_percent);
        #[cfg(feature = "seeded-bugs")]
        let share_max = match seeded_bugs::is_on("share-not-replicated") {
            true => 1 + bugs::node_hash() % 3,
            false => share_max,
        };
        let refusal =
            Refusal::SessionShareFull { owner, held, share_max, share_percent, sessions_max };
        (held >= share_max).then_some(refusal)
    }

    pub(super) fn renew_session(
        &mut self,
        session_id: u64,
        lowest_unanswered: u64,
        user: u64,
    ) -> Result<Answer, Refusal> {
        let session =
            self.live_session(session_id, user).ok_or(Refusal::SessionExpired { session_id })?;
        self.touch_session(session_id, session, lowest_unanswered);
        Ok(Answer::SessionRenewed)
    }

    /// Ends a session, that of any user if none is named; whether it was open.
    pub(super) fn close_session(&mut self, session_id: u64, user: Option<u64>) -> bool {
        let of = self.session_record(session_id).map_or(0, |session| session.user);
        let Some(session) = self.live_session(session_id, user.unwrap_or(of)) else {
            return false;
        };
        self.remove_session(session_id, session);
        true
    }

    /// Removes a session's record. Its answers become garbage, which housekeeping removes.
    pub(super) fn remove_session(&mut self, session_id: u64, session: SessionRecord) {
        self.overlay.delete(expiry_key(session_id, &session));
        if session.answers > 0 {
            self.overlay.put(RecordKey::SessionGarbage(session_id).encode(), Bytes::new());
        } else if session.garbage_queued {
            self.overlay.delete(RecordKey::SessionGarbage(session_id).encode());
        }
        self.set_session_record(session_id, None);
    }
}

impl Reply {
    /// As it is remembered: what depends on when it is given is left out.
    pub(super) fn as_stored(&self) -> Reply {
        let mut reply = Reply { replayed: false, ..self.clone() };
        if let Some(kept) = &mut reply.kept {
            kept.for_ms = 0;
        }
        reply
    }
}

fn expiry_key(session_id: u64, session: &SessionRecord) -> Bytes {
    RecordKey::SessionExpiry { expires_at_ms: session.expires_at_ms, session_id }.encode()
}
