//! Requests as the tests write them.

use tally_proto::v1::{self, answer::Response, call::Request};

pub(crate) fn add(name: &str, delta: i64) -> Request {
    add_with(name, delta, |_| {})
}

pub(crate) fn add_with(
    name: &str,
    delta: i64,
    change: impl FnOnce(&mut v1::CountersAddRequest),
) -> Request {
    let mut request = v1::CountersAddRequest { name: name.to_owned(), delta, ..Default::default() };
    change(&mut request);
    Request::CountersAdd(request)
}

pub(crate) fn get(name: &str) -> Request {
    get_at(name, None)
}

pub(crate) fn get_at(name: &str, read: Option<v1::ReadOptions>) -> Request {
    Request::CountersGet(v1::CountersGetRequest { name: name.to_owned(), read })
}

pub(crate) fn set(name: &str, value: i64) -> Request {
    let name = name.to_owned();
    Request::CountersSet(v1::CountersSetRequest { name, value, options: None })
}

pub(crate) fn configure(name: &str, floor: Option<i64>, ceiling: Option<i64>) -> Request {
    Request::CountersConfigure(v1::CountersConfigureRequest {
        name: name.to_owned(),
        bounds: Some(v1::Bounds { floor, ceiling }),
        options: None,
    })
}

pub(crate) fn compare_and_set(
    name: &str,
    expect: v1::counters_compare_and_set_request::Expect,
    value: i64,
) -> Request {
    Request::CountersCompareAndSet(v1::CountersCompareAndSetRequest {
        name: name.to_owned(),
        expect: Some(expect),
        value,
        options: None,
    })
}

pub(crate) fn delete(name: &str) -> Request {
    let name = name.to_owned();
    Request::CountersDelete(v1::CountersDeleteRequest { name, options: None })
}

pub(crate) fn list(prefix: &str, page_size: i32, page_token: &str) -> Request {
    Request::CountersList(v1::CountersListRequest {
        prefix: prefix.to_owned(),
        page_size,
        page_token: page_token.to_owned(),
        read: None,
    })
}

pub(crate) fn put(key: &str, value: impl Into<Vec<u8>>) -> Request {
    put_with(key, value, |_| {})
}

pub(crate) fn put_with(
    key: &str,
    value: impl Into<Vec<u8>>,
    change: impl FnOnce(&mut v1::KeysPutRequest),
) -> Request {
    let value = value.into().into();
    let mut request = v1::KeysPutRequest { key: key.to_owned(), value, ..Default::default() };
    change(&mut request);
    Request::KeysPut(request)
}

pub(crate) fn key_get(key: &str) -> Request {
    Request::KeysGet(v1::KeysGetRequest { key: key.to_owned(), read: None })
}

pub(crate) fn key_delete(key: &str, condition: Option<v1::KeyCondition>) -> Request {
    Request::KeysDelete(v1::KeysDeleteRequest { key: key.to_owned(), condition, options: None })
}

pub(crate) fn scan(change: impl FnOnce(&mut v1::KeysScanRequest)) -> Request {
    let mut request = v1::KeysScanRequest::default();
    change(&mut request);
    Request::KeysScan(request)
}

pub(crate) fn apply(change: impl FnOnce(&mut v1::TransactionsApplyRequest)) -> Request {
    let mut request = v1::TransactionsApplyRequest::default();
    change(&mut request);
    Request::TransactionsApply(request)
}

pub(crate) fn open_session() -> Request {
    Request::SessionsOpen(v1::SessionsOpenRequest::default())
}

pub(crate) fn status() -> Request {
    Request::ClusterStatus(v1::ClusterStatusRequest::default())
}

pub(crate) fn condition_on_key(expect: v1::key_condition::Expect) -> Option<v1::KeyCondition> {
    Some(v1::KeyCondition { expect: Some(expect) })
}

/// A step of an `Apply`.
pub(crate) fn operation(kind: v1::operation::Kind) -> v1::Operation {
    v1::Operation { kind: Some(kind) }
}

pub(crate) fn step_add(name: &str, delta: i64) -> v1::Operation {
    let name = name.to_owned();
    operation(v1::operation::Kind::CounterAdd(v1::CountersAddRequest {
        name,
        delta,
        ..Default::default()
    }))
}

pub(crate) fn step_put(key: &str, value: impl Into<Vec<u8>>) -> v1::Operation {
    let value = value.into().into();
    operation(v1::operation::Kind::KeyPut(v1::KeysPutRequest {
        key: key.to_owned(),
        value,
        ..Default::default()
    }))
}

pub(crate) fn step_read(key: &str) -> v1::Operation {
    operation(v1::operation::Kind::KeyGet(v1::KeysGetRequest { key: key.to_owned(), read: None }))
}

/// A condition of an `Apply` on a counter.
pub(crate) fn condition_on_counter(name: &str, test: v1::condition::Test) -> v1::Condition {
    v1::Condition {
        target: Some(v1::condition::Target::Counter(name.to_owned())),
        test: Some(test),
        comparison: 0,
    }
}

/// A stamp: nothing is answered yet.
pub(crate) fn stamp(session_id: u64, sequence: u64) -> v1::SessionStamp {
    v1::SessionStamp { session_id, sequence, lowest_unanswered: 1 }
}

pub(crate) fn under_session(session: v1::SessionStamp) -> Option<v1::WriteOptions> {
    Some(v1::WriteOptions { session: Some(session), ..Default::default() })
}

pub(crate) fn under_key(key: &str) -> Option<v1::WriteOptions> {
    Some(v1::WriteOptions { idempotency_key: Some(key.to_owned()), ..Default::default() })
}

pub(crate) fn at_level(level: v1::ReadLevel) -> Option<v1::ReadOptions> {
    Some(v1::ReadOptions { level: level as i32, ..Default::default() })
}

pub(crate) fn bounded(max_staleness_ms: u64, allow_fallback: bool) -> Option<v1::ReadOptions> {
    Some(v1::ReadOptions {
        level: v1::ReadLevel::Bounded as i32,
        max_staleness_ms,
        allow_fallback,
        ..Default::default()
    })
}

pub(crate) fn with_token(
    session_token: impl Into<bytes::Bytes>,
    wait_ms: u64,
) -> Option<v1::ReadOptions> {
    Some(v1::ReadOptions {
        level: v1::ReadLevel::Session as i32,
        session_token: session_token.into(),
        wait_ms,
        ..Default::default()
    })
}

macro_rules! header_of {
    ($($service:ident($client_in:ident::$client:ident, $server_in:ident::$server:ident) {
        $($kind:ident $field:ident $variant:ident($request:ident) -> $response:ident: $method:ident;)*
    })*) => {
        /// The header that every answer has.
        pub(crate) fn header(response: &Response) -> v1::ResponseHeader {
            let header = match response {
                Response::Error(error) => panic!("an error is no answer: {error:?}"),
                $($(Response::$variant(answer) => answer.header.clone(),)*)*
            };
            header.expect("an answer has a header")
        }
    };
}

tally_proto::requests!(header_of);

/// The answer of the kind that is expected.
macro_rules! answer {
    ($variant:ident, $response:expr) => {
        match $response {
            tally_proto::v1::answer::Response::$variant(answer) => answer,
            other => panic!("another answer was expected: {other:?}"),
        }
    };
}
pub(crate) use answer;
