//! Users, roles and tokens on the wire.

use tally_proto::v1::{self, auth_change_request::Change};

use super::{
    Answered, Api, Call,
    status::{Invalid, Kind},
    who::Reads,
};
use crate::machine::{
    auth::{
        AUTH_NAME_BYTES_MAX, AuthCommand, AuthRefusal, OPERATIONS_PER_SECOND_MAX, Permissions,
        ROLES_PER_USER_MAX, RULES_PER_ROLE_MAX, RoleLimit, RoleRecord, Rule, Scope,
        secret::{SECRET_BYTES, format_token, hash_secret},
    },
    command::{Action, Answer, Command, Fingerprint},
    dry_run, limits, query,
    reply::{Refusal, Reply},
    rights::{Decision, Need, Rights},
    users,
    view::View,
};

impl Api {
    pub(crate) async fn auth_change(
        &self,
        call: &Call,
        request: v1::AuthChangeRequest,
    ) -> Answered<v1::AuthChangeResponse> {
        let secret = self.node.random.next_secret();
        let makes_token = matches!(request.change, Some(Change::CreateToken(_)));
        let action = self.auth_command(request.change, &secret).map(Action::Auth);
        if request.dry_run {
            let action = action.map_err(|invalid| self.invalid(call, Kind::Write, &invalid))?;
            return self.try_change(call, action).await;
        }
        if let Ok(Action::Auth(command)) = &action {
            self.leaves_a_way_in(call, command).await?;
        }
        let written = self.write(call, action, None).await?;
        let Answer::AuthChanged { id } = *written.answer() else {
            unreachable!("the machine answered {:?} to a change of users", written.answer())
        };
        let token = if makes_token { format_token(id, &secret) } else { String::new() };
        Ok(v1::AuthChangeResponse { header: Some(written.into_header()), id, token })
    }

    /// Refuses what would lock everybody out by the clock of today, which apply does not know. Nothing is promised of two
    /// that are made at once.
    async fn leaves_a_way_in(&self, call: &Call, command: &AuthCommand) -> Answered<()> {
        if !matches!(command, AuthCommand::Enable | AuthCommand::RevokeToken { .. }) {
            return Ok(());
        }
        // Where this node can't look, the write itself says why.
        let Ok(permit) = self.permit(call, None, Reads::Anything).await else { return Ok(()) };
        if !self.locks_out(call, &permit.view, command) {
            return Ok(());
        }
        let reply = self.tried(call, &permit.view, Action::Auth(command.clone()));
        let header = self.read_header(&permit);
        drop(permit);
        // (What apply would refuse for another reason is refused for that.)
        reply
            .result
            .as_ref()
            .map(drop)
            .map_err(|refusal| self.refused(call, refusal, &reply, header, false))
    }

    /// Nobody would have a token that counts and may change users. A certificate may name an admin: what whoever shows
    /// one takes away is not his own way in.
    fn locks_out<V: View + ?Sized>(&self, call: &Call, view: &V, command: &AuthCommand) -> bool {
        let tokens = || users::tokens_of_admins(view, self.consensus.clock().wall_ms());
        let by_certificate = call.who.caller.is_some_and(|caller| caller.token == 0);
        match command {
            AuthCommand::Enable => tokens().is_empty(),
            AuthCommand::RevokeToken { id } => {
                query::meta(view).auth.enabled && !by_certificate && tokens() == [*id]
            }
            _ => false,
        }
    }

    /// What the machine says of a change, on a state that stays as it is.
    fn tried<V: View + ?Sized>(&self, call: &Call, view: &V, action: Action) -> Reply {
        let locks_out = match &action {
            Action::Auth(command) => self.locks_out(call, view, command),
            _ => false,
        };
        let command = Command {
            session: None,
            idempotency: None,
            fingerprint: Fingerprint::default(),
            action,
            caller: self.caller(&call.who),
        };
        let mut reply = dry_run(view, command);
        if locks_out && reply.result.is_ok() {
            reply.result = Err(Refusal::Auth(AuthRefusal::LastAdmin));
        }
        reply
    }

    /// What would become of it, on the newest state; nothing is proposed.
    async fn try_change(&self, call: &Call, action: Action) -> Answered<v1::AuthChangeResponse> {
        let permit = self.permit(call, None, Reads::Anything).await?;
        let reply = self.tried(call, &permit.view, action);
        let header = self.read_header(&permit);
        drop(permit);
        match reply.result {
            Ok(_) => {
                Ok(v1::AuthChangeResponse { header: Some(header), id: 0, token: String::new() })
            }
            Err(ref refusal) => Err(self.refused(call, refusal, &reply, header, false)),
        }
    }

    fn auth_command(
        &self,
        change: Option<Change>,
        secret: &[u8; SECRET_BYTES],
    ) -> Result<AuthCommand, Invalid> {
        Ok(match change {
            None => return Err(Invalid::new("change", "is required")),
            Some(Change::Enable(_)) => AuthCommand::Enable,
            Some(Change::Disable(_)) => AuthCommand::Disable,
            Some(Change::PutRole(role)) => {
                let name = name("put_role.name", role.name.clone())?;
                match role.limit {
                    None => AuthCommand::PutRole { name, role: role_of(role)? },
                    Some(limit) => {
                        let limit = limit_of(limit)?;
                        AuthCommand::PutLimitedRole { name, role: role_of(role)?, limit }
                    }
                }
            }
            Some(Change::DeleteRole(role)) => {
                AuthCommand::DeleteRole { name: name("delete_role", role)? }
            }
            Some(Change::PutUser(user)) => {
                if user.roles.len() > ROLES_PER_USER_MAX {
                    let description = format!("must be at most {ROLES_PER_USER_MAX}");
                    return Err(Invalid::new("put_user.roles", description));
                }
                let roles = user.roles.into_iter().map(|role| name("put_user.roles", role));
                let roles = roles.collect::<Result<_, _>>()?;
                AuthCommand::PutUser { name: name("put_user.name", user.name)?, roles }
            }
            Some(Change::DeleteUser(user)) => {
                AuthCommand::DeleteUser { name: name("delete_user", user)? }
            }
            Some(Change::CreateToken(token)) => {
                if token.label.len() > AUTH_NAME_BYTES_MAX {
                    let description = format!("must have at most {AUTH_NAME_BYTES_MAX} bytes");
                    return Err(Invalid::new("create_token.label", description));
                }
                let now_ms = self.consensus.clock().wall_ms();
                AuthCommand::CreateToken {
                    user: name("create_token.user", token.user)?,
                    secret_hash: hash_secret(secret),
                    label: token.label,
                    expires_wall_time_ms: match token.lifetime_ms {
                        0 => 0,
                        lifetime_ms => now_ms.saturating_add(lifetime_ms),
                    },
                }
            }
            Some(Change::RevokeToken(id)) => AuthCommand::RevokeToken { id },
        })
    }

    pub(crate) async fn auth_list(
        &self,
        call: &Call,
        request: v1::AuthListRequest,
    ) -> Answered<v1::AuthListResponse> {
        let permit = self.permit(call, request.read, Reads::Admin).await?;
        let all = users::users(&permit.view);
        let name_of = |id: u64| {
            let user = all.iter().find(|(user, _)| *user == id);
            user.map(|(_, user)| user.name.clone()).unwrap_or_default()
        };
        let tokens = users::tokens(&permit.view).into_iter().map(|(id, token)| v1::AuthToken {
            id,
            user: name_of(token.user),
            label: token.label,
            created_wall_time_ms: token.created_wall_time_ms,
            expires_wall_time_ms: token.expires_wall_time_ms,
        });
        Ok(v1::AuthListResponse {
            header: Some(self.read_header(&permit)),
            enabled: query::meta(&permit.view).auth.enabled,
            roles: users::roles(&permit.view)
                .into_iter()
                .map(|(name, role)| {
                    let limit = users::limit_of_role(&permit.view, &name);
                    role_to_wire(name, role, limit)
                })
                .collect(),
            tokens: tokens.collect(),
            users: all
                .iter()
                .map(|(_, user)| v1::AuthUser {
                    name: user.name.clone(),
                    roles: user.roles.clone(),
                })
                .collect(),
        })
    }

    pub(crate) async fn auth_can(
        &self,
        call: &Call,
        request: v1::AuthCanRequest,
    ) -> Answered<v1::AuthCanResponse> {
        let v1::AuthCanRequest { user, permissions, scope, name, read } = request;
        let asked = permissions_of("permissions", &permissions).and_then(|permissions| {
            // Nothing asked for: who the caller is.
            let is_question = permissions != Permissions::NONE;
            let scope = if is_question { scope_of("scope", scope)? } else { Scope::Counters };
            Ok((permissions, scope))
        });
        let (permissions, scope) =
            asked.map_err(|invalid| self.invalid(call, Kind::Read, &invalid))?;
        let permit = self.permit(call, read, Reads::Anything).await?;
        let meta = query::meta(&permit.view);
        let enabled = meta.auth.enabled;
        let own = self.rights(call, Kind::Read, &permit.view, &meta)?;
        let is_own = user.is_empty() || own.as_ref().is_some_and(|own| own.name() == user);
        let rights = if is_own && own.is_some() {
            own
        } else if user.is_empty() {
            // Off, and nobody in particular.
            Rights::of(&permit.view, call.who.caller).ok()
        } else {
            self.may_read(call, &permit.view, Reads::Admin)?;
            let caller = users::caller_named(&permit.view, &user);
            let rights = caller.and_then(|caller| Rights::of(&permit.view, Some(caller)).ok());
            let unknown = || {
                self.not_found(
                    call,
                    tally_proto::reason::USER_NOT_FOUND,
                    format!("there is no user {user:?}"),
                    self.read_header(&permit),
                )
            };
            Some(rights.ok_or_else(unknown)?)
        };
        let mut response = v1::AuthCanResponse {
            header: Some(self.read_header(&permit)),
            allowed: !enabled,
            enabled,
            ..v1::AuthCanResponse::default()
        };
        drop(permit);
        if let Some(rights) = rights {
            response.user = rights.name().to_owned();
            response.roles = rights.role_names().map(str::to_owned).collect();
            let decision = rights.decide(Need { scope, name: &name, permissions });
            response.allowed |= decision.is_allowed();
            match decision {
                Decision::Admin { role } => {
                    response.grants.push(v1::AuthGrant { role, rule: None });
                }
                Decision::Rules(rules) => {
                    let grant = |(role, rule): (String, Rule)| v1::AuthGrant {
                        role,
                        rule: Some(rule_to_wire(&rule)),
                    };
                    response.grants = rules.into_iter().map(grant).collect();
                }
                Decision::Denied { lacks } => response.lacks = permissions_to_wire(lacks),
            }
        }
        Ok(response)
    }
}

/// A name that can stand in a line.
fn name(field: &str, name: String) -> Result<String, Invalid> {
    if name.is_empty() || name.len() > AUTH_NAME_BYTES_MAX {
        let description = format!("must have 1 to {AUTH_NAME_BYTES_MAX} bytes");
        return Err(Invalid::new(field, description));
    }
    if name.contains(char::is_control) {
        return Err(Invalid::new(field, "must have no control characters"));
    }
    Ok(name)
}

fn role_of(role: v1::AuthRole) -> Result<RoleRecord, Invalid> {
    if role.rules.len() > RULES_PER_ROLE_MAX {
        let description = format!("must be at most {RULES_PER_ROLE_MAX}");
        return Err(Invalid::new("put_role.rules", description));
    }
    let rules = role.rules.into_iter().enumerate().map(|(index, rule)| {
        let field = |name: &str| format!("put_role.rules[{index}].{name}");
        if rule.prefix.len() > limits::NAME_BYTES_MAX {
            let description = format!("must have at most {} bytes", limits::NAME_BYTES_MAX);
            return Err(Invalid::new(field("prefix"), description));
        }
        let permissions = permissions_of(&field("permissions"), &rule.permissions)?;
        if permissions == Permissions::NONE {
            return Err(Invalid::new(field("permissions"), "must name one"));
        }
        let scope = scope_of(&field("scope"), rule.scope)?;
        Ok(Rule { scope, prefix: rule.prefix, permissions })
    });
    let rules = rules.collect::<Result<_, _>>()?;
    Ok(RoleRecord { rules, admin: role.admin, monitor: role.monitor })
}

fn limit_of(limit: v1::AuthLimit) -> Result<RoleLimit, Invalid> {
    let v1::AuthLimit { operations_per_second, burst } = limit;
    let burst = if burst == 0 { operations_per_second } else { burst };
    for (name, value) in [("operations_per_second", operations_per_second), ("burst", burst)] {
        if !(1..=OPERATIONS_PER_SECOND_MAX).contains(&value) {
            let description = format!("must be 1 to {OPERATIONS_PER_SECOND_MAX}");
            return Err(Invalid::new(format!("put_role.limit.{name}"), description));
        }
    }
    Ok(RoleLimit { operations_per_second, burst })
}

fn scope_of(field: &str, scope: i32) -> Result<Scope, Invalid> {
    match v1::AuthScope::try_from(scope) {
        Ok(v1::AuthScope::Counters) => Ok(Scope::Counters),
        Ok(v1::AuthScope::Keys) => Ok(Scope::Keys),
        _ => Err(Invalid::new(field, "must be COUNTERS or KEYS")),
    }
}

/// Each permission and its name on the wire.
const PERMISSIONS: [(v1::AuthPermission, Permissions); 6] = [
    (v1::AuthPermission::Read, Permissions::READ),
    (v1::AuthPermission::Increase, Permissions::INCREASE),
    (v1::AuthPermission::Decrease, Permissions::DECREASE),
    (v1::AuthPermission::Write, Permissions::WRITE),
    (v1::AuthPermission::Configure, Permissions::CONFIGURE),
    (v1::AuthPermission::Watch, Permissions::WATCH),
];

fn permissions_of(field: &str, given: &[i32]) -> Result<Permissions, Invalid> {
    given.iter().try_fold(Permissions::NONE, |all, given| {
        let one = PERMISSIONS.iter().find(|(wire, _)| *wire as i32 == *given);
        let (_, one) = one.ok_or_else(|| {
            Invalid::new(field, format!("{given} is not a value of this version's enum"))
        })?;
        Ok(all.and(*one))
    })
}

fn permissions_to_wire(permissions: Permissions) -> Vec<i32> {
    let held = PERMISSIONS.iter().filter(|(_, one)| permissions.hold(*one));
    held.map(|(wire, _)| *wire as i32).collect()
}

fn rule_to_wire(rule: &Rule) -> v1::AuthRule {
    let scope = match rule.scope {
        Scope::Counters => v1::AuthScope::Counters,
        Scope::Keys => v1::AuthScope::Keys,
    };
    v1::AuthRule {
        scope: scope as i32,
        prefix: rule.prefix.clone(),
        permissions: permissions_to_wire(rule.permissions),
    }
}

fn role_to_wire(name: String, role: RoleRecord, limit: Option<RoleLimit>) -> v1::AuthRole {
    let RoleRecord { rules, admin, monitor } = role;
    let limit = limit.map(|RoleLimit { operations_per_second, burst }| v1::AuthLimit {
        operations_per_second,
        burst,
    });
    v1::AuthRole { name, rules: rules.iter().map(rule_to_wire).collect(), admin, monitor, limit }
}
