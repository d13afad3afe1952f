//! The client port: services, health and reflection on one server.

use std::{sync::Arc, time::Duration};

use tally_proto::{PUBLIC_DESCRIPTORS, http2, v1};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::ServiceBuilder;

use super::{Api, layer::ExplainLayer};
use crate::{
    consensus::Consensus,
    machine::limits,
    port::{self, Entrance, Port, Shape, Slots, room, room::NodeRoom},
};

/// Longest message of a unary call: one that announces more is refused when it says so. A little above
/// the API's own limit: fields of a newer client, which are skipped, do not count there, and who is just
/// above it gets the API's error, with all of its details.
const MESSAGE_BYTES_MAX: usize = limits::REQUEST_BYTES_MAX + 4 * 1024;

/// Longest pack of a stream: it may hold many calls, each within the limit.
pub(super) const PACK_BYTES_MAX: usize = 4 * limits::REQUEST_BYTES_MAX;

/// Name of the health service that says whether linearizable reads work.
pub const LINEARIZABLE_SERVICE: &str = "tally.linearizable";

/// How often the shared probe runs a read-index round.
const PROBE_INTERVAL: Duration = Duration::from_millis(400);

/// A round must have succeeded within this time.
const PROBE_VALID: Duration = Duration::from_millis(1000);

const _: () = assert!(PACK_BYTES_MAX <= room::REQUEST_BYTES_MAX);

pub(super) fn shape_of(path: &str) -> Shape {
    match path {
        "/tally.v1.Stream/Exchange" => Shape::Stream,
        "/grpc.health.v1.Health/Watch" => Shape::Watch,
        path if path.starts_with("/grpc.reflection.") => Shape::Watch,
        _ => Shape::Unary,
    }
}

/// Serves until told to stop, then lets the open calls end.
pub(crate) async fn serve(
    api: Api,
    entrance: Entrance,
    health: HealthReporter,
    health_service: Routes,
    slots: Arc<Slots>,
    room: Arc<NodeRoom>,
    stop: watch::Receiver<bool>,
) {
    // Twice, as older tools speak its first version only: grpcurl before 1.8.8, Postman, Python's client. With
    // Google's own details, so that tools show errors as text.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    const COMPILED: &str = "the descriptors were compiled with the crate";
    let (reflection, alpha) = (reflection().build_v1(), reflection().build_v1alpha());
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
        .add_service(limited!(auth_server::AuthServer))
        .add_service(limited!(backup_server::BackupServer))
        .add_service(limited!(quotas_server::QuotasServer))
        .add_service(
            v1::stream_server::StreamServer::new(api.clone())
                .max_decoding_message_size(PACK_BYTES_MAX)
                .max_encoding_message_size(2 * limits::ANSWER_BYTES_MAX),
        )
        .add_service(reflection.expect(COMPILED))
        .add_service(alpha.expect(COMPILED));
    let (consensus, audit) = (api.consensus.clone(), api.node.audit.clone());
    let probe = tokio::spawn(probe(consensus, health));
    let dated = port::date::layer(Arc::clone(api.consensus.clock()));
    let service = ServiceBuilder::new()
        .layer(dated)
        .layer(ExplainLayer::new(audit.clone()))
        .service(routes.prepare());
    let port = Port {
        name: "client",
        http2: http2::CLIENT_PORT,
        message_bytes_max: PACK_BYTES_MAX,
        deadline_default: port::deadline::DEADLINE_DEFAULT,
        shape_of,
        slots,
        room,
        keeps_alive: true,
        tls: entrance.tls,
        audit,
    };
    port::serve(port, service, entrance.listener, stop).await;
    probe.abort();
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
