//! Opening, renewing, replacing and closing the client's session, and doing without one.
//!
//! The cluster has so many places for sessions, and so many for the clients of one address. A client that
//! gets none is not shut out: for a while its writes carry random idempotency keys instead, as those of a
//! one-shot client do, and then it asks for a session again. See `drive::Call::ticket` for why a write
//! may change from one to the other.

use std::{sync::Arc, time::Duration};

use tally_proto::{reason, v1};
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Code;

use crate::{
    error::{Error, Result},
    plan::Plan,
    session::{Session, Ticket},
    shared::{CLOSE_TIMEOUT, Shared, Stamping},
};

/// A client that was refused a session does without for so long, and up to a half longer, so that many do
/// not come back together. Its writes cost the cluster more meanwhile, and an open that is refused costs
/// everybody a log entry.
const WITHOUT_SESSION: Duration = Duration::from_secs(10);

impl Shared {
    /// A number for a new write. Opens the session if there is none, waits if its window is full. Nothing
    /// if there is no place for a session: the write has to do with a key.
    pub(super) async fn ticket(self: &Arc<Self>, until: Instant) -> Result<Option<Ticket>> {
        let session = match self.sessions.current() {
            Some(session) => session,
            None if self.sessions.does_without() => return Ok(None),
            None => match Box::pin(self.open_session(until)).await? {
                Some(session) => session,
                None => return Ok(None),
            },
        };
        if let Some(ticket) = session.try_ticket() {
            return Ok(Some(ticket));
        }
        // Boxed, as what follows is rare and a timer is large.
        Box::pin(timeout_at(until, session.ticket())).await.map(Some).map_err(|_| {
            let message = "as many writes as a session allows are unanswered";
            Error::local(Code::FailedPrecondition, reason::SESSION_WINDOW_FULL, message)
        })
    }

    async fn open_session(self: &Arc<Self>, until: Instant) -> Result<Option<Arc<Session>>> {
        let was_refused = self.sessions.without().is_some();
        let _guard = match self.sessions.opening.try_lock() {
            Ok(guard) => guard,
            // While one asks again, the others go on as they did.
            Err(_) if was_refused => return Ok(None),
            Err(_) => timeout_at(until, self.sessions.opening.lock()).await.map_err(|_| {
                let message = "no session could be opened before the deadline";
                Error::local(Code::DeadlineExceeded, reason::NOT_PROPOSED, message)
            })?,
        };
        if let Some(session) = self.sessions.current() {
            return Ok(Some(session));
        }
        if self.sessions.does_without() {
            return Ok(None);
        }
        let idle_timeout_ms = match self.sessions.stamping {
            Stamping::Session { idle_timeout } => idle_timeout.as_millis() as u64,
            Stamping::OneShot => 0,
        };
        // If the answer is lost, another one is opened: the first one ends when it was idle.
        let request = v1::SessionsOpenRequest { idle_timeout_ms };
        let opened = match self.drive(request, Plan::until(until)).await {
            Ok(opened) => opened,
            Err(error) if error.reason() == reason::SESSION_TABLE_FULL => {
                let pause = WITHOUT_SESSION.mul_f64(1.0 + 0.5 * self.random_fraction());
                *self.sessions.without() = Some(Instant::now() + pause);
                tracing::warn!(
                    message = error.message(),
                    again_in_ms = pause.as_millis() as u64,
                    "no place for a session: writes carry idempotency keys instead"
                );
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        self.sessions.without().take();
        let session = Arc::new(Session::new(&opened));
        self.sessions.opened(session.clone());
        tokio::spawn(keep_alive(Arc::downgrade(self), session.id));
        Ok(Some(session))
    }

    pub(crate) async fn close_session(self: &Arc<Self>) {
        let Some(session) = self.sessions.take() else { return };
        let request = v1::SessionsCloseRequest { session_id: session.id };
        // Failing is harmless: the cluster ends an idle session by itself.
        let _ = self.drive(request, Plan::until(Instant::now() + CLOSE_TIMEOUT)).await;
    }
}

/// Renews an idle session for as long as its client lives.
async fn keep_alive(client: std::sync::Weak<Shared>, id: u64) {
    loop {
        let renew_at = {
            let Some(client) = client.upgrade() else { return };
            let Some(session) = client.sessions.current().filter(|session| session.id == id) else {
                return;
            };
            session.renew_at()
        };
        if Instant::now() < renew_at {
            sleep_until(renew_at).await;
            continue;
        }
        let Some(client) = client.upgrade() else { return };
        let Some(session) = client.sessions.current().filter(|session| session.id == id) else {
            return;
        };
        let request = v1::SessionsRenewRequest {
            session_id: id,
            lowest_unanswered: session.lowest_unanswered(),
        };
        let until = Instant::now() + (session.idle_timeout / 3).min(client.patience.deadline);
        match client.drive(request, Plan::until(until)).await {
            Ok(_) => session.renewed(),
            Err(error) if error.reason() == reason::SESSION_EXPIRED => client.sessions.expired(id),
            // The cluster's time stands still while it has no leader: there is time to try again.
            Err(_) => tokio::time::sleep(session.idle_timeout / 12).await,
        }
    }
}
