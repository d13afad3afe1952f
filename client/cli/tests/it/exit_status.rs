//! With which status the binary exits, and what it says of an unknown outcome.

use std::time::Duration;

use serde_json::Value;
use tally_client::{proto as v1, reason};
use tally_proto::{status::StatusBuilder, v1::answer::Response};
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    model::refusal_for,
    runs::{into_full, tally, with_input},
};

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

/// It is looked at before the cluster is asked for anything.
#[tokio::test]
async fn a_backup_of_a_newer_release_is_refused_by_name() {
    let cluster = Cluster::start(1).await;
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let header = [&b"TALLYBAK"[..], &3_u32.to_le_bytes(), &0_u32.to_le_bytes()].concat();
    std::fs::write(file.path(), header).expect("it can be written");
    let path = file.path().to_str().expect("plain names");
    for arguments in
        [&["backup", "verify", path][..], &["backup", "inspect", path], &["restore", path]]
    {
        let run = tally(&cluster, arguments).await;
        let says = "format version 3, and this release reads up to 2: use a newer one";
        assert!(run.exit != 0 && run.stderr.contains(says), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(cluster.writes(), 0);
}

/// A node makes few backups at a time, and keeps a place for one that nobody fetches: none is asked for in vain.
#[tokio::test]
async fn a_backup_that_can_not_be_written_is_not_asked_for() {
    let cluster = Cluster::start(1).await;
    let run = tally(&cluster, &["backup", "/does/not/exist"]).await;
    assert_eq!(run.exit, 4, "{}", run.stderr);
    assert!(run.stderr.contains("/does/not/exist.partial: No such file"), "{}", run.stderr);
    let seen = cluster.nodes[0].seen.lock().unwrap();
    assert_eq!((seen.reads, seen.statuses), (0, 0));
}

/// And where no node makes one, nothing is left behind.
#[tokio::test]
async fn a_backup_that_is_refused_leaves_no_file() {
    let cluster = Cluster::start(1).await;
    let dir = tempfile::tempdir().expect("a directory can be made");
    let file = dir.path().join("b.backup");
    let denied = StatusBuilder::new(Code::PermissionDenied, reason::PERMISSION_DENIED, "no admin");
    cluster.nodes[0].refuses_reads.lock().unwrap().push_back(Response::Error(denied.build()));
    let run = tally(&cluster, &["backup", file.to_str().expect("plain names")]).await;
    assert!(run.exit == 3 && run.stderr.contains("no admin"), "{}", run.stderr);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it can be read").count(), 0);
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
pub(crate) fn not_applied_and_wait() -> Act {
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
    for (endpoint, why) in [
        ("8501", "it is a number"),
        ("localhost:http", "a port is a number"),
        ("https://", "host:port is"),
    ] {
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
    tally(&cluster, &["kv", "put", "k", "v"]).await;
    for (arguments, exit) in [
        (&["kv", "get", "k"][..], 0),
        (&["kv", "get", "missing"], 9),
        (&["kv", "get", "k", "missing"], 9),
        (&["kv", "get", "k", "k"], 0),
        (&["kv", "get", "k", "missing", "--json"], 9),
        (&["counter", "get", "hits", "missing", "--json"], 9),
    ] {
        assert_eq!(tally(&cluster, arguments).await.exit, exit, "{arguments:?}");
    }
    let run = tally(&cluster, &["kv", "get", "k", "missing"]).await;
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("k  v\nmissing  does not exist\n", ""));
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
async fn what_a_condition_met_is_said_once() {
    let cluster = Cluster::start(1).await;
    let stored = v1::ConditionFailure {
        exists: true,
        modified_revision: 7,
        value_size_bytes: 2,
        ..Default::default()
    };
    let refused = |message: &str| {
        let status = StatusBuilder::new(Code::Aborted, reason::CONDITION_FAILED, message);
        let outcome = v1::WriteOutcome {
            outcome: v1::Outcome::NotApplied as i32,
            decided_in_apply: true,
            ..Default::default()
        };
        Act::Refuse(Response::Error(status.detail(&stored).detail(&outcome).build()).into())
    };
    // As nodes say it, and as one might that says less.
    let node = "condition on key \"k\" failed: its value has 2 bytes, at revision 7";
    cluster.script(0, [refused(node), refused("a condition failed")]);
    let put = ["kv", "put", "k", "v", "--if-absent"];
    let run = tally(&cluster, &put).await;
    assert_eq!(run.exit, 3);
    assert_eq!(run.stderr, format!("tally: {node} (CONDITION_FAILED)\nIt was not applied.\n"));
    let run = tally(&cluster, &put).await;
    assert!(run.stderr.contains("\n  stored: 2 bytes, revision 7\n"), "{}", run.stderr);
}
