//! The `date` header of answers, from the node's own clock.
//!
//! hyper puts the machine's time into each answer that has none. Its length on the wire depends on its
//! digits, and so does where a message ends: in a simulation that was enough to make two runs of one
//! seed differ. Given here, it is the simulated time.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use http::{HeaderValue, Response, header::DATE};
use tonic::body::Body;
use tower::util::MapResponseLayer;

use crate::env::Clock;

/// The last second that the header can say: the end of the year 9999.
const SECONDS_MAX: u64 = 253_402_300_799;

/// Dates answers.
pub(crate) fn layer(
    clock: Arc<dyn Clock>,
) -> MapResponseLayer<impl FnOnce(Response<Body>) -> Response<Body> + Clone + Send + Sync + 'static>
{
    MapResponseLayer::new(move |mut response: Response<Body>| {
        let seconds = (clock.wall_ms() / 1000).min(SECONDS_MAX);
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        if let Ok(date) = HeaderValue::from_str(&date) {
            response.headers_mut().insert(DATE, date);
        }
        response
    })
}
