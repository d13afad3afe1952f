//! The port of the console, if there is to be one. What it answers is `api::console`'s.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};

use super::{LOGS, listen, share_of};
use crate::{
    api::{Api, console::Console},
    audit::AuditLog,
    config::{Config, is_loopback},
    env::Env,
    port::{
        plain::{self, Gate},
        room::NodeRoom,
    },
    tls::Secured,
};

/// What it needs of the node.
pub(super) struct Parts {
    pub(super) api: Api,
    pub(super) room: Arc<NodeRoom>,
    pub(super) tls: Option<Arc<Secured>>,
    pub(super) audit: Option<Arc<AuditLog>>,
    /// It closes with the client port.
    pub(super) stopped: watch::Receiver<bool>,
}

/// Opens it: where it listens, and what serves it. A port that can't be opened is warned of and missed, as that for
/// metrics is: a node is there to serve.
pub(super) async fn open(
    config: &Config,
    env: &Env,
    parts: Parts,
) -> Option<(String, JoinHandle<()>)> {
    if config.console_listen.is_empty() {
        return None;
    }
    let listener = match listen(env, "console_listen", &config.console_listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(target: LOGS, %error, "the node goes on without its console");
            return None;
        }
    };
    let Parts { api, room, tls, audit, stopped } = parts;
    let address = listener.local_address();
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(target: LOGS, console = format!("{scheme}://{address}/"), "the console is open");
    let on_loopback = is_loopback(&config.console_listen);
    let this_machine = on_loopback.then_some(is_loopback as fn(&str) -> bool);
    let console = Arc::new(Console { api, room, this_machine });
    let connections_max = env.network.sockets().console_max;
    let share = share_of(config);
    let gate = Gate { port: "console", listener, tls, connections_max, share, audit };
    Some((address, tokio::spawn(plain::serve(console, gate, stopped))))
}
