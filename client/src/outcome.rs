//! What became of a write.

use std::fmt;

/// What became of a write that failed. It speaks for all attempts that the library made at this call.
///
/// Under an idempotency key that the caller chose there may have been earlier calls, perhaps of another
/// process. Of them only an answer speaks that the cluster decided under the key:
/// [`Error::speaks_of_this_call_only`](crate::Error::speaks_of_this_call_only).
///
/// ```no_run
/// # async fn example(client: tally_client::Client) {
/// use tally_client::Outcome;
///
/// if let Err(error) = client.counter("stock").add(-1).floor(0).await {
///     match error.outcome() {
///         Some(Outcome::NotApplied) => println!("nothing happened: {error}"),
///         Some(Outcome::Unknown) => println!("it may have happened: {error}"),
///         None => unreachable!("an add is a write"),
///     }
/// }
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// This call applied nothing and nothing will come of it.
    NotApplied,
    /// It may have been applied, or may still be. Sending it again is safe only under the same
    /// idempotency key.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotApplied => "NOT_APPLIED",
            Self::Unknown => "UNKNOWN",
        })
    }
}
