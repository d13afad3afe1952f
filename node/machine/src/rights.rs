//! What a caller may do, as of one state.

use tally_seeded_bugs as seeded_bugs;

use super::{
    auth::{Caller, Permissions, RoleRecord, Rule, Scope, TokenRecord, UserRecord},
    keys::RecordKey,
    query,
    view::View,
};

/// The caller is nobody that the state knows: its user or its token is gone, or it showed none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotKnown;

/// What an operation needs, and on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need<'a> {
    /// Counters or keys.
    pub scope: Scope,
    /// The item.
    pub name: &'a str,
    /// All of these.
    pub permissions: Permissions,
}

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    user: u64,
    name: String,
    roles: Vec<(String, RoleRecord)>,
}

/// Why something is allowed, or that it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A role that is admin allows everything.
    Admin {
        /// The role.
        role: String,
    },
    /// For each permission that is needed, the first rule that allows it.
    Rules(Vec<(String, Rule)>),
    /// Nothing allows these.
    Denied {
        /// The permissions that are needed, and that no rule gives.
        lacks: Permissions,
    },
}

impl Decision {
    /// Whether it is allowed.
    pub fn is_allowed(&self) -> bool {
        !matches!(self, Decision::Denied { .. })
    }
}

impl Rights {
    /// Those of a caller, if the state knows it.
    pub fn of<V: View + ?Sized>(view: &V, caller: Option<Caller>) -> Result<Rights, NotKnown> {
        let Caller { user, token } = caller.ok_or(NotKnown)?;
        if token != 0 {
            let token: Option<TokenRecord> = query::get(view, RecordKey::Token(token));
            let is_good = match token {
                Some(token) => token.user == user,
                None => seeded_bugs::is_on("revoked-goes-on"),
            };
            if !is_good {
                return Err(NotKnown);
            }
        }
        let record: UserRecord = query::get(view, RecordKey::User(user)).ok_or(NotKnown)?;
        let roles = record.roles.into_iter().filter_map(|name| {
            // A role that users have can't be removed; one that is missing all the same allows nothing.
            let role: RoleRecord = query::get(view, RecordKey::Role(&name))?;
            Some((name, role))
        });
        Ok(Rights { user, name: record.name, roles: roles.collect() })
    }

    /// Id of the user.
    pub fn user(&self) -> u64 {
        self.user
    }

    /// Name of the user.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of the roles.
    pub fn role_names(&self) -> impl Iterator<Item = &str> {
        self.roles.iter().map(|(name, _)| name.as_str())
    }

    /// Whether a role is admin.
    pub fn is_admin(&self) -> bool {
        self.roles.iter().any(|(_, role)| role.admin)
    }

    /// Whether a role allows to see the state of nodes and sessions.
    pub fn may_monitor(&self) -> bool {
        self.roles.iter().any(|(_, role)| role.admin || role.monitor)
    }

    /// Whether all that is needed is allowed, not necessarily by one rule.
    pub fn allow(&self, need: Need<'_>) -> bool {
        self.lacks(need) == Permissions::NONE
    }

    /// What is needed and not allowed.
    pub fn lacks(&self, need: Need<'_>) -> Permissions {
        if self.is_admin() {
            return Permissions::NONE;
        }
        let rules = self.rules().filter(|(_, rule)| rule.is_about(need.scope, need.name));
        rules.fold(need.permissions, |lacks, (_, rule)| lacks.without(rule.permissions))
    }

    /// Whether every item whose name begins with `prefix` is allowed to be read, also those that do not exist:
    /// what a list leaves out, or how far it got, tells nothing then.
    pub fn may_list(&self, scope: Scope, prefix: &str) -> bool {
        let some_of_it = |(_, rule): (&str, &Rule)| {
            rule.scope == scope
                && rule.prefix.starts_with(prefix)
                && rule.permissions.hold(Permissions::READ)
        };
        self.allow(Need { scope, name: prefix, permissions: Permissions::READ })
            || seeded_bugs::is_on("list-of-what-is-in-part-allowed") && self.rules().any(some_of_it)
    }

    /// What decides.
    pub fn decide(&self, need: Need<'_>) -> Decision {
        if let Some((role, _)) = self.roles.iter().find(|(_, role)| role.admin) {
            return Decision::Admin { role: role.clone() };
        }
        // A rule decides if it gives something that none before it gave.
        let (mut lacks, mut deciding) = (need.permissions, Vec::new());
        for (role, rule) in self.rules().filter(|(_, rule)| rule.is_about(need.scope, need.name)) {
            let left = lacks.without(rule.permissions);
            if left != lacks {
                deciding.push((role.to_owned(), rule.clone()));
            }
            lacks = left;
        }
        match lacks {
            Permissions::NONE => Decision::Rules(deciding),
            lacks => Decision::Denied { lacks },
        }
    }

    fn rules(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.roles
            .iter()
            .flat_map(|(name, role)| role.rules.iter().map(move |rule| (name.as_str(), rule)))
    }
}

impl Rule {
    /// Whether it is about this item, and so about every one whose name begins with it.
    fn is_about(&self, scope: Scope, name: &str) -> bool {
        self.scope == scope && name.starts_with(&self.prefix)
    }
}
