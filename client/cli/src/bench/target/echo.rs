//! The floor: gRPC with the messages of Tally, against a server that only answers. What a target
//! takes more than this is its own doing.

use std::{
    collections::VecDeque,
    pin::Pin,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tally_client::proto::{
    self as v1,
    answer::Response as Answered,
    call::Request as Called,
    keys_client::KeysClient,
    keys_server::{Keys, KeysServer},
    stream_client::StreamClient,
    stream_server::{Stream as StreamService, StreamServer},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpListener,
    process::{Child, Command},
    sync::{mpsc, oneshot},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

use crate::{
    bench::{
        args::{Bench, Way},
        workload::{Step, key},
    },
    load::Failed,
    output::{Failure, line},
};

/// Answers every read with the same value.
struct Echo {
    value: Bytes,
}

impl Echo {
    fn answer(&self) -> v1::KeysGetResponse {
        let item = v1::KeyValue { value: self.value.clone(), ..Default::default() };
        v1::KeysGetResponse { header: None, item: Some(item) }
    }
}

#[tonic::async_trait]
impl Keys for Echo {
    async fn get(
        &self,
        _: Request<v1::KeysGetRequest>,
    ) -> Result<Response<v1::KeysGetResponse>, Status> {
        Ok(Response::new(self.answer()))
    }

    async fn put(
        &self,
        _: Request<v1::KeysPutRequest>,
    ) -> Result<Response<v1::KeysWriteResponse>, Status> {
        Ok(Response::new(v1::KeysWriteResponse::default()))
    }

    async fn batch_get(
        &self,
        _: Request<v1::KeysBatchGetRequest>,
    ) -> Result<Response<v1::KeysBatchGetResponse>, Status> {
        Err(Status::unimplemented("an echo only"))
    }

    async fn delete(
        &self,
        _: Request<v1::KeysDeleteRequest>,
    ) -> Result<Response<v1::KeysWriteResponse>, Status> {
        Err(Status::unimplemented("an echo only"))
    }

    async fn scan(
        &self,
        _: Request<v1::KeysScanRequest>,
    ) -> Result<Response<v1::KeysScanResponse>, Status> {
        Err(Status::unimplemented("an echo only"))
    }
}

#[tonic::async_trait]
impl StreamService for Echo {
    type ExchangeStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamExchangeResponse, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<v1::StreamExchangeRequest>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let value = self.value.clone();
        let answers = request.into_inner().map(move |pack| {
            let echo = Echo { value: value.clone() };
            let answer = |call: v1::Call| {
                let response = match call.request {
                    Some(Called::KeysPut(_)) => Answered::KeysPut(v1::KeysWriteResponse::default()),
                    _ => Answered::KeysGet(echo.answer()),
                };
                v1::Answer { id: call.id, response: Some(response) }
            };
            let answers = pack?.calls.into_iter().map(answer).collect();
            Ok(v1::StreamExchangeResponse { answers })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// `tally bench-echo-server`: prints its address, and answers until it is killed.
pub(crate) async fn serve(value_size: usize) -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    line(&listener.local_addr()?.to_string())?;
    let value: Bytes = vec![b'v'; value_size].into();
    Server::builder()
        .add_service(KeysServer::new(Echo { value: value.clone() }))
        .add_service(StreamServer::new(Echo { value }))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .map_err(|error| Failure::unable(error.to_string()))
}

/// An echo server in a process of its own, which ends with this value.
pub(crate) struct OwnServer {
    pub(crate) address: String,
    pub(crate) pid: u32,
    _child: Child,
}

impl OwnServer {
    pub(crate) async fn start(value_size: usize) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench-echo-server", "--value-size", &value_size.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let silent = || Failure::unable("the echo server says no address".to_owned());
        let stdout = child.stdout.take().ok_or_else(silent)?;
        let address = BufReader::new(stdout).lines().next_line().await?.ok_or_else(silent)?;
        let pid = child.id().ok_or_else(silent)?;
        Ok(Self { address, pid, _child: child })
    }
}

pub(crate) struct Target {
    channels: Vec<Channel>,
    way: Way,
    value: Bytes,
}

impl Target {
    pub(super) fn connect(endpoints: &[String], bench: &Bench) -> Result<Self, Failure> {
        let at = endpoints.first().map(String::as_str).unwrap_or_default();
        let endpoint = Endpoint::from_shared(format!("http://{at}"))
            .map_err(|error| Failure::usage(format!("{at}: {error}")))?
            .tcp_nodelay(true);
        let channels = (0..bench.connections).map(|_| endpoint.connect_lazy()).collect();
        let value = vec![b'v'; bench.value_size].into();
        Ok(Self { channels, way: bench.transport, value })
    }

    pub(super) async fn caller(&self, index: usize) -> Result<Caller, Failure> {
        let channel = self.channels[index % self.channels.len()].clone();
        let call = match self.way {
            Way::Unary => Calls::Unary(KeysClient::new(channel)),
            Way::Stream => Calls::Stream(Arc::new(OpenStream::open(channel).await?)),
        };
        Ok(Caller { call, value: self.value.clone() })
    }
}

#[derive(Clone)]
pub(crate) struct Caller {
    call: Calls,
    value: Bytes,
}

#[derive(Clone)]
enum Calls {
    Unary(KeysClient<Channel>),
    /// A stream of the caller's own, one call in a message.
    Stream(Arc<OpenStream>),
}

impl Caller {
    pub(super) async fn perform(&self, step: Step) -> Result<(), Failed> {
        match (step, self.call.clone()) {
            (Step::Get(item), Calls::Unary(mut client)) => {
                let request = v1::KeysGetRequest { key: key(item), read: None };
                client.get(request).await?;
            }
            (Step::Put(item), Calls::Unary(mut client)) => {
                client.put(self.put(item)).await?;
            }
            (Step::Get(item), Calls::Stream(stream)) => {
                let request = v1::KeysGetRequest { key: key(item), read: None };
                stream.call(Called::KeysGet(request)).await?;
            }
            (Step::Put(item), Calls::Stream(stream)) => {
                stream.call(Called::KeysPut(self.put(item))).await?;
            }
            _ => return Err(Failed::unsupported()),
        }
        Ok(())
    }

    fn put(&self, item: u64) -> v1::KeysPutRequest {
        let value = self.value.clone();
        v1::KeysPutRequest { key: key(item), value, ..Default::default() }
    }
}

/// Messages wait here for the connection; callers have a bounded number in flight.
const QUEUE: usize = 1024;

/// A stream whose answers come in the order of the calls.
struct OpenStream {
    queue: mpsc::Sender<v1::StreamExchangeRequest>,
    waiting: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenStream {
    async fn open(channel: Channel) -> Result<Self, Failure> {
        let (queue, mut queued) = mpsc::channel(QUEUE);
        let requests = futures_util::stream::poll_fn(move |context| queued.poll_recv(context));
        let mut client = StreamClient::new(channel);
        let answers = client.exchange(requests).await;
        let mut answers =
            answers.map_err(|status| Failure::unable(status.message().to_owned()))?.into_inner();
        let waiting = Arc::new(Mutex::new(VecDeque::<oneshot::Sender<()>>::new()));
        let answered = waiting.clone();
        tokio::spawn(async move {
            while let Ok(Some(pack)) = answers.message().await {
                let mut waiting = lock(&answered);
                for waiter in pack.answers.iter().filter_map(|_| waiting.pop_front()) {
                    let _ = waiter.send(());
                }
            }
            lock(&answered).clear();
        });
        Ok(Self { queue, waiting })
    }

    async fn call(&self, request: Called) -> Result<(), Failed> {
        let ended = || Failed { reason: "STREAM_ENDED".to_owned(), unknown: true };
        let room = self.queue.reserve().await.map_err(|_| ended())?;
        let answered = {
            // The order of those that wait is that of the messages, so one lock covers both.
            let mut waiting = lock(&self.waiting);
            let (answer, answered) = oneshot::channel();
            waiting.push_back(answer);
            let call = v1::Call { request: Some(request), ..Default::default() };
            room.send(v1::StreamExchangeRequest { calls: vec![call] });
            answered
        };
        answered.await.map_err(|_| ended())
    }
}
