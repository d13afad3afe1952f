use super::*;

fn valid() -> Config {
    Config { node_id: 1, ..Config::default() }
}

#[test]
fn the_default_lacks_only_an_id() {
    assert_eq!(Config::default().validate().unwrap_err().key, "node_id");
    valid().validate().unwrap();
}

#[test]
fn each_check_names_its_key() {
    type Breaks = fn(&mut Config);
    let broken: [(&str, Breaks); 26] = [
        ("client_listen", |config| config.client_listen = "7401".into()),
        ("peer_advertise", |config| config.peer_listen = "0.0.0.0:7501".into()),
        ("metrics_listen", |config| config.metrics_listen = "7601".into()),
        ("metrics_listen", |config| config.metrics_listen = "0.0.0.0:7601".into()),
        ("console_listen", |config| config.console_listen = "7701".into()),
        ("console_listen", |config| config.console_listen = "0.0.0.0:7701".into()),
        ("initial_cluster", |config| {
            config.initial_cluster = "2=a:1,3=b:2".parse().unwrap();
        }),
        ("election_timeout_ms_min", |config| config.election_timeout_ms_min = 100),
        ("election_timeout_ms_max", |config| config.election_timeout_ms_max = 180),
        ("entries_in_flight", |config| config.entries_in_flight = 0),
        ("writes_in_flight", |config| config.writes_in_flight = 0),
        ("data_dir", |config| config.data_dir = "".into()),
        ("write_bytes_in_flight", |config| config.write_bytes_in_flight = 1 << 20),
        ("sessions_share_percent", |config| config.sessions_share_percent = 101),
        ("limit_share_percent", |config| config.limit_share_percent = 0),
        ("backup_interval_ms", |config| config.backup_interval_ms = 999),
        ("state_compare_interval_ms", |config| config.state_compare_interval_ms = 60_001),
        ("backups_kept", |config| config.backups_kept = 0),
        ("worker_threads", |config| config.worker_threads = 2000),
        ("client_listen", |config| {
            config.client_listen = "0.0.0.0:7401".into();
            config.client_advertise = "node1:7401".into();
        }),
        ("peer_listen", |config| config.peer_listen = "node1:7501".into()),
        ("client_tls_key_file", |config| config.client_tls_cert_file = "a".into()),
        ("client_tls_cert_file", |config| config.client_tls_key_file = "a".into()),
        ("client_tls_cert_file", |config| config.client_tls_ca_file = "a".into()),
        ("peer_tls_key_file", |config| {
            (config.peer_tls_cert_file, config.peer_tls_ca_file) = ("a".into(), "b".into());
        }),
        ("cluster_name", |config| config.cluster_name = "a/b".into()),
    ];
    for (key, breaks) in broken {
        let mut config = valid();
        breaks(&mut config);
        assert_eq!(config.validate().unwrap_err().key, key);
    }
}

/// What is computed of sizes and times does not wrap: a reserve of all that there is was one of 16 MiB.
#[test]
fn the_greatest_values_stay_great() {
    let huge = u64::MAX;
    let config = Config { dirty_bytes_max: huge, log_segment_bytes: huge, ..valid() };
    assert_eq!(config.disk_reserve(), huge);
    let config = Config { heartbeat_interval_ms: huge / 2 + 1, ..valid() };
    assert_eq!(config.validate().unwrap_err().key, "election_timeout_ms_min");
}

#[test]
fn other_machines_reach_a_node_over_tls_or_by_the_operators_word() {
    for loopback in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1"] {
        assert!(is_loopback(loopback), "{loopback}");
    }
    for open in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "node1:1", "localhost.example:1"] {
        assert!(!is_loopback(open), "{open}");
    }
    let mut config = valid();
    (config.client_listen, config.peer_listen) = ("10.0.0.1:1".into(), "10.0.0.1:2".into());
    let said = config.validate().unwrap_err().to_string();
    for named in ["client_listen", "client_tls_cert_file", "insecure_listen_without_tls"] {
        assert!(said.contains(named), "{said}");
    }
    (config.client_tls_cert_file, config.client_tls_key_file) = ("a".into(), "b".into());
    assert_eq!(config.validate().unwrap_err().key, "peer_listen", "each port by itself");
    config.insecure_listen_without_tls = true;
    let said = config.validate().unwrap_err().to_string();
    assert!(said.contains("insecure_listen_without_authentication"), "{said}");
    config.authentication = true;
    config.validate().unwrap();
    (config.authentication, config.insecure_listen_without_authentication) = (false, true);
    config.validate().unwrap();
}

#[test]
fn metrics_and_the_console_leave_the_machine_only_where_that_is_said() {
    let ports: [fn(&mut Config) -> &mut String; 2] =
        [|config| &mut config.metrics_listen, |config| &mut config.console_listen];
    for port in ports {
        for near in ["", "127.0.0.1:7601", "127.9.9.9:1", "[::1]:7601", "localhost:7601"] {
            let mut config = valid();
            near.clone_into(port(&mut config));
            config.validate().unwrap();
        }
        for far in ["0.0.0.0:7601", "[::]:7601", "10.0.0.1:7601", "node1:7601", "localhost.x:1"] {
            let mut config = valid();
            far.clone_into(port(&mut config));
            let said = config.validate().unwrap_err().to_string();
            assert!(said.contains("client_tls_cert_file"), "{far}: {said}");
            (config.client_tls_cert_file, config.client_tls_key_file) = ("a".into(), "b".into());
            let said = config.validate().unwrap_err().to_string();
            assert!(said.contains("authentication"), "{far}: {said}");
            config.authentication = true;
            config.validate().unwrap();
        }
    }
}

#[test]
fn files_refuse_unknown_keys_and_round_trip() {
    assert!(toml::from_str::<Config>("node_id = 1\nnode_ids = 2").is_err());
    let mut config = valid();
    config.initial_cluster = "1=a:1,2=b:2".parse().unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<Config>(&text).unwrap(), config);
}

/// Rows of the reference's tables that begin with a key and its default.
fn reference() -> Vec<(String, String)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let code = |cell: &str| Some(cell.trim().strip_prefix('`')?.strip_suffix('`')?.to_owned());
    text.lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            let key = cells.next()?.trim().strip_suffix('`')?;
            Some((key.to_owned(), code(cells.next()?)?))
        })
        .collect()
}

#[test]
fn the_reference_lists_every_key_and_default() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut expected: Vec<_> =
        defaults.into_iter().map(|(key, value)| (key, value.to_string())).collect();
    let mut listed = reference();
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected);
}

#[test]
fn initial_clusters() {
    for bad in ["1", "x=a:1", "0=a:1", "1=a", "1=a:1,1=b:2", "1=:5", "1=a:99999"] {
        assert!(bad.parse::<InitialCluster>().is_err(), "{bad}");
    }
    assert_eq!("".parse(), Ok(InitialCluster::default()));
}
