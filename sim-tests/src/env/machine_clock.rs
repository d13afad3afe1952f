//! The machine's clock, for what asks it past every seam.
//!
//! The node takes its time from [`tally_node::env::Clock`] and from tokio, and a simulation has both
//! in hand. Libraries below them do not ask there. h2 keeps a call that was given up among its streams
//! for one second of `std::time::Instant`; when it goes, the streams behind it change places, and
//! with them the order in which the calls of a broken connection wake up (seed 102 had two traces,
//! one in six runs). hyper writes the time of day into each answer, and HPACK sends a date that has
//! not changed in fewer bytes.
//!
//! So on a thread that simulates, `clock_gettime` itself, which is where Rust's standard library
//! gets both from, answers with simulated time. Other threads get what the kernel says. It works
//! because an executable's own symbol comes before the C library's. Elsewhere than on 64-bit Linux
//! it does not, and traces may differ.

use std::{cell::Cell, time::Duration};

thread_local! {
    /// Simulated time on this thread. Needs neither initialization nor a destructor, so it can be
    /// asked at any moment of a thread's life, by the allocator too.
    static NOW: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From here on, the machine's clock stands at this simulated time for this thread.
pub fn set(now: Duration) {
    NOW.set(Some(now));
}

/// Whether [`set`] has an effect on this platform.
pub const SIMULATED: bool = cfg!(all(target_os = "linux", target_pointer_width = "64"));

/// What the kernel says since the machine's start, whatever is simulated.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[allow(unsafe_code, reason = "a system call")]
pub fn real_now() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes while the call lasts.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// What the kernel says since the machine's start, whatever is simulated.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
pub fn real_now() -> Duration {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[allow(unsafe_code, reason = "the C library's function, for those who call it")]
mod replaced {
    use std::time::Duration;

    use super::NOW;
    use crate::env::EPOCH_MS;

    /// A machine that runs a simulation was started a day before it began.
    const STARTED_BEFORE: Duration = Duration::from_secs(24 * 60 * 60);

    /// See `clock_gettime(2)`.
    ///
    /// # Safety
    ///
    /// `at` is valid for writes, or null.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn clock_gettime(
        clock: libc::clockid_t,
        at: *mut libc::timespec,
    ) -> libc::c_int {
        let base = match clock {
            libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Duration::from_millis(EPOCH_MS),
            libc::CLOCK_MONOTONIC
            | libc::CLOCK_MONOTONIC_COARSE
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_BOOTTIME => STARTED_BEFORE,
            // SAFETY: the caller's.
            _ => return unsafe { kernel(clock, at) },
        };
        match NOW.get() {
            Some(now) if !at.is_null() => {
                let now = base + now;
                let now = libc::timespec {
                    tv_sec: now.as_secs() as libc::time_t,
                    tv_nsec: now.subsec_nanos().into(),
                };
                // SAFETY: the caller's, and it is not null.
                unsafe { at.write(now) };
                0
            }
            // SAFETY: the caller's.
            _ => unsafe { kernel(clock, at) },
        }
    }

    /// # Safety
    ///
    /// `at` is valid for writes, or null.
    unsafe fn kernel(clock: libc::clockid_t, at: *mut libc::timespec) -> libc::c_int {
        // SAFETY: the caller's. The kernel refuses an address that it can't write to.
        unsafe { libc::syscall(libc::SYS_clock_gettime, clock, at) as libc::c_int }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use super::*;
    use crate::env::EPOCH_MS;

    /// If the linker took the C library's, everything would run on and traces would differ at times.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "what libraries do")]
    fn the_standard_library_gets_simulated_time() {
        if !SIMULATED {
            return;
        }
        let elsewhere = std::thread::spawn(|| {
            set(Duration::from_millis(5));
            let (began, date) = (Instant::now(), SystemTime::now());
            std::thread::sleep(Duration::from_millis(3));
            assert_eq!(began.elapsed(), Duration::ZERO);
            set(Duration::from_millis(1_005));
            assert_eq!(began.elapsed(), Duration::from_secs(1));
            let since_1970 = date.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            assert_eq!(since_1970, Duration::from_millis(EPOCH_MS + 5));
        });
        elsewhere.join().expect("it asserts");
        // This thread simulates nothing.
        let began = Instant::now();
        std::thread::sleep(Duration::from_millis(3));
        assert!(began.elapsed() >= Duration::from_millis(3));
    }
}
