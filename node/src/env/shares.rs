//! Who asks, and how much of what there is one may have.
//!
//! What a node has only so much of (connections, calls, writes under way and their bytes) belongs to whoever asks.
//! So one who asks for all of it would keep everybody else out. A [`Shares`] leaves nobody without: one identity
//! may hold a percentage of what the others leave. Alone it has nearly all of it, beside another that uses as
//! much as it may a part that both can live with, and the next one always finds some.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, futures::OwnedNotified};

use crate::machine::command::{Caller, Owner};

/// Who asks, as far as turns and shares are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Identity {
    /// From within the process.
    Nobody,
    /// One who has not shown who it is: the address that it calls from, or its network ([`Owner::network`]). Behind
    /// one address (a NAT, a proxy, one machine) all are one.
    Address(Owner),
    /// A user, by its id, from wherever it calls.
    User(u64),
}

impl Identity {
    /// Of a caller who calls from somewhere.
    pub fn of(caller: Option<Caller>, from: Option<Owner>) -> Identity {
        match (caller, from) {
            (Some(caller), _) => Identity::User(caller.user),
            (None, Some(from)) => Identity::Address(from.network()),
            (None, None) => Identity::Nobody,
        }
    }

    /// Its address as a peer is told of it; empty if it is not known by its address.
    pub fn address(self) -> Bytes {
        match self {
            Identity::Address(from) => Bytes::copy_from_slice(&from.octets()),
            Identity::User(_) | Identity::Nobody => Bytes::new(),
        }
    }
}

/// What one may have of what others leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareRule {
    /// So many percent, 1 to 100.
    pub percent: u8,
    /// It is only counted who would have more.
    pub report_only: bool,
}

impl ShareRule {
    /// Everybody may have everything.
    pub const NONE: ShareRule = ShareRule { percent: 100, report_only: true };
}

/// So much of some things, and who has how much of each.
#[derive(Debug)]
pub struct Shares<const N: usize> {
    max: [usize; N],
    percent: usize,
    /// Nothing is refused and nobody waits; what would be is counted.
    report_only: bool,
    exceeded: AtomicU64,
    held: Mutex<HeldBy<N>>,
}

#[derive(Debug)]
struct HeldBy<const N: usize> {
    all: [usize; N],
    by: BTreeMap<Identity, Account<N>>,
}

#[derive(Debug)]
struct Account<const N: usize> {
    held: [usize; N],
    /// Of shares, which may be of nothing.
    shares: usize,
    /// Somebody waits for it; made by the first who does.
    freed: Option<Arc<Notify>>,
}

/// What one holds, given back when it is dropped.
#[derive(Debug)]
pub struct Share<const N: usize> {
    of: Arc<Shares<N>>,
    identity: Identity,
    amount: [usize; N],
}

/// A share would be too large: of which thing, and what ends when some is given back.
struct TooMuch {
    which: usize,
    freed: OwnedNotified,
}

impl<const N: usize> Shares<N> {
    /// Of so much, of which one may have as much as the rule says.
    pub fn new(max: [usize; N], rule: ShareRule) -> Arc<Shares<N>> {
        let held = HeldBy { all: [0; N], by: BTreeMap::new() };
        Arc::new(Shares {
            max,
            percent: usize::from(rule.percent),
            report_only: rule.report_only,
            exceeded: AtomicU64::new(0),
            held: Mutex::new(held),
        })
    }

    /// How often a share was or would have been exceeded.
    pub fn exceeded(&self) -> u64 {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Some of each, or which of them would be more than the share. Whoever holds nothing gets what it asks for.
    pub fn take(
        self: &Arc<Self>,
        identity: Identity,
        amount: [usize; N],
    ) -> Result<Share<N>, usize> {
        self.try_take(identity, amount).map_err(|refused| refused.which)
    }

    /// The same, waiting for what this identity gives back.
    pub async fn wait(self: &Arc<Self>, identity: Identity, amount: [usize; N]) -> Share<N> {
        loop {
            match self.try_take(identity, amount) {
                Ok(share) => return share,
                Err(refused) => refused.freed.await,
            }
        }
    }

    fn try_take(
        self: &Arc<Self>,
        identity: Identity,
        amount: [usize; N],
    ) -> Result<Share<N>, TooMuch> {
        let mut held = self.lock();
        let HeldBy { all, by } = &mut *held;
        let account = by.entry(identity).or_insert_with(Account::nothing);
        let too_much = (0..N).find(|which| {
            let others = all[*which] - account.held[*which];
            let share = self.max[*which].saturating_sub(others) * self.percent / 100;
            // With all there is for a share, it is the limit itself that refuses.
            self.percent < 100
                && account.shares > 0
                && account.held[*which] + amount[*which] > share
        });
        if too_much.is_some() {
            self.exceeded.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(which) = too_much.filter(|_| !self.report_only) {
            // Made under the lock, so that what is given back from here on ends it.
            let freed = Arc::clone(account.freed.get_or_insert_default()).notified_owned();
            return Err(TooMuch { which, freed });
        }
        account.shares += 1;
        for (held, more) in account.held.iter_mut().chain(all).zip(amount.iter().chain(&amount)) {
            *held += more;
        }
        drop(held);
        Ok(Share { of: Arc::clone(self), identity, amount })
    }

    fn lock(&self) -> MutexGuard<'_, HeldBy<N>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize> Account<N> {
    fn nothing() -> Account<N> {
        Account { held: [0; N], shares: 0, freed: None }
    }
}

impl<const N: usize> Share<N> {
    /// Takes another one in, of the same identity.
    pub fn merge(&mut self, mut other: Share<N>) {
        debug_assert!(Arc::ptr_eq(&self.of, &other.of) && self.identity == other.identity);
        for (amount, more) in self.amount.iter_mut().zip(&mut other.amount) {
            *amount += std::mem::take(more);
        }
    }
}

impl<const N: usize> Drop for Share<N> {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        let HeldBy { all, by } = &mut *held;
        let account = by.get_mut(&self.identity).expect("who holds a share has an account");
        account.shares -= 1;
        let amount = self.amount.iter().chain(&self.amount);
        for (held, less) in account.held.iter_mut().chain(all).zip(amount) {
            *held -= less;
        }
        if let Some(freed) = &account.freed {
            freed.notify_waiters();
        }
        if account.shares == 0 {
            by.remove(&self.identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const ONE: Identity = Identity::User(1);
    const OTHER: Identity = Identity::User(2);

    fn percent(percent: u8) -> ShareRule {
        ShareRule { percent, report_only: false }
    }

    #[test]
    fn one_may_have_a_part_of_what_others_leave_and_nobody_goes_without() {
        let shares = Shares::new([100, 1000], percent(75));
        let first = shares.take(ONE, [75, 10]).unwrap();
        assert_eq!(shares.take(ONE, [1, 0]).unwrap_err(), 0);
        // Three quarters of the 25 that are left, and of the 990.
        let other = shares.take(OTHER, [18, 700]).unwrap();
        assert_eq!(shares.take(OTHER, [1, 0]).unwrap_err(), 0);
        assert_eq!(shares.take(OTHER, [0, 100]).unwrap_err(), 1);
        // What it holds already is more than its share now; nothing is taken away.
        assert_eq!(shares.take(ONE, [0, 216]).unwrap_err(), 0);
        drop(first);
        let _more = shares.take(OTHER, [57, 0]).unwrap();
        let _third = shares.take(Identity::User(3), [1000, 0]).expect("who has nothing gets some");
        drop(other);
    }

    #[test]
    fn what_is_only_reported_is_counted_and_refused_to_nobody() {
        let shares = Shares::new([10], ShareRule { percent: 50, report_only: true });
        let held: Vec<_> = (0..8).map(|_| shares.take(ONE, [1]).unwrap()).collect();
        assert_eq!((held.len(), shares.exceeded()), (8, 3));
    }

    #[test]
    fn an_account_ends_with_its_last_share() {
        let shares = Shares::new([10], percent(50));
        let address = Identity::of(None, Some(Owner::new(Ipv4Addr::LOCALHOST.into())));
        let held = [shares.take(address, [0]).unwrap(), shares.take(address, [5]).unwrap()];
        assert_eq!(shares.take(address, [1]).unwrap_err(), 0);
        drop(held);
        assert!(shares.lock().by.is_empty() && shares.lock().all == [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_it_gives_back_itself() {
        let shares = Shares::new([10], percent(50));
        let first = shares.take(ONE, [5]).unwrap();
        let waiting = tokio::spawn({
            let shares = Arc::clone(&shares);
            async move { shares.wait(ONE, [3]).await }
        });
        tokio::task::yield_now().await;
        let _other = shares.wait(OTHER, [2]).await;
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
    }
}
