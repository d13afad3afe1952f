//! The peer port.

use std::sync::Arc;

use tally_proto::{http2, peer::v1::peer_server::PeerServer, seeded_bugs};
use tokio::sync::watch;
use tonic::service::Routes;
use tower::ServiceBuilder;

use super::{PEER_MESSAGE_BYTES_MAX, service::PeerService};
use crate::{
    env::{Clock, Listener, shares::ShareRule},
    port::{self, Port, Shape, Slots, room::NodeRoom},
    tls::Secured,
};

fn shape_of(path: &str) -> Shape {
    match path {
        "/tally.peer.v1.Peer/Append" | "/tally.peer.v1.Peer/InstallSnapshot" => Shape::Stream,
        _ => Shape::Unary,
    }
}

/// Serves until told to stop.
pub(crate) async fn serve(
    service: PeerService,
    listener: Box<dyn Listener>,
    clock: Arc<dyn Clock>,
    slots: Arc<Slots>,
    tls: Option<Arc<Secured>>,
    stop: watch::Receiver<bool>,
) {
    let service = PeerServer::new(service)
        .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let service = ServiceBuilder::new()
        .layer(port::date::layer(clock))
        .service(Routes::new(service).prepare());
    let port = Port {
        name: "peer",
        http2: http2::PEER_PORT,
        message_bytes_max: PEER_MESSAGE_BYTES_MAX,
        // A forwarded write brings its own deadline in its message.
        deadline_default: port::deadline::DEADLINE_MAX,
        shape_of,
        slots,
        room: NodeRoom::new(ShareRule::NONE),
        keeps_alive: !seeded_bugs::is_on("leader-never-steps-down"),
        tls,
    };
    port::serve(port, service, listener, stop).await;
}
