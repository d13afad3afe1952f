//! `tally bench`, `fill` and `demo`: what they print, and what they leave behind.

use serde_json::Value;
use tally_client::proto as v1;
use tonic::Code;

use crate::{
    fake::{Act, Cluster},
    model::refusal,
    runs::{Run, cut_short, cut_short_again, line, tally},
};

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
    let arguments = "bench add-hot --rate 400 --duration 500ms --warmup 100ms --json --keep";
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
    let arguments = ["fill", "--idempotency-keys", "50", "--sessions", "3", "--json", "--keep"];
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
async fn an_open_loop_can_be_judged() {
    let cluster = Cluster::start(1).await;
    let file = std::env::temp_dir().join(format!("tally-open-{}.jsonl", std::process::id()));
    let arguments =
        "bench add-spread --rate 200 --clients 4 --duration 300ms --warmup 0ms --json --keep";
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

/// What is left in a cluster.
fn left(cluster: &Cluster) -> Vec<String> {
    let model = cluster.model();
    let names = model.counters.keys().chain(model.keys.keys()).cloned();
    names.chain(model.sessions.keys().map(|id| format!("session {id}"))).collect()
}

fn assert_empty(cluster: &Cluster) {
    assert_eq!(left(cluster), [""; 0]);
}

const SHORT: &str = "--duration 200ms --warmup 0ms --clients 4 --spread 300";

#[tokio::test]
async fn a_bench_removes_what_it_made_and_nothing_else() {
    let cluster = Cluster::start(1).await;
    for workload in ["add-hot", "add-spread", "put", "get", "mixed", "apply-transfer"] {
        let run = line(&cluster, &format!("bench {workload} {SHORT}")).await;
        assert_eq!(run.exit, 0, "{workload}: {}", run.stderr);
        assert!(run.stderr.contains("-- removed "), "{workload}: {}", run.stderr);
        assert_eq!(left(&cluster), [""; 0], "{workload}");
    }
    // Names that are no bench's, and those of another workload.
    for name in ["bench/hotel", "bench/c/00000001", "bench"] {
        cluster.model().counters.insert(name.into(), 7);
    }
    line(&cluster, &format!("bench add-hot {SHORT}")).await;
    line(&cluster, &format!("bench put {SHORT}")).await;
    let left: Vec<String> = cluster.model().counters.keys().cloned().collect();
    assert_eq!(left, ["bench", "bench/c/00000001", "bench/hotel"]);
    assert!(cluster.model().keys.is_empty());
}

#[tokio::test]
async fn what_was_there_before_stays_and_so_does_what_is_to_be_kept() {
    let cluster = Cluster::start(1).await;
    cluster.model().counters.insert("bench/c/00000007".into(), 7);
    let run = line(&cluster, &format!("bench add-spread {SHORT}")).await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.stderr.contains("stays: bench/c/\n"), "{}", run.stderr);
    assert!(!run.stderr.contains("delete"), "it would take what was there before: {}", run.stderr);
    assert!(cluster.value("bench/c/00000007") >= 7);
    for kept in ["--keep", "--no-prepare"] {
        let run = line(&cluster, &format!("bench add-hot {SHORT} {kept}")).await;
        assert!(!run.stderr.contains("-- "), "{kept}: {}", run.stderr);
        assert!(cluster.value("bench/hot") > 0);
        cluster.model().counters.remove("bench/hot");
    }
}

#[tokio::test]
async fn a_clean_up_that_can_not_be_done_says_what_is_left() {
    let cluster = Cluster::start(1).await;
    // The list that looks for what was there before is answered, and the one that finds what to remove is not.
    let bench = format!("bench put {SHORT}");
    let arguments: Vec<_> = bench.split(' ').collect();
    let running = tally(&cluster, &arguments);
    let refusing = async {
        cluster.has_seen(1).await;
        let refusal = refusal(Code::InvalidArgument, "broken", v1::Outcome::Unspecified, false);
        // The end of the session, and the look for what is to be removed.
        let refusals = [refusal.clone(), refusal];
        cluster.nodes[0].refuses_reads.lock().unwrap().extend(refusals);
    };
    let (run, ()) = tokio::join!(running, refusing);
    assert_eq!(run.exit, 0, "what was measured is printed: {}", run.stderr);
    assert!(run.stdout.contains("operations/s"), "{}", run.stdout);
    let left = "not all that it made was removed (broken); to remove it:\n   tally kv delete --prefix bench/k/\n";
    assert!(run.stderr.contains(left), "{}", run.stderr);
    assert!(!cluster.model().keys.is_empty());
}

fn is_cut_short(run: &Run) {
    assert_eq!(run.exit, 130, "{}", run.stderr);
    assert!(run.stdout.contains("cut short"), "{}{}", run.stdout, run.stderr);
}

#[tokio::test]
async fn cut_short_a_bench_prints_what_was_measured_and_cleans_up() {
    let cluster = Cluster::start(1).await;
    let many = async || cluster.has_seen(1000).await;
    let closed = ["bench", "add-spread", "--duration", "1h", "--warmup", "0s"];
    let run = cut_short(&cluster, &closed, many).await;
    is_cut_short(&run);
    assert!(run.stdout.contains(" s of 3600.0 s\n"), "{}", run.stdout);
    assert_empty(&cluster);

    let before = cluster.writes();
    let some = async || cluster.has_seen(before + 100).await;
    let open = ["bench", "put", "--duration", "1h", "--rate", "500", "--warmup", "0s", "--json"];
    let run = cut_short(&cluster, &open, some).await;
    assert_eq!((run.exit, &run.json()["cut_short"]), (130, &true.into()), "{}", run.stderr);
    assert!(run.json()["operations"].as_u64().unwrap() > 0, "{}", run.stdout);
    assert_empty(&cluster);

    // Before anything was measured there is nothing to print.
    let before = cluster.writes();
    let some = async || cluster.has_seen(before + 100).await;
    let run = cut_short(&cluster, &["bench", "add-hot", "--warmup", "1h"], some).await;
    assert_eq!((run.exit, run.stdout.as_str()), (130, ""));
    assert!(run.stderr.contains("cut short before anything was measured"), "{}", run.stderr);
    assert_empty(&cluster);
}

#[tokio::test]
async fn filling_removes_what_it_made_and_keeps_what_a_bench_is_to_find() {
    let cluster = Cluster::start(1).await;
    let run =
        line(&cluster, "fill --counters 300 --keys 20 --idempotency-keys 5 --sessions 3").await;
    assert_eq!(run.exit, 0, "{}", run.stderr);
    assert!(run.stderr.contains("removed 301 counters and 20 keys"), "{}", run.stderr);
    assert_empty(&cluster);
    line(&cluster, "fill --counters 10 --for-bench").await;
    assert_eq!(cluster.model().counters.len(), 10);
    cluster.model().counters.clear();

    // Calls that get no answer do not keep it.
    cluster.script(0, [Act::Answer, Act::Answer, Act::Silence]);
    let before = cluster.writes();
    let three = async || cluster.has_seen(before + 3).await;
    let run = cut_short(&cluster, &["fill", "--counters", "384"], three).await;
    is_cut_short(&run);
    assert_empty(&cluster);
}

#[tokio::test]
async fn a_node_that_ends_is_a_gap_and_throws_nothing_away() {
    let cluster = Cluster::start(1).await;
    let mut node = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid = node.id();
    let arguments = format!("bench add-hot --duration 1500ms --warmup 0s --pids {pid} --json");
    let (run, ()) = tokio::join!(line(&cluster, &arguments), async {
        cluster.has_seen(100).await;
        node.kill().unwrap();
        node.wait().unwrap();
    });
    let result = run.json();
    assert_eq!((run.exit, &result["server_gaps"][0]["pid"]), (0, &pid.into()), "{result}");
    assert!(result["operations"].as_u64().unwrap() > 0, "{result}");
    // One that was never there is a mistake, found before anything is done.
    let writes = cluster.writes();
    let run = line(&cluster, &arguments).await;
    assert_eq!((run.exit, cluster.writes()), (2, writes), "{}", run.stdout);
    let run = line(&cluster, &arguments.replace(" --json", "")).await;
    assert!(run.stderr.contains("--pids"), "{}", run.stderr);
}

#[tokio::test]
async fn who_does_not_want_to_wait_for_the_clean_up_is_told_what_is_left() {
    let cluster = Cluster::start(1).await;
    // Some are answered, and then nothing is: neither adds nor deletes.
    let acts = (0..100).map(|_| Act::Answer).chain((0..1000).map(|_| Act::Silence));
    cluster.script(0, acts);
    let bench = ["bench", "add-spread", "--duration", "1h", "--warmup", "0s", "--clients", "4"];
    let run = cut_short_again(&cluster, &bench, async || cluster.has_seen(104).await, 3).await;
    is_cut_short(&run);
    let left = "to remove it:\n   tally counter delete --prefix bench/c/\n";
    assert!(run.stderr.contains(left), "{}", run.stderr);
}
