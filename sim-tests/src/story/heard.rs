//! Lines of the trace that tell what happened to nodes, in plain words.

use std::collections::BTreeSet;

use super::Line;
use crate::trace::Heard;

/// Lines of these are told by what clients saw, or are nothing for people.
pub(crate) fn is_news(who: &str, what: &str) -> bool {
    let noise = ["applies ", "has built a snapshot"];
    // Of guests, who are told hundreds of things, what shows a right at work.
    let is_told = !who.starts_with("guest-") || what.contains("PERMISSION_DENIED");
    is_told
        && !who.starts_with("user-")
        && !who.starts_with("raw-")
        && !noise.iter().any(|start| what.starts_with(start))
}

/// When everything was mended.
pub(super) fn mended_ms(heard: &[Heard]) -> Option<u64> {
    let mended = heard.iter().find(|heard| heard.what == MENDED && heard.who == "fault");
    mended.map(|heard| heard.ms)
}

const MENDED: &str = "everything is mended";

pub(super) fn lines(heard: &[Heard]) -> Vec<Line> {
    let mut voters = BTreeSet::new();
    let line = |heard: &Heard| {
        let who = names(&heard.who);
        let what = in_words(heard.ms, &heard.who, &heard.what, &mut voters)?;
        Some(Line::new(heard.ms, who, what))
    };
    heard.iter().filter_map(line).collect()
}

/// `tally-3` is node 3.
fn names(text: &str) -> String {
    text.replace("tally-", "node ")
}

/// Before this the cluster forms.
const FORMED_MS: u64 = 1_500;

fn in_words(ms: u64, who: &str, what: &str, voters: &mut BTreeSet<String>) -> Option<String> {
    if let Some(bytes) = what.strip_prefix("opens its log, cutting ") {
        return match bytes.trim_end_matches(" bytes") {
            _ if ms < FORMED_MS => None,
            "0" => Some("opens its log: all of it is whole".to_owned()),
            bytes => {
                Some(format!("opens its log, and drops {bytes} bytes of a write that was torn"))
            }
        };
    }
    if let Some(entry) = what.strip_prefix("appends ") {
        let (entry, sets) = entry.split_once(": the voters are ")?;
        // Each node appends it; the first one tells.
        if ms < FORMED_MS || !voters.insert(format!("{entry} {sets}")) {
            return None;
        }
        let sets = sets.trim_matches(['[', ']']);
        let sets: Vec<&str> = sets.split("}, {").map(|set| set.trim_matches(['{', '}'])).collect();
        return Some(match &sets[..] {
            [old, new] => {
                format!("the voters are to change: a majority of {old} and one of {new} are needed")
            }
            _ => format!("the voters are {}", sets.join(" and ")),
        });
    }
    if let Some(keep) = what.strip_prefix("drops its log behind ") {
        return Some(format!("drops entries that no majority has, behind log index {keep}"));
    }
    if let Some(index) = what.strip_prefix("installs a snapshot at ") {
        return Some(format!("gets a snapshot, of log index {index}"));
    }
    if let Some(index) = what.strip_prefix("has installed a snapshot at ") {
        return Some(format!("has installed the snapshot of log index {index}"));
    }
    if let Some(last) = what.strip_prefix("is left behind: it has ") {
        return Some(format!(
            "is left behind, and comes back: the others have given up what follows log index {}",
            last.trim_end_matches(" of the log")
        ));
    }
    if who == "fault" {
        if what.starts_with('#') {
            return None;
        }
        if what.starts_with("it has happened") {
            return Some("what it waited for has happened".to_owned());
        }
        if let Some(ids) = what.strip_prefix("the disks of ") {
            let ids = ids.trim_end_matches(" are lost");
            return Some(format!(
                "the disks of nodes {} are lost",
                ids.trim_matches(['[', ']', '{', '}'])
            ));
        }
        if what.starts_with("while voters change") {
            return Some(plain(what));
        }
    }
    if who == "operator" {
        let quoted = what.starts_with("begins ")
            || what.starts_with("has done ")
            || what.starts_with("gave up ");
        // It asks one node after the other.
        if what.starts_with("begins ") || what.ends_with("this node is not the leader") {
            return None;
        }
        return Some(if quoted { task(what) } else { names(what) });
    }
    Some(match (who, what) {
        ("driver", "users end") => "users stop".to_owned(),
        ("driver", "the auditor reads everything") => return None,
        ("fault", MENDED) => "everything is mended: no more faults".to_owned(),
        _ => names(what),
    })
}

/// What the operator did, as its command says it.
fn task(what: &str) -> String {
    let words = plain(what);
    let (old, new) = (number(&words, "old"), number(&words, "new"));
    if let (true, Some(old), Some(new)) = (what.contains("Replace"), old, new) {
        let did = if what.starts_with("has done") { "has replaced" } else { "gave up replacing" };
        return format!("{did} node {old} by node {new}");
    }
    words
}

fn number(words: &str, name: &str) -> Option<u64> {
    let mut words = words.split(' ').skip_while(|word| *word != name);
    words.nth(1)?.parse().ok()
}

/// A value as the trace has it, without Rust's signs: `AddLearner(4)` is `add learner 4`.
fn plain(text: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for letter in text.chars() {
        match letter {
            '(' | ')' | '{' | '}' | '[' | ']' | ',' | '"' => words.push(' '),
            ':' if before.is_alphabetic() => words.push(' '),
            _ if letter.is_uppercase() && before.is_lowercase() => {
                words.push(' ');
                words.extend(letter.to_lowercase());
            }
            _ if letter.is_uppercase() => words.extend(letter.to_lowercase()),
            _ => words.push(letter),
        }
        before = letter;
    }
    names(&words.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_signs_of_rust_are_left() {
        assert_eq!(plain("has done AddLearner(4)"), "has done add learner 4");
        assert_eq!(task("has done Replace { old: 2, new: 4 }"), "has replaced node 2 by node 4");
        let voters = &mut BTreeSet::new();
        let told = in_words(
            9_000,
            "tally-1",
            "appends 3-9: the voters are [{1, 2, 3}, {1, 2, 4}]",
            voters,
        );
        assert_eq!(
            told.unwrap(),
            "the voters are to change: a majority of 1, 2, 3 and one of 1, 2, 4 are needed"
        );
    }
}
