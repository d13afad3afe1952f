//! Bugs on purpose: the gate that proves the simulator.
//!
//! A simulator that finds nothing may be blind. So each promise has a switch that breaks it, at the
//! very line that keeps it, and the simulator must notice. The switches exist only with the cargo
//! feature `seeded-bugs`; without it [`is_on`] is a constant `false` and nothing is left of them.
//! The shipped binaries refuse to be built with it ([`COMPILED`]).
//!
//! A switch belongs to a thread, as a simulation does: several run beside each other.

/// Whether the switches are in this build.
pub const COMPILED: bool = cfg!(feature = "seeded-bugs");

#[cfg(feature = "seeded-bugs")]
thread_local! {
    static ON: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
    static ACTED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Whether this thread's simulation runs with this bug.
#[cfg(feature = "seeded-bugs")]
pub fn is_on(name: &str) -> bool {
    let is_on = ON.get() == Some(name);
    ACTED.set(ACTED.get() + u64::from(is_on));
    is_on
}

/// Whether this thread's simulation runs with this bug: never in this build.
#[cfg(not(feature = "seeded-bugs"))]
#[inline(always)]
pub const fn is_on(_name: &str) -> bool {
    false
}

/// Switches one bug on for this thread, or all off.
#[cfg(feature = "seeded-bugs")]
pub fn switch_on(name: Option<&'static str>) {
    ON.set(name);
    ACTED.set(0);
}

/// How often the line of the bug that is on was reached on this thread since it was switched on: one
/// that is never reached can't be caught, and proves nothing.
pub fn acted() -> u64 {
    #[cfg(feature = "seeded-bugs")]
    return ACTED.get();
    #[cfg(not(feature = "seeded-bugs"))]
    0
}
