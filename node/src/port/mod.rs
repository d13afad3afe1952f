//! The ports: connections are accepted, bounded, watched over and ended here; what is answered on
//! them is `api`'s and `peer`'s.
//!
//! # Bounds
//! Whoever can reach a port can open connections, begin calls and not go on. So everything that a
//! caller can make a node hold has a bound for its connection, one for the node, and an end:
//!
//! | what | for a connection | for the node | until |
//! |---|---|---|---|
//! | connections | | [`Slots`] | the handshake's time, then keepalive; without a call: the idle time |
//! | handshakes of TLS | 64 KiB | [`secure`], shared by address | the handshake's time |
//! | calls | [`tally_proto::http2::Port::calls_max`] | [`room::NODE_OPEN_CALLS_MAX`], shared by address | the deadline of a unary call |
//! | calls without a deadline (health's Watch, reflection) | the same | [`room::NODE_STREAMS_MAX`], with the streams | their client ends them |
//! | requests being received, and calls of streams (above [`SMALL_BYTES`]) | [`room::REQUEST_BYTES_MAX`] | [`room::NODE_REQUEST_BYTES_MAX`] | the deadline; [`request::MESSAGE_TIME_MAX`] in a stream |
//! | streams | calls | [`room::NODE_STREAMS_MAX`] | their client ends them |
//! | calls of streams | [`room::ANSWER_BYTES_MAX`], by their answers | [`room::NODE_CALLS_MAX`] | their deadlines |
//! | answers that may be above [`SMALL_BYTES`] | [`room::ANSWER_BYTES_MAX`] | [`room::NODE_ANSWER_BYTES_MAX`] | the deadline of a unary call, or [`call::UNREAD_TIME_MAX`] without moving while half the node's room is taken; that time in a stream |
//! | answers up to that | calls times that | connections times that | [`call::UNREAD_TIME_MAX`] |
//! | what HTTP/2 has read and nobody took | [`tally_proto::http2::Port::window_bytes`] | connections times that | with its call |
//!
//! Room for an answer is taken before the read that makes it runs, and given back when the last byte
//! has gone to the network, not when h2 has taken it: until then h2 holds it. When a deadline passes, the
//! call is reset, and with it goes everything that h2 holds for it.
//!
//! # Stopping
//! A stop waits for calls whose request has come in whole, and for streams. It does not wait for sockets:
//! a connection that says nothing, or only half a request, ends with the port.

pub(crate) mod answer;
pub(crate) mod authority;
pub(crate) mod call;
mod client_name;
pub(crate) mod connection;
pub(crate) mod date;
pub(crate) mod deadline;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod plain;
pub(crate) mod request;
pub(crate) mod room;
mod secure;
pub(crate) mod slots;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response};
use tally_proto::http2;
use tokio::{sync::watch, task::JoinSet};
use tonic::body::Body;
use tower::Service;

pub(crate) use self::{
    client_name::{CallingNode, ClientName},
    slots::Slots,
};
use self::{room::NodeRoom, secure::Door};
use crate::{
    audit::AuditLog,
    env::{Connection, Listener, spaced::Spaced},
    tls::Secured,
};

/// What is not counted call by call, as there are only so many calls: most requests and answers are
/// smaller.
pub(crate) const SMALL_BYTES: usize = 4 * 1024;

/// How long a failed accept is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are told why they are refused, at once; further ones are just closed.
const REFUSALS_MAX: usize = 4;

/// How a call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One request and one answer, by a deadline.
    Unary,
    /// Messages in both directions for as long as either side likes. A stop waits for its end.
    Stream,
    /// As long as the caller likes, and a stop does not wait for it.
    Watch,
}

/// One port.
#[derive(Clone)]
pub(crate) struct Port {
    /// "client" or "peer", for the log.
    pub(crate) name: &'static str,
    pub(crate) http2: http2::Port,
    /// Longest message of any of its methods.
    pub(crate) message_bytes_max: usize,
    /// Deadline of a unary call that brings none.
    pub(crate) deadline_default: Duration,
    /// How the method at a path goes on.
    pub(crate) shape_of: fn(&str) -> Shape,
    pub(crate) slots: Arc<Slots>,
    pub(crate) room: Arc<NodeRoom>,
    /// Silent connections are asked whether they live.
    pub(crate) keeps_alive: bool,
    /// TLS, if it is spoken.
    pub(crate) tls: Option<Arc<Secured>>,
    /// Where connections are recorded that are refused.
    pub(crate) audit: Option<Arc<AuditLog>>,
}

/// Where callers come in.
pub(crate) struct Entrance {
    pub(crate) listener: Box<dyn Listener>,
    /// TLS, if it is spoken.
    pub(crate) tls: Option<Arc<Secured>>,
}

/// Serves until told to stop, then lets the open calls end.
pub(crate) async fn serve<S>(
    port: Port,
    service: S,
    listener: Box<dyn Listener>,
    mut stop: watch::Receiver<bool>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let (door, port) = (Arc::new(Door::new(port.slots.share())), Arc::new(port));
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    let (failures, too_many) = (Spaced::default(), Spaced::default());
    {
        let mut incoming = std::pin::pin!(incoming(listener));
        let mut stopping = stop.clone();
        loop {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => break,
                Some(_) = connections.join_next() => {}
                Some(_) = refusals.join_next() => {}
                Some(accepted) = incoming.next() => {
                    let accepted = match accepted {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            if let Some(times) = failures.happened() {
                                let port = port.name;
                                tracing::warn!(port, times, %error, "no connection can be accepted");
                            }
                            continue;
                        }
                    };
                    if let Some(slot) = port.slots.take(accepted.from()) {
                        let (service, port) = (service.clone(), Arc::clone(&port));
                        let (door, stop) = (Arc::clone(&door), stop.clone());
                        let drive = connection::drive(accepted, slot, service, port, door, stop);
                        connections.spawn(drive);
                        continue;
                    }
                    if let Some(times) = too_many.happened() {
                        let (port, max) = (port.name, port.slots.max());
                        tracing::warn!(
                            port,
                            times,
                            max,
                            "connections are refused: the most that may be open are, or the most of one address"
                        );
                    }
                    // Under TLS it would not be read.
                    if refusals.len() < REFUSALS_MAX && port.tls.is_none() {
                        refusals.spawn(slots::refuse(accepted));
                    }
                }
            }
        }
    }
    drop(refusals);
    let _ = stop.wait_for(|stop| *stop).await;
    while connections.join_next().await.is_some() {}
}

/// Connections one after the other. (A stream, so that one which is just being accepted is not lost when
/// something else comes first.)
fn incoming(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold((listener, false), |(mut listener, failed)| async move {
        if failed {
            // It must not end the port, nor spin.
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
        let accepted = listener.accept().await;
        let failed = accepted.is_err();
        Some((accepted, (listener, failed)))
    })
}
