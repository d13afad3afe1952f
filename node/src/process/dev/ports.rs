//! Which ports the nodes of `tallyd dev` are to listen on, and whether they are free.

use std::time::Duration;

use super::{Arguments, asked};

/// How long somebody who has one of the ports is asked who it is.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// The default metrics ports are so far above those for clients: 7601 above 7401.
const METRICS_ABOVE_CLIENTS: u16 = 200;

/// … and those of the console, which are as `docs/console.md` has them: 7701 above 7401.
const CONSOLE_ABOVE_CLIENTS: u16 = 300;

/// The ports of node 1 that were asked for, or are always had, each with its flag.
fn wanted(arguments: &Arguments) -> Vec<(u16, &'static str)> {
    let wanted = [
        (Some(arguments.client_port), "client-port"),
        (Some(arguments.peer_port), "peer-port"),
        (arguments.metrics_port.filter(|port| *port > 0), "metrics-port"),
        (console(arguments), "console-port"),
    ];
    wanted.into_iter().filter_map(|(first, flag)| Some((first?, flag))).collect()
}

/// Whether nodes whose ports begin with the one want a port of those that begin with the other.
fn overlap(arguments: &Arguments, one: u16, other: u16) -> bool {
    u64::from(one.abs_diff(other)) < arguments.nodes
}

/// No port is wanted twice: the second to take it would go on without, or end.
fn are_apart(arguments: &Arguments) -> Result<(), String> {
    let wanted = wanted(arguments);
    for (at, (first, flag)) in wanted.iter().enumerate() {
        let mut others = wanted[at + 1..].iter();
        if let Some((other, with)) = others.find(|(other, _)| overlap(arguments, *first, *other)) {
            let nodes = arguments.nodes;
            return Err(format!(
                "--{flag} {first} and --{with} {other}: {nodes} nodes take {nodes} ports from each on, and some are \
                 the same"
            ));
        }
    }
    Ok(())
}

/// Nobody listens where the nodes are to, and no two of them would at one port.
pub(super) async fn are_free(arguments: &Arguments) -> Result<(), String> {
    are_apart(arguments)?;
    for (first, flag) in wanted(arguments) {
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
    if wanted(arguments).iter().any(|(other, _)| overlap(arguments, first, *other)) {
        return None;
    }
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

    #[test]
    fn no_port_is_wanted_twice() {
        let of = |flags: &[&str]| Dev::parse_from([&["dev"][..], flags].concat()).arguments;
        let apart = |flags: &[&str]| are_apart(&of(flags));
        assert_eq!(apart(&["--console"]), Ok(()));
        assert_eq!(apart(&["--metrics-port", "0", "--console-port", "7601"]), Ok(()));
        assert_eq!(apart(&["--peer-port", "7404"]), Ok(()));
        for flags in [
            &["--peer-port", "7403"][..],
            &["--peer-port", "7404", "--nodes", "4"],
            &["--metrics-port", "7800", "--console-port", "7801"],
            &["--client-port", "7701", "--console-port", "7701"],
        ] {
            let told = apart(flags).expect_err("some are the same");
            assert!(told.contains(flags[0]), "{told}");
        }
        // Those that nobody asked for make room.
        assert_eq!(metrics(&of(&["--client-port", "33601", "--console-port", "33801"])), None);
    }
}
