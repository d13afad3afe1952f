//! The allocator of `tallyd`, and how it gives memory back.

use std::ffi::c_long;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long memory stays with the process after it was last used. mimalloc gives it back after a second;
/// under a load that comes in waves the kernel then clears the same pages again for the next wave: at
/// twice what three nodes on two cores could do, a tenth of their time. (docs/performance.md has the runs.)
const PURGE_DELAY_MS: c_long = 10_000;

/// `mi_option_purge_delay` of mimalloc 2 and 3; its bindings have no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// To be called before the process has a second thread. `MIMALLOC_PURGE_DELAY` in the environment, in
/// milliseconds, wins.
#[allow(unsafe_code, reason = "an option of the allocator, which has no safe setter")]
pub(super) fn configure() {
    // SAFETY: it must not run beside another thread that sets or reads options, and there is none yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, PURGE_DELAY_MS) };
}

#[cfg(test)]
mod tests {
    use std::{env, process::Command};

    use super::*;

    const VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

    /// The number above is a position in a C enumeration: a release that moves it must not go unseen.
    #[test]
    #[allow(unsafe_code, reason = "as above")]
    fn the_option_is_the_purge_delay() {
        // SAFETY: nothing else in this program reads or sets an option.
        let get = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        let asked = env::var(VARIABLE).ok().map(|asked| asked.parse().expect("milliseconds"));
        assert_eq!(get(), asked.unwrap_or(1000), "what it is without us");
        configure();
        assert_eq!(get(), asked.unwrap_or(PURGE_DELAY_MS));
    }

    /// The allocator reads the environment before `main`, so it takes another process.
    #[test]
    fn the_environment_wins() {
        let test = ["--exact", "allocator::tests::the_option_is_the_purge_delay"];
        let itself = env::current_exe().expect("a test has a file");
        let output = Command::new(itself).args(test).env(VARIABLE, "1234").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
