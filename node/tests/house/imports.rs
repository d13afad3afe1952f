//! What a source names of its own crate.

use std::collections::BTreeSet;

/// A source without its comments, strings and tests.
pub(crate) struct Source {
    /// What is left.
    pub(crate) code: String,
    /// Paths that begin with `crate`, `self` or `super`, each as its segments.
    pub(crate) paths: BTreeSet<Vec<String>>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Source {
        let code = without_tests(&without_comments(text));
        let paths = paths(&code);
        Source { code, paths }
    }

    /// First segments behind `crate`.
    pub(crate) fn roots(&self) -> BTreeSet<String> {
        let of_crate = self.paths.iter().filter(|path| path[0] == "crate" && path.len() > 1);
        let modules = of_crate.map(|path| path[1].clone());
        // A constant or a type of the crate's root is no module.
        modules.filter(|name| name.starts_with(|first: char| first.is_lowercase())).collect()
    }
}

/// Comments and strings become blanks.
fn without_comments(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = 2 + hashes;
            rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
        } else if first == '"' {
            end_of_string(rest)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(1, |at| at + 2)
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// How many hashes a raw string has that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].starts_with('"').then_some(hashes)
}

fn end_of_string(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Leaves `#[cfg(test)]` items out.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let end = rest.find(['{', ';']).expect("an item has an end");
        let block = rest[end..].starts_with('{');
        rest = &rest[end + if block { closing(&rest[end..]) } else { 0 } + 1..];
    }
    kept.push_str(rest);
    kept
}

/// Where the bracket that opens here is closed.
fn closing(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len() - 1
}

/// All paths of the own crate, groups of a `use` taken apart.
fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for begin in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(begin) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            // `super::super::…` is found at its first word.
            if before.is_alphanumeric() || before == '_' || before == ':' || before == '$' {
                continue;
            }
            tree(&code[at..], Vec::new(), &mut found);
        }
    }
    found
}

/// One path or tree of paths; says how far it goes.
fn tree(code: &str, mut path: Vec<String>, found: &mut BTreeSet<Vec<String>>) -> usize {
    let mut at = 0;
    loop {
        at += blank(&code[at..]);
        if code[at..].starts_with('{') {
            at += 1;
            loop {
                at += blank(&code[at..]);
                if at >= code.len() || code[at..].starts_with('}') {
                    return at + 1;
                }
                if code[at..].starts_with(',') {
                    at += 1;
                    continue;
                }
                let step = tree(&code[at..], path.clone(), found);
                at += step.max(1);
                // `as name`
                if let Some(end) = code[at..].find([',', '}']) {
                    at += end;
                }
            }
        }
        let word: String =
            code[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word.is_empty() {
            break;
        }
        at += word.len();
        path.push(word);
        if code[at..].starts_with("::") {
            at += 2;
        } else {
            break;
        }
    }
    found.insert(path);
    at
}

fn blank(code: &str) -> usize {
    code.len() - code.trim_start().len()
}
