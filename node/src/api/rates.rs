//! How much a user may ask of this node: operations a second, as its roles say.
//!
//! Each user has a meter, by the generic cell rate algorithm (ITU-T I.371): one number, the time at which what it
//! has asked for would have been served at its rate. Who is further ahead of the clock than its burst allows is
//! refused, and told when it is not. What was refused counts for nothing.
//!
//! Nodes count for themselves: a user that calls three nodes may ask for three times as much. It is a limit against
//! a client that does too much, not a quota; what must hold for the cluster is a counter with a bound.
//!
//! A meter looks its limit up at most every [`LOOKED_UP_EVERY`], in the state that this node has.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_proto::{
    reason,
    status::StatusBuilder,
    v1::{self, CallStatus, call::Request},
};
use tokio::time::Instant;
use tonic::Code;

use super::{
    Api, Call, Who,
    status::{Kind, with_outcome},
};
use crate::{
    env::spaced::Spaced,
    machine::{auth::RoleLimit, users},
};

/// A changed limit counts after this at most.
const LOOKED_UP_EVERY: Duration = Duration::from_secs(1);

/// Meters beyond these are swept: users that were removed, or ask for nothing now.
const METERS_MAX: usize = 16_384;

/// The meters of a node.
#[derive(Debug)]
pub struct Rates {
    meters: Mutex<BTreeMap<u64, Meter>>,
    report_only: bool,
    exceeded: AtomicU64,
    told: Spaced,
}

/// What one user has asked for.
#[derive(Debug, Clone, Copy)]
struct Meter {
    limit: Option<RoleLimit>,
    looked_up: Instant,
    /// When all that was asked for would have been served at the rate.
    served_at: Instant,
}

impl Meter {
    /// Takes so many operations in, or says after what time it would.
    fn take(&mut self, operations: u64, now: Instant) -> Result<(), Duration> {
        let Some(RoleLimit { operations_per_second, burst }) = self.limit else { return Ok(()) };
        let time_of = |operations: u64| {
            let ns = u128::from(operations) * 1_000_000_000 / u128::from(operations_per_second);
            Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
        };
        // A step larger than the burst has to wait until there is nothing before it, not for ever.
        let ahead_max = time_of(burst).saturating_sub(time_of(operations));
        let begins = self.served_at.max(now);
        let ahead = begins - now;
        if ahead > ahead_max {
            return Err(ahead - ahead_max);
        }
        self.served_at = begins + time_of(operations);
        Ok(())
    }
}

impl Rates {
    /// That are enforced, or only counted.
    pub(crate) fn new(report_only: bool) -> Arc<Rates> {
        let exceeded = AtomicU64::new(0);
        let (meters, told) = (Mutex::default(), Spaced::default());
        Arc::new(Rates { meters, report_only, exceeded, told })
    }

    /// How often somebody asked for more than it may.
    pub(crate) fn exceeded(&self) -> u64 {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// A user asks for so many operations. If that is too much: after what time it is not.
    fn take(
        &self,
        user: u64,
        operations: u64,
        look_up: impl FnOnce() -> Option<RoleLimit>,
    ) -> Result<(), Duration> {
        let now = Instant::now();
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = |meter: &Meter| now < meter.looked_up + LOOKED_UP_EVERY;
        let known = meters.get_mut(&user).filter(|meter| is_new(meter));
        let taken = match known {
            Some(meter) => meter.take(operations, now),
            None => {
                // Not under the lock: it may read from the disk.
                drop(meters);
                let limit = look_up();
                meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
                if meters.len() >= METERS_MAX && !meters.contains_key(&user) {
                    meters.retain(|_, meter| is_new(meter));
                }
                // Somebody else may have asked meanwhile.
                let begun = Meter { limit, looked_up: now, served_at: now };
                let meter = meters.entry(user).or_insert(begun);
                (meter.limit, meter.looked_up) = (limit, now);
                meter.take(operations, now)
            }
        };
        drop(meters);
        let Err(wait) = taken else { return Ok(()) };
        self.exceeded.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = self.told.happened() {
            let report_only = self.report_only;
            tracing::warn!(times, user, report_only, "a user asks for more than its roles allow");
        }
        if self.report_only { Ok(()) } else { Err(wait) }
    }
}

impl Api {
    /// Counts what a caller asks for; refused if it is more than its roles allow.
    pub(super) fn count(
        &self,
        call: &Call,
        kind: Kind,
        who: &Who,
        operations: u64,
    ) -> Result<(), CallStatus> {
        let Some(caller) = who.caller else { return Ok(()) };
        let view = || self.consensus.state().view();
        let limit = || users::limit_of_user(&view(), caller.user);
        let Err(wait) = self.node.rates.take(caller.user, operations, limit) else { return Ok(()) };
        let message = format!(
            "the user's roles allow it fewer operations a second; there is room in {} ms",
            wait.as_millis() + 1
        );
        let status = StatusBuilder::new(Code::ResourceExhausted, reason::RATE_LIMITED, message)
            .retry_after(wait + Duration::from_millis(1));
        Err(self.without_state(call, with_outcome(status, kind, v1::Outcome::NotApplied)))
    }
}

/// What a request counts for: each operation and condition of an atomic step, anything else once.
pub(super) fn operations_of(request: &dyn Any) -> u64 {
    request.downcast_ref::<v1::TransactionsApplyRequest>().map_or(1, |step| {
        // One branch runs.
        let branch = step.operations.len().max(step.else_operations.len());
        (step.conditions.len() + branch).max(1) as u64
    })
}

/// The same of one on a stream.
pub(super) fn operations_of_call(request: &Request) -> u64 {
    match request {
        Request::TransactionsApply(step) => operations_of(step),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(operations_per_second: u64, burst: u64) -> impl Fn() -> Option<RoleLimit> {
        move || Some(RoleLimit { operations_per_second, burst })
    }

    #[tokio::test(start_paused = true)]
    async fn one_has_its_burst_and_then_its_rate_and_is_told_when() {
        let rates = Rates::new(false);
        let take = |operations| rates.take(1, operations, limit(100, 10));
        for _ in 0..10 {
            take(1).unwrap();
        }
        assert_eq!(take(1), Err(Duration::from_millis(10)));
        assert_eq!(take(5), Err(Duration::from_millis(50)));
        tokio::time::advance(Duration::from_millis(10)).await;
        take(1).unwrap();
        // Refusals counted for nothing.
        tokio::time::advance(Duration::from_millis(50)).await;
        take(5).unwrap();
        assert_eq!((take(1), rates.exceeded()), (Err(Duration::from_millis(10)), 3));
        rates.take(2, 10, limit(100, 10)).expect("another has its own");
        // In a second as much as the rate says, however it is asked for.
        let (mut taken, began) = (0, Instant::now());
        while began.elapsed() < Duration::from_secs(10) {
            taken += u64::from(take(1).is_ok());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!((990..=1010).contains(&taken), "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_larger_than_the_burst_is_served_when_nothing_is_before_it() {
        let rates = Rates::new(false);
        rates.take(1, 128, limit(100, 10)).unwrap();
        assert_eq!(rates.take(1, 128, limit(100, 10)), Err(Duration::from_millis(1280)));
        tokio::time::advance(Duration::from_millis(1280)).await;
        rates.take(1, 128, limit(100, 10)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_limit_counts_within_a_second_and_none_is_none() {
        let rates = Rates::new(false);
        for _ in 0..1000 {
            rates.take(1, 1, || None).unwrap();
        }
        tokio::time::advance(LOOKED_UP_EVERY).await;
        rates.take(1, 1, limit(1, 1)).unwrap();
        rates.take(1, 1, limit(1, 1)).unwrap_err();
        tokio::time::advance(LOOKED_UP_EVERY).await;
        rates.take(1, 1, || None).unwrap();
        rates.take(1, 1, limit(1, 1)).expect("it was just looked up");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_only_reported_is_counted_and_refused_to_nobody() {
        let rates = Rates::new(true);
        for _ in 0..5 {
            rates.take(1, 1, limit(1, 1)).unwrap();
        }
        assert_eq!(rates.exceeded(), 4);
    }
}
