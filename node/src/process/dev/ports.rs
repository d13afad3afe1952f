//! Which ports the nodes of `tallyd dev` are to listen on, and whether they are free.

use std::time::Duration;

use super::{Arguments, asked};

/// How long somebody who has one of the ports is asked who it is.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// The default metrics ports are so far above those for clients: 7601 above 7401.
const METRICS_ABOVE_CLIENTS: u16 = 200;

/// … and those of the console, which are as `docs/console.md` has them: 7701 above 7401.
const CONSOLE_ABOVE_CLIENTS: u16 = 300;

/// Nobody listens where the nodes are to.
pub(super) async fn are_free(arguments: &Arguments) -> Result<(), String> {
    let metrics = arguments.metrics_port.filter(|port| *port > 0);
    let wanted = [
        (Some(arguments.client_port), "client-port"),
        (Some(arguments.peer_port), "peer-port"),
        (metrics, "metrics-port"),
        (console(arguments), "console-port"),
    ];
    for (first, flag) in wanted.into_iter().filter_map(|(first, flag)| Some((first?, flag))) {
        for port in u64::from(first)..u64::from(first) + arguments.nodes {
            let address = format!("127.0.0.1:{port}");
            let Err(error) = std::net::TcpListener::bind(&address) else { continue };
            let who = match tokio::time::timeout(ASKED_WITHIN, asked(&address, None)).await {
                Ok(Some((cluster, node))) => {
                    format!(
                        "node {} of cluster {cluster} (pid {}) listens there",
                        node.id, node.pid
                    )
                }
                _ => error.to_string(),
            };
            return Err(format!(
                "{address}: {who}\nStop it, or choose other ports: --{flag} is the first of {}",
                arguments.nodes
            ));
        }
    }
    Ok(())
}

/// The metrics port of node 1: as it is asked for, else where the default is free, so that a second cluster
/// needs no further flag.
pub(super) fn metrics(arguments: &Arguments) -> Option<u16> {
    if let Some(asked) = arguments.metrics_port {
        return (asked > 0).then_some(asked);
    }
    let first = arguments.client_port.checked_add(METRICS_ABOVE_CLIENTS)?;
    let last = first.checked_add(u16::try_from(arguments.nodes).ok()? - 1)?;
    let is_free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    (first..=last).all(is_free).then_some(first)
}

/// The console port of node 1, where a console is asked for. Whoever asks opens the page: a port that is taken is said,
/// and no other one taken.
pub(super) fn console(arguments: &Arguments) -> Option<u16> {
    let default = arguments.client_port.saturating_add(CONSOLE_ABOVE_CLIENTS);
    arguments.console_port.or(arguments.console.then_some(default))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Dev {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn a_console_is_there_where_it_is_asked_for_and_where_its_page_says() {
        let port =
            |flags: &[&str]| console(&Dev::parse_from([&["dev"][..], flags].concat()).arguments);
        assert_eq!(port(&[]), None);
        assert_eq!(port(&["--console"]), Some(7701));
        assert_eq!(port(&["--console", "--client-port", "9000"]), Some(9300));
        assert_eq!(port(&["--console-port", "9"]), Some(9));
        assert_eq!(port(&["--console", "--console-port", "9"]), Some(9));
    }
}
