//! Restoring a backup into an empty cluster, as commands of the log (`restore_work` applies them).
//!
//! A backup holds counters, keys, remembered idempotency keys, users, roles and tokens, and quotas: what
//! [`is_in_backup`] says. Sessions are not in it. It comes as blocks, one command each:
//!
//! ```text
//!             Begin                    Finish
//!   nothing ────────▶ under way ───────────────────▶ done
//!      ▲              │  ▲   │ Abort
//!      │              └──┘   ▼
//!      └───────────── aborting ◀─┐
//!        nothing is left   └─────┘ Abort, until then
//! ```
//!
//! # What holds
//!
//! - **All of it or nothing counts.** From `Begin` until the end of `Finish` or of the last `Abort`, every other
//!   command is refused ([`Refusal::RestoreUnderWay`]) and leaves no trace, and the api refuses reads of items. So
//!   nobody sees a part, and no answer rests on one.
//! - **What is restored is the file, block for block.** `Begin` says what a hash chain over all blocks comes to
//!   ([`next_in_chain`]), and `Finish` is refused unless the chain over the blocks that were applied is that. A
//!   block is applied only as the next one: sent again (its answer was lost, two operators restore at once) it
//!   changes nothing.
//! - **It goes on where it stopped**, at whichever node and by whoever asks: where that is, is in the state. `Begin`
//!   of the same backup answers with it; of another one it is refused.
//! - **Windows are never shorter than promised.** Log time goes on from the backup's, or from this cluster's if that
//!   is later: then what is remembered moves by the difference, fixed at `Begin`. So each key has as much of its
//!   window left as it had when the backup was made, less what has passed here since `Begin`.
//! - **Revisions, sessions and tokens of before are not met again.** Revisions go on [`REVISION_JUMP`] above the
//!   backup's; the epoch is one more, which session tokens carry, and which ids of sessions are counted
//!   from ([`session_id`]). So a revision that the lost cluster gave after the backup, and a session that it opened,
//!   name nothing here.
//! - **Users come back at the end.** The rights to go on with a restore would change under it: their records are
//!   put aside (`Space::Staged`) and replace this cluster's in one step, with `Finish`.
//! - **Quotas come with their limits and count anew.** Blocks are written past what charges them, and what a file says
//!   is used is not believed. They count nothing before the end of the entry of `Finish`, and then as a new quota does
//!   ([`super::quota`]). Into a cluster that has quotas of its own nothing is restored.
//!
//! What is bounded: a command by the size of a request, `Finish` by [`AUTH_BYTES_MAX`], `Abort` by
//! [`ABORT_ITEMS`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{keys::Space, limits::REQUEST_BYTES_MAX};

/// How far above the backup's revision the revisions of a restored cluster begin. The lost cluster may have given
/// revisions after the backup was made, and a compare on one of those must not hold here: at 100,000 changes a second
/// it would have taken 127 days to give so many. Small enough that thousands of restores stay below 2^53, which
/// readers of JSON can hold.
pub const REVISION_JUMP: u64 = 1 << 40;

/// Ids of sessions of one epoch. An id is the log index of the entry that opened the session, and so many more for each
/// epoch: no log comes to so many entries.
pub const SESSIONS_PER_EPOCH: u64 = 1 << 40;

/// Records that one `Abort` removes: some milliseconds.
pub const ABORT_ITEMS: usize = 4096;

/// Spaces of records that a backup has, in their order.
pub(super) const SPACES: [Space; 9] = [
    Space::Counter,
    Space::Key,
    Space::Idempotency,
    Space::User,
    Space::UserId,
    Space::Role,
    Space::Token,
    Space::RoleLimit,
    Space::Quota,
];

/// Whether a record of the state is in a backup. Sessions are not: they end with the cluster. Nor are
/// indexes, which are made again, and the record about the whole store, which the backup's header speaks for.
pub fn is_in_backup(key: &[u8]) -> bool {
    key.first().is_some_and(|first| SPACES.iter().any(|space| *space as u8 == *first))
}

/// The hash chain over blocks, one further; it begins with zeros.
pub fn next_in_chain(chain: &[u8; 32], payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(chain);
    hash.update(payload);
    hash.finalize().into()
}

/// The id of a session that is opened at a log index.
pub fn session_id(epoch: u64, log_index: u64) -> u64 {
    epoch.saturating_mul(SESSIONS_PER_EPOCH).saturating_add(log_index)
}

/// The first id that a session of an epoch can have; those below are of before.
pub fn first_session_id(epoch: u64) -> u64 {
    session_id(epoch, 0)
}

/// One step of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreCommand {
    /// Begins, or says how far it is.
    Begin(RestoreBegin),
    /// The records of a block.
    Block {
        /// Its number, from 0.
        number: u64,
        /// Length of the key u32, length of the value u32 (both little-endian), key, value; repeated.
        payload: Bytes,
    },
    /// All blocks were sent.
    Finish {
        /// Of which backup.
        content: [u8; 32],
    },
    /// Takes back what was restored so far, a part at a time.
    Abort,
    /// A node that lost its quorum for good goes on alone ([`Recovery`]). It is no request's, but written by the node
    /// itself while it is stopped, together with the membership that has it alone.
    Recover(Recovery),
}

/// One node that goes on alone, as the only voter of a new epoch.
///
/// **Claim.** Nothing that the lost nodes may have told anybody is taken for something of the new epoch: not a session
/// token, not a session, not a revision, and not a node of before.
///
/// **It relies on** what a restore relies on: tokens carry the epoch, sessions are counted from it ([`session_id`]),
/// and revisions jump by [`REVISION_JUMP`]. What differs from a restore is that the state stays as it is: its sessions
/// are still there, under ids of before.
///
/// **The steps.** 1. The epoch rises by one, so that tokens of before are of another one. They have to be refused: the
/// lost nodes may have applied more than this one ever had, and an index of theirs names another entry here. 2. A
/// session whose id is below those of the epoch is none any more ([`first_session_id`]): the index by which a lost
/// node opened it may be another session's here, and what it was answered there is not remembered here. Its record
/// goes at its time, as that of any session that nobody renews. 3. Revisions jump. 4. The ids of the other members
/// are retired, so that no directory comes back under them. What idempotency keys remember stays: a retry under one is
/// answered if this node had its answer, and applied if it had not, once in either case.
///
/// **What breaks it:** an epoch that does not rise, or a look at a session that does not go through `live_session`.
/// (`who_goes_on_alone_begins_a_new_epoch`.)
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recovery {
    /// The node that goes on.
    pub node_id: u64,
    /// The other members of before.
    pub lost: Vec<u64>,
}

/// What a backup says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoreBegin {
    /// What the chain over its blocks comes to: which backup it is.
    pub content: [u8; 32],
    /// How many blocks it has.
    pub blocks: u64,
    /// Restore epoch of the cluster that it was made of.
    pub epoch: u64,
    /// Its revision.
    pub revision: u64,
    /// Its log time.
    pub log_time_ms: u64,
    /// Authentication was on.
    pub auth_enabled: bool,
    /// The last id of a user or token.
    pub auth_last_id: u64,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RestorePhase {
    /// There never was one, or it was taken back.
    #[default]
    Nothing,
    /// Blocks are awaited.
    UnderWay,
    /// It is being taken back.
    Aborting,
    /// This cluster is the one that was restored.
    Done,
}

/// What the record about the whole store knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoreMeta {
    /// How far it is.
    pub phase: RestorePhase,
    /// The backup.
    pub backup: RestoreBegin,
    /// The block that is awaited.
    pub next: u64,
    /// The chain over those before.
    pub chain: [u8; 32],
    /// By so much log time what is remembered is moved.
    pub shift_ms: u64,
    /// Bytes of the records put aside.
    pub staged_bytes: u64,
}

impl RestoreMeta {
    /// Whether nothing else may be written, nor items be read.
    pub fn is_under_way(&self) -> bool {
        matches!(self.phase, RestorePhase::UnderWay | RestorePhase::Aborting)
    }
}

/// Why a step of a restore was refused. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RestoreRefusal {
    /// Something is stored.
    #[error(
        "the cluster is not empty: counters: {counters}, keys: {keys}, sessions: {sessions}, remembered idempotency \
         keys: {idempotency_keys}. A backup is restored into a new cluster that nobody has used yet"
    )]
    NotEmpty {
        /// Counters.
        counters: u64,
        /// Keys.
        keys: u64,
        /// Sessions.
        sessions: u64,
        /// Idempotency keys.
        idempotency_keys: u64,
    },
    /// There are more users, roles or tokens than a cluster begins with.
    #[error(
        "the cluster has users, roles or tokens beside the first ones, and the backup's would replace them"
    )]
    OtherUsers,
    /// The backup would switch authentication off.
    #[error(
        "authentication is on in this cluster and was off in the backup's: restore it into a cluster without \
         authentication, and switch it on there"
    )]
    WithoutUsers,
    /// Another backup is being restored.
    #[error(
        "another backup is being restored: go on with that, or take it back with `tally restore --abort`"
    )]
    AnotherUnderWay,
    /// One is being taken back.
    #[error("a restore is being taken back: let `tally restore --abort` come to its end first")]
    Aborting,
    /// There is none.
    #[error("no restore is under way")]
    NotUnderWay,
    /// Blocks before this one are missing.
    #[error("block {next} is awaited next")]
    OutOfOrder {
        /// The block.
        next: u64,
    },
    /// Blocks are missing at the end.
    #[error("{next} of {blocks} blocks are restored")]
    Incomplete {
        /// As many are there.
        next: u64,
        /// As many are needed.
        blocks: u64,
    },
    /// The blocks are not the backup's.
    #[error(
        "what was restored is not what the backup holds: take it back with `tally restore --abort`"
    )]
    Mismatch,
    /// A block makes no sense.
    #[error("the block holds what no backup does: {0}")]
    Malformed(String),
    /// There are quotas already.
    #[error(
        "the cluster has quotas ({quotas}), and the backup's would come beside them: remove them with `tally quota \
         delete` first. A backup brings its own"
    )]
    OtherQuotas {
        /// How many.
        quotas: u64,
    },
}

/// A block, with the request around it, is one that a node takes.
pub const BLOCK_BYTES_MAX: usize = REQUEST_BYTES_MAX - 4096;
