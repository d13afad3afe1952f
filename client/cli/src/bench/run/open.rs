//! The open loop: operations start at a fixed rate, whether or not earlier ones are answered.
//!
//! Latency counts from the moment at which an operation was to start, so a pause of the cluster is
//! felt by all that should have started during it, also if this process could not start them. What
//! is in flight is bounded; an operation that finds no room is not started, and counted.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::Instant,
};

use super::{STOP, Shared};
use crate::bench::{
    target::Caller,
    workload::{Choice, Step},
};

/// How long the dispatcher sleeps at least. Waking up for each of 30,000 operations a second would take
/// more of the machine than the operations do. So much later they start: `late_*` shows it, and latency
/// has it, too.
const NAP: Duration = Duration::from_micros(200);

/// … and while there is no room for all that is due: then only what was answered meanwhile can start, and
/// looking for it more often takes from the machine what is measured.
const NAP_WITHOUT_ROOM: Duration = Duration::from_millis(1);

/// When the operations of a run are to start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    rate: f64,
    /// Operations before this one warm up.
    first_measured: u64,
    /// One past the last operation.
    end: u64,
}

impl Schedule {
    pub(super) fn new(rate: f64, warmup: Duration, duration: Duration) -> Self {
        let until = |time: Duration| (rate * time.as_secs_f64()).ceil() as u64;
        Self { rate, first_measured: until(warmup), end: until(warmup + duration) }
    }

    fn is_measured(&self, number: u64) -> bool {
        number >= self.first_measured
    }

    /// How long after the beginning this operation is to start.
    fn at(&self, number: u64) -> Duration {
        Duration::from_secs_f64(number as f64 / self.rate)
    }

    /// How many operations were to start by then.
    fn due(&self, elapsed: Duration) -> u64 {
        let due = (elapsed.as_secs_f64() * self.rate).floor() as u64 + 1;
        due.min(self.end)
    }
}

/// An operation whose moment has come.
struct Due {
    number: u64,
    step: Step,
    scheduled: Instant,
    measured: bool,
    /// Its place among those in flight.
    _place: OwnedSemaphorePermit,
}

/// Makes the calls of one caller. They are futures of one task: what is started together, and answers
/// that come in one pack, wake one task.
///
/// A history calls the caller its client: it has many calls in flight, and what it was told before one
/// began bounds that one.
async fn perform(
    shared: Arc<Shared>,
    caller: Caller,
    client: u64,
    mut due: mpsc::UnboundedReceiver<Due>,
) {
    let one = async |due: Due| {
        if due.measured {
            shared.recorder.started(due.scheduled.elapsed());
        }
        let result = caller.perform(client, due.step).await;
        let latency = due.scheduled.elapsed();
        match &result {
            _ if !due.measured => {}
            Ok(()) => shared.recorder.done(due.number as usize, latency),
            Err(failed) => shared.recorder.failed(failed, latency),
        }
    };
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            next = due.recv() => match next {
                Some(next) => under_way.push(one(next)),
                None => break,
            },
            Some(()) = under_way.next() => {}
        }
    }
    while under_way.next().await.is_some() {}
}

/// Starts operations until all that were to start have, or it is told to stop.
///
/// It runs on a thread of its own: tokio's timers are as coarse as a millisecond, which would be
/// most of what is measured.
pub(super) fn dispatch(
    shared: &Arc<Shared>,
    callers: Vec<Caller>,
    schedule: Schedule,
    runtime: &Handle,
) {
    let room = Arc::new(Semaphore::new(shared.bench.in_flight as usize));
    let (lanes, tasks): (Vec<_>, Vec<_>) = callers
        .into_iter()
        .zip(1..)
        .map(|(caller, client)| {
            let (lane, due) = mpsc::unbounded_channel();
            (lane, runtime.spawn(perform(shared.clone(), caller, client, due)))
        })
        .unzip();
    let mut choice = Choice::new(&shared.bench, 0);
    let began = Instant::now();
    let mut next = 0;
    while next < schedule.end && shared.phase() != STOP {
        let due = schedule.due(began.elapsed());
        let mut nap = NAP;
        while next < due {
            let (number, step) = (next, choice.next());
            next += 1;
            let measured = schedule.is_measured(number);
            let Ok(place) = room.clone().try_acquire_owned() else {
                nap = NAP_WITHOUT_ROOM;
                if measured {
                    shared.recorder.not_started();
                }
                continue;
            };
            let scheduled = began + schedule.at(number);
            // A task that has panicked takes nothing; it is told of below.
            let _ = lanes[number as usize % lanes.len()].send(Due {
                number,
                step,
                scheduled,
                measured,
                _place: place,
            });
        }
        let wait = schedule.at(next).saturating_sub(began.elapsed());
        #[expect(clippy::disallowed_methods, reason = "this thread is no part of a simulation")]
        std::thread::sleep(wait.max(nap));
    }
    drop(lanes);
    runtime.block_on(async {
        // The last operations end by their own deadlines.
        for task in tasks {
            task.await.expect("a caller's task runs to its end");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_moment() {
        let seconds = Duration::from_secs;
        let schedule = Schedule::new(1000.0, seconds(1), seconds(2));
        assert_eq!((schedule.first_measured, schedule.end), (1000, 3000));
        // The first is due at once, and each one when its moment has come, not before.
        for number in [0, 1, 999, 1000, 2998] {
            assert_eq!(schedule.due(schedule.at(number)), number + 1, "{number}");
        }
        assert_eq!(schedule.due(Duration::from_micros(1500)), 2);
        // A pause makes everything due that was to start during it; nothing is left out.
        assert_eq!(schedule.due(seconds(60)), 3000);
        assert!(schedule.is_measured(1000) && !schedule.is_measured(999));
    }

    #[test]
    fn a_rate_below_one_a_second() {
        let schedule = Schedule::new(0.5, Duration::ZERO, Duration::from_secs(10));
        assert_eq!((schedule.first_measured, schedule.end), (0, 5));
        assert_eq!(schedule.at(1), Duration::from_secs(2));
        assert_eq!(schedule.due(Duration::from_millis(1999)), 1);
    }
}
