//! Histories in files: a line for each operation, as [`tally_client::history`] has it.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader},
    path::Path,
};

use serde::Serialize;
use tally_client::history::Record;

use super::{Assumptions, Verdict, judge_with};

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
    let file = File::open(path).map_err(named)?;
    let records = read(BufReader::new(file)).map_err(named)?;
    let verdict = judge_with(&records, assumptions);
    let passed = verdict.passed();
    Ok(Report { file: path.display().to_string(), passed, assumptions, verdict })
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
    for (index, line) in lines.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let record = serde_json::from_str(&line).map_err(|error| {
            let message = format!("line {}: {error}", index + 1);
            io::Error::new(io::ErrorKind::InvalidData, message)
        })?;
        records.push(record);
    }
    Ok(records)
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
