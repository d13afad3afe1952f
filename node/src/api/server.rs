//! The client port: services, health and reflection on one server.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use tally_proto::{PUBLIC_DESCRIPTORS, v1};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{Api, layer::ExplainLayer};
use crate::{
    consensus::Consensus,
    env::{Connection, Listener},
    machine::limits,
};

/// Where tonic stops reading a message. Above the API's own limit, so that a request between the
/// two gets the API's error, which names the limit.
const MESSAGE_BYTES_MAX: usize = 2 * limits::REQUEST_BYTES_MAX;

/// Name of the health service that says whether linearizable reads work.
pub const LINEARIZABLE_SERVICE: &str = "tally.linearizable";

/// How often the shared probe runs a read-index round.
const PROBE_INTERVAL: Duration = Duration::from_millis(400);

/// A round must have succeeded within this time.
const PROBE_VALID: Duration = Duration::from_millis(1000);

/// A client connection that says nothing for this long is probed, and closed after as long again.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Calls that one connection may have open.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;

/// Serves until told to stop, then lets the open calls end.
pub async fn serve(
    api: Api,
    listener: Box<dyn Listener>,
    health: HealthReporter,
    health_service: Routes,
    mut stop: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the descriptors were compiled with the crate");
    macro_rules! limited {
        ($module:ident :: $server:ident) => {
            v1::$module::$server::new(api.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(2 * limits::ANSWER_BYTES_MAX)
        };
    }
    let routes = health_service
        .add_service(limited!(counters_server::CountersServer))
        .add_service(limited!(keys_server::KeysServer))
        .add_service(limited!(transactions_server::TransactionsServer))
        .add_service(limited!(sessions_server::SessionsServer))
        .add_service(limited!(cluster_server::ClusterServer))
        .add_service(
            v1::stream_server::StreamServer::new(api.clone())
                // A pack may hold many calls, each within the API's limit.
                .max_decoding_message_size(2 * MESSAGE_BYTES_MAX)
                .max_encoding_message_size(2 * limits::ANSWER_BYTES_MAX),
        )
        .add_service(reflection);
    let consensus = api.consensus.clone();
    let probe = tokio::spawn(probe(consensus, health));
    let dated = super::date::layer(Arc::clone(api.consensus.clock()));
    let served = Server::builder()
        .layer(dated)
        .layer(ExplainLayer)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(2 * 1024 * 1024)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener), async move {
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .await;
    probe.abort();
    served
}

/// Connections as tonic takes them. A failed accept (out of file descriptors, most often) is logged
/// and waited out; it must not end the server, nor spin.
pub(crate) fn incoming(
    listener: Box<dyn Listener>,
) -> impl futures_util::Stream<Item = Result<Connection, std::io::Error>> {
    stream::unfold(listener, |mut listener| async move {
        loop {
            match listener.accept().await {
                Ok(connection) => return Some((Ok(connection), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

/// Keeps both health services true: the process can answer LOCAL reads while it runs, and
/// linearizable ones while rounds succeed.
async fn probe(consensus: Consensus, health: HealthReporter) {
    health.set_service_status("", ServingStatus::Serving).await;
    health.set_service_status(LINEARIZABLE_SERVICE, ServingStatus::NotServing).await;
    let mut interval = tokio::time::interval(PROBE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_success: Option<Instant> = None;
    loop {
        interval.tick().await;
        let deadline = Instant::now() + PROBE_VALID;
        if consensus.reads().prove(deadline).await.is_ok() {
            last_success = Some(Instant::now());
        }
        let serving = !consensus.is_shutting_down()
            && last_success.is_some_and(|at| at.elapsed() <= PROBE_VALID);
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        health.set_service_status(LINEARIZABLE_SERVICE, status).await;
    }
}
