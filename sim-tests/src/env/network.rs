//! turmoil's TCP behind the node's network seam, and behind the client library's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use tally_node::env::{Connection, Listener, Network};
use tally_proto::gathered::Gathered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint};

use super::{SharedLife, Wires, clock::simulated_ms, observed::Reader, wires::Wire};
use crate::trace::Digest;

/// The network as one run of a node sees it.
#[derive(Debug)]
pub struct SimulatedNetwork {
    host: String,
    life: SharedLife,
    wires: Wires,
}

impl SimulatedNetwork {
    /// Of the turmoil host with this name.
    pub fn new(host: impl Into<String>, life: SharedLife, wires: Wires) -> Self {
        SimulatedNetwork { host: host.into(), life, wires }
    }
}

/// A process that has ended does not go on. What is left of it here waits until it is dropped,
/// which is within this simulated millisecond; an error would let it try again and again.
async fn unless_over(life: &SharedLife) {
    if life.is_over() {
        std::future::pending().await
    }
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        let port = port.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Ok(Box::new(SimulatedListener {
            inner: turmoil::net::TcpListener::bind((any, port)).await?,
            address: format!("{}:{port}", self.host),
            host: self.host.clone(),
            life: SharedLife::clone(&self.life),
            wires: self.wires.clone(),
        }))
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        unless_over(&self.life).await;
        let inner = turmoil::net::TcpStream::connect(address).await?;
        let peer = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let wire = self.wires.between(peer, &self.host);
        if wire.is_cut() {
            // turmoil tells of an accepted connection without sending it: a deaf host would go on
            // making connections.
            std::future::pending::<()>().await;
        }
        let reader = Reader::of(&inner, true);
        Ok(Connection::new(LiveStream::new(inner, SharedLife::clone(&self.life), wire, reader)))
    }
}

struct SimulatedListener {
    inner: turmoil::net::TcpListener,
    address: String,
    host: String,
    life: SharedLife,
    wires: Wires,
}

#[async_trait]
impl Listener for SimulatedListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let (inner, from) = self.inner.accept().await?;
        unless_over(&self.life).await;
        let peer = turmoil::reverse_lookup(from.ip()).unwrap_or_default();
        let wire = self.wires.between(&peer, &self.host);
        let reader = Reader::of(&inner, false);
        let stream = LiveStream::new(inner, SharedLife::clone(&self.life), wire, reader);
        Ok(Connection::accepted(stream, from.ip()))
    }

    fn local_address(&self) -> String {
        self.address.clone()
    }
}

/// A connection that is silent once its process has ended: what is written then goes nowhere.
struct LiveStream {
    inner: turmoil::net::TcpStream,
    life: SharedLife,
    /// What it reads comes over this one.
    wire: Arc<Wire>,
    born_ms: u64,
    /// Reads along what is written, where that is recorded.
    reader: Option<Reader>,
    /// Until the wire lets it read on.
    waits: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl LiveStream {
    fn new(
        inner: turmoil::net::TcpStream,
        life: SharedLife,
        wire: Arc<Wire>,
        reader: Option<Reader>,
    ) -> Self {
        LiveStream { inner, life, wire, born_ms: now_ms(), reader, waits: None }
    }

    /// Waits for as long as the wire wants it to.
    fn poll_wire(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(waits) = &mut self.waits {
                ready!(waits.as_mut().poll(context));
                self.waits = None;
            }
            if !self.wire.may_stall() {
                return Poll::Ready(());
            }
            match self.wire.wait_ms(self.born_ms, now_ms()) {
                0 => return Poll::Ready(()),
                ms => self.wait(ms),
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        self.waits = Some(Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
    }
}

fn now_ms() -> u64 {
    simulated_ms().unwrap_or(0)
}

impl AsyncRead for LiveStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.life.is_over() {
            return Poll::Pending;
        }
        ready!(self.poll_wire(context));
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(context, buffer));
        tracing::trace!(digest = %Digest(&buffer.filled()[before..]), "read");
        self.wire.arrived(buffer.filled().len() - before, self.born_ms, now_ms);
        if self.wire.may_stall() {
            match self.wire.pause_ms(self.born_ms, now_ms()) {
                0 => {}
                ms => self.wait(ms),
            }
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for LiveStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.life.is_over() {
            return Poll::Pending;
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        if let Ok(written) = written {
            tracing::trace!(digest = %Digest(&bytes[..written]), "written");
            if let Some(reader) = &mut self.reader {
                reader.wrote(&bytes[..written]);
            }
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// How a [`tally_client::Client`] connects inside a turmoil simulation: hand it to
/// [`tally_client::Builder::connector`].
pub async fn connect_client(endpoint: Endpoint) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(|uri: http::Uri| async move {
        let authority = uri.authority().map(|at| at.to_string()).unwrap_or_default();
        let stream = turmoil::net::TcpStream::connect(authority).await?;
        Ok::<_, io::Error>(TokioIo::new(Gathered::new(stream)))
    });
    endpoint.connect_with_connector(connector).await
}
