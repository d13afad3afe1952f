//! What every call has in common, whichever it is: its place in the stream's envelopes, its unary
//! method, and where its options and its header are.

use tally_proto::v1::{self, ReadOptions, ResponseHeader, WriteOptions};
pub(crate) use tally_proto::v1::{answer::Response, call::Request};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// A request with a response of its own type.
pub(crate) trait Rpc {
    type Response;

    /// The request in the stream's envelope.
    fn request(self) -> Request;

    /// The response out of the stream's envelope, if it is one to this kind of request.
    fn response(response: Response) -> Option<Self::Response>;
}

/// What may happen when a call is sent twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing: it changes nothing.
    Read,
    /// Nothing, if it is stamped with a session number or an idempotency key.
    Write,
    /// Nothing that matters: opening, renewing and closing of sessions, status, users and roles, and what a change of
    /// the cluster would do.
    Control,
    /// A change of the cluster would be asked for twice.
    Change,
}

/// A token, as it goes into the metadata of a request. It is not shown by `Debug`.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    /// If it is text that can be metadata.
    pub(crate) fn new(token: &str) -> Option<Self> {
        let mut value = MetadataValue::try_from(format!("Bearer {}", token.trim())).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }

    /// Shows it with a request.
    pub(crate) fn show<T>(token: Option<&Self>, request: &mut tonic::Request<T>) {
        if let Some(Self(value)) = token {
            request.metadata_mut().insert("authorization", value.clone());
        }
    }
}

macro_rules! class {
    (read) => {
        Class::Read
    };
    (write) => {
        Class::Write
    };
    (apply) => {
        Class::Write
    };
    (session) => {
        Class::Control
    };
    (status) => {
        Class::Control
    };
    (report) => {
        Class::Control
    };
    (auth) => {
        Class::Control
    };
    (backup) => {
        Class::Control
    };
    (quota) => {
        Class::Control
    };
    (change) => {
        Class::Change
    };
}

macro_rules! write_options {
    (write $request:ident) => {
        Some(&mut $request.options)
    };
    (apply $request:ident) => {
        Some(&mut $request.options)
    };
    ($other:ident $request:ident) => {{
        let _ = $request;
        None
    }};
}

macro_rules! read_options {
    (read $request:ident) => {
        Some(&mut $request.read)
    };
    ($other:ident $request:ident) => {{
        let _ = $request;
        None
    }};
}

/// It asks what a change of the cluster would do, and changes nothing.
fn is_preview(request: &Request) -> bool {
    match request {
        Request::ClusterAddLearner(request) => request.preview,
        Request::ClusterPromote(request) => request.preview,
        Request::ClusterRemove(request) => request.preview,
        Request::ClusterTransferLeader(request) => request.preview,
        Request::ClusterDrain(request) => request.preview,
        Request::ClusterFinalizeUpgrade(request) => request.preview,
        _ => false,
    }
}

macro_rules! of_each {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        $($(
            impl Rpc for v1::$request {
                type Response = v1::$response;

                fn request(self) -> Request {
                    Request::$variant(self)
                }

                fn response(response: Response) -> Option<Self::Response> {
                    match response {
                        Response::$variant(response) => Some(response),
                        _ => None,
                    }
                }
            }
        )*)*

        /// What it is called in the stream.
        pub(crate) fn name(request: &Request) -> &'static str {
            match request {
                $($(Request::$variant(_) => stringify!($field),)*)*
            }
        }

        /// What may happen when it is sent twice.
        pub(crate) fn class(request: &Request) -> Class {
            match request {
                // Only asked what it would do.
                request if is_preview(request) => Class::Control,
                $($(Request::$variant(_) => class!($kind),)*)*
            }
        }

        /// The options of a write.
        pub(crate) fn write_options(request: &mut Request) -> Option<&mut Option<WriteOptions>> {
            match request {
                $($(Request::$variant(request) => write_options!($kind request),)*)*
            }
        }

        /// The options of a read.
        pub(crate) fn read_options(request: &mut Request) -> Option<&mut Option<ReadOptions>> {
            match request {
                $($(Request::$variant(request) => read_options!($kind request),)*)*
            }
        }

        /// The header of an answer.
        pub(crate) fn header(response: &Response) -> Option<&ResponseHeader> {
            match response {
                $($(Response::$variant(response) => response.header.as_ref(),)*)*
                Response::Error(_) => None,
            }
        }

        /// Sends it as a unary call of its own service.
        pub(crate) async fn unary(
            channel: Channel,
            token: Option<&Bearer>,
            request: Request,
            timeout: std::time::Duration,
        ) -> Result<Response, tonic::Status> {
            match request {
                $($(Request::$variant(message) => {
                    let mut request = tonic::Request::new(message);
                    request.set_timeout(timeout);
                    Bearer::show(token, &mut request);
                    crate::traces::show(&mut request);
                    let mut client = v1::$client_in::$client::new(channel)
                        .max_decoding_message_size(MESSAGE_BYTES_MAX);
                    let response = client.$method(request).await?;
                    Ok(Response::$variant(response.into_inner()))
                })*)*
            }
        }
    };
}
tally_proto::requests!(of_each);

/// A pack of answers may hold many of up to 3 MiB; what the node sends is for the node to bound.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preview_changes_nothing() {
        for (preview, expected) in [(true, Class::Control), (false, Class::Change)] {
            let requests = [
                v1::ClusterAddLearnerRequest { preview, ..Default::default() }.request(),
                v1::ClusterPromoteRequest { preview, ..Default::default() }.request(),
                v1::ClusterRemoveRequest { preview, ..Default::default() }.request(),
                v1::ClusterTransferLeaderRequest { preview, ..Default::default() }.request(),
                v1::ClusterDrainRequest { preview, ..Default::default() }.request(),
                v1::ClusterFinalizeUpgradeRequest { preview }.request(),
            ];
            for request in &requests {
                assert_eq!(class(request), expected, "{request:?}");
            }
        }
    }
}
