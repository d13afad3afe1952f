//! A proxy for each pair of places: what carries bytes, and does to them what the link does.
//!
//! A cut is silence: bytes are held, no connection ends, and nobody is told. When the link is healed, what was held
//! arrives, as TCP would send it again. A clean link adds a copy through memory and nothing that waits. Between nodes an
//! observer looks at what is carried, to tell what it is: it is shown the bytes and has no hand in them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use rand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    links::{CLIENTS, Fault, Links},
    wire::{self, Carried, Observer},
};

/// The largest piece that is carried at once: what loss strikes.
const PIECE_BYTES: usize = 16 * 1024;

/// So many pieces may be under way on a slow link; behind them, who sends has to wait as on a full socket.
const PIECES_UNDER_WAY: usize = 256;

/// So long after a refused connection nothing is tried again for it: who dialled is told by its end.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// A way from one place to another.
#[derive(Clone)]
pub(crate) struct Way {
    pub(crate) links: Arc<Links>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Where it leads.
    pub(crate) target: SocketAddr,
}

/// Opens a proxy on loopback, and says where.
pub(crate) async fn open(way: Way) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            // An error of one connection, or of too many files: the next may be well.
            match listener.accept().await {
                Ok((inbound, _)) => drop(tokio::spawn(carry(inbound, way.clone()))),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(address)
}

/// One connection. It ends when either side ends it.
async fn carry(inbound: TcpStream, way: Way) {
    let (mut there, mut back) =
        (way.links.follow(way.from, way.to), way.links.follow(way.to, way.from));
    // A connection is made by packets both ways.
    if until_open(&mut there).await.is_err() || until_open(&mut back).await.is_err() {
        return;
    }
    let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(way.target)).await;
    let Ok(Ok(outbound)) = dialled else {
        // The target refuses: so is who dialled, as if it had been there itself.
        reset(&inbound);
        return;
    };
    let (_, _) = (inbound.set_nodelay(true), outbound.set_nodelay(true));
    let (inbound_read, inbound_write) = inbound.into_split();
    let (outbound_read, outbound_write) = outbound.into_split();
    let Way { links, from, to, .. } = way;
    let (asks, answers) = match from == CLIENTS || to == CLIENTS {
        true => (None, None),
        false => {
            let (asks, answers) = wire::observers();
            (Some(asks), Some(answers))
        }
    };
    let (forth, back) = (
        pump(inbound_read, outbound_write, there, (Arc::clone(&links), from, to), asks),
        pump(outbound_read, inbound_write, back, (links, to, from), answers),
    );
    // A half that ends well passes its end on, and the other goes on; one that fails ends both.
    let _ = tokio::try_join!(forth, back);
}

/// Closes with a reset, which a refused connection is nearest to.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

async fn until_open(fault: &mut watch::Receiver<Fault>) -> Result<(), watch::error::RecvError> {
    fault.wait_for(|fault| !fault.cut).await.map(|_| ())
}

/// Carries one direction of a connection.
async fn pump(
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    fault: watch::Receiver<Fault>,
    way: (Arc<Links>, u64, u64),
    observer: Option<Observer>,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(PIECES_UNDER_WAY);
    tokio::try_join!(
        take(read, sender, fault.clone()),
        give(write, receiver, fault, way, observer)
    )?;
    Ok(())
}

/// Takes pieces, and says when each is due. None overtakes another: it is one stream.
async fn take(
    mut read: OwnedReadHalf,
    sender: mpsc::Sender<(Instant, Bytes)>,
    fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let mut last_due = Instant::now();
    loop {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if read.read_buf(&mut piece).await? == 0 {
            return Ok(());
        }
        let takes = fault.borrow().takes(|| rand::rng().random_range(0..100));
        last_due = last_due.max(Instant::now() + takes);
        if sender.send((last_due, piece.freeze())).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// Gives each piece when it is due and the link is not cut.
async fn give(
    mut write: OwnedWriteHalf,
    mut receiver: mpsc::Receiver<(Instant, Bytes)>,
    mut fault: watch::Receiver<Fault>,
    (links, from, to): (Arc<Links>, u64, u64),
    mut observer: Option<Observer>,
) -> io::Result<()> {
    while let Some((due, piece)) = receiver.recv().await {
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        until_open(&mut fault).await.map_err(io::Error::other)?;
        if fault.borrow().breaks {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // Before the other side can answer to it, as its answers are known by what was asked; counted when it is there.
        let carried =
            observer.as_mut().map_or_else(Carried::default, |observer| observer.pass(&piece));
        write.write_all(&piece).await?;
        links.arrived(from, to, piece.len(), carried);
    }
    // The end of a stream is a packet as well.
    until_open(&mut fault).await.map_err(io::Error::other)?;
    write.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers what it is sent.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn opened() -> (Arc<Links>, SocketAddr) {
        let links = Arc::new(Links::new(2));
        let way = Way { links: Arc::clone(&links), from: 1, to: 2, target: echo().await };
        (links, open(way).await.unwrap())
    }

    async fn answered(stream: &mut TcpStream, within: Duration) -> bool {
        stream.write_all(b"x").await.unwrap();
        heard(stream, within).await
    }

    async fn heard(stream: &mut TcpStream, within: Duration) -> bool {
        let mut byte = [0];
        tokio::time::timeout(within, stream.read_exact(&mut byte)).await.is_ok()
    }

    const SOON: Duration = Duration::from_secs(5);
    const A_MOMENT: Duration = Duration::from_millis(150);

    #[tokio::test]
    async fn a_cut_is_silence_in_its_direction_and_what_was_held_arrives() {
        for (from, to) in [(1, 2), (2, 1)] {
            let (links, address) = opened().await;
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(answered(&mut stream, SOON).await);
            links.take_arrived();
            links.change(from, to, |fault| fault.cut = true);
            assert!(!answered(&mut stream, A_MOMENT).await);
            let arrived = links.take_arrived();
            let (asked, answers) = (arrived[&(1, 2)].bytes, arrived[&(2, 1)].bytes);
            assert_eq!((asked, answers), if from == 1 { (0, 0) } else { (1, 0) });
            links.heal();
            assert!(heard(&mut stream, SOON).await, "it was held and not lost");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_is_lost_with_its_connection() {
        let (links, address) = opened().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(answered(&mut stream, SOON).await);
        links.take_arrived();
        links.change(2, 1, |fault| fault.breaks = true);
        stream.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(SOON, stream.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        assert_eq!(links.take_arrived()[&(1, 2)].bytes, 1, "the request arrived");
        links.heal();
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(answered(&mut stream, SOON).await);
    }

    #[tokio::test]
    async fn a_cut_link_makes_no_connection() {
        let (links, address) = opened().await;
        links.change(2, 1, |fault| fault.cut = true);
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(!answered(&mut stream, A_MOMENT).await);
        links.heal();
        assert!(heard(&mut stream, SOON).await);
    }

    #[tokio::test]
    async fn a_slow_link_takes_as_long_as_it_says() {
        let (links, address) = opened().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(answered(&mut stream, SOON).await);
        links.change(1, 2, |fault| fault.delay_ms = 100);
        let before = Instant::now();
        assert!(answered(&mut stream, SOON).await);
        let took = before.elapsed();
        assert!((100..1000).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test]
    async fn a_target_that_is_not_there_ends_the_connection() {
        let gone = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
        let links = Arc::new(Links::new(2));
        let address = open(Way { links, from: 1, to: 2, target: gone }).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(SOON, stream.read(&mut byte)).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}
