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
    use super::*;

    /// The number above is a position in a C enumeration: a release that moves it must not go unseen.
    #[test]
    #[allow(unsafe_code, reason = "as above")]
    fn the_option_is_the_purge_delay() {
        // SAFETY: this is the only test of this program, and nothing here has set an option before.
        let before = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(before, 1000, "mimalloc's own purge delay");
        configure();
        // SAFETY: as above.
        assert_eq!(unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }, PURGE_DELAY_MS);
    }
}
