//! Changing users, roles and tokens. Only a caller with a role that is admin comes here (`apply.rs`), but for
//! the one who switches authentication on.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    auth::{
        ADMIN, AUTH_BYTES_MAX, AuthCommand, AuthRefusal, RoleLimit, RoleRecord, TokenRecord,
        UserIdRecord, UserRecord,
    },
    keys::{RecordKey, Space},
    query::get,
    records::{Record, decode_stored},
    reply::{Answer, Refusal},
    view::View,
    work::Work,
};

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// Does it, or leaves everything as it was.
    pub(crate) fn change_auth(&mut self, command: &AuthCommand) -> Result<Answer, Refusal> {
        let before = self.meta.auth;
        match self.try_change(command) {
            Ok(id) => {
                self.auth_undo.clear();
                Ok(Answer::AuthChanged { id })
            }
            Err(refusal) => {
                self.meta.auth = before;
                while let Some((key, value)) = self.auth_undo.pop() {
                    match value {
                        Some(value) => self.overlay.put(key, value),
                        None => self.overlay.delete(key),
                    }
                }
                Err(Refusal::Auth(refusal))
            }
        }
    }

    /// The id of what it made, else 0.
    fn try_change(&mut self, command: &AuthCommand) -> Result<u64, AuthRefusal> {
        match command {
            AuthCommand::Enable => self.enable(),
            AuthCommand::Begin { secret_hash } => self.begin_secure(*secret_hash),
            AuthCommand::Disable => {
                self.meta.auth.enabled = false;
                Ok(0)
            }
            AuthCommand::PutRole { name, role } => self.put_role(name, role, None),
            AuthCommand::PutLimitedRole { name, role, limit } => {
                self.put_role(name, role, Some(limit))
            }
            AuthCommand::DeleteRole { name } => self.delete_role(name),
            AuthCommand::PutUser { name, roles } => self.put_user(name, roles),
            AuthCommand::DeleteUser { name } => self.delete_user(name),
            AuthCommand::CreateToken { user, secret_hash, label, expires_wall_time_ms } => {
                let user = self.user_id(user)?;
                self.create_token(TokenRecord {
                    user,
                    secret_hash: *secret_hash,
                    label: label.clone(),
                    created_wall_time_ms: self.wall_time_ms,
                    expires_wall_time_ms: *expires_wall_time_ms,
                })
            }
            AuthCommand::RevokeToken { id } => {
                let was_there = self.remove(RecordKey::Token(*id));
                if !was_there {
                    return Err(AuthRefusal::NoSuchToken(*id));
                }
                self.meta.auth.tokens -= 1;
                Ok(0)
            }
        }
    }

    /// Only when somebody can get in: a user with an admin role who has a token. (Whether a certificate names such
    /// a user nobody knows here.)
    fn enable(&mut self) -> Result<u64, AuthRefusal> {
        if self.meta.auth.enabled {
            return Err(AuthRefusal::AlreadyEnabled);
        }
        let can_get_in = |user: &UserRecord| {
            let id = self.user_id(&user.name);
            user.roles.iter().any(|role| self.is_admin(role))
                && id.is_ok_and(|id| !self.tokens_of(id).is_empty())
        };
        if self.some_user(can_get_in).is_none() {
            return Err(AuthRefusal::LastAdmin);
        }
        self.meta.auth.enabled = true;
        Ok(0)
    }

    fn begin_secure(&mut self, secret_hash: [u8; 32]) -> Result<u64, AuthRefusal> {
        let role = RoleRecord { admin: true, ..RoleRecord::default() };
        self.put_role(ADMIN, &role, None)?;
        let user = self.put_user(ADMIN, &[ADMIN.to_owned()])?;
        let token = self.create_token(TokenRecord {
            user,
            secret_hash,
            label: "the first of the cluster".to_owned(),
            created_wall_time_ms: self.wall_time_ms,
            expires_wall_time_ms: 0,
        })?;
        self.enable()?;
        Ok(token)
    }

    fn put_role(
        &mut self,
        name: &str,
        role: &RoleRecord,
        limit: Option<&RoleLimit>,
    ) -> Result<u64, AuthRefusal> {
        let key = RecordKey::Role(name).encode();
        let before = self.overlay.get(&key);
        let was_admin = before.as_ref().is_some_and(|bytes| {
            let before: RoleRecord = decode_stored(&key, bytes);
            before.admin
        });
        if was_admin && !role.admin {
            self.somebody_is_admin(|user| {
                user.roles.iter().any(|of| of != name && self.is_admin(of))
            })?;
        }
        self.store(RecordKey::Role(name), role)?;
        match limit {
            Some(limit) => self.store(RecordKey::RoleLimit(name), limit)?,
            None => drop(self.remove(RecordKey::RoleLimit(name))),
        }
        self.meta.auth.roles += u64::from(before.is_none());
        Ok(0)
    }

    fn delete_role(&mut self, name: &str) -> Result<u64, AuthRefusal> {
        if self.overlay.get(&RecordKey::Role(name).encode()).is_none() {
            return Err(AuthRefusal::NoSuchRole(name.to_owned()));
        }
        let has_it = |user: &UserRecord| user.roles.iter().any(|of| of == name);
        if let Some(user) = self.some_user(has_it) {
            return Err(AuthRefusal::RoleInUse { role: name.to_owned(), user: user.name });
        }
        self.remove(RecordKey::Role(name));
        self.remove(RecordKey::RoleLimit(name));
        self.meta.auth.roles -= 1;
        Ok(0)
    }

    fn put_user(&mut self, name: &str, roles: &[String]) -> Result<u64, AuthRefusal> {
        let mut roles = roles.to_vec();
        roles.sort_unstable();
        roles.dedup();
        let is_there = |role: &&String| self.overlay.get(&RecordKey::Role(role).encode()).is_some();
        if let Some(role) = roles.iter().find(|role| !is_there(role)) {
            return Err(AuthRefusal::NoSuchRole(role.clone()));
        }
        let known = self.user_id(name).ok();
        if known.is_some() && !roles.iter().any(|role| self.is_admin(role)) {
            self.somebody_else_is_admin(name)?;
        }
        let id = known.unwrap_or(self.meta.auth.last_id + 1);
        self.store(RecordKey::User(id), &UserRecord { name: name.to_owned(), roles })?;
        if known.is_none() {
            self.store(RecordKey::UserId(name), &UserIdRecord { id })?;
            self.meta.auth.last_id = id;
            self.meta.auth.users += 1;
        }
        Ok(id)
    }

    fn delete_user(&mut self, name: &str) -> Result<u64, AuthRefusal> {
        let id = self.user_id(name)?;
        self.somebody_else_is_admin(name)?;
        self.remove(RecordKey::UserId(name));
        self.remove(RecordKey::User(id));
        self.meta.auth.users -= 1;
        for token in self.tokens_of(id) {
            self.remove(RecordKey::Token(token));
            self.meta.auth.tokens -= 1;
        }
        Ok(0)
    }

    fn create_token(&mut self, token: TokenRecord) -> Result<u64, AuthRefusal> {
        let id = self.meta.auth.last_id + 1;
        self.store(RecordKey::Token(id), &token)?;
        self.meta.auth.last_id = id;
        self.meta.auth.tokens += 1;
        Ok(id)
    }

    /// Stores a record, if there is room for it.
    fn store(&mut self, key: RecordKey<'_>, record: &impl Record) -> Result<(), AuthRefusal> {
        let (key, value) = (key.encode(), record.encode());
        let held = |value: &Bytes| (key.len() + value.len()) as u64;
        let before = self.overlay.get(&key);
        let bytes = self.meta.auth.bytes - before.as_ref().map_or(0, held) + held(&value);
        if bytes > AUTH_BYTES_MAX {
            return Err(AuthRefusal::Full { bytes_max: AUTH_BYTES_MAX });
        }
        self.meta.auth.bytes = bytes;
        self.auth_undo.push((key.clone(), before));
        self.overlay.put(key, value);
        Ok(())
    }

    /// Removes a record; whether it was there.
    fn remove(&mut self, key: RecordKey<'_>) -> bool {
        let key = key.encode();
        let Some(value) = self.overlay.get(&key) else { return false };
        self.meta.auth.bytes -= (key.len() + value.len()) as u64;
        self.overlay.delete(key.clone());
        self.auth_undo.push((key, Some(value)));
        true
    }

    fn user_id(&self, name: &str) -> Result<u64, AuthRefusal> {
        let record: Option<UserIdRecord> = get(&*self.overlay, RecordKey::UserId(name));
        record.map(|record| record.id).ok_or_else(|| AuthRefusal::NoSuchUser(name.to_owned()))
    }

    fn is_admin(&self, role: &str) -> bool {
        let role: Option<RoleRecord> = get(&*self.overlay, RecordKey::Role(role));
        role.is_some_and(|role| role.admin)
    }

    fn somebody_else_is_admin(&self, name: &str) -> Result<(), AuthRefusal> {
        self.somebody_is_admin(|user| {
            user.name != name && user.roles.iter().any(|role| self.is_admin(role))
        })
    }

    /// While authentication is on, there is a user who can change it.
    fn somebody_is_admin(&self, is_admin: impl Fn(&UserRecord) -> bool) -> Result<(), AuthRefusal> {
        match !self.meta.auth.enabled || self.some_user(is_admin).is_some() {
            true => Ok(()),
            false => Err(AuthRefusal::LastAdmin),
        }
    }

    fn some_user(&self, is_it: impl Fn(&UserRecord) -> bool) -> Option<UserRecord> {
        let (start, end) = Space::User.range();
        let mut found = None;
        self.overlay.scan(&start, &end, &mut |key, value| {
            let user: UserRecord = decode_stored(key, value);
            if is_it(&user) {
                found = Some(user);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
    }

    fn tokens_of(&self, user: u64) -> Vec<u64> {
        let (start, end) = Space::Token.range();
        let mut tokens = Vec::new();
        self.overlay.scan(&start, &end, &mut |key, value| {
            let token: TokenRecord = decode_stored(key, value);
            if let (true, Ok(RecordKey::Token(id))) = (token.user == user, RecordKey::decode(key)) {
                tokens.push(id);
            }
            ControlFlow::Continue(())
        });
        tokens
    }
}
