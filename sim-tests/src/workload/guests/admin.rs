//! Who sets users, roles and tokens up, and changes them while guests call and things break.

use std::{rc::Rc, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tally_client::{
    Client,
    proto::{
        AuthChangeRequest, AuthCreateToken, AuthDisable, AuthEnable, AuthPermission, AuthRole,
        AuthRule, AuthScope, AuthUser, auth_change_request::Change,
    },
};

use super::{PREFIXES, Pass, USERS, Workload};
use crate::{
    cluster::Cluster,
    env::{mix, simulated_ms},
    trace_event,
    workload::user::lull,
};

/// Roles that come and go.
const ROLES: u64 = 5;
/// Between two changes, in ms.
const PAUSE_MS_MAX: u64 = 350;
/// A token that ends does so within this time.
const LIFETIMES_MS: [u64; 4] = [300, 1_500, 5_000, 15_000];
/// The first roles of guests, each as its rules: prefix and permissions on counters and keys.
const FIRST_ROLES: [(&str, &[AuthPermission]); 5] = [
    ("g/", &[AuthPermission::Read]),
    ("g/a/", &[AuthPermission::Increase]),
    ("g/", &[AuthPermission::Decrease]),
    ("g/b/", &[AuthPermission::Read, AuthPermission::Write, AuthPermission::Increase]),
    ("g/", &[AuthPermission::Write, AuthPermission::Increase, AuthPermission::Decrease]),
];

fn role(at: u64) -> String {
    format!("role-{at}")
}

fn user(at: u64) -> String {
    format!("guest-{at}")
}

fn rules(prefix: &str, permissions: &[AuthPermission]) -> Vec<AuthRule> {
    let permissions: Vec<i32> = permissions.iter().map(|one| *one as i32).collect();
    let rule = |scope: AuthScope| AuthRule {
        scope: scope as i32,
        prefix: prefix.to_owned(),
        permissions: permissions.clone(),
    };
    vec![rule(AuthScope::Counters), rule(AuthScope::Keys)]
}

fn create_token(user: &str, lifetime_ms: u64) -> Change {
    Change::CreateToken(AuthCreateToken {
        user: user.to_owned(),
        lifetime_ms,
        ..Default::default()
    })
}

impl Workload {
    /// Makes users with roles and tokens, and switches authentication on.
    pub(in crate::workload) async fn set_up_rights(&self, cluster: &Cluster) {
        let client = cluster.client(1_001).deadline(Duration::from_secs(20)).build();
        let client = client.expect("the settings are valid");
        let all = [
            AuthPermission::Read,
            AuthPermission::Increase,
            AuthPermission::Decrease,
            AuthPermission::Write,
            AuthPermission::Configure,
        ];
        let put_role = |name: &str, rules: Vec<AuthRule>, admin: bool| {
            Change::PutRole(AuthRole { name: name.to_owned(), rules, admin, ..AuthRole::default() })
        };
        let put_user = |name: &str, roles: &[&str]| {
            let roles = roles.iter().map(|role| (*role).to_owned()).collect();
            Change::PutUser(AuthUser { name: name.to_owned(), roles })
        };
        self.until_changed(&client, put_role("admin", Vec::new(), true)).await;
        self.until_changed(&client, put_user("admin", &["admin"])).await;
        let admin = self.until_changed(&client, create_token("admin", 0)).await;
        self.until_changed(&client, put_role("everything", rules("", &all), false)).await;
        self.until_changed(&client, put_user("users", &["everything"])).await;
        let users = self.until_changed(&client, create_token("users", 0)).await;
        for (at, (prefix, permissions)) in (0..).zip(FIRST_ROLES) {
            self.until_changed(&client, put_role(&role(at), rules(prefix, permissions), false))
                .await;
        }
        for at in 0..USERS {
            self.until_changed(&client, put_user(&user(at), &[&role(at % ROLES)])).await;
            self.until_changed(&client, create_token(&user(at), 0)).await;
        }
        self.until_changed(&client, Change::Enable(AuthEnable {})).await;
        trace_event!("admin", "has switched authentication on");
        cluster.shows(&users, &admin);
    }

    /// The token that it made, if it did.
    async fn until_changed(&self, client: &Client, change: Change) -> String {
        loop {
            if let Some(token) = self.change(client, change.clone()).await {
                return token;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn change(&self, client: &Client, change: Change) -> Option<String> {
        let rights = self.shared.rights.as_ref().expect("this seed has rights");
        let request = AuthChangeRequest { change: Some(change.clone()), dry_run: false };
        let answer = client.auth_change(request).await;
        let now = simulated_ms().unwrap_or(0);
        let what = brief(&change);
        match answer {
            Ok(made) => {
                let index = made.header.map_or(0, |header| header.applied_index);
                rights.acknowledged(now, index);
                trace_event!("admin", "{what}: entry {index}");
                if let Change::CreateToken(of) = &change {
                    let pass =
                        Pass { token: made.token.clone(), id: made.id, user: of.user.clone() };
                    self.shared.passes.borrow_mut().push(pass);
                }
                Some(made.token)
            }
            Err(error) => {
                trace_event!("admin", "{what}: {}", error.reason());
                rights.happened(format!("admin told: {}", error.reason()));
                if [tally_client::reason::UNAUTHENTICATED, tally_client::reason::PERMISSION_DENIED]
                    .contains(&error.reason())
                {
                    let told = error.message();
                    self.shared
                        .book
                        .wrong(format!("the admin, who has every right, was told {told:?}"));
                }
                None
            }
        }
    }

    /// Changes rights until users end.
    pub(super) async fn administer(self, cluster: Cluster) {
        let shared = Rc::clone(&self.shared);
        let mut rng = SmallRng::seed_from_u64(mix(shared.seed, &[0xad31]));
        let token = cluster.operators_token().expect("rights were set up");
        let client = cluster.client(1_002).bearer_token(token);
        let client = client.deadline(Duration::from_secs(3)).build();
        let client = client.expect("the settings are valid");
        let mut on = true;
        while !shared.stop.get() {
            let pause = rng.random_range(10..PAUSE_MS_MAX);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            lull(&shared).await;
            let change = self.draw_change(&mut rng, on);
            let toggles = matches!(change, Change::Enable(_) | Change::Disable(_));
            if self.change(&client, change).await.is_some() && toggles {
                on = !on;
            } else if toggles {
                // What became of it is not known: to switch it on twice is refused, and harmless.
                on = self.change(&client, Change::Enable(AuthEnable {})).await.is_some() || on;
            }
        }
        shared.running.set(shared.running.get() - 1);
    }

    fn draw_change(&self, rng: &mut SmallRng, on: bool) -> Change {
        if !on && rng.random_bool(0.3) {
            return Change::Enable(AuthEnable {});
        }
        let guest = user(rng.random_range(0..USERS));
        match rng.random_range(0..40) {
            0..12 => {
                let count = rng.random_range(0..3);
                let roles = (0..count).map(|_| role(rng.random_range(0..ROLES))).collect();
                Change::PutUser(AuthUser { name: guest, roles })
            }
            12..21 => {
                let some = [
                    AuthPermission::Read,
                    AuthPermission::Increase,
                    AuthPermission::Decrease,
                    AuthPermission::Write,
                ];
                let mut drawn = Vec::new();
                for _ in 0..rng.random_range(1..4) {
                    let count = rng.random_range(1..=2);
                    let permissions: Vec<_> = some.choose_multiple(rng, count).copied().collect();
                    let prefix = PREFIXES.choose(rng).expect("not empty");
                    let both = rules(prefix, &permissions);
                    drawn.extend(both.into_iter().take(rng.random_range(1..=2)));
                }
                let name = role(rng.random_range(0..ROLES));
                Change::PutRole(AuthRole { name, rules: drawn, ..AuthRole::default() })
            }
            21..30 => {
                let lifetime_ms = match rng.random_bool(0.5) {
                    true => 0,
                    false => *LIFETIMES_MS.choose(rng).expect("not empty"),
                };
                create_token(&guest, lifetime_ms)
            }
            30..36 => {
                let passes = self.shared.passes.borrow();
                let guests: Vec<u64> = passes
                    .iter()
                    .rev()
                    .filter(|pass| pass.user.starts_with("guest"))
                    .take(12)
                    .map(|pass| pass.id)
                    .collect();
                match guests.choose(rng) {
                    Some(id) => Change::RevokeToken(*id),
                    None => create_token(&guest, 0),
                }
            }
            36 | 37 => Change::DeleteUser(guest),
            38 if self.shared.knobs.rights_toggled => Change::Disable(AuthDisable {}),
            _ => Change::PutUser(AuthUser { name: guest, roles: vec![role(0), role(1)] }),
        }
    }
}

fn brief(change: &Change) -> String {
    match change {
        Change::Enable(_) => "switches authentication on".to_owned(),
        Change::Disable(_) => "switches authentication off".to_owned(),
        Change::PutRole(role) => {
            let rules = role.rules.iter().map(|rule| {
                let names = rule
                    .permissions()
                    .map(|one| one.as_str_name()["AUTH_PERMISSION_".len()..].to_owned());
                let names: Vec<String> = names.collect();
                let scope = if rule.scope() == AuthScope::Counters { "counter" } else { "key" };
                format!("{}:{scope}:{}", names.join("+"), rule.prefix)
            });
            format!("puts {} {:?}", role.name, rules.collect::<Vec<_>>())
        }
        Change::DeleteRole(name) => format!("deletes {name}"),
        Change::PutUser(user) => format!("puts {} {:?}", user.name, user.roles),
        Change::DeleteUser(name) => format!("deletes {name}"),
        Change::CreateToken(token) => {
            format!("makes a token of {} ms for {}", token.lifetime_ms, token.user)
        }
        Change::RevokeToken(id) => format!("revokes token {id}"),
    }
}
