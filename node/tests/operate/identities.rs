//! Who has opened a stream is found out once. What may become of users and of the cluster meanwhile, and that nobody is
//! taken for somebody else by it.

use bytes::Bytes;
use tally_client::{
    Client, Error, Transport,
    backup_format::{Footer, Header, Reader},
    reason,
};
use tally_proto::v1::{
    AuthChangeRequest, AuthDisable, AuthEnable, AuthLimit, AuthRole, AuthRule, AuthScope, AuthUser,
    auth_change_request::Change,
};

use crate::{
    auth::{ALL, change, client, secure, token, user},
    cluster::Cluster,
};

/// A backup, read to its end.
pub(crate) struct Backup {
    header: Header,
    blocks: Vec<Bytes>,
    footer: Footer,
}

impl Backup {
    pub(crate) async fn of(client: &Client) -> Backup {
        let mut backup = client.backup().await.expect("a backup begins");
        let (mut reader, mut blocks) = (Reader::new(), Vec::new());
        while let Some(part) = backup.next().await.expect("it goes on") {
            reader.give(&part.data);
            while let Some(block) = reader.next_block().expect("it is a backup") {
                blocks.push(block);
            }
        }
        let (header, footer) = reader.finish().expect("it is whole");
        Backup { header, blocks, footer }
    }

    pub(crate) async fn begin_restore(&self, client: &Client) -> tally_client::Result<()> {
        client.begin_restore(&self.header, &self.footer).await.map(drop)
    }

    pub(crate) async fn restore(&self, client: &Client) {
        self.begin_restore(client).await.expect("the cluster is empty");
        for (number, block) in (0..).zip(&self.blocks) {
            client.restore_block(number, block.clone()).await.expect("a block");
        }
        client.finish_restore(&self.footer).await.expect("it is whole");
    }
}

#[track_caller]
fn assert_unknown(error: &Error) {
    assert_eq!(error.reason(), reason::UNAUTHENTICATED, "{error}");
}

/// One that streams its calls to one node, and sends each once.
fn streaming(cluster: &Cluster, token: &str) -> Client {
    let builder = Client::builder([cluster.client_address(1)]).transport(Transport::Stream);
    builder.bearer_token(token).build().expect("a client")
}

/// A restore brings the users of the backup with the ids that they have there. Whoever had the same ones here is somebody
/// else, also over a stream that is open, which has asked once who that is.
#[tokio::test]
async fn nobody_becomes_a_user_of_a_backup_by_the_id_that_it_had() {
    let (old, first) = secure(1).await;
    let admin = client(&old, &[1], &first);
    let boss = AuthUser { name: "boss".into(), roles: vec!["admin".into()] };
    change(&admin, Change::PutUser(boss)).await;
    let (boss_token, _) = token(&admin, "boss", 0).await;
    admin.keys().put("secret", "of the old cluster").await.unwrap();
    let backup = Backup::of(&admin).await;

    let (new, first) = secure(1).await;
    let admin = client(&new, &[1], &first);
    let role = AuthRole { name: "none".into(), ..AuthRole::default() };
    change(&admin, Change::PutRole(role)).await;
    let clerk = AuthUser { name: "clerk".into(), roles: vec!["none".into()] };
    change(&admin, Change::PutUser(clerk)).await;
    let (clerks_id, clerks) = token(&admin, "clerk", 0).await;
    assert_eq!(clerks_id, boss_token, "both are the first of their clusters after the admin");
    // One asks in between, one does not.
    let (asks, waits) = (streaming(&new, &clerks), streaming(&new, &clerks));
    for clerk in [&asks, &waits] {
        // (A write would leave a session, and the cluster has to be empty.)
        let denied = clerk.keys().get("secret").await.expect_err("it has no rights");
        assert_eq!(denied.reason(), reason::PERMISSION_DENIED, "{denied}");
    }
    change(&admin, Change::DeleteUser("clerk".into())).await;
    change(&admin, Change::DeleteRole("none".into())).await;
    assert_unknown(&asks.keys().put("k", "v").await.expect_err("it was removed"));
    backup.begin_restore(&admin).await.expect("the cluster is empty");
    let under_way = admin.keys().put("k", "v").max_attempts(1).await.expect_err("not now");
    assert_eq!(under_way.reason(), reason::RESTORE_UNDER_WAY, "{under_way}");
    assert_eq!(under_way.outcome(), Some(tally_client::Outcome::NotApplied));
    backup.restore(&admin).await;

    for clerk in [&asks, &waits] {
        assert_unknown(&clerk.keys().get("secret").await.expect_err("it is nobody"));
        assert_unknown(&clerk.keys().put("k", "v").await.expect_err("it is nobody"));
        let disable = Some(Change::Disable(AuthDisable {}));
        let request = AuthChangeRequest { change: disable, dry_run: false };
        assert_unknown(&clerk.auth_change(request).await.expect_err("it is nobody"));
    }
}

/// A node that is to serve nobody while authentication is off serves nobody whom it has known before either.
#[tokio::test]
async fn where_authentication_was_switched_off_an_open_stream_is_not_served() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    let reader = user(&admin, "reader", &[(AuthScope::Keys, "nothing/", ALL)]).await;
    let reader = streaming(&cluster, &reader);
    let denied = reader.keys().put("k", "v").await.expect_err("it may not");
    assert_eq!(denied.reason(), reason::PERMISSION_DENIED, "{denied}");
    change(&admin, Change::Disable(AuthDisable {})).await;
    for _ in 0..3 {
        assert_unknown(&reader.keys().put("k", "v").await.expect_err("nobody is served"));
        assert_unknown(&reader.counter("c").set(1).await.expect_err("nobody is served"));
    }
}

/// A value that is read a second time, as it needs more room than was held for it, is one operation.
#[tokio::test]
async fn a_large_value_over_a_stream_costs_its_user_one_operation() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    admin.keys().put("large", vec![7; 200_000]).await.unwrap();
    let rule = AuthRule {
        scope: AuthScope::Keys as i32,
        prefix: String::new(),
        permissions: ALL.iter().map(|permission| *permission as i32).collect(),
    };
    let limit = Some(AuthLimit { operations_per_second: 1, burst: 1 });
    let role = AuthRole { name: "slow".into(), rules: vec![rule], limit, ..AuthRole::default() };
    change(&admin, Change::PutRole(role)).await;
    let slow = AuthUser { name: "slow".into(), roles: vec!["slow".into()] };
    change(&admin, Change::PutUser(slow)).await;
    let slow = streaming(&cluster, &token(&admin, "slow", 0).await.1);
    // (Told to wait, the library does.)
    let read = slow.keys().get("large").await.expect("within its rate");
    assert_eq!(read.value.len(), 200_000);
}

/// Tokens that are over let nobody in, so authentication is not switched on by them, and nobody takes away the last one
/// that lets an admin in.
#[tokio::test]
async fn an_admin_is_not_locked_out_by_time_or_by_himself() {
    let (cluster, first) = secure(1).await;
    let admin = client(&cluster, &[1], &first);
    let revoke = |id| AuthChangeRequest { change: Some(Change::RevokeToken(id)), dry_run: false };
    let last = admin.auth_change(revoke(2)).await.expect_err("it is the only one");
    assert_eq!(last.reason(), reason::LAST_ADMIN, "{last}");
    token(&admin, "admin", 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let last = admin.auth_change(revoke(2)).await.expect_err("the other one is over");
    assert_eq!(last.reason(), reason::LAST_ADMIN, "{last}");
    token(&admin, "admin", 0).await;
    admin.auth_change(revoke(2)).await.expect("there is another one");

    let open = Cluster::start(1).await;
    let anybody = client(&open, &[1], "");
    let role = AuthRole { name: "admin".into(), admin: true, ..AuthRole::default() };
    change(&anybody, Change::PutRole(role)).await;
    let put = AuthUser { name: "admin".into(), roles: vec!["admin".into()] };
    change(&anybody, Change::PutUser(put)).await;
    token(&anybody, "admin", 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    for dry_run in [true, false] {
        let enable = Some(Change::Enable(AuthEnable {}));
        let request = AuthChangeRequest { change: enable, dry_run };
        let refused = anybody.auth_change(request).await.expect_err("nobody would get in");
        assert_eq!(refused.reason(), reason::LAST_ADMIN, "{refused}");
    }
    token(&anybody, "admin", 0).await;
    change(&anybody, Change::Enable(AuthEnable {})).await;
}
