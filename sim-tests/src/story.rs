//! What a run shows, for people: its faults, who leads, what clients were refused or shown that is old,
//! and which promises were kept, in order and in the words of the command line.
//!
//! A story is told from two sources once a run is over: lines of its trace (`story/heard`) and what
//! clients saw (`story/calls`). It adds nothing to the trace, so it changes no digest. Calls that ended
//! alike between two events are one line, with the first of them quoted.
//!
//! A scenario's lesson is a list of patterns, each of which some line of its story must match ([`missing`]).

mod calls;
mod faults;
mod heard;

pub(crate) use self::heard::is_news;
use crate::{run::Outcome, scenarios::Scenario};

/// One line of a story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When, in simulated ms.
    pub ms: u64,
    /// Who: a node, a client, `fault`, `operator`, `auditor`.
    pub who: String,
    /// What.
    pub text: String,
    /// Calls that ended alike have the same; other lines have none.
    alike: Option<String>,
}

impl Line {
    fn new(ms: u64, who: impl Into<String>, text: impl Into<String>) -> Self {
        Self { ms, who: who.into(), text: text.into(), alike: None }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>7.3} s  {:<10} {}", self.ms as f64 / 1e3, self.who, self.text)
    }
}

/// All that a run shows, a line for each event and call.
pub fn lines(outcome: &Outcome) -> Vec<Line> {
    let mut lines = heard::lines(&outcome.heard);
    let leaders = heard::leaders(&outcome.heard);
    lines.extend(faults::lines(&outcome.faults, &leaders));
    lines.extend(calls::lines(&outcome.records));
    lines.sort_by_key(|line| line.ms);
    lines.extend(kept(outcome));
    lines
}

/// The same, where calls that ended alike between two events are one line.
pub fn told(lines: &[Line]) -> Vec<Line> {
    let mut told: Vec<(Line, u64, u64)> = Vec::new();
    // Lines since the last event.
    let mut since = 0;
    for line in lines {
        let same = told[since..]
            .iter_mut()
            .find(|(other, _, _)| line.alike.is_some() && other.alike == line.alike);
        match same {
            Some((_, more, last)) => (*more, *last) = (*more + 1, line.ms),
            None => {
                told.push((line.clone(), 0, line.ms));
                if line.alike.is_none() {
                    since = told.len();
                }
            }
        }
    }
    let with_count = |(mut line, more, last): (Line, u64, u64)| {
        if more > 0 {
            line.text += &format!("; {more} more like it until {:.1} s", last as f64 / 1e3);
        }
        line
    };
    told.into_iter().map(with_count).collect()
}

/// Patterns of a scenario's lesson that no line matches.
pub fn missing(scenario: &Scenario, lines: &[Line]) -> Vec<&'static str> {
    let lines: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line.who, line.text)).collect();
    let shows = |pattern: &str| lines.iter().any(|line| matches(pattern, line));
    scenario.lesson.iter().copied().filter(|pattern| !shows(pattern)).collect()
}

/// Whether the parts of a pattern between its `…` stand in a line, in this order; of patterns with `|` between
/// them, one.
fn matches(pattern: &str, line: &str) -> bool {
    pattern.split('|').any(|pattern| {
        let mut rest = line;
        pattern.split('…').all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
    })
}

/// Which promises were kept.
fn kept(outcome: &Outcome) -> Vec<Line> {
    let end = outcome.simulated_ms;
    let of = |name: &str| outcome.counts.get(name).copied().unwrap_or(0);
    if !outcome.passed() {
        let broken = |violation: &crate::run::Violation| {
            Line::new(
                violation.at_ms.max(end),
                "BROKEN",
                format!("{}: {}", violation.kind, violation.what),
            )
        };
        return outcome.violations.iter().map(broken).collect();
    }
    let mut kept = vec![
        format!(
            "one order of all {} calls explains every answer and agrees with real time ({} revisions)",
            outcome.records.len(),
            of("revisions explained")
        ),
        format!(
            "no acknowledged write is lost or counted twice; {} of unknown outcome were applied, once each; \
             {} calls sent again got the first answer again",
            of("unknown writes that were applied"),
            of("writes sent again under a key")
        ),
        format!(
            "each read was as fresh as it said: {} claims of staleness, {} session reads",
            of("staleness claims checked"),
            of("session reads checked")
        ),
        "in the end every node runs, and all hold the same state".to_owned(),
    ];
    if outcome.undecided > 0 {
        kept[0] = "which write of unknown outcome made which revision was not decided".to_owned();
    }
    kept.into_iter().map(|text| Line::new(end, "kept", text)).collect()
}

/// A span of time as a person says it.
fn span(ms: u64) -> String {
    if ms < 1000 {
        return format!("{ms} ms");
    }
    let seconds = format!("{:.1}", ms as f64 / 1e3);
    format!("{} s", seconds.trim_end_matches(".0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_parts_in_their_order() {
        let line = "client 3 counter get hot --read local: 4 (node 2, LOCAL)";
        assert!(matches("get…--read local…node 2", line) && matches("client", line));
        assert!(!matches("node 2…--read local", line));
        assert!(matches("node 9|node 2", line) && !matches("node 9|node 8", line));
    }

    /// What it is to teach is said of each, and is asked of its story (`tally-sim scenarios --check`).
    #[test]
    fn each_scenario_has_a_lesson_and_a_story_without_it_lacks_it() {
        let nothing = [Line::new(1, "node 3", "leads in term 1")];
        for scenario in crate::scenarios::all() {
            assert!(!scenario.lesson.is_empty(), "{} has no lesson", scenario.name);
            assert_eq!(missing(scenario, &nothing), scenario.lesson, "{}", scenario.name);
        }
        let scenario = crate::scenarios::named("split-brain-that-does-not-happen").unwrap();
        let lines = [Line::new(1, "node 1", "leads in term 4")];
        assert_eq!(missing(scenario, &lines).len(), scenario.lesson.len() - 1);
    }

    #[test]
    fn calls_that_ended_alike_are_one_line_between_two_events() {
        let call =
            |ms| Line { alike: Some("refused".to_owned()), ..Line::new(ms, "client 1", "no") };
        let lines = [call(1), call(2), Line::new(3, "fault", "over"), call(2_900)];
        let told: Vec<String> = told(&lines).iter().map(|line| line.text.clone()).collect();
        assert_eq!(told, ["no; 1 more like it until 0.0 s", "over", "no"]);
    }
}
