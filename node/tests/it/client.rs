//! Clients: every request of the API can be sent as a unary call and inside the stream, and a
//! failure of either is read the same way.

use std::time::Duration;

use tally_proto::{
    status::{Details, from_tonic},
    v1::{self, CallStatus, answer::Response, call::Request, stream_client::StreamClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::requests::answer;

/// What a caller may say about a call besides its request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) timeout: Option<Duration>,
    pub(crate) request_id: String,
}

impl Asked {
    pub(crate) fn within(timeout: Duration) -> Self {
        Asked { timeout: Some(timeout), ..Asked::default() }
    }

    fn dress<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some(timeout) = self.timeout {
            request.set_timeout(timeout);
        }
        if !self.request_id.is_empty() {
            let id = self.request_id.parse().expect("the test's request id is a header value");
            request.metadata_mut().insert("x-request-id", id);
        }
        request
    }
}

macro_rules! unary_calls {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        /// Sends a request as a call of its service.
        pub(crate) async fn unary_asked(
            channel: &Channel,
            request: Request,
            asked: &Asked,
        ) -> Result<Response, Status> {
            match request {
                $($(Request::$variant(message) => {
                    let mut client = v1::$client_in::$client::new(channel.clone());
                    let answer = client.$method(asked.dress(message)).await?;
                    Ok(Response::$variant(answer.into_inner()))
                })*)*
            }
        }
    };
}

tally_proto::requests!(unary_calls);

/// Sends a request as a call of its service.
pub(crate) async fn unary(channel: &Channel, request: Request) -> Result<Response, Status> {
    unary_asked(channel, request, &Asked::default()).await
}

/// Reads a part of an open backup.
pub(crate) async fn read_part(
    channel: &Channel,
    backup_id: u64,
    part: u64,
) -> Result<v1::BackupReadResponse, Status> {
    let request = Request::BackupRead(v1::BackupReadRequest { backup_id, part });
    unary(channel, request).await.map(|response| answer!(BackupRead, response))
}

/// Reads an open backup to its end: the file, and the number of its last part.
pub(crate) async fn read_backup(channel: &Channel, backup_id: u64) -> (Vec<u8>, u64) {
    let (mut file, mut part) = (Vec::new(), 0);
    loop {
        let read = read_part(channel, backup_id, part).await.expect("it goes on");
        file.extend_from_slice(&read.data);
        if read.last {
            return (file, part);
        }
        part += u64::from(!read.data.is_empty());
    }
}

/// An open `Stream.Exchange`.
pub(crate) struct Exchange {
    packs: mpsc::Sender<v1::StreamExchangeRequest>,
    answers: Streaming<v1::StreamExchangeResponse>,
    ready: Vec<v1::Answer>,
}

impl Exchange {
    pub(crate) async fn open(channel: &Channel) -> Exchange {
        let (packs, queue) = mpsc::channel(16);
        let mut client = StreamClient::new(channel.clone());
        let answers = client.exchange(ReceiverStream::new(queue)).await;
        let answers = answers.expect("a stream can be opened").into_inner();
        Exchange { packs, answers, ready: Vec::new() }
    }

    pub(crate) async fn send(&self, calls: Vec<v1::Call>) {
        let sent = self.packs.send(v1::StreamExchangeRequest { calls }).await;
        sent.expect("the stream takes packs");
    }

    /// The next answer; `None` when the node ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<v1::Answer>, Status> {
        while self.ready.is_empty() {
            match self.answers.message().await? {
                Some(pack) => self.ready.extend(pack.answers.into_iter().rev()),
                None => return Ok(None),
            }
        }
        Ok(self.ready.pop())
    }

    /// Sends one call and waits for its answer.
    pub(crate) async fn call(&mut self, call: v1::Call) -> Result<Response, CallStatus> {
        let id = call.id;
        self.send(vec![call]).await;
        let answer = self.next().await.expect("the stream lives").expect("the stream lives");
        assert_eq!(answer.id, id);
        match answer.response.expect("an answer holds a response") {
            Response::Error(status) => Err(status),
            response => Ok(response),
        }
    }
}

/// Sends a request inside a stream of its own.
pub(crate) async fn streamed(channel: &Channel, request: Request) -> Result<Response, CallStatus> {
    streamed_asked(channel, request, &Asked::default()).await
}

/// … with a deadline or an id.
pub(crate) async fn streamed_asked(
    channel: &Channel,
    request: Request,
    asked: &Asked,
) -> Result<Response, CallStatus> {
    let deadline_ms = asked.timeout.map_or(0, |timeout| timeout.as_millis());
    let call = v1::Call {
        id: 1,
        deadline_ms: u32::try_from(deadline_ms).expect("a test's deadline fits"),
        request_id: asked.request_id.clone(),
        traceparent: String::new(),
        request: Some(request),
    };
    Exchange::open(channel).await.call(call).await
}

/// A failed call, however it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) details: Details,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        from_tonic(&status).into()
    }
}

impl From<CallStatus> for Failure {
    fn from(status: CallStatus) -> Self {
        let details = Details::parse_call(&status);
        Failure { code: Code::from(status.code), message: status.message, details }
    }
}

impl Failure {
    pub(crate) fn outcome(&self) -> Option<v1::Outcome> {
        self.details.outcome.as_ref().map(v1::WriteOutcome::outcome)
    }

    /// Code, reason and outcome: one row of the table of errors.
    pub(crate) fn row(&self) -> (Code, &str, Option<v1::Outcome>) {
        (self.code, &self.details.reason, self.outcome())
    }

    /// What every error has.
    pub(crate) fn assert_complete(&self) {
        assert!(!self.details.reason.is_empty(), "an error names its reason: {self:?}");
        assert!(!self.message.is_empty(), "an error has a message: {self:?}");
        assert!(self.details.request_id.is_some(), "an error has its request's id: {self:?}");
        let header = self.details.header.as_ref().expect("an error says which state refused");
        assert!(!header.session_token.is_empty(), "an error brings a session token: {self:?}");
        assert!(header.node_id > 0 && header.term > 0, "an error says who refused: {self:?}");
    }
}

/// Sends a request both ways; it must fail both times, for the same.
pub(crate) async fn fails_both_ways(channel: &Channel, request: Request) -> Failure {
    let failed = unary(channel, request.clone()).await.expect_err(&format!("{request:?}"));
    let in_band = streamed(channel, request.clone()).await.expect_err(&format!("{request:?}"));
    let (one, mut other) = (Failure::from(failed), Failure::from(in_band));
    one.assert_complete();
    other.assert_complete();
    // The second is another call, and may meet a newer state.
    other.details.request_id.clone_from(&one.details.request_id);
    other.details.header.clone_from(&one.details.header);
    if let (Some(other), Some(one)) = (&mut other.details.outcome, &one.details.outcome) {
        other.replayed = one.replayed;
    }
    assert_eq!(one, other, "a unary error and the one in the stream are equal");
    one
}
