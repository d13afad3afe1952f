//! A web service that counts the hits of pages, exactly once for each request that its caller named.
//!
//! ```sh
//! cargo run -p tally-node --bin tallyd -- dev          # in another terminal
//! cargo run -p tally-client --example hits
//! curl -X POST http://127.0.0.1:8080/pages/home -H 'Idempotency-Key: visit-1'    # 1
//! curl -X POST http://127.0.0.1:8080/pages/home -H 'Idempotency-Key: visit-1'    # 1, counted before
//! curl http://127.0.0.1:8080/pages/home                                          # 1
//! ```
//!
//! `TALLY_ENDPOINTS` names other nodes than those of `tallyd dev`, with commas between them. Left out: who
//! may count. A key is good for one cluster, so a service for several customers puts theirs before it.

use std::{error::Error as StdError, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use tally_client::{Client, Code, Error, Outcome};
use tokio::{net::TcpListener, signal::unix};

/// Shorter than what the service's own callers wait, so that they get an answer and not silence.
const DEADLINE: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let endpoints = std::env::var("TALLY_ENDPOINTS")
        .unwrap_or_else(|_| "127.0.0.1:7401,127.0.0.1:7402,127.0.0.1:7403".to_owned());
    // It connects at the first call: the service starts also while the cluster does not answer.
    let client = Client::builder(endpoints.split(',')).deadline(DEADLINE).build()?;
    let pages = Router::new().route("/pages/{page}", get(show).post(count));
    let listener = TcpListener::bind("127.0.0.1:8080").await?;
    println!("http://{}/pages/home", listener.local_addr()?);
    let mut terminated = unix::signal(unix::SignalKind::terminate())?;
    let mut interrupted = unix::signal(unix::SignalKind::interrupt())?;
    axum::serve(listener, pages.with_state(client.clone()))
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        })
        .await?;
    // After the last request: a session that ends while its writes are under way leaves them unknown.
    client.close().await;
    println!("closed");
    Ok(())
}

/// Counts one hit. Under a key, the same request sent again counts no second time, also after this service
/// was started anew. Without one each request is a hit of its own, and retries within it count once.
async fn count(
    State(client): State<Client>,
    Path(page): Path<String>,
    headers: HeaderMap,
) -> Result<String, Failed> {
    let mut add = client.counter(format!("page/{page}")).add(1);
    if let Some(key) = headers.get("idempotency-key") {
        // A key that is no text is refused, since counting without it would break the caller's promise.
        add = add.idempotency_key(key.to_str().map_err(|_| Failed::BadKey)?);
    }
    let hits = add.await?;
    let before = if hits.write.replayed { ", counted before" } else { "" };
    Ok(format!("{}{before}\n", hits.value))
}

async fn show(State(client): State<Client>, Path(page): Path<String>) -> Result<String, Failed> {
    Ok(format!("{}\n", client.counter(format!("page/{page}")).get().await?.value))
}

enum Failed {
    BadKey,
    Tally(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Tally(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        match self {
            Self::BadKey => {
                (StatusCode::BAD_REQUEST, "Idempotency-Key is no text\n").into_response()
            }
            Self::Tally(error) => (status(&error), format!("{error}\n")).into_response(),
        }
    }
}

/// What the caller may conclude, as HTTP says it.
fn status(error: &Error) -> StatusCode {
    match (error.code(), error.outcome()) {
        (Code::InvalidArgument, _) => StatusCode::BAD_REQUEST,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        // It may have been counted, or may yet be. Only under the same key is it safe to send it again.
        (_, Some(Outcome::Unknown)) => StatusCode::GATEWAY_TIMEOUT,
        // The cluster decided against it: a bound, or a key that was used for another request.
        (_, Some(Outcome::NotApplied)) if error.is_decided() => StatusCode::CONFLICT,
        // This request counted nothing; later it may. A read has no outcome, and can always be repeated.
        (_, Some(Outcome::NotApplied) | None) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
