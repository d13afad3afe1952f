//! A session of its own: its numbers, used as the library never would, and what is promised of them.

use std::time::Duration;

use rand::Rng;
use tally_client::proto::{self as v1, sessions_client::SessionsClient};
use tally_proto::{reason, status::Details};
use tonic::transport::Channel;

use super::{Raw, now_ms, patient, told, within};
use crate::workload::counter;

/// At so many nodes it is tried to close a session; otherwise it ends by itself.
const CLOSE_AT_MAX: usize = 3;

/// Sessions opened in a row by one that means no good.
const GREEDY_SESSIONS: u64 = 24;

/// What a session promised.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    pub(super) id: u64,
    pub(super) idle_ms: u64,
    pub(super) next: u64,
    pub(super) low: u64,
    /// A number that has an answer.
    pub(super) answered: Option<u64>,
    /// It lives at least until then, in simulated ms.
    pub(super) lives_until_ms: u64,
}

impl Raw {
    async fn open(&mut self, channel: Channel, idle_ms: u64) -> Result<Session, Details> {
        let began = now_ms();
        let request = v1::SessionsOpenRequest { idle_timeout_ms: idle_ms };
        let opened = within(SessionsClient::new(channel).open(patient(request))).await;
        let book = &self.workload.shared.book;
        match opened {
            Ok(opened) => {
                let opened = opened.into_inner();
                book.happened("session opened");
                Ok(Session {
                    id: opened.session_id,
                    idle_ms: opened.idle_timeout_ms,
                    next: 1,
                    low: 1,
                    answered: None,
                    lives_until_ms: began + opened.idle_timeout_ms,
                })
            }
            Err(status) => {
                let details = Details::parse(&status);
                book.happened(&format!("told: {}", details.reason));
                if status.message().contains("it may hold") {
                    book.happened("session refused by a host's share");
                }
                Err(details)
            }
        }
    }

    /// Works in a session of its own, and tries what a session must refuse.
    pub(super) async fn in_session(&mut self, channel: Channel) -> String {
        let Some(mut session) = self.session else {
            return match self.open(channel, 0).await {
                Ok(session) => {
                    self.session = Some(session);
                    format!("opens session {}", session.id)
                }
                Err(details) => format!("opens no session: {}", details.reason),
            };
        };
        // Some are left until they are near their end, a little before or after it.
        if self.rng.random_bool(0.2) {
            let left = session.lives_until_ms.saturating_sub(now_ms()).min(6_000);
            let wait = (left + self.rng.random_range(0..80)).saturating_sub(40);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        let answered = session.answered.filter(|number| *number >= session.low);
        let (sequence, delta) = match (self.rng.random_range(0..8), answered) {
            // The number of an answered write, for another request and for its own.
            (0, Some(number)) => (number, 7),
            (1, Some(number)) => (number, 1),
            (2, _) if session.low > 1 => (session.low - 1, 1),
            (3, _) => (session.low + 70_000, 1),
            _ => (session.next, 1),
        };
        let is_own = sequence == session.next;
        let repeats = answered == Some(sequence) && delta == 1;
        let stamp =
            v1::SessionStamp { session_id: session.id, sequence, lowest_unanswered: session.low };
        let options = v1::WriteOptions { session: Some(stamp), ..Default::default() };
        let name = counter(0);
        let call =
            v1::CountersAddRequest { name, delta, options: Some(options), ..Default::default() };
        let idem = (is_own || repeats).then(|| format!("session-{}-{sequence}", session.id));
        let began = now_ms();
        let added = self.add(channel.clone(), call, |_| idem.clone()).await;
        let what = format!("adds in session {} number {sequence}: {}", session.id, told(&added));
        match &added {
            Ok(change) => {
                self.lives_on(&mut session, began);
                if is_own {
                    session.answered = Some(sequence);
                    session.next += 1;
                    // Later numbers may say that it is answered, or not yet.
                    if self.rng.random_bool(0.5) {
                        session.low = session.next;
                    }
                }
                if !is_own && !change.write.replayed {
                    self.wrong(format!(
                        "session {}: number {sequence} was executed though it had an answer, is \
                         below the watermark or out of the window",
                        session.id
                    ));
                }
            }
            Err(details) => {
                self.judge_refusal(&session, details, is_own, sequence);
                if details.reason == reason::SESSION_EXPIRED {
                    self.session = None;
                    return what;
                }
                if is_own {
                    // It may be applied yet: the number is given up.
                    session.next += 1;
                }
            }
        }
        self.session = Some(session);
        if self.rng.random_bool(0.03) {
            self.close().await;
        } else if self.rng.random_bool(0.03) {
            // Left behind, as by a client that died.
            self.session = None;
        }
        what
    }

    fn lives_on(&self, session: &mut Session, call_ms: u64) {
        session.lives_until_ms = session.lives_until_ms.max(call_ms + session.idle_ms);
    }

    fn judge_refusal(&self, session: &Session, details: &Details, is_own: bool, sequence: u64) {
        let reason = details.reason.as_str();
        if reason == reason::SESSION_EXPIRED && now_ms() < session.lives_until_ms {
            self.wrong(format!(
                "session {} ended {} ms before its idle time was over",
                session.id,
                session.lives_until_ms - now_ms()
            ));
        }
        let of_numbers =
            [reason::SEQUENCE_REUSED, reason::SEQUENCE_TOO_OLD, reason::SESSION_WINDOW_FULL];
        if is_own && of_numbers.contains(&reason) {
            self.wrong(format!(
                "session {}: {reason} for number {sequence}, which is unanswered",
                session.id
            ));
        }
    }

    pub(super) async fn close(&mut self) {
        let Some(session) = self.session.take() else { return };
        // Of many nodes most may be gone for good, and each would be waited for.
        for node in (0..self.cluster.addresses().len()).rev().take(CLOSE_AT_MAX) {
            let Some(channel) = self.channel(node).await else { continue };
            let request = v1::SessionsCloseRequest { session_id: session.id };
            if within(SessionsClient::new(channel).close(patient(request))).await.is_ok() {
                self.workload.shared.book.happened("session closed");
                return;
            }
        }
    }

    /// Opens sessions for as long as it gets some, and leaves them to their end.
    pub(super) async fn greedy(&mut self, channel: Channel) -> String {
        if self.workload.shared.knobs.sessions_max > GREEDY_SESSIONS {
            return "wants nothing".to_owned();
        }
        for opened in 0..GREEDY_SESSIONS {
            if let Err(details) = self.open(channel.clone(), 0).await {
                return format!("opens {opened} sessions, then {}", details.reason);
            }
        }
        "opens sessions without end".to_owned()
    }
}
