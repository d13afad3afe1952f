//! Records of the machine as stored, beside counters and keys.
//!
//! Encoding is canonical (one value, one sequence of bytes), because replicas compare their state
//! by hash.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{
    auth::{AuthMeta, RoleLimit, RoleRecord, TokenRecord, UserIdRecord, UserRecord},
    canonical::Fingerprint,
    item::{CounterRecord, KeyRecord},
    limits,
    node_ids::NodeIdRecord,
    owner::Owner,
    quota::{QuotaMeta, QuotaRecord},
    reply::Reply,
    restore::RestoreMeta,
    version::FormatVersion,
    versioned::{self, CodecError, FORMAT_VERSION},
};

/// What can be stored under a [`super::keys::RecordKey`].
pub trait Record: Sized + Clone {
    /// What it is called in an error.
    const WHAT: &'static str;

    /// Its bytes.
    fn encode(&self) -> Bytes;

    /// The record that these bytes are.
    fn decode(bytes: &Bytes) -> Result<Self, CodecError>;
}

/// The one record about the whole store. Read and written at most once for each log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Id of the cluster; 0 until it is created.
    pub cluster_id: u128,
    /// How often the cluster was restored from a backup. Part of session tokens, so that one from
    /// before a restore is recognised.
    pub restore_epoch: u64,
    /// Settings equal on every replica.
    pub settings: Settings,
    /// Revision of the last change.
    pub revision: u64,
    /// Highest log time so far.
    pub log_time_ms: u64,
    /// Counters.
    pub counters: u64,
    /// Keys.
    pub keys: u64,
    /// Sessions, those that have ended but are not removed yet included.
    pub sessions: u64,
    /// Answers stored under sessions, those that nobody can ask for any more included.
    pub session_answers: u64,
    /// Bytes of those.
    pub session_answer_bytes: u64,
    /// Idempotency keys, those that have expired but are not removed yet included.
    pub idempotency_keys: u64,
    /// Bytes of those, by [`super::idempotency_entry_bytes`].
    pub idempotency_bytes: u64,
    /// Of users, roles and tokens. Stored behind the rest, with the version 2, if there ever were any.
    #[serde(skip)]
    pub auth: AuthMeta,
    /// Of a restore. Stored behind that, with the version 3, if there ever was one that was not taken back.
    #[serde(skip)]
    pub restore: RestoreMeta,
    /// Of quotas. Stored behind that, with the version 4, if there are any.
    #[serde(skip)]
    pub quotas: QuotaMeta,
    /// Version of the formats that the cluster has ([`super::gate`]). Stored behind that, with the version 5, if it ever
    /// had another one than the first.
    #[serde(skip)]
    pub version: FormatVersion,
}

/// Settings that decide answers, so they are part of the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// At most this many open sessions.
    pub sessions_max: u64,
    /// Idle time of a session that asks for none, in ms of log time.
    pub session_idle_ms: u64,
    /// Window of an idempotency key that asks for none, and the longest allowed, in ms of log time.
    pub idempotency_window_ms: u64,
    /// At most this many bytes of remembered idempotency keys and answers.
    pub idempotency_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sessions_max: limits::SESSIONS_MAX_DEFAULT,
            session_idle_ms: limits::SESSION_IDLE_MS_DEFAULT,
            idempotency_window_ms: limits::IDEMPOTENCY_WINDOW_MS_DEFAULT,
            idempotency_bytes_max: limits::IDEMPOTENCY_BYTES_MAX_DEFAULT,
        }
    }
}

/// A session. Stored with the version 1 if it has no owner, which sessions had before there were owners,
/// and with 2, and the owner behind the rest, if it has one: one value, one sequence of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Idle time after which it ends, in ms of log time.
    pub idle_timeout_ms: u64,
    /// It has ended when log time has reached this. Also its place in the expiry index.
    pub expires_at_ms: u64,
    /// Lowest number that may still be asked for.
    pub watermark: u64,
    /// Answers below this are removed. At most the watermark; what lies between is garbage.
    pub removed_below: u64,
    /// Highest number with an answer so far: one above it needs no look-up to be known as new.
    pub highest_sequence: u64,
    /// Stored answers, garbage included.
    pub answers: u64,
    /// Their bytes.
    pub answer_bytes: u64,
    /// It is in the queue of sessions with garbage.
    pub garbage_queued: bool,
    /// Wall clock of the leader when it was opened, for display.
    pub opened_wall_time_ms: u64,
    /// Who opened it: the address.
    #[serde(skip)]
    pub owner: Option<Owner>,
    /// The user that opened it, and that alone may use it; 0: nobody in particular, as authentication was off.
    /// Stored behind the owner, with the version 3, if there is one.
    #[serde(skip)]
    pub user: u64,
}

/// What is known of an owner. There is a record for as long as it holds a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// Sessions that it holds, those that have ended but are not removed yet included.
    pub sessions: u64,
}

/// An answer that is remembered under a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionAnswerRecord {
    /// Digest of the request.
    pub fingerprint: Fingerprint,
    /// Its answer.
    pub reply: Reply,
}

/// An answer that is remembered under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyRecord {
    /// Digest of the request.
    pub fingerprint: Fingerprint,
    /// It is forgotten when log time has reached this.
    pub expires_at_ms: u64,
    /// Log time at which it was stored.
    pub stored_at_ms: u64,
    /// The answer.
    pub reply: Reply,
}

macro_rules! postcard_record {
    ($type:ty, $what:literal) => {
        impl Record for $type {
            const WHAT: &'static str = $what;

            fn encode(&self) -> Bytes {
                versioned::encode(self)
            }

            fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
                versioned::decode(Self::WHAT, bytes)
            }
        }
    };
}

postcard_record!(CounterRecord, "counter");
postcard_record!(OwnerRecord, "owner of sessions");
postcard_record!(SessionAnswerRecord, "session answer");
postcard_record!(IdempotencyRecord, "idempotency record");
postcard_record!(UserRecord, "user");
postcard_record!(UserIdRecord, "id of a user");
postcard_record!(RoleRecord, "role");
postcard_record!(TokenRecord, "token");
postcard_record!(RoleLimit, "limit of a role");
postcard_record!(NodeIdRecord, "id of a node");
postcard_record!(QuotaRecord, "quota");

/// Version of a [`Meta`] of a store that has, or had, users.
const META_WITH_AUTH_VERSION: u8 = 2;

/// … of one into which a backup was restored …
const META_WITH_RESTORE_VERSION: u8 = 3;

/// … and of one that has quotas.
const META_WITH_QUOTAS_VERSION: u8 = 4;

/// … and of one that has a version of the formats above the first.
const META_WITH_VERSION_VERSION: u8 = 5;

impl Record for Meta {
    const WHAT: &'static str = "meta record";

    fn encode(&self) -> Bytes {
        let Self { auth, restore, quotas, version, .. } = *self;
        if version != FormatVersion::FIRST {
            let all = (self, auth, restore, quotas, version);
            return versioned::encode_as(META_WITH_VERSION_VERSION, &all);
        }
        if quotas != QuotaMeta::default() {
            let all = (self, auth, restore, quotas);
            return versioned::encode_as(META_WITH_QUOTAS_VERSION, &all);
        }
        match (auth != AuthMeta::default(), restore != RestoreMeta::default()) {
            (false, false) => versioned::encode(self),
            (true, false) => versioned::encode_as(META_WITH_AUTH_VERSION, &(self, auth)),
            (_, true) => versioned::encode_as(META_WITH_RESTORE_VERSION, &(self, auth, restore)),
        }
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        match versioned::version(Self::WHAT, bytes, META_WITH_VERSION_VERSION)? {
            (FORMAT_VERSION, rest) => versioned::decode_rest(Self::WHAT, rest),
            (META_WITH_AUTH_VERSION, rest) => {
                let (meta, auth): (Self, AuthMeta) = versioned::decode_rest(Self::WHAT, rest)?;
                Ok(Self { auth, ..meta })
            }
            (META_WITH_RESTORE_VERSION, rest) => {
                let (meta, auth, restore): (Self, AuthMeta, RestoreMeta) =
                    versioned::decode_rest(Self::WHAT, rest)?;
                Ok(Self { auth, restore, ..meta })
            }
            (META_WITH_QUOTAS_VERSION, rest) => {
                let (meta, auth, restore, quotas): (Self, AuthMeta, RestoreMeta, QuotaMeta) =
                    versioned::decode_rest(Self::WHAT, rest)?;
                Ok(Self { auth, restore, quotas, ..meta })
            }
            (_, rest) => {
                type All = (Meta, AuthMeta, RestoreMeta, QuotaMeta, FormatVersion);
                let (meta, auth, restore, quotas, version): All =
                    versioned::decode_rest(Self::WHAT, rest)?;
                Ok(Self { auth, restore, quotas, version, ..meta })
            }
        }
    }
}

/// Version of a [`SessionRecord`] with an owner.
const OWNED_SESSION_VERSION: u8 = 2;

/// … and of one with a user.
const USERS_SESSION_VERSION: u8 = 3;

impl Record for SessionRecord {
    const WHAT: &'static str = "session";

    fn encode(&self) -> Bytes {
        match (self.owner, self.user) {
            (None, 0) => versioned::encode(self),
            (Some(owner), 0) => versioned::encode_as(OWNED_SESSION_VERSION, &(self, owner)),
            (owner, user) => versioned::encode_as(USERS_SESSION_VERSION, &(self, owner, user)),
        }
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        match versioned::version(Self::WHAT, bytes, USERS_SESSION_VERSION)? {
            (FORMAT_VERSION, rest) => versioned::decode_rest(Self::WHAT, rest),
            (OWNED_SESSION_VERSION, rest) => {
                let (session, owner): (Self, Owner) = versioned::decode_rest(Self::WHAT, rest)?;
                Ok(Self { owner: Some(owner), ..session })
            }
            (_, rest) => {
                let (session, owner, user): (Self, Option<Owner>, u64) =
                    versioned::decode_rest(Self::WHAT, rest)?;
                Ok(Self { owner, user, ..session })
            }
        }
    }
}

/// Version, two revisions and the wall time in front of a key's value.
const KEY_HEADER_BYTES: usize = 1 + 3 * 8;

/// By hand, so that a value is shared with the stored bytes instead of copied out of them.
impl Record for KeyRecord {
    const WHAT: &'static str = "key";

    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(KEY_HEADER_BYTES + self.value.len());
        bytes.put_u8(FORMAT_VERSION);
        bytes.put_u64(self.created_revision);
        bytes.put_u64(self.modified_revision);
        bytes.put_u64(self.modified_wall_time_ms);
        bytes.put_slice(&self.value);
        bytes.freeze()
    }

    fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let rest = versioned::versioned(Self::WHAT, bytes)?;
        let Some((header, _)) = rest.split_first_chunk::<{ KEY_HEADER_BYTES - 1 }>() else {
            let reason = postcard::Error::DeserializeUnexpectedEnd;
            return Err(CodecError::Corrupt { what: Self::WHAT, reason });
        };
        let number = |index: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&header[index * 8..index * 8 + 8]);
            u64::from_be_bytes(number)
        };
        Ok(KeyRecord {
            value: bytes.slice(KEY_HEADER_BYTES..),
            created_revision: number(0),
            modified_revision: number(1),
            modified_wall_time_ms: number(2),
        })
    }
}

/// Decodes a record of the replicated state.
///
/// # Panics
///
/// If it can't be decoded. Storage checks the bytes that it hands out, so this is a bug or a state
/// written by a newer release, and a node that can't read its own state has nothing true to say.
pub(super) fn decode_stored<R: Record>(key: &[u8], bytes: &Bytes) -> R {
    match R::decode(bytes) {
        Ok(record) => record,
        Err(error) => panic!("the stored record {key:02x?} can't be read: {error}"),
    }
}
