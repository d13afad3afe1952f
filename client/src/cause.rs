//! Why a connection failed, in the words of whoever knows: "Connection refused" says more than "transport error".

use std::error::Error;

use tally_proto::{status::from_tonic, v1::CallStatus};
use tonic::Code;

/// The innermost cause of an error.
pub(crate) fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// What h2 says of bytes that are no HTTP/2: the first ones, read as the length of a frame, are too many.
const NOT_HTTP2: &str = "connection error detected: frame with invalid size";

/// What a node's port with TLS tells a caller without it (`node`, `port::secure`).
const SPEAKS_TLS: &str = "this port speaks TLS";

/// What rustls says of bytes that are no TLS.
const NOT_TLS: &str = "received corrupt message of type InvalidContentType";

/// Whoever answers at an address that is no node's client port, or another one than was expected.
#[derive(Debug)]
pub(crate) struct Stranger {
    /// It is what it is: asking again does not change it.
    pub(crate) stays: bool,
    pub(crate) message: String,
}

impl Stranger {
    /// If a status that no node made proves it.
    pub(crate) fn of(address: &str, status: &CallStatus) -> Option<Self> {
        let no_port =
            |what: &str| format!("{address} is no client port of Tally: what answers there {what}");
        let (stays, message) = match Code::from(status.code) {
            _ if status.message == NOT_HTTP2 => (false, no_port("does not speak gRPC")),
            _ if status.message.contains(SPEAKS_TLS) => (
                true,
                format!("{address} speaks TLS, and was called without: https:// asks for it"),
            ),
            _ if status.message.contains(NOT_TLS) => (
                true,
                format!("{address} speaks no TLS, and was called with it (https://, or a CA)"),
            ),
            Code::Unimplemented => {
                (true, no_port("speaks gRPC, but not Tally's API (a node's peer port?)"))
            }
            _ => return None,
        };
        Some(Self { stays, message })
    }
}

/// A status as it is passed on; one that was made here, of a connection that failed, says why it did.
pub(crate) fn with_cause(status: &tonic::Status) -> CallStatus {
    let mut passed_on = from_tonic(status);
    if status.source().is_some() {
        passed_on.message = root_cause(status).to_string();
    }
    passed_on
}
