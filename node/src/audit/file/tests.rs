use std::{fs, os::unix::fs::symlink};

use super::*;

fn sink(path: &Path, file_bytes: u64, files: usize) -> FileSink {
    let settings = Settings {
        file: path.to_path_buf(),
        file_bytes,
        files,
        reads: false,
        must_not_drop: false,
    };
    FileSink::new(&settings)
}

/// Writes all, however many steps that takes.
fn write(sink: &mut FileSink, lines: &str) {
    let mut left = lines.as_bytes();
    while !left.is_empty() {
        let taken = sink.write(left).unwrap();
        assert!(taken > 0 && left[taken - 1] == b'\n', "whole lines");
        left = &left[taken..];
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn full_files_are_put_aside_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut sink = sink(&path, 10, 2);
    // Two lines of five bytes each fit in a file.
    write(&mut sink, &(0..9).map(|line| format!("{line:04}\n")).collect::<String>());
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    assert_eq!(read("audit.log"), "0008\n");
    assert_eq!(read("audit.log.1"), "0006\n0007\n");
    assert_eq!(read("audit.log.2"), "0004\n0005\n");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    // One that is larger than a file has one of its own.
    write(&mut sink, "a long line of its own\nx\n");
    assert_eq!(read("audit.log.1"), "a long line of its own\n");
    assert_eq!(read("audit.log"), "x\n");
    drop(sink);
    // Fewer are to be kept.
    let mut fewer = super::tests::sink(&path, 10, 1);
    write(&mut fewer, "0009\n0010\n0011\n");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    drop(fewer);
    let mut none = super::tests::sink(&path, 10, 0);
    write(&mut none, "0012\n0013\n0014\n");
    assert!(read("audit.log").ends_with("0014\n"));
}

#[test]
fn files_are_private_and_a_mode_that_somebody_gave_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut sink = sink(&path, 10, 2);
    write(&mut sink, "0000\n");
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    drop(sink);
    let mut sink = super::tests::sink(&path, 10, 2);
    write(&mut sink, "0001\n0002\n");
    assert_eq!((mode(&path), mode(&dir.path().join("audit.log.1"))), (0o640, 0o640));
}

#[test]
fn the_name_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, moved) = (dir.path().join("audit.log"), dir.path().join("moved"));
    let mut sink = sink(&path, 0, 0);
    write(&mut sink, "1\n");
    fs::rename(&path, &moved).unwrap();
    write(&mut sink, "2\n");
    fs::remove_file(&path).unwrap();
    write(&mut sink, "3\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
    assert_eq!(fs::read_to_string(&moved).unwrap(), "1\n");
    // Somebody emptied it (logrotate's copytruncate).
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    write(&mut sink, "4\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "4\n");
    // The folder is away, and comes back.
    let (folder, away) = (dir.path().join("folder"), dir.path().join("away"));
    fs::create_dir(&folder).unwrap();
    let mut sink = super::tests::sink(&folder.join("audit.log"), 0, 0);
    write(&mut sink, "5\n");
    fs::rename(&folder, &away).unwrap();
    let error = sink.write(b"6\n").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("audit.log"), "{error}");
    fs::rename(&away, &folder).unwrap();
    write(&mut sink, "6\n");
    assert_eq!(fs::read_to_string(folder.join("audit.log")).unwrap(), "5\n6\n");
}

#[test]
fn the_next_line_begins_behind_a_torn_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    fs::write(&path, "{\"whole\":1}\n{\"torn\":").unwrap();
    let mut sink = sink(&path, 0, 0);
    write(&mut sink, "{\"next\":1}\n");
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text, "{\"whole\":1}\n{\"torn\":\n{\"next\":1}\n");
}

#[test]
fn what_is_no_file_is_refused_and_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let link = dir.path().join("link");
    symlink("/dev/null", &link).unwrap();
    for no_file in [&*pipe, &*link, dir.path()] {
        let error = sink(no_file, 0, 0).open().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::IsADirectory),
            "{error:?}"
        );
    }
    assert_eq!(
        sink(&dir.path().join("no/folder"), 0, 0).open().unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_file_that_can_t_be_put_aside_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    // A folder with something in it can't be replaced by a file.
    fs::create_dir(dir.path().join("audit.log.1")).unwrap();
    fs::write(dir.path().join("audit.log.1/x"), "x").unwrap();
    let mut sink = sink(&path, 10, 1);
    write(&mut sink, "0000\n0001\n0002\n0003\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "0000\n0001\n0002\n0003\n");
}

#[test]
fn a_file_that_another_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let mut one = sink(&path, 10, 1);
    one.open().unwrap();
    let error = sink(&path, 10, 1).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("another process"), "{error}");
    // Also the file after the one that was put aside.
    write(&mut one, "0000\n0001\n0002\n");
    assert!(sink(&path, 10, 1).open().is_err());
    drop(one);
    sink(&path, 10, 1).open().unwrap();
}
