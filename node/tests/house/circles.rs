//! Files that import each other in a circle.
//!
//! What stands beside each other in one folder may not: a file, or a folder with all that is in it. A module
//! and those in its folder may: they are one thing in several files. What a path through the crate's root
//! names (`crate::Error`) is where the root has it from, so it is not followed.

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

/// Circles of a package, each as what is part of it, with whom of the circle that imports.
pub(crate) fn of(package: &str, sources: &BTreeMap<String, Source>) -> Vec<Vec<String>> {
    let modules: BTreeMap<Vec<String>, &Source> =
        sources.iter().map(|(path, source)| (module(package, path), source)).collect();
    // By the folder: who of those in it knows whom.
    let mut folders: BTreeMap<&[String], Knows<'_>> = BTreeMap::new();
    for (own, source) in &modules {
        for path in &source.paths {
            let Some(target) = resolve(own, path, &modules) else { continue };
            let depth = own.iter().zip(target).take_while(|(own, target)| own == target).count();
            // Else one is the other, or holds it.
            if depth < own.len() && depth < target.len() {
                let folder = folders.entry(&own[..depth]).or_default();
                folder.entry(&own[..=depth]).or_default().insert(&target[..=depth]);
            }
        }
    }
    folders.values().flat_map(circles).collect()
}

/// Who knows whom.
type Knows<'a> = BTreeMap<&'a [String], BTreeSet<&'a [String]>>;

fn circles(knows: &Knows<'_>) -> Vec<Vec<String>> {
    let reach = |from: &[String]| {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&[String]> = knows.get(from).into_iter().flatten().copied().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(knows.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&[String], BTreeSet<&[String]>> =
        knows.keys().map(|module| (*module, reach(module))).collect();
    let mut told = BTreeSet::new();
    let mut circles = Vec::new();
    for (module, seen) in &reached {
        if !seen.contains(module) || told.contains(module) {
            continue;
        }
        let in_it = |other: &&&[String]| reached.get(**other).is_some_and(|it| it.contains(module));
        let circle: Vec<&[String]> = seen.iter().filter(in_it).copied().collect();
        told.extend(circle.iter().copied());
        let names = |module: &&[String]| {
            let known = knows[*module].iter().filter(|known| circle.contains(*known));
            let known: Vec<String> = known.map(|known| known.join("::")).collect();
            format!("{} -> {}", module.join("::"), known.join(", "))
        };
        circles.push(circle.iter().map(names).collect());
    }
    circles
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
