//! What each request says of itself in the audit log: the kinds of its operations and the names of what they are on.
//! Never a value, a delta, a bound or a token, and an idempotency key as a hash only.

use prost::Message;
use sha2::{Digest, Sha256};
use tally_proto::v1::{self, auth_change_request::Change, backup_restore_request::Step};

use crate::audit::{Line, List};

/// Bytes of the operations that a line lists; more are counted. (The one that was refused is named in any case.)
const OPERATIONS_BYTES_MAX: usize = 8 * 1024;

/// So many bytes of an idempotency key's hash are told, as twice as many digits.
const KEY_HASH_BYTES: usize = 16;

/// What the table of requests says of a method.
#[derive(Debug, Clone, Copy)]
pub(super) struct Method {
    /// Its service.
    pub(super) service: &'static str,
    /// Service and method, in one word.
    pub(super) variant: &'static str,
    /// It changes something: it is always recorded.
    pub(super) is_change: bool,
}

impl Method {
    /// As gRPC calls it.
    pub(super) fn name(self) -> String {
        format!("tally.v1.{}/{}", self.service, &self.variant[self.service.len()..])
    }
}

/// A request that can be recorded.
pub(super) trait Audited {
    /// Tells what it asks for.
    fn tell(&self, asked: &mut Asked<'_>);
}

/// What is asked for.
pub(super) struct Asked<'a> {
    pub(super) line: &'a mut Line,
    /// The parts of an atomic step.
    pub(super) parts: Vec<Part>,
    /// It is only asked what would become of it.
    pub(super) is_dry_run: bool,
}

/// A part of an atomic step.
#[derive(Debug)]
pub(super) struct Part {
    /// Where in the request.
    pub(super) list: &'static str,
    /// … at which place.
    pub(super) index: usize,
    op: Op,
    name: String,
}

/// What is done to one item.
#[derive(Debug, Clone, Copy)]
struct Op {
    /// What is done.
    op: &'static str,
    /// To what: the name of the field that names it.
    item: &'static str,
    /// The permissions that it takes, as refusals spell them.
    needs: (&'static str, bool),
}

const COUNTER: &str = "counter";
const KEY: &str = "key";

fn on(item: &'static str, op: &'static str, needs: &'static str, and_read: bool) -> Op {
    Op { op, item, needs: (needs, and_read) }
}

impl Part {
    /// Whether it is what a refusal is about, which says "lacks PERMISSIONS on ITEM "NAME"" and may be cut.
    pub(super) fn is_denied(&self, why: &str) -> bool {
        let named = format!(" on {} {:?}", self.op.item, self.name);
        let found = why.match_indices(" on ").find(|(at, _)| named.starts_with(&why[*at..]));
        let Some((at, _)) = found else { return false };
        let lacks = why[..at].rsplit(" lacks ").next().unwrap_or_default();
        let (needs, and_read) = self.op.needs;
        lacks.split('+').any(|lack| lack == needs || (and_read && lack == "read"))
    }

    /// Names it, in a list of one.
    pub(super) fn tell_refused(&self, line: &mut Line) {
        let mut list = line.list("refused");
        list.item();
        list.word("in", self.list);
        list.number("index", self.index as u64);
        list.word("op", self.op.op);
        list.word(self.op.item, &self.name);
    }
}

impl Asked<'_> {
    /// One operation on one item.
    fn one(&mut self, op: &str, item: &str, name: &str) {
        let mut list = self.line.list("operations");
        list.item();
        list.word("op", op);
        list.word(item, name);
    }

    /// The same on several.
    fn each<'n>(&mut self, op: &str, item: &str, names: impl Iterator<Item = &'n String>) {
        self.bounded("operations", names, |list, name| {
            list.word("op", op);
            list.word(item, name);
        });
    }

    /// A list, as far as it has room.
    fn bounded<T>(
        &mut self,
        field: &str,
        items: impl Iterator<Item = T>,
        tell: impl Fn(&mut List<'_>, T),
    ) {
        let mut list = self.line.list(field);
        let mut left_out = 0;
        for item in items {
            if list.bytes() >= OPERATIONS_BYTES_MAX {
                left_out += 1;
                continue;
            }
            list.item();
            tell(&mut list, item);
        }
        drop(list);
        if left_out > 0 {
            self.line.number(&format!("{field}_left_out"), left_out);
        }
    }

    /// What makes a write repeatable.
    fn options(&mut self, options: Option<&v1::WriteOptions>) {
        let Some(options) = options else { return };
        if let Some(session) = &options.session {
            self.line.number("session", session.session_id);
            self.line.number("sequence", session.sequence);
        }
        if let Some(key) = &options.idempotency_key {
            let hash = Sha256::digest(key.as_bytes());
            let digits = hash[..KEY_HASH_BYTES].iter().map(|byte| format!("{byte:02x}"));
            self.line.word("idempotency_key_sha256", &digits.collect::<String>());
        }
    }

    /// Parts of an atomic step.
    fn parts<T>(
        &mut self,
        list: &'static str,
        given: &[T],
        part: impl Fn(&T) -> Option<(Op, &String)>,
    ) {
        if given.is_empty() {
            return;
        }
        let told = given.iter().map(&part);
        self.bounded(list, told, |list, told| {
            let Some((op, name)) = told else { return };
            list.word("op", op.op);
            list.word(op.item, name);
        });
        let numbered = given.iter().enumerate();
        let parts = numbered.filter_map(|(index, given)| {
            let (op, name) = part(given)?;
            // A longer one is refused for that.
            let name = name.chars().take(crate::machine::limits::NAME_BYTES_MAX).collect();
            Some(Part { list, index, op, name })
        });
        self.parts.extend(parts);
    }
}

/// A request that is an operation on one item, alone or in an atomic step.
trait Single {
    fn op(&self) -> (Op, &String);
}

/// What needs `read`, too, if it is given.
fn compares(condition: Option<&v1::KeyCondition>) -> bool {
    condition.is_some()
}

macro_rules! single {
    ($($request:ident($it:ident) $name:ident => $op:expr;)*) => {
        $(impl Single for v1::$request {
            fn op(&self) -> (Op, &String) {
                let $it = self;
                ($op, &$it.$name)
            }
        })*
    };
}

single! {
    CountersAddRequest(it) name => match it.delta {
        ..0 => on(COUNTER, "decrease", "decrease", it.bounds.is_some()),
        0.. => on(COUNTER, "increase", "increase", it.bounds.is_some()),
    };
    CountersGetRequest(it) name => on(COUNTER, "get", "read", false);
    CountersSetRequest(it) name => on(COUNTER, "set", "write", false);
    CountersCompareAndSetRequest(it) name => on(COUNTER, "compare_and_set", "write", true);
    CountersDeleteRequest(it) name => on(COUNTER, "delete", "write", false);
    CountersConfigureRequest(it) name => on(COUNTER, "configure", "configure", false);
    KeysPutRequest(it) key => on(KEY, "put", "write", compares(it.condition.as_ref()));
    KeysGetRequest(it) key => on(KEY, "get", "read", false);
    KeysDeleteRequest(it) key => on(KEY, "delete", "write", compares(it.condition.as_ref()));
}

macro_rules! audited {
    (write: $($write:ident)*; read: $($read:ident)*;) => {
        $(impl Audited for v1::$write {
            fn tell(&self, asked: &mut Asked<'_>) {
                let (Op { op, item, .. }, name) = self.op();
                asked.one(op, item, name);
                asked.options(self.options.as_ref());
            }
        })*
        $(impl Audited for v1::$read {
            fn tell(&self, asked: &mut Asked<'_>) {
                let (Op { op, item, .. }, name) = self.op();
                asked.one(op, item, name);
            }
        })*
    };
}

audited! {
    write: CountersAddRequest CountersSetRequest CountersCompareAndSetRequest CountersDeleteRequest
        CountersConfigureRequest KeysPutRequest KeysDeleteRequest;
    read: CountersGetRequest KeysGetRequest;
}

impl Audited for v1::CountersBatchGetRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.each("get", COUNTER, self.names.iter());
    }
}

impl Audited for v1::KeysBatchGetRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.each("get", KEY, self.keys.iter());
    }
}

impl Audited for v1::CountersListRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.one("list", "counters_with_prefix", &self.prefix);
    }
}

impl Audited for v1::KeysScanRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        let mut list = asked.line.list("operations");
        list.item();
        list.word("op", "scan");
        list.word("keys_with_prefix", &self.prefix);
        for (field, end) in [("from_key", &self.start), ("to_key", &self.end)] {
            if !end.is_empty() {
                list.word(field, end);
            }
        }
    }
}

fn condition(condition: &v1::Condition) -> Option<(Op, &String)> {
    use v1::condition::Target;

    Some(match condition.target.as_ref()? {
        Target::Counter(name) => (on(COUNTER, "check", "read", false), name),
        Target::Key(name) => (on(KEY, "check", "read", false), name),
    })
}

fn operation(operation: &v1::Operation) -> Option<(Op, &String)> {
    use v1::operation::Kind;

    Some(match operation.kind.as_ref()? {
        Kind::CounterAdd(it) => it.op(),
        Kind::CounterGet(it) => it.op(),
        Kind::CounterSet(it) => it.op(),
        Kind::CounterCompareAndSet(it) => it.op(),
        Kind::CounterDelete(it) => it.op(),
        Kind::CounterConfigure(it) => it.op(),
        Kind::KeyPut(it) => it.op(),
        Kind::KeyGet(it) => it.op(),
        Kind::KeyDelete(it) => it.op(),
    })
}

impl Audited for v1::TransactionsApplyRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.parts("conditions", &self.conditions, condition);
        asked.parts("operations", &self.operations, operation);
        asked.parts("else_operations", &self.else_operations, operation);
        asked.options(self.options.as_ref());
    }
}

impl Audited for v1::SessionsOpenRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("open", None);
    }
}

impl Audited for v1::SessionsRenewRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("renew", Some(("session", self.session_id)));
    }
}

impl Audited for v1::SessionsCloseRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("close", Some(("session", self.session_id)));
    }
}

impl Audited for v1::SessionsListRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.one("list", "sessions_of", &self.owner);
    }
}

impl Audited for v1::ClusterStatusRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("status", None);
    }
}

impl Audited for v1::ClusterMetricsRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("metrics", None);
    }
}

impl Audited for v1::ClusterDiagnoseRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("diagnose", None);
    }
}

impl Audited for v1::ClusterAddLearnerRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        let mut list = asked.line.list("operations");
        list.item();
        list.word("op", "add_learner");
        list.number("member", self.node_id);
        list.word("peer_address", &self.peer_address);
        drop(list);
        asked.preview(self.preview);
    }
}

impl Audited for v1::ClusterPromoteRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("promote", Some(("member", self.node_id)));
        asked.accepts(self.accept_fewer_failures);
        asked.preview(self.preview);
    }
}

impl Audited for v1::ClusterRemoveRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("remove", Some(("member", self.node_id)));
        asked.accepts(self.accept_fewer_failures);
        asked.preview(self.preview);
    }
}

impl Audited for v1::ClusterDrainRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        let op = if self.undo { "undo_drain" } else { "drain" };
        asked.number(op, Some(("member", self.node_id)));
        asked.preview(self.preview);
    }
}

impl Audited for v1::ClusterFinalizeUpgradeRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("finalize_upgrade", None);
        asked.preview(self.preview);
    }
}

impl Audited for v1::ClusterSnapshotRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        let of = Some(("member", self.node_id)).filter(|(_, node_id)| *node_id != 0);
        asked.number("snapshot", of);
    }
}

impl Audited for v1::ClusterClaimNodeIdRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.one("claim_node_id", "data_directory", &self.incarnation);
    }
}

impl Audited for v1::ClusterTransferLeaderRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        let to = Some(("member", self.node_id)).filter(|(_, node_id)| *node_id != 0);
        asked.number("transfer_leader", to);
        asked.preview(self.preview);
    }
}

impl Audited for v1::AuthListRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("list", None);
    }
}

impl Audited for v1::AuthCanRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.one("can", "user", &self.user);
    }
}

impl Audited for v1::BackupOpenRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("backup", None);
    }
}

impl Audited for v1::BackupReadRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("read_backup", None);
    }
}

impl Audited for v1::BackupRestoreRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        match &self.step {
            None => asked.number("nothing", None),
            Some(Step::Begin(_)) => asked.number("begin_restore", None),
            Some(Step::Block(block)) => {
                asked.number("restore_block", Some(("block", block.number)))
            }
            Some(Step::Finish(_)) => asked.number("finish_restore", None),
            Some(Step::Abort(_)) => asked.number("abort_restore", None),
        }
    }
}

impl Audited for v1::AuthChangeRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        match &self.change {
            None => asked.number("nothing", None),
            Some(Change::Enable(_)) => asked.number("enable", None),
            Some(Change::Disable(_)) => asked.number("disable", None),
            Some(Change::PutRole(role)) => {
                asked.one("put_role", "role", &role.name);
                asked.bounded("rules", role.rules.iter(), |list, rule| {
                    list.word("on", enum_name(v1::AuthScope::try_from(rule.scope).ok()));
                    list.word("prefix", &rule.prefix);
                    let permissions = rule.permissions.iter().take(PERMISSIONS_MAX);
                    let permissions = permissions.map(|permission| {
                        enum_name(v1::AuthPermission::try_from(*permission).ok())
                    });
                    list.word("permissions", &permissions.collect::<Vec<_>>().join(","));
                });
                asked.line.flag("admin", role.admin);
                asked.line.flag("monitor", role.monitor);
                if let Some(v1::AuthLimit { operations_per_second, burst }) = role.limit {
                    asked.line.number("operations_per_second", operations_per_second);
                    asked.line.number("burst", burst);
                }
            }
            Some(Change::DeleteRole(role)) => asked.one("delete_role", "role", role),
            Some(Change::PutUser(user)) => {
                // Whose it is said to be is in "user"; this is whom it is about.
                asked.one("put_user", "user", &user.name);
                asked.bounded("roles", user.roles.iter(), |list, role| list.word("role", role));
            }
            Some(Change::DeleteUser(user)) => asked.one("delete_user", "user", user),
            Some(Change::CreateToken(token)) => {
                let mut list = asked.line.list("operations");
                list.item();
                list.word("op", "create_token");
                list.word("user", &token.user);
                list.word("label", &token.label);
                list.number("lifetime_ms", token.lifetime_ms);
            }
            Some(Change::RevokeToken(id)) => asked.number("revoke_token", Some(("token", *id))),
        }
        if self.dry_run {
            asked.line.flag("dry_run", true);
            asked.is_dry_run = true;
        }
    }
}

impl Audited for v1::QuotasSetRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        let mut list = asked.line.list("operations");
        list.item();
        list.word("op", "set_quota");
        list.word(quota_on(self.scope), &self.prefix);
        // Unlike a counter's bounds: what somebody may use is what an audit is about.
        let limits = self.limits.unwrap_or_default();
        for (field, limit) in [
            ("soft_items", limits.soft_items),
            ("hard_items", limits.hard_items),
            ("soft_bytes", limits.soft_bytes),
            ("hard_bytes", limits.hard_bytes),
        ] {
            if let Some(limit) = limit {
                list.number(field, limit);
            }
        }
    }
}

impl Audited for v1::QuotasDeleteRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.one("delete_quota", quota_on(self.scope), &self.prefix);
    }
}

impl Audited for v1::QuotasListRequest {
    fn tell(&self, asked: &mut Asked<'_>) {
        asked.number("list", None);
    }
}

/// The field for the prefix of a quota.
fn quota_on(scope: i32) -> &'static str {
    match v1::QuotaScope::try_from(scope) {
        Ok(v1::QuotaScope::Counters) => "counters_with_prefix",
        Ok(v1::QuotaScope::Keys) => "keys_with_prefix",
        _ => "prefix",
    }
}

/// Permissions of a rule that are told: there are not so many.
const PERMISSIONS_MAX: usize = 16;

/// Without what all names of the enum begin with.
fn enum_name<E: EnumName>(value: Option<E>) -> &'static str {
    value.map_or("?", EnumName::short)
}

trait EnumName {
    fn short(self) -> &'static str;
}

impl EnumName for v1::AuthScope {
    fn short(self) -> &'static str {
        self.as_str_name().trim_start_matches("AUTH_SCOPE_")
    }
}

impl EnumName for v1::AuthPermission {
    fn short(self) -> &'static str {
        self.as_str_name().trim_start_matches("AUTH_PERMISSION_")
    }
}

impl Asked<'_> {
    /// It is only asked what would become of it.
    fn preview(&mut self, is_preview: bool) {
        if is_preview {
            self.line.flag("dry_run", true);
            self.is_dry_run = true;
        }
    }

    /// It is to be done though fewer voters may fail then.
    fn accepts(&mut self, fewer_failures: bool) {
        if fewer_failures {
            self.line.flag("accept_fewer_failures", true);
        }
    }

    /// An operation on nothing that has a name.
    fn number(&mut self, op: &str, on: Option<(&str, u64)>) {
        let mut list = self.line.list("operations");
        list.item();
        list.word("op", op);
        if let Some((field, number)) = on {
            list.number(field, number);
        }
    }
}

/// What an answer says that is recorded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) node_id: u64,
    pub(super) revision: Option<u64>,
    pub(super) replayed: bool,
    pub(super) made_token: Option<u64>,
}

/// An answer that can be recorded.
pub(super) trait Tells: Message {
    /// What it says.
    fn told(&self) -> Told;
}

fn of(header: Option<&v1::ResponseHeader>) -> Told {
    let header = header.cloned().unwrap_or_default();
    Told { node_id: header.node_id, revision: Some(header.revision), ..Told::default() }
}

macro_rules! tells {
    (writes: $($write:ident)*; others: $($other:ident)*;) => {
        $(impl Tells for v1::$write {
            fn told(&self) -> Told {
                let node_id = self.header.as_ref().map_or(0, |header| header.node_id);
                let revision = self.change.as_ref().map(|change| change.revision);
                let replayed = self.write.as_ref().is_some_and(|write| write.replayed);
                Told { node_id, revision, replayed, made_token: None }
            }
        })*
        $(impl Tells for v1::$other {
            fn told(&self) -> Told {
                of(self.header.as_ref())
            }
        })*
    };
}

tells! {
    writes: CountersWriteResponse KeysWriteResponse TransactionsApplyResponse;
    others: CountersGetResponse CountersBatchGetResponse CountersListResponse KeysGetResponse KeysBatchGetResponse
        KeysScanResponse SessionsOpenResponse SessionsRenewResponse SessionsCloseResponse SessionsListResponse
        ClusterStatusResponse ClusterMetricsResponse ClusterDiagnoseResponse ClusterAddLearnerResponse ClusterPromoteResponse ClusterRemoveResponse
        ClusterTransferLeaderResponse ClusterDrainResponse ClusterSnapshotResponse ClusterClaimNodeIdResponse
        ClusterFinalizeUpgradeResponse
        AuthListResponse AuthCanResponse BackupOpenResponse BackupReadResponse BackupRestoreResponse QuotasSetResponse
        QuotasDeleteResponse QuotasListResponse;
}

impl Tells for v1::AuthChangeResponse {
    fn told(&self) -> Told {
        let made_token = Some(self.id).filter(|_| !self.token.is_empty());
        Told { made_token, ..of(self.header.as_ref()) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_types::FileDescriptorSet;
    use tally_proto::PUBLIC_DESCRIPTORS;

    use super::{super::requests, *};

    /// Methods that the client port serves and that leave no line of their own.
    const NOT_RECORDED: [(&str, &str); 5] = [
        ("tally.v1.Stream/Exchange", "its opening, its end, and each request on it are"),
        ("grpc.health.v1.Health/Check", "asks nobody who it is, and says whether the node serves"),
        ("grpc.health.v1.Health/Watch", "the same"),
        (
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "asks nobody who it is, and shows what is published",
        ),
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "the same"),
    ];

    fn methods_of(descriptors: &[u8]) -> Vec<String> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut methods = Vec::new();
        for file in &set.file {
            for service in &file.service {
                let names = service.method.iter().map(|method| {
                    format!("{}.{}/{}", file.package(), service.name(), method.name())
                });
                methods.extend(names);
            }
        }
        methods
    }

    #[test]
    fn every_method_of_the_client_port_is_recorded_or_named_here_with_the_reason() {
        let mut served = methods_of(PUBLIC_DESCRIPTORS);
        for others in [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            served.extend(methods_of(others));
        }
        let mut known: BTreeMap<String, &str> =
            requests::methods().into_iter().map(|method| (method, "")).collect();
        for (method, why) in NOT_RECORDED {
            assert_eq!(known.insert(method.to_owned(), why), None, "{method} is recorded");
        }
        served.sort();
        served.dedup();
        let known: Vec<String> = known.into_keys().collect();
        assert_eq!(served, known);
    }

    #[test]
    fn the_part_that_its_caller_may_not_do_is_found_also_in_a_message_that_was_cut() {
        let part =
            |op: Op, name: &str| Part { list: "operations", index: 0, op, name: name.to_owned() };
        let why = r#"user "a on counter \"x\"" lacks write+configure on counter "stock/1""#;
        assert!(part(on(COUNTER, "set", "write", false), "stock/1").is_denied(why));
        assert!(part(on(COUNTER, "configure", "configure", false), "stock/1").is_denied(why));
        assert!(!part(on(COUNTER, "get", "read", false), "stock/1").is_denied(why));
        assert!(!part(on(KEY, "put", "write", false), "stock/1").is_denied(why));
        assert!(!part(on(COUNTER, "set", "write", false), "stock/12").is_denied(why));
        let controls = "\u{1b}".repeat(400);
        let why = format!("user \"a\" lacks read on key {controls:?}");
        assert!(part(on(KEY, "put", "write", true), &controls).is_denied(&why[..1000]));
    }
}
