//! A run of a cluster as a page that plays it: nodes and their logs, messages, faults, what clients asked and were
//! told, and where a promise broke.
//!
//! Whoever has watched a run fills a [`Recording`], and [`Recording::write_html`] writes it as one file that needs
//! nothing but a browser. The simulator does so (`tally-sim replay --html`), and `tallyd chaos --report` for real
//! processes.
//!
//! # The format
//! JSON, [`FORMAT`]. Times are ms since the run began. What is little and needed at once is in the head,
//! [`Recording`]; the rest is cut into windows of [`WINDOW_MS`], each a [`Window`] of its own, so that a page
//! reads what it shows and no more. In the file each is gzip in base64 in a `script` element that no browser runs:
//! `head`, `window-0`, `window-1` and so on.

pub mod junit;
mod page;
mod seen;

use std::{fs, io, path::Path};

use serde::Serialize;

pub use self::seen::{Log, Seen};

/// Name of the format, with its version.
pub const FORMAT: &str = "tally-recording/2";

/// How long a window is, in ms.
pub const WINDOW_MS: u64 = 20_000;

/// A run, but for what is in its windows.
#[derive(Debug, Clone, Serialize)]
pub struct Recording {
    /// [`FORMAT`].
    pub format: &'static str,
    /// What it is a run of.
    pub title: String,
    /// What is to be seen in it; empty if nobody said.
    pub about: String,
    /// The command line that shows it again.
    pub command: String,
    /// Whether its time is simulated.
    pub simulated: bool,
    /// Whether all promises were kept.
    pub passed: bool,
    /// Digest of all that happened, where a run can be had again to the letter.
    pub digest: String,
    /// How long it took, in ms.
    pub lasted_ms: u64,
    /// [`WINDOW_MS`].
    pub window_ms: u64,
    /// Nodes, also those that came later.
    pub nodes: Vec<u64>,
    /// Promises that were broken.
    pub violations: Vec<Broken>,
    /// The story: when, who, what.
    pub lines: Vec<(u64, String, String)>,
    /// Whenever it changed: when, which node, its role (`leader`, `candidate`, `follower`, `learner`, `starting`,
    /// `stopped`, `down`, `paused`, `failed`), its term.
    pub roles: Vec<(u64, u64, &'static str, u64)>,
    /// Whenever links changed: when, and all directions between nodes in which messages are lost then.
    pub cuts: Vec<(u64, Vec<(u64, u64)>)>,
    /// What messages are told apart by, if they were recorded: [`MESSAGE_WORDS`].
    pub message_words: &'static [&'static str],
    /// What is in no other field, by window.
    #[serde(skip)]
    pub windows: Vec<Window>,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Which check found it.
    pub kind: String,
    /// What is wrong.
    pub what: String,
    /// When that was noticed: what clients saw is judged once all is over.
    pub at_ms: u64,
    /// When it happened, as far as the operations that are named tell.
    pub happened_ms: u64,
    /// Numbers of the operations that are named.
    pub operations: Vec<usize>,
}

/// What happened from one moment to the next [`WINDOW_MS`] later. Times count from its beginning.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Window {
    /// Whenever it changed: when, which node, and the last log index, the commit index and the applied index
    /// there. The first ones of a window are what was so before.
    pub logs: Vec<(u64, u64, u64, u64, u64)>,
    /// Messages between nodes.
    pub messages: Vec<Message>,
    /// What clients asked in it.
    pub operations: Vec<Operation>,
}

/// What is in a message between nodes. One may have several of these in it, and then has the bits of all, or none.
pub const MESSAGE_WORDS: &[&str] =
    &["votes", "appends", "heartbeats", "answers", "snapshots", "others"];

/// A message between nodes: from, to, when it was sent, how long it took (-1 if it never arrived), and what was in it:
/// bit `n` for word `n` of [`MESSAGE_WORDS`].
pub type Message = (u64, u64, u64, i64, u8);

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Came {
    /// An answer.
    Ok,
    /// It certainly had no effect.
    Fail,
    /// It may have been applied, or may still be.
    Unknown,
}

/// A call of a client.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// Its number in the run.
    pub number: usize,
    /// Who asked.
    pub client: u64,
    /// When, with parts of a ms.
    pub call: f64,
    /// How long it took until there was an answer or its caller gave up, in ms; none if he never did.
    pub took: Option<f64>,
    /// What became of it.
    pub status: Came,
    /// Whether it only read.
    pub is_read: bool,
    /// Names of counters and keys.
    pub names: Vec<String>,
    /// Which node answered, if that is known.
    pub node: Option<u64>,
    /// All of it, in a line: `[client 3: …]`.
    pub text: String,
}

/// Whether a file can be written there, asked before a run whose result it is to hold: nobody wants to hear of a missing
/// directory after an hour. What is there stays as it is.
///
/// # Errors
/// Why it can't, with the file's name.
pub fn can_write(file: &Path) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let is_new = !file.exists();
    fs::OpenOptions::new().append(true).create(true).open(file).map_err(named)?;
    // An empty file would pass for a result where the run is ended.
    if is_new { fs::remove_file(file).map_err(named) } else { Ok(()) }
}

impl Recording {
    /// Of a run that lasted so long. Operations come with their times since the run began, and are put into their
    /// windows.
    pub fn new(
        title: impl Into<String>,
        lasted_ms: u64,
        seen: Seen,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Recording {
        let mut windows = seen.windows(lasted_ms);
        for mut operation in operations {
            let (window, from_ms) = window_of(operation.call as u64, lasted_ms);
            operation.call -= from_ms as f64;
            windows[window].operations.push(operation);
        }
        let has_messages = windows.iter().any(|window| !window.messages.is_empty());
        let message_words = if has_messages { MESSAGE_WORDS } else { &[] };
        Recording {
            format: FORMAT,
            title: title.into(),
            about: String::new(),
            command: String::new(),
            simulated: true,
            passed: true,
            digest: String::new(),
            lasted_ms,
            window_ms: WINDOW_MS,
            nodes: seen.nodes(),
            violations: Vec::new(),
            lines: Vec::new(),
            roles: seen.roles,
            cuts: seen.cuts,
            message_words,
            windows,
        }
    }

    /// Writes it as one page.
    pub fn write_html(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.html()?)
    }

    /// The page.
    pub fn html(&self) -> io::Result<String> {
        page::html(self)
    }
}

/// How many windows a run has.
fn windows_of(lasted_ms: u64) -> usize {
    (lasted_ms / WINDOW_MS) as usize + 1
}

/// The window of a moment, and when it begins.
fn window_of(ms: u64, lasted_ms: u64) -> (usize, u64) {
    let window = (ms / WINDOW_MS).min(lasted_ms / WINDOW_MS);
    (window as usize, window * WINDOW_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(number: usize, call: f64) -> Operation {
        Operation {
            number,
            client: 1,
            call,
            took: Some(2.5),
            status: Came::Ok,
            is_read: true,
            names: vec!["hits".to_owned()],
            node: Some(1),
            text: format!("[client 1: get \"hits\" {number}]"),
        }
    }

    #[test]
    fn each_call_is_in_the_window_of_its_beginning() {
        let calls = [0.0, 19_999.5, 20_000.0, 45_000.0, 99_000.0];
        let operations = calls.into_iter().enumerate().map(|(at, call)| operation(at, call));
        let recording = Recording::new("a run", 45_100, Seen::default(), operations);
        let at = |window: usize| {
            let operations = &recording.windows[window].operations;
            operations.iter().map(|one| (one.number, one.call)).collect::<Vec<_>>()
        };
        assert_eq!(recording.windows.len(), 3);
        assert_eq!(at(0), [(0, 0.0), (1, 19_999.5)]);
        assert_eq!(at(1), [(2, 0.0)]);
        // What begins behind the end belongs to the last.
        assert_eq!(at(2), [(3, 5_000.0), (4, 59_000.0)]);
    }

    #[test]
    fn a_window_begins_with_what_was_so_before_it_and_has_what_changed() {
        let mut seen = Seen::default();
        for ms in [10, 20, 20_500] {
            seen.role(ms, 1, "leader", 2);
            seen.log(ms, 1, (7, 6, 5));
            seen.cut(ms, Vec::new());
        }
        seen.log(20_600, 1, (8, 6, 5));
        seen.cut(20_600, vec![(1, 2)]);
        seen.messages.push((1, 2, 20_001, 3, 0b10));
        let recording = Recording::new("a run", 21_000, seen, []);
        assert_eq!((&recording.nodes, recording.roles.len()), (&vec![1], 1));
        assert_eq!(recording.cuts, [(20_600, vec![(1, 2)])]);
        assert_eq!(recording.windows[0].logs, [(10, 1, 7, 6, 5)]);
        assert_eq!(recording.windows[1].logs, [(0, 1, 7, 6, 5), (600, 1, 8, 6, 5)]);
        assert_eq!(recording.windows[1].messages, [(1, 2, 1, 3, 0b10)]);
    }

    #[test]
    fn the_page_is_one_file_that_asks_nobody_for_anything() {
        let mut recording =
            Recording::new("a <b> {{script}}", 45_000, Seen::default(), [operation(0, 1.0)]);
        recording.lines.push((
            1,
            "fault".to_owned(),
            "</script><script>alert(1)</script>".to_owned(),
        ));
        let page = recording.html().expect("it can be written");
        for id in ["head", "window-0", "window-1", "window-2"] {
            assert_eq!(page.matches(&format!("id=\"{id}\"")).count(), 1, "{id}");
        }
        assert!(page.contains("default-src 'none'"));
        assert!(page.contains("a &lt;b> {{script}}"), "what is put in is not looked through");
        assert!(!page.contains("alert(1)"), "data is no part of the page");
        for sign in ["src=\"http", "href=\"http", "url(http", "import(", "\nimport ", "\nexport "] {
            assert!(!page.contains(sign), "{sign}");
        }
    }

    #[test]
    fn where_nothing_can_be_written_is_known_before_and_what_can_be_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("page.html");
        can_write(&file).unwrap();
        assert!(!file.exists(), "an empty file would pass for a page");
        fs::write(&file, "a page").unwrap();
        can_write(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "a page");
        let error = can_write(&file.join("below")).unwrap_err().to_string();
        assert!(error.contains("page.html/below: "), "{error}");
        can_write(directory.path()).unwrap_err();
    }
}
