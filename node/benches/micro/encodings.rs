//! What a log entry takes in each encoding that was a candidate for it: bytes of a command, and time to
//! write and to read it. The entries are those of the other benchmarks, 64 commands each.
//!
//! protobuf is what clients send for the same calls: no fingerprint of 32 bytes, and no type of its own.

use std::{hint::black_box, io::Cursor, time::Duration};

use prost::Message as _;
use tally_node::machine::{codec, command::Batch};
use tally_proto::v1;
use tokio::time::Instant;

use crate::{
    line,
    workloads::{COMMANDS, ENTRIES, batches, pack, put, spread},
};

/// Times each of them is measured.
const RUNS: usize = 15;

/// One way to write something and to read it again.
struct Encoding<T> {
    name: &'static str,
    encode: fn(&T) -> Vec<u8>,
    decode: fn(&[u8]) -> T,
}

const ENTRY: [Encoding<Batch>; 5] = [
    Encoding {
        name: "postcard",
        encode: |batch| codec::encode_batch(batch).into(),
        decode: |bytes| codec::decode_batch(bytes).expect("it was encoded here"),
    },
    Encoding {
        name: "bincode",
        encode: |batch| bincode::serialize(batch).expect("plain data"),
        decode: |bytes| bincode::deserialize(bytes).expect("it was encoded here"),
    },
    Encoding {
        name: "MessagePack",
        encode: |batch| rmp_serde::to_vec(batch).expect("plain data"),
        decode: |bytes| rmp_serde::from_slice(bytes).expect("it was encoded here"),
    },
    Encoding {
        name: "CBOR",
        encode: |batch| {
            let mut bytes = Vec::new();
            ciborium::into_writer(batch, &mut bytes).expect("plain data");
            bytes
        },
        decode: |bytes| ciborium::from_reader(Cursor::new(bytes)).expect("it was encoded here"),
    },
    Encoding {
        name: "JSON",
        encode: |batch| serde_json::to_vec(batch).expect("plain data"),
        decode: |bytes| serde_json::from_slice(bytes).expect("it was encoded here"),
    },
];

const PACK: Encoding<v1::StreamExchangeRequest> = Encoding {
    name: "protobuf",
    encode: |pack| pack.encode_to_vec(),
    decode: |bytes| v1::StreamExchangeRequest::decode(bytes).expect("it was encoded here"),
};

/// Prints a table for adds to counters, and one for puts of 256 bytes.
pub(crate) fn compare() {
    line("| a command of an entry of 64 | encoding | bytes | ns to write | ns to read |");
    line("|---|---|---|---|---|");
    for (what, operation) in [("add", spread as fn(u64) -> _), ("put of 256 bytes", put)] {
        let batches = batches(operation);
        ENTRY.iter().for_each(|encoding| row(what, encoding, &batches));
    }
    row("add", &PACK, &(0..ENTRIES).map(pack).collect::<Vec<_>>());
}

fn row<T: PartialEq>(what: &str, encoding: &Encoding<T>, values: &[T]) {
    let encoded: Vec<_> = values.iter().map(encoding.encode).collect();
    let back: Vec<_> = encoded.iter().map(|bytes| (encoding.decode)(bytes)).collect();
    assert!(back == values, "{} loses something", encoding.name);
    let commands = (COMMANDS * values.len() as u64) as f64;
    let bytes = encoded.iter().map(Vec::len).sum::<usize>() as f64 / commands;
    let write =
        median(|| values.iter().for_each(|value| drop(black_box((encoding.encode)(value)))));
    let read =
        median(|| encoded.iter().for_each(|bytes| drop(black_box((encoding.decode)(bytes)))));
    let name = encoding.name;
    line(&format!(
        "| {what} | {name} | {bytes:.0} | {:.0} | {:.0} |",
        write / commands,
        read / commands
    ));
}

/// Nanoseconds that the work takes, the middle of [`RUNS`].
fn median(work: impl Fn()) -> f64 {
    let run = || {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    let mut times: Vec<Duration> = std::iter::repeat_with(run).take(RUNS).collect();
    times.sort_unstable();
    times[RUNS / 2].as_nanos() as f64
}
