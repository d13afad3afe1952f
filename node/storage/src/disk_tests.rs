//! One suite for the disk contract, passed by real files and by the simulated disk, and tests of
//! what the simulated disk does in a crash.

use std::{io::ErrorKind, sync::Arc};

use super::{
    disk::{Disk, OpenMode},
    real_disk::RealDisk,
    simulated_disk::{CrashMode, SimulatedDisk},
};

async fn on_both<F: AsyncFn(Arc<dyn Disk>)>(suite: F) {
    let dir = tempfile::tempdir().unwrap();
    suite(Arc::new(RealDisk::new(dir.path().to_path_buf()).unwrap())).await;
    suite(Arc::new(SimulatedDisk::new(1).mount())).await;
}

#[tokio::test]
async fn directories_list_their_names_in_order() {
    on_both(async |disk| {
        assert_eq!(disk.list("a").await.unwrap_err().kind(), ErrorKind::NotFound);
        disk.create_dir_all("a/b").await.unwrap();
        disk.create_dir_all("a/b").await.unwrap();
        for name in ["a/2", "a/1", "a/b/3", "top"] {
            disk.open(name, OpenMode::CreateNew).await.unwrap();
        }
        assert_eq!(disk.list("a").await.unwrap(), ["1", "2", "b"]);
        assert_eq!(disk.list("a/b").await.unwrap(), ["3"]);
        assert_eq!(disk.list("").await.unwrap(), ["a", "top"]);
        for directory in ["", "a", "a/b"] {
            disk.sync_dir(directory).await.unwrap();
        }
        assert!(disk.free_bytes().await.unwrap() > 0);

        disk.remove_dir_all("a").await.unwrap();
        disk.remove_dir_all("a").await.unwrap();
        assert_eq!(disk.list("").await.unwrap(), ["top"]);
    })
    .await;
}

#[tokio::test]
async fn open_modes_keep_their_word() {
    on_both(async |disk| {
        let missing = disk.open("f", OpenMode::Read).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let missing = disk.open("f", OpenMode::ReadWrite).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let missing = disk.open("none/f", OpenMode::CreateNew).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);

        let mut file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, b"abc").await.unwrap();
        let twice = disk.open("f", OpenMode::CreateNew).await.unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
        let mut reader = disk.open("f", OpenMode::Read).await.unwrap();
        assert_eq!(reader.read_at(0, 10).await.unwrap(), b"abc");
        reader.write_at(0, b"x").await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn bytes_are_read_as_written() {
    on_both(async |disk| {
        let mut file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0);
        file.write_at(1000, b"end").await.unwrap();
        assert_eq!(file.len().await.unwrap(), 1003);
        assert_eq!(file.read_at(998, 4).await.unwrap(), b"\0\0en");
        assert_eq!(file.read_at(1001, 100).await.unwrap(), b"nd");
        assert_eq!(file.read_at(5000, 100).await.unwrap(), b"");

        file.allocate(600_000).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 600_000);
        assert_eq!(file.read_at(1000, 5).await.unwrap(), b"end\0\0");
        assert!(file.read_at(1003, 600_000).await.unwrap().iter().all(|byte| *byte == 0));
        file.allocate(10).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 600_000);

        file.truncate(1001).await.unwrap();
        file.sync().await.unwrap();
        file.allocate(1010).await.unwrap();
        assert_eq!(file.read_at(1000, 100).await.unwrap(), b"e\0\0\0\0\0\0\0\0\0");
    })
    .await;
}

/// A damaged length of 2^62 bytes ended the process, as there was no memory for it.
#[tokio::test]
async fn what_is_read_is_no_longer_than_what_is_there() {
    on_both(async |disk| {
        let mut file = disk.open("f", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, b"a few bytes").await.unwrap();
        for len in [11, 1 << 20, 1 << 21, 1 << 62, usize::MAX] {
            assert_eq!(file.read_at(0, len).await.unwrap(), b"a few bytes", "{len}");
            assert_eq!(file.read_at(9, len).await.unwrap(), b"es", "{len}");
            assert_eq!(file.read_at(11, len).await.unwrap(), b"", "{len}");
            assert_eq!(file.read_at(1 << 40, len).await.unwrap(), b"", "{len}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_rename_replaces_and_open_files_follow() {
    on_both(async |disk| {
        let mut a = disk.open("a", OpenMode::CreateNew).await.unwrap();
        a.write_at(0, b"A").await.unwrap();
        let mut b = disk.open("b", OpenMode::CreateNew).await.unwrap();
        b.write_at(0, b"B").await.unwrap();
        disk.rename("a", "b").await.unwrap();
        a.write_at(1, b"2").await.unwrap();

        assert_eq!(disk.list("").await.unwrap(), ["b"]);
        let file = disk.open("b", OpenMode::Read).await.unwrap();
        assert_eq!(file.read_at(0, 9).await.unwrap(), b"A2");
        assert_eq!(disk.rename("a", "c").await.unwrap_err().kind(), ErrorKind::NotFound);

        disk.remove_file("b").await.unwrap();
        assert_eq!(disk.remove_file("b").await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(disk.list("").await.unwrap(), Vec::<String>::new());
        assert_eq!(file.read_at(0, 9).await.unwrap(), b"A2", "an open file outlives its name");
    })
    .await;
}

#[tokio::test]
async fn a_large_file_is_removed_aside() {
    on_both(async |disk| {
        let mut file = disk.open("large", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, &vec![7; (5 << 20) + 1]).await.unwrap();
        disk.open("small", OpenMode::CreateNew).await.unwrap();
        for name in ["large", "small"] {
            disk.remove_file_aside(name).await.unwrap();
            let again = disk.remove_file_aside(name).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::NotFound);
        }
        assert_eq!(disk.list("").await.unwrap(), Vec::<String>::new());
        assert!(file.len().await.unwrap() <= 5 << 20, "it was given back piece by piece");
    })
    .await;
}

/// An operator may hold a snapshot by a second name while he copies it.
#[tokio::test]
async fn a_file_with_a_second_name_keeps_its_bytes_when_it_is_removed_aside() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(dir.path().to_path_buf()).unwrap();
    let mut file = disk.open("large", OpenMode::CreateNew).await.unwrap();
    file.write_at(0, &vec![7; 3 << 20]).await.unwrap();
    std::fs::hard_link(dir.path().join("large"), dir.path().join("held")).unwrap();
    disk.remove_file_aside("large").await.unwrap();
    assert_eq!(disk.list("").await.unwrap(), ["held"]);
    assert_eq!(file.len().await.unwrap(), 3 << 20);
}

/// What a crash may leave of a file that was being removed.
#[tokio::test]
async fn a_crash_may_leave_a_part_of_a_file_that_is_removed_aside() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimulatedDisk::new(seed);
        half_written(&disk, 4096).await;
        disk.crash_after_steps(1);
        assert!(disk.mount().remove_file_aside("f").await.is_err());
        disk.crash();
        if let Ok(file) = disk.mount().open("f", OpenMode::Read).await {
            left.insert(file.len().await.unwrap());
        }
    }
    assert!(left.len() > 10, "only these lengths were left: {left:?}");
}

/// A durable file of 'a's, overwritten by 'b's that no sync covers.
async fn half_written(disk: &SimulatedDisk, bytes: usize) {
    let mount = disk.mount();
    let mut file = mount.open("f", OpenMode::CreateNew).await.unwrap();
    file.write_at(0, &vec![b'a'; bytes]).await.unwrap();
    file.sync().await.unwrap();
    mount.sync_dir("").await.unwrap();
    file.write_at(0, &vec![b'b'; bytes]).await.unwrap();
}

#[tokio::test]
async fn a_crash_keeps_loses_and_tears_sectors_each_for_itself() {
    let disk = SimulatedDisk::new(7);
    half_written(&disk, 512 * 200).await;
    disk.crash();
    let left = &disk.contents()["f"];
    let (mut old, mut new, mut torn) = (0, 0, 0);
    for sector in left.chunks(512) {
        let kept = sector.iter().take_while(|byte| **byte == b'b').count();
        assert!(sector[kept..].iter().all(|byte| *byte == b'a'), "a tear has one seam");
        match kept {
            0 => old += 1,
            512 => new += 1,
            _ => torn += 1,
        }
    }
    assert!(old > 20 && new > 20 && torn > 5, "{old} old, {new} new, {torn} torn");
    assert_eq!(disk.counts().sectors_torn, torn);

    let again = SimulatedDisk::new(7);
    half_written(&again, 512 * 200).await;
    again.crash();
    assert_eq!(disk.contents(), again.contents(), "one seed, one outcome");
}

#[tokio::test]
async fn losing_everything_unsynced_goes_back_to_the_last_sync() {
    let disk = SimulatedDisk::new(7);
    disk.set_crash_mode(CrashMode::LoseUnsynced);
    half_written(&disk, 5000).await;
    let mount = disk.mount();
    let mut file = mount.open("f", OpenMode::ReadWrite).await.unwrap();
    file.truncate(10).await.unwrap();
    file.write_at(20, b"x").await.unwrap();
    mount.rename("f", "g").await.unwrap();
    mount.open("h", OpenMode::CreateNew).await.unwrap();
    disk.crash();
    let contents = disk.contents();
    assert_eq!(contents.keys().collect::<Vec<_>>(), ["f"]);
    assert_eq!(contents["f"], vec![b'a'; 5000]);
    assert_eq!(file.sync().await.unwrap_err().to_string(), "crashed");
    assert_eq!(mount.list("").await.unwrap_err().to_string(), "crashed");
    disk.mount().list("").await.unwrap();
}

#[tokio::test]
async fn a_crash_decides_each_directory_entry_for_itself() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = SimulatedDisk::new(seed);
        let mount = disk.mount();
        let mut file = mount.open("old", OpenMode::CreateNew).await.unwrap();
        file.write_at(0, b"x").await.unwrap();
        file.sync().await.unwrap();
        mount.sync_dir("").await.unwrap();
        mount.rename("old", "new").await.unwrap();
        disk.crash();
        seen.insert(disk.contents().keys().cloned().collect::<Vec<_>>().join(" "));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "new", "new old", "old"]);
}

#[tokio::test]
async fn a_lost_directory_takes_what_is_in_it_along() {
    let disk = SimulatedDisk::new(1);
    disk.set_crash_mode(CrashMode::LoseUnsynced);
    let mount = disk.mount();
    mount.create_dir_all("d").await.unwrap();
    mount.open("d/f", OpenMode::CreateNew).await.unwrap().sync().await.unwrap();
    mount.sync_dir("d").await.unwrap();
    disk.crash();
    assert!(disk.contents().is_empty());
}

#[tokio::test]
async fn a_later_sync_does_not_cover_what_an_earlier_one_failed_on() {
    let disk = SimulatedDisk::new(1);
    half_written(&disk, 1024).await;
    let mut file = disk.mount().open("f", OpenMode::ReadWrite).await.unwrap();
    disk.fail_syncs(1);
    assert_eq!(file.sync().await.unwrap_err().raw_os_error(), Some(5));
    file.sync().await.unwrap();
    assert_eq!(disk.contents()["f"], vec![b'b'; 1024]);
    disk.crash();
    assert_eq!(disk.contents()["f"], vec![b'a'; 1024]);
}

#[tokio::test]
async fn a_failed_read_takes_nothing_away() {
    let disk = SimulatedDisk::new(1);
    half_written(&disk, 1024).await;
    let file = disk.mount().open("f", OpenMode::Read).await.unwrap();
    disk.fail_reads(1);
    assert_eq!(file.read_at(0, 4).await.unwrap_err().raw_os_error(), Some(5));
    assert_eq!(file.read_at(0, 4).await.unwrap(), b"bbbb");
    assert_eq!(disk.counts().errors, 1);
}

#[tokio::test]
async fn the_step_that_crashes_and_all_after_it_fail() {
    let disk = SimulatedDisk::new(1);
    let mut file = disk.mount().open("f", OpenMode::CreateNew).await.unwrap();
    disk.crash_after_steps(1);
    file.write_at(0, b"x").await.unwrap();
    assert_eq!(file.sync().await.unwrap_err().to_string(), "crashed");
    assert!(disk.is_dead());
    assert_eq!(file.read_at(0, 1).await.unwrap_err().to_string(), "crashed");
    disk.crash();
    disk.mount().list("").await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_growth_only() {
    let disk = SimulatedDisk::new(1);
    disk.set_capacity(Some(1000));
    let mount = disk.mount();
    let mut file = mount.open("f", OpenMode::CreateNew).await.unwrap();
    file.allocate(900).await.unwrap();
    assert_eq!(mount.free_bytes().await.unwrap(), 100);
    assert_eq!(file.allocate(1001).await.unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(file.len().await.unwrap(), 900);
    file.write_at(0, &[1; 900]).await.unwrap();
    let full = file.write_at(899, &[1; 200]).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    disk.set_capacity(None);
    file.write_at(899, &[1; 200]).await.unwrap();
}

#[tokio::test]
async fn a_flipped_bit_stays_flipped() {
    let disk = SimulatedDisk::new(1);
    half_written(&disk, 600).await;
    assert!(disk.flip_bit("f", 5, 1));
    assert!(!disk.flip_bit("f", 600, 1));
    disk.set_crash_mode(CrashMode::LoseUnsynced);
    disk.crash();
    assert_eq!(disk.contents()["f"][4..7], [b'a', b'a' ^ 2, b'a']);
}
