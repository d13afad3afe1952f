//! What nodes tell of themselves at length, through one of them, and to whom.

use tally_client::{Code, reason};
use tally_proto::v1::{AuthRole, AuthUser, auth_change_request::Change};

use crate::auth::{assert_denied, change, client, secure, token};

/// A user with a role that is like this.
async fn user_with(admin: &tally_client::Client, role: AuthRole) -> String {
    let name = role.name.clone();
    change(admin, Change::PutRole(role)).await;
    change(admin, Change::PutUser(AuthUser { name: name.clone(), roles: vec![name.clone()] }))
        .await;
    token(admin, &name, 0).await.1
}

#[tokio::test]
async fn one_node_tells_what_all_have_to_say_to_those_who_may_hear_it() {
    let (mut cluster, first) = secure(3).await;
    let admin = client(&cluster, &[1], &first);
    let nobody = user_with(&admin, AuthRole { name: "nobody".into(), ..AuthRole::default() }).await;
    let role = AuthRole { name: "watcher".into(), monitor: true, ..AuthRole::default() };
    let watcher = user_with(&admin, role).await;
    let (nobody, watcher) = (client(&cluster, &[1], &nobody), client(&cluster, &[1], &watcher));
    assert_denied(nobody.metrics(0).await, "metrics take monitor");
    assert_denied(nobody.metrics(2).await, "of another node, too");
    assert_denied(watcher.diagnose(0).await, "a diagnosis takes admin");
    assert_denied(watcher.diagnose(2).await, "of another node, too");
    assert_denied(watcher.diagnose(9).await, "of one that is none, too");
    let stranger = client(&cluster, &[1], "");
    let error = stranger.metrics(2).await.expect_err("it shows nothing");
    assert_eq!(error.reason(), reason::UNAUTHENTICATED);

    for id in [1, 2, 3] {
        let told = watcher.metrics(id).await.expect("it may");
        assert_eq!((told.node_id, &*told.problem), (id, ""));
        assert!(told.text.contains(&format!("tally_node_info{{node=\"{id}\"")), "{}", told.text);
        let told = admin.diagnose(id).await.expect("it may");
        assert_eq!((told.node_id, &*told.problem), (id, ""));
        let names: Vec<&str> = told.files.iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["config.toml", "log.txt", "machine.txt", "state.json", "storage.json"]);
        let text = |name: &str| &*told.files.iter().find(|file| file.name == name).unwrap().text;
        assert!(text("config.toml").contains(&format!("node_id = {id}\n")));
        let state: serde_json::Value = serde_json::from_str(text("state.json")).unwrap();
        assert_eq!(state["members"].as_array().map(Vec::len), Some(3), "{state}");
        assert_eq!(state["authentication_enabled"], true);
        let storage: serde_json::Value = serde_json::from_str(text("storage.json")).unwrap();
        assert!(storage["log"]["last_index"].as_u64() > Some(1), "{storage}");
        let files = storage["files"].as_array().unwrap();
        let is_segment =
            |file: &serde_json::Value| file["path"].as_str().unwrap().starts_with("wal/");
        assert!(
            files.iter().any(|it| is_segment(it) && it["bytes"].as_u64() > Some(0)),
            "{storage}"
        );
    }
    let of_asked = admin.metrics(0).await.unwrap();
    assert_eq!(of_asked.node_id, 1, "without an id it is the asked one's");
    let error = admin.metrics(9).await.expect_err("there is no such node");
    assert_eq!(error.code(), Code::InvalidArgument);

    cluster.kill(3).await;
    let told = admin.metrics(3).await.expect("that is told, and no error");
    assert!(told.text.is_empty() && !told.problem.is_empty(), "{told:?}");
    let told = admin.diagnose(3).await.expect("that is told, and no error");
    assert!(told.files.is_empty() && !told.problem.is_empty(), "{told:?}");
}
