//! The client port of a node that does not take part yet: each call is told what the node waits for.
//!
//! Without it a client, a probe and a person see a refused connection, which looks like a machine that is
//! down. Nothing is ever proposed here, so a write's outcome is NOT_APPLIED, and a client asks another node.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, future::Either};
use http::{Request, Response};
use tally_proto::{
    http2, reason,
    status::StatusBuilder,
    v1::{self, answer, stream_server},
};
use tokio::sync::watch;
use tonic::{Code, Status, Streaming, body::Body, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::{Service, ServiceBuilder};

use super::server::{LINEARIZABLE_SERVICE, PACK_BYTES_MAX, shape_of};
use crate::{
    env::{Clock, Listener, shares::ShareRule},
    port::{self, Port, Slots, room::NodeRoom},
    tls::Secured,
};

/// When to ask this node again. It waits for machines and people.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the node waits for, as a sentence.
pub(crate) trait Waits: Send + Sync + 'static {
    /// Now.
    fn what_for(&self) -> String;
}

fn refusal(waits: &dyn Waits) -> StatusBuilder {
    StatusBuilder::new(Code::Unavailable, reason::NODE_STARTING, waits.what_for())
        .outcome(v1::Outcome::NotApplied)
        .retry_after(RETRY_AFTER)
}

/// Serves until told to stop.
pub(crate) async fn serve(
    waits: Arc<dyn Waits>,
    listener: Box<dyn Listener>,
    clock: Arc<dyn Clock>,
    connections_max: usize,
    tls: Option<Arc<Secured>>,
    stop: watch::Receiver<bool>,
) {
    let (health, health_service) = tonic_health::server::health_reporter();
    not_serving(&health).await;
    let streams = stream_server::StreamServer::new(Streams(Arc::clone(&waits)))
        .max_decoding_message_size(PACK_BYTES_MAX);
    let routes = Routes::new(health_service).add_service(streams).prepare();
    let dated = port::date::layer(clock);
    let service = ServiceBuilder::new().layer(dated).service(Starting { routes, waits });
    let port = Port {
        name: "client",
        http2: http2::CLIENT_PORT,
        message_bytes_max: PACK_BYTES_MAX,
        deadline_default: port::deadline::DEADLINE_DEFAULT,
        shape_of,
        slots: Slots::new(connections_max, ShareRule::NONE),
        room: NodeRoom::new(ShareRule::NONE),
        keeps_alive: true,
        tls,
    };
    port::serve(port, service, listener, stop).await;
}

async fn not_serving(health: &HealthReporter) {
    for service in ["", LINEARIZABLE_SERVICE] {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
}

/// Health and streams are answered by themselves, everything else is refused at once.
#[derive(Clone)]
struct Starting {
    routes: Routes,
    waits: Arc<dyn Waits>,
}

impl Service<Request<Body>> for Starting {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<
        <Routes as Service<Request<Body>>>::Future,
        Ready<Result<Response<Body>, Infallible>>,
    >;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        <Routes as Service<Request<Body>>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path.starts_with("/grpc.health.v1.") || path == "/tally.v1.Stream/Exchange" {
            return Either::Left(self.routes.call(request));
        }
        let status = refusal(&*self.waits).into_tonic();
        Either::Right(ready(Ok(status.into_http())))
    }
}

/// Answers each call of a stream, so that a client knows of each that it was not applied: of a stream that
/// fails as a whole it knows nothing.
struct Streams(Arc<dyn Waits>);

#[tonic::async_trait]
impl stream_server::Stream for Streams {
    type ExchangeStream =
        Pin<Box<dyn Stream<Item = Result<v1::StreamExchangeResponse, Status>> + Send>>;

    async fn exchange(
        &self,
        request: tonic::Request<Streaming<v1::StreamExchangeRequest>>,
    ) -> Result<tonic::Response<Self::ExchangeStream>, Status> {
        let waits = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |pack| {
            let status = refusal(&*waits).build();
            let answer = |call: v1::Call| v1::Answer {
                id: call.id,
                response: Some(answer::Response::Error(status.clone())),
            };
            Ok(v1::StreamExchangeResponse {
                answers: pack?.calls.into_iter().map(answer).collect(),
            })
        });
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}
