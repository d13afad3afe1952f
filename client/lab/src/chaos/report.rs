//! What is left of a run: JUnit for the one who counts, a page for the one who wants to know.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tally_player::{
    Broken, Came, Operation, Recording, Seen,
    junit::{self, Case, Failure},
};
use tokio::sync::watch;

use super::audit::{Promise, Wrong};
use crate::{
    lab::{Lab, Line},
    links::lock,
    nodes::Process,
    record::{self, Record},
};

/// How a line begins that tells of the command.
pub(super) const COMMAND: &str = "the command ";

/// How often the nodes are looked at.
const EVERY: Duration = Duration::from_millis(50);

/// The most lines that are kept.
const LINES_MAX: usize = 100_000;

/// What was seen of a run.
#[derive(Debug, Default)]
pub(super) struct Watched {
    nodes: Seen,
    lines: Vec<Line>,
}

/// Looks at the nodes until told to stop.
pub(super) async fn look(lab: Arc<Lab>, mut stop: watch::Receiver<bool>) -> Watched {
    let mut seen = Watched::default();
    let mut last_line = 0;
    let mut turns = tokio::time::interval(EVERY);
    loop {
        let is_over = *stop.borrow_and_update();
        let now = lab.now() as u64;
        for id in lab.nodes.ids() {
            let said = lock(&lab.watched).get(&id).cloned().unwrap_or_default();
            let (role, term) = match lab.nodes.process(id).1 {
                Process::Dead => ("down", 0),
                Process::Paused => ("paused", said.term),
                Process::Running if !said.answers => ("starting", said.term),
                Process::Running => (said.role, said.term),
            };
            seen.nodes.role(now, id, role, term);
            if said.answers {
                seen.nodes.log(now, id, (said.last, said.committed, said.applied));
            }
        }
        seen.nodes.cut(now, lab.links.cut_between_nodes());
        let newer = lock(&lab.journal).lines_after(last_line);
        last_line = newer.last().map_or(last_line, |line| line.seq);
        let room = LINES_MAX.saturating_sub(seen.lines.len());
        seen.lines.extend(newer.into_iter().take(room));
        if is_over {
            return seen;
        }
        tokio::select! {
            _ = turns.tick() => {}
            changed = stop.changed() => {
                if changed.is_err() {
                    // Nobody waits for it any more.
                    return seen;
                }
            }
        }
    }
}

fn operation(number: usize, record: &Record) -> Operation {
    let Record { client, node, kind, counter, start, end, .. } = record;
    let asked = if record.asked.is_empty() { "+1" } else { &record.asked };
    let mut text = format!(
        "[client {client}: {kind} {counter:?} {asked}, {start:.1}..{end:.1} ms at node {node}, "
    );
    let (status, came) = match record.came {
        record::Came::Ok => (Came::Ok, "ok"),
        record::Came::Refused => (Came::Fail, "no effect"),
        record::Came::Unknown | record::Came::Silence => (Came::Unknown, "unknown"),
    };
    text += came;
    if let Some(value) = record.value {
        let _ = write!(text, ": {value}");
    }
    if record.replayed {
        text += ", replayed";
    }
    if !record.reason.is_empty() {
        let _ = write!(text, " {}", record.reason);
    }
    Operation {
        number,
        client: *client,
        call: *start,
        // Without an answer: until nobody waited for one.
        took: Some(end - start),
        status,
        is_read: *kind == "get",
        names: vec![counter.clone()],
        node: record.header.as_ref().map(|header| header.by).or(Some(*node)),
        text: text + "]",
    }
}

/// The page of a run.
pub(super) fn recording(
    title: String,
    lasted_ms: u64,
    seen: Watched,
    records: &[Record],
    wrong: &[Wrong],
) -> Recording {
    let operations = records.iter().enumerate().map(|(number, record)| operation(number, record));
    let who = |line: &Line| match line.node {
        0 if line.text.starts_with(COMMAND) => "command".to_owned(),
        0 => "fault".to_owned(),
        node => format!("node {node}"),
    };
    let told = seen.lines.into_iter().map(|line| (line.at as u64, who(&line), line.text));
    let mut lines: Vec<(u64, String, String)> = told.collect();
    let broken = |wrong: &Wrong| Broken {
        kind: wrong.promise.told().to_owned(),
        what: wrong.what.clone(),
        at_ms: wrong.at_ms as u64,
        happened_ms: wrong.at_ms as u64,
        operations: wrong.records.clone(),
    };
    let violations: Vec<Broken> = wrong.iter().map(broken).collect();
    lines.extend(violations.iter().map(|broken| {
        (broken.happened_ms, "BROKEN".to_owned(), format!("{}: {}", broken.kind, broken.what))
    }));
    lines.sort_by_key(|line| line.0);
    let recording = Recording::new(title, lasted_ms, seen.nodes, operations);
    let passed = violations.is_empty();
    Recording { simulated: false, passed, lines, violations, ..recording }
}

/// JUnit: the command, and each promise. `failed` says how the command ended, if not well.
pub(super) fn junit(seed: u64, seconds: f64, failed: Option<&str>, wrong: &[Wrong]) -> String {
    let case = |name: &str, text: Option<String>| Case {
        class: "tallyd.chaos",
        name: name.to_owned(),
        failure: text.map(|text| Failure { message: String::new(), text }),
    };
    let mut cases = vec![case("the command", failed.map(ToOwned::to_owned))];
    for promise in Promise::ALL {
        let of_it = wrong.iter().filter(|wrong| wrong.promise == promise);
        let told: Vec<&str> = of_it.map(|wrong| &*wrong.what).collect();
        cases.push(case(promise.told(), (!told.is_empty()).then(|| told.join("\n"))));
    }
    junit::report(&format!("tallyd chaos, seed {seed}"), seconds, &cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn junit_says_which_promise_was_broken() {
        let wrong = Wrong {
            promise: Promise::Counted,
            what: "3 < 4 & \u{1b}[1mlost".to_owned(),
            at_ms: 5.0,
            records: vec![],
        };
        let text = junit(7, 1.5, None, &[wrong]);
        assert!(text.contains("tests=\"6\" failures=\"1\""), "{text}");
        assert!(text.contains("3 &lt; 4 &amp; \u{fffd}[1mlost"), "{text}");
        assert!(text.contains("name=\"the command\"/>"), "{text}");
        assert!(junit(7, 1.5, Some("exit status 1"), &[]).contains("failures=\"1\""));
    }
}
