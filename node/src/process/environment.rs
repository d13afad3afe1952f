//! Environment variables that look like ours and are not: refused, as unknown keys of the file are.
//!
//! A misspelt `TALLY_ELECTION_TIMEOUT_MS` would leave a default that nobody wanted, and say nothing.

use std::collections::BTreeSet;

/// What the names of ours begin with.
const PREFIX: &str = "TALLY_";

/// Read by others of ours, so they may well be there: the command line, deploy/compose.yaml, a build.
const OF_OTHERS: [&str; 10] = [
    "TALLY_ENDPOINTS",
    "TALLY_TOKEN",
    "TALLY_SHELL_HISTORY",
    "TALLY_TLS_CA",
    "TALLY_TLS_CERT",
    "TALLY_TLS_KEY",
    "TALLY_TLS_SERVER_NAME",
    "TALLY_HOST_ADDRESS",
    "TALLY_IMAGE",
    "TALLY_COMMIT",
];

/// … and everything that begins like this.
const OF_TESTS: &str = "TALLY_TEST_";

/// The problem with the first name that means nothing, if there is one.
pub(super) fn problem(
    names: impl Iterator<Item = String>,
    command: &clap::Command,
) -> Option<String> {
    let known: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str().map(str::to_owned))
        .collect();
    let mut unknown = names.filter(|name| {
        name.starts_with(PREFIX)
            && !known.contains(name)
            && !OF_OTHERS.contains(&&**name)
            && !name.starts_with(OF_TESTS)
            && !is_service_link(name)
    });
    let name = unknown.next()?;
    let closest = known
        .iter()
        .map(|known| (strsim::jaro_winkler(known, &name), known))
        .filter(|(similarity, _)| *similarity > 0.9)
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    let hint = closest.map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default();
    Some(format!("the environment variable {name} means nothing to tallyd{hint}"))
}

/// What Kubernetes and Docker put into each container beside a service, or a container, whose name begins with
/// "tally": addresses, and nobody's mistake.
fn is_service_link(name: &str) -> bool {
    // TALLY_PORT_7401_TCP, or with _ADDR, _PORT, _PROTO behind.
    let is_port = |at: usize| {
        let mut parts = name[at + "_PORT_".len()..].split('_');
        let is_number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        is_number && parts.next().is_some_and(|name| ["TCP", "UDP", "SCTP"].contains(&name))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT")
        || name.match_indices("_PORT_").any(|(at, _)| is_port(at))
        || name == "TALLY_NAME"
        || name.starts_with("TALLY_ENV_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Option<String> {
        let argument = |name: &'static str| clap::Arg::new(name).long(name).env(name);
        let command = clap::Command::new("serve")
            .args([argument("TALLY_NODE_ID"), argument("TALLY_ELECTION_TIMEOUT_MS_MIN")]);
        problem(names.iter().map(|name| (*name).to_owned()), &command)
    }

    #[test]
    fn what_means_nothing_is_named_with_what_was_meant() {
        let said = of(&["HOME", "TALLY_NODE_ID", "TALLY_ELECTION_TIMEOUT_MIN"]).unwrap();
        assert!(said.contains("TALLY_ELECTION_TIMEOUT_MIN means nothing"), "{said}");
        assert!(said.contains("did you mean TALLY_ELECTION_TIMEOUT_MS_MIN?"), "{said}");
        let said = of(&["TALLY_QQQ"]).unwrap();
        assert!(!said.contains("did you mean"), "{said}");
    }

    #[test]
    fn what_is_not_ours_or_known_elsewhere_is_let_be() {
        assert_eq!(
            of(&["HOME", "TALLYMAN", "TALLY_ENDPOINTS", "TALLY_TEST_KEEP", "TALLY_TLS_CA"]),
            None
        );
        assert_eq!(
            of(&[
                "TALLY_SERVICE_HOST",
                "TALLY_SERVICE_PORT",
                "TALLY_SERVICE_PORT_GRPC",
                "TALLY_PORT",
                "TALLY_PORT_7401_TCP",
                "TALLY_PORT_7401_TCP_ADDR",
                "TALLY_PEERS_SERVICE_HOST",
                "TALLY_PEERS_PORT_7501_TCP_PROTO",
                "TALLY_PORTAL_SERVICE_HOST",
                "TALLY_PORTAL_PORT_80_TCP",
                "TALLY_PORT_X_PORT_80_TCP_ADDR",
                "TALLY_NAME",
                "TALLY_ENV_PATH",
            ]),
            None
        );
        assert!(of(&["TALLY_PORT_LISTEN"]).is_some());
    }
}
