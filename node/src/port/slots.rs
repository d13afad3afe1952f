//! How many connections a port has at once, and what is told to the one that is too many.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::{
    env::{
        Connection,
        shares::{Identity, Share, ShareRule, Shares},
    },
    machine::command::Owner,
};

/// For so long after a connection was refused the node's status says so.
const REFUSED_LATELY: Duration = Duration::from_secs(60);

/// A refused connection is closed after this, whether it has read the reason or not.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(1);

/// HTTP/2's ENHANCE_YOUR_CALM.
const ENHANCE_YOUR_CALM: u8 = 11;

/// The places of a port. Cheap to share.
#[derive(Debug)]
pub(crate) struct Slots {
    max: usize,
    share: ShareRule,
    /// What one address has.
    shares: Arc<Shares<1>>,
    used: AtomicUsize,
    refused: Mutex<Option<Instant>>,
    refusals: AtomicU64,
}

/// One place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    of: Arc<Slots>,
    _share: Share<1>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.of.used.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slots {
    /// For so many connections, of which those of one address may be what the rule says.
    pub(crate) fn new(max: usize, share: ShareRule) -> Arc<Slots> {
        let shares = Shares::new([max], share);
        Arc::new(Slots {
            max,
            share,
            shares,
            used: AtomicUsize::new(0),
            refused: Mutex::default(),
            refusals: AtomicU64::new(0),
        })
    }

    /// How often an address would have had more than its share.
    pub(crate) fn shares_exceeded(&self) -> u64 {
        self.shares.exceeded()
    }

    /// What one address may have of what others leave.
    pub(super) fn share(&self) -> ShareRule {
        self.share
    }

    /// How many there may be.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many there are.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Whether one was refused within the last minute.
    pub(crate) fn refused_lately(&self) -> bool {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < REFUSED_LATELY)
    }

    /// A place, if there is one for this address.
    pub(crate) fn take(self: &Arc<Self>, from: Option<IpAddr>) -> Option<Slot> {
        // Only the port's one task takes places, so this can't be too many between the two.
        let share = match self.used() < self.max {
            true => self.shares.take(Identity::of(None, from.map(Owner::new)), [1]).ok(),
            false => None,
        };
        let Some(share) = share else {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused = Some(Instant::now());
            self.refusals.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.used.fetch_add(1, Ordering::Relaxed);
        Some(Slot { of: Arc::clone(self), _share: share })
    }
}

/// Says that there are too many connections, and closes this one.
pub(super) async fn refuse(connection: Connection) {
    go_away(connection, ENHANCE_YOUR_CALM, "too many connections").await;
}

/// Says why in HTTP/2, and closes: empty settings, and a GOAWAY (no call was looked at) with an error and a text.
pub(super) async fn go_away(mut connection: Connection, error: u8, text: &str) {
    let length = u8::try_from(8 + text.len()).expect("texts are short");
    let frames =
        [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, length, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, error];
    let told = async {
        connection.write_all(&frames).await?;
        connection.write_all(text.as_bytes()).await?;
        connection.shutdown().await?;
        // What it has sent has to be read: the system drops what is under way to somebody whose bytes
        // nobody wanted.
        let mut sent = [0; 1024];
        while connection.read(&mut sent).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSAL_TIME_MAX, told).await;
}
