//! Files that import each other in a circle.
//!
//! A module and those in its folder may: they are one thing in several files. What a path through the
//! crate's root names (`crate::Error`) is where the root has it from, so it is not followed.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::Source;

/// The module of a file below a package's folder, as its segments; the root has none.
fn module(package: &str, path: &str) -> Vec<String> {
    let path = path.strip_prefix(package).and_then(|path| path.strip_prefix('/'));
    let path = path.and_then(|path| path.strip_suffix(".rs")).expect("it is a source of it");
    let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
    if matches!(segments.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        segments.pop();
    }
    segments
}

/// Circles of a package, each as its modules, with those of the circle that each imports.
pub(crate) fn of(package: &str, sources: &BTreeMap<String, Source>) -> Vec<Vec<String>> {
    let modules: BTreeMap<Vec<String>, &Source> =
        sources.iter().map(|(path, source)| (module(package, path), source)).collect();
    let mut knows: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = BTreeMap::new();
    for (own, source) in &modules {
        for path in &source.paths {
            let Some(target) = resolve(own, path, &modules) else { continue };
            if target != own && !target.is_empty() && !own.is_empty() && !is_family(own, target) {
                knows.entry(own).or_default().insert(target);
            }
        }
    }
    let reach = |from: &Vec<String>| {
        let mut seen: BTreeSet<&Vec<String>> = BTreeSet::new();
        let mut next: Vec<&Vec<String>> = knows.get(from).into_iter().flatten().copied().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(knows.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&Vec<String>, _> =
        modules.keys().map(|module| (module, reach(module))).collect();
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for (module, seen) in &reached {
        if !seen.contains(module) || told.contains(module) {
            continue;
        }
        let circle: Vec<&Vec<String>> =
            seen.iter().copied().filter(|other| reached[other].contains(module)).collect();
        told.extend(circle.iter().copied());
        let names = |module: &&Vec<String>| {
            let known = knows[*module].iter().filter(|known| circle.contains(*known));
            let known: Vec<String> = known.map(|known| known.join("::")).collect();
            format!("{} -> {}", module.join("::"), known.join(", "))
        };
        circles.push(circle.iter().map(names).collect());
    }
    circles
}

/// One is the other's parent, or a parent of that.
fn is_family(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// The module that a path leads to: the longest that is one.
fn resolve<'a>(
    own: &[String],
    path: &[String],
    modules: &'a BTreeMap<Vec<String>, &Source>,
) -> Option<&'a Vec<String>> {
    let mut at: Vec<String> = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => own.to_vec(),
    };
    for segment in path {
        match segment.as_str() {
            "crate" | "self" => {}
            "super" => drop(at.pop()),
            name => {
                at.push(name.to_owned());
                if !modules.contains_key(&at) {
                    at.pop();
                    break;
                }
            }
        }
    }
    modules.get_key_value(&at).map(|(module, _)| module)
}
