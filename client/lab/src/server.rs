//! The page and its data, on loopback: see `docs/lab.md` for the interface.
//!
//! Who may: pages of other sites run in the same browser and can send requests here, so a request needs the right
//! `Host` (against names that are made to point at loopback) and, to do something, the token of this run, which
//! only this page can read. Another user of this machine can open the page as its user can.

use std::{collections::BTreeMap, convert::Infallible, fmt::Write as _, io, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{commands, files, lab::Lab, links::lock};

/// A command is a line or two of JSON.
const COMMAND_BYTES_MAX: usize = 16 * 1024;

/// So many records go to a page at once; of more it is told the newest.
const RECORDS_AT_ONCE: usize = 1_000;

/// So many records of before a page was opened.
const RECORDS_AT_FIRST: u64 = 1_000;

/// Nothing from elsewhere, nothing in line, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The header that brings the token.
const TOKEN: &str = "x-lab-token";

pub(crate) struct Server {
    lab: Arc<Lab>,
    token: String,
    /// Names and ports by which it is reached.
    hosts: [String; 2],
    /// What is served, packed: type and bytes by path.
    files: BTreeMap<&'static str, (&'static str, Bytes)>,
}

impl Server {
    pub(crate) fn new(lab: Arc<Lab>, port: u16) -> io::Result<Server> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut token = String::new();
        for byte in random {
            let _ = write!(token, "{byte:02x}");
        }
        let mut files = BTreeMap::new();
        for (path, kind, text) in files::ALL {
            let text = text.replace("{{token}}", &token);
            let mut packed = GzEncoder::new(Vec::new(), Compression::best());
            io::Write::write_all(&mut packed, text.as_bytes())?;
            files.insert(path, (kind, packed.finish()?.into()));
        }
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        Ok(Server { lab, token, hosts, files })
    }

    /// Serves until it is dropped.
    pub(crate) async fn serve(self, listener: TcpListener) -> io::Result<()> {
        let server = Arc::new(self);
        let router = Router::new()
            .route("/", get(page))
            .route("/{*path}", get(file))
            .route("/api/state", get(state))
            .route("/api/events", get(events))
            .route("/api/command", post(command))
            .layer(DefaultBodyLimit::max(COMMAND_BYTES_MAX))
            .layer(middleware::from_fn_with_state(Arc::clone(&server), is_meant))
            .with_state(server);
        axum::serve(listener, router).await
    }

    fn file(&self, path: &str) -> Response {
        let Some((kind, packed)) = self.files.get(path) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let headers = [(header::CONTENT_TYPE, *kind), (header::CONTENT_ENCODING, "gzip")];
        (headers, packed.clone()).into_response()
    }
}

type Shared = State<Arc<Server>>;

/// Refuses what is meant for another host, and says on every answer what a browser may do with it.
async fn is_meant(State(server): Shared, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let is_meant = host.is_some_and(|host| server.hosts.iter().any(|own| own == host));
    let mut response = match is_meant {
        true => next.run(request).await,
        false => (StatusCode::MISDIRECTED_REQUEST, "not this host").into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

async fn page(State(server): Shared) -> Response {
    server.file("index.html")
}

async fn file(State(server): Shared, Path(path): Path<String>) -> Response {
    server.file(&path)
}

fn as_json(text: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}

/// The newest state alone.
async fn state(State(server): Shared) -> Response {
    let newest = server.lab.state.borrow().to_string();
    as_json(newest)
}

/// Each state as it comes, with what has happened since the one before: server-sent events.
async fn events(State(server): Shared) -> Response {
    let lab = Arc::clone(&server.lab);
    let states = lab.state.subscribe();
    let newest = lock(&lab.journal).records_after(0, 1).last().map_or(0, |record| record.seq);
    let told = (newest.saturating_sub(RECORDS_AT_FIRST), 0);
    let events = stream::unfold((lab, states, told), async |(lab, mut states, told)| {
        states.changed().await.ok()?;
        let state = states.borrow_and_update().to_string();
        let (records, lines) = {
            let journal = lock(&lab.journal);
            (journal.records_after(told.0, RECORDS_AT_ONCE), journal.lines_after(told.1))
        };
        let told = (
            records.last().map_or(told.0, |record| record.seq),
            lines.last().map_or(told.1, |line| line.seq),
        );
        let records = serde_json::to_string(&records).expect("plain values");
        let lines = serde_json::to_string(&lines).expect("plain values");
        let event =
            format!("data: {{\"state\":{state},\"records\":{records},\"lines\":{lines}}}\n\n");
        Some((Ok::<_, Infallible>(event), (lab, states, told)))
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(events)).into_response()
}

/// Does something: JSON in, JSON out.
async fn command(State(server): Shared, headers: HeaderMap, body: Bytes) -> Response {
    let token = headers.get(TOKEN).map(HeaderValue::as_bytes);
    if token != Some(server.token.as_bytes()) {
        return (StatusCode::FORBIDDEN, "the token of this run is missing").into_response();
    }
    let done = match serde_json::from_slice(&body) {
        Ok(command) => commands::run(&server.lab, command).await,
        Err(error) => Err(error.to_string()),
    };
    match done {
        Ok(answer) => as_json(answer.to_string()),
        Err(error) => (StatusCode::BAD_REQUEST, as_json(json!({ "error": error }).to_string()))
            .into_response(),
    }
}
