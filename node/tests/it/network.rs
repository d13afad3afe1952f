//! A network between nodes that can be cut. It wraps the real one: connections run over real
//! sockets, and a cut link swallows what is sent on it, as a broken switch does. Nobody is told;
//! connections that exist stall, new ones are never answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tally_node::env::{Connection, Listener, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Which links are cut. Shared by the networks of all nodes of one cluster.
#[derive(Default)]
pub(crate) struct Switchboard {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Who listens for peers where.
    addresses: BTreeMap<String, u64>,
    /// Cut links, the smaller id first.
    cut: BTreeSet<(u64, u64)>,
    /// Who waits for a link to be mended.
    waiting: Vec<Waker>,
}

fn link(one: u64, other: u64) -> (u64, u64) {
    (one.min(other), one.max(other))
}

impl Switchboard {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whose peer port an address is.
    pub(crate) fn name(&self, address: &str, node_id: u64) {
        self.state().addresses.insert(address.to_owned(), node_id);
    }

    /// Cuts the link between two nodes, in both directions.
    pub(crate) fn cut(&self, one: u64, other: u64) {
        self.state().cut.insert(link(one, other));
    }

    /// Mends every link.
    pub(crate) fn mend(&self) {
        let waiting = {
            let mut state = self.state();
            state.cut.clear();
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ready unless the link is cut.
    fn poll_open(&self, link: (u64, u64), context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.cut.contains(&link) {
            state.waiting.push(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// The network as one node sees it.
pub(crate) struct CutNetwork {
    pub(crate) node_id: u64,
    pub(crate) switchboard: Arc<Switchboard>,
    pub(crate) real: Arc<dyn Network>,
}

#[async_trait::async_trait]
impl Network for CutNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        self.real.listen(address).await
    }

    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let target = self.switchboard.state().addresses.get(address).copied();
        let Some(target) = target else { return self.real.connect(address).await };
        let link = link(self.node_id, target);
        std::future::poll_fn(|context| self.switchboard.poll_open(link, context)).await;
        let real = self.real.connect(address).await?;
        let switchboard = Arc::clone(&self.switchboard);
        Ok(Connection::new(CutStream { link, switchboard, real }))
    }
}

/// A connection that stalls in both directions while its link is cut. The side that dialed holds
/// it, which is enough: nothing passes without that side.
struct CutStream {
    link: (u64, u64),
    switchboard: Arc<Switchboard>,
    real: Connection,
}

macro_rules! unless_cut {
    ($stream:expr, $context:expr) => {
        if $stream.switchboard.poll_open($stream.link, $context).is_pending() {
            return Poll::Pending;
        }
    };
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        unless_cut!(self, context);
        Pin::new(&mut self.real).poll_read(context, buffer)
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        unless_cut!(self, context);
        Pin::new(&mut self.real).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        unless_cut!(self, context);
        Pin::new(&mut self.real).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.real).poll_shutdown(context)
    }
}
