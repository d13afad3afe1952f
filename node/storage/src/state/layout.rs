//! Names below the data directory, and the pointer file.
//!
//! ```text
//! state/CURRENT             which generation is the state
//! state/00000007/           a byte store: one generation
//! state/00000006.damaged/   one that did not open, set aside for people to look at
//! snap/3-1200.snap          a snapshot: term, index
//! ```
//!
//! A generation never changes its meaning: a new state is filled beside it, and the pointer is
//! what makes it *the* state. So replacing everything is one rename.

use std::io;

use crate::{
    disk::{Disk, OpenMode, replace_file},
    log_id::LogId,
};

/// Where generations and the pointer are.
pub(super) const STATE_DIR: &str = "state";
/// Where snapshots are.
pub(super) const SNAPSHOT_DIR: &str = "snap";
/// The pointer file.
pub(super) const POINTER: &str = "state/CURRENT";
const POINTER_TMP: &str = "state/CURRENT.tmp";
/// A snapshot that is being built.
pub(super) const BUILD_TMP: &str = "snap/build.tmp";
const POINTER_MAGIC: &str = "tally state";
const POINTER_VERSION: u32 = 1;
const POINTER_BYTES_MAX: usize = 4096;

/// The directory of a generation.
pub(super) fn generation_path(generation: u64) -> String {
    format!("{STATE_DIR}/{generation:08}")
}

/// The generation in a name such as `00000007`, or `00000007.damaged`.
pub(super) fn parse_generation(name: &str) -> Option<u64> {
    name.split('.').next()?.parse().ok()
}

/// The file of a snapshot.
pub(super) fn snapshot_path(last_log_id: LogId) -> String {
    format!("{SNAPSHOT_DIR}/{last_log_id}.snap")
}

/// The log id in a snapshot's file name.
pub(super) fn parse_snapshot(name: &str) -> Option<LogId> {
    let (term, index) = name.strip_suffix(".snap")?.split_once('-')?;
    Some(LogId { term: term.parse().ok()?, index: index.parse().ok()? })
}

/// What the pointer file says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pointer {
    Missing,
    Generation(u64),
    /// It can't be believed, and why.
    Damaged(&'static str),
    NewerFormat(u32),
}

/// Reads the pointer.
pub(super) async fn read_pointer(disk: &dyn Disk) -> io::Result<Pointer> {
    let file = match disk.open(POINTER, OpenMode::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Pointer::Missing),
        Err(error) => return Err(error),
    };
    Ok(parse_pointer(&file.read_at(0, POINTER_BYTES_MAX).await?))
}

/// Makes a generation the state: after this returns, a crash can't bring the old one back.
pub(super) async fn write_pointer(disk: &dyn Disk, generation: u64) -> io::Result<()> {
    let content = format_pointer(generation);
    replace_file(disk, STATE_DIR, POINTER, POINTER_TMP, content.as_bytes()).await
}

pub(super) fn format_pointer(generation: u64) -> String {
    let text = format!("{POINTER_MAGIC} {POINTER_VERSION}\ngeneration {generation}\n");
    let crc = crc32c::crc32c(text.as_bytes());
    format!("{text}crc32c {crc:08x}\n")
}

pub(super) fn parse_pointer(bytes: &[u8]) -> Pointer {
    let Ok(text) = std::str::from_utf8(bytes) else { return Pointer::Damaged("it is not text") };
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix(POINTER_MAGIC))
        .and_then(|version| version.trim_start().parse::<u32>().ok());
    match version {
        Some(POINTER_VERSION) => {}
        Some(newer) if newer > POINTER_VERSION => return Pointer::NewerFormat(newer),
        _ => return Pointer::Damaged("it does not begin as a pointer does"),
    }
    let generation = lines
        .next()
        .and_then(|line| line.strip_prefix("generation "))
        .and_then(|generation| generation.parse().ok());
    match generation {
        Some(generation) if text == format_pointer(generation) => Pointer::Generation(generation),
        _ => Pointer::Damaged("its crc is wrong"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_reads_back_and_no_flipped_bit_leads_elsewhere() {
        let text = format_pointer(42).into_bytes();
        assert_eq!(parse_pointer(&text), Pointer::Generation(42));
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse_pointer(&flipped);
            assert!(!matches!(parsed, Pointer::Generation(_)), "bit {bit}: {parsed:?}");
        }
    }

    #[test]
    fn names_read_back() {
        assert_eq!(parse_snapshot("3-1200.snap"), Some(LogId::new(3, 1200)));
        assert_eq!(parse_snapshot("incoming-1.tmp"), None);
        assert_eq!(parse_generation("00000007"), Some(7));
        assert_eq!(parse_generation("00000007.damaged"), Some(7));
        assert_eq!(parse_generation("CURRENT"), None);
    }
}
