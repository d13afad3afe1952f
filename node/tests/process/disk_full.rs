//! Disks that run full: writes are refused before anything breaks, reads and deletes go on, and
//! writes come back by themselves.
//!
//! Each node's data lies on a small tmpfs of its own. Mounting one needs root; elsewhere these tests
//! say that they did not run.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tally_client::{Client, Code, Error, Outcome, ReadLevel, reason};

use tally_node::process::EXIT_FATAL;
use tokio::time::Instant;

use crate::support::{
    PATIENCE, eventually,
    load::{Book, HOT, Load},
    nodes::{Cluster, TestDir},
    report, skip,
};

const MIB: u64 = 1024 * 1024;

/// Size of each disk.
const DISK_BYTES: u64 = 160 * MIB;

/// Small enough for such a disk: a reserve of 24 MiB.
const SMALL: [&str; 12] = [
    "--log-segment-bytes",
    "8388608",
    "--dirty-bytes-max",
    "4194304",
    "--disk-reserve-bytes",
    "25165824",
    "--flush-interval-ms",
    "200",
    "--snapshot-after-log-bytes",
    "8388608",
    "--log-entries-kept",
    "50",
];

/// A tmpfs, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Result<SmallDisk, String> {
        std::fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(at)
            .output()
            .map_err(|error| error.to_string())?;
        match mounted.status.success() {
            true => Ok(SmallDisk(at.to_path_buf())),
            false => Err(String::from_utf8_lossy(&mounted.stderr).into_owned()),
        }
    }

    fn free(&self) -> u64 {
        let space = rustix::fs::statvfs(&self.0).expect("a mounted disk");
        space.f_bavail * space.f_frsize
    }

    fn filler(&self) -> PathBuf {
        self.0.join("somebody-else")
    }

    /// Somebody else's file takes all but this, in one step: what the node lets go of afterwards is
    /// the node's.
    fn fill_but(&self, left: u64) {
        use rustix::{fs::FallocateFlags, io::Errno};
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.filler());
        let file = file.expect("a file");
        let begin = file.metadata().expect("a file has a length").len();
        loop {
            let room = self.free().saturating_sub(left);
            if room == 0 {
                return;
            }
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), begin, room) {
                Ok(()) => return,
                // The node took some of it between the two calls.
                Err(Errno::NOSPC) => {}
                Err(error) => panic!("the disk can't be filled: {error}"),
            }
        }
    }

    fn clear(&self) {
        std::fs::remove_file(self.filler()).expect("the filler can be removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} was not unmounted", self.0.display());
        }
    }
}

/// A cluster with a small disk below each node. The disks are unmounted after the nodes have ended
/// and before the test's directory is removed.
struct Small {
    cluster: Cluster,
    disks: Vec<SmallDisk>,
}

impl Small {
    async fn start(test: &str, nodes: u64) -> Option<Small> {
        Small::start_with(test, nodes, &[]).await
    }

    async fn start_with(test: &str, nodes: u64, flags: &[&'static str]) -> Option<Small> {
        let dir = TestDir::new(test);
        let root = dir.path().join("disks");
        let mounted: Result<Vec<SmallDisk>, _> = (1..=nodes)
            .map(|id| SmallDisk::mount(&root.join(format!("disk-{id}")), DISK_BYTES))
            .collect();
        let disks = match mounted {
            Ok(disks) => disks,
            Err(error) => {
                skip(test, &format!("a tmpfs can't be mounted here: {error}"));
                return None;
            }
        };
        // A flag is given once.
        let kept = SMALL.chunks(2).filter(|small| !flags.contains(&small[0])).flatten().copied();
        let flags: Vec<&str> = kept.chain(flags.iter().copied()).collect();
        let mut cluster = Cluster::at(dir, &root, nodes, &flags);
        for node in &mut cluster.nodes {
            node.put_data_at(&root.join(format!("disk-{}", node.id)).join("data"));
        }
        cluster.start_all();
        cluster.leader().await;
        Some(Small { cluster, disks })
    }

    /// As an init system does. A flush that has begun can't be stopped: where somebody else takes the room
    /// that was there for it, the process ends, as after any failed write, and its next start goes on
    /// with the rest of the reserve (`storage_guard.rs`). A busy machine has long flushes.
    fn start_again(&mut self) {
        for node in &mut self.cluster.nodes {
            if let Some(status) = node.ended() {
                assert_eq!(status.code(), Some(EXIT_FATAL));
                assert!(node.log_text().contains("flushing the byte store"), "why else?");
                report(&format!("node {} ended in a flush and is started again", node.id));
                node.start();
            }
        }
    }

    fn disk(&self, id: u64) -> &SmallDisk {
        &self.disks[usize::try_from(id - 1).expect("few nodes")]
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.cluster.kill_all();
        self.disks.clear();
    }
}

/// One attempt at a write: what the node says, without the library's patience.
async fn add_once(client: &Client, name: &str) -> Result<i64, Error> {
    let add = client.counter(name).add(1).deadline(Duration::from_millis(500));
    add.await.map(|change| change.value)
}

fn assert_disk_refusal(error: &Error) {
    assert_eq!(error.outcome(), Some(Outcome::NotApplied), "{error}");
    assert_eq!(error.reason(), reason::DISK_NEARLY_FULL, "{error}");
    let codes = [Code::ResourceExhausted, Code::DeadlineExceeded];
    assert!(codes.contains(&error.code()), "{:?}: {error}", error.code());
}

/// The error of a write, if it is refused for the disk.
async fn probe_refused(client: &Client) -> Option<Error> {
    let added = add_once(client, "probe").await;
    added.err().filter(|error| error.reason() == reason::DISK_NEARLY_FULL)
}

/// Waits until a write is refused for the disk.
async fn refused(client: &Client) -> Error {
    eventually("a refusal for the disk", || probe_refused(client)).await
}

/// Somebody else takes nearly all room, and gives it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_and_come_back() {
    let Some(mut small) = Small::start("disk-full", 1).await else { return };
    let client = small.cluster.client();
    let book = Book::default();
    for _ in 0..20 {
        book.add(&client, HOT).await.expect("there is room");
    }
    client.keys().put("doomed", "x").await.expect("there is room");

    small.disk(1).fill_but(2 * MIB);
    let refusal = refused(&client).await;
    assert_disk_refusal(&refusal);
    let status = small.cluster.nodes[0].status().await.expect("it answers");
    assert!(status.disk_nearly_full, "{status:?}");

    // Reads go on, and so does what frees room.
    book.audit(&client).await;
    let local = client.counter(HOT).get().level(ReadLevel::Local).await.expect("a local read");
    assert_eq!(local.value, 20);
    assert!(client.keys().delete("doomed").await.expect("deletes go on").existed);

    small.disk(1).clear();
    eventually("writes come back", || async { add_once(&client, "probe").await.ok() }).await;
    book.audit(&client).await;
    small.cluster.assert_running();
}

/// Its own data fills the disk: refused with room left for the flushes and snapshots that are due,
/// and nothing acknowledged is lost, also over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_data_fills_the_disk() {
    let Some(mut small) = Small::start("own-data", 1).await else { return };
    let client = small.cluster.client();
    let mut state = 1_u64;
    let mut stored = 0;
    let refusal = loop {
        // Bytes that no compression makes small.
        let value: Vec<u8> = (0..64 * 1024)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let put = client.keys().put(format!("fill-{stored:06}"), value);
        match put.deadline(Duration::from_secs(2)).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored * 64 * 1024 < DISK_BYTES, "the disk holds more than it has");
    };
    report(&format!(
        "own_data_fills_the_disk: {stored} values of 64 KiB on {} MiB",
        DISK_BYTES / MIB
    ));
    assert_disk_refusal(&refusal);
    tokio::time::sleep(Duration::from_secs(2)).await;
    small.cluster.assert_running();

    small.cluster.kill_all();
    small.cluster.start_all();
    for number in [0, stored / 2, stored - 1] {
        let key = format!("fill-{number:06}");
        let read = eventually("a read after the restart", || async {
            client.keys().get(key.clone()).await.ok()
        });
        assert_eq!(read.await.value.len(), 64 * 1024);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    small.cluster.assert_running();
    assert!(client.keys().delete("fill-000000").await.expect("deletes go on").existed);
}

/// Somebody else takes the last byte at once, under load: the process survives with what it holds
/// in reserve (or ends, if a flush was under way), and the writes come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_a_byte_is_left() {
    let Some(mut small) = Small::start("no-byte-left", 1).await else { return };
    let client = small.cluster.client();
    let book = Book::default();
    for _ in 0..3 {
        let load = Load::start(&client, 8, &book);
        let before = book.acknowledged();
        eventually("some load", || async { (book.acknowledged() > before + 200).then_some(()) })
            .await;
        small.disk(1).fill_but(0);
        let until = Instant::now() + PATIENCE;
        while probe_refused(&client).await.is_none() {
            assert!(Instant::now() < until, "never: a refusal for the disk");
            small.start_again();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Flushes come and go.
        tokio::time::sleep(Duration::from_secs(3)).await;
        small.cluster.assert_running();
        let local = client.counter(HOT).get().level(ReadLevel::Local).await.expect("a local read");
        assert!(local.value >= book.acknowledged_at(HOT));
        small.disk(1).clear();
        eventually("writes come back", || async { add_once(&client, "probe").await.ok() }).await;
        load.stop().await;
    }
    book.report("not_a_byte_is_left");
    book.audit(&client).await;
    small.cluster.assert_running();
}

/// A node that was killed, and whose disk was filled meanwhile, starts with what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_on_a_full_disk() {
    let Some(mut small) = Small::start("full-start", 1).await else { return };
    let client = small.cluster.client();
    let book = Book::default();
    for _ in 0..50 {
        book.add(&client, HOT).await.expect("there is room");
    }
    small.cluster.kill_all();
    small.disk(1).fill_but(0);
    small.cluster.start_all();
    book.audit(&client).await;
    assert_disk_refusal(&refused(&client).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    small.cluster.assert_running();
    small.disk(1).clear();
    eventually("writes come back", || async { book.add(&client, HOT).await.ok() }).await;
    book.audit(&client).await;
}

/// Without its reserve and with little room it can't flush: it serves local reads only, and takes
/// part again once there is room. Without any room it waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_without_a_reserve() {
    let Some(mut small) = Small::start("no-reserve", 1).await else { return };
    let client = small.cluster.client();
    let book = Book::default();
    for _ in 0..50 {
        book.add(&client, HOT).await.expect("there is room");
    }
    // A local read sees what was flushed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    small.cluster.kill_all();
    std::fs::remove_file(small.cluster.nodes[0].data.join("RESERVE")).expect("it was held");
    small.disk(1).fill_but(10 * MIB);
    small.cluster.start_all();
    eventually("a local read", || async {
        let counter = client.counter(HOT).get().level(ReadLevel::Local).await.ok()?;
        (counter.value == 50).then_some(())
    })
    .await;
    let status = small.cluster.nodes[0].status().await.expect("it answers");
    assert!(!status.local_reads_only.is_empty(), "{status:?}");
    let read = client.counter(HOT).get().deadline(Duration::from_secs(2)).await;
    assert!(read.is_err(), "half a node keeps no promise: {read:?}");
    small.cluster.assert_running();
    small.disk(1).clear();
    eventually("writes come back", || async { book.add(&client, HOT).await.ok() }).await;
    let status = small.cluster.nodes[0].status().await.expect("it answers");
    assert_eq!(status.local_reads_only, "");

    small.cluster.kill_all();
    std::fs::remove_file(small.cluster.nodes[0].data.join("RESERVE")).expect("it was held");
    small.disk(1).fill_but(0);
    small.cluster.start_all();
    tokio::time::sleep(Duration::from_secs(2)).await;
    small.cluster.assert_running();
    small.disk(1).clear();
    eventually("writes come back", || async { book.add(&client, HOT).await.ok() }).await;
    book.audit(&client).await;
    small.cluster.assert_running();
}

/// The leader's disk runs full: it hands over, and writes go on with hardly a pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_leader_hands_over() {
    let Some(mut small) = Small::start("full-leader", 3).await else { return };
    let client = small.cluster.client();
    let book = Book::default();
    let load = Load::start(&client, 8, &book);
    let (leader, term) = small.cluster.leader().await;
    eventually("some load", || async { (book.acknowledged() > 100).then_some(()) }).await;
    small.disk(leader).fill_but(MIB);
    eventually("a write acknowledged by the next leader", || async { book.first_after_term(term) })
        .await;
    let before = book.acknowledged();
    eventually("more load", || async { (book.acknowledged() > before + 500).then_some(()) }).await;
    load.stop().await;
    book.report("a_full_leader_hands_over");
    let (next, _) = small.cluster.leader().await;
    assert_ne!(next, leader);
    small.cluster.assert_running();
    small.disk(leader).clear();
    small.cluster.caught_up().await;
    book.audit(&client).await;
}

/// Values that no compression makes small, under the same keys each time: their bytes.
async fn overwrite(client: &Client, round: u8) -> u64 {
    const VALUES: u64 = 1500;
    const BYTES: usize = 8 * 1024;
    let mut state = u64::from(round) + 1;
    for number in 0..VALUES {
        let value: Vec<u8> = (0..BYTES)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        client.keys().put(format!("large-{number:04}"), value).await.expect("two of three write");
    }
    VALUES * BYTES as u64
}

/// A follower that has to be sent a snapshot answers heartbeats, and stores nothing. With one of the others gone, too,
/// writes are refused at once, as by a leader that hears nobody; they do not wait for their deadline.
async fn counts_for_no_quorum(cluster: &mut Cluster, follower: u64) {
    let (leader, _) = cluster.leader().await;
    let third = 6 - leader - follower;
    cluster.node(third).kill();
    let alone = Client::builder([cluster.node(leader).client.clone()]).build();
    let alone = alone.expect("an address");
    let refused = eventually("a leader that says it has no quorum", || async {
        let error = add_once(&alone, "probe").await.err()?;
        (error.reason() == reason::NO_QUORUM).then_some(error)
    });
    let error = refused.await;
    assert_eq!(error.outcome(), Some(Outcome::NotApplied), "{error}");
    cluster.node(third).start();
}

/// A follower that can go on by a snapshot only has no room for it. The others do not wait for it, it serves what it has
/// and says what it lacks, and takes the snapshot as soon as there is room. Then somebody fills the disk while it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_for_a_snapshot() {
    let Some(mut small) = Small::start("no-room-snapshot", 3).await else { return };
    let client = small.cluster.client();
    let book = Book::default();
    let (leader, _) = small.cluster.leader().await;
    let follower = leader % 3 + 1;
    let at = |id: u64| usize::try_from(id - 1).expect("few nodes");
    for round in 0..2 {
        for _ in 0..20 {
            book.add(&client, HOT).await.expect("three of three write");
        }
        small.cluster.caught_up().await;
        let had = small.cluster.node(follower).status().await.expect("it answers").applied_index;
        let known = book.acknowledged_at(HOT);
        small.cluster.node(follower).kill();
        let bytes = overwrite(&client, round).await;
        let others: Vec<u64> = (1..=3).filter(|id| *id != follower).collect();
        for id in others {
            let node = &small.cluster.nodes[at(id)];
            eventually("a log that begins behind the follower's end", || async {
                (node.status().await?.purged_index > had).then_some(())
            })
            .await;
        }

        let arriving = round == 1;
        if !arriving {
            small.disk(follower).fill_but(bytes);
        }
        small.cluster.node(follower).start();
        if arriving {
            let snapshots = small.cluster.node(follower).data.join("snap");
            eventually("a snapshot that arrives", || async {
                let files = std::fs::read_dir(&snapshots).ok()?;
                let arrives = |name: &str| name.starts_with("incoming-");
                let mut names = files.flatten().map(|file| file.file_name());
                names.any(|name| name.to_str().is_some_and(arrives)).then_some(())
            })
            .await;
            small.disk(follower).fill_but(0);
        } else {
            let node = &small.cluster.nodes[at(follower)];
            let says = eventually("the follower says what it lacks", || async {
                let note = node.status().await?.note;
                note.contains("no room for a snapshot").then_some(note)
            });
            report(&format!("no_room_for_a_snapshot: {}", says.await));
            counts_for_no_quorum(&mut small.cluster, follower).await;
        }
        // The others do not wait for it.
        let load = Load::start(&client, 4, &book);
        let before = book.acknowledged();
        eventually("some load", || async { (book.acknowledged() > before + 200).then_some(()) })
            .await;
        load.stop().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        small.start_again();
        let node = &small.cluster.nodes[at(follower)];
        let status = eventually("it answers", || node.status()).await;
        let waits = status.applied_index <= had;
        report(&format!("no_room_for_a_snapshot: round {round}, waits: {waits}, {}", status.note));
        assert!(
            waits || arriving,
            "there was no room, and it has gone on to {}",
            status.applied_index
        );
        if waits {
            // What it knows to be committed of what it has.
            let alone = Client::builder([node.client.clone()]).build().expect("an address");
            let local =
                alone.counter(HOT).get().level(ReadLevel::Local).await.expect("a local read");
            assert!(local.value <= known, "{} of {known}", local.value);
        }
        small.disk(follower).clear();
        small.cluster.caught_up().await;
        small.cluster.assert_running();
    }
    book.audit(&client).await;
}

/// A backup of a state that compresses well: nothing says beforehand how large its snapshot is. It is refused before the
/// room is taken that writes need, and nothing is built on for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_without_room_is_refused_and_writes_go_on() {
    // No snapshot comes before that of the backup.
    let flags = ["--snapshot-after-log-bytes", "1073741824"];
    let started = Small::start_with("no-room-backup", 1, &flags);
    let Some(mut small) = started.await else { return };
    let client = small.cluster.client();
    for number in 0..40 {
        client.keys().put(format!("k/{number}"), vec![7; 1 << 20]).await.expect("there is room");
    }
    small.disk(1).fill_but(32 * MIB);
    add_once(&client, "probe").await.expect("32 MiB are left");
    // Without the patience of the others: it would be asked again until there is room.
    let impatient = Client::builder(small.cluster.addresses()).deadline(Duration::from_secs(20));
    let refusal = match impatient.build().expect("addresses").backup().await {
        Ok(mut backup) => loop {
            match backup.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("there is no room for its snapshot"),
                Err(error) => break error,
            }
        },
        Err(error) => error,
    };
    assert_eq!(refusal.reason(), reason::DISK_NEARLY_FULL, "{refusal}");
    assert!(refusal.message().contains("snapshot"), "{refusal}");
    // Longer than a builder that begins again would wait.
    let until = Instant::now() + Duration::from_secs(7);
    let mut least = u64::MAX;
    while Instant::now() < until {
        least = least.min(small.disk(1).free());
        add_once(&client, "probe").await.expect("a backup costs no write its room");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    report(&format!("a_backup_without_room: {least} bytes were free at least, afterwards"));
    let log = small.cluster.node(1).log_text();
    assert!(!log.contains("writes are refused"), "{log}");
    assert!(least > 24 * MIB, "what was written of it is gone, and it is not begun again");

    small.disk(1).clear();
    let made = eventually("a backup", || async {
        let mut backup = client.backup().await.ok()?;
        let mut bytes = 0;
        while let Some(part) = backup.next().await.ok()? {
            bytes += part.data.len();
        }
        Some(bytes)
    });
    assert!(made.await > 0);
    small.cluster.assert_running();
}
