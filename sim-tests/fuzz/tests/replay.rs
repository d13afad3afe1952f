//! Every target over its seeds, its kept corpus and the cases that once broke it: without any tool for fuzzing.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use tally_fuzz::{TARGETS, Target, pack, seeds, unpack};

/// All files of a folder, in the order of their names; a missing folder has none.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it is read").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("it is read"))).collect()
}

fn replay(name: &str, target: Target, what: &str, bytes: &[u8]) {
    if catch_unwind(|| target(bytes)).is_err() {
        panic!("{name}: {what} breaks a promise (see above)");
    }
}

#[test]
fn seeds_and_corpora_and_old_findings_keep_every_promise() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = seeds::all();
    for (name, target) in TARGETS {
        let mut seen = 0;
        for (_, what, bytes) in seeds.iter().filter(|(of, ..)| of == name) {
            replay(name, *target, what, bytes);
            seen += 1;
        }
        assert!(seen > 0, "{name} has no seed");
        let kept = fs::read(root.join("corpus").join(name)).expect("a corpus is kept");
        for (at, bytes) in unpack(&kept).enumerate() {
            replay(name, *target, &format!("number {at} of its corpus"), bytes);
            seen += 1;
        }
        for (path, bytes) in files(&root.join("cases").join(name)) {
            replay(name, *target, &path.display().to_string(), &bytes);
            seen += 1;
        }
        println!("{name}: {seen} inputs");
    }
}

/// A seed that no decoder takes would lead nowhere: cut by its last byte, or followed by one, most are refused.
#[test]
fn a_target_lives_with_every_seed_cut_anywhere_and_any_byte_changed() {
    for (of, what, bytes) in seeds::all() {
        let (name, target) = TARGETS.iter().find(|(name, _)| *name == of).expect("it is one");
        let step = (bytes.len() / 64).max(1);
        for at in (0..bytes.len()).step_by(step) {
            replay(name, *target, &format!("{what}, cut at {at}"), &bytes[..at]);
            let mut changed = bytes.clone();
            changed[at] ^= 0x81;
            replay(name, *target, &format!("{what}, changed at {at}"), &changed);
        }
    }
}

#[test]
fn a_corpus_is_unpacked_as_it_was_packed() {
    let inputs = [0, 1, 254, 255, 256, 60_000, 0].map(|length| vec![7u8; length]);
    let packed = pack(inputs.iter().map(Vec::as_slice));
    assert!(unpack(&packed).eq(inputs.iter().map(Vec::as_slice)));
}

/// A corpus is kept small enough to be kept: below 1 MB in all.
#[test]
fn the_corpora_are_of_targets_and_small() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_target = |path: &Path| TARGETS.iter().any(|(name, _)| path.ends_with(name));
    let mut bytes = 0;
    for (path, kept) in files(&root.join("corpus")) {
        assert!(is_target(&path), "{} is of no target", path.display());
        bytes += kept.len();
    }
    for entry in fs::read_dir(root.join("cases")).expect("there are cases") {
        let folder = entry.expect("it is read").path();
        assert!(is_target(&folder), "{} is of no target", folder.display());
        bytes += files(&folder).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    assert!(bytes < 1_000_000, "{bytes} bytes are kept");
}
