//! Histories in files: a line for each operation, as [`tally_client::history`] has it.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom},
    path::Path,
};

use serde::Serialize;
use tally_client::history::Record;

use super::{Assumptions, Verdict, adds::Pack, judge_with, show::show};

/// What a file's history proves; its `Display` is for people, its serialisation for programs.
///
/// ```no_run
/// let report = tally_sim::check::file::check_file("history.jsonl")?;
/// println!("{report}");
/// assert!(report.passed);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// Every check was decided, and nothing is wrong.
    pub passed: bool,
    /// What was taken for granted.
    pub assumptions: Assumptions,
    /// What was found.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Judges the history in a file.
///
/// # Errors
///
/// If the file can't be read, or a line is no operation: the error names the line.
///
/// ```no_run
/// let report = tally_sim::check::file::check_file("history.jsonl")?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_file(path: impl AsRef<Path>) -> io::Result<Report> {
    check_file_with(path, Assumptions::default())
}

/// Judges the history in a file of which more, or less, is known.
///
/// # Errors
///
/// As [`check_file`].
///
/// ```no_run
/// use tally_sim::check::{Assumptions, file::check_file_with};
///
/// let shared = Assumptions { others_write: true, ..Assumptions::default() };
/// let report = check_file_with("history.jsonl", shared)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_file_with(path: impl AsRef<Path>, assumptions: Assumptions) -> io::Result<Report> {
    let path = path.as_ref();
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let verdict = judge_file(path, assumptions).map_err(named)?;
    let passed = verdict.passed();
    Ok(Report { file: path.display().to_string(), passed, assumptions, verdict })
}

fn judge_file(path: &Path, assumptions: Assumptions) -> io::Result<Verdict> {
    // What can't be read twice is read once, and held whole.
    if std::fs::metadata(path)?.is_file()
        && let Some(verdict) = judge_adds(path, assumptions)?
    {
        return Ok(verdict);
    }
    let records = read(BufReader::new(File::open(path)?))?;
    Ok(judge_with(&records, assumptions))
}

/// Without holding the lines, if all are adds and reads of counters.
fn judge_adds(path: &Path, assumptions: Assumptions) -> io::Result<Option<Verdict>> {
    let mut pack = Pack::default();
    let mut is_such = true;
    each(BufReader::new(File::open(path)?), |at, record| {
        is_such = pack.take(at, &record);
        is_such
    })?;
    if !is_such {
        return Ok(None);
    }
    let quote = |at: u64| quoted(path, at).unwrap_or_else(|error| format!("[byte {at}: {error}]"));
    let packed = pack.finish(assumptions, &quote);
    Ok(packed.and_then(|(adds, verdict)| adds.judge(verdict)))
}

/// The operation on the line that begins at this byte.
fn quoted(path: &Path, at: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    let mut line = String::new();
    BufReader::new(file).read_line(&mut line)?;
    Ok(show(&serde_json::from_str(&line)?))
}

/// Reads a history, a line for each operation; empty lines are skipped.
///
/// # Errors
///
/// If it can't be read, or a line is no operation: the error names the line.
///
/// ```
/// let line = r#"{"client":1,"op":"get","key":"hits","call":1,"ret":2,"status":"fail"}"#;
/// assert_eq!(tally_sim::check::file::read(line.as_bytes())?.len(), 1);
/// let error = tally_sim::check::file::read(&b"\n{}"[..]).unwrap_err();
/// assert!(error.to_string().starts_with("line 2: "));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read(lines: impl io::BufRead) -> io::Result<Vec<Record>> {
    let mut records = Vec::new();
    each(lines, |_, record| {
        records.push(record);
        true
    })?;
    Ok(records)
}

/// Reads operations for as long as they are wanted, each with the byte that its line begins at.
fn each(
    mut lines: impl io::BufRead,
    mut wanted: impl FnMut(u64, Record) -> bool,
) -> io::Result<()> {
    let (mut line, mut at, mut number) = (String::new(), 0, 0u64);
    loop {
        line.clear();
        let read = lines.read_line(&mut line)? as u64;
        if read == 0 {
            return Ok(());
        }
        number += 1;
        let begins = at;
        at += read;
        if line.trim().is_empty() {
            continue;
        }
        let record = serde_json::from_str(&line).map_err(|error| {
            let message = format!("line {number}: {error}");
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        if !wanted(begins, record) {
            return Ok(());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { violations, counts, notes } = &self.verdict;
        let verdict = match (self.passed, violations.len()) {
            (true, _) => "OK".to_owned(),
            (false, 0) => "UNDECIDED".to_owned(),
            (false, 1) => "VIOLATED: one broken promise".to_owned(),
            (false, count) => format!("VIOLATED: {count} broken promises"),
        };
        writeln!(f, "{}: {verdict}", self.file)?;
        writeln!(
            f,
            "  {} operations: {} ok, {} failed, {} unknown ({} of them must have been applied); {} \
             replayed",
            counts.operations,
            counts.ok,
            counts.failed,
            counts.unknown,
            counts.unknown_applied,
            counts.replayed
        )?;
        writeln!(
            f,
            "  {} counters and keys, {} revisions; {} refusals; reads: {} linearizable, {} bounded, \
             {} session, {} local; {} sums, {} sums of transfers",
            counts.names,
            counts.revisions,
            counts.refusals,
            counts.linearizable_reads,
            counts.bounded_reads,
            counts.session_reads,
            counts.local_reads,
            counts.sums,
            counts.transfer_sums
        )?;
        for note in notes {
            writeln!(f, "  note: {note}")?;
        }
        for (index, violation) in violations.iter().enumerate() {
            let rule = serde_json::to_value(violation.rule).unwrap_or_default();
            let rule = rule.as_str().unwrap_or_default().replace('_', " ");
            writeln!(f, "\n{}. {rule}: {}", index + 1, violation.message)?;
        }
        Ok(())
    }
}
