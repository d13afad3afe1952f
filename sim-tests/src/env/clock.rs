//! Simulated clocks. Time passes as turmoil moves it; a machine's wall clock may be wrong, and may
//! run at another rate, while its boot-time clock keeps the rate and starts at zero at each boot.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tally_node::env::Clock;
use tally_proto::seeded_bugs;

use super::machine_clock;

/// 2025-01-01 as milliseconds since 1970: when simulations begin.
pub const EPOCH_MS: u64 = 1_735_689_600_000;

/// Simulated time since the simulation began, asked from inside a host's turn. Between turns, when a
/// machine is taken down or started again, turmoil's answer has real time in it; there is none here.
pub fn simulated_now() -> Option<Duration> {
    let in_turn = tokio::runtime::Handle::try_current().is_ok();
    turmoil::sim_elapsed().filter(|_| in_turn)
}

/// [`simulated_now`] in milliseconds.
pub fn simulated_ms() -> Option<u64> {
    simulated_now().map(|elapsed| elapsed.as_millis() as u64)
}

/// What must never reach a simulation, and does with a bug on purpose: the real time.
fn real_ms() -> u64 {
    if !seeded_bugs::is_on("real-time-leaks-in") {
        return 0;
    }
    machine_clock::real_now().as_nanos() as u64 % 1_000
}

/// How wrong a machine's wall clock is. The simulation sets it while the machine runs.
#[derive(Debug, Default)]
pub struct WallClock {
    offset_ms: AtomicI64,
    /// Gained in a second, in microseconds.
    drift_ppm: AtomicI64,
}

impl WallClock {
    /// Steps the clock to be this far from the truth.
    pub fn set_offset_ms(&self, offset: i64) {
        self.offset_ms.store(offset, Ordering::Relaxed);
    }

    /// Lets it gain (or lose) this many microseconds in each second.
    pub fn set_drift_ppm(&self, drift: i64) {
        self.drift_ppm.store(drift, Ordering::Relaxed);
    }

    /// How far from the truth it is, so long after the simulation began.
    pub fn error_ms(&self, elapsed_ms: u64) -> i64 {
        let drift = self.drift_ppm.load(Ordering::Relaxed) * elapsed_ms as i64 / 1_000_000;
        self.offset_ms.load(Ordering::Relaxed) + drift
    }

    fn read_ms(&self, elapsed_ms: u64) -> u64 {
        (EPOCH_MS + elapsed_ms).saturating_add_signed(self.error_ms(elapsed_ms))
    }
}

/// The clocks of one run of a machine.
#[derive(Debug)]
pub struct SimulatedClock {
    wall: Arc<WallClock>,
    booted_at_ms: u64,
    /// For those who look from outside of the simulation's hosts.
    last_seen_ms: AtomicU64,
}

impl SimulatedClock {
    /// Clocks of a machine that boots now.
    pub fn boot(wall: Arc<WallClock>) -> Self {
        let now = simulated_ms().expect("a machine boots in a turn of its host");
        SimulatedClock { wall, booted_at_ms: now, last_seen_ms: AtomicU64::new(now) }
    }

    fn elapsed_ms(&self) -> u64 {
        match simulated_ms() {
            Some(now) => {
                self.last_seen_ms.store(now, Ordering::Relaxed);
                now
            }
            None => self.last_seen_ms.load(Ordering::Relaxed),
        }
    }
}

impl Clock for SimulatedClock {
    fn boot_ms(&self) -> u64 {
        self.elapsed_ms() - self.booted_at_ms
    }

    fn wall_ms(&self) -> u64 {
        self.wall.read_ms(self.elapsed_ms()) + real_ms()
    }
}
