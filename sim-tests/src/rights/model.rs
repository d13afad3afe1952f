//! Who may do what, a second time: users, roles and tokens as maps, and what follows from them, written from
//! `docs/security.md` and not from `machine::auth`.

use std::collections::BTreeMap;

use tally_node::machine::{
    auth::{AuthCommand, Caller, Permissions, RoleRecord, Scope},
    command::{Action, Bounds, KeyExpectation, Operation, Target},
};

/// What a call takes, on which item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) scope: Scope,
    pub(crate) name: String,
    pub(crate) permissions: Permissions,
}

impl Need {
    pub(crate) fn counter(name: &str, permissions: Permissions) -> Need {
        Need { scope: Scope::Counters, name: name.to_owned(), permissions }
    }

    pub(crate) fn key(name: &str, permissions: Permissions) -> Need {
        Need { scope: Scope::Keys, name: name.to_owned(), permissions }
    }
}

/// A token as it is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) user: u64,
    pub(crate) expires_wall_ms: u64,
}

/// Users, roles and tokens at one place of the log.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rights {
    pub(crate) on: bool,
    roles: BTreeMap<String, RoleRecord>,
    users: BTreeMap<String, (u64, Vec<String>)>,
    tokens: BTreeMap<u64, Token>,
}

/// What is said of a call, by the rights of one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// It may.
    Yes,
    /// Nobody that is known.
    Stranger,
    /// Somebody, who may not.
    No,
}

impl Rights {
    /// A change that was made; `id` is that of what it made.
    pub(super) fn change(&mut self, change: &AuthCommand, id: u64) {
        match change {
            AuthCommand::Enable => self.on = true,
            AuthCommand::Disable => self.on = false,
            // The cluster of a simulation begins open.
            AuthCommand::Begin { .. } => {}
            AuthCommand::PutRole { name, role }
            | AuthCommand::PutLimitedRole { name, role, .. } => {
                self.roles.insert(name.clone(), role.clone());
            }
            AuthCommand::DeleteRole { name } => {
                self.roles.remove(name);
            }
            AuthCommand::PutUser { name, roles } => {
                self.users.insert(name.clone(), (id, roles.clone()));
            }
            AuthCommand::DeleteUser { name } => {
                if let Some((user, _)) = self.users.remove(name) {
                    self.tokens.retain(|_, token| token.user != user);
                }
            }
            AuthCommand::CreateToken { user, expires_wall_time_ms, .. } => {
                if let Some((user, _)) = self.users.get(user) {
                    let expires_wall_ms = *expires_wall_time_ms;
                    self.tokens.insert(id, Token { user: *user, expires_wall_ms });
                }
            }
            AuthCommand::RevokeToken { id } => {
                self.tokens.remove(id);
            }
        }
    }

    pub(super) fn token(&self, id: u64) -> Option<Token> {
        self.tokens.get(&id).copied()
    }

    /// The id of whoever shows this token, if it counts.
    pub(super) fn user_of(&self, token: Option<u64>) -> Option<u64> {
        let token = self.tokens.get(&token?)?;
        self.users.values().any(|(id, _)| *id == token.user).then_some(token.user)
    }

    /// The user that a command names, if it is one, and what it showed counts.
    pub(super) fn caller(&self, caller: Option<Caller>) -> Option<u64> {
        let Caller { user, token } = caller?;
        let shown = match token {
            // A certificate spoke for it.
            0 => self.users.values().any(|(id, _)| *id == user),
            token => self.user_of(Some(token)) == Some(user),
        };
        shown.then_some(user)
    }

    /// Whether a user may do something while authentication is on.
    pub(super) fn allows(&self, user: u64, need: &Need) -> bool {
        let roles = self.users.values().filter(|(id, _)| *id == user).flat_map(|(_, roles)| roles);
        let roles: Vec<&RoleRecord> = roles.filter_map(|role| self.roles.get(role)).collect();
        if roles.iter().any(|role| role.admin) {
            return true;
        }
        let has = |one: Permissions| {
            roles.iter().flat_map(|role| &role.rules).any(|rule| {
                rule.scope == need.scope
                    && need.name.starts_with(&rule.prefix)
                    && rule.permissions.hold(one)
            })
        };
        let mut each = Permissions::NAMED.into_iter().map(|(_, one)| one);
        each.all(|one| !need.permissions.hold(one) || has(one))
    }

    pub(super) fn is_admin(&self, user: u64) -> bool {
        let roles = self.users.values().filter(|(id, _)| *id == user).flat_map(|(_, roles)| roles);
        roles.filter_map(|role| self.roles.get(role)).any(|role| role.admin)
    }

    /// What is said to whoever shows this token (nothing, or one that is none, is `None`) and needs all of this.
    pub(super) fn says(&self, token: Option<u64>, needs: &[Need]) -> Says {
        if !self.on {
            return Says::Yes;
        }
        match self.user_of(token) {
            None => Says::Stranger,
            Some(user) if needs.iter().all(|need| self.allows(user, need)) => Says::Yes,
            Some(_) => Says::No,
        }
    }
}

/// What an operation takes.
pub(super) fn need_of(operation: &Operation) -> Need {
    let (read, write) = (Permissions::READ, Permissions::WRITE);
    // To expect something of what is there is to compare with it.
    let with = |expect: &KeyExpectation| match expect {
        KeyExpectation::Any => write,
        _ => write.and(read),
    };
    match operation {
        Operation::CounterAdd(add) => {
            let way = if add.delta < 0 { Permissions::DECREASE } else { Permissions::INCREASE };
            let is_plain = add.bounds == Bounds::default();
            Need::counter(&add.name, if is_plain { way } else { way.and(read) })
        }
        Operation::CounterGet(it) => Need::counter(&it.name, read),
        Operation::CounterSet(it) => Need::counter(&it.name, write),
        Operation::CounterCompareAndSet(it) => Need::counter(&it.name, write.and(read)),
        Operation::CounterDelete(it) => Need::counter(&it.name, write),
        Operation::CounterConfigure(it) => Need::counter(&it.name, Permissions::CONFIGURE),
        Operation::KeyPut(it) => Need::key(&it.key, with(&it.expect)),
        Operation::KeyGet(it) => Need::key(&it.key, read),
        Operation::KeyDelete(it) => Need::key(&it.key, with(&it.expect)),
    }
}

/// All that a command takes: of a step its conditions and both branches.
pub(super) fn needs_of(action: &Action) -> Vec<Need> {
    match action {
        Action::Single(operation) => vec![need_of(operation)],
        Action::Apply(step) => {
            let conditions = step.conditions.iter().map(|condition| match &condition.target {
                Target::Counter(name) => Need::counter(name, Permissions::READ),
                Target::Key(name) => Need::key(name, Permissions::READ),
            });
            let operations = step.operations.iter().chain(&step.else_operations).map(need_of);
            conditions.chain(operations).collect()
        }
        _ => Vec::new(),
    }
}
