//! The HTTP/1.1 by which the store is asked: of hyper and rustls, which nodes have in any case.
//!
//! Connections are kept by a runtime with I/O, as the thread that makes backups has none. No redirect is followed and
//! no proxy is asked. Everything ends: a connection that can't be made, an answer that does not begin, a body that
//! does not go on.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::{
    Uri,
    body::{Body, Frame, Incoming, SizeHint},
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Handle,
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::Error;

/// A name is looked up, a connection made and TLS agreed on within so long.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// An answer begins within so long, behind a request of no size: a store that copies gigabytes needs a while …
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// … and a request that has a body goes at so many bytes a second, or is given up.
const SLOWEST: u64 = 32 << 10;

/// A body goes on within so long.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Makes connections, with TLS where the endpoint says so.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: Option<TlsConnector>,
    runtime: Handle,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) fn new(
        endpoint: &str,
        ca_file: Option<&Path>,
        runtime: &Handle,
    ) -> Result<Self, Error> {
        let tls = match endpoint.starts_with("https://") {
            true => Some(tls(ca_file)?),
            false => None,
        };
        Ok(Self { tls, runtime: runtime.clone() })
    }

    async fn dial(self, uri: Uri) -> io::Result<Stream> {
        let wrong = |problem| io::Error::new(io::ErrorKind::InvalidInput, problem);
        let host = uri.host().ok_or_else(|| wrong("an address without a host"))?;
        // Addresses of IPv6 have brackets around them in a URI.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        if !is_tls {
            return Ok(Stream(TokioIo::new(Box::new(tcp))));
        }
        let tls = self.tls.ok_or_else(|| wrong("the store sent us from HTTP to HTTPS"))?;
        let name = ServerName::try_from(host).map_err(|_| wrong("the host has no name of TLS"))?;
        Ok(Stream(TokioIo::new(Box::new(tls.connect(name, tcp).await?))))
    }
}

fn tls(ca_file: Option<&Path>) -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| {
                Error::Settings(format!("{}: {error}", path.display()))
            };
            let all = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
            for certificate in all {
                let certificate = certificate.map_err(|error| wrong(&error))?;
                roots.add(certificate).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"it has no certificate"));
            }
        }
        None => {
            // One that can't be read is no reason to do without the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let problem = "the operating system trusts no CA: install its certificates, or name a file of them";
                return Err(Error::Settings(problem.to_owned()));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Settings(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = Client::builder(TokioExecutor::new()).build(self.clone());
        Ok(HttpClient::new(Http { client, runtime: self.runtime.clone() }))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialing = self.clone().dial(uri);
        Box::pin(async { timeout(CONNECT_MAX, dialing).await? })
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, with or without TLS.
pub(crate) struct Stream(TokioIo<Box<dyn Io>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Read::poll_read(Pin::new(&mut self.0), context, into)
    }
}

impl Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Write::poll_write(Pin::new(&mut self.0), context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_flush(Pin::new(&mut self.0), context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Write::poll_shutdown(Pin::new(&mut self.0), context)
    }
}

#[derive(Debug)]
struct Http {
    client: Client<Connector, HttpRequestBody>,
    runtime: Handle,
}

#[async_trait]
impl HttpService for Http {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let body_bytes = request.body().content_length() as u64;
        let patience = ANSWER_MAX + Duration::from_secs(body_bytes / SLOWEST);
        let asking = self.client.request(request);
        // Whoever gives it up here ends it there.
        let mut asked = JoinSet::new();
        asked.spawn_on(async move { timeout(patience, asking).await }, &self.runtime);
        let answer = asked.join_next().await.expect("there is one");
        let (head, body) = match answer {
            Ok(Ok(Ok(answer))) => answer.into_parts(),
            Ok(Ok(Err(error))) => return Err(HttpError::new(kind(&error), all_of(&error))),
            Ok(Err(late)) => return Err(HttpError::new(HttpErrorKind::Timeout, late)),
            Err(gone) => return Err(HttpError::new(HttpErrorKind::Interrupted, gone)),
        };
        let body = Answer { body, patience: Box::pin(sleep(STALL_MAX)) };
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}

/// An error with what is behind it: "client error (Connect)" alone helps nobody.
fn all_of(error: &(dyn std::error::Error + 'static)) -> io::Error {
    let behind = std::iter::successors(Some(error), |error| error.source());
    io::Error::other(behind.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// Whether the request is worth another try: all are that failed on the way.
fn kind(error: &hyper_util::client::legacy::Error) -> HttpErrorKind {
    match error.is_connect() {
        true => HttpErrorKind::Connect,
        false => HttpErrorKind::Interrupted,
    }
}

/// The body of an answer, which has to go on.
struct Answer {
    body: Incoming,
    patience: Pin<Box<Sleep>>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.patience.as_mut().reset(Instant::now() + STALL_MAX);
            let interrupted = |error| HttpError::new(HttpErrorKind::Interrupted, all_of(&error));
            return Poll::Ready(frame.map(|frame| frame.map_err(interrupted)));
        }
        ready!(self.patience.as_mut().poll(context));
        let late = io::Error::new(io::ErrorKind::TimedOut, "the answer does not go on");
        Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Timeout, late))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
