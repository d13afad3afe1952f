//! What is sent.

use bytes::Bytes;
use prost::Message;
use tally_machine::{
    auth::secret::{SECRET_BYTES, format_token},
    codec,
    command::{Action, Batch, Command, CounterAdd, OnViolation, Operation, SessionStamp},
};
use tally_node::{
    api::{fuzzing as door, token},
    env::traces::TraceContext,
};
use tally_proto::{
    peer::v1 as wire,
    status::StatusBuilder,
    v1::{self, call::Request},
};
use tonic::Code;

use super::{Seed, chosen};
use crate::{api::DECODERS, peer::KINDS};

pub(super) fn seeds() -> Vec<Seed> {
    [requests(), tokens(), metadata(), vec![error()], peers(), authorities()].concat()
}

fn metadata() -> Vec<Seed> {
    let token = format_token(12, &[0xa7; SECRET_BYTES]);
    let context = TraceContext { trace_id: 0x4bf9_2f35, span_id: 0xf067 };
    let traceparent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    vec![
        chosen("metadata", "token", 0, token.as_bytes()),
        chosen("metadata", "traceparent", 1, traceparent),
        chosen(
            "metadata",
            "traceparent-of-a-later-version",
            1,
            &[b"01", &traceparent[2..], b"-more"].concat(),
        ),
        chosen("metadata", "context", 2, &context.to_bytes()),
    ]
}

/// One of each request, in the order of the table.
fn each_request() -> Vec<Request> {
    let text = |text: &str| text.to_owned();
    let options = Some(v1::WriteOptions {
        session: Some(v1::SessionStamp { session_id: 7, sequence: 3, lowest_unanswered: 2 }),
        idempotency_key: Some(text("order-17")),
        idempotency_window_ms: 60_000,
    });
    let session = v1::ReadOptions {
        level: v1::ReadLevel::Session as i32,
        session_token: token::encode(9, 0, 4),
        wait_ms: 50,
        ..v1::ReadOptions::default()
    };
    let read = Some(session);
    let bounds = Some(v1::Bounds { floor: Some(0), ceiling: Some(100) });
    let add = v1::CountersAddRequest {
        name: text("stock"),
        delta: -1,
        bounds,
        on_violation: v1::OnViolation::Saturate as i32,
        if_missing: v1::IfMissing::Fail as i32,
        options: options.clone(),
    };
    let put = v1::KeysPutRequest {
        key: text("order"),
        value: Bytes::from_static(b"one"),
        condition: Some(v1::KeyCondition { expect: Some(v1::key_condition::Expect::Absent(true)) }),
        options: options.clone(),
    };
    use v1::operation::Kind;
    let step = |kind| v1::Operation { kind: Some(kind) };
    let bare_add = v1::CountersAddRequest { options: None, ..add.clone() };
    let bare_put = v1::KeysPutRequest { options: None, ..put.clone() };
    let apply = v1::TransactionsApplyRequest {
        conditions: vec![
            v1::Condition {
                target: Some(v1::condition::Target::Counter(text("stock"))),
                comparison: v1::Comparison::GreaterOrEqual as i32,
                test: Some(v1::condition::Test::CounterValue(1)),
            },
            v1::Condition {
                target: Some(v1::condition::Target::Key(text("order"))),
                comparison: 0,
                test: Some(v1::condition::Test::Exists(false)),
            },
        ],
        operations: vec![step(Kind::CounterAdd(bare_add)), step(Kind::KeyPut(bare_put))],
        else_operations: vec![step(Kind::KeyGet(v1::KeysGetRequest {
            key: text("order"),
            read: None,
        }))],
        options: options.clone(),
    };
    vec![
        Request::CountersAdd(add),
        Request::CountersGet(v1::CountersGetRequest { name: text("stock"), read: read.clone() }),
        Request::CountersBatchGet(v1::CountersBatchGetRequest {
            names: vec![text("a"), text("b")],
            read: read.clone(),
        }),
        Request::CountersSet(v1::CountersSetRequest {
            name: text("stock"),
            value: -5,
            options: options.clone(),
        }),
        Request::CountersCompareAndSet(v1::CountersCompareAndSetRequest {
            name: text("stock"),
            expect: Some(v1::counters_compare_and_set_request::Expect::ExpectRevision(8)),
            value: 6,
            options: options.clone(),
        }),
        Request::CountersDelete(v1::CountersDeleteRequest {
            name: text("stock"),
            options: options.clone(),
        }),
        Request::CountersList(v1::CountersListRequest {
            prefix: text("st"),
            page_size: 10,
            page_token: door::page_token([1; 8], "stock"),
            read: read.clone(),
        }),
        Request::CountersConfigure(v1::CountersConfigureRequest {
            name: text("stock"),
            bounds,
            options: options.clone(),
        }),
        Request::KeysPut(put),
        Request::KeysGet(v1::KeysGetRequest { key: text("order"), read: read.clone() }),
        Request::KeysBatchGet(v1::KeysBatchGetRequest {
            keys: vec![text("a")],
            read: read.clone(),
        }),
        Request::KeysDelete(v1::KeysDeleteRequest {
            key: text("order"),
            condition: Some(v1::KeyCondition {
                expect: Some(v1::key_condition::Expect::Value(Bytes::from_static(b"v"))),
            }),
            options,
        }),
        Request::KeysScan(v1::KeysScanRequest {
            prefix: text("o"),
            start: text("oa"),
            end: text("oz"),
            keys_only: true,
            page_size: 3,
            read: read.clone(),
            ..v1::KeysScanRequest::default()
        }),
        Request::TransactionsApply(apply),
        Request::SessionsOpen(v1::SessionsOpenRequest { idle_timeout_ms: 20_000 }),
        Request::SessionsRenew(v1::SessionsRenewRequest { session_id: 7, lowest_unanswered: 2 }),
        Request::SessionsClose(v1::SessionsCloseRequest { session_id: 7 }),
        Request::SessionsList(v1::SessionsListRequest {
            owner: text("10.0.0.7"),
            owners_max: 5,
            read,
            ..v1::SessionsListRequest::default()
        }),
    ]
}

fn requests() -> Vec<Seed> {
    let requests = each_request();
    assert!(requests.len() <= DECODERS.len());
    let mut calls = Vec::new();
    let mut seeds = Vec::new();
    for (which, request) in requests.into_iter().enumerate() {
        let call = v1::Call {
            id: which as u64,
            deadline_ms: 1000,
            request_id: format!("r{which}"),
            request: Some(request),
            ..v1::Call::default()
        };
        // The request's own bytes: what its field of the call holds.
        let lone = v1::Call { request: call.request.clone(), ..v1::Call::default() };
        let bytes = lone.encode_to_vec();
        let mut rest = &bytes[..];
        prost::encoding::decode_key(&mut rest).expect("just encoded");
        prost::encoding::decode_varint(&mut rest).expect("just encoded");
        seeds.push(chosen("api_request", &format!("request-{which}"), which, rest));
        let pack = v1::StreamExchangeRequest { calls: vec![call.clone()] };
        seeds.push(("api_pack", format!("call-{which}"), pack.encode_to_vec()));
        calls.push(call);
    }
    let pack = v1::StreamExchangeRequest { calls };
    seeds.push(("api_pack", "all".to_owned(), pack.encode_to_vec()));
    seeds
}

fn tokens() -> Vec<Seed> {
    let page = door::page_token([0xab; 8], "ključ");
    let session = token::encode(u128::MAX / 3, 0, 77);
    let text: String = session.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![
        chosen("api_token", "page", 0, page.as_bytes()),
        chosen("api_token", "session", 1, &session),
        chosen("api_token", "session-text", 2, text.as_bytes()),
    ]
}

fn error() -> Seed {
    let status = StatusBuilder::new(Code::Aborted, "CONDITION_FAILED", "it differs")
        .metadata("limit", 5)
        .field("name", "too long")
        .retry_after(std::time::Duration::from_millis(50))
        .outcome(v1::Outcome::NotApplied)
        .detail(&v1::LeaderHint { node_id: 3, address: "a:1".into(), term: 7 })
        .detail(&v1::ConditionFailure {
            value: Some(Bytes::from_static(b"v")),
            ..v1::ConditionFailure::default()
        })
        .build();
    ("api_error", "all-details".to_owned(), status.encode_to_vec())
}

fn peers() -> Vec<Seed> {
    let ballot = Some(wire::Ballot { term: 4, node_id: Some(1), committed: true });
    let log_id = Some(wire::LogId { term: 4, index: 9 });
    let add = Operation::CounterAdd(CounterAdd {
        name: "stock".to_owned(),
        delta: -1,
        bounds: Default::default(),
        on_violation: OnViolation::Reject,
        must_exist: false,
    });
    let command = Command {
        caller: None,
        session: Some(SessionStamp { session_id: 7, sequence: 3, lowest_unanswered: 2 }),
        idempotency: None,
        fingerprint: Default::default(),
        action: Action::Single(add),
    };
    let commands = vec![command.clone()];
    let batch = codec::encode_batch(&Batch { log_time_ms: 5, wall_time_ms: 6, commands });
    let members = members();
    let stored = [&[1, 4, 2][..], &members].concat();
    let promised = Some(wire::Promised {
        start: 2,
        start_nonce: "0a".repeat(16),
        vote_term: 4,
        held_index: 9,
    });
    let known = vec![wire::KnownNode {
        node_id: 2,
        incarnation: "1b".repeat(16),
        promised: promised.clone(),
    }];
    let entry = |payload| wire::Entry { log_id, payload, ..wire::Entry::default() };
    let append = wire::AppendRequest {
        cluster_id: "c1".to_owned(),
        target_node_id: 2,
        ballot,
        previous: log_id,
        entries: vec![
            entry(None),
            entry(Some(wire::entry::Payload::Batch(batch))),
            entry(Some(wire::entry::Payload::Membership(members.clone().into()))),
        ],
        leader_commit: log_id,
    };
    let vote = wire::VoteRequest {
        ballot,
        last_log_id: log_id,
        leadership_transfer: true,
        ..wire::VoteRequest::default()
    };
    let answer = wire::VoteResponse { ballot, granted: true, last_log_id: log_id };
    let head = wire::SnapshotHead {
        ballot,
        last_log_id: log_id,
        membership: stored.clone().into(),
        size_bytes: 1 << 20,
        ..wire::SnapshotHead::default()
    };
    let hello = wire::HelloRequest {
        node_id: 1,
        client_address: "a:1".to_owned(),
        incarnation: "2c".repeat(16),
        known: known.clone(),
        promised: promised.clone(),
        formats: Some(wire::Formats { min: 1, max: 2, cluster_version: 1 }),
        ..wire::HelloRequest::default()
    };
    let welcome =
        wire::HelloResponse { node_id: 2, known, promised, ..wire::HelloResponse::default() };
    let forwarded = wire::ForwardedCommand {
        command: codec::encode_command(&command),
        request_id: "r1".to_owned(),
        deadline_ms: 900,
        waits_for_room: true,
        ..wire::ForwardedCommand::default()
    };
    let refusal = wire::Refusal { reason: 1, leader_id: 3, leader_term: 4, ..Default::default() };
    use wire::append_response::Result as Appended;
    let appended = Appended::Success(wire::PartialSuccess { matched: log_id });
    let part = wire::install_snapshot_request::Part::Head(head);
    let messages: [Vec<u8>; KINDS] = [
        append.encode_to_vec(),
        wire::AppendResponse { result: Some(appended) }.encode_to_vec(),
        vote.encode_to_vec(),
        answer.encode_to_vec(),
        wire::PreVoteRequest { vote: Some(vote) }.encode_to_vec(),
        wire::TransferLeaderRequest { from_ballot: ballot, to_node_id: 3, ..Default::default() }
            .encode_to_vec(),
        wire::InstallSnapshotRequest { part: Some(part) }.encode_to_vec(),
        hello.encode_to_vec(),
        welcome.encode_to_vec(),
        wire::ProposeRequest { commands: vec![forwarded], ..Default::default() }.encode_to_vec(),
        wire::ProposeResponse {
            results: vec![wire::ForwardedResult {
                result: Some(wire::forwarded_result::Result::Refusal(refusal.clone())),
                applied_index: 9,
                ..Default::default()
            }],
        }
        .encode_to_vec(),
        wire::ReadIndexResponse {
            result: Some(wire::read_index_response::Result::Refusal(refusal)),
        }
        .encode_to_vec(),
        wire::StatusResponse { node: Some(v1::NodeStatus::default()) }.encode_to_vec(),
        members,
        stored,
    ];
    let numbered = messages.iter().enumerate();
    numbered.map(|(at, bytes)| chosen("peer_message", &format!("kind-{at}"), at, bytes)).collect()
}

/// Three voters in a joint change, and a learner.
pub(super) fn members() -> Vec<u8> {
    let mut bytes = vec![1, 2, 3, 1, 2, 3, 3, 2, 3, 4, 4];
    for id in 1..=4 {
        bytes.extend_from_slice(&[id, 3, b'a', b':', b'0' + id]);
    }
    assert!(tally_node::peer::fuzzing::members(&bytes).is_some(), "it is a membership");
    bytes
}

fn authorities() -> Vec<Seed> {
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let text = |text: &[u8]| [&[u8::try_from(text.len()).expect("short")], text].concat();
    let list = b"127.0.0.1:7401,127.0.0.1:7402";
    let block = [
        &[0x82, 0x3f, 0xe1, 0x1f, 0x41][..],
        &text(list),
        &[0x40],
        &text(b":authority"),
        &text(b"[::1]:7401"),
        &[0x00],
        &text(b"x"),
        &text(b"y,z"),
        &[0x41, 0x83, 1, 2, 3],
    ]
    .concat();
    let connection = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, &[]),
        frame(1, 4, &block),
        frame(1, 0x2c, &[&[2, 9, 9, 9, 9, 9][..], &block, &[0, 0]].concat()),
        frame(1, 0, &block[..9]),
        frame(9, 4, &block[9..]),
        frame(0, 1, b"data"),
    ]
    .concat();
    let pieces = [3, 24, 9, 5];
    vec![("authority", "connection".to_owned(), [&pieces[..], &connection].concat())]
}
