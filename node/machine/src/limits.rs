//! Every limit of the state machine, each a named constant with its reason.
//!
//! A limit that decides an answer inside apply (such as [`SESSION_WINDOW`]) is part of the
//! replicated behaviour: replicas that disagree about it diverge, so changing one needs a feature
//! level, not only a release. The others are checked before a command is proposed.

/// Bytes in the name of a counter or key. Long enough for a path with a few identifiers, short
/// enough that names never dominate a page or an error's details.
pub const NAME_BYTES_MAX: usize = 512;

/// Bytes in the value of a key. A log entry with one is still appended, sent and synced without
/// holding up the small writes behind it for long.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;

/// Bytes in one request. Room for one value of the greatest size with everything around it.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Operations in one branch of an atomic step, and its conditions. One step must not hold the
/// single apply thread for long.
pub const APPLY_OPERATIONS_MAX: usize = 128;

/// Names in one batch read.
pub const BATCH_GET_NAMES_MAX: usize = 128;

/// Items on a page if the request asks for no number.
pub const PAGE_SIZE_DEFAULT: usize = 100;

/// Items on a page at most.
pub const PAGE_SIZE_MAX: usize = 1000;

/// Bytes in one answer. Below the 4 MiB at which gRPC clients refuse a message by default.
pub const ANSWER_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Bytes that the reads of one atomic step return together: the values of the keys, and
/// [`COUNTER_READ_BYTES`] for each counter. The answer is remembered, replicated state, so it is
/// bounded far tighter than an answer that is only sent.
pub const APPLY_READ_BYTES_MAX: usize = 16 * 1024;

/// What the read of one counter counts towards [`APPLY_READ_BYTES_MAX`]: its value.
pub const COUNTER_READ_BYTES: usize = 8;

/// Sequence numbers of a session that may be in use at once: the watermark and those above it.
/// Deep enough to keep a pipeline full over a slow link, and bounds what a session remembers.
pub const SESSION_WINDOW: u64 = 65_536;

/// Bytes in an idempotency key. Room for an order number, a UUID, or a digest in hexadecimal.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Shortest window of an idempotency key, in ms of log time. Below a minute a retry after a
/// change of leader could come too late.
pub const IDEMPOTENCY_WINDOW_MS_MIN: u64 = 60 * 1000;

/// Window of an idempotency key that asks for none, in ms of log time.
pub const IDEMPOTENCY_WINDOW_MS_DEFAULT: u64 = 24 * 60 * 60 * 1000;

/// Shortest idle time of a session, in ms of log time: several renewals fit in it.
pub const SESSION_IDLE_MS_MIN: u64 = 10 * 1000;

/// Idle time of a session that asks for none, in ms of log time.
pub const SESSION_IDLE_MS_DEFAULT: u64 = 60 * 60 * 1000;

/// Longest idle time of a session, in ms of log time. What a dead client leaves behind is gone
/// after a day.
pub const SESSION_IDLE_MS_MAX: u64 = 24 * 60 * 60 * 1000;

/// The idle time divided by this is how far log time moves before a busy session's expiry is
/// written again, so that a hot session does not rewrite its index entry with each command.
pub const SESSION_REFRESH_DIVISOR: u64 = 64;

/// Open sessions, unless the cluster is set up otherwise.
pub const SESSIONS_MAX_DEFAULT: u64 = 100_000;

/// Percent of the places that no other owner holds which one owner may hold, unless configured
/// otherwise. One alone gets half of the table; `n` that want all of it get an `n + 1`th each, and as
/// much is left for whoever comes.
pub const SESSIONS_SHARE_PERCENT_DEFAULT: u8 = 50;

/// Sessions that one page of a list looks at, those that a filter leaves out included: what one read
/// may cost, with a token to go on.
pub const SESSIONS_PER_PAGE_LOOKED_AT_MAX: usize = 10_000;

/// Owners that a list of sessions counts out at most.
pub const SESSION_OWNERS_SHOWN_MAX: usize = 100;

/// Bytes of remembered idempotency keys and answers, unless the cluster is set up otherwise.
pub const IDEMPOTENCY_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;

/// A failed condition shows a key's value up to this size. Error details travel in an HTTP/2
/// header, and all of them must stay below 6 KiB.
pub const CONDITION_VALUE_BYTES_MAX: usize = 1024;

/// Items that each kind of housekeeping removes in one apply, however few commands it holds.
pub const HOUSEKEEPING_ITEMS_BASE: usize = 1024;

/// Items that each kind of housekeeping removes besides for each command of the entry. A command
/// leaves behind at most one answer under its session and one under its key, so removing more than
/// one of each catches up under any load.
pub const HOUSEKEEPING_ITEMS_PER_COMMAND: usize = 4;

/// Quotas at most. A write that creates, resizes or removes an item compares its name with the prefix of each, and the
/// first such write of an entry reads them all: with so many that is still far less than the sync of the log.
pub const QUOTAS_MAX: usize = 256;

/// Bytes of items for each item that an entry may count for a quota: with values of the greatest size it counts fewer
/// items, as it reads them all.
pub const QUOTA_COUNT_BYTES_PER_ITEM: u64 = 4 * 1024;

/// What a record costs beyond its key and value bytes, as far as the limits on bytes count:
/// an allowance for lengths and tree nodes in memory and on disk.
pub const RECORD_OVERHEAD_BYTES: u64 = 32;

const _: () = {
    assert!(VALUE_BYTES_MAX + NAME_BYTES_MAX < REQUEST_BYTES_MAX, "a value fits in a request");
    assert!(VALUE_BYTES_MAX + NAME_BYTES_MAX < ANSWER_BYTES_MAX, "a value fits in an answer");
    assert!(ANSWER_BYTES_MAX < 4 * 1024 * 1024, "an answer passes a default gRPC client");
    assert!(PAGE_SIZE_DEFAULT <= PAGE_SIZE_MAX, "the default page is a valid page");
    assert!(APPLY_READ_BYTES_MAX < ANSWER_BYTES_MAX, "what an atomic step reads fits in an answer");
    assert!(
        APPLY_OPERATIONS_MAX * COUNTER_READ_BYTES <= APPLY_READ_BYTES_MAX,
        "a step that reads only counters is never too large"
    );
    assert!(CONDITION_VALUE_BYTES_MAX < 6 * 1024, "a failed condition fits in a header");
    assert!(IDEMPOTENCY_WINDOW_MS_MIN <= IDEMPOTENCY_WINDOW_MS_DEFAULT, "the default is allowed");
    assert!(SESSION_IDLE_MS_MIN <= SESSION_IDLE_MS_DEFAULT, "the default idle time is allowed");
    assert!(SESSION_IDLE_MS_DEFAULT <= SESSION_IDLE_MS_MAX, "the default idle time is allowed");
    assert!(HOUSEKEEPING_ITEMS_PER_COMMAND > 1, "housekeeping is faster than what it removes");
    assert!(HOUSEKEEPING_ITEMS_BASE > 0, "an entry without commands makes progress too");
};
