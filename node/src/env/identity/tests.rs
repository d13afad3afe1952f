//! What the file remembers, and whom it refuses.

use super::*;
use crate::storage::simulated_disk::SimulatedDisk;

async fn opened(disk: &SimulatedDisk) -> Identity {
    Identity::open(Arc::new(disk.mount()), 7, 1).await.expect("it opens")
}

/// What others said was written down at any length, and from 1 MiB on the file could not be read again: the
/// node never started any more.
#[tokio::test]
async fn others_can_not_fill_the_file() {
    let disk = SimulatedDisk::new(1);
    let identity = opened(&disk).await;
    let long = "a".repeat(FILE_BYTES_MAX);
    assert!(identity.meet(2, &long).await.is_err());
    assert!(identity.saw_start(2, Start { number: 1, nonce: long }).await.is_err());
    let text = || "a".repeat(TOLD_BYTES_MAX);
    let mut refused = 0;
    for id in 0..NODES_MAX as u64 + 20 {
        let id = u64::MAX - id;
        let start = Start { number: u64::MAX, nonce: text() };
        let told = (identity.meet(id, &text()).await, identity.saw_start(id, start).await);
        refused += usize::from(told.0.is_err() && told.1.is_err());
    }
    assert_eq!(refused, 20);
    // Those that are known are still listened to.
    let later = identity.meet(u64::MAX, "b").await.expect("it is known");
    assert_eq!(later, text());
    let known = identity.known().await;
    assert_eq!(opened(&disk).await.known().await, known);
}

/// A voter that crashed soon after it became one started from a state of before, in which it was no
/// member, took that for its removal, and never started again.
#[tokio::test]
async fn a_membership_of_before_is_no_removal() {
    let disk = SimulatedDisk::new(1);
    let identity = opened(&disk).await;
    assert!(!identity.saw_membership(414, false).await.expect("it is stored"));
    assert!(!identity.saw_membership(1787, true).await.expect("it is stored"));
    assert!(!identity.saw_membership(1813, true).await.expect("it is stored"));

    let identity = opened(&disk).await;
    assert!(!identity.saw_membership(414, false).await.expect("it is stored"));
    assert!(!identity.saw_membership(1819, true).await.expect("it is stored"));
    assert!(identity.saw_membership(1820, false).await.expect("it is stored"));
}

/// A release from before clusters had versions reads format 1 only, and refuses it by name.
#[tokio::test]
async fn a_raised_version_refuses_older_releases() {
    let disk = SimulatedDisk::new(1);
    let identity = opened(&disk).await;
    identity.raise_version(FormatVersion::FIRST).await.expect("it is so");
    let content = read(&disk.mount()).await.expect("it is read").expect("it is there");
    assert_eq!((content.format, content.cluster_version), (1, None));
    identity.check_version(FormatRange::UNSAID).await.expect("any release reads it");
    identity.raise_version(FormatVersion(2)).await.expect("it is stored");
    identity.raise_version(FormatVersion(1)).await.expect("it never falls");
    let identity = opened(&disk).await;
    let content = read(&disk.mount()).await.expect("it is read").expect("it is there");
    assert_eq!((content.format, content.cluster_version), (2, Some(FormatVersion(2))));
    identity.check_version(FormatRange::said(1, 2)).await.expect("it reads that");
    let error = identity.check_version(FormatRange::UNSAID).await.unwrap_err().to_string();
    assert!(error.contains("start the newer release again"), "{error}");
    let error = identity.check_version(FormatRange::said(3, 4)).await.unwrap_err().to_string();
    assert!(error.contains("too new") && error.contains("version 3 to 4"), "{error}");
}
