//! Nodes that die, or stand still, while clients write.

use std::time::Duration;

use rustix::process::Signal;
use tally_client::Client;
use tally_proto::v1::{self, counters_client::CountersClient};
use tokio::time::Instant;

use crate::support::{
    eventually,
    load::{Book, HOT, Load},
    nodes::Cluster,
    report,
};

const WRITERS: usize = 8;

/// How often the leader dies while the time to the next acknowledged write is taken.
const LEADER_DEATHS: usize = 7;

/// Waits until some more writes were acknowledged.
async fn progress(book: &Book, writes: i64) {
    let target = book.acknowledged() + writes;
    eventually("further acknowledged writes", || async {
        (book.acknowledged() >= target).then_some(())
    })
    .await;
}

/// Three nodes, and a client whose writers have begun.
async fn under_load(test: &str) -> (Cluster, Client, Book, Load) {
    let cluster = Cluster::started(test, 3, &[]).await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, WRITERS, &book);
    progress(&book, 50).await;
    (cluster, client, book, load)
}

/// How late this machine wakes a sleeping task, and how long it takes to sync a page, at worst, since the start: what
/// it does besides can be short of the disk as well as of the processors.
struct Lateness(tokio::task::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Worst>>);

#[derive(Debug, Clone, Copy, Default)]
struct Worst {
    late: Duration,
    sync: Duration,
}

/// What a page takes to reach the disk on which the nodes are.
fn time_sync(file: &std::fs::File) -> Duration {
    use std::os::unix::fs::FileExt as _;
    let began = Instant::now();
    file.write_all_at(&[1; 4096], 0).expect("a page can be written");
    file.sync_data().expect("a page can be synced");
    began.elapsed()
}

impl Lateness {
    fn watch() -> Lateness {
        let worst = std::sync::Arc::new(std::sync::Mutex::new(Worst::default()));
        let seen = std::sync::Arc::clone(&worst);
        let nap = Duration::from_millis(10);
        let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file to sync");
        let file = std::sync::Arc::new(file);
        let task = tokio::spawn(async move {
            for round in 0_u64.. {
                let began = Instant::now();
                tokio::time::sleep(nap).await;
                let late = began.elapsed().saturating_sub(nap);
                // Ten a second: what the nodes sync themselves is many times that.
                let sync = if round % 10 == 0 {
                    let file = std::sync::Arc::clone(&file);
                    tokio::task::spawn_blocking(move || time_sync(&file)).await.expect("no panic")
                } else {
                    Duration::ZERO
                };
                let mut seen = seen.lock().expect("no panic while locked");
                *seen = Worst { late: late.max(seen.late), sync: sync.max(seen.sync) };
            }
        });
        Lateness(task, worst)
    }

    /// Prints the times to the first acknowledged write, and judges their median if this machine was
    /// not too busy for that.
    fn judge(&self, test: &str, mut times: Vec<Duration>) {
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let Worst { late, sync } = *self.1.lock().expect("no panic while locked");
        report(&format!(
            "{test}: first acknowledged write after {times:?}: median {median:?}, worst {worst:?}; a \
             sleeping task woke up to {late:?} late, and a page took up to {sync:?} to be synced"
        ));
        if late.max(sync) < Duration::from_millis(200) {
            assert!(median < Duration::from_secs(1), "median {median:?} of {times:?}");
        } else {
            report(&format!("{test}: *** the machine was too busy to judge the time"));
        }
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The leader dies again and again. Nothing acknowledged is lost or counted twice, and the first
/// write that the next leader acknowledges comes within a second of the death.
///
/// The time is judged by its median: three debug builds, this test and whatever else the machine
/// does share its cores, and a kill in a bad moment (a vote that is split) costs a further election
/// timeout. A machine that is so busy that even a sleeping task wakes 200 ms late (more than the
/// shortest election timeout), or a page takes that long to be synced, says nothing about the time; then it
/// is only printed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leader() {
    let (mut cluster, client, book, load) = under_load("killed-leader").await;

    let lateness = Lateness::watch();
    let mut times = Vec::new();
    for _ in 0..LEADER_DEATHS {
        let (leader, term) = cluster.leader().await;
        let killed = Instant::now();
        cluster.node(leader).kill();
        let first = eventually("a write acknowledged by a later leader", || async {
            book.first_after_term(term)
        })
        .await;
        times.push(first.saturating_duration_since(killed));
        progress(&book, 50).await;
        cluster.node(leader).start();
        // The next death must not take the majority along.
        cluster.caught_up().await;
    }
    load.stop().await;
    book.report("killed_leader");
    cluster.assert_running();
    book.audit(&client).await;
    assert_eq!(book.unknown(), 0, "sessions resolve what a dead leader left open");

    lateness.judge("killed_leader", times);
}

/// Two of three die, the leader among them, and one comes back: a majority is there again as soon as that
/// one answers. Its first entry must not wait for the pauses in which a leader tries a peer that is down
/// (they once grew to a second).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_killed() {
    let (mut cluster, client, book, load) = under_load("two-killed").await;

    let lateness = Lateness::watch();
    let mut times = Vec::new();
    for round in 0..LEADER_DEATHS {
        let (leader, _) = cluster.leader().await;
        let others: Vec<u64> =
            cluster.nodes.iter().map(|node| node.id).filter(|id| *id != leader).collect();
        let (dead, back) = match round % 2 {
            0 => (leader, others[0]),
            _ => (others[0], leader),
        };
        cluster.node(dead).kill();
        cluster.node(back).kill();
        // As long as it takes for pauses to have grown, if they grow.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let before = book.acknowledged();
        cluster.node(back).start();
        let address = cluster.node(back).client.clone();
        eventually("the node answers", || async {
            tokio::net::TcpStream::connect(&address).await.ok()
        })
        .await;
        let answers = Instant::now();
        eventually("a write that two of three acknowledge", || async {
            (book.acknowledged() > before).then_some(())
        })
        .await;
        times.push(answers.elapsed());
        progress(&book, 50).await;
        cluster.node(dead).start();
        cluster.caught_up().await;
    }
    load.stop().await;
    book.report("two_of_three_killed");
    cluster.assert_running();
    book.audit(&client).await;
    lateness.judge("two_of_three_killed", times);
}

/// A dead follower costs nothing: no write fails, and it catches up when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_follower() {
    let (mut cluster, client, book, load) = under_load("killed-follower").await;
    for _ in 0..3 {
        let (leader, _) = cluster.leader().await;
        let follower = cluster.nodes.iter().map(|node| node.id).find(|id| *id != leader);
        let follower = follower.expect("there are three");
        cluster.node(follower).kill();
        progress(&book, 100).await;
        cluster.node(follower).start();
        cluster.caught_up().await;
    }
    load.stop().await;
    book.report("killed_follower");
    cluster.assert_running();
    book.audit(&client).await;
    assert_eq!((book.unknown(), book.not_applied()), (0, 0));
}

/// All nodes die at once under load and start again, several times. Then a majority is there when two of
/// them answer: as long as after a death of the leader alone, and not longer, for they know that no leader
/// of before can be among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_killed_at_once() {
    let mut cluster = Cluster::started("all-killed", 3, &[]).await;
    let client = cluster.client();
    let book = Book::default();
    let load = Load::start(&client, WRITERS, &book);
    let lateness = Lateness::watch();
    let mut times = Vec::new();
    for _ in 0..LEADER_DEATHS {
        progress(&book, 100).await;
        cluster.kill_all();
        let before = book.acknowledged();
        cluster.start_all();
        let addresses = cluster.addresses();
        eventually("two nodes answer", || async {
            let mut answering = 0;
            for address in &addresses {
                answering += usize::from(tokio::net::TcpStream::connect(address).await.is_ok());
            }
            (answering >= 2).then_some(())
        })
        .await;
        let two_answer = Instant::now();
        eventually("an acknowledged write", || async {
            (book.acknowledged() > before).then_some(())
        })
        .await;
        times.push(two_answer.elapsed());
    }
    progress(&book, 50).await;
    load.stop().await;
    book.report("all_killed_at_once");
    cluster.assert_running();
    book.audit(&client).await;
    lateness.judge("all_killed_at_once", times);
}

/// One node after the other is stopped in good order and started again, as for an upgrade. The leader
/// hands over before it ends, so there is no time without one that anybody would notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart() {
    let (mut cluster, client, book, load) = under_load("rolling").await;
    let lateness = Lateness::watch();
    let mut times = Vec::new();
    for _ in 0..2 {
        for id in cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            book.longest_gap();
            cluster.node(id).signal(Signal::TERM);
            cluster.node(id).wait_ended().await;
            cluster.node(id).start();
            cluster.caught_up().await;
            progress(&book, 20).await;
            times.push(book.longest_gap());
        }
    }
    load.stop().await;
    book.report("rolling_restart");
    cluster.assert_running();
    book.audit(&client).await;
    lateness.judge("rolling_restart", times);
}

/// The leader stands still, which is a leader that is cut off from everybody: the others elect another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leader_cut_off() {
    let (mut cluster, client, book, load) = under_load("leader-cut-off").await;
    let lateness = Lateness::watch();
    let mut times = Vec::new();
    for _ in 0..LEADER_DEATHS {
        let (leader, term) = cluster.leader().await;
        let cut = Instant::now();
        cluster.node(leader).signal(Signal::STOP);
        let first = eventually("a write acknowledged by a later leader", || async {
            book.first_after_term(term)
        })
        .await;
        times.push(first.saturating_duration_since(cut));
        progress(&book, 50).await;
        cluster.node(leader).signal(Signal::CONT);
        cluster.caught_up().await;
    }
    load.stop().await;
    book.report("leader_cut_off");
    cluster.assert_running();
    book.audit(&client).await;
    lateness.judge("leader_cut_off", times);
}

/// A leader that stood still for seconds does not know that it was replaced. Reads that reach it
/// first of all when it goes on must be fresh or refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_leader() {
    let (mut cluster, client, book, load) = under_load("paused-leader").await;
    let mut answered = 0;
    let mut refused = 0;
    for _ in 0..3 {
        let (leader, term) = cluster.leader().await;
        let old = cluster.node(leader).client.clone();
        let direct = CountersClient::connect(format!("http://{old}")).await;
        let direct = direct.expect("the leader still answers");
        let others: Vec<String> =
            cluster.addresses().into_iter().filter(|address| *address != old).collect();
        let others = Client::builder(others).build().expect("well-formed");

        cluster.node(leader).signal(Signal::STOP);
        let paused = Instant::now();
        eventually("a write acknowledged by the next leader", || async {
            book.add(&others, HOT).await.ok()?;
            book.first_after_term(term)
        })
        .await;
        tokio::time::sleep_until(paused + Duration::from_secs(3)).await;
        let floor = book.acknowledged_at(HOT);

        // Half of them wait in the old leader's socket when it goes on, half come right after.
        let reads: Vec<_> = (0..40)
            .map(|nth| {
                let mut direct = direct.clone();
                tokio::spawn(async move {
                    if nth >= 20 {
                        tokio::time::sleep(Duration::from_millis(50 + 5 * nth)).await;
                    }
                    let request = v1::CountersGetRequest { name: HOT.to_owned(), read: None };
                    direct.get(request).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.node(leader).signal(Signal::CONT);
        for read in reads {
            match read.await.expect("a read does not panic") {
                Ok(answer) => {
                    answered += 1;
                    let value = answer.into_inner().counter.expect("an answer has one").value;
                    assert!(value >= floor, "STALE: {value} after {floor} were acknowledged");
                }
                Err(_) => refused += 1,
            }
        }
        progress(&book, 50).await;
        cluster.caught_up().await;
    }
    load.stop().await;
    report(&format!("paused_leader: {answered} reads of the old leader fresh, {refused} refused"));
    book.report("paused_leader");
    cluster.assert_running();
    book.audit(&client).await;
}
