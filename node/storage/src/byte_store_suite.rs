//! One suite for the byte-store contract, run against every implementation.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;

use super::{
    byte_store::{ByteStore, Records, StoreFactory},
    simulated_store::SimulatedStores,
    sled_store::{SledFactory, SledOptions},
};
use tally_machine::view::Change;

fn records<const N: usize>(records: [(&str, Option<&str>); N]) -> Arc<Records> {
    Arc::new(
        records
            .into_iter()
            .map(|(key, value)| {
                let value = value.map(|value| Bytes::from(value.to_owned()));
                (Bytes::copy_from_slice(key.as_bytes()), value.into())
            })
            .collect(),
    )
}

fn keys(store: &dyn ByteStore, start: &str, end: Option<&str>, limit: usize) -> Vec<String> {
    let mut keys = Vec::new();
    store
        .scan(start.as_bytes(), end.map(str::as_bytes), &mut |key, _| {
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            if keys.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    keys
}

async fn reads_what_was_written(factory: &dyn StoreFactory) {
    let store = factory.create("state/1").await.unwrap();
    assert_eq!(store.get(b"a").unwrap(), None);
    store.write(records([("a", Some("1")), ("b", Some("2")), ("c", Some("3"))])).await.unwrap();
    store
        .write(records([("b", None), ("c", Some("4")), ("d", Some("")), ("x", None)]))
        .await
        .unwrap();
    assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(store.get(b"b").unwrap(), None);
    assert_eq!(store.get(b"c").unwrap().as_deref(), Some(&b"4"[..]));
    assert_eq!(store.get(b"d").unwrap().as_deref(), Some(&b""[..]));
    assert_eq!(keys(&*store, "", None, 9), ["a", "c", "d"]);
    assert_eq!(keys(&*store, "b", Some("d"), 9), ["c"], "the end is excluded");
    assert_eq!(keys(&*store, "c", None, 1), ["c"], "the start is included");
    assert_eq!(keys(&*store, "d", Some("c"), 9), [""; 0], "an inverted range is empty");
    assert_eq!(keys(&*store, "c", Some("c"), 9), [""; 0]);
    store.flush().await.unwrap();
    store.close().await;
}

async fn opens_lists_renames_and_removes(factory: &dyn StoreFactory) {
    let kind = |result: std::io::Result<Arc<dyn ByteStore>>| result.unwrap_err().kind();
    assert_eq!(kind(factory.open("state/2").await), std::io::ErrorKind::NotFound);
    let store = factory.create("state/2").await.unwrap();
    assert_eq!(kind(factory.create("state/2").await), std::io::ErrorKind::AlreadyExists);
    store.write(records([("a", Some("1"))])).await.unwrap();
    store.flush().await.unwrap();
    store.close().await;
    drop(store);
    let store = factory.open("state/2").await.unwrap();
    assert_eq!(keys(&*store, "", None, 9), ["a"]);
    assert!(store.size_bytes().unwrap() > 0);
    store.close().await;
    drop(store);
    factory.rename("state/2", "state/3").await.unwrap();
    assert_eq!(kind(factory.open("state/2").await), std::io::ErrorKind::NotFound);
    assert!(factory.list("state").await.unwrap().contains(&"state/3"["state/".len()..].to_owned()));
    factory.remove("state/3").await.unwrap();
    factory.remove("state/3").await.unwrap();
    assert!(!factory.list("state").await.unwrap().contains(&"3".to_owned()));
}

/// Readers never block for good, fail, or see a value that was never written; batches of many
/// leaves, with deletes that empty whole ranges, go on meanwhile.
async fn readers_run_beside_the_writer(factory: &dyn StoreFactory, rounds: u32) {
    let store = factory.create("state/4").await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let (store, done) = (store.clone(), done.clone());
            std::thread::spawn(move || {
                let mut reads = 0;
                while !done.load(Ordering::SeqCst) {
                    let key = format!("{:06}", (reads * 7919 + reader * 131) % 20_000);
                    if let Some(value) = store.get(key.as_bytes()).unwrap() {
                        assert!(value.starts_with(key.as_bytes()), "another key's value");
                    }
                    let mut last = Bytes::new();
                    let mut seen = 0;
                    store
                        .scan(key.as_bytes(), None, &mut |key, value| {
                            assert!(value.starts_with(key), "another key's value");
                            assert!(key > last.as_ref(), "a scan went back");
                            last = Bytes::copy_from_slice(key);
                            seen += 1;
                            if seen < 300 {
                                ControlFlow::Continue(())
                            } else {
                                ControlFlow::Break(())
                            }
                        })
                        .unwrap();
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    for round in 0..rounds {
        let mut batch = Records::new();
        for n in 0..4000_u32 {
            let n = (round * 4000 + n) % 20_000;
            let key = format!("{n:06}");
            let value = (round % 3 != 2 || n % 5 == 0).then(|| format!("{key} in {round}").into());
            batch.insert(key.into(), value);
        }
        store.write(Arc::new(batch)).await.unwrap();
        if round % 4 == 0 {
            store.flush().await.unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.join().unwrap() > 0, "a reader never got to read");
    }
    store.close().await;
}

#[tokio::test]
async fn simulated_store_keeps_the_contract() {
    let stores = SimulatedStores::new(1);
    reads_what_was_written(&stores).await;
    opens_lists_renames_and_removes(&stores).await;
    readers_run_beside_the_writer(&stores, 10).await;
}

fn sled_factory(root: &tempfile::TempDir) -> SledFactory {
    std::fs::create_dir_all(root.path().join("state")).unwrap();
    SledFactory::new(root.path().into(), SledOptions::default())
}

#[tokio::test]
async fn sled_store_keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let factory = sled_factory(&root);
    reads_what_was_written(&factory).await;
    opens_lists_renames_and_removes(&factory).await;
}

/// Whoever asks for the size may ask a store that was just replaced.
#[tokio::test]
async fn a_sled_store_that_is_gone_has_no_size() {
    let root = tempfile::tempdir().unwrap();
    let factory = sled_factory(&root);
    let store = factory.create("state/1").await.unwrap();
    store.close().await;
    assert!(store.size_bytes().unwrap() > 0);
    factory.remove("state/1").await.unwrap();
    assert_eq!(store.size_bytes().unwrap(), 0);
}

#[tokio::test]
async fn sled_readers_run_beside_the_writer() {
    let root = tempfile::tempdir().unwrap();
    let options = SledOptions { cache_bytes: 1 << 20, ..SledOptions::default() };
    std::fs::create_dir_all(root.path().join("state")).unwrap();
    let factory = SledFactory::new(root.path().into(), options);
    readers_run_beside_the_writer(&factory, 60).await;
}

/// A copy of the files of a running store is what a killed process leaves.
fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn sled_makes_nothing_durable_but_what_was_flushed() {
    let root = tempfile::tempdir().unwrap();
    let factory = sled_factory(&root);
    let store = factory.create("state/1").await.unwrap();
    for round in 0..20_u32 {
        let mut batch = Records::from([("applied".into(), Change::Put(round.to_string().into()))]);
        for n in 0..1000 {
            batch.insert(format!("{n:04}").into(), Change::Put(round.to_string().into()));
        }
        store.write(Arc::new(batch)).await.unwrap();
        // Each of these drops a handle of sled's, which must not flush.
        assert_eq!(keys(&*store, "", None, 10_000).len(), 1001);
        if round == 10 {
            store.flush().await.unwrap();
        }
    }
    copy_tree(&root.path().join("state/1"), &root.path().join("state/2"));
    // Dropped without `close`: leaves the files as they are.
    drop(store);
    copy_tree(&root.path().join("state/1"), &root.path().join("state/3"));
    for copy in ["state/2", "state/3"] {
        let store = factory.open(copy).await.unwrap();
        assert_eq!(store.get(b"applied").unwrap().as_deref(), Some(&b"10"[..]), "{copy}");
        store
            .scan(b"", None, &mut |key, value| {
                assert_eq!(value, "10", "{key:?} of {copy} is of another flush");
                ControlFlow::Continue(())
            })
            .unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn sled_gives_back_what_was_emptied() {
    let root = tempfile::tempdir().unwrap();
    let factory = sled_factory(&root);
    let store = factory.create("state/1").await.unwrap();
    let mut sizes = Vec::new();
    // A window that moves on for ever, as remembered answers do.
    for round in 0..12_u32 {
        let mut batch = Records::new();
        for n in 0..5000_u32 {
            batch.insert(format!("{:08}", round * 5000 + n).into(), Change::Put(vec![7; 100].into()));
            if let Some(old) = (round * 5000 + n).checked_sub(5000) {
                batch.insert(format!("{old:08}").into(), Change::Delete);
            }
        }
        store.write(Arc::new(batch)).await.unwrap();
        store.flush().await.unwrap();
        sizes.push(store.size_bytes().unwrap());
    }
    assert_eq!(keys(&*store, "", None, 100_000).len(), 5000);
    assert!(sizes[11] < sizes[3] * 2, "it grows for ever: {sizes:?}");
    store.close().await;
}

#[tokio::test]
async fn an_empty_cookie_is_written_again_and_a_damaged_one_is_damage() {
    let root = tempfile::tempdir().unwrap();
    let factory = sled_factory(&root);
    let store = factory.create("state/1").await.unwrap();
    store.write(records([("a", Some("1"))])).await.unwrap();
    store.flush().await.unwrap();
    store.close().await;
    let cookie = root.path().join("state/1/durability_cookie");
    std::fs::write(&cookie, b"").unwrap();
    let store = factory.open("state/1").await.unwrap();
    assert_eq!(keys(&*store, "", None, 9), ["a"]);
    store.close().await;
    std::fs::write(&cookie, [7; 64]).unwrap();
    let error = factory.open("state/1").await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    assert!(error.to_string().contains("state/1"), "{error}");
}

/// How long readers wait while a whole dirty map is written. Prints, for people; run with
/// `cargo test -p tally-node --lib measure -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "it measures real time")]
async fn measure_sled_readers_while_a_dirty_map_is_written() {
    use std::time::{Duration, Instant};
    let root = tempfile::tempdir().unwrap();
    let factory = sled_factory(&root);
    let store = factory.create("state/1").await.unwrap();
    let batch = |round: u64| -> Arc<Records> {
        // 200,000 records of 256 bytes all over a million keys.
        let key = |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44).to_be_bytes();
        let records = (0..200_000).map(|n| {
            let key = key(round * 200_000 + n);
            (Bytes::copy_from_slice(&key), Change::Put(Bytes::from(vec![round as u8; 256])))
        });
        Arc::new(records.collect())
    };
    for round in 0..5 {
        store.write(batch(round)).await.unwrap();
        store.flush().await.unwrap();
    }
    let done = Arc::new(AtomicBool::new(false));
    let reader = std::thread::spawn({
        let (store, done) = (store.clone(), done.clone());
        move || {
            let mut waits = Vec::new();
            for n in 0_u64.. {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                let key = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44).to_be_bytes();
                let begin = Instant::now();
                store.get(&key).unwrap();
                waits.push(begin.elapsed());
            }
            waits.sort();
            waits
        }
    });
    let begin = Instant::now();
    store.write(batch(2)).await.unwrap();
    let written = begin.elapsed();
    store.flush().await.unwrap();
    let flushed = begin.elapsed() - written;
    done.store(true, Ordering::SeqCst);
    let waits = reader.join().unwrap();
    let at = |part: f64| waits[(waits.len() as f64 * part) as usize];
    println!(
        "write {written:?}, flush {flushed:?}; {} gets: p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        waits.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        waits.last().unwrap_or(&Duration::ZERO),
    );
    store.close().await;
}
