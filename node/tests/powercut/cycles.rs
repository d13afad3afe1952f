//! Load, cut, start, audit; again and again.

use std::{path::Path, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{
    fuse::LossyDisk,
    model::{Loss, Lost},
    support::{
        PATIENCE, eventually,
        load::{Book, HOT, Load},
        nodes::{Cluster, TestDir},
        report, skip,
    },
};

/// Sizes so small that segments change and snapshots, purges and flushes happen all the time.
const BUSY: [&str; 8] = [
    "--log-segment-bytes",
    "8388608",
    "--snapshot-after-entries",
    "200",
    "--flush-interval-ms",
    "200",
    "--log-entries-kept",
    "50",
];

/// This test's share of all cuts.
fn cuts(percent: u64) -> u64 {
    let all = std::env::var("TALLY_POWER_CUTS").ok();
    let all: u64 = all.map_or(100, |all| all.parse().expect("TALLY_POWER_CUTS is a number"));
    (all * percent).div_ceil(100)
}

fn seed() -> u64 {
    match std::env::var("TALLY_POWER_CUT_SEED") {
        Ok(seed) => seed.parse().expect("TALLY_POWER_CUT_SEED is a number"),
        Err(_) => rand::rng().random(),
    }
}

/// A cluster with a lossy disk below each node.
struct Powered {
    cluster: Cluster,
    disks: Vec<LossyDisk>,
    random: SmallRng,
    lost: Lost,
    cuts: u64,
}

impl Powered {
    /// Nothing, where there is no way to mount.
    fn new(test: &str, nodes: u64, flags: &[&str]) -> Option<Powered> {
        let dir = TestDir::new(test);
        let root = dir.path().join("disks");
        let mounted: Result<Vec<LossyDisk>, _> =
            (1..=nodes).map(|id| LossyDisk::mount(&root.join(format!("disk-{id}")))).collect();
        let disks = match mounted {
            Ok(disks) => disks,
            Err(error) => {
                skip(test, &format!("a FUSE file system can't be mounted here: {error}"));
                return None;
            }
        };
        let seed = seed();
        report(&format!("{test}: seed {seed}"));
        let mut cluster = Cluster::at(dir, &root, nodes, flags);
        for node in &mut cluster.nodes {
            node.put_data_at(&root.join(format!("disk-{}", node.id)).join("data"));
        }
        let random = SmallRng::seed_from_u64(seed);
        Some(Powered { cluster, disks, random, lost: Lost::default(), cuts: 0 })
    }

    /// Cuts the power of these nodes at one instant, and gives it back.
    fn cut(&mut self, ids: &[u64]) {
        let loss = match self.random.random_ratio(1, 3) {
            true => Loss::Everything,
            false => Loss::AtRandom,
        };
        for id in ids {
            let disk = &self.disks[usize::try_from(id - 1).expect("few nodes")];
            let lost = disk.cut(loss, &mut self.random);
            self.lost.pages += lost.pages;
            self.lost.names += lost.names;
            self.cuts += 1;
        }
        for id in ids {
            self.cluster.node(*id).kill();
        }
        for id in ids {
            self.disks[usize::try_from(id - 1).expect("few nodes")].power_on();
        }
    }

    fn start(&mut self, ids: &[u64]) {
        ids.iter().for_each(|id| self.cluster.node(*id).start());
    }

    fn all(&self) -> Vec<u64> {
        self.cluster.nodes.iter().map(|node| node.id).collect()
    }

    fn some_node(&mut self) -> u64 {
        let all = self.all();
        all[self.random.random_range(0..all.len())]
    }

    /// Waits until something holds; a node that ends by itself meanwhile is a failure.
    async fn until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let until = tokio::time::Instant::now() + PATIENCE;
        while !holds() {
            self.cluster.assert_running();
            assert!(tokio::time::Instant::now() < until, "{what}: not within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn progress(&mut self, book: &Book, writes: i64) {
        let target = book.acknowledged() + writes;
        self.until("further acknowledged writes", || book.acknowledged() >= target).await;
    }

    /// A moment that nothing is in step with.
    async fn random_moment(&mut self, most: Duration) {
        tokio::time::sleep(most.mul_f64(self.random.random())).await;
    }

    async fn finish(mut self, test: &str, load: Load, book: &Book) {
        self.progress(book, 20).await;
        load.stop().await;
        book.report(test);
        book.audit(&self.cluster.client()).await;
        self.cluster.assert_running();
        report(&format!(
            "{test}: {} power cuts; gone with them: {} pages, {} changes of names",
            self.cuts, self.lost.pages, self.lost.names
        ));
        assert!(self.lost.pages > 0, "cuts that take nothing away prove nothing");
    }
}

impl Drop for Powered {
    fn drop(&mut self) {
        // The processes first: a disk in use can't be unmounted. And what is mounted below the
        // test's directory must not be removed with it.
        self.cluster.kill_all();
        if std::thread::panicking() {
            let kept = self.cluster.dir.path().join("kept");
            for node in &self.cluster.nodes {
                let to = kept.join(format!("node-{}", node.id));
                if let Err(error) = copy(&node.data, &to) {
                    eprintln!("{} was not kept: {error}", node.data.display());
                }
            }
        }
        self.disks.clear();
    }
}

/// Copies a directory, to be looked at after a failure.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

async fn cycles(test: &str, nodes: u64, flags: &[&str], cycles: u64) {
    let Some(mut powered) = Powered::new(test, nodes, flags) else { return };
    let book = Book::default();
    let load = Load::start(&powered.cluster.client(), 6, &book);
    let all = powered.all();
    powered.start(&all);
    let mut cycle = 0;
    while powered.cuts < cycles {
        // The first cuts hit a node that has just been made.
        let writes = if cycle < 3 { 0 } else { powered.random.random_range(1..60) };
        powered.progress(&book, writes).await;
        powered.random_moment(Duration::from_millis(400)).await;
        // One node, or all at once.
        let ids = match powered.random.random_ratio(1, 3) {
            true => vec![powered.some_node()],
            false => all.clone(),
        };
        powered.cut(&ids);
        powered.start(&ids);
        cycle += 1;
    }
    powered.finish(test, load, &book).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node() {
    cycles("one-node", 1, &[], cuts(25)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_busy_node() {
    cycles("one-busy-node", 1, &BUSY, cuts(25)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes() {
    cycles("three-nodes", 3, &[], cuts(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_busy_nodes() {
    cycles("three-busy-nodes", 3, &BUSY, cuts(20)).await;
}

/// A follower comes back after the log that it lacks was purged, so it must install a snapshot; its
/// power is cut while it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_while_a_snapshot_is_installed() {
    let test = "snapshot-install";
    let Some(mut powered) = Powered::new(test, 3, &BUSY) else { return };
    let book = Book::default();
    let client = powered.cluster.client();
    let load = Load::start(&client, 12, &book);
    let all = powered.all();
    powered.start(&all);
    while powered.cuts < cuts(10) {
        powered.cluster.caught_up().await;
        let (leader, _) = powered.cluster.leader().await;
        let follower = all.iter().copied().find(|id| *id != leader).expect("there are three");
        let has = eventually("the follower's status", || async {
            let nodes = &powered.cluster.nodes;
            let node = nodes.iter().find(|node| node.id == follower)?.status().await?;
            Some(node.last_log_index)
        })
        .await;
        powered.cut(&[follower]);
        eventually("the others purge what the follower lacks", || async {
            for node in powered.cluster.nodes.iter().filter(|node| node.id != follower) {
                if node.status().await?.purged_index <= has {
                    return None;
                }
            }
            Some(())
        })
        .await;
        powered.start(&[follower]);
        powered.random_moment(Duration::from_millis(600)).await;
        powered.cut(&[follower]);
        powered.start(&[follower]);
    }
    powered.cluster.caught_up().await;
    powered.finish(test, load, &book).await;
}

/// The tests can tell: on disks whose fsync does nothing, a power cut is found out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_lies_about_fsync_is_found_out() {
    let test = "lying-disk";
    let Some(mut powered) = Powered::new(test, 1, &[]) else { return };
    powered.start(&[1]);
    powered.cluster.leader().await;
    let client = powered.cluster.client();
    for _ in 0..5 {
        client.counter(HOT).add(1).await.expect("a healthy node");
    }
    powered.disks[0].lie_about_fsync();
    for _ in 0..5 {
        client.counter(HOT).add(1).await.expect("a healthy node");
    }
    powered.disks[0].cut(Loss::Everything, &mut SmallRng::seed_from_u64(1));
    powered.cluster.kill_all();
    powered.disks[0].power_on();
    powered.start(&[1]);
    let client = powered.cluster.client();
    let value = eventually("an answer", || async { client.counter(HOT).get().await.ok() }).await;
    assert_eq!(value.value, 5, "what was acknowledged on a lie is gone");
}
