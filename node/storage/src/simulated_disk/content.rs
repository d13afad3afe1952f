//! The bytes of one file, and what a crash makes of those that were not synced.
//!
//! Leaves out: names, and whether an operation may happen at all; both are the disk's (`state`).

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use rand::{Rng as _, rngs::SmallRng};

use super::{CrashMode, DiskCounts};

/// Bytes that a disk writes as one.
const SECTOR_BYTES: usize = 512;

/// A file's bytes as seen now, and what is needed to go back to what is durable.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) durable_len: usize,
    /// Durable content of each sector changed since the last sync; zeros past the durable end.
    pub(super) undo: BTreeMap<usize, Box<[u8; SECTOR_BYTES]>>,
    /// Where the last write ended.
    pub(super) written_end: usize,
    /// Sectors whose sync failed: a later sync does not cover them unless they are written again.
    pub(super) doomed: BTreeSet<usize>,
}

impl Content {
    fn sector(&self, sector: usize) -> Box<[u8; SECTOR_BYTES]> {
        let mut copy = Box::new([0; SECTOR_BYTES]);
        let start = (sector * SECTOR_BYTES).min(self.bytes.len());
        let end = (start + SECTOR_BYTES).min(self.bytes.len());
        copy[..end - start].copy_from_slice(&self.bytes[start..end]);
        copy
    }

    fn remember(&mut self, start: usize, end: usize) {
        if start >= end {
            return;
        }
        for sector in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            if !self.undo.contains_key(&sector) {
                let old = self.sector(sector);
                self.undo.insert(sector, old);
            }
            self.doomed.remove(&sector);
        }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.written_end = end;
        self.remember(offset, end);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn resize(&mut self, len: usize) {
        self.remember(len, self.bytes.len());
        self.bytes.resize(len, 0);
    }

    pub(super) fn sync(&mut self) {
        let doomed = &self.doomed;
        self.undo.retain(|sector, _| doomed.contains(sector));
        self.durable_len = self.bytes.len();
    }

    /// What Linux does after a failed writeback: the pages count as clean.
    pub(super) fn fail_sync(&mut self) {
        self.doomed.extend(self.undo.keys());
    }

    pub(super) fn flip(&mut self, offset: usize, mask: u8) -> bool {
        let Some(byte) = self.bytes.get_mut(offset) else { return false };
        *byte ^= mask;
        if let Some(old) = self.undo.get_mut(&(offset / SECTOR_BYTES)) {
            old[offset % SECTOR_BYTES] ^= mask;
        }
        true
    }

    pub(super) fn crash(&mut self, mode: CrashMode, rng: &mut SmallRng, counts: &mut DiskCounts) {
        let (low, high) =
            (self.durable_len.min(self.bytes.len()), self.durable_len.max(self.bytes.len()));
        let len = match mode {
            CrashMode::LoseUnsynced => self.durable_len,
            CrashMode::KeepAll => self.bytes.len(),
            CrashMode::Harsh if low == high => low,
            CrashMode::Harsh => match rng.random_range(0..3) {
                0 => low,
                1 => high,
                _ => rng.random_range(low..=high),
            },
        };
        self.bytes.resize(high, 0);
        for (sector, old) in mem::take(&mut self.undo) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(high);
            if start >= end {
                continue;
            }
            // New bytes up to here, old ones behind.
            let keep = match mode {
                CrashMode::LoseUnsynced => 0,
                CrashMode::KeepAll => SECTOR_BYTES,
                CrashMode::Harsh if self.doomed.contains(&sector) => 0,
                CrashMode::Harsh => match rng.random_range(0..8) {
                    0..4 => SECTOR_BYTES,
                    4..7 => 0,
                    _ => rng.random_range(1..SECTOR_BYTES),
                },
            };
            counts.sectors_at_risk += 1;
            counts.sectors_lost += u64::from(keep == 0);
            counts.sectors_torn += u64::from(keep > 0 && keep < SECTOR_BYTES);
            if start + keep < end {
                self.bytes[start + keep..end].copy_from_slice(&old[keep..end - start]);
            }
        }
        self.bytes.truncate(len);
        self.durable_len = len;
        self.doomed.clear();
    }
}
