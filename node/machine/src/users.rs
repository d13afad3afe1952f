//! Looking users, roles and tokens up.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    auth::{Caller, RoleLimit, RoleRecord, TokenRecord, UserIdRecord, UserRecord},
    keys::{RecordKey, Space},
    query,
    records::{Record, decode_stored},
    view::View,
};

/// A token by its id.
pub fn token<V: View + ?Sized>(view: &V, id: u64) -> Option<TokenRecord> {
    query::get(view, RecordKey::Token(id))
}

/// A user by its id.
pub fn user<V: View + ?Sized>(view: &V, id: u64) -> Option<UserRecord> {
    query::get(view, RecordKey::User(id))
}

/// A user without a token, by its name: what a certificate that names it speaks for.
pub fn caller_named<V: View + ?Sized>(view: &V, name: &str) -> Option<Caller> {
    let record: UserIdRecord = query::get(view, RecordKey::UserId(name))?;
    Some(Caller { user: record.id, token: 0 })
}

/// All roles, by name.
pub fn roles<V: View + ?Sized>(view: &V) -> Vec<(String, RoleRecord)> {
    all(view, Space::Role, |key| match key {
        RecordKey::Role(name) => name.to_owned(),
        other => panic!("the space of roles holds something else: {other:?}"),
    })
}

/// How much the users of a role may ask for, if it says so.
pub fn limit_of_role<V: View + ?Sized>(view: &V, role: &str) -> Option<RoleLimit> {
    query::get(view, RecordKey::RoleLimit(role))
}

/// How much a user may ask for: the most that a role of it says. A role that says nothing lifts no limit of
/// another.
pub fn limit_of_user<V: View + ?Sized>(view: &V, id: u64) -> Option<RoleLimit> {
    let roles = user(view, id)?.roles;
    let limits = roles.iter().filter_map(|role| limit_of_role(view, role));
    limits.max_by_key(|limit| (limit.operations_per_second, limit.burst))
}

/// All users, by id.
pub fn users<V: View + ?Sized>(view: &V) -> Vec<(u64, UserRecord)> {
    all(view, Space::User, id_of)
}

/// All tokens, by id.
pub fn tokens<V: View + ?Sized>(view: &V) -> Vec<(u64, TokenRecord)> {
    all(view, Space::Token, id_of)
}

/// Tokens by which somebody gets in at that time who may change all this.
pub fn tokens_of_admins<V: View + ?Sized>(view: &V, wall_ms: u64) -> Vec<u64> {
    let roles = roles(view);
    let is_admin = |name: &String| roles.iter().any(|(of, role)| of == name && role.admin);
    let admins: Vec<u64> = users(view)
        .into_iter()
        .filter(|(_, user)| user.roles.iter().any(is_admin))
        .map(|(id, _)| id)
        .collect();
    let counts = |(id, token): (u64, TokenRecord)| {
        let is_over = token.expires_wall_time_ms != 0 && token.expires_wall_time_ms <= wall_ms;
        (!is_over && admins.contains(&token.user)).then_some(id)
    };
    tokens(view).into_iter().filter_map(counts).collect()
}

fn id_of(key: RecordKey<'_>) -> u64 {
    match key {
        RecordKey::User(id) | RecordKey::Token(id) => id,
        other => panic!("a space of users or tokens holds something else: {other:?}"),
    }
}

fn all<V: View + ?Sized, R: Record, T>(
    view: &V,
    space: Space,
    name: impl Fn(RecordKey<'_>) -> T,
) -> Vec<(T, R)> {
    let (start, end) = space.range();
    let mut records = Vec::new();
    view.scan(&start, &end, &mut |key: &[u8], value: &Bytes| {
        let decoded = RecordKey::decode(key).expect("a stored key can be read");
        records.push((name(decoded), decode_stored(key, value)));
        ControlFlow::Continue(())
    });
    records
}
