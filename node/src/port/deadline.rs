//! When a unary call must be answered.

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

/// Deadline of a request that brings none.
pub(crate) const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// The longest deadline that counts: longer ones are cut to it.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// When a unary call must be answered that has just begun: with its headers.
pub(crate) fn answer_by(headers: &HeaderMap, deadline_default: Duration) -> Instant {
    let asked = headers.get("grpc-timeout").and_then(|value| value.to_str().ok());
    let asked = asked.and_then(parse_grpc_timeout).filter(|asked| !asked.is_zero());
    let patience = asked.map_or(deadline_default, |asked| in_time(asked.min(DEADLINE_MAX)));
    Instant::now() + patience
}

/// How long a unary call may take here if its client gives it so long. A little less: at the
/// deadline itself the client, and tonic on this side, cut the call and leave an error without
/// details, which says nothing of what became of a write.
fn in_time(asked: Duration) -> Duration {
    /// Room for the answer to get back.
    const ROOM_MAX: Duration = Duration::from_millis(20);
    asked - (asked / 10).min(ROOM_MAX)
}

/// `grpc-timeout`: at most eight digits and a unit.
fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount.saturating_mul(3600)),
        "M" => Duration::from_secs(amount.saturating_mul(60)),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        assert_eq!(parse_grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_grpc_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse_grpc_timeout(""), None);
        assert_eq!(parse_grpc_timeout("m"), None);
        assert_eq!(parse_grpc_timeout("5x"), None);
        assert_eq!(parse_grpc_timeout("5é"), None);
    }
}
