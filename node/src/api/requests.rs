//! From a request to what runs it: one table for both ways in, [`super::unary`] and [`super::stream`].

use std::future::Future;

use prost::Message;
use tally_proto::v1::{self, CallStatus, answer::Response, call::Request};

use super::{
    Answered, Api, Call,
    audited::{self, Audited, Tells, Told},
    status::Kind,
};
use crate::metrics::requests::Method;

/// A request, and how it is run.
pub(super) trait Runs: Message + Sized {
    /// What is said of it when it fails.
    const KIND: Kind;

    /// What it is called where it is recorded.
    const AUDITED: audited::Method;

    /// As what it is counted.
    const METHOD: Method;

    /// Its answer.
    type Response;

    /// Runs it.
    fn run(self, api: &Api, call: &Call) -> impl Future<Output = Answered<Self::Response>> + Send;
}

/// What is said of a failure: of a write, what became of it.
macro_rules! kind {
    (read) => {
        Kind::Read
    };
    (status) => {
        Kind::Read
    };
    (report) => {
        Kind::Read
    };
    ($writes:ident) => {
        Kind::Write
    };
}

/// Whether it is always recorded.
macro_rules! is_change {
    (read) => {
        false
    };
    (status) => {
        false
    };
    (report) => {
        false
    };
    ($changes:ident) => {
        true
    };
}

macro_rules! is_single_write {
    (write) => {
        true
    };
    ($other:ident) => {
        false
    };
}

/// A write of one operation runs as all of them do; anything else has a method of its own.
macro_rules! run {
    (write $field:ident $request:ident $api:ident $call:ident) => {
        Ok($api.write_single($call, $request.into()).await?.into())
    };
    ($other:ident $field:ident $request:ident $api:ident $call:ident) => {
        $api.$field($call, $request).await
    };
}

macro_rules! of_each {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        $($(impl Runs for v1::$request {
            const KIND: Kind = kind!($kind);
            const AUDITED: audited::Method = audited::Method {
                service: stringify!($service),
                variant: stringify!($variant),
                is_change: is_change!($kind),
            };
            const METHOD: Method = Method::$variant;
            type Response = v1::$response;

            async fn run(self, api: &Api, call: &Call) -> Answered<v1::$response> {
                let request = self;
                run!($kind $field request api call)
            }
        })*)*

        /// What is said of a request that fails.
        pub(super) fn kind_of(request: &Request) -> Kind {
            match request {
                $($(Request::$variant(_) => kind!($kind),)*)*
            }
        }

        /// What a request says of itself where it is recorded.
        pub(super) fn audited(request: &Request) -> (audited::Method, &dyn Audited) {
            match request {
                $($(Request::$variant(request) => (<v1::$request as Runs>::AUDITED, request),)*)*
            }
        }

        /// What an answer says that is recorded.
        pub(super) fn told(response: &Response) -> Told {
            match response {
                $($(Response::$variant(response) => response.told(),)*)*
                Response::Error(_) => Told::default(),
            }
        }

        /// Whether a request is a write of one operation.
        pub(super) fn is_single_write(request: &Request) -> bool {
            match request {
                $($(Request::$variant(_) => is_single_write!($kind),)*)*
            }
        }

        /// The methods of all requests, as gRPC names them.
        #[cfg(test)]
        pub(super) fn methods() -> Vec<String> {
            vec![$($(<v1::$request as Runs>::AUDITED.name()),*),*]
        }

        /// As what a request is counted.
        pub(super) fn method_of(request: &Request) -> Method {
            match request {
                $($(Request::$variant(_) => Method::$variant,)*)*
            }
        }

        /// Runs a request of a stream.
        pub(super) async fn dispatch(
            api: &Api,
            call: &Call,
            request: Request,
        ) -> Result<Response, CallStatus> {
            match request {
                $($(Request::$variant(request) => {
                    api.check_size(call, &request, kind!($kind))?;
                    // Boxed, so that the largest operation does not size every call's task.
                    Box::pin(request.run(api, call)).await.map(Response::$variant)
                })*)*
            }
        }
    };
}
tally_proto::requests!(of_each);
