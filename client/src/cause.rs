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

/// Whoever answers at an address that is no node's client port.
#[derive(Debug)]
pub(crate) struct Stranger {
    pub(crate) speaks_grpc: bool,
    pub(crate) message: String,
}

impl Stranger {
    /// If a status that no node made proves it.
    pub(crate) fn of(address: &str, status: &CallStatus) -> Option<Self> {
        let speaks_grpc = match Code::from(status.code) {
            _ if status.message == NOT_HTTP2 => false,
            Code::Unimplemented => true,
            _ => return None,
        };
        let what = match speaks_grpc {
            true => "speaks gRPC, but not Tally's API (a node's peer port?)",
            false => "does not speak gRPC",
        };
        let message = format!("{address} is no client port of Tally: what answers there {what}");
        Some(Self { speaks_grpc, message })
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
