//! What is left of a run: JUnit for the one who counts, a page for the one who wants to know.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use tally_player::{Broken, Came, Operation, Recording, Window, window_of, windows_of};
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

/// What was seen of the nodes.
#[derive(Debug, Default)]
pub(super) struct Seen {
    roles: Vec<(u64, u64, &'static str, u64)>,
    logs: Vec<(u64, u64, u64, u64, u64)>,
    cuts: Vec<(u64, Vec<(u64, u64)>)>,
    lines: Vec<Line>,
}

/// Looks at the nodes until told to stop.
pub(super) async fn look(lab: Arc<Lab>, mut stop: watch::Receiver<bool>) -> Seen {
    let mut seen = Seen::default();
    let mut last_line = 0;
    let mut turns = tokio::time::interval(EVERY);
    loop {
        let is_over = *stop.borrow_and_update();
        let now = lab.now() as u64;
        for id in lab.nodes.ids() {
            let said = lock(&lab.watched).get(&id).cloned().unwrap_or_default();
            let role = match lab.nodes.process(id).1 {
                Process::Dead => ("down", 0),
                Process::Paused => ("paused", said.term),
                Process::Running if !said.answers => ("starting", said.term),
                Process::Running => (said.role, said.term),
            };
            let before = seen.roles.iter().rfind(|(_, node, ..)| *node == id);
            if before.is_none_or(|(_, _, name, term)| (*name, *term) != role) {
                seen.roles.push((now, id, role.0, role.1));
            }
            let log = (said.last, said.committed, said.applied);
            let before = seen.logs.iter().rfind(|(_, node, ..)| *node == id);
            if said.answers && before.is_none_or(|(_, _, a, b, c)| (*a, *b, *c) != log) {
                seen.logs.push((now, id, log.0, log.1, log.2));
            }
        }
        let cut = lab.links.cut_between_nodes();
        if seen.cuts.last().map_or(!cut.is_empty(), |(_, before)| *before != cut) {
            seen.cuts.push((now, cut));
        }
        let newer = lock(&lab.journal).lines_after(last_line);
        last_line = newer.last().map_or(last_line, |line| line.seq);
        let room = LINES_MAX.saturating_sub(seen.lines.len());
        seen.lines.extend(newer.into_iter().take(room));
        if is_over {
            return seen;
        }
        tokio::select! {
            _ = turns.tick() => {}
            _ = stop.changed() => {}
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
        took: (record.came != record::Came::Silence).then_some(end - start),
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
    seen: Seen,
    records: &[Record],
    wrong: &[Wrong],
) -> Recording {
    let mut windows = vec![Window::default(); windows_of(lasted_ms)];
    let mut last: std::collections::BTreeMap<u64, (u64, u64, u64)> = Default::default();
    let mut logs = seen.logs.iter().peekable();
    for (at, window) in windows.iter_mut().enumerate() {
        window.logs.extend(last.iter().map(|(id, log)| (0, *id, log.0, log.1, log.2)));
        while let Some((ms, id, a, b, c)) = logs.next_if(|log| window_of(log.0, lasted_ms).0 == at)
        {
            last.insert(*id, (*a, *b, *c));
            window.logs.push((ms - window_of(*ms, lasted_ms).1, *id, *a, *b, *c));
        }
    }
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
    let mut nodes: Vec<u64> = seen.roles.iter().map(|(_, node, ..)| *node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let recording = Recording::new(title, lasted_ms, windows, operations);
    Recording {
        simulated: false,
        passed: violations.is_empty(),
        nodes,
        lines,
        violations,
        roles: seen.roles,
        cuts: seen.cuts,
        ..recording
    }
}

/// JUnit: the command, and each promise. `failed` says how the command ended, if not well.
pub(super) fn junit(seed: u64, seconds: f64, failed: Option<&str>, wrong: &[Wrong]) -> String {
    let mut cases = vec![("the command".to_owned(), failed.map(ToOwned::to_owned))];
    for promise in Promise::ALL {
        let of_it = wrong.iter().filter(|wrong| wrong.promise == promise);
        let told: Vec<&str> = of_it.map(|wrong| &*wrong.what).collect();
        cases.push((promise.told().to_owned(), (!told.is_empty()).then(|| told.join("\n"))));
    }
    let failures = cases.iter().filter(|(_, failure)| failure.is_some()).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"tallyd chaos, seed {seed}\" tests=\"{}\" \
         failures=\"{failures}\" time=\"{seconds:.3}\">\n",
        cases.len()
    );
    for (name, failure) in cases {
        let _ = write!(text, "  <testcase classname=\"tallyd.chaos\" name=\"{}\"", escaped(&name));
        text += &match failure {
            None => "/>\n".to_owned(),
            Some(why) => format!(">\n    <failure>{}</failure>\n  </testcase>\n", escaped(&why)),
        };
    }
    text + "</testsuite>\n"
}

/// For XML, which has no place for control characters at all.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\n' | '\t' => safe.push(letter),
            _ if letter.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(letter),
        }
    }
    safe
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
