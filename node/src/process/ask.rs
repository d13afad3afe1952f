//! A connection to the client port of a node, for a process that asks it something.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls::Asking;

/// Longest time that a connection takes.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);

/// Connects, over TLS if that is given. An error is in words.
pub(super) async fn connect(address: &str, tls: Option<&Asking>) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address:?} is not host:port: {error}"))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIME_MAX);
    let connected = match tls.cloned() {
        None => endpoint.connect().await,
        Some(tls) => {
            let address = address.to_owned();
            let connect = tower::service_fn(move |_: Uri| {
                let (tls, address) = (tls.clone(), address.clone());
                async move { tls.connect(&address).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connect).await
        }
    };
    connected.map_err(|error| {
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        format!("{address}: {error}: {cause}")
    })
}
