//! What a node that does not take part yet says of itself: in its log, and on its client port.
//!
//! Leaves out: what is answered there; that is `api::starting`.

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};

use super::{LOGS, listen};
use crate::{
    api::starting::{self, Waits},
    config::Config,
    env::Env,
    peer::hello::Greeter,
    tls::Secured,
};

/// A start takes less than this where nothing is in its way. Later the client port is opened, to say what is.
const SAID_AFTER: Duration = Duration::from_secs(1);

/// How long the calls of that port may take to end once the node takes part: they wait for nothing.
const END_GRACE: Duration = Duration::from_millis(100);

/// What a node does before it takes part.
#[derive(Debug)]
pub(super) struct Starting {
    node_id: u64,
    step: Mutex<&'static str>,
    greeter: OnceLock<Arc<Greeter>>,
}

impl Starting {
    pub(super) fn new(node_id: u64) -> Arc<Starting> {
        let step = Mutex::new("it looks whose its data directory is");
        Arc::new(Starting { node_id, step, greeter: OnceLock::new() })
    }

    /// It goes on to this.
    pub(super) fn goes_on(&self, step: &'static str) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// From now on it waits for its peers.
    pub(super) fn greets(&self, greeter: &Arc<Greeter>) {
        let _ = self.greeter.set(Arc::clone(greeter));
    }
}

impl Waits for Starting {
    fn what_for(&self) -> String {
        let node_id = self.node_id;
        if let Some(greeter) = self.greeter.get() {
            return format!("node {node_id} is starting: {}", greeter.waits_for());
        }
        let step = *self.step.lock().unwrap_or_else(PoisonError::into_inner);
        format!("node {node_id} is starting: {step}")
    }
}

/// The client port of a node that takes its time to start.
pub(super) struct WaitingPort {
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl WaitingPort {
    /// Opens it, in a while.
    pub(super) fn open(
        config: &Config,
        env: &Env,
        starting: Arc<Starting>,
        tls: Option<Arc<Secured>>,
    ) -> WaitingPort {
        let (stop, mut stopped) = watch::channel(false);
        let (address, env) = (config.client_listen.clone(), env.clone());
        let serving = tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(SAID_AFTER) => {}
            }
            // A port that is taken ends the start when the node comes to open it itself.
            let Ok(listener) = listen(&env, "client_listen", &address).await else { return };
            tracing::info!(target: LOGS, clients = address, "the client port says what the start waits for");
            let connections_max = env.network.sockets().clients_max;
            let clock = Arc::clone(&env.clock);
            starting::serve(starting, listener, clock, connections_max, tls, stopped).await;
        });
        WaitingPort { stop, serving }
    }

    /// Gives the port free.
    pub(super) async fn close(mut self) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(END_GRACE, &mut self.serving).await.is_err() {
            self.serving.abort();
            let _ = (&mut self.serving).await;
        }
    }
}

impl Drop for WaitingPort {
    /// A start that fails leaves no port behind.
    fn drop(&mut self) {
        self.serving.abort();
    }
}
