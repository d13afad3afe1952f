use std::sync::Mutex;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::*;

/// A sink in memory that can be out of order.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    error: Option<io::ErrorKind>,
    syncs: usize,
}

impl Sink for Memory {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock().unwrap();
        if let Some(error) = state.error {
            return Err(error.into());
        }
        // One at a time, which is the least that it must take.
        let line = lines.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        state.text.extend_from_slice(&lines[..line]);
        Ok(line)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.lock().unwrap().syncs += 1;
        Ok(())
    }
}

impl Memory {
    fn break_with(&self, error: Option<io::ErrorKind>) {
        self.0.lock().unwrap().error = error;
    }

    fn lines(&self) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let text = std::str::from_utf8(&state.text).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["kind"].as_str().unwrap().to_owned()).collect()
    }
}

struct Tasks;

impl Threads for Tasks {
    fn run_blocking(&self, _: &str, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }

    fn process_id(&self) -> u32 {
        0
    }
}

struct Fixed;

impl Clock for Fixed {
    fn boot_ms(&self) -> u64 {
        0
    }

    fn wall_ms(&self) -> u64 {
        1_795_920_351_007
    }
}

fn log(bytes_max: usize, must_not_drop: bool) -> (Arc<AuditLog>, Memory) {
    let settings =
        Settings { file: PathBuf::new(), file_bytes: 0, files: 0, reads: false, must_not_drop };
    let sink = Memory::default();
    let log =
        AuditLog::over(Box::new(sink.clone()), bytes_max, &settings, 7, Arc::new(Fixed), &Tasks);
    (log, sink)
}

/// Time for the writer, also to try again.
async fn a_while() {
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
}

fn until() -> Instant {
    Instant::now() + std::time::Duration::from_secs(5)
}

#[tokio::test(start_paused = true)]
async fn lines_come_in_their_order_and_a_stop_brings_all_of_them() {
    let (log, sink) = log(1 << 20, false);
    for number in 0..100 {
        let mut line = log.line("request");
        line.reserve().unwrap();
        line.number("number", number);
        line.word("name", "a\n{\"v\":1}");
        let mut list = line.list("operations");
        for op in ["set", "get"] {
            list.item();
            list.word("op", op);
            list.number("at", 1);
        }
        drop(list);
        drop(line.list("none"));
        assert!(line.write());
    }
    log.close(until()).await;
    let lines = sink.lines();
    assert_eq!(lines.len(), 102, "a start, a stop, and what is between");
    assert_eq!((&lines[0]["kind"], &lines[101]["kind"]), (&"start".into(), &"stop".into()));
    for (number, line) in lines[1..101].iter().enumerate() {
        assert_eq!(line["number"], number);
        assert_eq!(line["name"], "a\n{\"v\":1}");
        assert_eq!(line["operations"][1]["op"], "get");
        assert_eq!(line["none"], Value::Array(Vec::new()));
        assert_eq!((&line["v"], &line["node"]), (&SCHEMA_VERSION.into(), &7.into()));
        assert_eq!(line["time"], "2026-11-29T02:45:51.007Z");
    }
    let counts = log.counts();
    assert_eq!((counts.written_lines, counts.dropped_lines, counts.queued_bytes), (102, 0, 0));
    assert_eq!(counts.written_bytes, sink.0.lock().unwrap().text.len() as u64);
    assert_eq!(sink.0.lock().unwrap().syncs, 1);
    assert!(!log.line("request").write(), "it has ended");
    assert_eq!(log.counts().dropped_lines, 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_dropped_is_counted_and_told_and_what_had_a_place_never_is() {
    let (log, sink) = log(4096, false);
    a_while().await;
    sink.break_with(Some(io::ErrorKind::StorageFull));
    let mut admitted = log.line("admitted");
    admitted.reserve().unwrap();
    let mut others = 0;
    while log.line("other").write() {
        others += 1;
        assert!(others < 1000, "the queue has no end");
    }
    assert!(!log.line("other").write());
    let mut late = log.line("late");
    assert_eq!(late.reserve(), Ok(()), "where lines may be dropped, nothing is refused");
    assert!(!late.write());
    // Longer than what was held for it, and in all the same.
    admitted.word("long", &"x".repeat(500));
    admitted.word("longer", &"x".repeat(500));
    assert!(admitted.write());
    a_while().await;
    assert_eq!(log.counts().dropped_lines, 3);
    assert!(!log.counts().error.is_empty());

    sink.break_with(None);
    a_while().await;
    assert_eq!(log.counts().error, "");
    let kinds = sink.kinds();
    assert_eq!(kinds.iter().filter(|kind| *kind == "other").count(), others);
    assert_eq!(kinds.iter().filter(|kind| *kind == "admitted").count(), 1);
    let lines = sink.lines();
    let dropped: Vec<_> = lines.iter().filter(|line| line["kind"] == "dropped").collect();
    assert_eq!(dropped.len(), 1);
    assert_eq!((&dropped[0]["dropped"], &dropped[0]["requests_refused"]), (&3.into(), &0.into()));
    assert!(log.line("again").write());
    log.close(until()).await;
    assert_eq!(log.counts().queued_bytes, 0);
    assert_eq!(sink.kinds().iter().filter(|kind| *kind == "dropped").count(), 1, "told once");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_must_not_drop_gives_no_place_while_it_can_t_be_written() {
    let (log, sink) = log(1 << 20, true);
    a_while().await;
    assert_eq!(log.line("request").reserve(), Ok(()));
    assert_eq!(log.counts().queued_bytes, 0, "a line that is given up gives its place back");
    sink.break_with(Some(io::ErrorKind::PermissionDenied));
    let mut admitted = log.line("admitted");
    admitted.reserve().unwrap();
    assert!(log.line("seen by the writer").write());
    a_while().await;
    assert_eq!(log.line("request").reserve(), Err(NoPlace));
    assert_eq!(log.line("stream").reserve_in_queue(), Ok(()), "it may wait");
    log.refused_request();
    assert!(admitted.write(), "it was let in before");
    a_while().await;
    sink.break_with(None);
    a_while().await;
    assert_eq!(log.line("request").reserve(), Ok(()));
    assert_eq!(sink.kinds(), ["start", "seen by the writer", "dropped", "admitted"]);
    let told = &sink.lines()[2];
    assert_eq!((&told["dropped"], &told["requests_refused"]), (&0.into(), &1.into()));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_a_log_that_must_not_drop_gives_no_place() {
    let (log, sink) = log(4096, true);
    let mut held = Vec::new();
    loop {
        let mut line = log.line("request");
        match line.reserve() {
            Ok(()) => held.push(line),
            Err(NoPlace) => break,
        }
    }
    assert!((3..8).contains(&held.len()), "{}", held.len());
    let count = held.len();
    assert!(held.into_iter().all(Line::write));
    log.close(until()).await;
    assert_eq!(sink.kinds().iter().filter(|kind| *kind == "request").count(), count);
    assert_eq!(log.counts().dropped_lines, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_disk_that_never_comes_back() {
    let (log, sink) = log(1 << 20, false);
    a_while().await;
    sink.break_with(Some(io::ErrorKind::StorageFull));
    for _ in 0..5 {
        log.line("request").write();
    }
    let began = Instant::now();
    log.close(until()).await;
    assert!(began.elapsed() < std::time::Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(log.counts().dropped_lines, 6, "with the line of the stop");
    assert_eq!(sink.kinds(), ["start"]);
}
