//! Who may do what: users, roles and tokens, and the decision.
//!
//! All of it is replicated state, and **the decision about a write is made where its entry is applied**, by
//! the rights as of that entry: every replica decides alike, a revoked right ends with the entry that
//! revokes it, and whoever forwards a command lends it nothing. The decision about a read is made on the
//! very state that is read. What a node checks before that (is there such a token, has it expired) only
//! finds out who is calling; [`Caller`] carries it into the entry.
//!
//! While authentication is off (as a cluster begins, unless it is configured otherwise), everybody may do
//! everything, and nothing here is looked at.
//!
//! - A *role* is a list of rules: permissions on the counters or keys that begin with a prefix. What no rule
//!   allows is refused; there are no rules that forbid, so their order means nothing.
//! - A *user* has roles. Its id is never used again: a user made again under the same name inherits neither
//!   sessions nor remembered keys.
//! - A *token* speaks for a user. Only a hash of its secret is stored.
//!
//! What a caller may not read it is not told either: values and bounds are left out of its answers and
//! refusals (`redact.rs`). Whether an item exists is known to whoever may write it, and to
//! nobody else. A refusal for want of permission comes before anything is looked at, and leaves no trace:
//! its number or key can be used again.

pub mod secret;

use serde::{Deserialize, Serialize};

/// Bytes of all users, roles and tokens together, names included: a list of them is one answer, and looking
/// through them all (who is admin? which tokens has this user?) takes a moment at most. Room for more than
/// 10,000 tokens (a test counts).
pub const AUTH_BYTES_MAX: u64 = 1024 * 1024;
/// Rules of one role, at most.
pub const RULES_PER_ROLE_MAX: usize = 256;
/// Roles of one user, at most.
pub const ROLES_PER_USER_MAX: usize = 32;
/// Bytes of the name of a user or a role, and of what a token is for.
pub const AUTH_NAME_BYTES_MAX: usize = 256;

/// The user that switching authentication on makes, and its role.
pub const ADMIN: &str = "admin";

/// Who calls, as the node that took the call found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Caller {
    /// Id of the user.
    pub user: u64,
    /// Id of the token that it showed; 0 if a certificate spoke for it.
    pub token: u64,
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Permissions(u8);

impl Permissions {
    /// None.
    pub const NONE: Permissions = Permissions(0);
    /// To see values, bounds and revisions, to compare with them, and to list what is there.
    pub const READ: Permissions = Permissions(1);
    /// To add to a counter what is not negative.
    pub const INCREASE: Permissions = Permissions(2);
    /// To add to a counter what is negative: to spend without refilling.
    pub const DECREASE: Permissions = Permissions(4);
    /// To set, put and delete.
    pub const WRITE: Permissions = Permissions(8);
    /// To change a counter's stored bounds.
    pub const CONFIGURE: Permissions = Permissions(16);
    /// To watch changes as they come.
    pub const WATCH: Permissions = Permissions(32);

    /// Each, with its name.
    pub const NAMED: [(&'static str, Permissions); 6] = [
        ("read", Permissions::READ),
        ("increase", Permissions::INCREASE),
        ("decrease", Permissions::DECREASE),
        ("write", Permissions::WRITE),
        ("configure", Permissions::CONFIGURE),
        ("watch", Permissions::WATCH),
    ];

    /// All of both.
    pub const fn and(self, other: Permissions) -> Permissions {
        Permissions(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    pub const fn hold(self, other: Permissions) -> bool {
        self.0 & other.0 == other.0
    }

    /// Those of `self` that `other` has not.
    pub const fn without(self, other: Permissions) -> Permissions {
        Permissions(self.0 & !other.0)
    }

    /// Their names, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.into_iter().filter(move |(_, one)| self.hold(*one)).map(|(name, _)| name)
    }
}

impl std::fmt::Display for Permissions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join("+"))
    }
}

/// Which items a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Counters.
    Counters,
    /// Keys.
    Keys,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Scope::Counters => "counter",
            Scope::Keys => "key",
        })
    }
}

/// Permissions on the items of a scope whose names begin with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Counters or keys.
    pub scope: Scope,
    /// What their names begin with; empty for all.
    pub prefix: String,
    /// What is allowed.
    pub permissions: Permissions,
}

/// A role as stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RoleRecord {
    /// What it allows.
    pub rules: Vec<Rule>,
    /// It allows everything: each permission on every item, users and roles, members of the cluster.
    pub admin: bool,
    /// It allows to see the state of nodes and sessions.
    pub monitor: bool,
}

/// For a log: each rule behind a space.
impl std::fmt::Display for RoleRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Rule { scope, prefix, permissions } in &self.rules {
            write!(f, " {permissions} on {scope} {prefix:?}")?;
        }
        let all = [("admin", self.admin), ("monitor", self.monitor)];
        all.iter().filter(|(_, has)| *has).try_for_each(|(what, _)| write!(f, " {what}"))
    }
}

/// How much each user of a role may ask of one node, as stored beside the role. It decides nothing in apply, as
/// replicas have no clock in common: the node that takes a call counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleLimit {
    /// Operations a second, in the long run; 1 or more.
    pub operations_per_second: u64,
    /// … and at once, after it asked for nothing for a while; 1 or more.
    pub burst: u64,
}

/// The most that a limit may say: one operation a nanosecond.
pub const OPERATIONS_PER_SECOND_MAX: u64 = 1_000_000_000;

/// A user as stored, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its name; the name in a client's certificate speaks for it.
    pub name: String,
    /// Names of its roles, in order, each once.
    pub roles: Vec<String>,
}

/// The id of a user, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserIdRecord {
    /// The id.
    pub id: u64,
}

/// A token as stored, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Id of the user that it speaks for.
    pub user: u64,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// What it is for, as its maker said.
    pub label: String,
    /// Wall clock of the leader when it was made, for display.
    pub created_wall_time_ms: u64,
    /// Wall clock from which on nodes do not take it any more; 0: never. It decides nothing in apply, as
    /// replicas have no clock in common: a node looks at its own when it is shown the token.
    pub expires_wall_time_ms: u64,
}

/// A change of users, roles and tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthCommand {
    /// Switches authentication on. There must be a user with a role that is admin and a token, made before:
    /// if the answer is lost, nobody is shut out.
    Enable,
    /// Makes the user and role [`ADMIN`] with a token, and switches authentication on: the first command of a
    /// cluster that begins with it. No request becomes this.
    Begin {
        /// SHA-256 of its secret.
        secret_hash: [u8; 32],
    },
    /// Switches authentication off; users, roles and tokens stay.
    Disable,
    /// Makes or replaces a role.
    PutRole {
        /// Its name.
        name: String,
        /// What it is from now on.
        role: RoleRecord,
    },
    /// Removes a role that no user has.
    DeleteRole {
        /// Its name.
        name: String,
    },
    /// Makes a user, or replaces its roles.
    PutUser {
        /// Its name.
        name: String,
        /// Its roles from now on.
        roles: Vec<String>,
    },
    /// Removes a user, with its tokens.
    DeleteUser {
        /// Its name.
        name: String,
    },
    /// Makes a token for a user.
    CreateToken {
        /// The user's name.
        user: String,
        /// SHA-256 of its secret.
        secret_hash: [u8; 32],
        /// What it is for.
        label: String,
        /// See [`TokenRecord::expires_wall_time_ms`].
        expires_wall_time_ms: u64,
    },
    /// Removes a token.
    RevokeToken {
        /// Its id.
        id: u64,
    },
    /// Makes or replaces a role whose users may ask for so much only. ([`AuthCommand::PutRole`] is of one without
    /// a limit.)
    PutLimitedRole {
        /// Its name.
        name: String,
        /// What it is from now on.
        role: RoleRecord,
        /// How much its users may ask for.
        limit: RoleLimit,
    },
}

/// Without hashes: nothing that helps to find a secret belongs into a log.
impl std::fmt::Display for AuthCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AuthCommand::Enable => write!(f, "switch authentication on"),
            AuthCommand::Begin { .. } => write!(f, "begin with authentication on"),
            AuthCommand::Disable => write!(f, "switch authentication off"),
            AuthCommand::PutRole { name, role } => write!(f, "put role {name:?}{role}"),
            AuthCommand::PutLimitedRole { name, role, limit } => {
                let RoleLimit { operations_per_second, burst } = limit;
                write!(f, "put role {name:?}{role} at most {operations_per_second}/s burst {burst}")
            }
            AuthCommand::DeleteRole { name } => write!(f, "delete role {name:?}"),
            AuthCommand::PutUser { name, roles } => write!(f, "put user {name:?} {roles:?}"),
            AuthCommand::DeleteUser { name } => write!(f, "delete user {name:?}"),
            AuthCommand::CreateToken { user, label, .. } => {
                write!(f, "make a token for {user:?}: {label:?}")
            }
            AuthCommand::RevokeToken { id } => write!(f, "revoke token {id}"),
        }
    }
}

/// What authentication keeps of the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuthMeta {
    /// It is on.
    pub enabled: bool,
    /// The last id that was given to a user or a token.
    pub last_id: u64,
    /// Users.
    pub users: u64,
    /// Roles.
    pub roles: u64,
    /// Tokens.
    pub tokens: u64,
    /// Bytes of all of them, with their keys.
    pub bytes: u64,
}

/// Why a change of users, roles and tokens was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AuthRefusal {
    /// No such role.
    #[error("there is no role {0:?}")]
    NoSuchRole(String),
    /// No such user.
    #[error("there is no user {0:?}")]
    NoSuchUser(String),
    /// No such token.
    #[error("there is no token {0}")]
    NoSuchToken(u64),
    /// A role that users have stays.
    #[error("role {role:?} is a role of user {user:?}")]
    RoleInUse {
        /// The role.
        role: String,
        /// A user that has it.
        user: String,
    },
    /// Somebody must be left who can change this again.
    #[error(
        "nobody would be left who gets in with a role that is admin: authentication could never be changed again"
    )]
    LastAdmin,
    /// There is no room for more.
    #[error(
        "users, roles and tokens may have {bytes_max} bytes together, and there is no room for more"
    )]
    Full {
        /// The limit.
        bytes_max: u64,
    },
    /// It is on already.
    #[error("authentication is on already")]
    AlreadyEnabled,
}
