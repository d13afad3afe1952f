//! The catalogue against the sources: every switch is listed, and every place is where it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::*;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources are there") {
        let path = entry.expect("the directory can be read").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names that the sources ask for, each with the files that do.
fn switches() -> BTreeMap<String, BTreeSet<String>> {
    let repository = repository();
    let mut files = Vec::new();
    for directory in
        ["node/src", "node/machine/src", "node/storage/src", "client/src", "sim-tests/src"]
    {
        sources(&repository.join(directory), &mut files);
    }
    let mut switches: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        if file.ends_with("bugs/catalogue.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source is text");
        let name = file.strip_prefix(&repository).expect("it was found there");
        for rest in text.split("is_on(\"").skip(1) {
            let bug = rest.split('"').next().expect("there is a first part").to_owned();
            let name = name.to_str().expect("names are text").replace('\\', "/");
            switches.entry(bug).or_default().insert(name);
        }
    }
    switches
}

#[test]
fn every_bug_has_its_switch_and_every_switch_its_bug() {
    let switches = switches();
    let in_sources: BTreeSet<&str> = switches.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = BUGS.iter().map(|bug| bug.name).collect();
    assert_eq!(listed.len(), BUGS.len(), "a name is listed twice");
    assert_eq!(listed, in_sources);
}

#[test]
fn places_are_where_the_switches_are() {
    let switches = switches();
    for bug in BUGS {
        let mut files = BTreeSet::new();
        for place in bug.place.split("; ") {
            let (file, function) = place.split_once(": ").expect("a file and a function");
            let name = function.rsplit("::").next().expect("there is a last part");
            let text = fs::read_to_string(repository().join(file)).expect("the file exists");
            assert!(text.contains(&format!("fn {name}")), "{}: no {name} in {file}", bug.name);
            files.insert(file.to_owned());
        }
        assert_eq!(Some(&files), switches.get(bug.name), "places of {}", bug.name);
    }
}

#[test]
fn what_shows_a_bug_is_of_a_bug() {
    let shown =
        SHOWN_IN.iter().map(|(name, _)| name).chain(SHOWN_BY_SEED.iter().map(|(name, _)| name));
    for name in shown {
        assert!(BUGS.iter().any(|bug| bug.name == *name), "{name}");
    }
}

#[test]
fn what_can_not_be_expressed_is_not_listed() {
    for (name, reason) in INEXPRESSIBLE {
        assert!(BUGS.iter().all(|bug| bug.name != *name) && !reason.is_empty(), "{name}");
    }
}
