//! The result: one JSON object, or a few lines for people.

use serde_json::{Map, Value, json};
use tally_client::ReadLevel;

use super::{run::Measured, workload::name};
use crate::{
    bench::args::{Bench, TargetName, Workload},
    load::{grouped, micros},
    status::bytes,
};

/// Three digits after the point are more than any of it is worth.
fn rounded(number: f64) -> Value {
    json!((number * 1000.0).round() / 1000.0)
}

/// What was asked for, and what came of it.
pub(super) fn figures(measured: &Measured) -> Map<String, Value> {
    let bench = &measured.shared.bench;
    let seconds = measured.elapsed.as_secs_f64();
    let rate = measured.operations as f64 / seconds;
    let mut result = described(bench);
    let mut put = |name: &str, value: Value| result.insert(name.to_owned(), value);
    put("duration_s", rounded(seconds));
    put("cut_short", json!(measured.cut_short));
    put("operations", json!(measured.operations));
    put("ops_per_second", json!((rate * 10.0).round() / 10.0));
    let each = |cpu: std::time::Duration| {
        rounded(cpu.as_secs_f64() * 1e6 / measured.operations.max(1) as f64)
    };
    if let Some(usage) = &measured.usage {
        put("server_cpu_s", json!(usage.cpu.as_secs_f64()));
        put("server_cpu_us_per_op", each(usage.cpu));
        put("server_rss_bytes", json!(usage.memory));
        put("server_rss_max_bytes", json!(usage.memory.iter().max()));
        put("server_gaps", json!(usage.gaps));
    }
    if let Some(cpu) = measured.client_cpu {
        put("client_cpu_us_per_op", each(cpu));
    }
    result.extend(measured.shared.recorder.figures());
    if bench.rate.is_some() {
        result.extend(measured.shared.recorder.open_figures());
    }
    result
}

fn described(bench: &Bench) -> Map<String, Value> {
    let mut result = Map::new();
    let mut put = |name: &str, value: Value| result.insert(name.to_owned(), value);
    put("target", json!(name(&bench.target)));
    put("workload", json!(name(&bench.workload)));
    if bench.target == TargetName::Tally {
        put("transport", json!(name(&bench.transport)));
    }
    put("clients", json!(bench.clients));
    if shares_connections(bench.target) {
        put("connections", json!(bench.connections));
    }
    match bench.rate {
        Some(rate) => {
            put("rate", json!(rate));
            put("in_flight_max", json!(bench.in_flight));
        }
        None => {
            put("depth", json!(bench.depth));
        }
    }
    if matches!(bench.workload, Workload::Get | Workload::Mixed)
        && let Some(read) = read(bench)
    {
        put("read", json!(read));
    }
    if bench.workload != Workload::AddHot {
        put("spread", json!(bench.spread));
    }
    put("value_size", json!(bench.value_size));
    put("duration_wanted_s", rounded(bench.duration.0.as_secs_f64()));
    result
}

/// Whether the callers share the connections that were asked for, as everywhere but with Redis.
fn shares_connections(target: TargetName) -> bool {
    match target {
        #[cfg(feature = "peers")]
        TargetName::Redis => false,
        _ => true,
    }
}

/// What reads promise, where it can be chosen: in the words of whom is asked.
fn read(bench: &Bench) -> Option<String> {
    match bench.target {
        TargetName::Tally => Some(level(&bench.read.read)),
        #[cfg(feature = "peers")]
        TargetName::Etcd if bench.read.read == ReadLevel::Linearizable => {
            Some("linearizable".to_owned())
        }
        #[cfg(feature = "peers")]
        TargetName::Etcd => Some("serializable".to_owned()),
        _ => None,
    }
}

/// A level as it is given on the command line.
fn level(level: &ReadLevel) -> String {
    match level {
        ReadLevel::Linearizable => "linearizable".to_owned(),
        ReadLevel::Bounded { max_staleness, .. } => {
            format!("bounded:{}ms", max_staleness.as_millis())
        }
        ReadLevel::Session(_) => "session".to_owned(),
        ReadLevel::Local => "local".to_owned(),
    }
}

/// A number of the result.
pub(super) fn number(result: &Map<String, Value>, name: &str) -> Option<f64> {
    result.get(name).and_then(Value::as_f64)
}

pub(super) fn show(result: &Map<String, Value>) -> String {
    let figure = |name: &str| number(result, name).unwrap_or_default();
    let time = |name: &str| micros(figure(name) as u64);
    let mut text = String::new();
    if result.get("cut_short") == Some(&Value::Bool(true)) {
        text += &format!(
            "cut short after {:.1} s of {:.1} s\n",
            figure("duration_s"),
            figure("duration_wanted_s")
        );
    }
    text += &format!(
        "{} operations/s\nlatency  p50 {}  p95 {}  p99 {}  p99.9 {}  max {}\nerrors   {}",
        grouped(figure("ops_per_second") as u64),
        time("p50_us"),
        time("p95_us"),
        time("p99_us"),
        time("p999_us"),
        time("max_us"),
        figure("errors"),
    );
    if let Some(reasons) = result["error_reasons"].as_object().filter(|all| !all.is_empty()) {
        text += &format!("  {}", Value::Object(reasons.clone()));
        text += &format!(
            "  told after p50 {}  p99 {}  max {}",
            time("error_p50_us"),
            time("error_p99_us"),
            time("error_max_us")
        );
    }
    if result.contains_key("rate") {
        text += &format!(
            "\nopen loop  {} operations/s wanted, {} started, {} not started; late by p50 {}  p99 \
             {}  max {}",
            grouped(figure("rate") as u64),
            grouped(figure("started") as u64),
            grouped(figure("not_started") as u64),
            time("late_p50_us"),
            time("late_p99_us"),
            time("late_max_us"),
        );
    }
    let mut each = Vec::new();
    for (who, name) in [("servers", "server_cpu_us_per_op"), ("client", "client_cpu_us_per_op")] {
        if result.contains_key(name) {
            each.push(format!("{who} {} µs", figure(name)));
        }
    }
    if !each.is_empty() {
        text += &format!("\nCPU per operation  {}", each.join("  "));
    }
    if let Some(memory) = result.get("server_rss_bytes").and_then(Value::as_array) {
        let memory = memory.iter().filter_map(Value::as_u64).map(bytes).collect::<Vec<_>>();
        text += &format!("\nserver memory  {}", memory.join("  "));
    }
    for gap in result.get("server_gaps").and_then(Value::as_array).into_iter().flatten() {
        text += &format!(
            "\nprocess {} ended, seen after {:.1} s: what it used until then, at most a second less, is in \
             these figures, and what runs in its place is not",
            gap["pid"],
            gap["seen_after_ms"].as_f64().unwrap_or_default() / 1000.0
        );
    }
    text
}
