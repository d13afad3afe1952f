//! How connections are made over TCP.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tally_proto::gathered::Gathered;
use tokio::net::TcpStream;
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

/// Connects as a [`crate::Client`] does by itself: over TCP, as tonic does (all addresses of a name are
/// tried within the endpoint's connect timeout), and with the messages of many calls in one write of the
/// system.
///
/// For a [`crate::Builder::connector`] that does something before or after it. Of the endpoint's options
/// for TCP only the connect timeout counts.
///
/// ```
/// use tonic::transport::Endpoint;
///
/// let builder = tally_client::Client::builder(["127.0.0.1:7401"]);
/// let builder = builder.connector(|endpoint: Endpoint| async move {
///     eprintln!("connecting to {}", endpoint.uri());
///     tally_client::connect(endpoint).await
/// });
/// ```
pub async fn connect(endpoint: Endpoint) -> Result<Channel, tonic::transport::Error> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    // TLS is the endpoint's, and comes on top of the connection.
    tcp.enforce_http(false);
    tcp.set_connect_timeout(endpoint.get_connect_timeout());
    endpoint.connect_with_connector(Gathering(tcp)).await
}

/// A connector for [`Endpoint::connect_with_connector`].
#[derive(Debug, Clone)]
struct Gathering(HttpConnector);

type Connected = TokioIo<Gathered<TcpStream>>;
type ConnectError = <HttpConnector as Service<Uri>>::Error;

impl Service<Uri> for Gathering {
    type Response = Connected;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Connected, ConnectError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            Ok(TokioIo::new(Gathered::new(stream)))
        })
    }
}
