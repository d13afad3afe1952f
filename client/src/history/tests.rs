use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use tally_proto::reason;

use super::*;
use crate::{
    Applied, Batch, Code, CounterChange, CounterValue, Error, Header, OperationResult,
    counter::Expect,
};

fn ticking() -> impl Fn() -> u64 {
    let now = AtomicU64::new(0);
    move || now.fetch_add(10, Ordering::Relaxed)
}

fn header(revision: u64) -> Header {
    Header {
        consistency: Consistency::Linearizable,
        cluster_id: "c".into(),
        node_id: 2,
        term: 3,
        applied_index: 90,
        revision,
        ..Header::default()
    }
}

#[test]
fn nothing_expected_is_not_absence_expected() {
    let line = |part: Part| serde_json::to_string(&Record::new(1, part, 0)).unwrap();
    assert!(line(Part::put("k", "v").if_absent()).contains(r#""expect":null"#));
    assert!(!line(Part::put("k", "v").if_version(3)).contains(r#""expect":"#));
    for part in [
        Part::put("k", "v").if_absent(),
        Part::put("k", &b"\xff"[..]).if_version(3),
        Part::delete("k").if_present(),
        Part::cas_counter("c", Expect::Absent, -1),
        Part::cas_counter("c", Expect::Value(i64::MIN), i64::MAX),
        Part::incr("c", -5).floor(0).ceiling(9).saturate().must_exist(),
        Part::configure("c").floor(-1),
    ] {
        let text = line(part.clone());
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap().part, part, "{text}");
    }
}

#[test]
fn an_answered_write() {
    let recorder = Recorder::in_memory(ticking());
    let pending = recorder.begin(7, Request::from(Part::incr("hits", 1)).idem("i"));
    let change = CounterChange {
        value_before: 4,
        value: 5,
        delta_requested: 1,
        delta_applied: 1,
        revision: 42,
        existed: true,
        header: header(42),
        ..CounterChange::default()
    };
    pending.finish(&Ok(change));
    let text = serde_json::to_string(&recorder.records()[0]).unwrap();
    assert_eq!(
        text,
        r#"{"client":7,"op":"incr","key":"hits","delta":1,"result":{"value":5,"version":42,"#
            .to_owned()
            + r#""before":4,"applied_delta":1,"existed":true,"floor":null,"ceiling":null},"#
            + r#""idem":"i","call":0,"ret":10,"status":"ok","replayed":false,"#
            + r#""consistency":"linearizable","node":2,"term":3,"applied":90,"revision":42}"#
    );
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), recorder.records()[0]);
}

#[test]
fn an_atomic_step_and_a_batch_tell_each_part() {
    let recorder = Recorder::in_memory(ticking());
    let value = |name: &str, value| CounterValue {
        name: name.into(),
        value,
        modified_revision: 3,
        ..CounterValue::default()
    };
    let pending = recorder.begin(1, Request::batch_get(["a", "b", "c"]));
    let missing = vec!["b".to_owned()];
    pending.finish(&Ok(Batch { items: vec![value("a", 5)], missing, header: header(8) }));

    let step = Request::apply([Part::get("a"), Part::get("b")])
        .when(Condition::value(Kind::Counter, "a", Compare::Less, 0))
        .otherwise(Part::get("a"));
    let pending = recorder.begin(1, step);
    pending.finish(&Ok(Applied {
        branch: Branch::Else,
        results: vec![OperationResult::Counter(value("a", 6))],
        revision: 9,
        write: Default::default(),
        header: header(9),
    }));

    let records = recorder.records();
    let told = |part: &Part| part.result.clone().and_then(|result| result.value);
    let batch: Vec<_> = records[0].ops.iter().map(told).collect();
    // What the answer leaves out is not told, which a checker takes for a fault.
    assert_eq!(batch, [Some(Some(5.into())), Some(None), None]);
    assert_eq!(records[1].branch, Some(Branch::Else));
    assert_eq!(records[1].ops.iter().filter_map(told).count(), 0);
    assert_eq!(told(&records[1].else_ops[0]), Some(Some(6.into())));
    let text = serde_json::to_string(&records[1]).unwrap();
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), records[1]);
}

#[test]
fn errors_end_as_fail_unknown_or_absent() {
    let recorder = Recorder::in_memory(ticking());
    let failed = |outcome| Error::after(None, outcome, 1, None);
    let told = |part: Part, error| {
        recorder.begin(1, part).finish::<CounterValue>(&Err(error));
        recorder.records().pop().unwrap()
    };
    let unknown = told(Part::incr("c", 1), failed(Some(crate::Outcome::Unknown)));
    assert_eq!((unknown.status, unknown.ret), (Status::Unknown, None));
    let refused = told(Part::incr("c", 1), failed(Some(crate::Outcome::NotApplied)));
    assert_eq!((refused.status, refused.ret.is_some()), (Status::Fail, true));
    assert_eq!(told(Part::get("c"), failed(None)).status, Status::Fail);

    let missing = |part| told(part, Error::local(Code::NotFound, reason::COUNTER_NOT_FOUND, ""));
    let read = missing(Part::get("c"));
    assert_eq!((read.status, read.part.result.unwrap().value), (Status::Ok, Some(None)));
    assert_eq!(missing(Part::incr("c", 1).must_exist()).status, Status::Fail);
}

#[test]
fn what_is_dropped_is_unknown_and_a_dropped_read_failed() {
    let recorder = Recorder::in_memory(ticking());
    drop(recorder.begin(1, Part::incr("c", 1)));
    drop(recorder.begin(1, Part::get("c")));
    let ended: Vec<_> =
        recorder.records().iter().map(|record| (record.status, record.ret)).collect();
    assert_eq!(ended, [(Status::Unknown, None), (Status::Fail, None)]);
}

#[derive(Clone, Default)]
struct Full(Arc<Mutex<Vec<u8>>>);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = self.0.lock().unwrap();
        if written.len() > 100 {
            return Err(io::Error::other("full"));
        }
        written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_each_and_the_first_error_is_kept() {
    let full = Full::default();
    let recorder = Recorder::to_writer(ticking(), full.clone());
    drop(
        recorder.begin(1, Part::put("k", "a value that fills a line well above its hundred bytes")),
    );
    recorder.close().unwrap();
    drop(recorder.begin(1, Part::incr("c", 1)));
    assert_eq!(recorder.close().unwrap_err().to_string(), "full");
    let written = String::from_utf8(full.0.lock().unwrap().clone()).unwrap();
    assert_eq!(written.lines().count(), 1);
    serde_json::from_str::<Record>(&written).unwrap();
}
