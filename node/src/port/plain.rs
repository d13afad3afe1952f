//! A port for probes, scrapers and browsers: HTTP/1.1, with TLS or without, one request and one answer on each
//! connection.
//!
//! # Bounds
//! So many connections at once, of which one address has a share; further ones are closed at once. Each has
//! [`CONNECTION_TIME_MAX`] from its accept to the end of its answer, [`HEAD_TIME_MAX`] for TLS, as much for the head of
//! its request, of which at most [`HEAD_BYTES_MAX`] are taken, and as much for the body of a PUT, of at most
//! [`BODY_BYTES_MAX`]; no other is read.
//!
//! Leaves out: which pages there are, and who may see them.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    ClientName,
    secure::{TLS_BEGINS, explained, told},
};
use crate::{
    audit::AuditLog,
    env::{
        Connection, Listener,
        shares::{Identity, ShareRule, Shares},
        spaced::Spaced,
    },
    machine::command::Owner,
    tls::{Caller, Secured, Spoken},
};

/// A connection is over after this.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(15);

/// The head of a request is there within this.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// … and is no longer than this.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A body is a line or two.
const BODY_BYTES_MAX: usize = 4 * 1024;

const SPEAKS_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    This port speaks TLS: use https://\n";

/// How long a failed accept is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is asked.
#[derive(Debug)]
pub(crate) struct Asked {
    /// GET, HEAD, or PUT.
    pub(crate) method: Method,
    /// The path, without the query.
    pub(crate) path: String,
    /// The query.
    pub(crate) query: String,
    /// All of the request's headers.
    pub(crate) headers: HeaderMap,
    /// Who asks, as far as a certificate proves it.
    pub(crate) caller: Option<ClientName>,
    /// Where it calls from.
    pub(crate) from: Option<IpAddr>,
    /// What came with a PUT.
    pub(crate) body: String,
}

impl Asked {
    /// Whom it asks for. A page of another host whose name was made to lead here asks with its own.
    pub(crate) fn host(&self) -> Option<&str> {
        self.headers.get(header::HOST).and_then(|host| host.to_str().ok())
    }
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    /// Headers besides those that every page has, by their names in small letters.
    pub(crate) headers: &'static [(&'static str, &'static str)],
}

impl Page {
    /// A few words.
    pub(crate) fn text(status: StatusCode, body: impl Into<String>) -> Page {
        Page { status, content_type: "text/plain; charset=utf-8", body: body.into(), headers: &[] }
    }
}

/// Makes the pages.
#[async_trait]
pub(crate) trait Pages: Send + Sync + 'static {
    /// The page that is asked for.
    async fn page(self: Arc<Self>, asked: Asked) -> Page;
}

/// Where callers come in.
pub(crate) struct Gate {
    /// What the logs call it.
    pub(crate) port: &'static str,
    pub(crate) listener: Box<dyn Listener>,
    /// TLS, if it is spoken.
    pub(crate) tls: Option<Arc<Secured>>,
    pub(crate) connections_max: usize,
    /// What one address may have of them, of what others leave.
    pub(crate) share: ShareRule,
    /// Where connections are recorded that are refused.
    pub(crate) audit: Option<Arc<AuditLog>>,
}

/// Serves until told to stop; what is under way then is given up.
pub(crate) async fn serve(pages: Arc<dyn Pages>, gate: Gate, mut stop: watch::Receiver<bool>) {
    let Gate { port, mut listener, tls, connections_max, share, audit } = gate;
    let shares = Shares::new([connections_max], share);
    let mut connections = JoinSet::new();
    let (failures, too_many) = (Spaced::default(), Spaced::default());
    loop {
        tokio::select! {
            biased;
            () = async { drop(stop.wait_for(|stop| *stop).await) } => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok(connection) => {
                    let whose = Identity::of(None, connection.from().map(Owner::new));
                    let has_room = connections.len() < connections_max;
                    if has_room && let Ok(share) = shares.take(whose, [1]) {
                        let door = (port, tls.clone(), audit.clone());
                        let serving = drive(Arc::clone(&pages), door, connection);
                        connections.spawn(async move {
                            let _share = share;
                            timeout(CONNECTION_TIME_MAX, serving).await
                        });
                        continue;
                    }
                    if let Some(times) = too_many.happened() {
                        let max = connections_max;
                        tracing::warn!(port, times, max, "connections to a port for pages are refused");
                    }
                }
                Err(error) => {
                    if let Some(times) = failures.happened() {
                        tracing::warn!(port, times, %error, "no connection can be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn drive(
    pages: Arc<dyn Pages>,
    (port, tls, audit): (&'static str, Option<Arc<Secured>>, Option<Arc<AuditLog>>),
    connection: Connection,
) {
    let from = connection.from();
    let passed = match tls {
        None => Ok(Some((connection, Caller::Unknown))),
        Some(tls) => timeout(HEAD_TIME_MAX, shake_hands(&tls, connection))
            .await
            .unwrap_or_else(|_| Err("no TLS in time".to_owned())),
    };
    let (connection, caller) = match passed {
        Ok(Some(passed)) => passed,
        Ok(None) => return,
        Err(why) => {
            tracing::debug!(port, from = told(from), "no TLS with a caller: {why}");
            if let Some(log) = audit {
                log.connection_refused(port, from, &why);
            }
            return;
        }
    };
    let caller = match caller {
        Caller::Client { name, not_after_ms } => Some(ClientName { name, not_after_ms }),
        Caller::Unknown | Caller::Node(_) => None,
    };
    let caller = (caller, from);
    let service = service_fn(|request| answer(Arc::clone(&pages), caller.clone(), request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(connection), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(port, %error, "a connection failed");
    }
}

/// The connection to speak on, none for who only looks whether the port is open, or why nothing can be spoken.
async fn shake_hands(
    tls: &Secured,
    mut connection: Connection,
) -> Result<Option<(Connection, Caller)>, String> {
    let mut head = [0; 16];
    let Some(read) = connection.read(&mut head).await.ok().filter(|read| *read > 0) else {
        return Ok(None);
    };
    let head = &head[..read];
    if head[0] != TLS_BEGINS {
        let _ = connection.write_all(SPEAKS_TLS).await;
        let _ = connection.shutdown().await;
        return Err("it speaks no TLS, and this port does".to_owned());
    }
    let accepted = tls.accept(connection, head, Spoken::Http1).await;
    accepted.map(Some).map_err(|error| explained(&error))
}

async fn answer(
    pages: Arc<dyn Pages>,
    caller: (Option<ClientName>, Option<IpAddr>),
    request: Request<Incoming>,
) -> Result<Response<String>, Infallible> {
    let is_head = request.method() == Method::HEAD;
    let page = match *request.method() {
        Method::GET | Method::HEAD | Method::PUT => asked(caller, request).await,
        _ => Err(Page::text(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD and PUT only\n")),
    };
    let page = match page {
        Ok(asked) => pages.page(asked).await,
        Err(page) => page,
    };
    let length = page.body.len();
    let mut response = Response::new(if is_head { String::new() } else { page.body });
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    for (name, value) in page.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let more = match page.status {
        StatusCode::METHOD_NOT_ALLOWED => Some((header::ALLOW, "GET, HEAD, PUT")),
        StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
        _ => None,
    };
    if let Some((name, value)) = more {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn asked(
    (caller, from): (Option<ClientName>, Option<IpAddr>),
    request: Request<Incoming>,
) -> Result<Asked, Page> {
    let (head, body) = request.into_parts();
    let mut text = String::new();
    if head.method == Method::PUT {
        let body = timeout(HEAD_TIME_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
        let bytes = body.ok().and_then(Result::ok).map(Collected::to_bytes);
        let body = bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let wrong = || format!("a body is text of at most {BODY_BYTES_MAX} bytes\n");
        text = body.ok_or_else(|| Page::text(StatusCode::BAD_REQUEST, wrong()))?;
    }
    Ok(Asked {
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        method: head.method,
        headers: head.headers,
        caller,
        from,
        body: text,
    })
}

#[cfg(test)]
mod tests;
