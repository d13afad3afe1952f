//! What is printed, where, and in which form.

use tally_client::proto as v1;
use tally_proto::{status::StatusBuilder, v1::answer::Response};
use tonic::Code;

use crate::{
    fake::{Act, Cluster, eventually},
    runs::{ended_by_signal, line, on_terminal, run, tally},
};

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
async fn completions_are_made_for_shells() {
    let cluster = Cluster::start(1).await;
    for shell in ["bash", "zsh", "fish"] {
        let run = tally(&cluster, &["completions", shell]).await;
        assert!(run.exit == 0 && run.stdout.contains("idempotency-key"), "{shell}");
    }
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
async fn integers_are_numbers_or_strings_wherever_json_is_asked_for() {
    let cluster = Cluster::start(1).await;
    let big = "9007199254740993";
    tally(&cluster, &["counter", "add", "big", big]).await;
    for arguments in [
        &["--json=strings", "counter", "get", "big"][..],
        &["counter", "--json=strings", "get", "big"],
        &["counter", "get", "--json=strings", "big"],
        &["counter", "get", "big", "--json=strings"],
    ] {
        let run = tally(&cluster, arguments).await;
        let counter = run.json();
        assert_eq!((run.exit, &counter["value"]), (0, &big.into()), "{arguments:?}");
        assert!(counter["header"]["node_id"].is_string(), "{counter}");
    }
    for arguments in [
        &["--json", "counter", "get", "big"][..],
        &["counter", "--json", "get", "big"],
        &["counter", "get", "--json", "big"],
        &["counter", "get", "big", "--json=numbers"],
    ] {
        let run = tally(&cluster, arguments).await;
        assert_eq!(run.json()["value"].as_i64().map(|it| it.to_string()), Some(big.to_owned()));
    }
    // Errors, lists and figures, too; fractions stay numbers.
    let run = line(&cluster, "counter get none --json=strings").await;
    assert_eq!((run.exit, &run.json()["error"]["attempts"]), (9, &"1".into()));
    let run = line(&cluster, "counter list --all --json=strings").await;
    assert_eq!(
        (&run.json()["items"][0]["value"], &run.json()["all"]["items"]),
        (&big.into(), &"1".into())
    );
    let run = line(&cluster, "bench add-hot --duration 50ms --warmup 0s --json=strings").await;
    assert!(
        run.json()["operations"].is_string() && run.json()["duration_s"].is_number(),
        "{}",
        run.stdout
    );
    // What is no such form is told in JSON, as JSON was meant.
    let run = line(&cluster, "counter get big --json=text").await;
    assert_eq!((run.exit, &run.json()["error"]["reason"]), (2, &"USAGE".into()));
}

#[tokio::test]
async fn watching_moves_a_cursor_on_a_terminal_only() {
    let cluster = Cluster::start(1).await;
    for json in [&[][..], &["--json"]] {
        let watch = [&["status", "--watch", "50ms"][..], json].concat();
        let looked = async || {
            let statuses = cluster.nodes[0].seen.lock().unwrap().statuses;
            let seen = || cluster.nodes[0].seen.lock().unwrap().statuses >= statuses + 4;
            eventually("it looked again", seen).await;
        };
        let run = ended_by_signal(&cluster, &watch, looked).await;
        assert!(run.lines().count() > 1 && !run.contains('\u{1b}'), "{run:?}");
    }
}

#[tokio::test]
async fn who_waits_at_a_terminal_is_told_what_for() {
    let cluster = Cluster::start(1).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap().to_string();
    drop(listener);
    for command in ["counter get hits", "bench add-hot", "fill --counters 1", "demo"] {
        let arguments: Vec<_> = command.split(' ').chain(["--endpoints", &nobody]).collect();
        let (shown, exit) = on_terminal(&cluster, &arguments).await;
        assert_eq!(exit, 4, "{command}: {shown}");
        let told = format!(
            "no answer from {nobody} (Connection refused (os error 111)) yet; still trying for 9 s"
        );
        for told in [&told[..], &format!("nothing listens at {nobody}"), "tallyd dev"] {
            assert!(shown.contains(told), "{command}: {shown}");
        }
    }
    // A program is told at the end.
    let run =
        tally(&cluster, &["bench", "add-hot", "--deadline", "5m", "--endpoints", &nobody]).await;
    assert!(!run.stderr.contains("still trying"), "{}", run.stderr);
    assert!(run.stderr.contains("nothing listens at"), "{}", run.stderr);
    assert_eq!(run.exit, 4);
}
