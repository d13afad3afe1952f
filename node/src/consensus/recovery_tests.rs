//! What a crash leaves of a recovery, at each of its steps.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::*;
use crate::{
    consensus::log_store::KIND_BLANK,
    env::Fatal,
    machine::codec::decode_batch,
    storage::{disk::Disk, simulated_disk::SimulatedDisk, wal::WalOptions},
};

const NODE: u64 = 3;

/// Entries that the node has before.
const ENTRIES: u64 = 5;

/// Steps that a recovery has at most; more are looked for than there are.
const STEPS_MAX: u64 = 200;

fn three() -> Membership<u64, Member> {
    let members = [1, 2, NODE].map(|id| (id, Member { peer_address: format!("n{id}:1") }));
    Membership::new(vec![BTreeSet::from([1, 2, NODE])], BTreeMap::from(members)).unwrap()
}

/// A node that is stopped, opened.
struct Opened {
    identity: Identity,
    log: Wal,
    writer: JoinHandle<()>,
}

impl Opened {
    async fn new(disk: &SimulatedDisk) -> io::Result<Opened> {
        let disk: Arc<dyn Disk> = Arc::new(disk.mount());
        let identity =
            Identity::open(Arc::clone(&disk), NODE, 9).await.map_err(io::Error::other)?;
        let mut options = WalOptions::new(7);
        options.segment_bytes = 1 << 20;
        let fatal: Fatal = Arc::new(|_| {});
        let (log, writer, _) = Wal::open(disk, options, fatal).await.map_err(io::Error::other)?;
        Ok(Opened { identity, log, writer: tokio::spawn(writer.run()) })
    }

    async fn begin(&self) -> io::Result<()> {
        let members = BTreeSet::from([1, 2, NODE]);
        let plan = plan(&self.log, NODE, &members, "n3:1".to_owned());
        self.identity.begin_recovery(plan).await
    }

    async fn entries(&self) -> Vec<Entry> {
        self.log.read(0..u64::MAX, usize::MAX).await.expect("the log can be read")
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// A node that voted in term 4, and whose log ends in term 2.
async fn used() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    let node = Opened::new(&disk).await.expect("a new directory opens");
    let first = LogId { term: 0, index: 0 };
    let mut entries =
        vec![Entry { log_id: first, kind: KIND_MEMBERSHIP, payload: encode_membership(&three()) }];
    for index in 1..ENTRIES {
        let log_id = LogId { term: 2, index };
        entries.push(Entry { log_id, kind: KIND_BLANK, payload: Bytes::new() });
    }
    node.log.save_vote(Ballot { term: 4, node_id: Some(1), committed: true }).await.unwrap();
    node.log.append(entries, Box::new(drop)).await.unwrap();
    node.log.flush().await.unwrap();
    disk
}

/// The log holds all that it held, and then nothing, a part of a recovery, or all of it; never the membership without
/// the epoch. How many entries of the recovery there are.
fn recovered(entries: &[Entry]) -> usize {
    let (before, after) = entries.split_at(ENTRIES as usize);
    assert!(before.iter().all(|entry| entry.log_id.term <= 2), "{before:?}");
    for (entry, kind) in after.iter().zip([KIND_BATCH, KIND_MEMBERSHIP]) {
        assert_eq!((entry.kind, entry.log_id.term), (kind, 5), "above each term that it has seen");
    }
    assert!(after.len() <= 2, "{after:?}");
    after.len()
}

async fn is_finished(node: &Opened) {
    let entries = node.entries().await;
    assert_eq!(recovered(&entries), 2);
    assert_eq!(node.identity.recovering().await, None);
    assert_eq!(node.identity.lost().await, BTreeSet::from([1, 2]));
    assert_eq!(node.log.vote().map(|vote| (vote.term, vote.node_id)), Some((5, Some(NODE))));
    let [.., epoch, membership] = &entries[..] else { unreachable!("there are more") };
    let epoch = decode_batch(&epoch.payload).expect("it is one");
    let recovery = Recovery { node_id: NODE, lost: vec![1, 2] };
    assert_eq!(epoch.commands[0].action, Action::Restore(RestoreCommand::Recover(recovery)));
    let membership = decode_membership(&membership.payload).expect("it is one");
    let last = LastMembership::new(6, &membership);
    assert!(last.is_quorum(&BTreeSet::from([NODE])));
    assert_eq!(last.members, BTreeMap::from([(NODE, "n3:1".to_owned())]));
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_crashed_is_finished() {
    let before = used().await;
    let (mut untouched, mut half, mut whole) = (0, 0, 0);
    let mut steps = 0;
    let all = loop {
        assert!(steps < STEPS_MAX, "it comes to an end");
        let disk = before.fork(steps);
        let node = Opened::new(&disk).await.expect("it opens");
        disk.crash_after_steps(steps);
        let done = async {
            node.begin().await?;
            finish(&node.log, &node.identity).await
        };
        let is_done = done.await.is_ok() && !disk.is_dead();
        drop(node);
        disk.crash();
        let node = Opened::new(&disk).await.expect("what a crash left opens");
        let found = recovered(&node.entries().await);
        let begun = node.identity.recovering().await.is_some();
        match (begun, found) {
            (false, 0) => {
                untouched += 1;
                assert!(node.identity.lost().await.is_empty(), "nothing was begun");
                node.begin().await.expect("it can be begun");
            }
            (true, _) => half += 1,
            (false, found) => {
                assert_eq!(found, 2, "whoever says that it is done has both");
                whole += 1;
            }
        }
        // Whoever opens it next finishes it; and once more changes nothing.
        let did = finish(&node.log, &node.identity).await.expect("it can be finished");
        assert_eq!(did, begun || found == 0);
        is_finished(&node).await;
        assert!(!finish(&node.log, &node.identity).await.expect("there is nothing to do"));
        is_finished(&node).await;
        if is_done {
            break steps;
        }
        steps += 1;
    };
    println!("{all} steps: {untouched} untouched, {half} half-way, {whole} whole");
    assert!(untouched > 0 && half > 0 && whole > 0, "{untouched} {half} {whole}");
}

#[test]
fn a_quorum_is_one_of_each_set() {
    let ids = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
    let mut last =
        LastMembership { at: 1, voters: vec![ids(&[1, 2, 3])], members: BTreeMap::new() };
    assert!(!last.is_quorum(&ids(&[3])) && last.is_quorum(&ids(&[1, 3])));
    assert!(!last.is_quorum(&ids(&[3, 4, 5])), "others do not count");
    last.voters.push(ids(&[3, 4]));
    assert!(!last.is_quorum(&ids(&[1, 3])), "of a change under way both sets have to agree");
    assert!(last.is_quorum(&ids(&[1, 3, 4])));
    last.voters = vec![ids(&[1, 2])];
    assert!(!last.is_quorum(&ids(&[1])), "a half is none");
}
