//! A port for probes and scrapers: plain HTTP/1.1, one request and one answer on each connection.
//!
//! # Bounds
//! So many connections at once; further ones are closed at once. Each has [`CONNECTION_TIME_MAX`] from its accept to the end of
//! its answer, and [`HEAD_TIME_MAX`] for the head of its request, of which at most [`HEAD_BYTES_MAX`] are taken. No body is read.
//! Pages are made on threads for what blocks, so that who scrapes holds up nobody who writes.
//!
//! Leaves out: which pages there are.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::watch, task::JoinSet};

use crate::env::{Connection, Listener, spaced::Spaced};

/// A connection is over after this.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(15);

/// The head of a request is there within this.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// … and is no longer than this.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// How long a failed accept is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The path, without the query.
    pub(crate) path: String,
    /// The query.
    pub(crate) query: String,
    /// The `Accept` header; empty without one.
    pub(crate) accept: String,
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Page {
    /// A few words.
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Page {
        Page { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// Makes the pages. It may block for a moment.
pub(crate) trait Pages: Send + Sync + 'static {
    /// The page that is asked for.
    fn page(&self, asked: &Asked) -> Page;
}

/// Serves until told to stop; what is under way then is given up.
pub(crate) async fn serve(
    pages: Arc<dyn Pages>,
    mut listener: Box<dyn Listener>,
    connections_max: usize,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let (failures, too_many) = (Spaced::default(), Spaced::default());
    loop {
        tokio::select! {
            biased;
            () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(connection) if connections.len() < connections_max => {
                    let serving = drive(Arc::clone(&pages), connection);
                    connections.spawn(tokio::time::timeout(CONNECTION_TIME_MAX, serving));
                }
                Ok(_) => {
                    if let Some(times) = too_many.happened() {
                        let max = connections_max;
                        tracing::warn!(times, max, "connections to the metrics port are refused");
                    }
                }
                Err(error) => {
                    if let Some(times) = failures.happened() {
                        tracing::warn!(port = "metrics", times, %error, "no connection can be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn drive(pages: Arc<dyn Pages>, connection: Connection) {
    let service = service_fn(|request| answer(Arc::clone(&pages), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(connection), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(port = "metrics", %error, "a connection failed");
    }
}

async fn answer(
    pages: Arc<dyn Pages>,
    request: Request<Incoming>,
) -> Result<Response<String>, Infallible> {
    let is_head = request.method() == Method::HEAD;
    let page = match *request.method() {
        Method::GET | Method::HEAD => {
            let accept = request.headers().get(header::ACCEPT);
            let asked = Asked {
                path: request.uri().path().to_owned(),
                query: request.uri().query().unwrap_or_default().to_owned(),
                accept: accept.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned(),
            };
            let made = tokio::task::spawn_blocking(move || pages.page(&asked)).await;
            made.unwrap_or_else(|_| {
                Page::text(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made\n")
            })
        }
        _ => Page::text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n"),
    };
    let length = page.body.len();
    let mut response = Response::new(if is_head { String::new() } else { page.body });
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    Ok(response)
}
