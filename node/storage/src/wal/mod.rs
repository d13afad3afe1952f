//! The write-ahead log: raft entries, the vote, the committed hint, truncations and purges, in one
//! sequence of records, in the order in which they were asked for.
//!
//! # Promises
//! 1. What was acknowledged (an append's callback, a returned [`Wal::save_vote`] or [`Wal::flush`])
//!    survives a power cut, and so does every record before it.
//! 2. After a power cut the log is a prefix of what was asked for: no holes, no truncated entry
//!    back, no vote of an earlier term.
//! 3. An entry is readable as soon as [`Wal::append`] returned.
//! 4. Damage to what had been durable is never taken for the end of the log: the log refuses to
//!    open, names file and offset, and changes nothing.
//! 5. A failed write or sync ends the process (the injected `fatal`), and nothing is acknowledged
//!    after it.
//! 6. A disk that runs full is not a failed write: see [`SpaceState`].
//! 7. A log of another data directory ([`WalOptions::owner`]) is refused, and so is one that is gone or
//!    ends before where it was when it was last opened ([`WalOptions::sequence_min`]).
//!
//! # On disk
//! A directory of segments `00000001.wal`, `00000002.wal`, … of one fixed length, zero-filled before
//! use, and `*.spare` files: old segments waiting to be used again, which an open throws away.
//!
//! ```text
//! segment  = header (8 KiB: two equal copies, one at 0, one at 4096) frame* rest
//! header   = magic "TALLYWAL" · version u32 · bytes u64 · number u64 · salt u64
//!            · first sequence u64 · chain u32 · crc32c u32 · owner u128 · crc32c u32
//! frame    = crc32c u32 · length u32 · sequence u64 · durable up to u64 · chain u32
//!            · payload crc32c u32 · salt u32 · kind u8 · 3 zero bytes
//!            · payload · zeros up to a multiple of 8
//! ```
//! All integers are little-endian. Magic, version and the place of the header's crc stay in every
//! version. A frame's crc covers its header and is seeded with the segment's salt; `chain` is the
//! crc of the frame before, across segments. So a frame from an earlier life of a recycled segment
//! is never read as one of this life.
//!
//! A write of frames ends with zeros where the next header will be; more old bytes may follow.
//!
//! `durable up to` is the sequence of the last frame that had been synced when this one was written.
//! The first record of each segment is the state before it (vote, committed hint, purged and last
//! log id), so that older segments can go once their entries are purged.
//!
//! # Torn or rotten
//! A frame X that does not check out is the end of the log, if it was never synced; then the
//! rest of its segment is zeroed, later segments are removed, and all is synced before anything is served. If
//! a later valid frame says that X had been durable, or a later segment has begun (its header is
//! written only after the segment before is synced; the file after next is made only after its
//! header is), then synced bytes have changed: [`WalError::Corrupt`].
//!
//! When nothing was asked for during [`WalOptions::seal_after`], the writer appends a seal: a frame
//! that carries only the new `durable up to`, and is not synced, so that a lone writer does not pay
//! for a second sync.
//!
//! # Undetectable
//! - Damage to the last synced frames before any later frame or seal that covers them reached the
//!   disk (within seconds, by the kernel's writeback, or with the next sync): it looks like a torn
//!   tail.
//! - Both header copies of the newest segment damaged, while the segment after it is not prepared
//!   (a full disk).
//! - A device that acknowledges a sync and loses it together with everything after it; the newest
//!   files removed, or all replaced by copies, that reach to where the log was last opened.
//!
//! # Leaves out
//! Raft: terms and votes are checked only for not going back. Which cluster and node the directory
//! belongs to, but for the owner that it is told. When to purge.
//!
//! # Threads
//! [`WalWriter::run`] is the only one who writes: it drains a bounded queue, does one write and one
//! sync, then completes the callbacks in order. Production runs it on a thread of its own, in a
//! tokio runtime with time enabled; a simulation runs it as a task.

mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod handle;
mod log;
mod queue;
mod record;
mod recovery;
mod segment;
mod slow;
mod space;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use handle::Wal;
pub use types::{
    Ballot, Callback, Entry, Fatal, LogId, Recovered, SpaceState, WalError, WalOptions,
};
pub use writer::WalWriter;
