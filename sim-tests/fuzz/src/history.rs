//! Histories, which other programs write too.

use tally_sim::check::{self, file};

use crate::allocation::bounded;

/// A history of more operations is read and not judged: that may take long, and is allowed to.
const JUDGED_MAX: usize = 8;

/// Lines of a file.
pub(crate) fn file(bytes: &[u8]) {
    let read = bounded(bytes.len(), 1024, 64 * 1024, || file::read(bytes));
    let Ok(records) = read else { return };
    let mut lines = Vec::new();
    for record in &records {
        serde_json::to_writer(&mut lines, record).expect("a record has only plain values");
        lines.push(b'\n');
    }
    let again = file::read(&lines[..]).expect("what was written is read");
    assert_eq!(again, records, "a history changes when it is written and read");
    if records.len() <= JUDGED_MAX {
        let verdict = check::judge(&records);
        assert!(verdict.counts.operations as usize <= records.len());
    }
}
