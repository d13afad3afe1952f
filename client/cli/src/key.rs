//! The idempotency key that the shell draws for a write, so that it can name it when it gives up waiting.

use std::sync::{Mutex, PoisonError};

/// The last one: there is one line at a time.
static DRAWN: Mutex<String> = Mutex::new(String::new());

/// A key that nobody had before.
pub(crate) fn draw() -> String {
    let key = format!("shell-{:032x}", rand::random::<u128>());
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&key);
    key
}

/// Whether a key was drawn for this write, so that no earlier one can have been applied under it.
pub(crate) fn is_drawn(key: Option<&str>) -> bool {
    key.is_some_and(|key| *DRAWN.lock().unwrap_or_else(PoisonError::into_inner) == key)
}
