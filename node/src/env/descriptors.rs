//! File descriptors: how many the process may have, and who may use them.
//!
//! Each connection takes one, and so does each file. A node that has none left can't begin a segment of
//! its log, and a node that can't do that is of no use. So what clients may take is bounded below what
//! there is, and the rest is kept for log, state and snapshots, and for the other nodes.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Kept for the node itself. The state's engine has 80 files open, and as many again while a snapshot is
/// installed beside it; 32 are for the log (its segment, the next one, and those that are read),
/// snapshots being built, sent and received, and what every process has.
pub const OWN: usize = 2 * 80 + 32;

/// Connections of other nodes, to and from them: at most so many, and an eighth of what there is. A
/// cluster of five uses some 40 on each node.
pub const PEERS_MAX: usize = 512;

/// … and this many in any case.
const PEERS_MIN: usize = 32;

/// Connections to the metrics port: a scraper or two, probes, and a person.
pub const METRICS_MAX: usize = 16;

/// Connections to the console: a browser makes six at once, each for one request.
pub const CONSOLE_MAX: usize = 24;

/// Connections of clients: at most so many, however many descriptors there are. They bound what can't be
/// bounded for each connection by itself.
pub const CLIENTS_MAX: usize = 16 * 1024;

/// … and this many in any case, so that somebody can ask what is wrong.
const CLIENTS_MIN: usize = 8;

/// With fewer than this a node runs, but it may end where it would install a snapshot.
pub const ENOUGH: usize = OWN + METRICS_MAX + CONSOLE_MAX + PEERS_MIN + CLIENTS_MIN;

/// How many connections a node may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sockets {
    /// To its client port.
    pub clients_max: usize,
    /// To its peer port.
    pub peers_max: usize,
    /// To its metrics port.
    pub metrics_max: usize,
    /// To its console.
    pub console_max: usize,
}

impl Sockets {
    /// Where there is no limit.
    pub const MANY: Sockets = Sockets {
        clients_max: CLIENTS_MAX,
        peers_max: PEERS_MAX,
        metrics_max: METRICS_MAX,
        console_max: CONSOLE_MAX,
    };

    /// Shares out so many descriptors.
    pub fn of(descriptors: usize) -> Sockets {
        let peers = (descriptors.saturating_sub(CONSOLE_MAX) / 8).clamp(PEERS_MIN, PEERS_MAX);
        // As many again are connections that this node makes.
        let clients = descriptors.saturating_sub(OWN + METRICS_MAX + CONSOLE_MAX + peers);
        Sockets {
            clients_max: clients.clamp(CLIENTS_MIN, CLIENTS_MAX),
            peers_max: peers / 2,
            metrics_max: METRICS_MAX,
            console_max: CONSOLE_MAX,
        }
    }

    /// What this process may have now.
    pub fn of_this_process() -> Sockets {
        match getrlimit(Resource::Nofile).current {
            None => Sockets::MANY,
            Some(limit) => Sockets::of(usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }
}

/// How many descriptors this process may have.
pub(super) fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets this process have as many as it may allow itself. The lower limit that most systems begin with
/// is for programs that can't work with high numbers.
pub fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit on open files could not be raised");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_never_get_what_the_node_needs() {
        for descriptors in [ENOUGH, ENOUGH + 1, 300, 1024, 4096, 20_000, 1 << 20, usize::MAX] {
            let Sockets { clients_max, peers_max, metrics_max, console_max } =
                Sockets::of(descriptors);
            let used = OWN + metrics_max + console_max + 2 * peers_max + clients_max;
            assert!(used <= descriptors, "{descriptors}");
            assert!(clients_max >= CLIENTS_MIN && peers_max >= 16, "{descriptors}");
        }
        // Too few for everything at once; a cluster of three with its log open uses some 110.
        assert_eq!(Sockets::of(128), Sockets { clients_max: 8, peers_max: 16, ..Sockets::MANY });
        assert_eq!(Sockets::of(1 << 20), Sockets { peers_max: PEERS_MAX / 2, ..Sockets::MANY });
    }
}
