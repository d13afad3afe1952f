//! What a run shows, for people: its faults, who leads, what clients were refused or shown that is old,
//! and which promises were kept, in order and in the words of the command line.
//!
//! A story is told from two sources once a run is over: lines of its trace (`story/heard`) and what
//! clients saw (`story/calls`). It adds nothing to the trace, so it changes no digest. Calls that ended
//! alike between two events are one line, with the first of them quoted.
//!
//! A scenario's lesson is a list of patterns that lines of its story must match in order (`story/lesson`).

mod calls;
mod faults;
mod heard;
mod lesson;

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
    let (mended_ms, acked_ms) =
        (heard::mended_ms(&outcome.heard), calls::acked_ms(&outcome.records));
    lines.extend(faults::lines(&outcome.faults, mended_ms, &acked_ms));
    lines.extend(calls::lines(&outcome.records));
    lines.sort_by_key(|line| line.ms);
    lines.extend(kept(outcome));
    lines
}

/// What a trace alone tells, if it kept what a story is told from.
pub fn of_heard(heard: &[crate::trace::Heard]) -> Vec<Line> {
    heard::lines(heard)
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

/// Where a scenario's lesson is not shown: the pattern that the lines do not get beyond (`story/lesson`).
pub fn missing(scenario: &Scenario, lines: &[Line]) -> Option<&'static str> {
    let lines: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line.who, line.text)).collect();
    lesson::not_shown(scenario.lesson, &lines)
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
    // What happened no time is not told: a lesson may ask for it.
    let some = |name: &str, text: &str| match of(name) {
        0 => String::new(),
        count => text.replace('#', &count.to_string()),
    };
    let order = if outcome.undecided > 0 {
        "which write of unknown outcome made which revision was not decided".to_owned()
    } else {
        format!(
            "one order of all {} calls explains every answer and agrees with real time{}",
            outcome.records.len(),
            some("revisions explained", " (# revisions)")
        )
    };
    let once = format!(
        "no acknowledged write is lost or counted twice{}{}",
        some("unknown writes that were applied", "; # of unknown outcome were applied, once each"),
        some("writes sent again under a key", "; # calls sent again got the first answer again")
    );
    let fresh = format!(
        "each read was as fresh as it said{}{}{}",
        some("staleness claims checked", "; # said how old they may be"),
        some("session reads checked", "; # knew what their session had seen"),
        some(
            "rounds shared by several reads elsewhere",
            "; # rounds at followers confirmed several linearizable reads at once"
        )
    );
    let same = "in the end every node runs, and all hold the same state".to_owned();
    let kept = [order, once, fresh, same];
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
    use crate::faults::inject::{Done, Fate, Whom};

    /// What it is to teach is said of each, and is asked of its story (`tally-sim scenarios --check`). It is
    /// more than any run with these faults tells that passed: something that nodes did or clients saw.
    #[test]
    fn no_lesson_is_shown_by_planned_faults_and_promises_alone() {
        let kept = [
            "one order of all 9 calls explains every answer and agrees with real time (9 revisions)",
            "no acknowledged write is lost or counted twice; 1 of unknown outcome were applied, once each; 1 \
             calls sent again got the first answer again",
            "each read was as fresh as it said; 9 said how old they may be; 9 knew what their session had seen",
            "in the end every node runs, and all hold the same state",
        ];
        for scenario in crate::scenarios::all() {
            let done = |planned: crate::faults::plan::Planned| Done {
                at_ms: planned.at_ms,
                whom: Whom { leader: Some(2), members: (1..=5).collect() },
                fate: Fate::Installed,
                planned,
            };
            let done: Vec<Done> = scenario.plan().into_iter().map(done).collect();
            let mut lines = vec![Line::new(1, "node 2", "leads in term 1")];
            lines.extend(faults::lines(&done, None, &[]));
            lines.push(Line::new(59_000, "auditor", "has read everything"));
            lines.extend(kept.map(|text| Line::new(60_000, "kept", text)));
            assert!(!scenario.lesson.is_empty(), "{} has no lesson", scenario.name);
            assert!(missing(scenario, &lines).is_some(), "{} shows nothing", scenario.name);
        }
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
