//! What the clones of a client share: whom to ask and how, the session, the newest state seen.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng as _, rngs::SmallRng};
use tally_proto::v1;
use tokio::time::Instant;

use crate::{
    exchange::Reply,
    node::Network,
    routing::{Router, Target},
    session::Session,
    token::TokenKeeper,
    wire::Rpc as _,
};

/// A write without a session is remembered for this long by the cluster, unless its caller named an
/// idempotency key. It is the shortest window that there is.
pub(crate) const ONE_SHOT_WINDOW: Duration = Duration::from_secs(60);

/// … and for this much longer than its last attempt may begin. The window begins when the first
/// attempt is applied, and each attempt under a key has to find what an earlier one left.
const ONE_SHOT_MARGIN: Duration = Duration::from_secs(30);

/// The window of a key that is made for one call with this deadline. (The cluster cuts it to its own,
/// which is a minute at least and a day by default.)
pub(crate) fn one_shot_window(deadline: Duration) -> Duration {
    ONE_SHOT_WINDOW.max(deadline.saturating_add(ONE_SHOT_MARGIN))
}

/// How writes are made safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stamping {
    /// By numbers of a session. An idle timeout of zero asks for the cluster's own.
    Session { idle_timeout: Duration },
    /// By a random idempotency key each.
    OneShot,
}

/// Closing takes at most this long: the cluster ends an idle session by itself.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The session of a client, and whether it has to do without one.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) stamping: Stamping,
    current: Mutex<Option<Arc<Session>>>,
    /// There was no place for a session: until when to do without.
    without_until: Mutex<Option<Instant>>,
    /// Only one task opens; the others wait for it.
    pub(crate) opening: tokio::sync::Mutex<()>,
}

impl Sessions {
    pub(crate) fn new(stamping: Stamping) -> Self {
        Self {
            stamping,
            current: Mutex::new(None),
            without_until: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn without(&self) -> MutexGuard<'_, Option<Instant>> {
        self.without_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is too early to ask for a session again.
    pub(crate) fn does_without(&self) -> bool {
        self.without().is_some_and(|until| Instant::now() < until)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Session>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn current(&self) -> Option<Arc<Session>> {
        self.lock().clone()
    }

    /// The session is open.
    pub(crate) fn opened(&self, session: Arc<Session>) {
        *self.lock() = Some(session);
    }

    /// The session, which is nobody's from now on.
    pub(crate) fn take(&self) -> Option<Arc<Session>> {
        self.lock().take()
    }

    /// The cluster that knew the session is gone; the next write opens another.
    pub(crate) fn forget(&self) {
        self.lock().take();
        self.without().take();
    }

    /// This session has ended; the next write opens another.
    pub(crate) fn expired(&self, id: u64) {
        self.lock().take_if(|session| session.id == id);
    }
}

/// How long calls and their attempts may take, unless they say themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) deadline: Duration,
    pub(crate) attempt_timeout: Option<Duration>,
    /// A call gives up this early if nothing listens anywhere.
    pub(crate) unheard_max: Option<Duration>,
}

/// What the clones of a client share.
pub(crate) struct Shared {
    pub(crate) router: Router,
    pub(crate) network: Network,
    pub(crate) sessions: Sessions,
    pub(crate) tokens: TokenKeeper,
    pub(crate) patience: Patience,
    random: Mutex<SmallRng>,
}

impl Shared {
    pub(crate) fn new(
        router: Router,
        network: Network,
        sessions: Sessions,
        tokens: TokenKeeper,
        patience: Patience,
        random: SmallRng,
    ) -> Self {
        let random = Mutex::new(random);
        Self { router, network, sessions, tokens, patience, random }
    }

    fn random(&self) -> MutexGuard<'_, SmallRng> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uniform in 0..1.
    pub(crate) fn random_fraction(&self) -> f64 {
        self.random().random()
    }

    /// An idempotency key that nobody else draws.
    pub(crate) fn random_key(&self) -> String {
        format!("{:032x}", self.random().random::<u128>())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Some(session) = self.sessions.take() else { return };
        let node = self.router.pick(Target::Leader);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !node.is_connected() {
            return;
        }
        let network = self.network.clone();
        runtime.spawn(async move {
            let request = v1::SessionsCloseRequest { session_id: session.id };
            let until = Instant::now() + CLOSE_TIMEOUT;
            let _: Reply = node.call(&network, request.request(), until).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_outlives_the_call_that_it_was_made_for() {
        assert_eq!(one_shot_window(Duration::from_millis(300)), ONE_SHOT_WINDOW);
        assert_eq!(one_shot_window(Duration::from_secs(30)), ONE_SHOT_WINDOW);
        assert_eq!(one_shot_window(Duration::from_secs(3600)), Duration::from_secs(3630));
    }
}
