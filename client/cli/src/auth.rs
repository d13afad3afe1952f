//! `tally auth`: users, roles and tokens.

use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tally_client::{
    Client,
    proto::{
        AuthCanRequest, AuthChangeRequest, AuthChangeResponse, AuthCreateToken, AuthDisable,
        AuthEnable, AuthLimit, AuthListResponse, AuthPermission, AuthRole, AuthRule, AuthScope,
        AuthUser, auth_change_request::Change,
    },
};

use crate::{
    args::Time,
    output::{Exit, Failure, Output, table, word},
};

#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Switches authentication on. Before that it makes the role and user admin and a token for it, and prints the
    /// token: nobody will see it again.
    Enable(DryRun),
    /// Switches authentication off: everybody may do everything. Users, roles and tokens stay.
    Disable(DryRun),
    /// Shows users, roles and tokens, without anything secret.
    List,
    /// Says whether somebody may do something, and which rules decide. Exit code 3 if not.
    Can(Can),
    /// Says who the caller is.
    Whoami,
    /// Makes, replaces and removes roles: what their users may do.
    Role {
        #[command(subcommand)]
        command: Role,
    },
    /// Makes and removes users, and says which roles they have.
    User {
        #[command(subcommand)]
        command: User,
    },
    /// Makes and revokes tokens: what programs show to say who they are.
    Token {
        #[command(subcommand)]
        command: Token,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DryRun {
    /// Say what would become of it, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Makes a role, or replaces it: what is not said here it does not allow any more.
    Put {
        /// Its name.
        name: String,
        /// Permissions (read, increase, decrease, write, configure, watch; `add` is both of increase and decrease)
        /// on the counters or keys whose names begin with a prefix: `decrease:counter:stock/`,
        /// `read,write:key:cart/`. An empty prefix is all of them.
        #[arg(long, value_name = "PERMISSION,...:counter|key:PREFIX")]
        allow: Vec<Rule>,
        /// It allows everything: users, roles and members of the cluster, too.
        #[arg(long)]
        admin: bool,
        /// It allows to see the state of nodes and sessions.
        #[arg(long)]
        monitor: bool,
        /// How much each of its users may ask of each node, in operations a second; what is more is refused. Each
        /// operation and condition of an atomic step counts as one, and so does any other request.
        #[arg(long, value_name = "OPS_PER_S", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
        limit: Option<u64>,
        /// … and at once, after a while without any. Default: as many as in a second.
        #[arg(long, value_name = "OPS", requires = "limit", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
        burst: Option<u64>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Removes a role that no user has.
    Delete {
        /// Its name.
        name: String,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum User {
    /// Makes a user, or replaces its roles. A client certificate of this name speaks for it, and so do its tokens.
    Put {
        /// Its name.
        name: String,
        /// A role that it has.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Removes a user, with its tokens.
    Delete {
        /// Its name.
        name: String,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token for a user and prints it: nobody will see it again.
    Create {
        /// The user.
        user: String,
        /// What it is for, in lists.
        #[arg(long, default_value = "", hide_default_value = true)]
        label: String,
        /// How long it counts: a number with ms, s, m or h. Default: until it is revoked.
        #[arg(long, value_name = "TIME")]
        lifetime: Option<Time>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Revokes a token: from the next log entry on it counts nowhere.
    Revoke {
        /// Its id, as `auth list` shows it; it also stands in the token, `tally_ID_…`.
        id: u64,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Can {
    /// The user.
    pub(crate) user: String,
    /// Permissions, as in `auth role put --allow`.
    #[arg(value_name = "PERMISSION,...", value_parser = permissions)]
    pub(crate) permissions: Permissions,
    /// `counter` or `key`.
    #[arg(value_parser = scope, value_name = "counter|key")]
    pub(crate) scope: AuthScope,
    /// Its name; for `read` also a prefix: whether all that begins with it may be listed.
    pub(crate) name: String,
}

/// Permissions by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permissions(Vec<AuthPermission>);

/// A rule as it is typed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule(AuthRule);

const NAMES: [(&str, &[AuthPermission]); 7] = [
    ("read", &[AuthPermission::Read]),
    ("increase", &[AuthPermission::Increase]),
    ("decrease", &[AuthPermission::Decrease]),
    ("add", &[AuthPermission::Increase, AuthPermission::Decrease]),
    ("write", &[AuthPermission::Write]),
    ("configure", &[AuthPermission::Configure]),
    ("watch", &[AuthPermission::Watch]),
];

fn permissions(text: &str) -> Result<Permissions, String> {
    let mut all = Vec::new();
    for name in text.split(',') {
        let named = NAMES.iter().find(|(known, _)| *known == name);
        let (_, permissions) = named.ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(known, _)| *known).collect();
            format!("{name:?} is no permission; {} are", known.join(", "))
        })?;
        all.extend_from_slice(permissions);
    }
    Ok(Permissions(all))
}

fn scope(text: &str) -> Result<AuthScope, String> {
    match text {
        "counter" => Ok(AuthScope::Counters),
        "key" => Ok(AuthScope::Keys),
        other => Err(format!("{other:?} is neither counter nor key")),
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let (Some(allowed), Some(on), Some(prefix)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("it is PERMISSION,...:counter|key:PREFIX, with both colons".to_owned());
        };
        let Permissions(permissions) = permissions(allowed)?;
        Ok(Rule(AuthRule {
            scope: scope(on)? as i32,
            prefix: prefix.to_owned(),
            permissions: permissions.into_iter().map(|permission| permission as i32).collect(),
        }))
    }
}

/// A rule as it can be typed again.
fn shown(rule: &AuthRule) -> String {
    let on = if rule.scope() == AuthScope::Keys { "key" } else { "counter" };
    format!("{}:{on}:{}", named(rule.permissions()), word(&rule.prefix))
}

fn named(permissions: impl Iterator<Item = AuthPermission>) -> String {
    let name = |permission: AuthPermission| {
        let named = NAMES.iter().find(|(_, named)| *named == [permission]);
        named.map_or("?", |(name, _)| name)
    };
    permissions.map(name).collect::<Vec<_>>().join(",")
}

pub(crate) async fn run(client: &Client, command: &Auth, output: Output) -> Result<Exit, Failure> {
    let (change, dry_run, done) = match command {
        Auth::List => return list(client, output).await,
        Auth::Can(can) => return may(client, can, output).await,
        Auth::Whoami => return who_am_i(client, output).await,
        Auth::Enable(dry_run) => return enable(client, *dry_run, output).await,
        Auth::Disable(dry_run) => {
            (Change::Disable(AuthDisable {}), *dry_run, "authentication is off".to_owned())
        }
        Auth::Role {
            command: Role::Put { name, allow, admin, monitor, limit, burst, dry_run },
        } => {
            let role = AuthRole {
                name: name.clone(),
                rules: allow.iter().map(|Rule(rule)| rule.clone()).collect(),
                admin: *admin,
                monitor: *monitor,
                limit: limit.map(|operations_per_second| AuthLimit {
                    operations_per_second,
                    burst: burst.unwrap_or(0),
                }),
            };
            (Change::PutRole(role), *dry_run, format!("role {}", word(name)))
        }
        Auth::Role { command: Role::Delete { name, dry_run } } => {
            (Change::DeleteRole(name.clone()), *dry_run, format!("removed role {}", word(name)))
        }
        Auth::User { command: User::Put { name, roles, dry_run } } => {
            let user = AuthUser { name: name.clone(), roles: roles.clone() };
            (Change::PutUser(user), *dry_run, format!("user {}", word(name)))
        }
        Auth::User { command: User::Delete { name, dry_run } } => {
            (Change::DeleteUser(name.clone()), *dry_run, format!("removed user {}", word(name)))
        }
        Auth::Token { command: Token::Create { user, label, lifetime, dry_run } } => {
            let lifetime_ms = lifetime.map_or(0, |Time(time)| time.as_millis() as u64);
            let create = AuthCreateToken { user: user.clone(), label: label.clone(), lifetime_ms };
            // What a token that was made prints is the token.
            (Change::CreateToken(create), *dry_run, format!("a token for {}", word(user)))
        }
        Auth::Token { command: Token::Revoke { id, dry_run } } => {
            (Change::RevokeToken(*id), *dry_run, format!("revoked token {id}"))
        }
    };
    let DryRun { dry_run } = dry_run;
    let answer = client.auth_change(AuthChangeRequest { change: Some(change), dry_run }).await?;
    let AuthChangeResponse { id, token, .. } = &answer;
    let value = json!({ "id": id, "token": token, "dry_run": dry_run });
    output.written(&value, |_| match (token.as_str(), dry_run) {
        (_, true) => format!("{done} (not done: it would be)"),
        ("", false) => done.clone(),
        // Alone on its line, for a file.
        (token, false) => token.to_owned(),
    })?;
    Ok(Exit::Done)
}

/// The token is printed before authentication is switched on: whatever becomes of the last answer, whoever has asked
/// can get in.
async fn enable(client: &Client, dry_run: DryRun, output: Output) -> Result<Exit, Failure> {
    let DryRun { dry_run } = dry_run;
    let is_on = client.auth_can(AuthCanRequest::default()).await?.enabled;
    let enable = Change::Enable(AuthEnable {});
    if !is_on {
        const ADMIN: &str = "admin";
        let name = || ADMIN.to_owned();
        let role = AuthRole { name: name(), admin: true, ..AuthRole::default() };
        let user = AuthUser { name: name(), roles: vec![name()] };
        let label = "made when authentication was switched on".to_owned();
        let create = AuthCreateToken { user: name(), label, lifetime_ms: 0 };
        if dry_run {
            let value = json!({ "id": 0, "token": "", "dry_run": true });
            output.result(&value, |_| "authentication is on (not done: it would be)".to_owned())?;
            return Ok(Exit::Done);
        }
        let mut made = None;
        for change in [Change::PutRole(role), Change::PutUser(user), Change::CreateToken(create)] {
            let request = AuthChangeRequest { change: Some(change), dry_run: false };
            made = Some(client.auth_change(request).await?);
        }
        if let Some(AuthChangeResponse { id, token, .. }) = made {
            let value = json!({ "id": id, "token": token, "dry_run": false });
            output.written(&value, |_| token.clone())?;
        }
    }
    // Refused if it is on.
    client.auth_change(AuthChangeRequest { change: Some(enable), dry_run }).await?;
    Ok(Exit::Done)
}

async fn list(client: &Client, output: Output) -> Result<Exit, Failure> {
    let list = client.auth_list().await?;
    let token = |token: &tally_client::proto::AuthToken| {
        json!({
            "id": token.id, "user": token.user, "label": token.label,
            "created_wall_time_ms": token.created_wall_time_ms,
            "expires_wall_time_ms": token.expires_wall_time_ms,
        })
    };
    let role = |role: &AuthRole| {
        let rules: Vec<String> = role.rules.iter().map(shown).collect();
        json!({
            "name": role.name, "rules": rules, "admin": role.admin, "monitor": role.monitor,
            "operations_per_second": role.limit.map(|limit| limit.operations_per_second),
            "burst": role.limit.map(|limit| limit.burst),
        })
    };
    let user = |user: &AuthUser| json!({ "name": user.name, "roles": user.roles });
    let value = json!({
        "enabled": list.enabled,
        "roles": list.roles.iter().map(role).collect::<Vec<Value>>(),
        "users": list.users.iter().map(user).collect::<Vec<Value>>(),
        "tokens": list.tokens.iter().map(token).collect::<Vec<Value>>(),
    });
    output.result(&value, |_| tables(&list))?;
    Ok(Exit::Done)
}

fn tables(list: &AuthListResponse) -> String {
    let mut parts = vec![format!("authentication is {}", if list.enabled { "on" } else { "off" })];
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    if !list.roles.is_empty() {
        let mut rows = vec![row(&["role", "allows"])];
        for role in &list.roles {
            let all = [("everything", role.admin), ("monitor", role.monitor)];
            let all = all.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned());
            let limit = role.limit.map(|AuthLimit { operations_per_second, burst }| {
                format!("at most {operations_per_second}/s, {burst} at once")
            });
            let allows = all.chain(role.rules.iter().map(shown)).chain(limit);
            let allows: Vec<String> = allows.collect();
            rows.push(vec![word(&role.name).into_owned(), allows.join(" ")]);
        }
        parts.push(table(&rows));
    }
    if !list.users.is_empty() {
        let mut rows = vec![row(&["user", "roles"])];
        let user = |user: &AuthUser| vec![word(&user.name).into_owned(), user.roles.join(" ")];
        rows.extend(list.users.iter().map(user));
        parts.push(table(&rows));
    }
    if !list.tokens.is_empty() {
        let mut rows = vec![row(&["token", "user", "expires (ms since 1970)", "label"])];
        rows.extend(list.tokens.iter().map(|token| {
            let expires = match token.expires_wall_time_ms {
                0 => "never".to_owned(),
                at => at.to_string(),
            };
            let (user, label) = (word(&token.user).into_owned(), word(&token.label).into_owned());
            vec![token.id.to_string(), user, expires, label]
        }));
        parts.push(table(&rows));
    }
    parts.join("\n")
}

async fn who_am_i(client: &Client, output: Output) -> Result<Exit, Failure> {
    let answer = client.auth_can(AuthCanRequest::default()).await?;
    let value = json!({
        "user": answer.user, "roles": answer.roles, "authentication": answer.enabled,
    });
    output.result(&value, |_| match (answer.user.as_str(), answer.enabled) {
        ("", _) => "nobody in particular: authentication is off".to_owned(),
        (user, true) => format!("{} with roles {}", word(user), answer.roles.join(" ")),
        (user, false) => format!("{}; authentication is off", word(user)),
    })?;
    Ok(Exit::Done)
}

async fn may(client: &Client, can: &Can, output: Output) -> Result<Exit, Failure> {
    let Permissions(permissions) = &can.permissions;
    let request = AuthCanRequest {
        user: can.user.clone(),
        permissions: permissions.iter().map(|permission| *permission as i32).collect(),
        scope: can.scope as i32,
        name: can.name.clone(),
        read: None,
    };
    let answer = client.auth_can(request).await?;
    let by: Vec<String> = answer
        .grants
        .iter()
        .map(|grant| match &grant.rule {
            Some(rule) => format!("{} of role {}", shown(rule), word(&grant.role)),
            None => format!("role {} allows everything", word(&grant.role)),
        })
        .collect();
    let lacks = named(answer.lacks());
    let value = json!({
        "user": answer.user, "allowed": answer.allowed, "by": by, "lacks": lacks,
        "authentication": answer.enabled,
    });
    output.result(&value, |_| {
        let verdict = match (answer.allowed, lacks.is_empty()) {
            (true, true) => format!("yes: {}", by.join("; ")),
            (true, false) => format!("yes, as authentication is off; on, it would lack {lacks}"),
            (false, _) => format!("no: no rule allows {lacks}"),
        };
        verdict.trim_end_matches(": ").to_owned()
    })?;
    Ok(if answer.allowed { Exit::Done } else { Exit::Refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_comes_back_as_it_was_typed() {
        for typed in ["decrease:counter:stock/", "read,write:key:a:b", "read:key:"] {
            let Rule(rule) = typed.parse().expect(typed);
            let again: Rule = shown(&rule).replace("\"\"", "").parse().expect("as shown");
            assert_eq!(again.0, rule, "{typed}");
        }
        let Rule(both) = "add:counter:hits".parse().unwrap();
        assert_eq!(shown(&both), "increase,decrease:counter:hits");
        for wrong in ["", "read", "read:key", "fly:key:a", "read:counters:a", ":key:a"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }
}
