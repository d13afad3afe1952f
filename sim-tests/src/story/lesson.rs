//! Whether a story shows what its scenario is to teach.
//!
//! A lesson is a list of patterns that match lines of the story **in this order**, each a later line than the
//! one before. Parts of a pattern with `…` between them stand in the line in this order, with anything
//! between; of patterns with `|` between them one must match. `{n}` is a number: any the first time, the same
//! one wherever the name stands again. So *"follower {n} is cut off", then "(node {n}, LOCAL"* is a read
//! at that very node, after it was cut off. `never: ` before a pattern: no line between what is matched
//! before and what is matched after is like it (to the story's end if nothing follows). LLVM's FileCheck
//! has the same three.
//!
//! If some choice of lines fits, the lesson is shown. A greedy choice would be wrong: the first of five
//! faults may be the one that happened not to bring about what the second did.

use std::collections::{BTreeMap, BTreeSet};

/// Numbers that have a name.
type Names = BTreeMap<char, String>;

const NEVER: &str = "never: ";

/// The pattern that no choice of lines gets beyond; none if the lesson is shown.
pub(super) fn not_shown(lesson: &[&'static str], lines: &[String]) -> Option<&'static str> {
    let mut search = Search { lesson, lines, furthest: 0, hopeless: BTreeSet::new() };
    let is_shown = search.is_shown(0, 0, &Names::new());
    (!is_shown).then(|| lesson[search.furthest])
}

struct Search<'a> {
    lesson: &'a [&'static str],
    lines: &'a [String],
    furthest: usize,
    hopeless: BTreeSet<(usize, usize, Names)>,
}

impl Search<'_> {
    /// Whether the lesson from its pattern `at` on is in the lines from `from` on.
    fn is_shown(&mut self, at: usize, from: usize, names: &Names) -> bool {
        let (lesson, lines) = (self.lesson, self.lines);
        let wanted = (at..lesson.len()).find(|at| !lesson[*at].starts_with(NEVER));
        let absent = at..wanted.unwrap_or(lesson.len());
        let state = (at, from, names.clone());
        if self.hopeless.contains(&state) {
            return false;
        }
        for (number, line) in lines.iter().enumerate().skip(from) {
            if let Some(wanted) = wanted
                && let Some(names) = matched(lesson[wanted], line, names)
                && self.is_shown(wanted + 1, number + 1, &names)
            {
                return true;
            }
            let is_there =
                |at: &usize| matched(lesson[*at].trim_start_matches(NEVER), line, names).is_some();
            if let Some(broken) = absent.clone().find(is_there) {
                return self.fails(broken, state);
            }
        }
        match wanted {
            Some(wanted) => self.fails(wanted, state),
            None => true,
        }
    }

    fn fails(&mut self, at: usize, state: (usize, usize, Names)) -> bool {
        self.furthest = self.furthest.max(at);
        self.hopeless.insert(state);
        false
    }
}

/// What its names are, if the line is like the pattern.
fn matched(pattern: &str, line: &str, names: &Names) -> Option<Names> {
    pattern.split('|').find_map(|one| matched_behind(one, line, true, names))
}

/// The same for the rest of both; behind a gap the pattern may begin anywhere.
fn matched_behind(pattern: &str, line: &str, gap: bool, names: &Names) -> Option<Names> {
    if pattern.is_empty() {
        return Some(names.clone());
    }
    if let Some(rest) = pattern.strip_prefix('…') {
        return matched_behind(rest, line, true, names);
    }
    if let Some((name, rest)) = named(pattern) {
        if gap {
            let digit = |at: usize| line.as_bytes().get(at).is_some_and(u8::is_ascii_digit);
            let mut starts =
                (0..line.len()).filter(|at| digit(*at) && (*at == 0 || !digit(at - 1)));
            return starts.find_map(|at| matched_behind(pattern, &line[at..], false, names));
        }
        let end = line.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(line.len());
        let (number, behind) = line.split_at(end);
        if number.is_empty() || names.get(&name).is_some_and(|bound| bound != number) {
            return None;
        }
        let mut names = names.clone();
        names.insert(name, number.to_owned());
        return matched_behind(rest, behind, false, &names);
    }
    let first = pattern.chars().next().map_or(0, char::len_utf8);
    let end = pattern[first..].find(['…', '{']).map_or(pattern.len(), |at| first + at);
    let (text, rest) = pattern.split_at(end);
    let last = if gap { line.len() } else { 0 };
    let mut places = line.match_indices(text).map(|(at, _)| at).take_while(|at| *at <= last);
    places.find_map(|at| matched_behind(rest, &line[at + text.len()..], false, names))
}

/// `{n}` at the begin of a pattern, and the rest.
fn named(pattern: &str) -> Option<(char, &str)> {
    let inside = pattern.strip_prefix('{')?;
    let name = inside.chars().next()?;
    Some((name, inside[name.len_utf8()..].strip_prefix('}')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_like(pattern: &str, line: &str) -> bool {
        matched(pattern, line, &Names::new()).is_some()
    }

    #[test]
    fn a_pattern_is_parts_in_their_order() {
        let line = "client 3 counter get hot --read local: 4 (node 2, LOCAL)";
        assert!(is_like("get…--read local…node 2", line) && is_like("client", line));
        assert!(!is_like("node 2…--read local", line));
        assert!(is_like("node 9|node 2", line) && !is_like("node 9|node 8", line));
        // Not the first place where a part stands, but one that the rest follows.
        assert!(is_like("client {n} counter…(node {m}, LOCAL", line));
        assert!(is_like("o…(node 2", line) && !is_like("(node {n}, SESSION", line));
        assert!(!is_like("client {n} …node {n}", line) && is_like("t {n}…4 (node", line));
    }

    fn shown(lesson: &[&'static str], lines: &[&str]) -> Option<&'static str> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        not_shown(lesson, &lines)
    }

    #[test]
    fn patterns_match_lines_in_their_order() {
        let lines = ["node 1 leads", "node 2 is cut off", "node 3 leads"];
        assert_eq!(shown(&["cut off", "leads"], &lines), None);
        assert_eq!(shown(&["cut off", "leads"], &lines[..2]), Some("leads"));
        assert_eq!(shown(&["leads", "leads", "leads"], &lines), Some("leads"));
        assert_eq!(shown(&["nothing", "leads"], &lines), Some("nothing"));
    }

    #[test]
    fn a_number_is_the_same_wherever_its_name_stands() {
        let lines = ["node 2 is cut off", "old at 1", "node 1 is cut off", "old at 1"];
        assert_eq!(shown(&["node {n} is cut off", "old at {n}"], &lines), None);
        assert_eq!(shown(&["node {n} is cut off", "old at {n}"], &lines[..3]), Some("old at {n}"));
        // 1 is not the begin of 12.
        assert_eq!(shown(&["{n} is", "at {n}"], &["node 1 is", "at 12"]), Some("at {n}"));
    }

    #[test]
    fn what_is_never_there_is_not_between_its_neighbours() {
        let lesson = ["lost", "never: leads", "back", "leads"];
        assert_eq!(shown(&lesson, &["leads", "lost", "back", "leads"]), None);
        assert_eq!(
            shown(&lesson, &["lost", "node 1 leads", "back", "leads"]),
            Some("never: leads")
        );
        assert_eq!(shown(&["lost", "never: leads"], &["leads", "lost", "back"]), None);
        assert_eq!(shown(&["lost", "never: leads"], &["lost", "leads"]), Some("never: leads"));
    }
}
