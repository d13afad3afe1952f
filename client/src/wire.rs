//! What every call has in common, whichever it is: its place in the stream's envelopes, its unary
//! method, and where its options and its header are.

use tally_proto::v1::{self, ReadOptions, ResponseHeader, WriteOptions};
pub(crate) use tally_proto::v1::{answer::Response, call::Request};
use tonic::transport::Channel;

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
    /// Nothing that matters: opening, renewing and closing of sessions, status.
    Control,
    /// A change of the cluster would be asked for twice.
    Change,
}

macro_rules! class {
    (read) => {
        Class::Read
    };
    (write) => {
        Class::Write
    };
    (control) => {
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

macro_rules! rpcs {
    ($($kind:ident $variant:ident($request:ident) -> $response:ident: $client:ident.$method:ident;)*) => {
        $(
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
        )*

        /// What may happen when it is sent twice.
        pub(crate) fn class(request: &Request) -> Class {
            match request {
                $(Request::$variant(_) => class!($kind),)*
            }
        }

        /// The options of a write.
        pub(crate) fn write_options(request: &mut Request) -> Option<&mut Option<WriteOptions>> {
            match request {
                $(Request::$variant(request) => write_options!($kind request),)*
            }
        }

        /// The options of a read.
        pub(crate) fn read_options(request: &mut Request) -> Option<&mut Option<ReadOptions>> {
            match request {
                $(Request::$variant(request) => read_options!($kind request),)*
            }
        }

        /// The header of an answer.
        pub(crate) fn header(response: &Response) -> Option<&ResponseHeader> {
            match response {
                $(Response::$variant(response) => response.header.as_ref(),)*
                Response::Error(_) => None,
            }
        }

        /// Sends it as a unary call of its own service.
        pub(crate) async fn unary(
            channel: Channel,
            request: Request,
            timeout: std::time::Duration,
        ) -> Result<Response, tonic::Status> {
            match request {
                $(Request::$variant(message) => {
                    let mut request = tonic::Request::new(message);
                    request.set_timeout(timeout);
                    let mut client = $client::new(channel)
                        .max_decoding_message_size(MESSAGE_BYTES_MAX);
                    let response = client.$method(request).await?;
                    Ok(Response::$variant(response.into_inner()))
                })*
            }
        }
    };
}

/// A pack of answers may hold many of up to 3 MiB; what the node sends is for the node to bound.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

use tally_proto::v1::{
    cluster_client::ClusterClient, counters_client::CountersClient, keys_client::KeysClient,
    sessions_client::SessionsClient, transactions_client::TransactionsClient,
};

rpcs! {
    write CountersAdd(CountersAddRequest) -> CountersAddResponse: CountersClient.add;
    read CountersGet(CountersGetRequest) -> CountersGetResponse: CountersClient.get;
    read CountersBatchGet(CountersBatchGetRequest) -> CountersBatchGetResponse:
        CountersClient.batch_get;
    write CountersSet(CountersSetRequest) -> CountersSetResponse: CountersClient.set;
    write CountersCompareAndSet(CountersCompareAndSetRequest) -> CountersCompareAndSetResponse:
        CountersClient.compare_and_set;
    write CountersDelete(CountersDeleteRequest) -> CountersDeleteResponse: CountersClient.delete;
    read CountersList(CountersListRequest) -> CountersListResponse: CountersClient.list;
    write CountersConfigure(CountersConfigureRequest) -> CountersConfigureResponse:
        CountersClient.configure;
    write KeysPut(KeysPutRequest) -> KeysPutResponse: KeysClient.put;
    read KeysGet(KeysGetRequest) -> KeysGetResponse: KeysClient.get;
    read KeysBatchGet(KeysBatchGetRequest) -> KeysBatchGetResponse: KeysClient.batch_get;
    write KeysDelete(KeysDeleteRequest) -> KeysDeleteResponse: KeysClient.delete;
    read KeysScan(KeysScanRequest) -> KeysScanResponse: KeysClient.scan;
    write TransactionsApply(TransactionsApplyRequest) -> TransactionsApplyResponse:
        TransactionsClient.apply;
    control SessionsOpen(SessionsOpenRequest) -> SessionsOpenResponse: SessionsClient.open;
    control SessionsRenew(SessionsRenewRequest) -> SessionsRenewResponse: SessionsClient.renew;
    control SessionsClose(SessionsCloseRequest) -> SessionsCloseResponse: SessionsClient.close;
    read SessionsList(SessionsListRequest) -> SessionsListResponse: SessionsClient.list;
    control ClusterStatus(ClusterStatusRequest) -> ClusterStatusResponse: ClusterClient.status;
    change ClusterAddLearner(ClusterAddLearnerRequest) -> ClusterAddLearnerResponse:
        ClusterClient.add_learner;
    change ClusterPromote(ClusterPromoteRequest) -> ClusterPromoteResponse: ClusterClient.promote;
    change ClusterRemove(ClusterRemoveRequest) -> ClusterRemoveResponse: ClusterClient.remove;
    change ClusterTransferLeader(ClusterTransferLeaderRequest) -> ClusterTransferLeaderResponse:
        ClusterClient.transfer_leader;
}
