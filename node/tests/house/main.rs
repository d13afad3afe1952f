//! The boundaries of `ARCHITECTURE.md` ("What is absent where"), as far as crates do not keep them: who
//! may know whom, and that no two files import each other in a circle.
//!
//! It reads the sources, as `cargo doc` would. Tests within them are left out: they may know more.

mod circles;
mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use imports::Source;

/// Packages whose files are looked at, by the folder of their sources.
const PACKAGES: [&str; 6] = [
    "node/src",
    "node/machine/src",
    "node/storage/src",
    "client/src",
    "client/cli/src",
    "proto/src",
];

/// Of `tally-node`: what each part may know of the others. A part is a folder or a file of `node/src`.
const MAY_KNOW: [(&str, &[&str]); 13] = [
    ("audit", &["env"]),
    ("env", &["machine", "storage"]),
    ("config", &["machine"]),
    ("metrics", &["storage"]),
    ("consensus", &["config", "env", "machine", "metrics", "storage"]),
    ("backup", &["consensus", "env", "machine", "storage"]),
    ("tls", &["env"]),
    ("port", &["audit", "env", "machine", "tls"]),
    ("status", &["audit", "backup", "consensus", "machine", "tls"]),
    ("peer", &["audit", "consensus", "env", "machine", "port", "status", "storage", "tls"]),
    (
        "api",
        &[
            "audit",
            "backup",
            "consensus",
            "env",
            "machine",
            "metrics",
            "peer",
            "port",
            "status",
            "tls",
        ],
    ),
    (
        "node",
        &[
            "api",
            "audit",
            "backup",
            "config",
            "consensus",
            "env",
            "machine",
            "metrics",
            "peer",
            "port",
            "status",
            "storage",
            "tls",
        ],
    ),
    ("process", &["config", "env", "machine", "node", "storage", "tls"]),
];

/// Words, and the only files that may have them outside of comments and strings: each a prefix of paths.
const ONLY_IN: [(&str, &[&str]); 11] = [
    // No part of a node knows the lab: the program starts it.
    ("tally_lab", &["node/src/process/main.rs"]),
    ("sled::", &["node/storage/src/sled_store.rs"]),
    (
        "std::fs::",
        &[
            "node/storage/src/real_disk.rs",
            "node/storage/src/sled_store.rs",
            "node/src/process/",
            // What the kernel says of the process.
            "node/src/env/usage.rs",
            "node/src/tls/files.rs",
            "node/src/audit/file.rs",
            "node/src/backup/directory.rs",
        ],
    ),
    ("openraft", &["node/src/consensus/", "node/src/peer/", "node/src/node.rs"]),
    (
        "tonic::",
        &[
            "node/src/api/",
            "node/src/peer/",
            "node/src/port/",
            "node/src/node.rs",
            "node/src/process/ask.rs",
            "node/src/process/dev.rs",
            "node/src/process/health.rs",
            "node/src/process/join.rs",
        ],
    ),
    ("hyper::", &["node/src/port/"]),
    ("rustls", &["node/src/tls/"]),
    (
        "tally_proto::v1",
        &[
            "node/src/api/",
            "node/src/status.rs",
            "node/src/peer/ask.rs",
            // Clients of a node, as small as can be.
            "node/src/process/dev.rs",
            "node/src/process/health.rs",
            "node/src/process/join.rs",
        ],
    ),
    ("ReadPermit {", &["node/src/consensus/read.rs"]),
    ("machine::apply(", &["node/src/consensus/apply.rs", "node/src/consensus/propose/bugs.rs"]),
    (".commit(writes", &["node/src/consensus/apply.rs", "node/storage/src/"]),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources of a folder, by their paths below the repository.
fn sources(folder: &str) -> BTreeMap<String, Source> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(repository().join(&folder)).expect("the sources are there");
        for entry in entries {
            let entry = entry.expect("the folder can be read");
            let path = format!("{folder}/{}", entry.file_name().to_str().expect("names are text"));
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.ends_with(".rs") && !is_test(&path) {
                let text = std::fs::read_to_string(entry.path()).expect("a source is text");
                found.insert(path, Source::new(&text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

/// Files that are compiled for tests alone.
fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    path.contains("/tests/")
        || name.ends_with("tests.rs")
        || name.ends_with("_suite.rs")
        || matches!(name, "model.rs" | "properties.rs" | "testscript.rs" | "test_disk.rs")
}

/// The part of `node/src` that a file belongs to.
fn part(path: &str) -> &str {
    let path = path.strip_prefix("node/src/").expect("it is one of its files");
    path.split(['/', '.']).next().expect("there is a first part")
}

#[test]
fn parts_of_the_node_know_only_those_below_them() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        MAY_KNOW.iter().map(|(part, known)| (*part, known.iter().copied().collect())).collect();
    for (path, source) in sources("node/src") {
        let own = part(&path);
        if own == "lib" {
            continue;
        }
        let may_know = allowed.get(own).unwrap_or_else(|| panic!("{path}: is `{own}` a part?"));
        for known in source.roots() {
            assert!(
                known == own || may_know.contains(known.as_str()),
                "{path} knows `{known}`, which `{own}` must not"
            );
        }
    }
}

#[test]
fn libraries_are_named_where_they_are_wrapped() {
    let node = ["node/src", "node/machine/src", "node/storage/src"];
    for (path, source) in node.into_iter().flat_map(sources) {
        for (word, places) in ONLY_IN {
            let may = places.iter().any(|place| path.starts_with(place));
            assert!(may || !source.code.contains(word), "{path} names `{word}`");
        }
    }
}

/// The machine is a function of state and entry.
#[test]
fn the_machine_is_pure() {
    for (path, source) in sources("node/machine/src") {
        for word in ["async ", "Instant", "SystemTime", "std::io", "std::fs", "std::env", "rand"] {
            let is_word = |at: usize| {
                let before = source.code[..at].chars().next_back().unwrap_or(' ');
                let after = source.code[at + word.len()..].chars().next().unwrap_or(' ');
                let ends = word.ends_with(' ') || !(after.is_alphanumeric() || after == '_');
                ends && !(before.is_alphanumeric() || before == '_')
            };
            let found = source.code.match_indices(word).find(|(at, _)| is_word(*at));
            assert!(found.is_none(), "{path} has `{word}`");
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let of = |package: &str| (package.to_owned(), circles::of(package, &sources(package)));
    let circles: Vec<_> = PACKAGES.into_iter().map(of).collect();
    assert!(circles.iter().all(|(_, circles)| circles.is_empty()), "circles: {circles:#?}");
}

/// Who writes a client reads there what each reason means, and what it says of the outcome.
#[test]
fn every_reason_is_in_the_table_of_errors() {
    let read = |path: &str| std::fs::read_to_string(repository().join(path)).expect("it is read");
    let (reasons, table) = (read("proto/src/reason.rs"), read("docs/exactly-once.md"));
    let names = reasons.lines().filter_map(|line| {
        let (_, value) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
        value.strip_suffix("\";")
    });
    let (known, missing): (Vec<_>, Vec<_>) =
        names.partition(|name| table.contains(&format!("`{name}`")));
    assert!(known.len() > 50, "{known:?}");
    assert!(missing.is_empty(), "docs/exactly-once.md does not name {missing:?}");
}
