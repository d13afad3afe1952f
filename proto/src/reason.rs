//! The reasons that an `ErrorInfo` of domain `tally` can name. Node and client spell them here only,
//! so that neither can wait for a reason which the other never sends.

/// A request was malformed and no single field is to blame; a field's own reason is its name.
pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
/// A counter that must exist does not.
pub const COUNTER_NOT_FOUND: &str = "COUNTER_NOT_FOUND";
/// A key that must exist does not.
pub const KEY_NOT_FOUND: &str = "KEY_NOT_FOUND";
/// The idempotency key was used for another request.
pub const IDEMPOTENCY_KEY_REUSED: &str = "IDEMPOTENCY_KEY_REUSED";
/// The value would fall below its floor.
pub const BELOW_FLOOR: &str = "BELOW_FLOOR";
/// The value would rise above its ceiling.
pub const ABOVE_CEILING: &str = "ABOVE_CEILING";
/// The value would not fit in 64 bits.
pub const OVERFLOW: &str = "OVERFLOW";
/// A comparison or condition did not hold.
pub const CONDITION_FAILED: &str = "CONDITION_FAILED";
/// The reads of an `Apply`, or a `BatchGet`, returned more than an answer may hold.
pub const ANSWER_TOO_LARGE: &str = "ANSWER_TOO_LARGE";
/// The table of idempotency keys is full.
pub const DEDUP_TABLE_FULL: &str = "DEDUP_TABLE_FULL";
/// The table of sessions is full.
pub const SESSION_TABLE_FULL: &str = "SESSION_TABLE_FULL";
/// The session has too many numbers above its watermark.
pub const SESSION_WINDOW_FULL: &str = "SESSION_WINDOW_FULL";
/// The sequence number was used for another request.
pub const SEQUENCE_REUSED: &str = "SEQUENCE_REUSED";
/// The sequence number is below the watermark: its answer is forgotten.
pub const SEQUENCE_TOO_OLD: &str = "SEQUENCE_TOO_OLD";
/// The session has ended.
pub const SESSION_EXPIRED: &str = "SESSION_EXPIRED";
/// The node does not lead and could not forward; never proposed.
pub const NOT_LEADER: &str = "NOT_LEADER";
/// The deadline passed before the write was proposed.
pub const NOT_PROPOSED: &str = "NOT_PROPOSED";
/// The write was proposed and nobody can say what became of it.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// No majority can be reached; never proposed.
pub const NO_QUORUM: &str = "NO_QUORUM";
/// The node is shutting down; never proposed.
pub const SHUTTING_DOWN: &str = "SHUTTING_DOWN";
/// No node could prove the staleness bound that was asked for.
pub const STALENESS_BOUND_EXCEEDED: &str = "STALENESS_BOUND_EXCEEDED";
/// The node does not take part yet, and says what it waits for; never proposed.
pub const NODE_STARTING: &str = "NODE_STARTING";
/// The session token belongs to another cluster, or to this one before a restore.
pub const TOKEN_OF_ANOTHER_CLUSTER: &str = "TOKEN_OF_ANOTHER_CLUSTER";
/// The state of the session token was not reached in the time allowed.
pub const TOKEN_NOT_REACHED: &str = "TOKEN_NOT_REACHED";
/// Too many requests wait.
pub const TOO_MANY_IN_FLIGHT: &str = "TOO_MANY_IN_FLIGHT";
/// Too many bytes of requests wait.
pub const TOO_MANY_BYTES_IN_FLIGHT: &str = "TOO_MANY_BYTES_IN_FLIGHT";
/// The client has its share of the requests that may be under way; others have theirs.
pub const SHARE_EXCEEDED: &str = "SHARE_EXCEEDED";
/// The user's roles allow it so many operations a second, and it asked for more.
pub const RATE_LIMITED: &str = "RATE_LIMITED";
/// Remembered answers of one session, or of all, hold too many bytes.
pub const TOO_MANY_SESSION_BYTES: &str = "TOO_MANY_SESSION_BYTES";
/// The leader's disk is nearly full.
pub const DISK_NEARLY_FULL: &str = "DISK_NEARLY_FULL";
/// This node's state differs from that of a majority of the voters: it answers LOCAL reads only. Another node may do it.
pub const STATE_DIFFERS: &str = "STATE_DIFFERS";
/// The voters' states differ, and no majority of them agrees: nothing is written until one does; never proposed.
pub const NO_STATE_MAJORITY: &str = "NO_STATE_MAJORITY";
/// The deadline of a read passed.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";
/// A membership change was refused.
pub const MEMBERSHIP_REFUSED: &str = "MEMBERSHIP_REFUSED";
/// It takes a version of the formats that the cluster does not have: an upgrade is not finalized.
pub const UPGRADE_NOT_FINALIZED: &str = "UPGRADE_NOT_FINALIZED";
/// An upgrade was not finalized: a member does not read what comes then, or was not heard. Or a node was not added, as
/// its release does not read what the cluster has.
pub const UPGRADE_REFUSED: &str = "UPGRADE_REFUSED";
/// The node's audit log can't take another line and must not drop any; nothing was done.
pub const AUDIT_LOG_UNAVAILABLE: &str = "AUDIT_LOG_UNAVAILABLE";
/// This version has no such method.
pub const UNIMPLEMENTED: &str = "UNIMPLEMENTED";
/// Authentication is on, and the caller showed nothing that counts: no token or certificate, or one that
/// is unknown, revoked or over.
pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
/// No rule of the caller's roles allows it.
pub const PERMISSION_DENIED: &str = "PERMISSION_DENIED";
/// There is no such role.
pub const ROLE_NOT_FOUND: &str = "ROLE_NOT_FOUND";
/// There is no such user.
pub const USER_NOT_FOUND: &str = "USER_NOT_FOUND";
/// There is no such token.
pub const TOKEN_NOT_FOUND: &str = "TOKEN_NOT_FOUND";
/// A role that users have can't be removed.
pub const ROLE_IN_USE: &str = "ROLE_IN_USE";
/// Nobody would be left who may change users and roles.
pub const LAST_ADMIN: &str = "LAST_ADMIN";
/// Users, roles and tokens have no more room.
pub const AUTH_TABLE_FULL: &str = "AUTH_TABLE_FULL";
/// A quota does not allow as much more.
pub const QUOTA_EXCEEDED: &str = "QUOTA_EXCEEDED";
/// There are as many quotas as there can be.
pub const QUOTA_TABLE_FULL: &str = "QUOTA_TABLE_FULL";
/// Authentication is on already.
pub const AUTHENTICATION_ENABLED: &str = "AUTHENTICATION_ENABLED";
/// A backup is being restored into this cluster: until that is done nothing is written, and no item is read.
pub const RESTORE_UNDER_WAY: &str = "RESTORE_UNDER_WAY";
/// Something is stored in the cluster into which a backup was to be restored. Nothing was changed.
pub const CLUSTER_NOT_EMPTY: &str = "CLUSTER_NOT_EMPTY";
/// A step of a restore was refused, for what the backup or the cluster is. Nothing was changed.
pub const RESTORE_REFUSED: &str = "RESTORE_REFUSED";
/// This node knows no such backup, or it was not asked for in a minute.
pub const BACKUP_NOT_FOUND: &str = "BACKUP_NOT_FOUND";
/// The node makes as many backups as it does at once.
pub const TOO_MANY_BACKUPS: &str = "TOO_MANY_BACKUPS";
/// The client library: all nodes that answered are of another cluster than those before.
pub const ANOTHER_CLUSTER: &str = "ANOTHER_CLUSTER";
/// The client library: no node answered a read.
pub const NO_ANSWER: &str = "NO_ANSWER";
/// The client library: the request is larger than a node takes, and was not sent.
pub const REQUEST_BYTES_MAX: &str = "REQUEST_BYTES_MAX";
