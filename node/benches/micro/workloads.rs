//! The workloads: fixed work over fixed data, the same in every run.

use std::{fmt, hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use tally_node::{
    machine::{
        apply, codec,
        command::{
            Action, Batch, Bounds, Command, CounterAdd, Fingerprint, KeyExpectation, KeyPut,
            OnViolation, Operation, SessionStamp, Settings,
        },
        memory::MemoryView,
        view::{Overlay, Writes},
    },
    storage::{
        simulated_disk::SimulatedDisk,
        wal::{Entry, LogId, Wal, WalOptions},
    },
};
use tally_proto::v1;
use tokio::sync::oneshot;

/// Work that is ready to be done once.
type Prepared = Box<dyn FnMut()>;

pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// Operations in one run of it.
    pub(crate) operations: u32,
    pub(crate) prepare: fn() -> Prepared,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Commands in one log entry, and calls in one pack: what gathers under load.
pub(crate) const COMMANDS: u64 = 64;
pub(crate) const ENTRIES: u64 = 64;
const OPERATIONS: u32 = (COMMANDS * ENTRIES) as u32;
/// Counters and keys that are there before.
const ITEMS: u64 = 10_000;
/// How many of them lie between two that are used one after the other.
const STRIDE: u64 = 7_919;
const VALUE: &[u8] = &[b'v'; 256];
/// Log entries that are synced together.
const APPEND_ENTRIES: u64 = 8;

pub(crate) const ALL: &[Workload] = &[
    Workload { name: "apply-add-hot", operations: OPERATIONS, prepare: || machine(hot) },
    Workload { name: "apply-add-spread", operations: OPERATIONS, prepare: || machine(spread) },
    Workload { name: "apply-put", operations: OPERATIONS, prepare: || machine(put) },
    Workload { name: "entry-encode", operations: OPERATIONS, prepare: encode_entry },
    Workload { name: "entry-decode", operations: OPERATIONS, prepare: decode_entry },
    Workload { name: "pack-encode", operations: OPERATIONS, prepare: encode_pack },
    Workload { name: "pack-decode", operations: OPERATIONS, prepare: decode_pack },
    Workload { name: "answers-encode", operations: OPERATIONS, prepare: encode_answers },
    // The simulated disk is part of it: it copies what it is given, as a kernel would.
    Workload { name: "log-append", operations: ENTRIES as u32, prepare: append },
];

fn add(name: String) -> Operation {
    Operation::CounterAdd(CounterAdd {
        name,
        delta: 1,
        bounds: Bounds::default(),
        on_violation: OnViolation::Reject,
        must_exist: false,
    })
}

fn hot(_: u64) -> Operation {
    add("bench/hot".to_owned())
}

pub(crate) fn spread(number: u64) -> Operation {
    add(format!("bench/c/{:08}", number * STRIDE % ITEMS))
}

pub(crate) fn put(number: u64) -> Operation {
    Operation::KeyPut(KeyPut {
        key: format!("bench/k/{:08}", number * STRIDE % ITEMS),
        value: Bytes::from_static(VALUE),
        expect: KeyExpectation::Any,
    })
}

/// A command as the api makes it, with a session's number.
fn command(session_id: u64, sequence: u64, operation: Operation) -> Command {
    let action = Action::Single(operation);
    let lowest_unanswered = sequence.saturating_sub(COMMANDS).max(1);
    Command {
        session: Some(SessionStamp { session_id, sequence, lowest_unanswered }),
        idempotency: None,
        fingerprint: Fingerprint::of(&action),
        action,
        caller: None,
    }
}

fn plain(action: Action) -> Command {
    Command {
        session: None,
        idempotency: None,
        fingerprint: Default::default(),
        action,
        caller: None,
    }
}

fn batch(log_time_ms: u64, commands: Vec<Command>) -> Batch {
    Batch { log_time_ms, wall_time_ms: log_time_ms, commands }
}

fn run(state: &mut MemoryView, index: u64, batch: &Batch) {
    let mut writes = Writes::default();
    let replies = apply(&mut Overlay::new(state, &mut writes), index, batch);
    assert_eq!(replies.len(), batch.commands.len(), "every command has its reply");
    state.commit(writes);
    black_box(replies);
}

/// The index of the entry that opens the session, which is the session's id.
const SESSION: u64 = 2;

/// A state with a session and `ITEMS` counters and keys.
fn state() -> MemoryView {
    let mut state = MemoryView::default();
    let settings = Settings {
        sessions_max: 100_000,
        session_idle_ms: 3_600_000,
        idempotency_window_ms: 86_400_000,
        idempotency_bytes_max: 1 << 30,
    };
    let create = Action::CreateCluster { cluster_id: 7, settings };
    run(&mut state, 1, &batch(1, vec![plain(create)]));
    run(&mut state, SESSION, &batch(1, vec![plain(Action::OpenSession { idle_timeout_ms: 0 })]));
    let items = 0..ITEMS;
    let fill = items
        .flat_map(|item| [plain(Action::Single(spread(item))), plain(Action::Single(put(item)))]);
    run(&mut state, SESSION + 1, &batch(1, fill.collect()));
    state
}

pub(crate) fn batches(operation: fn(u64) -> Operation) -> Vec<Batch> {
    let numbers = |entry: u64| entry * COMMANDS..(entry + 1) * COMMANDS;
    let of = |number: u64| command(SESSION, number + 1, operation(number));
    (0..ENTRIES).map(|entry| batch(2 + entry, numbers(entry).map(of).collect())).collect()
}

fn machine(operation: fn(u64) -> Operation) -> Prepared {
    let (mut state, batches) = (state(), batches(operation));
    Box::new(move || {
        for (index, batch) in (SESSION + 2..).zip(&batches) {
            run(&mut state, index, batch);
        }
    })
}

fn encode_entry() -> Prepared {
    let batches = batches(spread);
    Box::new(move || {
        for batch in &batches {
            black_box(codec::encode_batch(batch));
        }
    })
}

fn decode_entry() -> Prepared {
    let encoded: Vec<_> = batches(spread).iter().map(codec::encode_batch).collect();
    Box::new(move || {
        for bytes in &encoded {
            black_box(codec::decode_batch(bytes).expect("it was encoded here"));
        }
    })
}

pub(crate) fn pack(entry: u64) -> v1::StreamExchangeRequest {
    let call = |number: u64| {
        let session = v1::SessionStamp {
            session_id: SESSION,
            sequence: number + 1,
            lowest_unanswered: number.saturating_sub(COMMANDS).max(1),
        };
        let options = v1::WriteOptions { session: Some(session), ..Default::default() };
        let add = v1::CountersAddRequest {
            name: format!("bench/c/{:08}", number * STRIDE % ITEMS),
            delta: 1,
            options: Some(options),
            ..Default::default()
        };
        let request = Some(v1::call::Request::CountersAdd(add));
        v1::Call { id: number, deadline_ms: 2_500, request, ..v1::Call::default() }
    };
    v1::StreamExchangeRequest {
        calls: (entry * COMMANDS..(entry + 1) * COMMANDS).map(call).collect(),
    }
}

fn encode_pack() -> Prepared {
    let packs: Vec<_> = (0..ENTRIES).map(pack).collect();
    Box::new(move || {
        for pack in &packs {
            black_box(pack.encode_to_vec());
        }
    })
}

fn decode_pack() -> Prepared {
    let packs: Vec<Bytes> = (0..ENTRIES).map(|entry| pack(entry).encode_to_vec().into()).collect();
    Box::new(move || {
        for bytes in &packs {
            let pack = v1::StreamExchangeRequest::decode(bytes.clone());
            black_box(pack.expect("it was encoded here"));
        }
    })
}

fn encode_answers() -> Prepared {
    let answer = |number: u64| {
        let header = v1::ResponseHeader {
            node_id: 1,
            term: 3,
            applied_index: number,
            revision: number,
            session_token: vec![7; 24].into(),
            ..Default::default()
        };
        let answer = v1::CountersWriteResponse { header: Some(header), ..Default::default() };
        v1::Answer { id: number, response: Some(v1::answer::Response::CountersAdd(answer)) }
    };
    let packs: Vec<_> = (0..ENTRIES)
        .map(|entry| v1::StreamExchangeResponse {
            answers: (entry * COMMANDS..(entry + 1) * COMMANDS).map(answer).collect(),
        })
        .collect();
    Box::new(move || {
        for pack in &packs {
            black_box(pack.encode_to_vec());
        }
    })
}

/// Appends entries, some together, and waits for each sync.
fn append() -> Prepared {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime can be made");
    let disk = Arc::new(SimulatedDisk::new(1));
    // A seal comes when a second hand says so; that would be other work in every run.
    let options = WalOptions { seal_after: Duration::from_secs(3600), ..WalOptions::new(1) };
    let open = Wal::open(disk, options, Arc::new(|why| panic!("{why}")));
    let (log, writer, _) = runtime.block_on(open).expect("an empty disk has no damage");
    runtime.spawn(writer.run());
    let payloads: Vec<_> = batches(spread).iter().map(codec::encode_batch).collect();
    Box::new(move || {
        runtime.block_on(async {
            let entries = (0..).zip(&payloads).map(|(index, payload)| Entry {
                log_id: LogId { term: 1, index },
                kind: 1,
                payload: payload.clone(),
            });
            let entries: Vec<_> = entries.collect();
            for some in entries.chunks(APPEND_ENTRIES as usize) {
                let (done, wait) = oneshot::channel();
                let callback = Box::new(move |result| drop(done.send(result)));
                log.append(some.to_vec(), callback).await.expect("the entries are in order");
                wait.await.expect("the log answers").expect("this disk does not fail");
            }
        });
    })
}
