//! The schedule over an object store that fails: in memory, in time that is not waited for, the same each time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tally_backup_store::{
    Error, Store,
    faults::{Fault, Faulty},
};
use tally_proto::backup::{Footer, Header, Reader, Writer};
use tokio::time::timeout;

use super::{
    Part,
    names::Names,
    schedule::{Keeper, Parts, Settings, Source, Told},
    store::InStore,
};

const CLUSTER: &str = "42251adc3323cb936f6b4c9d1eaf8bc9";
const KEPT: usize = 2;
const HOUR: Duration = Duration::from_secs(3600);

/// 2026-09-21 14:14 UTC, when a test begins.
const BEGIN_MS: u64 = 1_790_000_061_000;

/// Wall time that goes with tokio's.
struct TestClock(tokio::time::Instant);

impl crate::env::Clock for TestClock {
    fn boot_ms(&self) -> u64 {
        self.0.elapsed().as_millis() as u64
    }

    fn wall_ms(&self) -> u64 {
        BEGIN_MS + self.boot_ms()
    }
}

/// A node whose state is another one with each backup.
struct State {
    revision: AtomicU64,
    clock: Arc<TestClock>,
}

struct Bytewise {
    header: Header,
    footer: Footer,
    left: Bytes,
}

#[async_trait::async_trait]
impl Source for State {
    async fn begin(&self) -> Result<Box<dyn Parts>, String> {
        use crate::env::Clock as _;
        let revision = self.revision.fetch_add(1, Ordering::Relaxed) + 1;
        let (wall_time_ms, keys) = (self.clock.wall_ms(), 3);
        let header = Header { revision, wall_time_ms, keys, ..Header::default() };
        let mut writer = Writer::new(&header);
        for key in 0..keys {
            writer.record(&[0x11, key as u8], &revision.to_le_bytes());
        }
        let footer = writer.finish();
        Ok(Box::new(Bytewise { header, footer, left: writer.take() }))
    }

    fn is_being_restored(&self) -> bool {
        false
    }
}

#[async_trait::async_trait]
impl Parts for Bytewise {
    fn header(&self) -> &Header {
        &self.header
    }

    fn about_bytes(&self) -> u64 {
        self.left.len() as u64
    }

    async fn part(&mut self) -> Result<Part, String> {
        let data = self.left.split_to(self.left.len().min(70));
        let footer = self.left.is_empty().then_some(self.footer);
        Ok(Part { data, footer, ..Part::default() })
    }
}

/// A cluster's node and the store that it writes to.
struct Rig {
    objects: Faulty,
    state: State,
    told: Arc<Told>,
}

impl Rig {
    fn new() -> Rig {
        let clock = Arc::new(TestClock(tokio::time::Instant::now()));
        let state = State { revision: AtomicU64::new(0), clock };
        Rig { objects: Faulty::default(), state, told: Arc::default() }
    }

    /// The node runs for so long, and is gone then, wherever it was.
    async fn run(&mut self, time: Duration) {
        self.told = Arc::default();
        let objects = self.objects.clone();
        let open = Arc::new(move || -> Result<Store, Error> {
            let location = "s3://bucket/tally".parse().unwrap();
            Ok(Store::over(Arc::new(objects.clone()), location, 128, u64::MAX))
        });
        let destination = InStore { open, location: "s3://bucket/tally".to_owned() };
        let settings = Settings { interval: HOUR, kept: KEPT, node_id: 0 };
        let keeper = Keeper::new(
            settings,
            Box::new(destination),
            Names::new(CLUSTER, 0),
            Arc::clone(&self.state.clock) as _,
            Arc::clone(&self.told),
        );
        let ended = timeout(time, keeper.keep(&self.state)).await;
        assert!(ended.is_err(), "it goes on for ever");
    }

    /// Revisions of all that bears a backup's name, and is one.
    async fn revisions(&self) -> Vec<u64> {
        let names = Names::new(CLUSTER, 0);
        let mut revisions = Vec::new();
        for object in self.objects.names().await {
            let name = object.strip_prefix("tally/").expect("it is below the prefix");
            if !names.is_one(name) {
                continue;
            }
            let mut reader = Reader::new();
            reader.give(&self.objects.bytes(&object).await);
            let (header, _) = reader.finish().unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(names.of(&header), name);
            revisions.push(header.revision);
        }
        revisions.sort_unstable();
        revisions
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_are_kept_and_a_start_makes_none_early() {
    let mut rig = Rig::new();
    rig.run(HOUR * 4 + HOUR / 2).await;
    assert_eq!(rig.revisions().await, [4, 5]);
    let counts = rig.told.counts();
    assert_eq!((counts.made, counts.failed, counts.last_revision), (5, 0, 5));
    rig.run(HOUR / 4).await;
    let counts = rig.told.counts();
    assert_eq!((counts.made, counts.failed, counts.last_revision), (0, 0, 5), "not early");
    assert_eq!(counts.last_wall_time_ms, BEGIN_MS + 4 * 3_600_000);
    rig.run(HOUR / 2).await;
    assert_eq!(rig.revisions().await, [5, 6]);
}

/// Each request in turn, in each of the ways: what bears a backup's name is one, and there are never fewer than are
/// kept, of those that are right. Afterwards it goes on.
#[tokio::test(start_paused = true)]
async fn whatever_request_fails_the_last_good_ones_stay_and_no_half_one_is_seen() {
    for fault in [Fault::Fails, Fault::AnswerLost, Fault::Refuses, Fault::Hangs, Fault::Damages] {
        for at in 0.. {
            let mut rig = Rig::new();
            rig.run(HOUR + HOUR / 2).await;
            assert_eq!(rig.revisions().await, [1, 2]);
            let before = rig.objects.requests();
            rig.objects.tell(fault, at, 1);
            rig.run(HOUR * 3 / 4).await;
            let made = rig.revisions().await;
            assert!(made.len() >= KEPT, "{fault:?} of request {at}: {made:?}");
            assert!(made.len() <= KEPT + 1, "{fault:?} of request {at}: {made:?}");
            // It was tried again, unless it waits for ever: then the node is gone.
            if fault != Fault::Hangs {
                assert!(made.last() >= Some(&3), "{fault:?} of request {at}: {made:?}");
                assert_eq!(rig.told.counts().error, "", "{fault:?} of request {at}");
            }
            let all = rig.objects.requests() - before;
            rig.objects.tell(fault, 0, 0);
            let newest = *made.last().unwrap();
            rig.run(HOUR * 2).await;
            let later = rig.revisions().await;
            assert_eq!(later.len(), KEPT, "{fault:?} of request {at}: {later:?}");
            assert!(later.last() > Some(&newest), "{fault:?} of request {at}: {later:?}");
            if all <= at {
                assert!(at > 10, "a backup has more requests than {at}");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_is_asked_later_each_time_and_for_ever() {
    let mut rig = Rig::new();
    rig.run(HOUR + HOUR / 2).await;
    rig.objects.tell(Fault::Refuses, 0, u64::MAX);
    // At once, after 1, 3, 7, 15 and 31 minutes, and from then on each hour.
    for (minutes, failed) in [(0, 1), (2, 2), (6, 3), (14, 4), (30, 5), (50, 6), (60 * 5, 10)] {
        let mut rig = Rig { objects: rig.objects.clone(), ..Rig::new() };
        rig.run(Duration::from_secs(minutes * 60 + 30)).await;
        let counts = rig.told.counts();
        assert_eq!((counts.failed, counts.made), (failed, 0), "after {minutes} minutes");
        assert_eq!(
            counts.error,
            "s3://bucket/tally/: the store refuses these credentials: AccessDenied: Access Denied."
        );
    }
    assert_eq!(rig.revisions().await, [1, 2]);
    // The first three times; then it is let in, sees what there is, and makes the one that was due hours ago.
    rig.objects.tell(Fault::Refuses, 0, 3);
    rig.run(HOUR / 4).await;
    let counts = rig.told.counts();
    assert_eq!((counts.failed, counts.made, &*counts.error), (3, 1, ""));
    assert_eq!(rig.revisions().await, [2, 3]);
}

/// A copy that is not what was sent is found before it has a name, and what has the name was right.
#[tokio::test(start_paused = true)]
async fn what_the_store_damages_gets_no_name() {
    let mut rig = Rig::new();
    rig.objects.tell(Fault::Damages, 0, u64::MAX);
    rig.run(HOUR * 3).await;
    assert_eq!(rig.revisions().await, [0; 0]);
    let counts = rig.told.counts();
    assert!(counts.failed > 3 && counts.made == 0, "{counts:?}");
    assert!(counts.error.contains(".partial: it is damaged at byte "), "{counts:?}");
    rig.objects.tell(Fault::Damages, 0, 0);
    rig.run(HOUR).await;
    assert_eq!(rig.revisions().await.len(), 1);
}
