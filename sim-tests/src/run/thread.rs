//! A run on a thread of its own: what belongs to the thread is seeded first, its panics are findings, and
//! one whose time stands still is given up.

use std::{
    cell::RefCell,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
        mpsc::RecvTimeoutError,
    },
    time::Duration,
};

#[cfg(feature = "seeded-bugs")]
use tally_node::machine::version::FormatVersion;

use super::{Options, Outcome, Run, Violation};
use crate::{env::machine_clock, knobs::Knobs, trace, trace_event};

/// A simulation whose time stands still for this long, in real time, is caught in a loop.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What a simulation whose time is over shows as its progress. Judging what clients saw has a budget of
/// its own, which on a machine that does other things too may take longer than [`STUCK_AFTER`].
const OVER: u64 = u64::MAX;

/// Runs a seed, on a thread of its own.
pub fn run(seed: u64, options: &Options) -> Outcome {
    keep_panics_quiet();
    let (options, progress) = (options.clone(), Arc::new(AtomicU64::new(0)));
    let (done, outcome) = std::sync::mpsc::channel();
    let its_progress = Arc::clone(&progress);
    std::thread::Builder::new()
        .name(format!("seed-{seed}"))
        .stack_size(16 << 20)
        .spawn(move || {
            let _ = done.send(on_this_thread(seed, &options, &its_progress));
        })
        .expect("a thread can be started");
    let mut seen_ms = 0;
    loop {
        match outcome.recv_timeout(STUCK_AFTER) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => unreachable!("a simulation's panics are caught"),
            Err(RecvTimeoutError::Timeout) => {
                let now_ms = progress.load(Ordering::Relaxed);
                if now_ms == seen_ms && now_ms != OVER {
                    // Its thread can't be stopped; the process that runs it can.
                    return stuck(seed, now_ms);
                }
                seen_ms = now_ms;
            }
        }
    }
}

/// Some node or client goes round without waiting for anything, so simulated time can't pass.
fn stuck(seed: u64, at_ms: u64) -> Outcome {
    let what = "simulated time stands still: something goes round in a loop and never waits";
    Outcome {
        violations: vec![Violation { kind: "livelock".to_owned(), what: what.to_owned(), at_ms }],
        simulated_ms: at_ms,
        ..Outcome::empty(seed)
    }
}

thread_local! {
    pub(super) static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic inside a simulation is a finding, told once, with its place.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let in_simulation =
                std::thread::current().name().is_some_and(|name| name.starts_with("seed-"));
            if !in_simulation {
                return before(info);
            }
            let told = info.to_string().replace('\n', " ");
            LAST_PANIC.with_borrow_mut(|last| {
                if last.is_none() {
                    // A second one while it unwinds ends the process, and this is all that is left.
                    eprintln!("{told}");
                    *last = Some(told);
                }
            });
        }));
    });
}

fn on_this_thread(seed: u64, options: &Options, progress: &Arc<AtomicU64>) -> Outcome {
    let _trace = trace::begin(options.detail, options.keep);
    machine_clock::set(Duration::ZERO);
    crate::prepare_thread(seed);
    #[cfg(feature = "seeded-bugs")]
    tally_proto::seeded_bugs::switch_on(options.bug);
    let mut knobs = Knobs::draw(seed);
    if let Some(scenario) = options.scenario {
        knobs = Knobs::calm(seed);
        (scenario.knobs)(&mut knobs);
        if knobs.rights {
            knobs.draw_rights(seed);
        }
    }
    // While releases are mixed bounds of counters are what the newer one brings, so that clients meet the gate.
    #[cfg(feature = "seeded-bugs")]
    tally_node::machine::gate::pretended::bounds_need(
        knobs.releases_mixed_until_ms.map(|_| FormatVersion::MAX),
    );
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let mut run = Run::new(seed, &knobs, options, Arc::clone(progress));
        run.go();
        progress.store(OVER, Ordering::Relaxed);
        run.into_outcome()
    }));
    let acted = tally_proto::seeded_bugs::acted();
    match ran {
        Ok(outcome) => Outcome { acted, ..outcome },
        Err(_) => {
            let what = LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_default();
            trace_event!("panic", "{what}");
            Outcome {
                violations: vec![Violation { kind: "panic".to_owned(), what, at_ms: 0 }],
                trace: trace::recorded(),
                heard: trace::heard(),
                acted,
                ..Outcome::empty(seed)
            }
        }
    }
}
