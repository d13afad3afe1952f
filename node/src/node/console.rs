//! The port of the console, if there is to be one. What it answers is `api::console`'s.

use std::{net::IpAddr, sync::Arc};

use tokio::{sync::watch, task::JoinHandle};

use super::{LOGS, listen, share_of};
use crate::{
    api::{
        Api,
        console::{Console, HostIsOurs},
    },
    audit::AuditLog,
    config::{Config, host_of, is_loopback},
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
    let host_is_ours = host_is_ours(config, on_loopback, tls.is_some());
    let console = Arc::new(Console { api, room, host_is_ours, on_loopback });
    let connections_max = env.network.sockets().console_max;
    let share = share_of(config);
    let gate = Gate { port: "console", listener, tls, connections_max, share, audit };
    Some((address, tokio::spawn(plain::serve(console, gate, stopped))))
}

/// Which hosts lead to this node and to nobody else's page. An address in digits is no name that somebody could have
/// made to lead here, and under TLS a browser goes on only where the certificate has the name.
fn host_is_ours(config: &Config, on_loopback: bool, has_tls: bool) -> HostIsOurs {
    if on_loopback {
        return Box::new(is_loopback);
    }
    let own = [&config.console_listen, &config.client_advertise, &config.peer_advertise];
    let own = own.map(|address| host_of(address).to_ascii_lowercase());
    Box::new(move |host| {
        let name = host_of(host);
        has_tls
            || is_loopback(host)
            || name.parse::<IpAddr>().is_ok()
            || (!name.is_empty() && own.contains(&name.to_ascii_lowercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_lead_to_somebody_elses_page_is_not_ours() {
        let config = Config {
            console_listen: "0.0.0.0:7701".to_owned(),
            client_advertise: "Node1.example:7401".to_owned(),
            ..Config::default()
        };
        let shown = |on_loopback, has_tls, host| host_is_ours(&config, on_loopback, has_tls)(host);
        for host in ["localhost:7701", "127.0.0.1", "[::1]:7701", "[::1]", "127.8.8.8:80"] {
            assert!(shown(true, false, host) && shown(false, false, host), "{host}");
        }
        for host in ["node1.example:7701", "NODE1.example", "10.0.0.1:7701", "[fe80::1]:7701"] {
            assert!(!shown(true, false, host) && shown(false, false, host), "{host}");
            assert!(shown(false, true, host), "{host}");
        }
        let theirs = [
            "",
            ":7701",
            "evil.example",
            "localhost.evil.example:7701",
            "127.0.0.1.evil.example",
            "node1.example.evil.example:7701",
            "evil.example#localhost",
            "localhost@evil.example",
            "10.0.0.1:7701.evil.example",
        ];
        for host in theirs {
            assert!(!shown(true, false, host) && !shown(false, false, host), "{host}");
        }
    }
}
