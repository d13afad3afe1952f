//! The ground: what gRPC alone and the disk alone take here and now. A figure of a cluster says
//! little without them, least of all on a machine that others use too.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    figures::{figures, number},
    run::run,
    servers::Servers,
    target::{OwnServer, Target},
};
use crate::{
    args::Time,
    bench::args::{Bench, TargetName, Way, Workload},
    interrupts::Interrupts,
    load::{Latencies, grouped, micros},
    output::{Failure, note},
};

/// How long each part of the baseline is measured, at most.
const DURATION: Duration = Duration::from_secs(3);
const WARMUP: Duration = Duration::from_millis(500);
/// What one durable append writes, at least: a block of the file system.
const APPEND_BYTES: usize = 4096;
/// How long appends are measured.
const APPENDS: Duration = Duration::from_secs(1);
/// A lone write waits for one fdatasync (those of leader and follower overlap) and for two round
/// trips: to the leader and from there to a follower.
const ROUND_TRIPS: f64 = 2.0;

/// Measures the unary echo for one caller, and the echo for as many callers as the bench has.
pub(super) async fn echo(bench: &Bench) -> Result<Map<String, Value>, Failure> {
    let mut result = Map::new();
    for (name, transport, clients) in [
        ("unary_alone", Way::Unary, 1),
        ("unary", Way::Unary, bench.clients),
        ("stream", Way::Stream, bench.clients),
    ] {
        note(&format!("baseline: gRPC alone, {name}, {clients} clients"));
        let server = OwnServer::start(bench.value_size).await?;
        let echo = Bench {
            workload: Workload::Get,
            target: TargetName::Echo,
            transport,
            clients,
            depth: if transport == Way::Stream { bench.depth } else { 1 },
            rate: None,
            duration: Time(bench.duration.0.min(DURATION)),
            warmup: Time(bench.warmup.0.min(WARMUP)),
            ..bench.clone()
        };
        let target = Target::echo(&server.address, &echo)?;
        // Who cuts it short drops all of this.
        let never = Interrupts::never();
        let measured = run(&target, &echo, Servers::of(&[server.pid])?, &never).await?;
        let Some(measured) = measured else { continue };
        let figures = figures(&measured);
        let kept = ["clients", "depth", "ops_per_second", "p50_us", "p99_us", "errors"];
        let kept = kept.into_iter().chain(["server_cpu_us_per_op", "client_cpu_us_per_op"]);
        let kept = kept.filter_map(|name| Some((name.to_owned(), figures.get(name)?.clone())));
        result.insert(name.to_owned(), Value::Object(kept.collect()));
    }
    Ok(result)
}

/// Appends blocks to a file, each with its fdatasync, and removes the file.
pub(super) async fn fsync(directory: &Path) -> Result<Map<String, Value>, Failure> {
    note(&format!("baseline: append and fdatasync in {}", directory.display()));
    let path = directory.join(format!("tally-bench-fsync-{}", std::process::id()));
    let file = OpenOptions::new().create_new(true).write(true).open(&path);
    let file = file
        .map_err(|error| Failure::usage(format!("--fsync-dir {}: {error}", directory.display())))?;
    // Also if somebody cuts it short.
    let _removed = Removed(path);
    let measured = tokio::task::spawn_blocking(move || append(file)).await;
    let latencies = measured.map_err(|error| Failure::unable(error.to_string()))??;
    let mut result = Map::new();
    result.insert("append_bytes".to_owned(), json!(APPEND_BYTES));
    result.insert("appends".to_owned(), json!(latencies.count()));
    result.extend(latencies.figures());
    Ok(result)
}

/// A file that is removed when this is dropped.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn append(mut file: File) -> io::Result<Latencies> {
    let mut latencies = Latencies::default();
    let block = [7; APPEND_BYTES];
    let began = Instant::now();
    while began.elapsed() < APPENDS {
        let append = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latencies.record(append.elapsed());
    }
    Ok(latencies)
}

/// How the result compares with the ground, as far as that was measured.
pub(super) fn ratios(
    bench: &Bench,
    result: &Map<String, Value>,
    echo: Option<&Map<String, Value>>,
    fsync: Option<&Map<String, Value>>,
) -> Map<String, Value> {
    let of = |part: &str, name: &str| number(echo?.get(part)?.as_object()?, name);
    let ours = |name: &str| number(result, name);
    let mut ratios = Map::new();
    let mut put = |name: &str, ratio: Option<f64>| {
        if let Some(ratio) = ratio.filter(|ratio| ratio.is_finite()) {
            ratios.insert(name.to_owned(), json!((ratio * 1000.0).round() / 1000.0));
        }
    };
    let over = |floor: Option<f64>, rate: Option<f64>| Some(floor? / rate?);
    put("unary_floor_to_this", over(of("unary", "ops_per_second"), ours("ops_per_second")));
    put("stream_floor_to_this", over(of("stream", "ops_per_second"), ours("ops_per_second")));
    let is_write = !matches!(bench.workload, Workload::Get | Workload::Mixed);
    if bench.clients == 1 && bench.depth == 1 && bench.rate.is_none() && is_write {
        let sync = fsync.and_then(|fsync| number(fsync, "p50_us"));
        let trip = of("unary_alone", "p50_us");
        let least = sync.zip(trip).map(|(sync, trip)| sync + ROUND_TRIPS * trip);
        put("lone_write_to_floor", over(ours("p50_us"), least));
    }
    ratios
}

/// What the baseline adds to the text.
pub(super) fn show(result: &Map<String, Value>) -> String {
    let mut text = String::new();
    if let Some(echo) = result.get("baseline").and_then(Value::as_object) {
        for (name, figures) in echo.iter().filter_map(|(name, it)| Some((name, it.as_object()?))) {
            let figure = |name: &str| number(figures, name).unwrap_or_default() as u64;
            text += &format!(
                "\ngRPC alone, {name}  {} clients  {} operations/s  p50 {}",
                figure("clients"),
                grouped(figure("ops_per_second")),
                micros(figure("p50_us")),
            );
        }
    }
    if let Some(fsync) = result.get("fsync").and_then(Value::as_object) {
        let figure = |name: &str| micros(number(fsync, name).unwrap_or_default() as u64);
        text += &format!(
            "\nappend of {APPEND_BYTES} bytes and fdatasync  p50 {}  p99 {}",
            figure("p50_us"),
            figure("p99_us")
        );
    }
    for (name, meaning) in [
        ("unary_floor_to_this", "gRPC's unary rate is {} x this"),
        ("stream_floor_to_this", "gRPC's rate over streams is {} x this"),
        ("lone_write_to_floor", "a lone write takes {} x (one fdatasync + two round trips)"),
    ] {
        let ratios = result.get("ratios").and_then(Value::as_object);
        if let Some(ratio) = ratios.and_then(|ratios| number(ratios, name)) {
            text += &format!("\n{}", meaning.replace("{}", &format!("{ratio:.2}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[tokio::test]
    async fn appends_are_measured_and_leave_nothing() {
        let directory = std::env::temp_dir().join(format!("tally-fsync-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let result = fsync(&directory).await.unwrap();
        assert!(number(&result, "appends").unwrap() > 0.0);
        // Empty, or it could not be removed.
        std::fs::remove_dir(&directory).unwrap();
        assert!(fsync(&directory).await.is_err());
    }

    #[test]
    fn a_lone_write_is_compared_with_what_it_waits_for() {
        let echo = object(json!({
            "unary_alone": { "p50_us": 150 },
            "unary": { "ops_per_second": 40_000.0 },
        }));
        let fsync = object(json!({ "p50_us": 200 }));
        let result = object(json!({ "p50_us": 250, "ops_per_second": 1000.0 }));
        let mut bench = crate::bench::tests::bench(&["add-hot", "--clients", "1"]);
        let ratios_of = |bench: &Bench| ratios(bench, &result, Some(&echo), Some(&fsync));
        assert_eq!(ratios_of(&bench)["unary_floor_to_this"], 40.0);
        // What the echo took is above, so a ratio above 1 is a lower rate or a longer wait.
        assert_eq!(ratios_of(&bench)["lone_write_to_floor"], 0.5);
        bench.clients = 2;
        assert!(!ratios_of(&bench).contains_key("lone_write_to_floor"));
        assert!(ratios(&bench, &result, None, None).is_empty());
    }
}
