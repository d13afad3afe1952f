//! Why a connection failed, in the words of whoever knows: "Connection refused" says more than "transport error".

use std::error::Error;

use tally_proto::{status::from_tonic, v1::CallStatus};

/// The innermost cause of an error.
pub(crate) fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// A status as it is passed on; one that was made here, of a connection that failed, says why it did.
pub(crate) fn with_cause(status: &tonic::Status) -> CallStatus {
    let mut passed_on = from_tonic(status);
    if status.source().is_some() {
        passed_on.message = root_cause(status).to_string();
    }
    passed_on
}
