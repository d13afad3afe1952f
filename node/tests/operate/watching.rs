//! Alert rules, the dashboard and the runbook belong together, and to what a node exports. What the rules say is
//! tested by promtool, and what the dashboard asks is asked of Prometheus, by `.ci/observability`.

use std::{collections::BTreeSet, path::Path};

use crate::{cluster::Cluster, metrics::get};

const ALERT: &str = "- alert: ";

/// What each section of the runbook says.
const SAYS: [&str; 5] = ["**Means**:", "**Users see**:", "**Look at**:", "**Do**:", "**Never**:"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of metrics in a text.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    let is_one = |word: &&str| ["tally_", "process_"].iter().any(|it| word.starts_with(it));
    // The crate, in filters of logs.
    words.filter(is_one).filter(|word| *word != "tally_node").collect()
}

#[test]
fn each_alert_has_its_section_and_its_tests() {
    let rules = read("deploy/prometheus/tally.rules.yml");
    let tests = read("deploy/prometheus/tally.rules.test.yml");
    let runbook = read("docs/runbook.md");
    let mut sections: BTreeSet<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut alerts = 0;
    for rule in rules.split(ALERT).skip(1) {
        let name = rule.lines().next().expect("a name").trim();
        alerts += 1;
        let link = format!("runbook: docs/runbook.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&link), "{name} has no {link}");
        assert!(rule.contains("severity: "), "{name} says not how much it matters");
        assert!(rule.contains("summary: "), "{name} says not what is so");
        assert!(
            sections.remove(name),
            "docs/runbook.md has no section {name}, or two rules share it"
        );
        let section = runbook.split(&format!("\n## {name}\n")).nth(1).expect("it is there");
        let section = section.split("\n## ").next().expect("it has a text");
        for said in SAYS {
            assert!(section.contains(said), "the section {name} has no {said}");
        }
        for what in ["fires", "is quiet"] {
            let test = tests.split(&format!("- name: {name} {what}\n")).nth(1);
            let test = test.unwrap_or_else(|| panic!("there is no test that {name} {what}"));
            let test = test.split("- name: ").next().expect("it has a text");
            assert!(
                test.contains(&format!("alertname: {name}\n")),
                "the test of {name} is another's"
            );
            assert_eq!(test.contains("exp_alerts: []"), what == "is quiet", "{name} {what}");
        }
    }
    assert!(alerts >= 20, "{alerts}");
    assert!(sections.is_empty(), "sections without an alert: {sections:?}");
}

#[tokio::test]
async fn what_rules_dashboard_and_runbook_name_is_exported() {
    let mut cluster =
        Cluster::prepare(1, |config| config.metrics_listen = "127.0.0.1:0".to_owned());
    cluster.start_all().await;
    let leader = cluster.leader().await;
    let address = cluster.node(leader).metrics_address().expect("it has a metrics port");
    let text = get(address, "/metrics", "").await.body;
    let mut exported = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        exported.insert(name.to_owned());
        if kind == "histogram" {
            exported.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")));
        }
    }
    let pages = [
        "deploy/prometheus/tally.rules.yml",
        "deploy/prometheus/tally.rules.test.yml",
        "deploy/grafana/tally.json",
        "docs/runbook.md",
        "docs/observability.md",
    ];
    for path in pages {
        let text = read(path);
        let unknown: Vec<&str> =
            metrics(&text).into_iter().filter(|name| !exported.contains(*name)).collect();
        assert!(unknown.is_empty(), "{path} names what no node exports: {unknown:?}");
    }
}
