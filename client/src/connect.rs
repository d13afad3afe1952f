//! How connections are made over TCP.

use std::io;

use hyper_util::rt::TokioIo;
use tally_proto::gathered::Gathered;
use tokio::net::TcpStream;
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

/// Connects as a [`crate::Client`] does by itself: over TCP, without a delay for small packets, and with
/// the messages of many calls in one write of the system.
///
/// For a [`crate::Builder::connector`] that does something before or after it.
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
    endpoint.connect_with_connector(Tcp).await
}

/// A connector for [`Endpoint::connect_with_connector`].
#[derive(Debug, Clone, Copy)]
struct Tcp;

impl Service<Uri> for Tcp {
    type Response = TokioIo<Gathered<TcpStream>>;
    type Error = io::Error;
    type Future = std::pin::Pin<
        Box<dyn Future<Output = Result<TokioIo<Gathered<TcpStream>>, io::Error>> + Send>,
    >;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), io::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(Gathered::new(stream)))
        })
    }
}
