//! The disaster drill: a backup under load, every node and every disk gone, a new cluster, the backup restored into
//! it, and an audit.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tally_client::{
    Client, RestorePhase,
    backup_format::{Footer, Header, Reader},
    reason,
};
use tokio::sync::Mutex;

use crate::support::nodes::Cluster;

/// Writers, each with counters of its own and a key for each write.
const WRITERS: u64 = 4;

/// A write that was acknowledged: whose, which, and at which revision.
type Acknowledged = Arc<Mutex<BTreeMap<(u64, u64), u64>>>;

async fn add(client: &Client, writer: u64, number: u64) -> tally_client::Result<(i64, u64, bool)> {
    let counter = client.counter(format!("drill/{writer}"));
    let key = format!("order-{writer}-{number}");
    let added = counter.add(1).idempotency_key(key).await?;
    Ok((added.value, added.revision, added.write.replayed))
}

/// Adds one by one until it is told to stop, and then goes no further than where it is.
async fn write(client: Client, writer: u64, acknowledged: Acknowledged) {
    for number in 1.. {
        match add(&client, writer, number).await {
            Ok((_, revision, _)) => {
                acknowledged.lock().await.insert((writer, number), revision);
            }
            Err(_) => return,
        }
    }
}

async fn back_up(client: &Client) -> Vec<u8> {
    let mut backup = client.backup().await.expect("a backup begins");
    let mut file = Vec::new();
    while let Some(part) = backup.next().await.expect("it goes on") {
        file.extend_from_slice(&part.data);
    }
    file
}

fn read(file: &[u8]) -> (Header, Footer, Vec<bytes::Bytes>) {
    let mut reader = Reader::new();
    reader.give(file);
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block().expect("it is a backup") {
        blocks.push(block);
    }
    let (header, footer) = reader.finish().expect("it is whole");
    (header, footer, blocks)
}

#[tokio::test]
async fn nothing_acknowledged_before_the_backup_is_missing_and_no_key_counts_twice() {
    let mut lost = Cluster::started("drill-lost", 3, &[]).await;
    let acknowledged = Acknowledged::default();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(lost.client(), writer, Arc::clone(&acknowledged))))
        .collect();
    let enough = || async {
        let writes = acknowledged.lock().await.len();
        (writes >= 400).then_some(())
    };
    crate::support::eventually("writers have written", enough).await;
    let before = acknowledged.lock().await.clone();
    let file = back_up(&lost.client()).await;
    let (header, footer, blocks) = read(&file);
    let old_token = {
        let read = lost.client().counter("drill/0").get().await.unwrap();
        read.header.session_token
    };
    // All nodes and all disks.
    lost.kill_all();
    for writer in writers {
        writer.abort();
    }
    drop(lost);
    let acknowledged = acknowledged.lock().await.clone();
    assert!(
        before.values().all(|revision| *revision <= header.revision),
        "what was acknowledged before it was asked for is in it"
    );

    let new = Cluster::started("drill-new", 3, &[]).await;
    let client = new.client();
    let restore = async |blocks: &[bytes::Bytes], from: u64| {
        for (number, block) in (0..).zip(blocks).skip(from as usize) {
            client.restore_block(number, block.clone()).await.unwrap();
        }
    };
    client.begin_restore(&header, &footer).await.unwrap();
    restore(&blocks[..blocks.len() / 2], 0).await;
    // Interrupted there, it shows nothing and takes nothing; begun again it goes on.
    let refused = client.counter("drill/0").get().deadline(Duration::from_secs(1)).await;
    assert_eq!(refused.unwrap_err().reason(), reason::RESTORE_UNDER_WAY);
    let went_on = client.begin_restore(&header, &footer).await.unwrap();
    assert_eq!(went_on.phase, RestorePhase::UnderWay);
    restore(&blocks, went_on.next_block).await;
    let done = client.finish_restore(&footer).await.unwrap();
    assert_eq!(done.phase, RestorePhase::Done);

    audit(&client, &header, &acknowledged).await;

    // Whoever read from the lost cluster is told that this is another one.
    let level = tally_client::ReadLevel::Session(Some(old_token));
    let refused = client.counter("drill/0").get().level(level).await.unwrap_err();
    assert_eq!(refused.reason(), reason::TOKEN_OF_ANOTHER_CLUSTER, "{refused}");
    // And it is not empty any more.
    let refused = client.begin_restore(&header, &footer).await.unwrap_err();
    assert_eq!(refused.reason(), reason::CLUSTER_NOT_EMPTY, "{refused}");
    // What it was made of and what it made are the same counters and keys: a backup of it before the
    // writers' retries would say so; after them the counts do.
    let again = read(&back_up(&client).await);
    assert_eq!(again.0.restore_epoch, header.restore_epoch + 1);
    assert_ne!(again.0.cluster_id, header.cluster_id);
    assert!(again.0.revision > header.revision);
}

/// A node makes them by itself, keeps the newest, and goes on with them after a start.
#[tokio::test]
async fn a_node_makes_backups_by_itself_and_keeps_the_newest() {
    let dir = tempfile::tempdir().expect("a directory");
    let backups = dir.path().join("backups");
    let path = backups.to_str().expect("text").to_owned();
    let flags = ["--backup-dir", &*path, "--backup-interval-ms", "1000", "--backups-kept", "2"];
    let mut cluster = Cluster::started("by-itself", 1, &flags).await;
    let files = || {
        let entries = std::fs::read_dir(&backups).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.path()).collect();
        names.sort();
        names.retain(|path| path.extension().is_some_and(|end| end == "backup"));
        names
    };
    let client = cluster.client();
    let mut seen = std::collections::BTreeSet::new();
    let mut revision = 0;
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    while seen.len() < 4 {
        assert!(tokio::time::Instant::now() < until, "only {seen:?}");
        revision = client.counter("hits").add(1).await.unwrap().revision;
        seen.extend(files());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = files();
    // One may just be there that is to be removed for it.
    assert!((2..=3).contains(&kept.len()), "{kept:?}");
    let newest = kept.last().expect("there are some");
    let (header, _, _) = read(&std::fs::read(newest).expect("it can be read"));
    assert!(header.revision <= revision && header.counters == 1, "{header:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(newest).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let told = async |cluster: &mut Cluster| {
        let status = cluster.node(1).status().await.expect("it answers");
        status.backups.expect("it makes them")
    };
    let before = told(&mut cluster).await;
    assert!(before.made >= 4 && before.failed == 0 && before.error.is_empty(), "{before:?}");

    // Where none can be made that is told, and what there is stays.
    cluster.node(1).kill();
    std::fs::set_permissions(&backups, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    let aside = dir.path().join("aside");
    std::fs::rename(&backups, &aside).unwrap();
    std::fs::write(&backups, "a file is in the way").unwrap();
    cluster.node(1).start();
    let failed = || async {
        let status = cluster.nodes[0].status().await?;
        status.backups.filter(|backups| !backups.error.is_empty())
    };
    let failed = crate::support::eventually("the failure is told", failed).await;
    assert!(failed.failed > 0 && failed.last_wall_time_ms == 0, "{failed:?}");
    std::fs::remove_file(&backups).unwrap();
    std::fs::rename(&aside, &backups).unwrap();
    cluster.node(1).kill();
    cluster.node(1).start();
    let again = || async {
        let status = cluster.nodes[0].status().await?;
        status.backups.filter(|backups| backups.last_wall_time_ms > 0)
    };
    let again = crate::support::eventually("it knows the newest", again).await;
    assert!(again.last_revision >= header.revision, "{again:?}, {header:?}");
}

/// What is restored so far is no state of anybody's: neither the schedule nor a client gets a backup of it, and both do
/// once it is whole.
#[tokio::test]
async fn a_state_that_is_being_restored_is_not_backed_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("backups").to_str().expect("text").to_owned();
    let mut from = Cluster::started("restored-from", 1, &[]).await;
    for key in 0..300 {
        from.client().keys().put(format!("k/{key}"), vec![7; 4096]).await.unwrap();
    }
    let (header, footer, blocks) = read(&back_up(&from.client()).await);
    assert!(blocks.len() > 1, "{} blocks", blocks.len());
    from.kill_all();

    let flags = ["--backup-dir", &*path, "--backup-interval-ms", "1000", "--backups-kept", "1"];
    let mut cluster = Cluster::started("restored-half", 1, &flags).await;
    let client = cluster.client();
    client.begin_restore(&header, &footer).await.unwrap();
    client.restore_block(0, blocks[0].clone()).await.unwrap();
    // Without the patience of the others: it would be asked again until the restore is over.
    let impatient = Client::builder(cluster.addresses()).deadline(Duration::from_secs(2));
    let refused = impatient.build().expect("addresses").backup().await;
    let refused = refused.expect_err("it is refused");
    assert_eq!(refused.reason(), reason::RESTORE_UNDER_WAY, "{refused}");
    let told = async |cluster: &mut Cluster| {
        let status = cluster.node(1).status().await.expect("it answers");
        status.backups.expect("it makes them")
    };
    // One that was begun before may come to its end; each later one fails.
    let failed = told(&mut cluster).await.failed;
    let refused = || async {
        let backups = cluster.nodes[0].status().await?.backups?;
        (backups.failed >= failed + 3).then_some(backups)
    };
    let refused = crate::support::eventually("it refuses", refused).await;
    assert!(refused.error.contains("restored"), "{refused:?}");
    let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
    for made in entries.map(|entry| entry.path()).filter(|it| it.extension().is_some()) {
        if made.extension().is_some_and(|end| end == "backup") {
            let (header, _, _) = read(&std::fs::read(made).expect("it can be read"));
            assert_eq!((header.keys, header.restore_epoch), (0, 0), "from before the restore");
        }
    }
    for (number, block) in (0..).zip(&blocks).skip(1) {
        client.restore_block(number, block.clone()).await.unwrap();
    }
    client.finish_restore(&footer).await.unwrap();
    let whole = || async {
        let backups = cluster.nodes[0].status().await?.backups?;
        (backups.error.is_empty() && backups.last_revision > header.revision).then_some(backups)
    };
    crate::support::eventually("it goes on", whole).await;
    let (again, _, _) = read(&back_up(&client).await);
    assert_eq!((again.keys, again.restore_epoch), (300, header.restore_epoch + 1));
}

async fn audit(client: &Client, header: &Header, acknowledged: &BTreeMap<(u64, u64), u64>) {
    for writer in 0..WRITERS {
        let restored = client.counter(format!("drill/{writer}")).get().await.unwrap().value;
        let of_writer = acknowledged.iter().filter(|((of, _), _)| *of == writer);
        let covered = of_writer.clone().filter(|(_, revision)| **revision <= header.revision);
        let covered = covered.count() as i64;
        // One more may be in it that was not acknowledged yet.
        assert!(
            restored == covered || restored == covered + 1,
            "writer {writer}: {covered} acknowledged by then, {restored} restored"
        );
        // The writer sends all that it ever sent again, under the same keys: what is in the backup is answered, and what
        // is not is applied.
        let mut replays = 0;
        let mut last = restored;
        let sent = of_writer.count() as u64 + 1;
        for number in 1..=sent {
            let (value, revision, replayed) = add(client, writer, number).await.unwrap();
            if replayed {
                replays += 1;
                assert!(revision <= header.revision, "an answer of before");
            } else {
                last += 1;
                assert_eq!(value, last, "applied once");
                assert!(revision > header.revision, "revisions go on above the backup's");
            }
        }
        assert_eq!(replays, restored, "writer {writer}: each that is in the backup was answered");
        let total = client.counter(format!("drill/{writer}")).get().await.unwrap().value;
        assert_eq!(total, sent as i64, "writer {writer}: each counted once");
    }
}
