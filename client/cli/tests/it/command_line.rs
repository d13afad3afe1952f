//! The binary: exit status, JSON, and what it says of an unknown outcome.

use std::{io::Write as _, process::Stdio, time::Duration};

use serde_json::Value;
use tally_client::{proto as v1, reason};
use tally_proto::{status::StatusBuilder, v1::answer::Response};
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    model::{refusal, refusal_for},
};

struct Run {
    exit: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

/// Runs `tally` against a cluster.
async fn tally(cluster: &Cluster, arguments: &[&str]) -> Run {
    with_input(cluster, arguments, "").await
}

async fn with_input(cluster: &Cluster, arguments: &[&str], input: &str) -> Run {
    run(cluster, arguments, input, Stdio::piped()).await
}

/// Runs `tally` with an output that takes nothing.
async fn into_full(cluster: &Cluster, arguments: &[&str]) -> Run {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    run(cluster, arguments, "", full.into()).await
}

async fn run(cluster: &Cluster, arguments: &[&str], input: &str, stdout: Stdio) -> Run {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tally"));
    command.args(arguments).env("TALLY_ENDPOINTS", cluster.endpoints().join(","));
    command.stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
    let input = input.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    Run {
        exit: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[tokio::test]
async fn done_is_zero_and_prints_the_value() {
    let cluster = Cluster::start(3).await;
    cluster.elect(1);
    let run = tally(&cluster, &["counter", "add", "hits", "5"]).await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "5\n"), "{}", run.stderr);
    let run = tally(&cluster, &["counter", "add", "hits", "-2", "--json"]).await;
    assert_eq!(run.json()["value"], 3);
    assert_eq!(run.json()["value_before"], 5);
    let run = tally(&cluster, &["counter", "get", "hits", "--json"]).await;
    assert_eq!((run.exit, &run.json()["value"]), (0, &3.into()));
    let token = run.json()["header"]["session_token"].as_str().unwrap().to_owned();
    let level = format!("session:{token}");
    let run = tally(&cluster, &["counter", "get", "hits", "--read", &level]).await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "3\n"));
}

#[tokio::test]
async fn a_wrong_command_line_is_two() {
    let cluster = Cluster::start(1).await;
    for arguments in [
        &["counter", "add"][..],
        &["counter", "get", "hits", "--read", "strong"],
        &["kv", "put", "k", "--file", "/does/not/exist"],
        &["counter", "add", "hits", "--idempotency-window", "1h"],
        &["bench", "nothing"],
    ] {
        assert_eq!(tally(&cluster, arguments).await.exit, 2, "{arguments:?}");
    }
    let run = with_input(&cluster, &["apply", "--json"], "{\"then\": []}").await;
    assert_eq!((run.exit, &run.json()["error"]["reason"]), (2, &"USAGE".into()));
    assert_eq!(cluster.writes(), 0);
}

#[tokio::test]
async fn a_decided_refusal_is_three() {
    let cluster = Cluster::start(1).await;
    let arguments = ["counter", "add", "stock", "-1", "--floor", "0", "--json"];
    let run = tally(&cluster, &arguments).await;
    assert_eq!(run.exit, 3);
    let error = &run.json()["error"];
    assert_eq!(error["reason"], reason::BELOW_FLOOR);
    assert_eq!(error["outcome"], "NOT_APPLIED");
    assert_eq!(error["code"], "FAILED_PRECONDITION");
    assert_eq!(error["decided"], true);
    let run = tally(&cluster, &["counter", "get", "nothing"]).await;
    assert_eq!((run.exit, run.stdout.as_str()), (9, ""));
    assert!(run.stderr.contains(reason::COUNTER_NOT_FOUND), "{}", run.stderr);
}

/// A refusal that ends a command, as it asks to wait for longer than any command does here.
fn not_applied_and_wait() -> Act {
    let (why, not_applied) = (reason::NO_QUORUM, v1::Outcome::NotApplied);
    let day = Duration::from_secs(86_400);
    Act::Refuse(refusal_for(day, Code::Unavailable, why, not_applied).into())
}

#[tokio::test]
async fn not_applied_is_four() {
    let cluster = Cluster::start(1).await;
    cluster.script(0, [not_applied_and_wait()]);
    let run = tally(&cluster, &["counter", "add", "hits"]).await;
    assert_eq!(run.exit, 4);
    assert!(run.stderr.contains("sending it again is safe"), "{}", run.stderr);
    cluster.elect(9);
    let run = tally(&cluster, &["counter", "get", "hits", "--deadline", "300ms", "--json"]).await;
    assert_eq!((run.exit, &run.json()["error"]["outcome"]), (4, &Value::Null));
}

#[tokio::test]
async fn four_speaks_of_this_call_and_not_of_a_key_that_was_chosen() {
    let cluster = Cluster::start(1).await;
    cluster.script(0, [not_applied_and_wait(), not_applied_and_wait(), not_applied_and_wait()]);
    let arguments = ["counter", "add", "stock", "-1"];
    let keyed = [&arguments[..], &["--idempotency-key", "order-1"]].concat();
    let run = tally(&cluster, &keyed).await;
    assert_eq!(run.exit, 4);
    assert!(run.stderr.contains("Nothing was done by this call; an earlier one"), "{}", run.stderr);
    assert!(!run.stderr.contains("It was not applied"), "{}", run.stderr);
    let run = tally(&cluster, &[&keyed[..], &["--json"]].concat()).await;
    let error = &run.json()["error"];
    assert_eq!((run.exit, &error["outcome"]), (4, &"NOT_APPLIED".into()));
    assert_eq!(error["this_call_only"], true);
    let run = tally(&cluster, &[&arguments[..], &["--json"]].concat()).await;
    assert_eq!((run.exit, &run.json()["error"]["this_call_only"]), (4, &Value::Null));
}

#[tokio::test]
async fn an_endpoint_that_is_none_is_a_wrong_command_line() {
    let cluster = Cluster::start(1).await;
    for (endpoint, why) in [("8501", "it is a number"), ("localhost:http", "a port is a number")] {
        let run = tally(&cluster, &["counter", "get", "hits", "--endpoints", endpoint]).await;
        assert_eq!(run.exit, 2, "{}", run.stderr);
        assert!(run.stderr.contains(why), "{}", run.stderr);
    }
}

#[tokio::test]
async fn what_does_not_exist_has_a_status_of_its_own_alone_and_among_others() {
    let cluster = Cluster::start(1).await;
    tally(&cluster, &["counter", "add", "hits", "5"]).await;
    let run = tally(&cluster, &["counter", "get", "missing"]).await;
    assert_eq!((run.exit, run.stdout.as_str()), (9, ""), "{}", run.stderr);
    assert_eq!(tally(&cluster, &["counter", "get", "hits"]).await.exit, 0);
    let run = tally(&cluster, &["counter", "get", "hits", "missing"]).await;
    assert_eq!((run.exit, run.stderr.as_str()), (9, ""));
    assert!(run.stdout.contains("missing  does not exist"), "{}", run.stdout);
    assert_eq!(tally(&cluster, &["counter", "get", "hits", "hits"]).await.exit, 0);
}

#[tokio::test]
async fn what_a_read_is_worth_is_said_to_who_asks() {
    let cluster = Cluster::start(1).await;
    tally(&cluster, &["counter", "add", "hits", "5"]).await;
    let local = ["counter", "get", "hits", "--read", "local"];
    let run = tally(&cluster, &local).await;
    assert_eq!(
        (run.stdout.as_str(), run.stderr.as_str()),
        ("5\n", ""),
        "a pipe gets the value alone"
    );
    let run = tally(&cluster, &[&local[..], &["--verbose"]].concat()).await;
    assert_eq!(run.stdout, "5\n");
    assert!(
        run.stderr.starts_with("-- ") && run.stderr.contains("read by node "),
        "{}",
        run.stderr
    );
    let run = tally(&cluster, &[&local[..], &["--verbose", "--json"]].concat()).await;
    assert_eq!((run.json()["value"].as_i64(), run.stderr.as_str()), (Some(5), ""));
}

#[tokio::test]
async fn without_a_cluster_it_says_so_long_before_the_deadline() {
    let cluster = Cluster::start(1).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    let arguments = ["counter", "add", "hits", "--deadline", "5m", "--endpoints", &nobody];
    let run = tally(&cluster, &arguments).await;
    assert_eq!(run.exit, 4, "{}", run.stderr);
    for told in [&format!("nothing listens at {nobody}")[..], "tallyd dev", "It was not applied"] {
        assert!(run.stderr.contains(told), "{}", run.stderr);
    }
}

#[tokio::test]
async fn a_key_from_a_variable_that_is_not_set_is_refused() {
    let cluster = Cluster::start(1).await;
    let run = tally(&cluster, &["counter", "add", "hits", "--idempotency-key", ""]).await;
    assert_eq!(run.exit, 2, "{}", run.stderr);
    assert!(run.stderr.contains("it is empty, and would protect nothing"), "{}", run.stderr);
    assert_eq!(cluster.value("hits"), 0);
}

#[tokio::test]
async fn unknown_is_five_and_names_the_key_that_settles_it() {
    let cluster = Cluster::start(1).await;
    cluster.script(0, [Act::ExecuteAndBreak, not_applied_and_wait()]);
    let run = tally(&cluster, &["counter", "add", "hits"]).await;
    assert_eq!((run.exit, run.stdout.as_str()), (5, ""));
    let (_, behind) = run.stderr.split_once("--idempotency-key ").expect(&run.stderr);
    let key = behind.split(':').next().unwrap().to_owned();
    let again = ["counter", "add", "hits", "--idempotency-key", &key, "--json"];
    let run = tally(&cluster, &again).await;
    assert_eq!((run.exit, &run.json()["replayed"]), (0, &true.into()));
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn status_shows_every_node() {
    let cluster = Cluster::start(3).await;
    cluster.elect(2);
    let run = tally(&cluster, &["status", "--json"]).await;
    let nodes = run.json()["nodes"].clone();
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    assert_eq!((&nodes[2]["role"], &nodes[0]["role"]), (&"leader".into(), &"follower".into()));
    for name in ["id", "role", "address", "pid", "term", "applied_index"] {
        assert!(nodes[0].get(name).is_some(), "{name}");
    }
    let run = tally(&cluster, &["status"]).await;
    assert!(run.stdout.contains("leader") && run.exit == 0, "{}", run.stdout);
    let healthy = "healthy: 3 of 3 voters answer, node 3 leads; any one may fail";
    assert_eq!(run.stdout.lines().next(), Some(healthy));
    let run = tally(&cluster, &["status", "--check", "--json"]).await;
    let health = run.json()["health"].clone();
    assert_eq!((run.exit, &health["verdict"]), (0, &"HEALTHY".into()), "{health}");
    let run = tally(&cluster, &["status", "--local", "--json"]).await;
    assert_eq!((run.exit, &run.json()["health"]), (0, &Value::Null));
    cluster.elect(9);
    let run = tally(&cluster, &["status", "--check"]).await;
    assert_eq!(run.exit, 8, "{}", run.stdout);
    assert!(run.stdout.starts_with("NO LEADER: 3 of 3 voters answer"), "{}", run.stdout);
    assert_eq!(tally(&cluster, &["status"]).await.exit, 0);
}

#[tokio::test]
async fn bench_ends_with_one_object() {
    let cluster = Cluster::start(1).await;
    for transport in ["stream", "unary"] {
        let arguments = [
            "bench",
            "add-hot",
            "--transport",
            transport,
            "--clients",
            "8",
            "--duration",
            "300ms",
            "--warmup",
            "50ms",
            "--json",
        ];
        let run = tally(&cluster, &arguments).await;
        let result = run.json();
        assert!(result["ops_per_second"].as_f64().unwrap() > 0.0, "{result}");
        for name in ["p50_us", "p99_us", "p999_us", "errors"] {
            assert!(result[name].is_u64(), "{name}: {result}");
        }
    }
}

#[tokio::test]
async fn an_open_loop_accounts_for_every_operation() {
    let cluster = Cluster::start(1).await;
    let arguments = "bench add-hot --rate 400 --duration 500ms --warmup 100ms --json";
    let arguments: Vec<_> = arguments.split(' ').collect();
    let run = tally(&cluster, &arguments).await;
    let result = run.json();
    let number = |name: &str| result[name].as_u64().unwrap_or_else(|| panic!("{name}: {result}"));
    assert_eq!(number("started") + number("not_started"), 200, "{result}");
    assert_eq!((number("not_started"), number("errors")), (0, 0), "{result}");
    // Those that warmed up were done too.
    assert_eq!(cluster.value("bench/hot"), 240);

    // Nobody answers: what finds no room is not started, and counted.
    cluster.script(0, (0..1000).map(|_| Act::Silence));
    let arguments = "bench add-hot --rate 400 --in-flight 10 --duration 500ms --warmup 0ms --json \
                     --deadline 1s";
    let arguments: Vec<_> = arguments.split_whitespace().collect();
    let run = tally(&cluster, &arguments).await;
    let result = run.json();
    assert_eq!((&result["started"], &result["not_started"]), (&10.into(), &190.into()), "{result}");
    assert_eq!(result["errors"], 10, "{result}");
    assert!(result["error_p50_us"].as_u64().unwrap() >= 900_000, "{result}");
}

#[tokio::test]
async fn a_bench_can_be_deep_and_knows_its_ground() {
    let cluster = Cluster::start(1).await;
    let arguments = "bench add-hot --clients 2 --depth 16 --duration 300ms --warmup 50ms --json";
    let run = tally(&cluster, &arguments.split(' ').collect::<Vec<_>>()).await;
    assert!(run.json()["operations"].as_u64().unwrap() > 0, "{}", run.stdout);
    let packs = cluster.nodes[0].seen.lock().unwrap().packs.clone();
    // With one call each, two callers make packs of two at most.
    assert!(packs.iter().any(|pack| *pack > 2), "calls of one caller travel together: {packs:?}");

    let directory = std::env::temp_dir();
    let mut arguments: Vec<_> =
        "bench add-hot --clients 1 --baseline echo --duration 300ms --warmup 50ms --json"
            .split(' ')
            .collect();
    arguments.extend(["--fsync-dir", directory.to_str().unwrap()]);
    let run = tally(&cluster, &arguments).await;
    let result = run.json();
    for part in ["unary_alone", "unary", "stream"] {
        assert!(result["baseline"][part]["ops_per_second"].as_f64().unwrap() > 0.0, "{result}");
        assert_eq!(result["baseline"][part]["errors"], 0, "{result}");
    }
    assert!(result["ratios"]["lone_write_to_floor"].as_f64().unwrap() > 0.0, "{result}");
}

#[tokio::test]
async fn a_cluster_can_be_filled() {
    let cluster = Cluster::start(1).await;
    let arguments = ["fill", "--idempotency-keys", "50", "--sessions", "3", "--json"];
    let run = tally(&cluster, &arguments).await;
    let result = run.json();
    assert_eq!(result["idempotency_keys"]["count"], 50, "{result}");
    assert_eq!(cluster.value("fill/idempotent"), 50);
    // The sessions stay; only that of the filling client is closed.
    assert_eq!((&result["sessions"]["count"], cluster.model().sessions.len()), (&3.into(), 3));
}

#[tokio::test]
async fn the_demonstration_does_not_kill_strangers() {
    let cluster = Cluster::start(1).await;
    let run = tally(&cluster, &["demo", "--rounds", "1", "--seconds", "1"]).await;
    assert_eq!(run.exit, 4);
    assert!(run.stderr.contains("not killed"), "{}", run.stderr);
    assert_eq!(cluster.writes(), 0);
}

#[tokio::test]
async fn completions_are_made_for_shells() {
    let cluster = Cluster::start(1).await;
    for shell in ["bash", "zsh", "fish"] {
        let run = tally(&cluster, &["completions", shell]).await;
        assert!(run.exit == 0 && run.stdout.contains("idempotency-key"), "{shell}");
    }
}

#[tokio::test]
async fn what_could_not_be_printed_is_six() {
    let cluster = Cluster::start(1).await;
    tally(&cluster, &["counter", "add", "hits", "1"]).await;
    for arguments in [
        "counter get hits",
        "counter list --all",
        "status",
        "status --watch",
        "completions bash",
        "--help",
        "counter add --help",
        "--version",
        "bench add-hot --clients 1 --duration 50ms --warmup 0ms",
    ] {
        for json in [&[][..], &["--json"]] {
            let arguments: Vec<_> = arguments.split(' ').chain(json.iter().copied()).collect();
            let run = into_full(&cluster, &arguments).await;
            assert_eq!(run.exit, 6, "{arguments:?}: {}", run.stderr);
            assert!(run.stderr.contains("No space left"), "{arguments:?}: {}", run.stderr);
            assert!(!run.stderr.contains("APPLIED"), "{arguments:?}: {}", run.stderr);
        }
    }
    // What failed keeps its own code, and is told where there is room.
    let run = into_full(&cluster, &["counter", "get", "none", "--json"]).await;
    assert_eq!(run.exit, 9);
    assert!(run.stderr.contains(reason::COUNTER_NOT_FOUND), "{}", run.stderr);
    let run = into_full(&cluster, &["counter", "get", "--json"]).await;
    assert_eq!(run.exit, 2);
    assert!(run.stderr.contains("Usage"), "{}", run.stderr);
}

#[tokio::test]
async fn a_write_that_could_not_be_printed_does_not_look_like_one_that_was_not_done() {
    let cluster = Cluster::start(1).await;
    for (arguments, result) in [
        ("counter add hits 5", "\n  5\n"),
        ("counter add hits 5 --json", "\"value\":10"),
        ("kv put k v", "revision"),
        ("fill --idempotency-keys 1", "idempotency_keys: 1"),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        let run = into_full(&cluster, &arguments).await;
        assert_eq!(run.exit, 6, "{arguments:?}: {}", run.stderr);
        for told in ["WAS APPLIED", "No space left", result] {
            assert!(run.stderr.contains(told), "{arguments:?}: {}", run.stderr);
        }
    }
    assert_eq!(cluster.value("hits"), 10);
}

#[tokio::test]
async fn a_closed_pipe_is_quiet() {
    let cluster = Cluster::start(1).await;
    for arguments in [
        &["counter", "add", "hits", "1"][..],
        &["counter", "list", "--all", "--json"],
        &["status", "--watch"],
        &["completions", "bash"],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let run = run(&cluster, arguments, "", writer.into()).await;
        assert_eq!((run.exit, run.stderr.as_str()), (0, ""), "{arguments:?}");
    }
    assert_eq!(cluster.value("hits"), 1);
}

#[tokio::test]
async fn a_name_can_forge_no_line_and_moves_no_cursor() {
    let cluster = Cluster::start(1).await;
    let name = "a/x  0\na/gold  1000000\u{1b}[2J";
    tally(&cluster, &["counter", "add", name, "1"]).await;
    tally(&cluster, &["counter", "add", "a/y z", "2"]).await;
    let run = tally(&cluster, &["counter", "list", "a/"]).await;
    let quoted = r#""a/x  0\na/gold  1000000\u{1b}[2J"  1"#;
    assert_eq!(run.stdout, format!("{quoted}\na/y z  2\n"));
    // Programs get it as it is.
    let run = tally(&cluster, &["counter", "list", "a/", "--json"]).await;
    assert_eq!(run.json()["items"][0]["name"], name);
    // What a node says is not printed raw, and neither are wrong arguments.
    let refused = StatusBuilder::new(Code::InvalidArgument, "name", format!("no {name}"))
        .field("na\u{9b}me", format!("is {name}"))
        .outcome(v1::Outcome::NotApplied)
        .build();
    cluster.script(0, [Act::Refuse(Response::Error(refused).into())]);
    let refused = tally(&cluster, &["counter", "add", "hits"]).await;
    assert_eq!(refused.exit, 10);
    let wrong = tally(&cluster, &["counter", "add", "hits", name]).await;
    assert_eq!(wrong.exit, 2);
    for run in [refused, wrong] {
        assert!(run.stderr.contains(r"\u{1b}[2J"), "{}", run.stderr);
        assert!(!run.stderr.contains(['\u{1b}', '\u{9b}']), "{}", run.stderr);
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_json_too_and_demands_no_endpoints() {
    let cluster = Cluster::start(1).await;
    for arguments in [
        &["counter", "add", "--json"][..],
        &["--json", "counter", "get", "hits", "--read", "strong"],
        &["nothing", "--json"],
    ] {
        let run = tally(&cluster, arguments).await;
        let error = &run.json()["error"];
        assert_eq!((run.exit, &error["reason"]), (2, &"USAGE".into()), "{arguments:?}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{arguments:?}");
        assert_eq!(run.stderr, "", "{arguments:?}");
    }
    let run = tally(&cluster, &["counter", "add"]).await;
    assert!(run.stderr.contains("Usage: tally counter add"), "{}", run.stderr);
    assert!(!run.stderr.contains("--endpoints"), "{}", run.stderr);
    // A name may look like the flag.
    let run = tally(&cluster, &["counter", "add", "hits", "x", "--", "--json"]).await;
    assert_eq!((run.exit, run.stdout.as_str()), (2, ""));
}

#[tokio::test]
async fn an_open_loop_can_be_judged() {
    let cluster = Cluster::start(1).await;
    let file = std::env::temp_dir().join(format!("tally-open-{}.jsonl", std::process::id()));
    let arguments = "bench add-spread --rate 200 --clients 4 --duration 300ms --warmup 0ms --json";
    let mut arguments: Vec<_> = arguments.split(' ').collect();
    arguments.extend(["--spread", "1", "--history", file.to_str().unwrap()]);
    // The last look is a batch read, which the fake does not know: it ends as a failure of its own.
    let look = refusal(Code::Internal, "none", v1::Outcome::NotApplied, false);
    cluster.nodes[0].refuses_reads.lock().unwrap().push_back(look);
    tally(&cluster, &arguments).await;
    let history = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let records: Vec<Value> =
        history.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let adds = records.iter().filter(|record| record["op"] == "incr");
    let clients: std::collections::BTreeSet<_> =
        adds.clone().map(|record| record["client"].as_u64().unwrap()).collect();
    assert_eq!((adds.count(), clients), (60, (1..=4).collect()), "{history}");
}

#[tokio::test]
async fn sessions_are_listed_and_closed() {
    let cluster = Cluster::start(1).await;
    let open = |ids: std::ops::RangeInclusive<u64>| {
        let mut model = cluster.model();
        model.log_index = 100;
        model.sessions.extend(ids.map(|id| (id, Default::default())));
    };
    let left = || cluster.model().sessions.keys().copied().collect::<Vec<_>>();
    open(1..=6);
    let run = tally(&cluster, &["session", "list", "--limit", "4"]).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("6 of 10 sessions are open"), "{}", run.stdout);
    assert!(run.stdout.contains("10.0.0.1 holds 2\n"), "{}", run.stdout);
    assert_eq!(
        run.stderr, "-- more: --page-token 4, or --all\n",
        "what is piped on is the list alone"
    );
    let run = tally(&cluster, &["session", "list", "--owner", "10.0.0.0", "--json"]).await;
    let ids: Vec<_> = run.json()["sessions"].as_array().unwrap().to_vec();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0]["session_id"], 2);

    let run = tally(&cluster, &["session", "close", "1", "99", "--json"]).await;
    assert_eq!(
        (run.exit, &run.json()["closed"], &run.json()["not_open"]),
        (0, &1.into(), &1.into())
    );
    assert_eq!(left(), [2, 3, 4, 5, 6]);

    let all = ["session", "close", "--owner", "10.0.0.0"];
    let run = tally(&cluster, &all).await;
    assert_eq!((run.exit, left().len()), (2, 5), "not without --yes");
    assert!(run.stderr.contains("--yes"), "{}", run.stderr);
    let run = tally(&cluster, &[&all[..], &["--yes"]].concat()).await;
    assert_eq!((run.exit, run.stdout.as_str()), (0, "closed 3\n"));
    assert_eq!(left(), [3, 5]);

    for wrong in [
        &["session", "close"][..],
        &["session", "close", "3", "--owner", "10.0.0.1"],
        &["session", "close", "3", "--yes"],
    ] {
        assert_eq!(tally(&cluster, wrong).await.exit, 2, "{wrong:?}");
    }
    assert_eq!(left(), [3, 5]);
}

#[tokio::test]
async fn filling_ends_where_there_is_no_place() {
    let cluster = Cluster::start(1).await;
    cluster.model().sessions_full = true;
    let run = tally(&cluster, &["fill", "--sessions", "5", "--idempotency-keys", "1"]).await;
    assert_eq!(run.exit, 3, "{}", run.stderr);
    assert!(run.stdout.starts_with("idempotency_keys: 1 in"), "{}", run.stdout);
    assert!(run.stderr.contains("0 of 5 sessions were opened, then"), "{}", run.stderr);
    let run = tally(&cluster, &["fill", "--sessions", "5", "--json"]).await;
    assert_eq!((run.exit, &run.json()["error"]["reason"]), (3, &"SESSION_TABLE_FULL".into()));
}
