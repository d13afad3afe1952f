//! One connection: its calls, what a stop waits for, and when it is closed.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, rt::Executor, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Instant, MissedTickBehavior},
};
use tonic::body::Body;
use tower::Service;

use super::{
    CallingNode, ClientName, Port, Shape,
    answer::Answer,
    authority::Authority,
    call::{Call, Open, Shared, UNREAD_STEPS, UNREAD_TIME_MAX},
    deadline::answer_by,
    request::Received,
    room::{Along, ConnectionRoom},
    secure::{Door, TLS_BEGINS},
    slots::Slot,
};
use crate::{env::Connection, tls::Caller};

/// With fewer bytes than these nobody has begun HTTP/2.
const PREFACE_BYTES: usize = 24;

/// How often a connection is looked at.
fn look_interval(port: &Port) -> Duration {
    port.http2.handshake_time_max.min(UNREAD_TIME_MAX / UNREAD_STEPS as u32)
}

/// What a unary call may take beyond its deadline, for the answer that says so to get out.
const DEADLINE_ROOM: Duration = Duration::from_millis(100);

/// Gives each call its task, and ends it when it has outlived its deadline: h2 then resets the call and
/// forgets what it holds for it.
#[derive(Debug, Clone)]
struct Tasks(Arc<Shared>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        // hyper asks for the task right after it has asked the service for the future.
        let call = self.0.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(call) = call else {
            debug_assert!(false, "hyper began a task that is no call");
            return;
        };
        let open = Open(Arc::clone(&call));
        self.0.open.fetch_add(1, Ordering::AcqRel);
        let begun = Arc::clone(&call);
        let task = tokio::spawn(async move {
            let _open = open;
            match call.answer_by {
                Some(by) => drop(tokio::time::timeout_at(by + DEADLINE_ROOM, future).await),
                None => future.await,
            }
        });
        let _ = begun.task.set(task.abort_handle());
    }
}

/// The service of one connection.
struct Calls<S> {
    service: S,
    port: Arc<Port>,
    shared: Arc<Shared>,
    caller: Caller,
}

impl<S> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let shape = (self.port.shape_of)(request.uri().path());
        let answer_by = (shape == Shape::Unary)
            .then(|| answer_by(request.headers(), self.port.deadline_default));
        let call = Arc::new(Call {
            connection: Arc::clone(&self.shared),
            shape,
            message_bytes_max: self.port.message_bytes_max,
            answer_by,
            is_awaited: AtomicBool::new(false),
            task: OnceLock::new(),
            share: OnceLock::new(),
        });
        if shape == Shape::Stream {
            call.await_end();
        }
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
        let mut next = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(Arc::clone(&call));
        drop(next);
        let received = Arc::clone(&call);
        let mut request = request.map(|body| Body::new(Received::new(body, received)));
        request.extensions_mut().insert(Arc::clone(&call));
        match &self.caller {
            Caller::Unknown => {}
            Caller::Client { name, not_after_ms } => {
                let (name, not_after_ms) = (name.clone(), *not_after_ms);
                request.extensions_mut().insert(ClientName { name, not_after_ms });
            }
            Caller::Node(id) => {
                request.extensions_mut().insert(CallingNode(*id));
            }
        }
        // Routes are always ready.
        let answering = self.service.clone().call(request);
        Box::pin(async move {
            let Ok(mut response) = answering.await;
            let along = response.extensions_mut().remove::<Along>();
            Ok(response.map(|body| Answer::new(body, call, along)))
        })
    }
}

/// Serves one connection until it ends.
pub(super) async fn drive<S>(
    connection: Connection,
    slot: Slot,
    service: S,
    port: Arc<Port>,
    door: Arc<Door>,
    mut stop: watch::Receiver<bool>,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let _slot = slot;
    let passed = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => None,
        passed = door.pass(&port, connection) => passed,
    };
    let Some((connection, caller)) = passed else { return };
    let shared = Shared::new(
        ConnectionRoom::new(Arc::clone(&port.room), connection.from()),
        connection.from(),
    );
    let io = TokioIo::new(Begins {
        connection,
        read: 0,
        shared: Arc::clone(&shared),
        authority: Authority::default(),
    });
    let calls = Calls { service, port: Arc::clone(&port), shared: Arc::clone(&shared), caller };
    let serving = builder(&port, &shared).serve_connection(io, calls);
    let mut serving = std::pin::pin!(serving);
    let interval = look_interval(&port);
    let mut looks = tokio::time::interval_at(Instant::now() + interval, interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_stopping = false;
    let (mut calls_before, mut idle) = (0, Duration::ZERO);
    let why = loop {
        tokio::select! {
            biased;
            ended = &mut serving => {
                if let Err(error) = ended {
                    if shared.speaks_tls.load(Ordering::Relaxed) {
                        door.met_tls(&port, shared.from);
                    }
                    tracing::debug!(port = port.name, %error, "a connection failed");
                }
                return;
            }
            _ = stop.wait_for(|stop| *stop), if !is_stopping => {
                if !shared.begun.load(Ordering::Relaxed) {
                    break "the port closes";
                }
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = shared.wait_quiet(), if is_stopping => break "the port closes",
            _ = looks.tick() => {
                if !shared.begun.load(Ordering::Relaxed) {
                    break "it did not begin HTTP/2 in time";
                }
                if shared.grow_older() {
                    break "it does not read its answers";
                }
                shared.give_up_unread(shared.room.node().is_short());
                let calls = shared.calls.load(Ordering::Relaxed);
                let is_idle = calls == calls_before && shared.open.load(Ordering::Relaxed) == 0;
                calls_before = calls;
                idle = if is_idle { idle + interval } else { Duration::ZERO };
                if port.http2.idle_time_max.is_some_and(|max| idle >= max) {
                    if idle >= port.http2.idle_time_max.unwrap_or_default() + 2 * interval {
                        break "it is idle and does not go";
                    }
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    };
    tracing::debug!(port = port.name, why, "a connection is closed");
}

fn builder(port: &Port, shared: &Arc<Shared>) -> http2::Builder<Tasks> {
    let http2 = &port.http2;
    let mut builder = http2::Builder::new(Tasks(Arc::clone(shared)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(http2.calls_max)
        .max_pending_accept_reset_streams(http2.pending_resets_max)
        .max_local_error_reset_streams(http2.error_resets_max)
        .adaptive_window(false)
        .initial_stream_window_size(http2.call_window_bytes)
        .initial_connection_window_size(http2.window_bytes)
        .max_frame_size(http2.frame_bytes_max)
        .max_send_buf_size(http2.send_buffer_bytes_max)
        .max_header_list_size(http2.header_bytes_max)
        .header_table_size(http2.header_table_bytes)
        .keep_alive_interval(port.keeps_alive.then_some(http2.keepalive_interval))
        .keep_alive_timeout(http2.keepalive_timeout)
        // The node's own clock dates answers (`date`).
        .auto_date_header(false);
    builder
}

/// A connection that notes when HTTP/2 has begun on it, and on which no authority is in the way.
struct Begins {
    connection: Connection,
    read: usize,
    shared: Arc<Shared>,
    authority: Authority,
}

impl AsyncRead for Begins {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.connection).poll_read(context, buffer);
        if self.read < PREFACE_BYTES {
            if self.read == 0 && buffer.filled().get(before) == Some(&TLS_BEGINS) {
                self.shared.speaks_tls.store(true, Ordering::Relaxed);
            }
            self.read += buffer.filled().len() - before;
            if self.read >= PREFACE_BYTES {
                self.shared.begun.store(true, Ordering::Relaxed);
            }
        }
        self.authority.pass(&mut buffer.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for Begins {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
