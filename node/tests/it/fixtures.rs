//! What each version of the formats has left behind, and what this release makes of it: data directories, backups, and
//! messages between nodes and with clients, in `tests/fixtures/vN`.
//!
//! `UPDATE_FIXTURES=1 cargo test -p tally-node --test it fixtures -- --test-threads=1` makes those that are missing. One that is there is
//! never made again: it is what a release of then has written, and this one must read it. A new version gets its own,
//! made by the release that brings it. (Those of version 1 were made by this release on a cluster of version 1, whose
//! bytes are those of the releases before: tests named `…_frozen` pin them. `v1` is of a commit before quotas, `v1-quotas`
//! of version 1 as it was released, with them.)

use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use prost::Message;
use serde::{Deserialize, Serialize};
use tally_client::backup_format::Reader;
use tally_node::machine::{
    codec,
    command::{Action, Command, CounterSet, Fingerprint, Operation},
    version::{FormatRange, FormatVersion},
};
use tally_proto::{
    peer::v1 as peer,
    v1::{self, call::Request},
};
use tonic::transport::Channel;

use crate::{
    client::{Failure, read_backup, unary},
    cluster::{Cluster, eventually},
    requests::*,
};

/// All of them together: they are in everybody's copy of the repository.
const BYTES_MAX: u64 = 200 * 1024;

/// All of them, and the version that each is of.
const FOLDERS: &[(&str, u32)] = &[("v1", 1), ("v1-quotas", 1), ("v2", 2)];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn every_version_has_some() {
    for version in FormatVersion::FIRST.0..=FormatVersion::MAX.0 {
        assert!(FOLDERS.iter().any(|(_, of)| *of == version), "version {version} has none");
    }
}

fn is_to_be_made(path: &Path) -> bool {
    let missing = !path.exists();
    let updates = std::env::var_os("UPDATE_FIXTURES").is_some();
    assert!(!missing || updates, "{} is missing: UPDATE_FIXTURES=1 makes it", path.display());
    missing
}

/// What the directory's cluster was told, and what it answered.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    session_id: u64,
    /// The value after each of the session's writes, by number.
    under_session: Vec<i64>,
    /// … and under the key `order-1`.
    under_key: i64,
    revision: u64,
    /// Items that a quota on keys below `keys/` allows, if there is one. As many were there.
    #[serde(default)]
    quota: Option<u64>,
}

fn configured(formats: FormatRange) -> Cluster {
    // Small, so that the directory is.
    let mut cluster = Cluster::prepare(1, |config| config.disk_reserve_bytes = 1024);
    cluster.read_formats(1, formats);
    cluster
}

async fn added(
    channel: &Channel,
    name: &str,
    delta: i64,
    options: v1::WriteOptions,
) -> (i64, bool) {
    let request = add_with(name, delta, |add| add.options = Some(options));
    let response = unary(channel, request).await.expect("the add is answered");
    let response = answer!(CountersAdd, response);
    (response.change.expect("a change").value, response.write.expect("a write").replayed)
}

/// As [`under_session`] and [`under_key`], of the write with this number.
fn numbered(session_id: u64, sequence: u64) -> v1::WriteOptions {
    under_session(stamp(session_id, sequence)).expect("it has a stamp")
}

fn keyed() -> v1::WriteOptions {
    under_key("order-1").expect("it has a key")
}

/// Keys below `keys/` that are there at the end.
const KEYS_LEFT: u64 = 19;

/// Writes of every kind, a snapshot, and more writes behind it.
async fn tell(cluster: &Cluster) -> Told {
    let channel = &cluster.channel(1);
    let done = async |request| unary(channel, request).await.expect("a healthy cluster");
    let session_id = answer!(SessionsOpen, done(open_session()).await).session_id;
    for at in 0..20 {
        done(add(&format!("counters/{at}"), at)).await;
        done(put(&format!("keys/{at}"), vec![b'v'; 100])).await;
    }
    done(configure("counters/3", Some(0), Some(1000))).await;
    done(key_delete("keys/7", None)).await;
    done(delete("counters/7")).await;
    let mut under = vec![added(channel, "session", 5, numbered(session_id, 1)).await.0];
    let (under_key, _) = added(channel, "key", 9, keyed()).await;
    let change = |change| {
        Request::AuthChange(v1::AuthChangeRequest { change: Some(change), dry_run: false })
    };
    use v1::auth_change_request::Change;
    let role = v1::AuthRole { name: "reader".to_owned(), ..Default::default() };
    done(change(Change::PutRole(role))).await;
    let user = v1::AuthUser { name: "ada".to_owned(), roles: vec!["reader".to_owned()] };
    done(change(Change::PutUser(user))).await;
    let limits = v1::QuotaLimits { hard_items: Some(KEYS_LEFT), ..Default::default() };
    done(Request::QuotasSet(v1::QuotasSetRequest {
        scope: v1::QuotaScope::Keys.into(),
        prefix: "keys/".to_owned(),
        limits: Some(limits),
    }))
    .await;
    let incarnation = "5a".repeat(16);
    done(Request::ClusterClaimNodeId(v1::ClusterClaimNodeIdRequest { incarnation })).await;
    done(Request::ClusterSnapshot(v1::ClusterSnapshotRequest { node_id: 0 })).await;
    under.push(added(channel, "session", 5, numbered(session_id, 2)).await.0);
    let step = apply(|apply| apply.operations = vec![step_add("step", 1), step_put("step", "v")]);
    done(step).await;
    let last = header(&done(get("session")).await);
    let (revision, quota) = (last.revision, Some(KEYS_LEFT));
    Told { session_id, under_session: under, under_key, revision, quota }
}

/// What was told is there, and what was answered is answered again.
async fn ask(cluster: &Cluster, told: &Told) {
    let channel = &cluster.channel(1);
    let read = async |request| unary(channel, request).await;
    let found = read(get("session")).await.expect("it is there");
    assert_eq!(header(&found).revision, told.revision);
    assert_eq!(answer!(CountersGet, found).counter.expect("a counter").value, 10);
    for (sequence, value) in (1..).zip(&told.under_session) {
        let again = added(channel, "session", 5, numbered(told.session_id, sequence)).await;
        assert_eq!(again, (*value, true), "number {sequence} counted once");
    }
    ask_for_items(channel, told).await;
    let next = added(channel, "session", 1, numbered(told.session_id, 3)).await;
    assert_eq!(next, (11, false), "the session goes on");
    let shown = read(status()).await.expect("status answers");
    let next_node_id = answer!(ClusterStatus, shown).next_node_id;
    assert_eq!(next_node_id, 3, "an id was given to a directory that never came");
}

/// The part of it that a backup has.
async fn ask_for_items(channel: &Channel, told: &Told) {
    let read = async |request| unary(channel, request).await;
    for at in 0..20 {
        let counter = read(get(&format!("counters/{at}"))).await;
        let key = read(key_get(&format!("keys/{at}"))).await;
        if at == 7 {
            assert!(counter.is_err() && key.is_err(), "they were deleted");
            continue;
        }
        let counter = answer!(CountersGet, counter.expect("it is there")).counter;
        assert_eq!(counter.expect("a counter").value, at);
        let item = answer!(KeysGet, key.expect("it is there")).item.expect("an item");
        assert_eq!(item.value, vec![b'v'; 100]);
    }
    let below = read(add("counters/3", -4)).await.expect_err("it has a floor");
    assert_eq!(Failure::from(below).details.reason, tally_proto::reason::BELOW_FLOOR);
    let again = added(channel, "key", 9, keyed()).await;
    assert_eq!(again, (told.under_key, true), "the key is remembered");
    let another = read(put("keys/another", "v")).await.err().map(Failure::from);
    let refused = another.map(|failure| failure.details.reason);
    let exceeded = told.quota.map(|_| tally_proto::reason::QUOTA_EXCEEDED.to_owned());
    assert_eq!(refused, exceeded, "the quota is kept");
    let listed = read(Request::QuotasList(v1::QuotasListRequest::default())).await.expect("a list");
    let quotas = answer!(QuotasList, listed).quotas;
    let limits = quotas.iter().map(|it| (it.used_items, it.limits.and_then(|it| it.hard_items)));
    assert_eq!(
        limits.collect::<Vec<_>>(),
        told.quota.map(|items| (items, Some(items))).into_iter().collect::<Vec<_>>()
    );
    let listed = read(Request::AuthList(v1::AuthListRequest::default())).await.expect("a list");
    let users = answer!(AuthList, listed).users;
    assert!(users.iter().any(|user| user.name == "ada" && user.roles == ["reader"]), "{users:?}");
}

async fn backup(channel: &Channel) -> Vec<u8> {
    let local = Request::BackupOpen(v1::BackupOpenRequest { local: false });
    let opened = unary(channel, local).await.expect("a backup begins");
    let backup_id = answer!(BackupOpen, opened).backup_id;
    read_backup(channel, backup_id).await.0
}

/// All files below a directory, in one order.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .expect("a directory")
        .map(|it| it.expect("a name").path())
        .collect();
    entries.sort();
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.into_iter().flat_map(below).collect()
}

/// The files of a directory with their names, compressed.
fn packed(directory: &Path) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    for path in files(directory) {
        let bytes = fs::read(&path).expect("a file");
        let name =
            path.strip_prefix(directory).expect("it is below").to_str().expect("plain names");
        writeln!(packed, "{name} {}", bytes.len()).expect("memory takes it");
        packed.write_all(&bytes).expect("memory takes it");
    }
    packed.finish().expect("memory takes it")
}

fn unpack(packed: &[u8], directory: &Path) {
    let mut all = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut all).expect("it was packed");
    let mut rest = &all[..];
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').expect("a line for each file");
        let line = std::str::from_utf8(&rest[..end]).expect("plain names");
        let (name, length) = line.split_once(' ').expect("a name and a length");
        let length: usize = length.parse().expect("a length");
        let path = directory.join(name);
        fs::create_dir_all(path.parent().expect("it is below")).expect("it can be made");
        fs::write(path, &rest[end + 1..][..length]).expect("it can be written");
        rest = &rest[end + 1 + length..];
    }
}

fn formats(version: u32) -> FormatRange {
    FormatRange::said(FormatVersion::FIRST.0, version)
}

async fn make_directory(name: &str, version: u32) {
    let mut cluster = configured(formats(version));
    cluster.start_all().await;
    eventually("it knows its cluster", || cluster.node(1).consensus().is_cluster_known()).await;
    let told = tell(&cluster).await;
    let backup = backup(&cluster.channel(1)).await;
    cluster.stop(1).await;
    let folder = folder(name);
    fs::create_dir_all(&folder).expect("it can be made");
    fs::write(folder.join("backup"), backup).expect("it can be written");
    let told = serde_json::to_vec_pretty(&told).expect("plain data");
    fs::write(folder.join("told.json"), told).expect("it can be written");
    fs::write(folder.join("data.gz"), packed(&cluster.data_dir(1))).expect("it can be written");
}

fn told(name: &str) -> Told {
    let bytes = fs::read(folder(name).join("told.json")).expect("it is there");
    serde_json::from_slice(&bytes).expect("it was written as that")
}

#[tokio::test]
async fn data_directories_of_every_version_are_opened() {
    for (name, version) in FOLDERS.iter().copied() {
        if is_to_be_made(&folder(name).join("data.gz")) {
            make_directory(name, version).await;
        }
        let mut cluster = configured(FormatRange::OURS);
        let packed = fs::read(folder(name).join("data.gz")).expect("it is there");
        unpack(&packed, &cluster.data_dir(1));
        cluster.start_node(1).await.expect("this release opens it");
        cluster.settled().await;
        assert_eq!(cluster.node(1).consensus().cluster_version(), FormatVersion(version));
        ask(&cluster, &told(name)).await;
        // And it goes on to the newest one.
        let request =
            Request::ClusterFinalizeUpgrade(v1::ClusterFinalizeUpgradeRequest { preview: false });
        let done = unary(&cluster.channel(1), request).await.expect("it is alone");
        let plan = answer!(ClusterFinalizeUpgrade, done).plan.expect("it has a plan");
        assert_eq!((plan.version, plan.to), (version, FormatVersion::MAX.0));
        cluster.stop(1).await;
        cluster.start_node(1).await.expect("it opens what it has written");
        cluster.settled().await;
        assert_eq!(cluster.node(1).consensus().cluster_version(), FormatVersion::MAX);
        ask_for_items(&cluster.channel(1), &told(name)).await;
    }
}

#[tokio::test]
async fn backups_of_every_version_are_restored_into_every_version() {
    for (name, version) in FOLDERS.iter().copied() {
        let path = folder(name).join("backup");
        if is_to_be_made(&path) {
            make_directory(name, version).await;
        }
        let mut reader = Reader::new();
        reader.give(&fs::read(path).expect("it is there"));
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block().expect("it is a backup") {
            blocks.push(block);
        }
        let (head, foot) = reader.finish().expect("it is whole");
        // Also one of a newer version into a cluster of an older one: nothing that a backup has is of version 2.
        for of in FormatVersion::FIRST.0..=FormatVersion::MAX.0 {
            let mut cluster = configured(formats(of));
            cluster.start_all().await;
            let address = cluster.client_address(1);
            let client = tally_client::Client::builder([address]).build().expect("an address");
            client.begin_restore(&head, &foot).await.expect("the cluster is empty");
            for (number, block) in (0..).zip(blocks.iter().cloned()) {
                client.restore_block(number, block).await.expect("it is the next one");
            }
            client.finish_restore(&foot).await.expect("all are there");
            let stays = cluster.node(1).consensus().cluster_version();
            assert_eq!(stays, FormatVersion(of), "its own, and not the backup's");
            ask_for_items(&cluster.channel(1), &told(name)).await;
        }
    }
}

/// A message of each kind that carries more than itself, as a node of version 1 writes it.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let set = Operation::CounterSet(CounterSet { name: "a".into(), value: -1 });
    let command = Command {
        session: None,
        idempotency: None,
        fingerprint: Fingerprint::default(),
        action: Action::Single(set),
        caller: None,
    };
    let log_id = Some(peer::LogId { term: 2, index: 300 });
    let ballot = Some(peer::Ballot { term: 2, node_id: Some(1), committed: true });
    let batch = codec::encode_batch(&tally_node::machine::command::Batch {
        log_time_ms: 300,
        wall_time_ms: 2,
        commands: vec![command.clone()],
    });
    let entry = peer::Entry {
        log_id,
        payload: Some(peer::entry::Payload::Batch(batch)),
        ..Default::default()
    };
    let promised = Some(peer::Promised {
        start: 3,
        start_nonce: "1c".repeat(16),
        vote_term: 2,
        held_index: 299,
    });
    let incarnation = "2c".repeat(16);
    let known = vec![peer::KnownNode { node_id: 2, incarnation, promised: promised.clone() }];
    let cluster_id = "5c".repeat(16);
    let call = |id, request| v1::Call {
        id,
        deadline_ms: 900,
        request: Some(request),
        ..Default::default()
    };
    let keyed = add_with("a", 1, |add| add.options = under_key("order-1"));
    vec![
        (
            "hello",
            peer::HelloRequest {
                cluster_id: cluster_id.clone(),
                node_id: 1,
                client_address: "a:1".to_owned(),
                incarnation: "2d".repeat(16),
                target_node_id: 2,
                known: known.clone(),
                promised: promised.clone(),
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "welcome",
            peer::HelloResponse {
                cluster_id: cluster_id.clone(),
                node_id: 2,
                known,
                promised,
                ..Default::default()
            }
            .encode_to_vec(),
        ),
        (
            "append",
            peer::AppendRequest {
                cluster_id: cluster_id.clone(),
                target_node_id: 2,
                ballot,
                previous: log_id,
                entries: vec![entry],
                leader_commit: log_id,
            }
            .encode_to_vec(),
        ),
        (
            "vote",
            peer::VoteRequest {
                cluster_id: cluster_id.clone(),
                target_node_id: 2,
                ballot,
                last_log_id: log_id,
                leadership_transfer: true,
            }
            .encode_to_vec(),
        ),
        (
            "propose",
            peer::ProposeRequest {
                cluster_id,
                target_node_id: 2,
                commands: vec![peer::ForwardedCommand {
                    command: codec::encode_command(&command),
                    request_id: "r1".to_owned(),
                    deadline_ms: 900,
                    ..Default::default()
                }],
            }
            .encode_to_vec(),
        ),
        (
            "pack",
            v1::StreamExchangeRequest {
                calls: vec![
                    call(1, keyed),
                    call(2, get("a")),
                    call(3, put("k", "v")),
                    call(4, status()),
                ],
            }
            .encode_to_vec(),
        ),
    ]
}

/// What version 2 brought to them: nodes say which versions they read. (That they compare their states is of version 1 as it
/// was released.)
fn messages_of_version_2() -> Vec<(&'static str, Vec<u8>)> {
    let stored = |name| fs::read(folder("v1").join("wire").join(name)).expect("it is there");
    let formats = Some(peer::Formats { min: 1, max: 2, cluster_version: 2 });
    let hello = peer::HelloRequest::decode(&stored("hello")[..]).expect("it is read");
    let welcome = peer::HelloResponse::decode(&stored("welcome")[..]).expect("it is read");
    assert_eq!((&hello.formats, &welcome.formats), (&None, &None), "an older release says nothing");
    let hello = peer::HelloRequest { formats, compares_states: true, ..hello };
    let welcome = peer::HelloResponse { formats, compares_states: true, ..welcome };
    vec![("hello", hello.encode_to_vec()), ("welcome", welcome.encode_to_vec())]
}

/// What an older node or client sends is what this release would send without what came since: it reads the one as it
/// reads the other, and sends no field that an older one has under another meaning.
#[test]
fn messages_of_every_version_have_their_bytes() {
    for (name, messages) in [("v1", messages as fn() -> _), ("v2", messages_of_version_2)] {
        let folder = folder(name).join("wire");
        for (name, bytes) in messages() {
            let path = folder.join(name);
            if is_to_be_made(&path) {
                fs::create_dir_all(&folder).expect("it can be made");
                fs::write(&path, &bytes).expect("it can be written");
            }
            assert_eq!(fs::read(&path).expect("it is there"), bytes, "{name}");
        }
    }
    let stored = fs::read(folder("v1").join("wire/propose")).expect("it is there");
    let propose = peer::ProposeRequest::decode(&stored[..]).expect("it is read");
    let command = codec::decode_command(&propose.commands[0].command).expect("it is read");
    assert_eq!(command.action.to_string(), "set \"a\" -1");
}

#[test]
fn they_are_small() {
    let found = files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    let all: u64 = found.iter().map(|path| path.metadata().expect("it is there").len()).sum();
    assert!(all <= BYTES_MAX, "{all} bytes of fixtures, {BYTES_MAX} at most");
}
