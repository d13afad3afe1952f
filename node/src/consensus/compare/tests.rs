//! What reports of hashes come to.

use super::*;
use crate::storage::simulated_disk::SimulatedDisk;

fn hash(of: u8) -> StateHash {
    let mut hash = StateHash::default();
    hash.add(&[0x10, of], b"");
    hash
}

fn told(all: &[(u64, u8)]) -> BTreeMap<u64, StateHash> {
    all.iter().map(|(id, of)| (*id, hash(*of))).collect()
}

#[test]
fn a_majority_of_each_set_of_voters_is_right_and_learners_decide_nothing() {
    let three = [BTreeSet::from([1, 2, 3])];
    for (reports, judged) in [
        (&[][..], Judged::Open),
        (&[(1, 7)], Judged::Open),
        (&[(1, 7), (2, 7)], Judged::Agreed(hash(7))),
        (&[(1, 7), (2, 8)], Judged::Unheard),
        (&[(1, 7), (2, 8), (3, 8)], Judged::Agreed(hash(8))),
        (&[(1, 7), (2, 8), (3, 9)], Judged::Split),
        // A learner that differs, and one that would make a majority if it counted.
        (&[(1, 7), (4, 8)], Judged::Open),
        (&[(1, 7), (2, 8), (4, 8)], Judged::Unheard),
    ] {
        assert_eq!(judge(&three, &told(reports)), judged, "{reports:?}");
    }
    let five = [BTreeSet::from([1, 2, 3, 4, 5])];
    assert_eq!(judge(&five, &told(&[(1, 7), (2, 8), (3, 8)])), Judged::Unheard);
    assert_eq!(judge(&five, &told(&[(1, 7), (2, 7), (3, 8), (4, 8)])), Judged::Unheard);
    assert_eq!(judge(&five, &told(&[(1, 6), (2, 7), (3, 8), (4, 9)])), Judged::Split);
    let two = [BTreeSet::from([1, 2])];
    assert_eq!(judge(&two, &told(&[(1, 7), (2, 8)])), Judged::Split);
    assert_eq!(judge(&[BTreeSet::from([1])], &told(&[(1, 7)])), Judged::Agreed(hash(7)));
    let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4, 5])];
    assert_eq!(judge(&joint, &told(&[(1, 7), (2, 7)])), Judged::Open);
    assert_eq!(judge(&joint, &told(&[(1, 7), (2, 7), (4, 7), (5, 7)])), Judged::Agreed(hash(7)));
    assert_eq!(judge(&joint, &told(&[(1, 7), (2, 7), (4, 8)])), Judged::Unheard);
    assert_eq!(judge(&joint, &told(&[(1, 7), (2, 7), (4, 8), (5, 8)])), Judged::Split);
}

fn report(index: u64, of: u8) -> wire::StateReport {
    let log_id = Some(wire::LogId { index, term: 1 });
    wire::StateReport { log_id, hash: hash(of).to_bytes().to_vec().into() }
}

impl Comparisons {
    /// As if this node had taken the hash, of three voters.
    fn takes(&self, index: u64, of: u8) {
        let mut known = lock(&self.inner.known);
        let round = known.rounds.entry((index, 1)).or_default();
        round.voters = vec![BTreeSet::from([1, 2, 3])];
        round.hashes.insert(self.inner.node_id, hash(of));
        drop(known);
        self.look();
    }
}

#[tokio::test]
async fn a_node_that_differs_knows_it_for_good_and_also_after_a_restart() {
    let disk = SimulatedDisk::new(1);
    let open = || Comparisons::open(1, Arc::new(disk.mount()));
    let node = open().await.unwrap();
    node.takes(10, 7);
    node.learn(2, &[report(10, 8)], true);
    assert_eq!(node.verdict(), Verdict::default(), "nobody knows who, and one has not told");
    node.learn(3, &[report(10, 8)], true);
    assert!(node.differs() && node.why_nothing_is_written().is_none());
    let reason = node.verdict().differs.unwrap();
    node.keep(&reason).await.unwrap();
    // What comes later changes nothing.
    node.takes(20, 7);
    node.learn(2, &[report(20, 7)], true);
    assert!(node.differs());
    let again = open().await.unwrap();
    assert_eq!(again.verdict(), Verdict { differs: Some(reason), no_majority: None });
}

#[tokio::test(start_paused = true)]
async fn whoever_has_not_told_is_waited_for_and_not_for_ever() {
    let disk = SimulatedDisk::new(1);
    let node = Comparisons::open(1, Arc::new(disk.mount())).await.unwrap();
    node.takes(10, 7);
    node.learn(2, &[report(10, 8)], true);
    tokio::time::advance(UNHEARD_PATIENCE - Duration::from_millis(1)).await;
    node.look();
    assert_eq!(node.why_nothing_is_written(), None);
    tokio::time::advance(Duration::from_millis(1)).await;
    node.look();
    assert!(node.why_nothing_is_written().unwrap().contains("node 3 not told"));
    // It tells after all.
    node.learn(3, &[report(10, 7)], true);
    assert_eq!(node.verdict(), Verdict::default());
    // Nor is it where comparisons come so often that none is kept for so long.
    let often = UNHEARD_PATIENCE / 20;
    for index in 20..40 {
        node.takes(index, 7);
        node.learn(2, &[report(index, 8)], true);
        assert_eq!(node.why_nothing_is_written(), None);
        tokio::time::advance(often).await;
    }
    node.look();
    assert!(node.why_nothing_is_written().is_some());
}

#[tokio::test]
async fn writes_wait_until_a_later_comparison_shows_a_majority() {
    let disk = SimulatedDisk::new(1);
    let node = Comparisons::open(1, Arc::new(disk.mount())).await.unwrap();
    node.takes(10, 7);
    node.learn(2, &[report(10, 8)], true);
    node.learn(3, &[report(10, 9)], true);
    assert!(node.why_nothing_is_written().unwrap().contains("node 2"));
    // It is not forgotten while nothing is known, however many comparisons go by.
    (11..40).for_each(|index| node.takes(index, 7));
    assert!(node.why_nothing_is_written().is_some());
    assert_eq!(node.reports().len(), ROUNDS_MAX);
    node.takes(40, 7);
    node.learn(2, &[report(40, 7)], true);
    assert_eq!((node.why_nothing_is_written(), node.differs()), (None, false));
}

#[tokio::test]
async fn nothing_is_compared_with_a_node_that_would_not_know_the_command() {
    let disk = SimulatedDisk::new(1);
    let node = Comparisons::open(1, Arc::new(disk.mount())).await.unwrap();
    let is_due =
        |members: &[u64]| node.is_due(5, Duration::ZERO, &members.iter().copied().collect());
    assert!(is_due(&[1, 2, 3]));
    node.learn(3, &[], false);
    assert!(!is_due(&[1, 2, 3]) && is_due(&[1, 2]));
    node.learn(3, &[], true);
    assert!(is_due(&[1, 2, 3]));
    node.applied(5);
    assert!(!is_due(&[1, 2, 3]), "nothing was applied since");
}

/// Node 3 was away, and gets a snapshot from behind the entry: it will never tell of it.
#[tokio::test(start_paused = true)]
async fn the_same_state_is_compared_again_while_nothing_is_written() {
    let disk = SimulatedDisk::new(1);
    let node = Comparisons::open(1, Arc::new(disk.mount())).await.unwrap();
    let members = [1, 2, 3].into_iter().collect();
    let is_due = || node.is_due(5, Duration::ZERO, &members);
    node.takes(5, 1);
    node.applied(5);
    node.learn(2, &[report(5, 2)], true);
    assert!(!is_due(), "node 3 may tell");
    tokio::time::advance(UNHEARD_PATIENCE).await;
    node.look();
    assert!(node.why_nothing_is_written().is_some() && is_due());
    // The comparison at entry 6 is the first that all three tell of.
    node.takes(6, 1);
    node.applied(6);
    node.learn(2, &[report(6, 2)], true);
    node.learn(3, &[report(6, 1)], true);
    assert_eq!((node.why_nothing_is_written(), node.differs()), (None, false));
}
